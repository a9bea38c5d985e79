"""Arguments that are too large for check_jvp to move each element: along directions, and a few elements alone."""

import re

import numpy as np
import pytest

from npgpt.gradcheck import check_jvp
from npgpt.gradcheck.paths import DIRECTIONS, FEW
from tests.gradcheck.test_jvp import layernorm, layernorm_jvp, square

RNG = np.random.default_rng(64)
BIG = RNG.standard_normal((60, 50))


def square_jvp(v, x):
    return 2 * x * v


def test_a_large_argument_is_moved_along_directions_and_one_wrong_element_shows():
    def slip(v, x):
        out = square_jvp(v, x)
        out[12, 34] *= 1.001
        return out

    assert BIG.size > FEW
    report = check_jvp(square, square_jvp, BIG)
    assert report, report
    through, alone = report.arguments
    assert through.name == f"x, {DIRECTIONS} directions"
    assert through.escape == "moved with all 3000 elements"
    assert alone.name == f"x, {alone.size} elements"
    assert alone.size < 20
    assert check_jvp(square, slip, BIG).verdict == "fail"


def test_small_elements_among_large_ones_are_moved_alone():
    """Beside 1000 squared, 0.001 squared is lost in any direction through both."""
    mixed = np.where(np.arange(3000).reshape(60, 50) % 2, 1e3, 1e-3) * BIG

    def slip(v, x):
        return np.where(np.arange(50) % 2, 1.0, 1.01) * square_jvp(v, x)

    assert check_jvp(square, square_jvp, mixed)
    report = check_jvp(square, slip, mixed)
    assert report.verdict == "fail"
    assert [row.verdict for row in report.arguments] == ["pass", "fail"]
    assert re.fullmatch(r"the worst, number \d+, is \(\d+, \d*[02468]\)", report.arguments[1].hint)


def test_zeros_are_moved_by_themselves():
    """The only wrong elements are those that are 0; and where 0 is a kink the others can be decided all the same."""
    sparse = np.where(np.arange(3000).reshape(60, 50) % 500 == 7, 0.0, BIG)
    assert (
        check_jvp(lambda x: (np.sin(x), x), lambda v, x: np.where(x == 0, 2, np.cos(x)) * v, sparse).verdict == "fail"
    )
    relu = lambda x: (np.maximum(x, 0), x)  # noqa: E731
    report = check_jvp(relu, lambda v, x: v * (x > 0), sparse)
    assert report, report
    assert [row.kinks for row in report.arguments] == [0, 1]
    assert check_jvp(relu, lambda v, x: v * (x > -1), sparse).verdict == "fail"
    assert check_jvp(square, square_jvp, 0 * BIG)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_numbers_far_from_zero_are_moved_by_their_last_digits(dtype):
    far = np.random.default_rng(5).standard_normal((12, 7)) + (1e6 if dtype == np.float64 else 100)
    report = check_jvp(layernorm, layernorm_jvp, far, 1 + 0.3 * BIG[0, :7], dtype=dtype)
    assert report.verdict != "fail", report

    def slip(tangents, cache):
        return layernorm_jvp(tangents, cache, "the root does not move")

    assert check_jvp(layernorm, slip, far, 1 + 0.3 * BIG[0, :7], dtype=dtype).verdict == "fail"


def test_the_order_in_memory_is_kept():
    def by_memory(v, x):
        return np.cos(x.ravel(order="K")).reshape(x.shape) * v

    sine = lambda x: (np.sin(x), x)  # noqa: E731
    assert check_jvp(sine, by_memory, BIG)
    assert not check_jvp(sine, by_memory, np.asfortranarray(BIG))
