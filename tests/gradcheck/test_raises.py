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


# --- the contract: what is raised when forward or backward is called again


def square(x):
    return x * x, x.copy()


def pops_a_list():
    return lambda x: (x * x, [x.copy()]), lambda dout, cache: 2 * dout * cache.pop()


def pops_a_key():
    return lambda x: (x * x, {"x": x.copy()}), lambda dout, cache: 2 * dout * cache.pop("x")


def deletes_an_attribute():
    class Cache:
        def __init__(self, x):
            self.x = x.copy()

    def backward(dout, cache):
        x = cache.x
        del cache.x
        return 2 * dout * x

    return lambda x: (x * x, Cache(x)), backward


def exhausts_a_generator():
    return lambda x: (x * x, iter([x.copy()])), lambda dout, cache: 2 * dout * next(cache)


USED_UP = [pops_a_list, pops_a_key, deletes_an_attribute, exhausts_a_generator]


@pytest.mark.parametrize("make", USED_UP)
def test_a_backward_that_uses_its_cache_up_breaks_the_contract(make):
    report = check_backward(*make(), X)
    assert report.verdict == "fail"
    assert [s for s in report.contract if s.startswith("a second backward from the same cache raises")], str(report)
    assert [argument.verdict for argument in report.arguments] == ["pass"]  # the numbers are right, and are looked at


def unit_dout():
    def backward(dout, x):
        size = np.sqrt(np.sum(dout * dout))
        if size == 0:
            raise ZeroDivisionError("no direction")
        return 2 * (dout / size) * size * x

    return square, backward


def one_forward_at_a_time():
    waiting = []

    def forward(x):
        waiting.append(x.copy())
        return x * x, None

    def backward(dout, _):
        if len(waiting) > 1 and np.shape(waiting[-1]) == X.shape and not np.array_equal(waiting[-1], X):
            raise RuntimeError("two forwards")
        return 2 * dout * waiting[-1]

    return forward, backward


def as_often_as(count):
    masks = iter([np.ones(X.shape)] * count)
    return lambda x: (x * next(masks), None), lambda dout, _: dout


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (unit_dout, "backward raises ZeroDivisionError: no direction for a dout of zeros"),
        (one_forward_at_a_time, "backward raises RuntimeError: two forwards if another forward was run in between"),
        (lambda: as_often_as(1), "forward raises StopIteration when it is called again"),
        (lambda: as_often_as(3), "forward raises StopIteration when it is called again"),
    ],
)
def test_an_exception_that_training_would_meet_breaks_the_contract(make, sentence):
    report = check_backward(*make(), X)
    assert report.verdict == "fail"
    assert [s for s in report.contract if s.startswith(sentence)], str(report)


def refuses_large(dout, x):
    if np.max(np.abs(dout)) > 1e6:
        raise OverflowError("exploded")
    return 2 * dout * x


def refuses_small(dout, x):
    if 0 < np.max(np.abs(dout)) < 1e-9:
        raise ArithmeticError("vanished")
    return 2 * dout * x


def wants_one_block(dout, x):
    if not dout.flags.c_contiguous:
        raise ValueError("ndarray is not C-contiguous")
    return 2 * dout * x


@pytest.mark.parametrize(
    ("backward", "note"),
    [
        (refuses_large, "backward raises OverflowError: exploded for a large dout"),
        (refuses_small, "backward raises ArithmeticError: vanished for a small dout"),
        (wants_one_block, "backward raises ValueError: ndarray is not C-contiguous for a dout that lies in memory"),
    ],
)
def test_a_dout_that_a_backward_refuses_aloud_is_a_note(backward, note):
    report = check_backward(square, backward, X)
    assert report.verdict == "pass", str(report)
    assert [sentence for sentence in report.notes if sentence.startswith(note)]
    assert check_backward(square, lambda d, x: 1.01 * backward(d, x), X).verdict == "fail"


@pytest.mark.parametrize(
    "spoilt", [lambda dx: dx[:-1], lambda dx: None, lambda dx: dx > 0], ids=["shape", "None", "bool"]
)
def test_the_contract_is_checked_beside_a_gradient_that_cannot_be_compared(spoilt):
    def backward(dout, cache):
        x, w = cache
        dx, dw = dout * w, (dout * x).sum(axis=0)
        dout *= 0
        return spoilt(dx), dw

    report = check_backward(lambda x, w: (x * w, (x, w)), backward, X, X[0] + 1)
    assert report.verdict == "fail"
    assert "backward writes into dout" in report.contract
    assert [argument.verdict for argument in report.arguments] == ["fail", "pass"]


# --- forwards that take one dtype alone


def single_only(x, w):
    assert x.dtype == w.dtype == np.float32
    return np.tanh(x @ w), (x, w, np.tanh(x @ w))


def double_only(x, w):
    assert x.dtype == w.dtype == np.float64
    return np.tanh(x @ w), (x, w, np.tanh(x @ w))


def product_backward(factor=1.0):
    def backward(dout, cache):
        x, w, out = cache
        assert dout.dtype == x.dtype
        d = dout * (1 - out * out)
        return d @ w.T, np.asarray(factor, x.dtype) * (x.T @ d)

    return backward


PRODUCT = X, np.random.default_rng(9).standard_normal((4, 2))


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.05, "fail")])
def test_a_forward_that_takes_float32_alone(factor, verdict):
    report = check_backward(single_only, product_backward(factor), *PRODUCT, dtype=np.float32)
    assert [argument.verdict for argument in report.arguments] == ["pass", verdict], str(report)
    assert "derivatives were taken in float32" in report.notes[0]
    assert 1e-7 < report.error_bar < 1e-2  # those of float32


def test_a_forward_that_takes_float64_alone_is_given_nothing_else():
    assert check_backward(double_only, product_backward(), *PRODUCT).verdict == "pass"
    assert check_backward(double_only, product_backward(1.0001), *PRODUCT).verdict == "fail"
    with pytest.raises(AssertionError):  # float32 was asked for
        check_backward(double_only, product_backward(), *PRODUCT, dtype=np.float32)
    with pytest.raises(AssertionError):
        check_backward(single_only, product_backward(), *PRODUCT)


def test_a_forward_of_float32_alone_that_writes_into_its_argument():
    def forward(x):
        assert x.dtype == np.float32
        np.multiply(x, x, out=x)
        return x.copy(), np.sqrt(x)

    report = check_backward(forward, lambda d, root: 2 * d * root, np.abs(X), dtype=np.float32)
    assert report.contract == ("forward writes into its arguments",)
