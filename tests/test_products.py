"""Products inside compiled code: those of NumPy, for every layout, size and precision."""

import numpy as np
import pytest

from npgpt.kernels.products import FOUND, product
from npgpt.support.jit import jit


@jit
def compiled(a, b, out, add):
    product(a, b, out, add)


def laid_out(rng, rows, columns, dtype, layout):
    """Return random numbers as an array whose rows or columns are contiguous, whole or as a part of a larger one."""
    if layout == "columns":
        return rng.standard_normal((columns, rows)).astype(dtype).T
    if layout == "part":
        return rng.standard_normal((rows, columns + 3)).astype(dtype)[:, 1 : columns + 1]
    return rng.standard_normal((rows, columns)).astype(dtype)


@pytest.mark.skipif(not FOUND, reason="NumPy's BLAS has no function that compiled code could call")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "sizes", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1), (7, 1, 1), (40, 30, 50)], ids=str
)
def test_products_of_every_layout(rng, sizes, dtype):
    M, K, N = sizes
    layouts = ("rows", "columns", "part")
    for a_layout in layouts:
        for b_layout in layouts:
            a, b = laid_out(rng, M, K, dtype, a_layout), laid_out(rng, K, N, dtype, b_layout)
            whole = rng.standard_normal((M, N + 3)).astype(dtype)
            for out in (np.ones((M, N), dtype), whole[:, 1 : N + 1]):
                before, margins = out.copy(), whole[:, [0, N + 1, N + 2]].copy()
                exact, tolerance = a.astype(float) @ b.astype(float), 100 * np.finfo(dtype).eps
                compiled(a, b, out, False)
                np.testing.assert_allclose(out, exact, rtol=tolerance, atol=tolerance)
                out[...] = before
                compiled(a, b, out, True)
                np.testing.assert_allclose(out, before + exact, rtol=tolerance, atol=tolerance)
                np.testing.assert_array_equal(whole[:, [0, N + 1, N + 2]], margins)


@pytest.mark.skipif(not FOUND, reason="NumPy's BLAS has no function that compiled code could call")
def test_a_product_that_is_not_added_does_not_read_what_was_there(rng):
    out = np.full((3, 5), np.nan, np.float32)
    compiled(np.ones((3, 4), np.float32), np.ones((4, 5), np.float32), out, False)
    np.testing.assert_array_equal(out, 4)
