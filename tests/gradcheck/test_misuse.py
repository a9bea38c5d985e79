"""What a user may get wrong: no check passes because of it, and the message says what to do."""

import warnings

import numpy as np
import pytest

from npgpt.gradcheck import (
    check_adjoint,
    check_backward,
    check_float32,
    check_gradient,
    check_gradient_penalty,
    check_hessian,
    check_layer,
    check_vjp,
    compare,
    find_dead,
)

RNG = np.random.default_rng(31)
X, W = RNG.standard_normal((4, 3)), RNG.standard_normal((3, 2))


def forward(x, w):
    return x @ w, (x, w)


def backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout


def wrong(dout, cache):
    return backward(3 * dout, cache)


def square(x):
    return float(np.sum(np.asarray(x) ** 2))


def slope(x):
    return 2 * np.asarray(x)


# --- a dout that shows nothing


@pytest.mark.parametrize("share", [0.0, np.nan, np.inf])
def test_a_dout_that_shows_nothing_is_refused(share):
    with pytest.raises(ValueError, match="dout is zero" if share == 0 else "dout is infinite or NaN"):
        check_backward(forward, wrong, X, W, dout=np.full((4, 2), share))


def test_a_complex_dout_of_zeros_is_refused():
    z = X + 1j
    with pytest.raises(ValueError, match="dout is zero"):
        check_backward(lambda z: (z * z, z), lambda d, z: 5 * d * z, z, dout=0 * z)


def test_a_dout_that_is_zero_in_places_is_taken():
    dout = np.zeros((4, 2))
    dout[1, 1] = 1.0
    assert check_backward(forward, backward, X, W, dout=dout)
    assert check_backward(forward, wrong, X, W, dout=dout).verdict == "fail"


def test_the_dout_of_a_penalty_has_the_shape_of_out():
    def checked(dout):
        return check_gradient_penalty(
            lambda x: (x**3, x), lambda d, x: 3 * x**2 * d, square, lambda x: 36 * x**3, X, dout=dout
        )

    assert checked(np.ones((4, 3)))
    with pytest.raises(ValueError, match="dout is not in the structure and shapes of out"):
        checked(np.ones(3))


# --- arguments that hold no floats, or no numbers


def test_integers_are_named_with_what_to_do():
    with pytest.raises(ValueError, match=r"nothing to differentiate \(x is int64: make it floats\)"):
        check_backward(lambda x: (x**2, x), lambda d, x: 2 * d * x, np.arange(3, dtype=np.int64))
    with pytest.raises(ValueError, match=r"nothing to differentiate \(x is str\)"):
        check_backward(lambda x: (x, x), lambda d, x: d, "abc")
    with pytest.raises(ValueError, match=r"nothing to differentiate$"):
        check_backward(lambda: (X, X), lambda d, x: d)


def test_an_argument_that_is_not_finite_is_named():
    report = check_backward(lambda x, y: (x * y, (x, y)), lambda d, c: (d * c[1], d * c[0]), X, np.full((4, 3), np.nan))
    assert {a.reason for a in report.arguments} == {"overflow: y is infinite or NaN, and so is what forward returns"}
    assert report.verdict == "inconclusive"


def test_a_gradient_for_a_list_says_which_types_differ():
    with pytest.raises(ValueError, match="structure of its argument: ndarray for list"):
        check_backward(lambda x: (np.array(x) ** 2, np.array(x)), lambda d, x: 2 * d * x, [1.0, 2.0])


def test_the_point_of_a_scalar_function_may_be_a_list_or_integers():
    for x in ([1, 2], (1.0, 2.0), np.array([1, 2]), 3):
        assert check_gradient(square, slope, x)
        assert check_gradient(square, lambda x: 3 * np.asarray(x), x).verdict == "fail"


# --- options and results of the wrong kind


def test_names_must_be_strings():
    with pytest.raises(TypeError, match=r"names=\[1, 2\] is not a list of strings"):
        check_backward(forward, backward, X, W, names=[1, 2])
    layer = type("Layer", (), {"forward": lambda self, x: 2 * x, "backward": lambda self, dout: 2 * dout})()
    with pytest.raises(TypeError, match="leave out names="):
        check_layer(layer, X, names=["x"])


def test_a_backward_without_its_return_is_told_so():
    with pytest.raises(ValueError, match=r"^backward returned None; expected 2, one for each argument of forward$"):
        check_backward(forward, lambda d, c: None, X, W)
    with pytest.raises(ValueError, match=r"^backward returned 1 gradient; expected 3, .*, or 2, for x, w$"):
        check_backward(lambda x, w, ids: forward(x, w), lambda d, c: (d,), X, W, np.array([1]))


def test_strings_for_gradients_get_no_hint_about_their_shape():
    report = check_backward(forward, lambda d, c: ("ab", None), X, W)
    assert report.arguments[0].reason == "the gradient is <U2, not floats"
    assert report.arguments[0].hint == ""
    assert report.verdict == "fail"


def test_a_gradient_that_is_given_twice():
    with pytest.raises(TypeError, match="the gradient is given twice"):
        check_gradient(square, slope, X, jac=True)


@pytest.mark.parametrize("result", [None, X, (X, None), (X, X, X)])
def test_a_vjp_that_returns_no_pullback(result):
    with pytest.raises(TypeError, match=r"vjp must return a pair, \(out, pull\), with a function pull"):
        check_vjp(lambda x: result, X)


def test_a_vjp_gives_its_arguments_their_names():
    report = check_vjp(lambda x, w: (x @ w, lambda d: (d @ w.T, x.T @ d)), X, W)
    assert [a.name for a in report.arguments] == ["x", "w"]
    assert [a.name for a in check_vjp(lambda *x: (x[0], lambda d: d), X).arguments] == ["args[0]"]


def test_an_adjoint_of_another_shape_or_of_complex_numbers_is_refused():
    with pytest.raises(ValueError, match=r"adjoint returned the shape \(\), where x has \(4, 3\)"):
        check_adjoint(lambda v: v @ W, lambda w: 1.0, X)
    with pytest.raises(TypeError, match="forward gives complex128"):
        check_adjoint(lambda v: v * (1 + 2j), lambda w: w * (1 + 99j), X)
    with pytest.raises(TypeError, match="adjoint gives object"):
        check_adjoint(lambda v: v @ W, lambda w: None, X)
    assert check_adjoint(lambda v: v @ W, lambda w: w @ W.T, X, rng=3) < 1e-15


def test_float32_results_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"gradients\[0\] has the shape \(4, 3\), and in float64 \(\)"):
        check_float32(forward, backward, X, W, reference=(forward, lambda d, c: (1.0, 1.0)))
    with pytest.raises(ValueError, match=r"gradients\[1\] has the shape None, and in float64 \(3, 2\)"):
        check_float32(forward, lambda d, c: (backward(d, c)[0], None), X, W, reference=(forward, backward))


def test_a_kernel_that_returns_nothing():
    with pytest.raises(ValueError, match="f returns nothing, but g out"):
        compare(lambda x: None, lambda x: x, X)


def test_empty_arrays_are_listed_by_find_dead():
    def two_forward(x, w):
        return (x @ w, np.sin(w)), (x, w)

    def two_backward(dout, cache):
        dx, dw = backward(dout[0], cache)
        return dx, dw + dout[1] * np.cos(cache[1])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = find_dead(two_forward, two_backward, np.zeros((0, 3)), W)
    assert [(u.name, u.reason) for u in report.not_checked] == [
        ("x", "it has no elements"),
        ("out[0]", "it has no elements"),
    ]
    assert [(a.name, a.verdict) for a in report.arguments] == [("w", "pass"), ("out[1]", "pass")]


@pytest.mark.parametrize("out", [None, "a", np.zeros(0), np.arange(3)])
def test_find_dead_needs_an_output_of_floats(out):
    with pytest.raises(ValueError, match="out holds no floats"):
        find_dead(lambda x: (out, x), lambda d, x: x, X)


# --- a hint that only seems to fit


def test_small_integers_are_not_taken_for_rounded_numbers():
    a = np.array([[2.0, 1, 0], [1, 3, 1], [0, 1, 4]])
    report = check_hessian(
        lambda x: 0.5 * x @ a @ x + np.sum(x**4),
        lambda x: a @ x + 4 * x**3,
        X[0],
        hessian=lambda x: a,
    )
    assert report.verdict == "fail"
    assert "rounded" not in str(report)
