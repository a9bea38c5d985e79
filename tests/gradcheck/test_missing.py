"""An array may be left without a gradient if forward updates it or the output does not move with it, else never."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest

from npgpt import check_backward

from .test_state import GAIN, SHIFT, X, batch_norm, batch_norm_backward, parameters

W = np.random.default_rng(8).standard_normal((3, 2))


def layer(x, p):
    w, name = (p["w"], p["activation"]) if isinstance(p, dict) else (p[0], p[1])
    a = x @ w
    return np.tanh(a) if name == "tanh" else a, (x, w, np.tanh(a), name)


def both(dout, cache):
    x, w, out, name = cache
    d = dout * (1 - out * out) if name == "tanh" else dout
    return d @ w.T, x.T @ d


Pair = namedtuple("Pair", ["w", "activation"])


@dataclass
class Settings:
    w: np.ndarray
    activation: str

    def __getitem__(self, i):
        return (self.w, self.activation)[i]


HOLDERS = {
    "a dict": {"w": W, "activation": "tanh"},
    "a list": [W, "tanh"],
    "a tuple": (W, "tanh"),
    "a namedtuple": Pair(W, "tanh"),
    "a dataclass": Settings(W, "tanh"),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_a_weight_beside_a_setting_that_is_left_out_is_inconclusive_and_named(name):
    report = check_backward(layer, lambda d, c: both(d, c)[0], X, HOLDERS[name])
    assert [a.verdict for a in report.arguments] == ["pass", "inconclusive"]
    reason = "the output moves with it, but no gradient came back for it; wrt=['x'] leaves it out"
    assert report.arguments[1].reason == reason
    assert report.arguments[1].name in str(report)
    assert not report
    assert check_backward(layer, lambda d, c: both(d, c)[0], X, HOLDERS[name], wrt=["x"]).verdict == "pass"


@pytest.mark.parametrize("name", HOLDERS)
def test_none_for_a_weight_beside_a_setting_fails(name):
    report = check_backward(layer, lambda d, c: (both(d, c)[0], None), X, HOLDERS[name])
    assert [a.verdict for a in report.arguments] == ["pass", "fail"]


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_weight_beside_a_setting_is_judged_if_a_gradient_comes_back(factor):
    def backward(dout, cache):
        dx, dw = both(dout, cache)
        return dx, {"w": factor * dw}

    report = check_backward(layer, backward, X, HOLDERS["a dict"])
    assert report.verdict == ("pass" if factor == 1 else "fail")


def test_a_slip_beside_an_array_that_is_left_out_still_fails():
    report = check_backward(layer, lambda d, c: 1.01 * both(d, c)[0], X, HOLDERS["a dict"])
    assert [a.verdict for a in report.arguments] == ["fail", "inconclusive"]


def test_settings_alone_with_their_gradient_are_judged():
    def forward(p):
        return p[0] ** 2, p[0]

    assert check_backward(forward, lambda d, w: [2 * d * w, None], [W, "relu"]).verdict == "pass"
    assert check_backward(forward, lambda d, w: [d * w, None], [W, "relu"]).verdict == "fail"


@pytest.mark.parametrize(("more", "verdict"), [((), "inconclusive"), ((None,), "fail")], ids=["left out", "None"])
def test_averages_that_batch_norm_uses_in_test_mode_are_no_pass(more, verdict):
    def backward(dout, cache):
        return *batch_norm_backward(dout, cache), *more

    p = parameters("test")
    report = check_backward(batch_norm, backward, X, GAIN, SHIFT, p)
    assert [(a.name, a.verdict) for a in report.arguments] == [
        ("x", "pass"),
        ("gain", "pass"),
        ("shift", "pass"),
        ("p['mean']", verdict),
        ("p['var']", verdict),
    ]
    assert check_backward(batch_norm, backward, X, GAIN, SHIFT, p, wrt=["x", "gain", "shift"]).verdict == "pass"


def test_an_array_that_the_output_does_not_move_with_may_be_left_out():
    def forward(x, p):
        return x * p["gain"], (x, p["gain"])

    p = {"gain": GAIN, "spare": SHIFT}
    report = check_backward(forward, lambda d, c: (d * c[1], {"gain": (d * c[0]).sum(axis=0)}), X, p)
    assert report.verdict == "pass"
    assert [str(one) for one in report.not_checked] == ["p['spare'] (float64): the output does not move with it"]


def test_an_array_that_moves_the_output_where_forward_raises_is_not_passed_over():
    def forward(x, p):
        if p["probabilities"].sum() != 1.0:
            raise ValueError("they do not add up to 1")
        return x * p["probabilities"], (x, p["probabilities"])

    p = {"probabilities": np.array([0.25, 0.5, 0.25]), "mode": "train"}
    report = check_backward(forward, lambda d, c: d * c[1], X, p)
    assert [a.verdict for a in report.arguments] == ["pass", "inconclusive"]


def test_many_numbers_cost_few_calls_of_forward():
    calls = []

    def forward(x, numbers):
        calls.append(numbers)
        return x * sum(numbers), sum(numbers)

    few = check_backward(forward, lambda d, total: (d * total, None), X, [0.5, 0.25])
    once, calls[:] = len(calls), []
    many = check_backward(forward, lambda d, total: (d * total, None), X, [0.5] * 500)
    assert few.verdict == many.verdict == "pass"
    assert len(calls) <= once + 100


# --- strict=True


@pytest.mark.parametrize(("mode", "missed"), [("train", ["p['eps']"]), ("flat", [])])
def test_strict_counts_the_numbers_that_move_the_output_and_no_statistics(mode, missed):
    def forward(x, p):
        centred = x - x.mean(axis=0)
        p["mean"] = p["momentum"] * p["mean"] + (1 - p["momentum"]) * x.mean(axis=0)
        eps = p["eps"] if p["mode"] == "train" else 1e-5
        inverse = 1 / np.sqrt((centred * centred).mean(axis=0) + eps)
        return centred * inverse, (centred * inverse, inverse)

    def backward(dout, cache):
        normal, inverse = cache
        return (dout - dout.mean(axis=0) - normal * (dout * normal).mean(axis=0)) * inverse

    p = {"mode": mode, "mean": np.zeros(3), "momentum": 0.9, "eps": 1e-5}
    report = check_backward(forward, backward, X, p, strict=True)
    assert report.missed() == missed
    assert report.verdict == ("inconclusive" if missed else "pass")
    assert "p['mean'] (float64): forward updates it" in report.unseen()
    assert "p['momentum'] (float): the output does not move with it" in report.unseen()


def test_strict_does_not_count_statistics_that_wrt_leaves_out():
    def forward(x, mean):
        mean *= 0.9
        mean += 0.1 * x.mean(axis=0)
        return x * x, x

    report = check_backward(forward, lambda d, x: 2 * d * x, X, np.zeros(3), wrt=["x"], strict=True)
    assert report.verdict == "pass"
    unused = check_backward(lambda x, w: (x * x, x), lambda d, x: 2 * d * x, X, W, wrt=["x"], strict=True)
    assert unused.missed() == ["w"]
