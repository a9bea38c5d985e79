"""Products whose rows have the bits that each would have alone."""

import numpy as np
import pytest

from npgpt.kernels.streams import PANEL, columns_product, panels, rows_product
from npgpt.support.jit import jit

EMPTY = np.zeros(0)


@jit
def by_columns(x, w, scale, bias, out, first, last):
    columns_product(x, w, scale, bias, out, first, last)


@jit
def by_rows(x, w, scale, out, first, last):
    rows_product(x, w, scale, out, first, last)


def numbers(rng, shape, dtype):
    if dtype == "int8":
        return rng.integers(-127, 128, shape).astype(np.int8)
    return rng.standard_normal(shape).astype(dtype)


SHAPES = [(1, 1, 1), (1, 7, 150), (2, 40, 33), (3, 300, 16), (5, 33, 64), (8, 64, 96), (9, 257, 41), (19, 31, 200)]

KINDS = ["float32", pytest.param("float64", marks=pytest.mark.big), "int8"]  # each is compiled for seconds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("M", "K", "N"), SHAPES)
def test_products_are_right(kind, M, K, N):
    rng = np.random.default_rng(M)
    dtype = "float32" if kind == "int8" else kind
    x, w = numbers(rng, (M, K), dtype), numbers(rng, (K, N), kind)
    scale, bias = numbers(rng, N, dtype), numbers(rng, N, dtype)
    want = x.astype(float) @ w * scale + bias
    # K sums are rounded, which makes K eps of the sum of the terms' sizes; scale and bias make two more
    bar = (K + 2) * np.finfo(dtype).eps * (abs(x).astype(float) @ abs(w.astype(float)) * abs(scale) + abs(bias))
    out = np.full((M, N), 9, dtype)
    for matrix in (w, panels(w)):
        by_columns(x, matrix, scale, bias, out, 0, N)
        assert (abs(out - want) <= bar).all()
    by_rows(x, np.ascontiguousarray(w.T), scale, out, 0, N)
    assert (abs(out - (want - bias)) <= bar).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("M", "K", "N"), SHAPES)
def test_a_row_has_the_bits_that_it_has_alone(kind, M, K, N):
    rng = np.random.default_rng(M)
    dtype = "float32" if kind == "int8" else kind
    x, w, none = numbers(rng, (M, K), dtype), numbers(rng, (K, N), kind), EMPTY.astype(dtype)
    together, alone = np.zeros((M, N), dtype), np.zeros((1, N), dtype)
    for multiply, matrix, rest in (
        (by_columns, w, (none, none)),
        (by_columns, panels(w), (none, none)),
        (by_rows, np.ascontiguousarray(w.T), (none,)),
    ):
        multiply(x, matrix, *rest, together, 0, N)
        for m in range(M):
            multiply(x[m : m + 1], matrix, *rest, alone, 0, N)
            np.testing.assert_array_equal(alone[0], together[m])


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_columns_have_the_bits_that_they_have_in_another_share(kind):
    rng = np.random.default_rng(0)
    x, w, none = numbers(rng, (3, 300), "float32"), numbers(rng, (300, 300), kind), EMPTY.astype(np.float32)
    whole, shares = np.zeros((2, 3, 300), np.float32)
    by_columns(x, w, none, none, whole, 0, 300)
    for first, last in ((0, 7), (7, 130), (130, 300)):
        by_columns(x, w, none, none, shares, first, last)
    np.testing.assert_array_equal(shares, whole)
    for first in range(0, 300, PANEL):
        by_columns(x, panels(w), none, none, shares, first, min(first + PANEL, 300))
    np.testing.assert_array_equal(shares, whole)
    by_rows(x, w, none, whole, 0, 300)
    for first, last in ((0, 7), (7, 130), (130, 300)):
        by_rows(x, w, none, shares, first, last)
    np.testing.assert_array_equal(shares, whole)


def test_nothing_outside_the_share_is_written():
    out = np.full((2, 40), 9.0)
    by_columns(np.ones((2, 5)), np.ones((5, 40)), EMPTY, EMPTY, out, 3, 30)
    by_rows(np.ones((2, 5)), np.ones((40, 5)), EMPTY, out, 3, 30)
    assert (out[:, 3:30] == 5).all()
    assert (out[:, :3] == 9).all()
    assert (out[:, 30:] == 9).all()


def test_rows_may_be_strided():
    rng = np.random.default_rng(0)
    x, w, out = (rng.standard_normal((9, 90)) for _ in range(3))
    by_columns(x[:, 20:29], w[:, 5:70], EMPTY, EMPTY, out[:, 10:75], 0, 65)
    np.testing.assert_allclose(out[:, 10:75], x[:, 20:29] @ w[:, 5:70], rtol=1e-12)
    by_rows(x[:, 20:50], w[:, 5:35], EMPTY, out[:, 10:19], 0, 9)
    np.testing.assert_allclose(out[:, 10:19], x[:, 20:50] @ w[:, 5:35].T, rtol=1e-12)


def test_nan_and_infinity_stay_visible():
    x, w, out = np.ones((1, 20)), np.ones((20, 40)), np.zeros((1, 40))
    w[3, 5], w[4, 39] = np.nan, np.inf
    by_columns(x, w, EMPTY, EMPTY, out, 0, 40)
    assert np.isnan(out[0, 5])
    assert np.isinf(out[0, 39])
    assert np.isfinite(out).sum() == 38
    by_rows(x, np.ascontiguousarray(w.T), EMPTY, out, 0, 40)
    assert np.isfinite(out).sum() == 38
