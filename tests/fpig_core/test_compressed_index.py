"""What is found has exact scores, conditions cost no results, and with all candidates nothing is lost."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpig_core import compressed_index
from fpig_core.compressed_index import CompressedIndex
from fpig_core.index import ExactIndex, exact_top
from fpig_core.index_kinds import KINDS, MIN_VECTORS, Effort, first_stage, ladder

NUM, DIM = 400, 16
COMPRESSED = [kind for kind in KINDS if kind != "flat"]


def vectors(num, seed=0):
    x = np.random.default_rng(seed).standard_normal((num, DIM)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module", params=KINDS)
def index(request):
    vector_BD = vectors(NUM).astype(np.float16)
    if request.param == "flat":
        return CompressedIndex("flat", None, vector_BD, effort=Effort(num_candidates=10))
    first = first_stage(request.param, DIM, NUM)
    first.train(vector_BD.astype(np.float32))
    first.add(vector_BD.astype(np.float32))
    return CompressedIndex(request.param, first, vector_BD, effort=ladder(request.param, NUM)[-1])


def by_sorting(query_QD, vector_BD, k, only):
    """An oracle: every score in double precision, sorted."""
    score_QB = query_QD.astype(np.float64) @ vector_BD[only].astype(np.float64).T
    order_QK = np.argsort(-score_QB, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(score_QB, order_QK, axis=1), only[order_QK]


def test_all_kinds_find_nearly_all_and_score_exactly(index):
    query_QD, vector_BD = vectors(20, seed=1), index.vectors(np.arange(NUM))
    expected, _ = by_sorting(query_QD, vector_BD, 10, np.arange(NUM))
    score_QK, row_QK = index.search(query_QD, 10)
    assert (score_QK >= expected[:, -1:] - 1e-5).mean() >= (0.95 if index.kind == "binary" else 0.99)
    np.testing.assert_allclose(score_QK, np.einsum("qd,qkd->qk", query_QD, vector_BD[row_QK]), atol=1e-5)
    assert (np.diff(score_QK, axis=1) <= 0).all()
    assert all(len(set(row_K)) == 10 for row_K in row_QK)


@pytest.mark.parametrize("num_wanted", [0, 1, 7, 60, 390])
@pytest.mark.parametrize("few_rows", [0, 50_000])
def test_conditions_cost_no_results(index, num_wanted, few_rows, monkeypatch):
    monkeypatch.setattr(compressed_index, "FEW_ROWS", few_rows)
    only = np.sort(np.random.default_rng(2).permutation(NUM)[:num_wanted])
    query_QD = vectors(5, seed=3)
    expected, _ = by_sorting(query_QD, index.vectors(np.arange(NUM)), 10, only)
    score_QK, row_QK = index.search(query_QD, 10, only=only)
    assert row_QK.shape == (5, min(10, num_wanted))
    assert np.isin(row_QK, only).all()
    np.testing.assert_allclose(score_QK, expected, atol=1e-5) if few_rows else None


def test_more_is_asked_for_than_there_is(index):
    score_QK, row_QK = index.search(vectors(2, seed=1), NUM + 5)
    assert score_QK.shape == (2, NUM)
    assert [sorted(row_K) for row_K in row_QK.tolist()] == [list(range(NUM))] * 2


def test_wrong_requests_are_refused(index):
    with pytest.raises(ValueError, match="wanted \\[Q, 16\\]"):
        index.search(np.zeros((1, 3), np.float32), 5)
    with pytest.raises(ValueError, match="NaN"):
        index.search(np.full((1, DIM), np.nan, np.float32), 5)
    with pytest.raises(ValueError, match="k=0"):
        index.search(vectors(1), 0)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_codes_need_vectors_to_learn_from(kind):
    with pytest.raises(ValueError, match="got 255 vectors, wanted at least 256"):
        first_stage(kind, DIM, MIN_VECTORS - 1)
    assert ladder(kind, 300)


@settings(max_examples=40)
@given(
    num=st.integers(1, 70),
    k=st.integers(1, 80),
    wanted=st.none() | st.lists(st.integers(0, 69), unique=True),
    levels=st.integers(1, 50),
    half=st.booleans(),
)
def test_exact_search_equals_sorting_every_score(num, k, wanted, levels, half):
    """Also with many equal vectors; which of equal ones comes first is settled by the row."""
    rng = np.random.default_rng(levels)
    vector_BD = rng.integers(-levels, levels + 1, (num, 4)).astype(np.float16 if half else np.float32)
    query_QD = rng.integers(-3, 4, (3, 4)).astype(np.float32)
    only = None if wanted is None else np.array(sorted(row for row in wanted if row < num), np.int64)
    expected, _ = by_sorting(query_QD, vector_BD, k, np.arange(num) if only is None else only)
    for score_QK, row_QK in (
        exact_top(query_QD, vector_BD, k, only=only),
        ExactIndex(vector_BD.astype(np.float32)).search(query_QD, k, only=only),
    ):
        np.testing.assert_array_equal(score_QK, expected.astype(np.float32))
        np.testing.assert_array_equal(np.einsum("qd,qkd->qk", query_QD, vector_BD[row_QK].astype(np.float32)), score_QK)
        assert all(len(set(row_K)) == len(row_K) for row_K in row_QK)
    score_QK, row_QK = exact_top(query_QD, vector_BD, k, only=only)
    is_equal = score_QK[:, 1:] == score_QK[:, :-1]
    assert (np.diff(row_QK, axis=1)[is_equal] > 0).all()


def test_an_effort_grows_with_what_is_wanted():
    effort = Effort(num_candidates=50)
    assert [effort.candidates(k) for k in (1, 10, 11, 100)] == [50, 50, 100, 500]
    with pytest.raises(ValueError, match="num_candidates=0"):
        dataclasses.replace(effort, num_candidates=0)
