"""Ranks are what a slow loop counts, in any blocks; ties and constant scores never flatter."""

import numpy as np
import pytest
import torch

from fpig_core.ranks import MatrixScores, VectorScores, best_ranks, rank_both, targets_by_id


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


@pytest.mark.parametrize("max_scores", [1, 4, 20, 2**20])
@pytest.mark.parametrize("seed", range(3))
def test_ranks_of_a_matrix_equal_a_slow_loop_also_with_many_ties(seed, max_scores):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 4, (13, 7), generator=generator).float()
    target = torch.randint(0, 6, (13,), generator=generator)
    ranks = rank_both(MatrixScores(score), target, max_scores=max_scores)
    assert ranks.t2v_Q.tolist() == slow_ranks(score, target)
    assert ranks.v2t_R.tolist() == slow_video_ranks(score, target)
    assert ranks.video_R.tolist() == sorted(set(target.tolist()))
    margins = [row[t] - max(s for b, s in enumerate(row) if b != t) for row, t in zip(score, target, strict=True)]
    assert ranks.margin_Q.tolist() == margins


def test_counting_leaves_the_matrix_as_it_was():
    score = torch.rand(5, 4, dtype=torch.float64)
    before = score.clone()
    rank_both(MatrixScores(score), torch.tensor([0, 1, 2, 3, 0]))
    assert torch.equal(score, before)


@pytest.mark.parametrize("max_scores", [1, 40, 2**20])
def test_blocked_ranks_of_vectors_equal_the_full_matrix_in_both_directions(max_scores):
    query, video = unit_vectors(29, 8, 0), unit_vectors(11, 8, 1)
    target = torch.randint(0, 11, (29,), generator=torch.Generator().manual_seed(2))
    score = query.double() @ video.double().T
    ranks = rank_both(VectorScores(query, video), target, max_scores=max_scores)
    assert ranks.t2v_Q.tolist() == slow_ranks(score, target)
    assert ranks.v2t_R.tolist() == slow_video_ranks(score, target)


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
def test_ranks_do_not_depend_on_the_length_of_vectors(length):
    query, video = unit_vectors(29, 8, 0), unit_vectors(11, 8, 1)
    target = torch.arange(29) % 11
    ranks, scaled = (rank_both(VectorScores(query * c, video * c), target) for c in (1.0, length))
    assert ranks.t2v_Q.tolist() == scaled.t2v_Q.tolist()
    assert ranks.v2t_R.tolist() == scaled.v2t_R.tolist()


@pytest.mark.parametrize("length", [0.0, 0.5, 1e4])
def test_a_constant_scorer_gets_the_worst_rank(length):
    one = torch.full((6, 4), length)
    ranks = rank_both(VectorScores(one, one), torch.arange(6))
    assert ranks.t2v_Q.tolist() == ranks.v2t_R.tolist() == [6] * 6
    ranks = rank_both(MatrixScores(torch.full((6, 6), length)), torch.arange(6))
    assert ranks.t2v_Q.tolist() == ranks.v2t_R.tolist() == [6] * 6


def test_equal_vectors_are_ties_wherever_the_block_ends():
    video = unit_vectors(1, 64, 0).repeat(1001, 1)
    query = unit_vectors(5, 64, 1)
    ranks = rank_both(VectorScores(query, video), torch.tensor([0, 1, 500, 999, 1000]), max_scores=2002)
    assert ranks.t2v_Q.tolist() == [1001] * 5


def test_one_query_and_one_video():
    one, many = unit_vectors(1, 4, 0), unit_vectors(3, 4, 1)
    alone = rank_both(VectorScores(one, one), torch.tensor([0]))
    assert (alone.t2v_Q.tolist(), alone.v2t_R.tolist()) == ([1], [1])
    one_query = rank_both(VectorScores(many[1:2], many), torch.tensor([1]))
    assert (one_query.t2v_Q.tolist(), one_query.v2t_R.tolist(), one_query.video_R.tolist()) == ([1], [1], [1])
    one_video = rank_both(VectorScores(many, one), torch.tensor([0, 0, 0]))
    assert (one_video.t2v_Q.tolist(), one_video.v2t_R.tolist()) == ([1, 1, 1], [1])


def test_v2t_takes_the_best_sentence_and_leaves_out_videos_without_one():
    query = torch.tensor([[0.9, 0.8, 0.0], [0.1, 0.2, 0.0], [0.0, 0.7, 0.0]])
    ranks = rank_both(VectorScores(query, torch.eye(3)), torch.tensor([0, 0, 1]))
    assert ranks.t2v_Q.tolist() == [1, 2, 1]
    assert ranks.v2t_R.tolist() == [1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    score = torch.zeros(2, 3)
    score[1, 2] = bad
    with pytest.raises(ValueError, match="1 scores that are NaN or inf"):
        best_ranks(score, torch.eye(2, 3) == 1)
    with pytest.raises(ValueError, match="1 scores that are NaN or inf"):
        rank_both(MatrixScores(score), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="1 numbers in the vectors of videos that are NaN or inf"):
        VectorScores(torch.zeros(1, 3), score)


def test_targets_must_be_candidates_and_queries_must_exist():
    with pytest.raises(ValueError, match=r"wanted 0…2"):
        rank_both(VectorScores(torch.zeros(1, 4), torch.zeros(3, 4)), torch.tensor([3]))
    with pytest.raises(ValueError, match="no queries"):
        rank_both(VectorScores(torch.zeros(0, 4), torch.zeros(2, 4)), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="one target a query"):
        rank_both(VectorScores(torch.zeros(2, 4), torch.zeros(2, 4)), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"wanted \[Q, D\] and \[B, D\]"):
        VectorScores(torch.zeros(2, 4), torch.zeros(2, 5))


def test_targets_are_joined_by_id():
    assert targets_by_id(["b", "a", "b"], ["a", "b"]).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="first: c"):
        targets_by_id(["c"], ["a", "b"])
    with pytest.raises(ValueError, match="distinct ids"):
        targets_by_id(["a"], ["a", "a"])
