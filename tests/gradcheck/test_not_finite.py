"""A NaN in a gradient is wrong where it is, and says nothing of the other elements."""

import numpy as np
import pytest

from npgpt import check_backward

X = np.random.default_rng(3).standard_normal((2, 3, 4))


def square(x):
    return x * x, x


def spoiled(value, *slips):
    def backward(dout, x):
        dx = 2 * dout * x
        dx[0, 1, 2] = value
        for slip in slips:
            dx[slip] *= 1.5
        return dx

    return backward


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_only_the_elements_that_are_wrong_are_named(value, dtype):
    report = check_backward(square, spoiled(value, (1, 2, 3)), X, dtype=dtype)
    assert report.verdict == "fail"
    assert {element.index for element in report.arguments[0].wrong} == {(0, 1, 2), (1, 2, 3)}
    assert report.arguments[0].relative_error == np.inf
    assert not report.contract


@pytest.mark.parametrize("tolerance", [1e-3, 10.0])
def test_no_tolerance_lets_a_nan_pass(tolerance):
    assert check_backward(square, spoiled(np.nan), X, tolerance=tolerance).arguments[0].verdict == "fail"


def test_a_nan_for_a_dout_of_zeros_alone_breaks_the_contract():
    def backward(dout, x):
        size = np.sqrt(np.sum(dout * dout))
        with np.errstate(all="ignore"):
            return 2 * x * (dout / size) * size

    assert check_backward(square, backward, X).contract == ("backward of a zero dout is not zero",)
