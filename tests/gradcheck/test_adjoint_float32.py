"""Two checks that need no differences: of an adjoint by inner products, and of float32 code against float64."""

import numpy as np
import pytest

from npgpt import layers
from npgpt.gradcheck import check_adjoint, check_float32

RNG = np.random.default_rng(21)
X = RNG.standard_normal((5, 3))


# --- the adjoint test


def test_the_adjoint_of_a_matrix():
    a = RNG.standard_normal((4, 7))
    x = np.zeros(7)
    assert check_adjoint(lambda v: a @ v, lambda w: a.T @ w, x) < 1e-15  # ten roundings of 1e-16
    assert check_adjoint(lambda v: a @ v, lambda w: 1.001 * a.T @ w, x) > 1e-6
    square = RNG.standard_normal((5, 5))
    assert check_adjoint(lambda v: square @ v, lambda w: square @ w, np.zeros(5)) > 1e-3


def test_the_adjoint_of_a_cumulative_sum_and_of_a_lookup():
    x = np.zeros((3, 6))
    right = lambda w: np.cumsum(w[:, ::-1], axis=1)[:, ::-1]  # noqa: E731, one expression a line to be read side by side
    assert check_adjoint(lambda v: np.cumsum(v, axis=1), right, x) < 1e-15
    assert check_adjoint(lambda v: np.cumsum(v, axis=1), lambda w: np.cumsum(w, axis=1), x) > 1e-3
    ids = np.array([0, 2, 2])

    def scatter(w):
        out = np.zeros(4)
        np.add.at(out, ids, w)
        return out

    assert check_adjoint(lambda v: v[ids], scatter, np.zeros(4)) < 1e-15
    assert check_adjoint(lambda v: v[ids], lambda w: np.array([w[0], 0, w[2], 0]), np.zeros(4)) > 1e-3


def test_the_adjoint_of_zero_and_the_generator():
    assert check_adjoint(lambda v: 0 * v, lambda w: 0 * w, np.zeros(3)) == 0
    assert check_adjoint(lambda v: 0 * v, lambda w: w, np.zeros(3)) > 0
    seeds = [check_adjoint(lambda v: v, lambda w: 2 * w, np.zeros(3), np.random.default_rng(s)) for s in (1, 1, 2)]
    assert seeds[0] == seeds[1] != seeds[2]


# --- float32 against float64


def test_good_float32_code_is_within_ten_roundings():
    arguments = (RNG.standard_normal((6, 8)), RNG.standard_normal(8), RNG.standard_normal(8))
    found = check_float32(layers.layernorm_forward, layers.layernorm_backward, *arguments)
    assert list(found) == ["out", "gradients[0]", "gradients[1]", "gradients[2]"]
    # two roundings are usual; ten leave room for sums in another order
    assert 0 < max(found.values()) < 10 * 6e-8


def test_float32_code_that_loses_digits_is_seen():
    def careless(x):  # var = mean(x^2) - mean(x)^2 cancels under an offset
        mean = x.mean(axis=-1, keepdims=True)
        var = (x * x).mean(axis=-1, keepdims=True) - mean * mean
        return (x - mean) / np.sqrt(var + np.float32(1e-5)), x

    x = 300 + RNG.standard_normal((6, 8))
    # x^2 is near 1e5, whose rounding in float32 is some 1e-2 beside a variance of 1
    assert check_float32(careless, lambda d, x: d, x)["out"] > 1e-4


def test_another_pair_may_be_the_truth():
    def slip(dout, x):
        return 1.01 * dout * np.cos(x)

    pair = (lambda x: (np.sin(x), x), lambda dout, x: dout * np.cos(x))
    assert check_float32(pair[0], slip, X, reference=pair)["gradients"] == pytest.approx(0.01, rel=1e-3)
    assert check_float32(*pair, X)["gradients"] < 1e-6
    assert check_float32(pair[0], slip, X)["gradients"] < 1e-6  # against itself nothing is wrong
    assert check_float32(*pair, X, seed=1) != check_float32(*pair, X, seed=2)
