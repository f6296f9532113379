"""Vectors as bytes are those of a slow loop, and keep their length."""

import numpy as np
import pytest

from pipelines.int8 import dequantise, quantise


def slow(vector):
    """In float64, number by number."""
    step = max(abs(float(x)) for x in vector) / 127
    code = [round(float(x) / step) if step else 0 for x in vector]
    length, wanted = (sum(x * x for x in each) ** 0.5 for each in (code, [float(x) for x in vector]))
    return code, wanted / length if length else 0.0


@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 16), (0, 16)])
def test_codes_and_scales_are_those_of_a_slow_loop(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    code, scale = quantise(x)
    assert (code.dtype, code.shape, scale.dtype, scale.shape) == (np.int8, shape, np.float32, shape[:-1])
    wanted = [slow(vector) for vector in x.reshape(-1, 16)]
    np.testing.assert_array_equal(code.reshape(-1, 16), np.array([each for each, _ in wanted]).reshape(-1, 16))
    np.testing.assert_allclose(scale.reshape(-1), [each for _, each in wanted], rtol=1e-6)


def test_a_unit_vector_stays_one_and_zeros_stay_zeros():
    x = np.random.default_rng(0).standard_normal((200, 512)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[0] = 0
    back = dequantise(*quantise(x))
    np.testing.assert_allclose(np.linalg.norm(back[1:], axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(back[0], 0)
    assert 1 - (back[1:] * x[1:]).sum(axis=1).min() < 1e-4
