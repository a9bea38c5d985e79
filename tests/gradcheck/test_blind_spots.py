"""The blind spots that were handed in, case by case, each with the gradients that must fail and those that must not.

The suite in bugs/ and nasty/ holds the same kinds in other forms.
"""

import numpy as np
import pytest

from npgpt.gradcheck import check_backward

X = np.random.default_rng(3).standard_normal((4, 5))
rng = np.random.default_rng(4)


def verdict(forward, backward, *args):
    with np.errstate(all="ignore"):
        return check_backward(forward, backward, *args).verdict


def real_only(forward):
    """Return a forward that refuses complex numbers, so that differences must do."""

    def refuse(*args):
        assert all(np.asarray(arg).dtype.kind == "f" for arg in args)
        return forward(*args)

    return refuse


# --- arguments that are constant

CONSTANTS = {
    "0.3": np.full(5, 0.3),
    "0.1": np.full(5, 0.1),
    "1e-4": np.full(5, 1e-4),
    "1e-6": np.full(5, 1e-6),
    "one but for rounding": 1 + 1e-12 * rng.standard_normal(5),
    "one but for noise": 1 + 1e-7 * rng.standard_normal(5),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_gradient_of_a_constant_is_held_to_its_bar(name):
    g = CONSTANTS[name]
    for factor, wanted in ((1, "pass"), (2, "fail"), (1.001, "fail"), (0, "fail")):
        found = verdict(
            lambda x, g: (x * g, (x, g)), lambda d, c, k=factor: (d * c[1], k * (d * c[0]).sum(axis=0)), X, g
        )
        assert found == wanted


# --- outputs that no argument moves

MASK = np.tril(np.ones((4, 4), dtype=bool))
SCORES = rng.standard_normal((4, 4))


@pytest.mark.parametrize("real", [False, True], ids=["complex", "real"])
@pytest.mark.parametrize("filler", [-1e9, -1e20, 1e300, -np.inf, np.inf])
def test_outputs_that_do_not_move_set_no_scale(filler, real):
    forward = lambda s: (np.where(MASK, s, filler), None)  # noqa: E731
    forward = real_only(forward) if real else forward
    assert verdict(forward, lambda d, _: np.where(MASK, d, 0), SCORES) == "pass"
    assert verdict(forward, lambda d, _: 1.0 * d, SCORES) == "fail"
    assert verdict(forward, lambda d, _: 2 * np.where(MASK, d, 0), SCORES) == "fail"


def test_an_additive_mask_is_no_constant():
    assert verdict(lambda s: (s + np.where(MASK, 0, -1e9), None), lambda d, _: 1.0 * d, SCORES) == "pass"


@pytest.mark.parametrize("x", [[40.0, 41.0, 39.5], [40.0], list(np.linspace(-40, 40, 7)), [36.0, 37.0, 700.0]], ids=str)
def test_a_saturated_sigmoid_has_a_slope(x):
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    exact = lambda d, x: d * np.exp(-x) / (1 + np.exp(-x)) ** 2  # noqa: E731
    rounded = lambda d, x: d * sigmoid(x) * (1 - sigmoid(x))  # noqa: E731
    assert verdict(lambda x: (sigmoid(x), x), exact, np.array(x)) == "pass"
    assert verdict(lambda x: (sigmoid(x), x), rounded, np.array(x)) == "pass"


def test_a_slope_that_backward_rounds_to_zero_is_no_slip():
    """PyTorch's formula for a loss by logits gives exactly 0 where the slope is 1e-22."""
    y = np.array([1.0, 0.0])
    loss = lambda z: (np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z))), z)  # noqa: E731
    right = lambda d, z: d * (1 / (1 + np.exp(-z)) - y)  # noqa: E731
    assert verdict(loss, right, np.array([50.0, 0.3])) == "pass"
    assert verdict(loss, lambda d, z: right(d, z) * (z > 1), np.array([50.0, 0.3])) == "fail"
    assert verdict(loss, right, np.array([20.0, 0.3])) == "pass"
    assert verdict(loss, lambda d, z: right(d, z) * (z < 1), np.array([20.0, 0.3])) == "fail"
    weights = np.array([1.0, 1e-20])  # no saturation: the element has another size
    assert verdict(lambda x: (weights * x, None), lambda d, _: d * np.array([1.0, 0.0]), np.ones(2)) == "fail"


def test_outputs_that_overflow_are_not_taken_for_a_mask():
    assert verdict(lambda x: (np.exp(x), x), lambda d, x: d * np.exp(x), np.array([1000.0, 1001.0])) == "inconclusive"
    assert verdict(lambda x: (np.exp(x), x), lambda d, x: d * np.exp(x), np.array([1.0, 800.0])) == "inconclusive"


# --- steps that see nothing

CENTRES = rng.standard_normal(6)
NEAR = CENTRES + np.array([0.015, 0.015, 0.015, 1.0, 1.0, 1.0])
FAR = 1e8 * rng.standard_normal(6)
SHARP = {
    "bells a hundredth wide": (
        lambda x: (np.exp(-(((x - CENTRES) / 0.01) ** 2)), x),
        lambda d, x: d * np.exp(-(((x - CENTRES) / 0.01) ** 2)) * -2 * (x - CENTRES) / 1e-4,
        NEAR,
    ),
    "sin of 1e8": (lambda x: (np.sin(x), x), lambda d, x: d * np.cos(x), FAR),
}


@pytest.mark.parametrize("real", [False, True], ids=["complex", "real"])
@pytest.mark.parametrize("name", SHARP)
def test_coarse_steps_that_see_nothing_decide_nothing(name, real):
    forward, backward, x = SHARP[name]
    forward = real_only(forward) if real else forward
    assert verdict(forward, backward, x) == "pass"
    assert verdict(forward, lambda d, x: 0 * x, x) == "fail"
    assert verdict(forward, lambda d, x: 1.001 * backward(d, x), x) == "fail"


# --- mixed sizes in one array

MIXED = np.array([1e7, -2e7, 1e-7, 3e-7, -2e-7])


def slip(factor):
    return lambda d, x: np.where(abs(x) < 1, factor, 1) * 2 * x * d


@pytest.mark.parametrize("real", [False, True], ids=["complex", "real"])
def test_small_elements_beside_large_ones_are_held_to_their_own_size(real):
    forward = real_only(lambda x: (x * x, x)) if real else lambda x: (x * x, x)
    assert verdict(forward, slip(1), MIXED) == "pass"
    assert {verdict(forward, slip(k), MIXED) for k in (0, 2, 1.1, 1.001)} == {"fail"}


def test_small_elements_that_rounding_hides_are_named_and_never_passed():
    total = lambda x: (np.sum(x * x), x)  # noqa: E731
    assert verdict(total, slip(1), MIXED) == "pass"  # a complex step sees them
    assert {verdict(total, slip(k), MIXED) for k in (0, 2)} == {"fail"}
    assert {verdict(total, slip(k), MIXED) for k in (1.1, 1.001)} == {"inconclusive"}
    assert {verdict(real_only(total), slip(k), MIXED) for k in (1, 2, 1.1)} == {"inconclusive"}
    report = check_backward(real_only(total), slip(2), MIXED)
    assert "3 of 5 elements cannot be told from rounding: (2,), (3,), (4,)" in str(report)


def test_large_arrays_try_directions_through_the_small_elements_alone():
    x = np.concatenate((1e7 * rng.standard_normal(1500), 1e-7 * rng.standard_normal(1500)))

    def one_in_ten(d, x):
        return np.where(np.arange(x.size) % 10 == 7, np.where(abs(x) < 1, 1.5, 1), 1) * 2 * x * d

    assert verdict(lambda x: (x * x, x), slip(1), x) == "pass"
    assert verdict(lambda x: (x * x, x), one_in_ten, x) == "fail"


# --- a small term beside a large one

W = rng.standard_normal((5, 3))


@pytest.mark.parametrize("weight", [1e-3, 1e-6, 1e-8])
def test_a_small_term_that_complex_numbers_lose_is_found(weight):
    def forward(x, w):
        return ((x @ w) ** 2).sum() + weight * abs(w).sum(), (x, w)

    def backward(d, cache, share=1.0):
        x, w = cache
        return 2 * d * (x @ w) @ w.T, d * (2 * x.T @ (x @ w) + share * weight * np.sign(w))

    assert verdict(forward, backward, X, W) == "pass"
    assert verdict(forward, lambda d, c: backward(d, c, 0.0), X, W) == "fail"
    assert verdict(forward, lambda d, c: backward(d, c, 0.5), X, W) == "fail"


def test_a_term_that_only_complex_numbers_could_show_is_no_pass_if_they_lose_it():
    """Beside 1e13 no difference shows 1e-3, and abs takes it from the complex step."""
    x, w, gain = rng.standard_normal((4, 3)), rng.standard_normal(3), np.array([1e7, 0.0, 1e7])

    def forward(x, w):
        return np.sum((x @ (gain * w)) ** 2) + 1e-3 * np.sum(np.abs(w)), (x, w)

    def backward(d, cache, sign=1.0):
        x, w = cache
        h = 2 * d * (x @ (gain * w))
        return np.outer(h, gain * w), gain * (x.T @ h) + sign * 1e-3 * d * np.sign(w)

    assert verdict(forward, backward, x, w) == "inconclusive"
    assert verdict(forward, lambda d, c: backward(d, c, -1.0), x, w) == "inconclusive"


# --- branch points, and forwards that are not exact

ROOTS = np.array([0.0, 1.0, -1.0, 2.0, 0.0, 0.5])


def test_a_branch_point_is_no_place_for_a_complex_step():
    forward = lambda x: (np.maximum(x, 0) ** 1.5, x)  # noqa: E731
    right = lambda d, x: d * 1.5 * np.sqrt(np.maximum(x, 0))  # noqa: E731
    assert verdict(forward, right, ROOTS) == "pass"
    assert verdict(forward, lambda d, x: right(d, x) + 0.1 * d * (x == 0), ROOTS) == "fail"
    assert verdict(forward, lambda d, x: 1.01 * right(d, x), ROOTS) == "fail"


MIX = 0.2 * rng.standard_normal((4, 4))
BIAS = rng.standard_normal(4)


def fixed_point(tolerance):
    def forward(b):
        h = np.zeros(4)
        for _ in range(1000):
            new = np.tanh(MIX @ h + b)
            near = np.max(np.abs(new - h)) < tolerance
            h = new
            if near:
                break
        return h, h

    return forward


def implicit(d, h):
    slope = 1 - h * h
    return slope * np.linalg.solve(np.eye(4) - MIX.T * slope, d)


@pytest.mark.parametrize("real", [False, True], ids=["complex", "real"])
@pytest.mark.parametrize("tolerance", [1e-11, 1e-9, 1e-7])
def test_an_iteration_is_as_exact_as_its_tolerance(tolerance, real):
    forward = real_only(fixed_point(tolerance)) if real else fixed_point(tolerance)
    assert verdict(forward, implicit, BIAS) == "pass"
    assert verdict(forward, lambda d, h: 1.0001 * implicit(d, h), BIAS) == "fail"


def test_a_wiggle_is_no_inexactness():
    """A smooth small term looks like jumps from afar, and is part of the function all the same."""
    forward = lambda x: (np.sin(x) + 1e-8 * np.sin(1e8 * x), x)  # noqa: E731
    x = rng.standard_normal(5)
    assert verdict(forward, lambda d, x: d * (np.cos(x) + np.cos(1e8 * x)), x) == "pass"
    assert verdict(forward, lambda d, x: d * np.cos(x), x) == "fail"


# --- kinks that are few

SPARSE = rng.standard_normal(3000)
SPARSE[::100] = 0


def test_the_hunt_for_kinks_does_not_fill_its_own_denominator():
    relu = lambda x: (np.maximum(x, 0), x)  # noqa: E731
    assert verdict(relu, lambda d, x: d * (x > 0), SPARSE) == "pass"
    wrong = np.ones(3000)
    wrong[np.flatnonzero(SPARSE > 0)[1200]] = 1.01
    assert verdict(relu, lambda d, x: wrong * d * (x > 0), SPARSE) == "fail"
    assert verdict(relu, lambda d, x: d * (x > 0) + 3 * d * (x == 0), SPARSE) == "fail"


def test_a_sum_of_which_one_term_is_at_a_kink_is_known_but_for_that_term():
    x = rng.standard_normal((40, 6))
    x[3] = np.array([0.5, 0.25, 0.1, 0.3, 0.2, 0.4])
    threshold = x[3].copy()  # each is met once in forty rows
    forward = lambda x, t: (np.maximum(x - t, 0), (x, t))  # noqa: E731
    backward = lambda d, c: (d * (c[0] > c[1]), -(d * (c[0] > c[1])).sum(axis=0))  # noqa: E731
    assert verdict(forward, backward, x, threshold) == "pass"
    assert verdict(forward, lambda d, c: (backward(d, c)[0], 1.01 * backward(d, c)[1]), x, threshold) == "fail"
