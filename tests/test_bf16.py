"""Products of bfloat16 operands: the rounding, the layers that are defined by it, and the compiled product."""

import copy
import math

import numpy as np
import pytest

from npgpt.kernels import bf16
from npgpt.kernels.bf16 import BLOCK, PAIRS, SCRATCH, product_bf16, product_in
from npgpt.kernels.products import FOUND as BLAS_FOUND
from npgpt.layers.bf16 import rounded
from npgpt.ops import REFERENCE, bf16_ops
from npgpt.support.jit import jit
from tests.test_products import LAYOUTS, laid_out
from tests.test_twins import COMPILED

ROUNDED = bf16_ops(REFERENCE)


@jit
def compiled(a, b, out, add, scratch):
    product_bf16(a, b, out, add, scratch)


@jit
def chosen(a, b, out, add, scratch):
    product_in(a, b, out, add, scratch)


def scratch():
    return np.full(SCRATCH, np.nan, np.float32).view(np.uint32)  # what is not written first would be seen


def float32s(*bits):
    return np.array(bits, np.uint32).view(np.float32)


# --- rounding


def nearest(number):
    """Round a float to bfloat16 in whole numbers and fractions, without its bits."""
    if not math.isfinite(number) or number == 0:
        return number
    exponent = max(math.frexp(number)[1] - 8, -133)  # 8 significant bits; subnormal ones are multiples of 2^-133
    found = math.ldexp(round(math.ldexp(number, -exponent)), exponent)  # round(): to even, if two are equally near
    return math.copysign(math.inf, number) if abs(found) >= 2.0**128 else found


def test_numbers_are_rounded_to_the_nearest_bfloat16(rng):
    # every exponent, and the neighbourhood of each tie
    upper = rng.integers(0, 2**16, 20_000, np.uint32) << np.uint32(16)
    bits = np.concatenate([upper + np.uint32(lower) for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    x = np.concatenate([bits, rng.integers(0, 2**32, 20_000, np.uint32)]).astype(np.uint32).view(np.float32)
    x = x[~np.isnan(x)]
    expected = np.array([nearest(number) for number in x.tolist()], np.float32)
    np.testing.assert_array_equal(rounded(x).view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x3F808000, 0x3F800000),  # 1 + 2^-8, in the middle, to the even one below
        (0x3F818000, 0x3F820000),  # to the even one above
        (0x3F808001, 0x3F810000),
        (0xBF808001, 0xBF810000),
        (0x80000000, 0x80000000),  # -0
        (0x00000001, 0x00000000),  # the smallest subnormal number
        (0x00008001, 0x00010000),  # subnormal numbers have no fewer digits than they can
        (0x007FFFFF, 0x00800000),
        (0x7F7F7FFF, 0x7F7F0000),  # the largest bfloat16
        (0x7F7F8000, 0x7F800000),  # nearer to 2^128 than to that
        (0x7F7FFFFF, 0x7F800000),
        (0x7F800000, 0x7F800000),
        (0xFF800000, 0xFF800000),
    ],
)
def test_ties_subnormals_and_ends(bits, expected):
    assert rounded(float32s(bits)).view(np.uint32) == expected


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7F80FFFF])
def test_nan_stays_nan(bits):
    found = rounded(float32s(bits))
    assert np.isnan(found)
    assert np.signbit(found) == (bits >= 2**31)


def test_what_is_rounded_stays_and_keeps_its_shape(rng):
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)[:, ::2]
    before = x.copy()
    once = rounded(x)
    assert once.shape == x.shape
    np.testing.assert_array_equal(rounded(once), once)
    np.testing.assert_array_equal(x, before)


# --- the compiled product


def assert_is_the_product(a, b, out, add):
    """Check a product against that of the rounded operands in float64, and that nothing else is written.

    A product of two bfloat16s is exact in float32. So only the additions are rounded, K of them and perhaps one to out.
    """
    before = out.copy()
    compiled(a, b, out, add, scratch())
    a, b = rounded(a).astype(np.float64), rounded(b).astype(np.float64)
    exact = a @ b + (before if add else 0)
    sizes = np.abs(a) @ np.abs(b) + (np.abs(before) if add else 0)
    assert np.all(np.abs(out - exact) <= (a.shape[1] + 1) * 2.0**-24 * sizes)


SIZES = [(1, 1, 1), (1, 9, 1), (3, 1, 5), (1, 2, 40), (7, 3, 1), (8, 32, 32), (9, 33, 33), (16, 31, 48), (17, 64, 15)]
SIZES += [(24, 5, 49), (40, 2 * PAIRS + 1, 34), (BLOCK + 9, 3, 17), (2, 4 * PAIRS + 7, 3), (31, 130, 97)]


@LAYOUTS
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products_of_every_layout(rng, sizes, a_layout, b_layout):
    M, K, N = sizes
    for add in (False, True):
        a, b = laid_out(rng, M, K, np.float32, a_layout), laid_out(rng, K, N, np.float32, b_layout)
        assert_is_the_product(a, b, rng.standard_normal((M, N)).astype(np.float32), add)
        whole = rng.standard_normal((M + 2, N + 3)).astype(np.float32)
        before = whole.copy()
        assert_is_the_product(a, b, whole[1 : M + 1, 1 : N + 1], add)
        before[1 : M + 1, 1 : N + 1] = whole[1 : M + 1, 1 : N + 1]
        np.testing.assert_array_equal(whole, before)


def test_operands_are_only_read(rng):
    a, b = rng.standard_normal((19, 21)).astype(np.float32), rng.standard_normal((21, 18)).astype(np.float32)
    a_before, b_before = a.copy(), b.copy()
    compiled(a, b, np.empty((19, 18), np.float32), False, scratch())
    np.testing.assert_array_equal(a, a_before)
    np.testing.assert_array_equal(b, b_before)


def test_scratch_may_begin_anywhere_and_nothing_is_written_past_its_end(rng):
    a, b = rng.standard_normal((BLOCK, 2 * PAIRS)).astype(np.float32), rng.standard_normal((2 * PAIRS, 33))
    expected = np.empty((BLOCK, 33), np.float32)
    compiled(a, b.astype(np.float32), expected, False, scratch())
    for shift in (0, 1, 7, 15):
        memory = np.full(SCRATCH + 32, 7, np.uint32)
        out = np.empty_like(expected)
        compiled(a, b.astype(np.float32), out, False, memory[shift : shift + SCRATCH])
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(memory[:shift], 7)
        np.testing.assert_array_equal(memory[shift + SCRATCH :], 7)


def test_a_product_that_is_not_added_does_not_read_what_was_there():
    out = np.full((3, 5), np.nan, np.float32)
    compiled(np.ones((3, 4), np.float32), np.ones((4, 5), np.float32), out, False, scratch())
    np.testing.assert_array_equal(out, 4)


@pytest.mark.parametrize("K", [0, 3])
def test_no_rows_and_no_terms(K):
    out = np.full((2, 3), 7, np.float32)
    compiled(np.ones((2, K), np.float32), np.ones((K, 3), np.float32), out, True, scratch())
    np.testing.assert_array_equal(out, 7 + K)
    compiled(np.ones((2, K), np.float32), np.ones((K, 3), np.float32), out, False, scratch())
    np.testing.assert_array_equal(out, K)
    compiled(np.ones((0, K), np.float32), np.ones((K, 3), np.float32), out[:0], False, scratch())


@LAYOUTS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38])
def test_nan_and_infinity_come_out_in_their_row_and_column_only(rng, value, a_layout, b_layout):
    a, b = laid_out(rng, 19, 37, np.float32, a_layout), laid_out(rng, 37, 41, np.float32, b_layout)
    for x, place in ((a, (3, 36)), (b, (36, 18))):
        x, y = x.copy(order="K"), np.empty((19, 41), np.float32)
        x[place] = value
        operands = (x, b) if x.shape == a.shape else (a, x)
        with np.errstate(invalid="ignore"):
            compiled(*operands, y, False, scratch())
            expected = rounded(operands[0]) @ rounded(operands[1])
        np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
        np.testing.assert_array_equal(y[np.isinf(expected)], expected[np.isinf(expected)])
        np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected))


@pytest.mark.skipif(not (bf16.FOUND and COMPILED), reason="this processor has no instruction for it")
def test_the_instruction_is_used():
    """It takes subnormal operands for zero, as no other way of computing the product does."""
    out = np.ones((1, 1), np.float32)
    compiled(np.full((1, 1), 2.0**-130, np.float32), np.full((1, 1), 2.0**20, np.float32), out, False, scratch())
    assert out == 0


@pytest.mark.big
@pytest.mark.skipif(not BLAS_FOUND, reason="NumPy's BLAS has no function that compiled code could call")
def test_without_the_instruction_compiled_code_rounds_and_calls_blas(rng, monkeypatch):
    monkeypatch.setattr(bf16, "FOUND", False)
    plain = jit(bf16._product_bf16(None, None, None, None, None))
    a, b = laid_out(rng, 9, 20, np.float32, "rows"), laid_out(rng, 20, 13, np.float32, "columns")
    out = np.ones((9, 13), np.float32)
    plain(a, b, out, True, scratch())
    np.testing.assert_allclose(out, 1 + rounded(a) @ rounded(b), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not BLAS_FOUND, reason="NumPy's BLAS has no function that compiled code could call")
def test_the_type_of_the_scratch_says_whether_operands_are_rounded(rng):
    a, b = laid_out(rng, 9, 20, np.float32, "rows"), laid_out(rng, 20, 13, np.float32, "columns")
    for memory, expected in ((scratch(), rounded(a) @ rounded(b)), (np.zeros(0, np.float32), a @ b)):
        out = np.ones((9, 13), np.float32)
        chosen(a, b, out, True, memory)
        np.testing.assert_allclose(out, 1 + expected, rtol=1e-5, atol=1e-5)


def test_speeds_are_those_of_both_products():
    assert all(0 < speed < math.inf for speed in bf16.speeds())


def test_what_is_missing_is_said(monkeypatch):
    for name in ("HAS_INSTRUCTION", "FOUND", "BLAS_FOUND"):
        monkeypatch.setattr(bf16, name, True)
    assert bf16.missing() == ""
    monkeypatch.setattr(bf16, "BLAS_FOUND", False)
    assert "BLAS" in bf16.missing()
    monkeypatch.setattr(bf16, "FOUND", False)
    assert "numba is too old" in bf16.missing()
    monkeypatch.setattr(bf16, "HAS_INSTRUCTION", False)
    assert "this processor has no instruction" in bf16.missing()


# --- the layers


def arrays(rng, *shapes):
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def test_linear_rounds_the_operands_of_its_products_and_nothing_else(rng):
    x, weight, bias, dout = arrays(rng, (2, 3, 5), (5, 7), 7, (2, 3, 7))
    out, cache = ROUNDED.linear_forward(x, weight, bias)
    np.testing.assert_array_equal(out, rounded(x) @ rounded(weight) + bias)
    dx, dweight, dbias = ROUNDED.linear_backward(dout, cache)
    np.testing.assert_array_equal(dx, rounded(dout) @ rounded(weight).T)
    np.testing.assert_array_equal(dweight, rounded(x).reshape(6, 5).T @ rounded(dout).reshape(6, 7))
    np.testing.assert_array_equal(dbias, dout.reshape(6, 7).sum(axis=0))


def test_the_mlp_rounds_its_hidden_values_and_their_gradient(rng):
    args = arrays(rng, (2, 3, 5), (5, 8), 8, (8, 5), 5)
    x, fc_weight, fc_bias, proj_weight, proj_bias = args
    dout = arrays(rng, (2, 3, 5))[0]
    out, cache = ROUNDED.mlp_forward(*args, activation="gelu")
    hidden, act = REFERENCE.gelu_forward(rounded(x) @ rounded(fc_weight) + fc_bias)
    np.testing.assert_array_equal(out, rounded(hidden) @ rounded(proj_weight) + proj_bias)
    dx, dfc_weight, dfc_bias, dproj_weight, dproj_bias = ROUNDED.mlp_backward(dout, cache)
    dpre = REFERENCE.gelu_backward(rounded(dout) @ rounded(proj_weight).T, act)
    np.testing.assert_array_equal(dx, rounded(dpre) @ rounded(fc_weight).T)
    np.testing.assert_array_equal(dfc_weight, rounded(x).reshape(6, 5).T @ rounded(dpre).reshape(6, 8))
    np.testing.assert_array_equal(dfc_bias, dpre.reshape(6, 8).sum(axis=0))
    np.testing.assert_array_equal(dproj_weight, rounded(hidden).reshape(6, 8).T @ rounded(dout).reshape(6, 5))
    np.testing.assert_array_equal(dproj_bias, dout.reshape(6, 5).sum(axis=0))


def test_the_head_rounds_its_operands_and_the_gradient_of_the_logits(rng):
    x, weight = arrays(rng, (2, 3, 5), (7, 5))
    targets = np.array([[0, 6, -100], [3, 3, 1]])
    loss, cache = ROUNDED.linear_cross_entropy_forward(x, weight, targets)
    expected, ce = REFERENCE.cross_entropy_forward(rounded(x) @ rounded(weight).T, targets)
    assert loss == expected
    dx, dweight = ROUNDED.linear_cross_entropy_backward(0.7, cache)
    dlogits = rounded(REFERENCE.cross_entropy_backward(0.7, ce))
    np.testing.assert_array_equal(dx, dlogits @ rounded(weight))
    np.testing.assert_allclose(dweight, dlogits.reshape(6, 7).T @ rounded(x).reshape(6, 5), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layer", ["linear", "mlp", "linear_cross_entropy"])
def test_gradients_go_where_they_are_wanted(rng, layer):
    args = {
        "linear": arrays(rng, (4, 5), (5, 7), 7),
        "mlp": arrays(rng, (4, 5), (5, 8), 8, (8, 5), 5),
        "linear_cross_entropy": [*arrays(rng, (4, 5), (7, 5)), np.array([0, 6, 2, 2])],
    }[layer]
    out, cache = getattr(ROUNDED, f"{layer}_forward")(*args)
    dout = rng.standard_normal(out.shape).astype(np.float32)
    expected = getattr(ROUNDED, f"{layer}_backward")(dout, cache)
    places = [np.full_like(gradient, np.nan) for gradient in expected[1:]]
    found = getattr(ROUNDED, f"{layer}_backward")(dout, cache, *places)
    for place, gradient, value in zip(places, found[1:], expected[1:], strict=True):
        assert np.shares_memory(place, gradient)
        np.testing.assert_array_equal(gradient, value)
        np.testing.assert_array_equal(place, value)


def test_a_table_of_rounded_ops_is_a_copy():
    table = copy.copy(REFERENCE)
    other = bf16_ops(table)
    assert vars(table) == vars(REFERENCE)
    assert other.attention_forward is table.attention_forward
    assert other.linear_forward is not table.linear_forward
