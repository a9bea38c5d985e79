"""Warnings at the given arguments are those of a run without the checker; moved points warn of nothing."""

import warnings

import numpy as np
import pytest

from npgpt.gradcheck import (
    check_backward,
    check_gradient,
    check_hessian,
    check_jvp,
    check_layer,
    compare,
    find_dead,
)

X = np.array([0.3, 1e-3, 2.0, 5.0])  # steps over the spread of the others make the second negative


def roots(x):
    if np.any(x.real <= 0):
        warnings.warn("negative", stacklevel=1)
    return np.log(x), x


def roots_backward(dout, x):
    return dout / x


class Roots:
    def __init__(self):
        self.w = np.array([1.0, 2.0, 0.5, 1e-3])

    def forward(self, x):
        self.x = x
        return roots(x)[0] + np.log(self.w)

    def backward(self, dout):
        self.dw = dout / self.w
        return dout / self.x


CHECKS = {
    "check_backward": lambda: check_backward(roots, roots_backward, X),
    "float32": lambda: check_backward(roots, roots_backward, X, dtype=np.float32),
    "a slip": lambda: check_backward(roots, lambda d, x: 1.1 * d / x, X),
    "check_layer": lambda: check_layer(Roots(), X),
    "check_gradient": lambda: check_gradient(lambda x: np.log(x).sum(), lambda x: 1 / x, X),
    "check_jvp": lambda: check_jvp(roots, lambda v, x: v / x, X),
    "check_hessian": lambda: check_hessian(
        lambda x: np.log(x).sum(), lambda x: 1 / x + 0 * np.log(x), X, hessian=lambda x: np.diag(-1 / x**2)
    ),
    "find_dead": lambda: find_dead(roots, roots_backward, X),
    "compare": lambda: compare(lambda x: np.log(x), lambda x: np.log(x), X),
}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("action", ["always", "error"])
def test_moved_points_warn_of_nothing(name, action):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(action)
        report = CHECKS[name]()
    assert not seen
    assert report.verdict == ("fail" if name == "a slip" else "pass"), str(report)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_warning_at_the_given_arguments_is_shown_once_or_raised(where):
    """As without the checker: a log of zero that a mask throws away."""
    zero = np.array([0.0, 1.0, 2.0])

    def masked(x):
        with np.errstate(all="ignore" if where == "backward" else "warn"):
            return np.where(x > 0, np.log(x), 0.0), x

    def masked_backward(dout, x):
        with np.errstate(all="ignore" if where == "forward" else "warn"):
            return np.where(x > 0, dout / x, 0.0)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        check_backward(masked, masked_backward, zero)
    assert [str(one.message).split(" encountered")[0] for one in seen] == ["divide by zero"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="divide by zero"):
            check_backward(masked, masked_backward, zero)


def test_the_users_filters_and_error_settings_are_left_as_they_are():
    filters, settings = list(warnings.filters), np.geterr()
    check_backward(roots, roots_backward, X)
    assert warnings.filters == filters
    assert np.geterr() == settings


def test_a_forward_that_raises_floating_point_errors_by_itself_still_does():
    def strict_roots(x):
        with np.errstate(all="raise"):
            return np.log(x), x

    assert check_backward(strict_roots, roots_backward, X).verdict == "pass"
