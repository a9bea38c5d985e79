"""Products inside compiled code: those of NumPy, for every layout, size and precision."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from npgpt.kernels.products import numpy_gemm, product
from npgpt.support.jit import jit
from tests.conftest import mostly_big

COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


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


# Each is compiled by itself. Kernels multiply weights as they are and transposed, transposed inputs, and views of
# larger arrays.
USUAL = {("rows", "rows"), ("rows", "columns"), ("columns", "rows"), ("part", "part")}
EVERY = [*itertools.product(("rows", "columns", "part"), repeat=2)]
LAYOUTS = pytest.mark.parametrize(("a_layout", "b_layout"), mostly_big(EVERY, USUAL.__contains__))


# in float64 the gradients of all layers check the same products
@LAYOUTS
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.big)])
@pytest.mark.parametrize(
    "sizes", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1), (7, 1, 1), (40, 30, 50)], ids=str
)
def test_products_of_every_layout(rng, sizes, dtype, a_layout, b_layout):
    M, K, N = sizes
    a, b = laid_out(rng, M, K, dtype, a_layout), laid_out(rng, K, N, dtype, b_layout)
    whole = rng.standard_normal((M, N + 3)).astype(dtype)
    for out in (np.ones((M, N), dtype), whole[:, 1 : N + 1]):
        before, margins = out.copy(), whole[:, [0, N + 1, N + 2]].copy()
        # sums of up to 30 products of order one, in BLAS's order: some roundings each
        exact, tolerance = a.astype(float) @ b.astype(float), 100 * np.finfo(dtype).eps
        compiled(a, b, out, False)
        np.testing.assert_allclose(out, exact, rtol=tolerance, atol=tolerance)
        out[...] = before
        compiled(a, b, out, True)
        np.testing.assert_allclose(out, before + exact, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(whole[:, [0, N + 1, N + 2]], margins)


def test_a_product_that_is_not_added_does_not_read_what_was_there(rng):
    out = np.full((3, 5), np.nan, np.float32)
    compiled(np.ones((3, 4), np.float32), np.ones((4, 5), np.float32), out, False)
    np.testing.assert_array_equal(out, 4)


WITHOUT = """
import ctypes
load = ctypes.CDLL
def refuse(name, *args, **options):
    if "umath" in str(name) or "blas" in str(name):
        raise OSError
    return load(name, *args, **options)
ctypes.CDLL = refuse
from npgpt.kernels import products
assert not products.FOUND
import numpy as np
from npgpt import GPT, GPTConfig
config = GPTConfig(vocab_size=7, n_positions=5, n_embd=6, n_layer=2, n_head=2)
fast, plain = GPT(config), GPT(config, ops="reference")
assert fast.ops.step is None
ids = np.arange(10).reshape(2, 5) % 7
(loss, found), (_, exact) = fast.loss_and_grads(ids, ids), plain.loss_and_grads(ids, ids)
assert np.linalg.norm(found.flat - exact.flat) < 1e-5 * np.linalg.norm(exact.flat)
print("the same")
"""


@pytest.mark.skipif(not COMPILED, reason="plain Python needs no BLAS of its own")
def test_without_a_blas_that_is_known_numpy_computes_the_products():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr


@pytest.mark.parametrize("letter", ["s", "d"])
def test_the_function_that_stands_in_is_a_product(rng, letter):
    gemm, dtype = numpy_gemm(letter), np.dtype({"s": "f4", "d": "f8"}[letter])
    a, b, out = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 4), (5, 4), (3, 6)))
    before = out.copy()
    gemm(101, 111, 112, 3, 5, 4, 1.0, a.ctypes.data, 4, b.ctypes.data, 4, 1.0, out.ctypes.data, 6)
    np.testing.assert_allclose(out[:, :5], before[:, :5] + a @ b.T, rtol=1e-5)
    np.testing.assert_array_equal(out[:, 5], before[:, 5])
    gemm(101, 111, 111, 3, 6, 0, 1.0, 0, 1, 0, 6, 0.0, out.ctypes.data, 6)  # a sum of no terms
    assert not out.any()
