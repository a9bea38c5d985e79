"""The compiled update of Muon beside its definition, and the products that it is made of."""

import math
import os

import numpy as np
import pytest

from npgpt import kernels, optim
from npgpt.kernels.gram import LINE, transpose, transposed_product
from npgpt.optim.muon import POLYNOMIALS, room_for
from npgpt.support.jit import jit
from tests.test_optim import matrix_of

COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
BEFORE, AFTER = 3, 5  # numbers around the matrix that are not the update's
SHAPES = [(1, 1), (1, 7), (7, 1), (2, 2), (5, 5), (3, 17), (17, 3), (16, 16), (33, 20), (20, 33)]
LARGE = [(48, 48), (47, 129), (129, 47), (48, 256)] if COMPILED else []


def updated(update, arrays, shape, step, dtype, polynomials=POLYNOMIALS):
    """Return param and exp_avg after an update of the matrix inside these flat arrays."""
    param, grad, exp_avg = (array.astype(dtype) for array in arrays)
    places = np.array([[BEFORE, BEFORE - 1, step, *shape]])
    memory = np.full(room_for(*shape, param.itemsize), np.nan, dtype)
    update(param, grad, exp_avg, places, np.array(polynomials), 0.1, 0.95, 0.5, 0.7, memory)
    return param.astype(np.float64), exp_avg.astype(np.float64)


def flat(shape, step, size=1.0, seed=0):
    """Return arrays that hold the matrix in columns: of a parameter, a gradient and an average."""
    rng = np.random.default_rng(seed)
    number = BEFORE + shape[0] * step + AFTER
    return [s * rng.standard_normal(number).astype(np.float32) for s in (1, np.float32(size), np.float32(size))]


def inside(array, shape, step, start=BEFORE):
    return np.lib.stride_tricks.as_strided(array[start:], shape, (step * array.itemsize, array.itemsize))


@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("shape", SHAPES + LARGE)
def test_the_compiled_update_is_the_definition(shape, size, extra):
    step = shape[1] + extra
    arrays = flat(shape, step, size)
    exact = updated(optim.muon.muon_update, arrays, shape, step, np.float64)
    again = updated(kernels.muon_update, arrays, shape, step, np.float64)
    fast = updated(kernels.muon_update, arrays, shape, step, np.float32)
    for e, a, f, before in zip(exact, again, fast, (arrays[0], arrays[2]), strict=True):
        # the slopes of the polynomials at a singular value add up to 8.3 * 3.9 * 3.2 = 103 at most, so that many
        # roundings of the first product may come out
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-12 * abs(e).max())
        np.testing.assert_allclose(f, e, rtol=0, atol=1e-4 * abs(e).max())
        start = BEFORE if before is arrays[0] else BEFORE - 1
        inside(e, shape, step, start)[...] = inside(f, shape, step, start)[...] = 0
        others = before.astype(np.float64)
        inside(others, shape, step, start)[...] = 0
        np.testing.assert_array_equal(f, others)
        np.testing.assert_array_equal(e, others)


@pytest.mark.parametrize("shape", [(32, 32), (20, 48), (48, 20)])
@pytest.mark.parametrize("smallest", [1e-4, 1e-2])
def test_small_singular_values_come_out_as_in_the_definition(shape, smallest):
    """In float32, squares of them are lost in the Gram matrix's roundings, but what they become is not."""
    for seed in range(3):
        values = np.geomspace(1, smallest, min(shape))
        matrix, u, v = matrix_of(shape, values, seed)
        grad = np.zeros(BEFORE + matrix.size + AFTER)
        inside(grad, shape, shape[1])[...] = matrix
        arrays = np.zeros_like(grad), grad, np.zeros_like(grad)
        exact, found = (
            u.T @ inside(updated(update, arrays, shape, shape[1], dtype)[0], shape, shape[1]) @ v
            for update, dtype in ((optim.muon.muon_update, np.float64), (kernels.muon_update, np.float32))
        )
        longest = 0.1 * 0.2 * math.sqrt(max(shape))  # what the update multiplies by
        assert np.linalg.norm(found - exact, 2) <= 5e-4 * longest  # which kernels/muon.py promises


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4)])
def test_zeros_move_nothing_but_decay_and_nan_shows(shape, dtype):
    for update in (optim.muon.muon_update, kernels.muon_update):
        arrays = [np.ones(BEFORE + 15 + AFTER), np.zeros(BEFORE + 15 + AFTER), np.zeros(BEFORE + 15 + AFTER)]
        param, average = updated(update, arrays, shape, shape[1], dtype)
        np.testing.assert_allclose(inside(param, shape, shape[1]), 0.95, rtol=1e-6)
        assert not average.any()
        arrays[1][BEFORE + 1] = np.nan
        param, _ = updated(update, arrays, shape, shape[1], dtype)
        assert np.isnan(inside(param, shape, shape[1])).all()
        assert np.isfinite(param).sum() == param.size - shape[0] * shape[1]


@jit
def multiplied(a, b, out, K, M, N, half):
    transposed_product(a, b, out, K, M, N, half)


@jit
def turned(x, out, M, N):
    transpose(x, out, M, N)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("K", "M", "N"), [(1, 1, 1), (5, 1, 2), (33, 3, 1), (7, 2, 2)])
def test_products_of_columns(K, M, N, dtype):
    unit = LINE // np.dtype(dtype).itemsize
    M, N = M * unit, N * unit
    rng = np.random.default_rng(K)
    a, b = rng.integers(-9, 9, (K + 1, M + unit)).astype(dtype), rng.integers(-9, 9, (K + 2, N + 3)).astype(dtype)
    out = np.full((M + 1, N + unit), 7, dtype)
    multiplied(a, b, out, K, M, N, False)
    np.testing.assert_array_equal(out[:M, :N], a[:K, :M].T @ b[:K, :N])
    assert (out[M:] == 7).all()
    assert (out[:, N:] == 7).all()
    half = np.full((M, M), 7, dtype)
    multiplied(a, a, half, K, M, M, True)
    np.testing.assert_array_equal(half, a[:K, :M].T @ a[:K, :M])
    other = np.full((N + 3, M), 7, dtype)
    turned(out, other, M, N)
    np.testing.assert_array_equal(other[:N], out[:M, :N].T)
    assert (other[N:] == 7).all()
