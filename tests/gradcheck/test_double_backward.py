"""The backward of a backward and the gradient of a gradient penalty: right ones pass, and the slips in them do not."""

import numpy as np
import pytest

from npgpt.gradcheck import check_double_backward, check_gradient_penalty

RNG = np.random.default_rng(63)


# --- the backward of a backward


def dense(x, weight):
    y = np.tanh(x @ weight)
    return y, (x, weight, y)


def dense_backward(dout, cache):
    x, weight, y = cache
    dz = dout * (1 - y * y)
    return dz @ weight.T, x.T @ dz


def dense_double(dd, dout, cache, slip=""):
    (ddx, ddweight), (x, weight, y) = dd, cache
    slope = 1 - y * y
    dz = dout * slope
    # dx = dz @ weight.T and dweight = x.T @ dz
    ddz = ddx @ weight + (0 if slip == "only the input's gradient counts" else x @ ddweight)
    dweight, dx = (dz.T @ ddx).T if slip != "transposed" else ddx.T @ dz[::-1], dz @ ddweight.T
    # dz = dout * (1 - y * y)
    ddout = ddz if slip == "no slope in ddout" else ddz * slope
    dy = (2 if slip == "a sign" else -2) * y * ddz * dout
    dy2 = 0 * dy if slip == "the slope does not move" else dy if slip == "no chain through tanh" else dy * slope
    # y = tanh(x @ weight)
    dx = dx + dy2 @ weight.T
    dweight = dweight + (0 if slip == "the weight moves the slope, too" else x.T @ dy2)
    return (None if slip == "no ddout" else ddout), (None if slip == "no dx" else dx), dweight


X, V = RNG.standard_normal((5, 4)), RNG.standard_normal((4, 3))
DOUBLE_SLIPS = [
    "only the input's gradient counts",
    "transposed",
    "no slope in ddout",
    "a sign",
    "the slope does not move",
    "no chain through tanh",
    "the weight moves the slope, too",
    "no ddout",
    "no dx",
]


def test_a_right_double_backward_passes():
    report = check_double_backward(dense, dense_backward, dense_double, X, V)
    assert report, report
    ours = ["double_backward: dout", "double_backward: x", "double_backward: weight"]
    assert [row.name for row in report.arguments] == ["backward: x", "backward: weight", *ours]
    assert check_double_backward(dense, dense_backward, dense_double, X, V, dtype=np.float32)


@pytest.mark.parametrize("slip", DOUBLE_SLIPS)
def test_a_wrong_double_backward_fails(slip):
    report = check_double_backward(dense, dense_backward, lambda *given: dense_double(*given, slip), X, V)
    failed = {row.name for row in report.arguments if row.verdict == "fail"}
    assert report.verdict == "fail"
    assert failed
    assert failed <= {f"double_backward: {name}" for name in ("dout", "x", "weight")}


def test_none_is_a_gradient_of_zero():
    linear = (lambda x: (3 * x, None), lambda dout, _: 3 * dout)
    assert check_double_backward(*linear, lambda dd, dout, _: (3 * dd, None), X)
    assert check_double_backward(lambda x, ids: (x[ids], ids), scatter, lambda dd, dout, ids: (dd[ids], None), X, IDS)


IDS = np.array([0, 2, 2])


def scatter(dout, ids):
    dx = np.zeros_like(X)
    np.add.at(dx, ids, dout)
    return dx


def test_only_the_chosen_arguments_have_cotangents():
    def double(ddx, dout, cache):
        return dense_double((ddx, np.zeros_like(V)), dout, cache)[:2]

    report = check_double_backward(dense, dense_backward, double, X, V, wrt="x")
    assert report, report
    assert [row.name for row in report.arguments] == ["backward: x", "double_backward: dout", "double_backward: x"]


def test_trees_of_arguments_and_outputs():
    forward = lambda p: ({"out": p["a"] * p["b"][0]}, p)  # noqa: E731
    backward = lambda dout, p: {"a": dout["out"] * p["b"][0], "b": [dout["out"] * p["a"]]}  # noqa: E731

    def double(dd, dout, p):
        ddout = {"out": dd["a"] * p["b"][0] + dd["b"][0] * p["a"]}
        return ddout, {"a": dd["b"][0] * dout["out"], "b": [dd["a"] * dout["out"]]}

    params = {"a": X, "b": [X + 1]}
    assert check_double_backward(forward, backward, double, params)
    assert not check_double_backward(forward, backward, lambda *given: (double(*given)[0], None), params)


def test_a_wrong_backward_fails_and_no_double_backward_is_compared_with_it():
    wrong = lambda dout, cache: (dense_backward(dout, cache)[0], 0 * V)  # noqa: E731
    report = check_double_backward(dense, wrong, dense_double, X, V)
    assert report.verdict == "fail"
    assert [row.name for row in report.arguments] == ["backward: x", "backward: weight"]
    assert [item.name for item in report.not_checked] == ["double_backward"]


@pytest.mark.parametrize("result", [X, (X,), (X, X, X, X)])
def test_a_double_backward_of_another_number_of_gradients_is_an_error(result):
    with pytest.raises(ValueError, match="one gradient for dout and one per argument"):
        check_double_backward(dense, dense_backward, lambda *given: result, X, V)


# --- a gradient penalty, as in WGAN-GP: mean((|dx_i| - 1)^2)


def critic(x, params):
    w, v = params
    hidden = np.where(x @ w > 0, x @ w, 0.2 * (x @ w)) + np.tanh(x @ w)
    return hidden @ v, (x, w, v, hidden)


def slopes(x, w):
    return np.where(x @ w > 0, 1.0, 0.2) + 1 - np.tanh(x @ w) ** 2


def critic_backward(dout, cache):
    x, w, v, hidden = cache
    dz = np.outer(dout, v) * slopes(x, w)
    return dz @ w.T, (x.T @ dz, hidden.T @ dout)


def penalty(dx, dparams):
    return np.mean((np.sqrt(np.sum(dx * dx, axis=1)) - 1) ** 2)


def penalty_gradient(x, params, slip=""):
    w, v = params
    slope = slopes(x, w)
    dz = v * slope
    dx = dz @ w.T
    norm = np.sqrt(np.sum(dx * dx, axis=1, keepdims=True))
    chain = 2 * dx if slip == "no chain through the norm" else 2 * (norm - 1) * dx / norm
    ddx = chain if slip == "sum for mean" else chain / len(x)
    if slip == "the norm for its square":
        ddx = 2 * (norm - 1) * dx / len(x)
    dslope = 0 if slip == "the slopes do not move" else (ddx @ w) * v
    dbend = -2 * np.tanh(x @ w) * (1 - np.tanh(x @ w) ** 2) * dslope
    dw = (0 if slip == "only through the slopes" else ddx.T @ dz) + x.T @ dbend
    dv = np.zeros_like(v) if slip == "the last layer has none" else np.sum((ddx @ w) * slope, axis=0)
    return dbend @ w.T, (dw, dv)


CRITIC = (RNG.standard_normal((4, 6)), RNG.standard_normal(6))
PENALTY_SLIPS = [
    "no chain through the norm",
    "sum for mean",
    "the norm for its square",
    "the slopes do not move",
    "only through the slopes",
    "the last layer has none",
]


@pytest.mark.parametrize("options", [{}, {"wrt": "params"}, {"dtype": np.float32}, {"names": ["a", "b"]}])
def test_the_gradient_of_a_penalty_passes(options):
    report = check_gradient_penalty(critic, critic_backward, penalty, penalty_gradient, X, CRITIC, **options)
    assert report, report


@pytest.mark.parametrize("slip", PENALTY_SLIPS)
def test_a_wrong_gradient_of_a_penalty_fails(slip):
    wrong = lambda x, params: penalty_gradient(x, params, slip)  # noqa: E731
    report = check_gradient_penalty(critic, critic_backward, penalty, wrong, X, CRITIC)
    assert report.verdict == "fail"
    assert {row.verdict for row in report.arguments if row.name.startswith("backward")} == {"pass"}


def test_a_penalty_on_a_wrong_gradient_fails():
    """Alone it would pass: the right derivative of a penalty on the wrong numbers."""

    def double(dout, cache):
        dx, dparams = critic_backward(dout, cache)
        return 2 * dx, dparams

    report = check_gradient_penalty(critic, double, penalty, penalty_gradient, X, CRITIC)
    assert report.verdict == "fail"
    assert [item.name for item in report.not_checked] == ["penalty"]


def test_a_penalty_with_another_cotangent_and_a_single_gradient():
    forward, backward = lambda x: (x**3, x), lambda dout, x: 3 * dout * x * x
    dout = RNG.standard_normal(X.shape)
    gradient = lambda x: 36 * dout**2 * x**3  # noqa: E731
    squares = lambda dx: np.sum(dx * dx)  # noqa: E731
    assert check_gradient_penalty(forward, backward, squares, gradient, X, dout=dout)
    assert not check_gradient_penalty(forward, backward, squares, gradient, X)  # dout of ones
    assert check_gradient_penalty(forward, backward, squares, lambda x: 36 * x**3, X)
    with pytest.raises(ValueError, match="penalty must return one number"):
        check_gradient_penalty(forward, backward, lambda dx: dx, gradient, X)
