"""The checker itself: gradients wrong on purpose must fail, right ones pass, and the report must say where."""

import json
import math

import numpy as np
import pytest

from npgpt import check_backward, layers, numerical_gradient
from npgpt.layers.causal_softmax import causal_softmax_backward
from npgpt.layers.dropout import dropout_backward

# --- the numerical gradient


def test_numerical_gradient_of_a_known_function():
    x = np.array([[0.3, -1.2], [2.0, 0.0]])
    found = numerical_gradient(lambda a: float(np.sum(np.sin(a) * np.exp(a))), x)
    np.testing.assert_allclose(found, (np.sin(x) + np.cos(x)) * np.exp(x), rtol=1e-10)


def test_numerical_gradient_is_exact_for_a_quartic():
    # a fourth-order difference has no truncation error below the fifth power
    x = np.array([0.5, 1.5])
    found = numerical_gradient(lambda a: float(np.sum(a**4)), x)
    np.testing.assert_allclose(found, 4 * x**3, rtol=1e-12)
    # the error of the fifth power is h^4 / 30 * f^(5) = 4 h^4, and it must be there: h was what it says
    h = 0.1
    assert numerical_gradient(lambda a: float(a[0] ** 5), np.array([0.0]), h)[0] == pytest.approx(-4 * h**4)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3)])
def test_numerical_gradient_of_odd_shapes(shape):
    found = numerical_gradient(lambda a: float(np.sum(3 * a)), np.ones(shape))
    assert found.shape == shape
    np.testing.assert_allclose(found, np.full(shape, 3.0), rtol=1e-12)  # roundings of 18 over 12 h, far below 1e-12


def test_numerical_gradient_leaves_its_argument_alone():
    x = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    found = numerical_gradient(lambda a: float(np.sum(a * a)), x)
    np.testing.assert_array_equal(x, np.arange(6.0).reshape(2, 3))
    np.testing.assert_allclose(found, 2 * x, rtol=1e-10, atol=1e-11)


def test_numerical_gradient_scales_its_step_with_x():
    x = np.array([1e8])
    assert numerical_gradient(lambda a: float(a[0] ** 2), x)[0] == pytest.approx(2e8, rel=1e-9)


# --- gradients that are wrong on purpose


def wrong_linear(scale=1.0, bias_axis=0):
    def backward(dout, cache):
        x, weight, _ = cache
        return dout @ weight.T * scale, x.T @ dout, dout.sum(axis=bias_axis)

    return layers.linear_forward, backward


def wrong_layernorm(drop):
    def backward(dout, cache):
        xhat, rstd, weight, _ = cache
        dxhat = dout * weight
        terms = {
            "through_mean": dxhat.mean(axis=-1, keepdims=True),
            "through_rstd": xhat * (dxhat * xhat).mean(axis=-1, keepdims=True),
        }
        terms.pop(drop, None)
        dweight = (dout * xhat).sum(axis=0)
        dx = rstd * (dxhat - sum(terms.values())) / (1 if drop != "weight" else weight)
        return dx, dweight, dout.sum(axis=0)

    return layers.layernorm_forward, backward


def wrong_attention(dout, cache):
    """Give dk as q.T @ dscores, reshaped: the right shape and the right numbers, in the wrong places."""
    q, k, v, att, softmax_cache, dropout_cache = cache
    B, H, T, D = q.shape
    dheads = dout.reshape(B, T, H, D).transpose(0, 2, 1, 3)
    dprobs = dropout_backward(dheads @ v.swapaxes(-1, -2), dropout_cache)
    dscores = causal_softmax_backward(dprobs, softmax_cache) / math.sqrt(D)
    dk = (q.swapaxes(-1, -2) @ dscores).reshape(B, H, T, D)
    dqkv = np.stack((dscores @ k, dk, att.swapaxes(-1, -2) @ dheads))
    return dqkv.transpose(1, 3, 0, 2, 4).reshape(B, T, 3 * H * D)


def wrong_embedding(dout, cache):
    ids, shape = cache
    dweight = np.zeros(shape)
    dweight[ids] += dout  # keeps the last of repeated ids only
    return dweight


def random_args(*shapes):
    rng = np.random.default_rng(3)
    return tuple(rng.standard_normal(shape) for shape in shapes)


WRONG = {
    "linear dx times 1.001": (*wrong_linear(scale=1.001), random_args((4, 3), (3, 4), (4,)), "x"),
    "linear dx times 1.000001": (*wrong_linear(scale=1.000001), random_args((4, 3), (3, 4), (4,)), "x"),
    # square, so that the wrong sum has the right shape
    "bias summed over the wrong axis": (*wrong_linear(bias_axis=1), random_args((4, 3), (3, 4), (4,)), "bias"),
    "layernorm without through_mean": (*wrong_layernorm("through_mean"), random_args((3, 5), (5,), (5,)), "x"),
    "layernorm without through_rstd": (*wrong_layernorm("through_rstd"), random_args((3, 5), (5,), (5,)), "x"),
    "transposed dK": (
        lambda qkv: layers.attention_forward(qkv, 2),
        wrong_attention,
        random_args((2, 5, 18)),
        "qkv",
    ),
    "repeated ids dropped": (
        layers.embedding_forward,
        wrong_embedding,
        (np.array([[1, 0, 1]]), np.ones((4, 2))),
        "weight",
    ),
    "sign": (lambda x: (np.sin(x), x), lambda dout, x: -dout * np.cos(x), random_args((3,)), "x"),
    "one element of 400": (
        lambda x: (x * x, x),
        lambda dout, x: 2 * dout * x * np.where(np.arange(400) == 217, 0, 1),
        random_args((400,)),
        "x",
    ),
    "zero": (lambda x: (x * x, x), lambda dout, x: 0 * x, random_args((3,)), "x"),
    "not zero where zero is right": (lambda x: (x - x, x), lambda dout, x: dout, random_args((3,)), "x"),
    "NaN": (lambda x: (x * x, x), lambda dout, x: x * np.nan, random_args((3,)), "x"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_gradient_fails(name):
    forward, backward, args, argument = WRONG[name]
    report = check_backward(forward, backward, *args)
    assert report.verdict == "fail"
    assert not report
    assert [a.name for a in report.arguments if a.verdict == "fail"] == [argument]


def test_the_worst_element_is_named_with_both_values():
    forward, backward, args, _ = WRONG["one element of 400"]
    (found,) = check_backward(forward, backward, *args).arguments
    assert found.index == (217,)
    assert found.analytic == 0
    seen = []
    check_backward(forward, lambda dout, x: seen.append(dout) or 2 * dout * x, *args)
    assert found.numeric == pytest.approx(2 * seen[0][217] * args[0][217], rel=1e-9)


def test_a_nan_is_the_worst_element():
    report = check_backward(
        lambda x: (x * x, x), lambda dout, x: np.where(np.arange(5) == 3, np.nan, 99.0), *random_args((5,))
    )
    assert report.arguments[0].index == (3,)


# --- what right gradients look like


def test_right_gradient_passes_and_says_how_well():
    report = check_backward(layers.layernorm_forward, layers.layernorm_backward, *random_args((3, 5), (5,), (5,)))
    assert report
    assert report.verdict == "pass"
    assert [a.name for a in report.arguments] == ["x", "weight", "bias"]
    assert report.relative_error < 1e-10


def test_exact_zero_passes():
    assert check_backward(lambda x: (x * 0 + 3, x), lambda dout, x: np.zeros_like(x), *random_args((4,)))


def test_a_tiny_gradient_is_still_checked():
    # 1e-9 is small beside any absolute tolerance, and large beside the rounding of a function of its own size
    for factor, verdict in ((1.0, "pass"), (1.001, "fail")):
        report = check_backward(
            lambda x: (1e-9 * np.sin(x), x),
            lambda dout, x, factor=factor: 1e-9 * factor * dout * np.cos(x),
            *random_args((4,)),
        )
        assert report.verdict == verdict


def test_a_sharp_bend_is_no_failure():
    # at the first step a difference of this is off by 1e-5; a finer one tells
    x = np.array([0.01, -0.02, 0.005])
    assert check_backward(lambda x: (np.tanh(100 * x), x), lambda dout, x: dout * 100 / np.cosh(100 * x) ** 2, x)


def test_out_may_be_a_number_and_an_argument_zero_dimensional():
    report = check_backward(lambda x: (float(x) ** 2, x), lambda dout, x: 2 * dout * x, np.array(1.5))
    assert report
    assert report.arguments[0].index == ()


def test_empty_argument_passes():
    assert check_backward(lambda x: (x * 2, x), lambda dout, x: 2 * dout, np.zeros((0, 3)))


def test_float32_arguments_are_checked_in_float64():
    seen = []

    def forward(x):
        seen.append(x.dtype)
        return x * x, x

    assert check_backward(forward, lambda dout, x: 2 * dout * x, np.ones(3, np.float32))
    assert set(seen) == {np.dtype(np.float64), np.dtype(np.complex128)}


def test_float32_code_has_its_own_tolerance():
    forward, backward = layers.layernorm_forward, layers.layernorm_backward
    args = random_args((3, 5), (5,), (5,))
    assert check_backward(forward, backward, *args, dtype=np.float32)
    wrong = wrong_layernorm("through_mean")
    assert not check_backward(*wrong, *args, dtype=np.float32)
    forward, backward = wrong_linear(scale=1.001)
    assert not check_backward(forward, backward, *random_args((4, 3), (3, 4), (4,)), dtype=np.float32)


def test_ids_numbers_and_none_are_left_alone():
    def forward(ids, weight, scale, nothing):
        assert ids.dtype.kind == "i"
        assert nothing is None
        return weight[ids] * scale, (ids, weight.shape, scale)

    def backward(dout, cache):
        ids, shape, scale = cache
        dweight = np.zeros(shape)
        np.add.at(dweight, ids, dout * scale)
        return dweight

    assert check_backward(forward, backward, np.array([0, 2, 0]), np.ones((3, 2)), 2, None)


def test_wrt_chooses_by_name_and_position():
    forward, backward = wrong_linear(scale=2.0)
    args = random_args((4, 3), (3, 4), (4,))
    assert check_backward(forward, backward, *args, wrt=["weight", "bias"])
    assert check_backward(forward, backward, *args, wrt=(1,))
    assert not check_backward(forward, backward, *args, wrt="x")
    with pytest.raises(ValueError, match="wrt='y'"):
        check_backward(forward, backward, *args, wrt=["y"])
    with pytest.raises(ValueError, match="wrt is empty"):
        check_backward(forward, backward, *args, wrt=[])


def test_one_gradient_for_each_checked_argument_is_enough():
    args = random_args((4, 3), (3, 4), (4,))
    forward, backward = layers.linear_forward, layers.linear_backward
    assert check_backward(forward, lambda d, c: backward(d, c)[1:], *args, wrt=["weight", "bias"])


# --- what cannot be judged, and what is no backward at all


def test_unseeded_dropout_is_inconclusive():
    rng = np.random.default_rng(0)
    report = check_backward(lambda x: layers.dropout_forward(x, 0.5, rng), layers.dropout_backward, *random_args((50,)))
    assert report.verdict == "inconclusive"
    assert "seed" in str(report)


def test_overflow_is_inconclusive():
    with np.errstate(over="ignore", invalid="ignore"):
        report = check_backward(lambda x: (np.exp(x), np.exp(x)), lambda dout, e: dout * e, np.array([1.0, 800.0]))
    assert report.verdict == "inconclusive"
    assert "overflow" in str(report)


def test_none_in_place_of_a_gradient_fails():
    report = check_backward(lambda x: (x * x, x), lambda dout, x: None, *random_args((3,)))
    assert report.verdict == "fail"
    assert "None" in str(report)


def test_a_gradient_of_another_shape_fails():
    report = check_backward(
        layers.linear_forward, lambda d, c: (*layers.linear_backward(d, c)[:2], d), *random_args((4, 3), (3, 2), (2,))
    )
    assert [a.verdict for a in report.arguments] == ["pass", "pass", "fail"]
    assert "(4, 2) is not the argument's (2,)" in str(report)


def test_too_few_gradients():
    with pytest.raises(ValueError, match="returned 2 gradients; expected 3"):
        check_backward(layers.linear_forward, lambda d, c: (d, d), *random_args((4, 3), (3, 2), (2,)))


def test_nothing_to_differentiate():
    with pytest.raises(ValueError, match="no argument is an array of floats"):
        check_backward(lambda n: (n, n), lambda dout, n: dout, 3)


def test_a_forward_that_writes_into_its_input_does_not_mislead():
    def forward(x):
        x *= 2
        return x * x, x.copy()

    # f(x) = (2x)^2; the numbers are right, but the caller's x is gone
    report = check_backward(forward, lambda dout, x: 4 * dout * x, *random_args((3,)))
    assert [a.verdict for a in report.arguments] == ["pass"]
    assert report.verdict == "fail"
    assert report.contract == ("forward writes into its arguments",)


# --- the report


def test_report_as_text():
    forward, backward, args, _ = WRONG["bias summed over the wrong axis"]
    lines = str(check_backward(forward, backward, *args)).splitlines()
    assert lines[0].split() == [
        *["argument", "shape", "verdict", "rel.", "error", "bar", "worst", "at", "analytic", "numeric", "ratio"]
    ]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["x", "4x3", "pass"],
        ["weight", "3x4", "pass"],
        ["bias", "4", "fail"],
    ]
    assert lines[4] == "bias: hint: it is dout, summed over axis 1"
    assert lines[5].startswith("bias: fail: 4 of 4 elements are wrong")
    assert lines[-1].startswith("fail")


def test_report_as_json():
    found = json.loads(check_backward(lambda x: (x * x, x), lambda d, x: x * np.nan, *random_args((2,))).to_json())
    assert found["verdict"] == "fail"
    (argument,) = found["arguments"]
    assert argument["name"] == "x"
    assert argument["shape"] == [2]
    assert argument["analytic"] is None  # NaN, for which JSON has no word


def test_the_same_generator_gives_the_same_report():
    forward, backward, args, _ = WRONG["transposed dK"]
    one, two, three = (
        str(check_backward(forward, backward, *args, rng=np.random.default_rng(seed))) for seed in (4, 4, 5)
    )
    assert one == two != three
