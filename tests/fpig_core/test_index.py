"""The index finds what sorting all scores finds."""

import numpy as np
import pytest

from fpig_core.index import ExactIndex


def test_search_equals_sorting_every_score():
    rng = np.random.default_rng(0)
    video, query = rng.standard_normal((200, 16)), rng.standard_normal((7, 16))
    score, position = ExactIndex(video).search(query, 10)
    expected = query @ video.T
    order = np.argsort(-expected, axis=1)[:, :10]
    np.testing.assert_array_equal(position, order)
    np.testing.assert_allclose(score, np.take_along_axis(expected, order, axis=1), rtol=1e-5)


def test_k_is_cut_to_the_number_of_vectors():
    index = ExactIndex(np.eye(3, dtype=np.float16))
    score, position = index.search(np.eye(3, dtype=np.float32)[:1], 50)
    assert score.shape == position.shape == (1, 3)
    assert position[0, 0] == 0
    assert len(index) == 3


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        ExactIndex(np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match=r"wanted \[B, D\]"):
        ExactIndex(np.zeros(4))
    index = ExactIndex(np.eye(4))
    with pytest.raises(ValueError, match=r"wanted \[Q, 4\]"):
        index.search(np.zeros((1, 5)), 1)
    with pytest.raises(ValueError, match="k=0"):
        index.search(np.eye(4), 0)
