"""Edges of the kernels that `python -m tests.mutation` found without a test."""

import math

import numpy as np
import pytest

from npgpt.kernels import attention, cross_entropy, exp, gelu, gelu_new, layernorm, mlp
from npgpt.kernels import normal as normal_distribution
from npgpt.kernels.normal import LAST, bell, bell32, tail, tail32
from npgpt.kernels.rows import PORTION, add_up, largest
from npgpt.ops import FAST, REFERENCE
from tests.test_twins import COMPILED, assert_as_exact, in_tiles, normal, run


def test_nan_in_one_query_comes_out_where_the_definition_has_it_up_to_the_end_of_its_tile(monkeypatch, rng):
    in_tiles(monkeypatch, 3, 2, 2)  # queries 0 to 2, 3 to 5 and 6
    qkv, dout = rng.standard_normal((1, 7, 12)), rng.standard_normal((1, 7, 4))
    qkv[0, 1, 0] = np.nan
    _, cache = attention.attention_forward(qkv, 2)
    _, plain_cache = REFERENCE.attention_forward(qkv, 2)
    found, plain = attention.attention_backward(dout, cache), REFERENCE.attention_backward(dout, plain_cache)
    np.testing.assert_array_equal(np.isnan(found[:, :3]), np.isnan(plain[:, :3]))
    # the value that query 1 does not see, but that stands in its tile; later ones are not computed for it
    assert np.isnan(found[0, 2, 8:10]).all()
    assert np.isfinite(found[0, 3:, 8:10]).all()


@pytest.mark.parametrize("counted", [0, 1, 2])
@pytest.mark.parametrize("layer", ["cross_entropy", "linear_cross_entropy"])
def test_few_or_no_targets_count(layer, counted):
    targets = np.array([2, 0, 1, 2])
    targets[counted:] = -100
    arrays = (normal(4, 3),) if layer == "cross_entropy" else (normal(4, 5), normal(3, 5))
    assert_as_exact(layer, (*arrays, targets), dict)


def test_the_only_row_has_no_target():
    assert_as_exact("linear_cross_entropy", (normal(1, 5), normal(3, 5), np.array([-100])), dict)


@pytest.mark.parametrize("which", [[0, 2], [1, 2, 5], [0, 1, 2, 3, 4, 5]])
def test_the_rows_that_count_stand_anywhere(which):
    targets = np.full(6, -100)
    targets[which] = np.arange(len(which)) % 3
    assert_as_exact("linear_cross_entropy", (normal(6, 5), normal(3, 5), targets), dict)


@pytest.mark.parametrize("ignore_index", [-100, 2])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("layer", ["cross_entropy", "linear_cross_entropy"])
def test_targets_of_any_integer_dtype(layer, dtype, ignore_index):
    targets = np.array([2, 0, 1, 2], dtype)
    arrays = (normal(4, 3),) if layer == "cross_entropy" else (normal(4, 5), normal(3, 5))
    options = {"ignore_index": ignore_index}
    plain = run(REFERENCE, layer, (*arrays, targets), lambda: options, np.float64)
    found = run(FAST, layer, (*arrays, targets), lambda: options, np.float64)
    for want, got in zip(plain, found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-15)
    ids, count = cross_entropy.checked(targets, 3, ignore_index)
    assert ids.dtype == np.int64  # one type, so that nothing is compiled for another
    assert type(count) is int


def test_exp_is_right_to_two_units_at_the_ends_of_its_range():
    for x in (exp.LOWEST, np.float32(88.3)):
        assert abs(float(exp.exp32(x)) / np.exp(np.float64(x)) - 1) < 2 * 2.0**-23
    assert exp.exp32(np.nextafter(exp.LOWEST, np.float32(-np.inf))) == 0


@pytest.mark.parametrize("end", [-0.49, 0.49])
def test_exp_errs_to_no_side_where_its_polynomial_is_at_its_ends(end):
    # roundings of up to 2 * 2^-23 that are independent cancel in a mean of 200; a term of the polynomial would not
    x = ((np.arange(-100, 100) + end) * math.log(2)).astype(np.float32)
    found = np.array([float(exp.exp32(value)) for value in x])
    assert abs(np.mean(found / np.exp(x.astype(np.float64)) - 1)) < 2.0**-25


def test_exp_stays_in_the_precision_of_its_argument():
    for x in (-100, 1, 100):
        assert type(exp.exp(np.float64(x))) is np.float64
        if not COMPILED:  # a compiled function returns a float of Python's
            assert type(exp.exp(np.float32(x))) is np.float32


def test_the_constants_of_exp_are_float32():
    # A Python float is one beside NumPy's float32, but in compiled code a float64, and takes all the rest with it
    floats = [exp.LOG2E, exp.LN2_HIGH, exp.LN2_LOW, exp.ROUNDER, exp.LOWEST, exp.HIGHEST]
    floats += [exp.P0, exp.P1, exp.P2, exp.P3, exp.P4, exp.P5]
    assert {type(value) for value in floats} == {np.float32}


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_nothing_is_compiled_anew_where_there_is_no_bias():
    norm = (layernorm.normalize_rows, layernorm.normalize_rows_backward)
    loops = (*norm, gelu.bend, gelu_new.bend, mlp.multiply_and_sum)
    counts = []
    for bias in (normal(4), None):
        run(FAST, "layernorm", (normal(3, 4), normal(4), bias), dict, np.float32)
        for activation in ("gelu", "gelu_new"):
            args = (normal(3, 5), normal(5, 4), bias, normal(4, 5), None)
            run(FAST, "mlp", args, lambda: {"activation": activation}, np.float32)  # noqa: B023, called at once
        counts.append([len(loop.signatures) for loop in loops])
    assert counts[0] == counts[1]


def test_the_normal_distribution_is_right_to_its_ends():
    for t in np.linspace(0, 13.2, 4001, dtype=np.float32).tolist():
        exact = math.exp(-0.5 * t * t)
        assert abs(float(bell32(np.float32(t))) / exact - 1) < 3 * 2.0**-24
        if t < 12.8:  # beyond, the tail is subnormal
            found = float(tail32(np.float32(t), np.float32(exact)))
            assert abs(found / (0.5 * math.erfc(t / math.sqrt(2))) - 1) < 7 * 2.0**-24
    assert bell32(np.float32(0)) == 1
    assert tail32(np.float32(0), np.float32(1)) == 0.5
    for t in (LAST, np.float32(1e30), np.float32(np.inf)):
        assert bell32(t) == tail32(t, np.float32(0)) == 0
    assert np.isnan(bell32(np.float32(np.nan)))
    assert np.isnan(tail32(np.float32(np.nan), np.float32(1)))


@pytest.mark.parametrize("end", [0.0, 12.5])
def test_the_tail_errs_to_no_side_where_its_polynomial_is_at_its_ends(end):
    # as for exp
    t = np.linspace(end, end + 0.2, 200, dtype=np.float32).tolist()
    exact = [0.5 * math.erfc(value / math.sqrt(2)) * math.exp(0.5 * value * value) for value in t]
    found = [float(tail32(np.float32(value), np.float32(1))) for value in t]
    assert abs(np.mean(np.divide(found, exact) - 1)) < 2.0**-25


def test_the_normal_distribution_stays_in_the_precision_of_its_argument():
    for t in (0.5, 20.0):
        assert bell(np.float64(t)) == math.exp(-0.5 * t * t)
        assert tail(np.float64(t), np.float64(0)) == 0.5 * math.erfc(t * math.sqrt(0.5))
        assert bell(np.float32(t)) == bell32(np.float32(t))
        assert tail(np.float32(t), np.float32(1)) == tail32(np.float32(t), np.float32(1))
        assert type(bell(np.float64(t))) is type(tail(np.float64(t), np.float64(0))) is np.float64


def test_the_constants_of_the_normal_distribution_are_float32():
    floats = [normal_distribution.LAST, normal_distribution.CENTRE]
    floats += [getattr(normal_distribution, f"Q{i}") for i in range(10)]
    assert {type(value) for value in floats} == {np.float32}


FAR = np.linspace(-9, 9, 300, dtype=np.float32).reshape(3, 2, 50)  # where 1 + erf and 1 + tanh lose all their digits


def run_gelu(name):
    out, cache = getattr(FAST, f"{name}_forward")(FAR)
    dx = getattr(FAST, f"{name}_backward")(np.ones_like(FAR), cache)
    assert out.shape == dx.shape == FAR.shape
    return out, dx, FAR.astype(np.float64)


def test_gelu_is_right_in_each_element():
    out, dx, z = run_gelu("gelu")
    Phi = 0.5 * np.vectorize(math.erfc)(-z / math.sqrt(2))
    rest = z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    # three units of 2^-24 for exp(-z^2 / 2), six for the tail, three for what follows
    assert (np.abs(out - z * Phi) <= 12 * 2.0**-24 * np.abs(z * Phi)).all()
    assert (np.abs(dx - Phi - rest) <= 12 * 2.0**-24 * (Phi + np.abs(rest))).all()


def test_gelu_new_is_right_in_each_element():
    out, dx, z = run_gelu("gelu_new")
    twice_u = 2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    gate = 1 / (1 + np.exp(-twice_u))
    rest = z * gate / (1 + np.exp(twice_u)) * 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
    # exp multiplies the error of its argument, which comes from seven roundings, by the argument; ten follow
    roundings = (7 * np.abs(twice_u) + 10) * 2.0**-24
    assert (np.abs(out - z * gate) <= roundings * np.abs(z * gate)).all()
    assert (np.abs(dx - gate - rest) <= roundings * (gate + np.abs(rest))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", ["cross_entropy", "linear_cross_entropy"])
def test_logits_far_apart_and_far_below_zero(layer, dtype):
    rows = [[1, 0, -1], [-1, 1, 0], [0, -1, 1], [-1, -1, -1], [1, 1, 1], [0, 1, 0.99]]
    logits, targets = 1e4 * np.array(rows), np.array([1, 0, 2, 1, 0, 2])
    args = (logits, targets) if layer == "cross_entropy" else (logits, np.eye(3), targets)  # logits @ 1.T
    plain, found = (run(ops, layer, args, dict, dtype) for ops in (REFERENCE, FAST))
    for want, got in zip(plain, found, strict=True):
        assert np.isfinite(got).all()
        # eight roundings; the products with x have its size of 1e4, and cancel
        np.testing.assert_allclose(
            got, want, rtol=8 * np.finfo(dtype).eps, atol=np.abs(want).max() * 4 * np.finfo(dtype).eps
        )


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 33])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adding_up_rows(n, dtype):
    x = np.random.default_rng(n).standard_normal((n, 50)).astype(dtype)
    exact, size = x.astype(np.float64).sum(0), np.abs(x).astype(np.float64).sum(0)
    before = x.copy()
    squares = add_up(x, 3, 45)
    # two roundings for every factor of four in the number of rows; in float64 the expected sum has its own
    depth = 2 * math.ceil(math.log(n, 4) - 1e-9) if dtype == np.float32 else n
    assert (np.abs(x[0] - exact)[3:45] <= depth * np.finfo(dtype).eps / 2 * size[3:45]).all()
    assert squares == pytest.approx(np.sum(x[0, 3:45].astype(np.float64) ** 2), rel=1e-14)
    np.testing.assert_array_equal(x[:, :3], before[:, :3])
    np.testing.assert_array_equal(x[:, 45:], before[:, 45:])


@pytest.mark.parametrize("size", [1, 7, 1000, 4095, 4097])
def test_adding_up_in_parts_gives_the_same_bits(size):
    x = np.random.default_rng(0).standard_normal((7, PORTION + 900)).astype(np.float32)
    if not COMPILED:
        x = x[:, :90]
    parted, total = x.copy(), x.shape[1]
    squares = add_up(x, 0, total)
    parts = sum(add_up(parted, start, min(start + size, total)) for start in range(0, total, size))
    np.testing.assert_array_equal(parted[0], x[0])
    assert parts == pytest.approx(squares, rel=1e-14)


@pytest.mark.parametrize("row", range(6))
def test_adding_up_keeps_what_is_not_finite_and_squares_what_float32_cannot(row):
    x = np.ones((6, 9), np.float32)
    x[row, 2:5] = np.nan, np.inf, 1e30
    assert add_up(x.copy(), 4, 5) == pytest.approx(1e60)
    assert np.isnan(add_up(x, 0, 9))
    assert np.isnan(x[0, 2])
    assert x[0, 3] == np.inf
    np.testing.assert_array_equal(x[0, [0, 1, 5, 6, 7, 8]], 6)


def test_adding_up_no_elements():
    assert add_up(np.ones((3, 4)), 2, 2) == 0


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 15, 16, 23, 65])
def test_the_largest_element_is_found_anywhere(size):
    for dtype in (np.float32, np.float64):
        for place in range(size):
            x = np.random.default_rng(size).random(size).astype(dtype) - 9
            x[place] = -3
            assert largest(x) == -3
