"""Ranks are what a slow loop counts; ties and constant scores never flatter."""

import numpy as np
import pytest
import torch

from fpig_core.metrics import (
    best_ranks,
    retrieval_metrics,
    summarise_ranks,
    targets_by_id,
    text_to_video_ranks,
    video_to_text_ranks,
)


def slow_ranks(score, target):
    return [sum(float(s) >= float(row[t]) for s in row) for row, t in zip(score, target, strict=True)]


def slow_video_ranks(score, target):
    ranks = []
    for video in sorted(set(target.tolist())):
        column = score[:, video].tolist()
        own = [column[q] for q in range(len(target)) if target[q] == video]
        ranks.append(min(sum(other >= mine for other in column) for mine in own))
    return ranks


def unit_vectors(num, dim, seed):
    vector = torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_a_slow_loop_also_with_many_ties(seed):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 4, (13, 7), generator=generator).float()
    target = torch.randint(0, 7, (13,), generator=generator)
    assert best_ranks(score, target[:, None] == torch.arange(7)).tolist() == slow_ranks(score, target)


@pytest.mark.parametrize("max_scores", [1, 40, 2**20])
def test_blocked_ranks_equal_the_full_matrix_in_both_directions(max_scores):
    query, video = unit_vectors(29, 8, 0), unit_vectors(11, 8, 1)
    target = torch.randint(0, 11, (29,), generator=torch.Generator().manual_seed(2))
    score = query.double() @ video.double().T
    assert text_to_video_ranks(query, video, target, max_scores=max_scores).tolist() == slow_ranks(score, target)
    assert video_to_text_ranks(query, video, target, max_scores=max_scores).tolist() == slow_video_ranks(score, target)


def test_a_constant_scorer_gets_the_worst_rank():
    one = torch.ones(6, 4) / 2
    metrics = retrieval_metrics(one, one, torch.arange(6))
    assert metrics["t2v"]["MnR"] == metrics["v2t"]["MnR"] == 6


def test_equal_vectors_are_ties_wherever_the_block_ends():
    video = unit_vectors(1, 64, 0).repeat(1001, 1)
    query = unit_vectors(5, 64, 1)
    ranks = text_to_video_ranks(query, video, torch.tensor([0, 1, 500, 999, 1000]), max_scores=2002)
    assert ranks.tolist() == [1001] * 5


def test_one_query_and_one_video():
    vector = unit_vectors(1, 4, 0)
    metrics = retrieval_metrics(vector, vector, torch.tensor([0]))
    assert metrics["t2v"] == {"R@1": 100, "R@5": 100, "R@10": 100, "MdR": 1, "MnR": 1, "SumR": 300}


def test_v2t_takes_the_best_sentence_and_leaves_out_videos_without_one():
    video = torch.eye(3)
    query = torch.tensor([[0.9, 0.8, 0.0], [0.1, 0.2, 0.0], [0.0, 0.7, 0.0]])
    assert video_to_text_ranks(query, video, torch.tensor([0, 0, 1])).tolist() == [1, 2]


def test_summary_of_known_ranks():
    summary = summarise_ranks(torch.tensor([1, 2, 6, 40]))
    assert summary == {"R@1": 25, "R@5": 50, "R@10": 75, "MdR": 4, "MnR": 12.25, "SumR": 150}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    score = torch.zeros(2, 3)
    score[1, 2] = bad
    with pytest.raises(ValueError, match="1 scores that are NaN or inf"):
        best_ranks(score, torch.eye(2, 3) == 1)


def test_targets_must_be_candidates_and_queries_must_exist():
    with pytest.raises(ValueError, match=r"wanted 0…2"):
        text_to_video_ranks(torch.zeros(1, 4), torch.zeros(3, 4), torch.tensor([3]))
    with pytest.raises(ValueError, match="no queries"):
        retrieval_metrics(torch.zeros(0, 4), torch.zeros(2, 4), torch.zeros(0, dtype=torch.int64))


def test_targets_are_joined_by_id():
    assert targets_by_id(["b", "a", "b"], ["a", "b"]).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="first: c"):
        targets_by_id(["c"], ["a", "b"])
    with pytest.raises(ValueError, match="distinct ids"):
        targets_by_id(["a"], ["a", "a"])
