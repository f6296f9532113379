"""Summaries of ranks: known ranks, one pair, and curves that agree with the recall they are made of."""

import pytest
import torch

from fpig_core.metrics import recall_curve, retrieval_metrics, summarise_ranks


def test_summary_of_known_ranks():
    summary = summarise_ranks(torch.tensor([1, 2, 6, 40]))
    assert summary == {"R@1": 25, "R@5": 50, "R@10": 75, "MdR": 4, "MnR": 12.25, "SumR": 150}


def test_one_query_and_one_video():
    vector = torch.tensor([[0.6, 0.8]])
    metrics = retrieval_metrics(vector, vector, torch.tensor([0]))
    best = {"R@1": 100, "R@5": 100, "R@10": 100, "MdR": 1, "MnR": 1, "SumR": 300}
    assert metrics == {"t2v": best, "v2t": best}


def test_known_matrix():
    """The first query likes another video better, the second ties two, the third is right."""
    query = torch.tensor([[0.5, 0.9, 0.1], [0.3, 0.3, 0.0], [0.0, 0.1, 0.7]])
    metrics = retrieval_metrics(query, torch.eye(3), torch.arange(3))
    assert metrics["t2v"]["R@1"] == pytest.approx(100 / 3)
    assert (metrics["t2v"]["MdR"], metrics["t2v"]["MnR"]) == (2, pytest.approx(5 / 3))
    assert metrics["v2t"]["R@1"] == pytest.approx(200 / 3)


def test_no_ranks_are_refused():
    with pytest.raises(ValueError, match="no queries"):
        summarise_ranks(torch.zeros(0, dtype=torch.int64))


def test_the_curve_counts_ranks():
    ranks = torch.tensor([3, 1, 1, 12])
    assert recall_curve(ranks, [1, 2, 3, 10, 12]) == [50, 50, 75, 75, 100]
