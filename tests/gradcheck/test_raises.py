"""Exceptions: at moved points they cost accuracy or a verdict, never a traceback; at the given ones they are raised."""

import numpy as np
import pytest

from npgpt import check_backward

X = np.random.default_rng(7).standard_normal((3, 4))


def refusing_log(x):
    if np.any(np.real(x) <= 0):
        raise ValueError("log of a negative number")
    return np.log(x), x


def cholesky(a):
    factor = np.linalg.cholesky((a + a.T) / 2)
    return factor, factor


def cholesky_backward(dout, factor):
    half = np.tril(factor.T @ dout)
    half[np.diag_indices_from(half)] *= 0.5
    inverse = np.linalg.inv(factor)
    da = inverse.T @ half @ inverse
    return (da + da.T) / 2


def nearly_singular():
    q = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))[0]
    a = q @ np.diag([1.0, 2.0, 3.0, 1e-6]) @ q.T
    return (a + a.T) / 2


def alone(x):
    if not np.array_equal(x, [1.0, 2.0, 3.0]):
        raise RuntimeError("not converged")
    return x * x, x


NEAR_ZERO = np.array([1e-9, 1.0, 2.0, 3.0])


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.001, "fail")])
def test_steps_that_a_forward_refuses_are_followed_by_smaller_ones(factor, verdict):
    assert check_backward(refusing_log, lambda d, x: factor * d / x, NEAR_ZERO).verdict == verdict


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.001, "fail")])
def test_the_cholesky_factor_of_a_nearly_singular_matrix(factor, verdict):
    report = check_backward(cholesky, lambda d, c: factor * cholesky_backward(d, c), nearly_singular())
    assert report.verdict == verdict, str(report)


def test_a_forward_that_refuses_every_moved_point_is_inconclusive_with_the_point_and_the_message():
    report = check_backward(alone, lambda d, x: 2 * d * x, np.array([1.0, 2.0, 3.0]))
    assert report.verdict == "inconclusive"
    reason = report.arguments[0].reason
    assert "forward raises RuntimeError: not converged where x[" in reason
    assert "is moved by" in reason
    assert "straight line" not in report.taylor


def test_an_exception_at_the_given_arguments_is_the_users():
    with pytest.raises(ValueError, match="log of a negative number"):
        check_backward(refusing_log, lambda d, x: d / x, -NEAR_ZERO)
    with pytest.raises(KeyError, match="missing"):
        check_backward(lambda x: (x * x, {}), lambda d, cache: d * cache["missing"], X)


@pytest.mark.parametrize(("factor", "verdict"), [(2.0, "pass"), (2.1, "fail")])
def test_an_output_whose_shape_depends_on_the_arguments(factor, verdict):
    """Beyond 0 the first element is left out."""
    x = np.array([1e-9, 1.0, 2.0, 3.0])
    report = check_backward(
        lambda x: (2 * x[np.real(x) > 0], x > 0), lambda d, m: np.bincount(np.flatnonzero(m), factor * d, 4), x
    )
    assert report.verdict == verdict, str(report)
