"""Two-stage search scores what a loop over pairs scores, and touches nothing but candidates."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fpig_core.index import ExactIndex
from fpig_core.metrics import retrieval_metrics, summarise_both, summarise_ranks
from fpig_core.metrics_two_stage import rank_two_stages, two_stage_ranks
from fpig_core.ranks import best_ranks
from fpig_core.two_stage import best_first, columns_to_read, rerank, rerank_texts, score_pairs, search_two_stage

Q, B, F, D = 9, 7, 3, 4


class BestFrame(nn.Module):
    """Score of a pair: the best frame's product with the query, times a weight, plus a bonus where there is one."""

    rerank_columns = ("frame_vectors",)
    optional_rerank_columns = ("bonus", "never_stored")

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 3.0))
        self.seen: list[dict[str, torch.Tensor]] = []

    def encode_query(self, word_QL):
        raise NotImplementedError

    def score(self, query, video):
        self.seen.append(video)
        assert query["word"].dtype == video["frame_vectors"].dtype == torch.float32
        best_n = torch.einsum("nd,nfd->nf", query["word"], video["frame_vectors"]).amax(dim=1)
        return self.weight * best_n + video.get("bonus", 0)


def slow_score(query, video, q, b):
    products = [
        sum(float(query["word"][q, d]) * float(video["frame_vectors"][b, f, d]) for d in range(D)) for f in range(F)
    ]
    return 3.0 * max(products) + (float(video["bonus"][b]) if "bonus" in video else 0.0)


@pytest.fixture
def query():
    return {"word": torch.randn(Q, D, generator=torch.Generator().manual_seed(0))}


@pytest.fixture
def video():
    rng = np.random.default_rng(1)
    return {
        "frame_vectors": rng.standard_normal((B, F, D)).astype(np.float16),
        "bonus": rng.integers(0, 3, B).astype(np.int32),
        "other": rng.standard_normal((B, 2)),
    }


@pytest.mark.parametrize("max_pairs", [1, 4, 1000])
def test_pairs_are_scored_as_in_a_slow_loop_in_both_directions(query, video, max_pairs):
    rng = np.random.default_rng(2)
    candidate_QK = rng.integers(0, B, (Q, 5))
    expected = [[slow_score(query, video, q, b) for b in row] for q, row in enumerate(candidate_QK)]
    got = rerank(BestFrame(), query, video, candidate_QK, max_pairs=max_pairs)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    video_R, candidate_RK = np.array([5, 0, 6]), rng.integers(0, Q, (3, 6))
    expected = [[slow_score(query, video, q, b) for q in row] for b, row in zip(video_R, candidate_RK, strict=True)]
    got = rerank_texts(BestFrame(), query, video, candidate_RK, video_R=video_R, max_pairs=max_pairs)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_only_candidates_are_touched_and_no_tensor_holds_all_pairs(query, video):
    candidate_QK = np.random.default_rng(3).integers(0, B - 2, (Q, 4))
    video["frame_vectors"][B - 2 :] = np.nan
    model = BestFrame()
    assert np.isfinite(rerank(model, query, video, candidate_QK, max_pairs=7)).all()
    assert [len(seen["frame_vectors"]) for seen in model.seen] == [7, 7, 7, 7, 7, 1]


def test_optional_columns_are_used_where_they_are_stored(query, video):
    model, candidate_QK = BestFrame(), np.arange(B)[None].repeat(Q, axis=0)
    rerank(model, query, video, candidate_QK)
    assert set(model.seen[-1]) == {"frame_vectors", "bonus"}
    del video["bonus"]
    rerank(model, query, video, candidate_QK)
    assert set(model.seen[-1]) == {"frame_vectors"}
    assert columns_to_read(model, ["vector", "bonus", "frame_vectors"]) == ("frame_vectors", "bonus")
    with pytest.raises(ValueError, match=r"got the columns vector; reranking needs frame_vectors too"):
        columns_to_read(model, ["vector"])


def test_tensors_and_arrays_are_alike(query, video):
    candidate_QK = np.random.default_rng(4).integers(0, B, (Q, 3))
    tensors = {name: torch.from_numpy(x) for name, x in video.items()}
    arrays = {"word": query["word"].numpy()}
    expected = rerank(BestFrame(), query, video, candidate_QK)
    np.testing.assert_array_equal(rerank(BestFrame(), arrays, tensors, candidate_QK), expected)


def test_wrong_requests_are_refused(query, video):
    one = np.zeros(1, np.int64)
    with pytest.raises(ValueError, match=r"video rows 7…7, wanted 0…6"):
        score_pairs(BestFrame(), query, video, query_n=one, video_n=one + B)
    with pytest.raises(ValueError, match=r"query rows -1…-1, wanted 0…8"):
        score_pairs(BestFrame(), query, video, query_n=one - 1, video_n=one)
    with pytest.raises(ValueError, match="max_pairs=0"):
        score_pairs(BestFrame(), query, video, query_n=one, video_n=one, max_pairs=0)
    video["frame_vectors"][0] = np.inf
    with pytest.raises(ValueError, match="1 scores that are NaN or inf"):
        score_pairs(BestFrame(), query, video, query_n=one, video_n=one)
    assert score_pairs(BestFrame(), query, video, query_n=one[:0], video_n=one[:0]).shape == (0,)


def test_results_come_best_first_and_ties_in_the_first_stages_order():
    score, position = best_first(np.array([[4, 2, 9, 7]]), np.array([[1.0, 3.0, 1.0, 5.0]]))
    assert score.tolist() == [[5, 3, 1, 1]]
    assert position.tolist() == [[7, 2, 4, 9]]


def vectors(num, seed):
    vector = torch.randn(num, D, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm(dim=1, keepdim=True)


def test_search_reorders_the_nearest(query, video):
    text, vector = vectors(Q, 5).numpy(), vectors(B, 6).numpy()
    score, position = search_two_stage(ExactIndex(vector), BestFrame(), text, query, video, first_stage_k=4)
    for q in range(Q):
        nearest = sorted(range(B), key=lambda b: -float(text[q] @ vector[b]))[:4]
        expected = sorted(nearest, key=lambda b: -slow_score(query, video, q, b))
        assert position[q].tolist() == expected
        np.testing.assert_allclose(score[q], [slow_score(query, video, q, b) for b in expected], rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_a_slow_loop_also_with_many_ties(seed):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 3, (20, 4), generator=generator).float()
    own = torch.rand(20, 4, generator=generator) < 0.3
    first = torch.randint(5, 30, (20,), generator=generator)
    expected = []
    for r in range(20):
        mine = [score[r, k] for k in range(4) if own[r, k]]
        ranks = [sum(bool(other >= one) for other in score[r]) for one in mine]
        expected.append(min(ranks) if mine else int(first[r]))
    assert two_stage_ranks(score, own, first).tolist() == expected


def test_who_is_no_candidate_ranks_below_them():
    none = torch.zeros(1, 3, dtype=torch.bool)
    assert two_stage_ranks(torch.zeros(1, 3), none, torch.tensor([3])).tolist() == [4]


def world() -> dict[str, Any]:
    """Several queries describe one video, and the last video is described by none."""
    target = torch.randint(0, B - 1, (Q,), generator=torch.Generator().manual_seed(7))
    return {"query_QD": vectors(Q, 5), "video_BD": vectors(B, 6), "target_Q": target}


def two_stage_metrics(*args, **places):
    return [summarise_both(ranks) for ranks in rank_two_stages(*args, **places)]


def test_with_all_as_candidates_only_the_reranker_counts(query, video):
    places = world()
    both, first = two_stage_metrics(BestFrame(), query, video, first_stage_k=100, **places)
    score = torch.tensor([[slow_score(query, video, q, b) for b in range(B)] for q in range(Q)])
    target = places["target_Q"]
    captioned = target.unique()
    assert both["t2v"] == summarise_ranks(best_ranks(score, target[:, None] == torch.arange(B)))
    assert both["v2t"] == summarise_ranks(best_ranks(score.T[captioned], captioned[:, None] == target))
    assert first == retrieval_metrics(*places.values())


def test_one_candidate_changes_nothing_at_rank_one(query, video):
    both, first = two_stage_metrics(BestFrame(), query, video, first_stage_k=1, **world())
    assert both == first


@pytest.mark.parametrize("k", [2, 4])
def test_metrics_equal_a_slow_loop(query, video, k):
    places = world()
    text, vector, target = places["query_QD"].double(), places["video_BD"].double(), places["target_Q"].tolist()
    first = (text @ vector.T).numpy()
    judged = np.array([[slow_score(query, video, q, b) for b in range(B)] for q in range(Q)])

    def slow_rank(first_C, judged_C, own):
        near = sorted(range(len(first_C)), key=lambda c: -first_C[c])[:k]
        found = [sum(judged_C[c] >= judged_C[one] for c in near) for one in own if one in near]
        return min(found or [sum(first_C >= first_C[one]) for one in own])

    t2v = [slow_rank(first[q], judged[q], [target[q]]) for q in range(Q)]
    v2t = [slow_rank(first[:, b], judged[:, b], [q for q in range(Q) if target[q] == b]) for b in sorted(set(target))]
    both, _ = two_stage_metrics(BestFrame(), query, video, first_stage_k=k, **places)
    assert both == {"t2v": summarise_ranks(torch.tensor(t2v)), "v2t": summarise_ranks(torch.tensor(v2t))}


def test_a_constant_reranker_gets_the_last_place_among_the_candidates(query, video):
    video["frame_vectors"][:] = 0
    del video["bonus"]
    places: dict[str, Any] = {"query_QD": torch.eye(D)[:3], "video_BD": torch.eye(D), "target_Q": torch.arange(3)}
    both, first = two_stage_metrics(BestFrame(), query, video, first_stage_k=2, **places)
    assert both["t2v"]["MnR"] == both["v2t"]["MnR"] == 2
    assert first["t2v"]["MnR"] == 1
