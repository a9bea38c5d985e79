"""The numerical derivatives: each error bar must hold, and none may be so wide that it holds anything."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.gradcheck import numerical_gradient
from npgpt.gradcheck.numeric import EPS, complex_step, fourth_differences, noise_level, one_sided, richardson


def line_of(f):
    return lambda t: np.atleast_1d(np.asarray(f(t)))


def estimate(f, scale=1.0):
    line = line_of(f)
    with np.errstate(all="ignore"):
        return richardson(line, scale, noise_level(line))


def last_places(true):
    """The rounding of the true value itself, and of the sum of the line's parts: it is in nobody's error bar."""
    return 8 * EPS * abs(true)


# name: (function of t, derivative at 0, scale, widest relative bar that is still of use)
SMOOTH = {
    "constant": (lambda t: 3.0 + 0 * t, 0.0, 1.0, None),
    "straight": (lambda t: 0.1 * t + 0.2 * t, 0.1 + 0.2, 1.0, 1e-14),
    "cube": (lambda t: (1 + t) ** 3, 3.0, 1.0, 1e-8),
    "ninth power at 0": (lambda t: t**9, 0.0, 1.0, None),
    "exp": (lambda t: np.exp(1 + t), math.e, 1.0, 1e-8),
    "exp(30)": (lambda t: np.exp(30 + t), math.exp(30), 1.0, 1e-8),
    "log at 1e-6": (lambda t: np.log(1e-6 + t), 1e6, 1.0, 1e-8),
    "log at 1e-3": (lambda t: np.log(1e-3 + t), 1e3, 1.0, 1e-8),
    "root at 1e-8": (lambda t: np.sqrt(1e-8 + t), 5e3, 1.0, 1e-8),
    "1 / x at 0.01": (lambda t: 1 / (0.01 + t), -1e4, 1.0, 1e-8),
    "tanh(1e3 x) at 0": (lambda t: np.tanh(1e3 * t), 1e3, 1.0, 1e-8),
    "tanh(1e3 x) beside 0": (lambda t: np.tanh(1e3 * t + 1), 1e3 / math.cosh(1) ** 2, 1.0, 1e-8),
    "tanh saturated": (lambda t: np.tanh(5 + t), 1 / math.cosh(5) ** 2, 1.0, 1e-6),
    "1e-200 sin": (lambda t: 1e-200 * np.sin(t), 1e-200, 1.0, 1e-8),
    "1e200 sin": (lambda t: 1e200 * np.sin(t), 1e200, 1.0, 1e-8),
    "a scale that is far too large": (lambda t: np.sin(t), 1.0, 1e3, 1e-8),
    "a scale that is far too small": (lambda t: np.sin(t), 1.0, 1e-3, 1e-8),
} | {
    f"sin({w:g} x)": (lambda t, w=w: np.sin(w * t + 0.4), w * math.cos(0.4), 1.0, 1e-8)
    for w in (0.01, 0.1, 1.0, 3.0, 10.0, 32 * math.pi, 100.0, 333.3, 1e3)
}
# The rounding is the function's own and not float64's; the last column is some 1e3 times its share of the derivative.
NOISY = {
    "offset 1e8": (lambda t: 1e8 + np.sin(t), 1.0, 1e-4),
    "offset 1e12": (lambda t: 1e12 + np.sin(t), 1.0, 1.0),
    "eight digits": (lambda t: float(f"{np.sin(0.7 + t):.8g}"), math.cos(0.7), 1e-5),
    "eight digits, fast": (lambda t: float(f"{np.sin(20 * t + 0.7):.8g}"), 20 * math.cos(0.7), 1e-4),
    "rounded to float32": (lambda t: float(np.float32(np.sin(0.7 + t))), math.cos(0.7), 1e-4),
    "in float32 throughout": (
        lambda t: float(np.sin(np.float32(0.75) + np.float32(t)) * np.float32(3)),
        3 * math.cos(0.75),
        1e-4,
    ),
    "to a thousandth": (lambda t: round(np.exp(t) * 1e3) / 1e3, 1.0, 1.0),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_error_bar_holds(name):
    f, true, scale, widest = SMOOTH[name]
    found, bar = estimate(f, scale)
    assert abs(found - true) <= bar + last_places(true)
    if widest is None:
        assert bar < 1e-9  # of functions of order one
    else:
        assert bar <= widest * abs(true)


@pytest.mark.parametrize("name", NOISY)
def test_error_bar_holds_under_noise(name):
    f, true, widest = NOISY[name]
    found, bar = estimate(f)
    assert abs(found - true) <= bar
    assert bar <= widest * abs(true)


@given(
    coefficients=st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=1, max_size=9),
    size=st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 1.0, 1e6]),
)
@example([0.0, 0.0, 0.0, 0.0, 1.0], 1e-6, 1.0)
def test_error_bar_holds_for_polynomials(coefficients, size, offset):
    # a polynomial of x / size, with the scale that goes with it; the derivative at 0 is the linear coefficient's
    terms = list(enumerate(coefficients))
    true = coefficients[1] / size if len(coefficients) > 1 else 0.0
    found, bar = estimate(lambda t: sum(c * (t / size) ** n for n, c in terms) + offset, size)
    # what is below the rounding of the other terms over the first step is lost without a trace
    lost = EPS * max(map(abs, coefficients)) / size
    assert abs(found - true) <= bar + last_places(true) + lost
    # 1e-9 is where the ladder stops; 1e4 roundings of the function are far below any slip
    assert bar <= 1e-8 * abs(true) + (1e-8 * max(map(abs, coefficients)) + 1e4 * EPS * offset) / size


@given(st.floats(-1.5, 1.5), st.floats(0.1, 300), st.integers(0, 2**32 - 1))
def test_error_bar_holds_for_sums_of_waves(phase, frequency, seed):
    rng = np.random.default_rng(seed)
    weights, speeds = rng.standard_normal(20), frequency * rng.random(20)
    true = float(np.sum(weights * speeds * np.cos(phase)))
    found, bar = estimate(lambda t: weights * np.sin(speeds * t + phase))
    assert abs(found - true) <= bar + 8 * EPS * float(np.sum(np.abs(weights * speeds)))
    assert bar <= 1e-6 * float(np.linalg.norm(weights * speeds)) + 1e-10


def test_outputs_that_do_not_move_add_no_noise():
    """Differences are taken output by output: a large one that stays beside a small one that moves does no harm."""
    found, bar = richardson(lambda t: np.array([1e15, np.sin(t)]), 1.0, 0.0)
    assert abs(found - 1) <= bar <= 1e-8


def test_a_function_that_is_not_finite_has_no_derivative():
    found, bar = estimate(lambda t: np.log(t - 1))
    assert math.isnan(found)
    assert bar == math.inf


def test_a_jump_has_no_narrow_bar():
    _, bar = estimate(lambda t: np.where(t >= 0, 1.0, 0.0))
    assert not bar < 1


# --- complex step


@pytest.mark.parametrize(
    ("f", "true"),
    [
        (lambda t: np.exp(1 + t), math.e),
        (lambda t: (1e-8 + t) ** 0.5, 5e3),
        (lambda t: np.tanh(1e3 * t), 1e3),
        (lambda t: np.sin(1e3 * t + 0.4), 1e3 * math.cos(0.4)),
        (lambda t: 1e12 + np.sin(t), 1.0),
        (lambda t: 1e-300 * np.sin(t), 0.0),  # below what the step of 1e-25 leaves of it
    ],
)
def test_complex_step_is_exact_but_for_last_places(f, true):
    assert complex_step(line_of(f)) == pytest.approx(true, rel=4 * EPS)


def test_complex_step_adds_up_the_outputs():
    assert complex_step(lambda t: np.array([t, 2 * t, 3 * t * t])) == pytest.approx(3.0, rel=4 * EPS)


# --- noise


@pytest.mark.parametrize("size", [1e-12, 1e-8, 1e-4])
def test_noise_level_finds_a_known_noise(size):
    # nine values tell a standard error within a factor: each within ten, and the median over many within a half
    rng = np.random.default_rng(5)
    found = [noise_level(line_of(lambda t: np.sin(0.3 + t) + size * rng.standard_normal())) for _ in range(200)]
    assert 0.5 * size < np.median(found) < 1.5 * size
    assert 0.1 * size < min(found) <= max(found) < 10 * size


@pytest.mark.parametrize(("step", "digits"), [(1e-8, 8), (1e-5, 5)])
def test_noise_level_finds_rounding_to_digits(step, digits):
    # rounding to multiples of s has the standard error s / sqrt(12)
    found = noise_level(line_of(lambda t: round(math.exp(0.4 + 3 * t), digits)))
    assert 0.1 * step < found < 10 * step


@pytest.mark.parametrize("multiple", [2.0, 2.1, 3.0, 3.15, 5.0])
def test_noise_level_finds_a_grid_that_nine_equal_distances_hit(multiple):
    step = multiple * 1e-9 * 2.0**32  # so many multiples of 1e-9 over the second distance
    found = noise_level(line_of(lambda t: np.round(0.3 + step * t, 9)))
    assert 1e-10 < found < 1e-9


def test_noise_level_finds_a_grid_under_a_small_output():
    # the second output does not move over 2^-22, and lies on the grid of the first
    found = noise_level(line_of(lambda t: np.round([0.3 + 3.7 * t, 2e-8 + 1e-3 * t], 9)))
    assert 1e-10 < found[1] < 1e-9


def test_noise_level_of_exact_arithmetic_is_a_last_place():
    assert noise_level(line_of(lambda t: 5.0 + 0 * t)) == 5 * EPS
    assert noise_level(line_of(lambda t: 2 * t)) < 1e-20


def test_noise_level_does_not_take_a_bend_for_noise():
    # over nine steps of 2^-36 even this is straight to 1e-24
    assert noise_level(line_of(lambda t: np.cos(100 * t))) < 10 * EPS


def test_fourth_differences_are_blind_to_cubics_and_calibrated():
    k = np.arange(9.0)
    assert fourth_differences(list(k**3 - 2 * k)) == 0
    rng = np.random.default_rng(0)
    found = fourth_differences(list(3 * rng.standard_normal((9, 4000))))
    # a root mean square over 4000 independent series has a standard error of some 1%: five of them
    assert np.sqrt(np.mean(found**2)) == pytest.approx(3, rel=0.05)


# --- kinks


def sides(f, scale=1.0):
    line = line_of(f)
    return one_sided(line, scale, noise_level(line))


@pytest.mark.parametrize(
    ("f", "low", "high"),
    [
        (lambda t: np.abs(t), -1.0, 1.0),
        (lambda t: -np.abs(t), -1.0, 1.0),  # the same range: a maximum has no subgradient, but code claims 0 there
        (lambda t: np.maximum(t, 0), 0.0, 1.0),
        (lambda t: np.maximum(0.01 * t, t), 0.01, 1.0),
        (lambda t: np.abs(t) + np.exp(t), 0.0, 2.0),
        (lambda t: np.clip(1 + t, -1, 1), 0.0, 1.0),
        (lambda t: np.array([np.abs(t), -np.abs(t)]), -2.0, 2.0),  # output by output, they do not cancel
    ],
)
def test_slopes_of_the_two_sides(f, low, high):
    found_low, found_high, error = sides(f)
    assert abs(found_low - low) <= error + 1e-15
    assert abs(found_high - high) <= error + 1e-15
    assert error < 1e-5  # 12 steps of a second-order formula, against the rounding of order one


@pytest.mark.parametrize("f", [np.sin, np.exp, lambda t: np.tanh(30 * t), lambda t: t * np.abs(t)])
def test_no_kink_has_equal_slopes(f):
    low, high, error = sides(f)
    assert high - low <= error
    assert error < 1e-4


@pytest.mark.parametrize("distance", [1e-5, 1e-7])
def test_beside_a_kink_the_slopes_are_those_of_this_side(distance):
    low, high, error = sides(lambda t: np.maximum(t + distance, 0))
    assert abs(low - 1) <= error
    assert abs(high - 1) <= error
    assert error < 1e-3


def test_richardson_beside_a_kink_takes_steps_below_its_distance():
    for distance in (1e-2, 1e-5, 1e-8):
        found, bar = estimate(lambda t, d=distance: np.maximum(t + d, 0) * 2)
        assert abs(found - 2) <= bar < 1e-5


# --- the plain numerical gradient


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 2), (0, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numerical_gradient(shape, order):
    x = np.array(np.random.default_rng(1).standard_normal(shape), order=order)
    before = x.copy()
    found = numerical_gradient(lambda a: float(np.sum(np.exp(a) * a)), x)
    assert found.shape == x.shape
    assert found.dtype == np.float64
    np.testing.assert_array_equal(x, before)
    # h = 2^-10: the error of fourth order is some h^4 / 30 times the fifth derivative, 3e-14 times 20
    np.testing.assert_allclose(found, np.exp(x) * (1 + x), rtol=1e-10)


def test_numerical_gradient_takes_numbers_and_calls_four_times_an_element():
    calls = []

    def f(a):
        calls.append(a.shape)
        return float(a**2)

    assert numerical_gradient(f, 3).item() == pytest.approx(6, rel=1e-12)
    assert calls == [()] * 4


def test_numerical_gradient_uses_the_given_step():
    seen = []
    numerical_gradient(lambda a: seen.append(a[0]) or 0.0, np.array([4.0]), 0.25)
    assert seen == [2.0, 3.0, 5.0, 6.0]  # step * max(1, |x|), twice and once


def test_numerical_gradient_beyond_the_edge_of_a_function_is_not_finite():
    with np.errstate(invalid="ignore"):
        found = numerical_gradient(lambda a: float(np.sum(np.log(a))), np.array([1.0, 1e-5]))
    assert found[0] == pytest.approx(1, rel=1e-9)
    assert not np.isfinite(found[1])


# --- steps that are too coarse


COARSE = {
    # name: (outputs along a line, derivative at 0, scale)
    "a bump a thousandth wide, flat at both ends of a coarse step": (
        lambda t: np.exp(-(((0.0015 + t) / 0.001) ** 2)),
        -3000 * math.exp(-2.25),
        1.0,
    ),
    "the same a millionth wide": (lambda t: np.exp(-(((1.5e-6 + t) / 1e-6) ** 2)), -3e6 * math.exp(-2.25), 1.0),
    "the same beside an output that moves evenly": (
        lambda t: np.array([0.3 * t, np.exp(-(((1.5e-6 + t) / 1e-6) ** 2))]),
        0.3 - 3e6 * math.exp(-2.25),
        1.0,
    ),
    "a wave with steps of many periods": (lambda t: np.sin(0.4 + t), math.cos(0.4), 1e8),
    "many waves": (lambda t: np.sin(np.array([1.0, 2.7, 0.3]) * t + 0.4), 4.0 * math.cos(0.4), 1e7),
    "a square far from its minimum and a small number": (lambda t: (1e-7 + t) ** 2, 2e-7, 1e7),
    "a step function over a slope": (lambda t: 0.1 * t + (t > 0.004) - (t < -0.004), 0.1, 1.0),
}


@pytest.mark.parametrize("name", COARSE)
def test_an_error_bar_is_held_against_finer_steps(name):
    f, true, scale = COARSE[name]
    line = line_of(f)
    with np.errstate(all="ignore"):
        found, bar = richardson(line, scale, noise_level(line, 1e-30))
    assert abs(found - true) <= bar + last_places(true)
    assert bar <= 1e-4 * abs(true)


@pytest.mark.parametrize(
    ("f", "x"), [(lambda x: 1.0, np.ones(2, complex)), (lambda x: x, np.ones(2)), (lambda x: None, np.ones(2))]
)
def test_the_plain_gradient_takes_real_numbers_to_one(f, x):
    with pytest.raises(TypeError, match=r"complex|must return a number"):
        numerical_gradient(f, x)
