"""The gate lets an equal model through, and names what is wrong with one that is not."""

import dataclasses

import numpy as np
import pytest

from fpig_core.drift import Canary, DriftLimits, compare_canaries

NUM, DIM = 60, 16


@pytest.fixture(scope="module")
def current():
    rng = np.random.default_rng(0)
    video = rng.standard_normal((NUM, DIM)).astype(np.float32)
    query = video + 0.5 * rng.standard_normal((NUM, DIM)).astype(np.float32)
    return Canary(query, video, 0.02)


TARGET = np.arange(NUM)


def beyond(current, candidate, **limits):
    checks = compare_canaries(current, candidate, TARGET, limits=DriftLimits(**limits))
    return {check.name for check in checks if not check.ok}


def rotated(canary, dim=DIM):
    """Other vectors with the same products: another space, the same search."""
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((dim, dim)))[0][:DIM].astype(np.float32)
    return canary._replace(query_QD=canary.query_QD @ turn, video_BD=canary.video_BD @ turn)


def test_the_same_search_in_another_space_passes(current):
    assert beyond(current, current) == set()
    assert beyond(current, rotated(current)) == set()


def test_each_fault_is_named(current):
    assert beyond(current, current._replace(video_BD=2 * current.video_BD)) == {"median length"}
    uneven = current.video_BD * np.linspace(0.3, 1.7, NUM, dtype=np.float32)[:, None]
    assert "spread of lengths" in beyond(current, current._replace(video_BD=uneven))
    assert beyond(current, rotated(current, dim=DIM + 4)) == {"width"}
    assert beyond(current, rotated(current, dim=DIM + 4), same_width=False) == set()
    assert beyond(current, current._replace(rejected_share=0.05)) == {"rejected share"}
    assert beyond(current, current._replace(rejected_share=0.05), max_rejected=0.1) == set()


def test_queries_of_another_model_are_noticed(current):
    mixed = current._replace(query_QD=rotated(current).query_QD)
    assert {"overlap of the best 10", "t2v R@1", "t2v R@10", "v2t R@1"} <= beyond(current, mixed)


def test_a_better_model_passes_and_a_worse_one_back_does_not(current):
    better = current._replace(query_QD=current.video_BD.copy())
    assert beyond(current, better) == set()
    assert "t2v R@1" in beyond(better, current, max_recall_drop=0)


def test_overlap_is_the_share_of_common_videos(current):
    """By a plain loop over sorted scores."""
    candidate = current._replace(query_QD=current.query_QD[::-1].copy())
    top = [np.argsort(-(c.query_QD @ c.video_BD.T), axis=1)[:, :10] for c in (current, candidate)]
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*top, strict=True)])
    checks = compare_canaries(current, candidate, TARGET, limits=DriftLimits())
    assert next(check.candidate for check in checks if "overlap" in check.name) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "value"), [("min_overlap", 1.5), ("max_recall_drop", -1.0), ("max_length_change", float("nan"))]
)
def test_limits_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=f"got {name}=.*, wanted"):
        dataclasses.replace(DriftLimits(), **{name: value})
