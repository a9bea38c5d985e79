"""What the blind set showed to be missing among the hints, each with numbers of its own."""

import numpy as np
import pytest

from npgpt.gradcheck import check_backward
from npgpt.gradcheck.hints import hint
from npgpt.gradcheck.hints_finding import Finding
from tests.gradcheck.blind import BLIND

RNG = np.random.default_rng(81)
X, OTHER = RNG.standard_normal((2, 5, 7))
SQUARE = RNG.standard_normal((6, 6))
CUBE = RNG.standard_normal((5, 5, 6))
LARGE, LARGE_TOO, DOUT = RNG.standard_normal((3, 40, 40))
MASK = RNG.random((5, 7)) < 0.6


def of(analytic, numeric=X, bars=1e-13, **known):
    """Return the hint for a gradient, wrong where it differs from the numbers that were looked at."""
    wrong = np.abs(analytic - numeric) > bars
    return hint(Finding("x", analytic, numeric, np.full(analytic.shape, bars), wrong, **known))


def sample(array):
    """Return an array of which 64 elements were looked at."""
    at = np.zeros(array.size, dtype=bool)
    at[np.random.default_rng(82).choice(array.size, 64, replace=False)] = True
    return np.where(at.reshape(array.shape), array, np.nan)


def shifted(array):
    return np.vstack((0 * array[:1], array[:-1]))


PATTERNS = {
    "a mask inverted": (np.where(MASK, 0, X), np.where(MASK, X, 0), {}, "a mask is inverted"),
    "one of each window": (
        np.where(MASK, 0, 4 * X),
        X,
        {},
        f"{MASK.sum()} elements are zero and should not be, and the others are 4",
    ),
    "clipped": (np.clip(X, -0.5, 0.5), X, {}, "no element is larger than 0.5, and the wrong ones should be: clipped"),
    "the transposed added": (SQUARE + SQUARE.T, SQUARE, {}, "it is g + g.T, and should be g"),
    "made symmetric": ((SQUARE + SQUARE.T) / 2, SQUARE, {}, "it is made symmetric, (g + g.T) / 2, and should be g"),
    "a temperature forgotten": (0.37 * X, X, {"arguments": [("t", np.array(0.37))]}, "every element is t (0.37) times"),
    "a temperature's square": (X / 0.37**2, X, {"arguments": [("t", np.array(0.37))]}, "is 1/t^2 (7.3046) times"),
    "a number's own factor": (
        np.array(0.37),
        np.array(1.0),
        {"arguments": [("t", np.array(0.37))]},
        "it may be t (0.37) times what it should be",
    ),
    "weight decay of a loss": (
        X + 0.06 * 0.2 * OTHER,
        X,
        {"arguments": [("w", OTHER)], "dout": [("dout", np.array(-0.06))]},
        "0.2 times w times dout is missing",
    ),
    "a factor along the wrong axes": (
        CUBE * SQUARE[:5],
        CUBE * SQUARE[:5, None],
        {"arguments": [("s", SQUARE[:5])], "dout": [("dout", CUBE)]},
        "it is dout times s along the wrong axes: s should lie along axes 0, 2",
    ),
    "a large array transposed": (LARGE.T, sample(LARGE), {}, "it is transposed"),
    "a large array reversed": (LARGE[:, ::-1], sample(LARGE), {}, "reversed along axis 1"),
    "a large array shifted": (shifted(LARGE), sample(LARGE), {}, "shifted by 1 along axis 0"),
    "large gradients swapped": (
        LARGE,
        sample(LARGE_TOO),
        {"sampled": [("w", sample(LARGE))]},
        "it is the gradient of w: the two are swapped",
    ),
    "a large product with a matrix": (
        DOUT @ LARGE,
        sample(DOUT @ LARGE.T),
        {"arguments": [("w", LARGE)], "dout": [("dout", DOUT)]},
        "it is dout @ w, and should be dout @ w.T: transposed",
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_named(name):
    analytic, numeric, known, expected = PATTERNS[name]
    assert expected in of(analytic, numeric, **known)


@pytest.mark.parametrize("seed", range(50))
def test_a_sample_of_a_random_gradient_has_no_pattern(seed):
    numeric, analytic, w, dout = np.random.default_rng(seed).standard_normal((4, 40, 40))
    known = {"arguments": [("x", w), ("w", w.T)], "dout": [("dout", dout)], "sampled": [("w", sample(w))]}
    assert of(analytic, sample(numeric), **known) == ""


def test_a_few_numbers_alike_are_not_clipped_and_prove_nothing():
    """An array of few values is its own transposed, reversed and shifted array in many places."""
    few = np.sign(LARGE)
    assert "places" not in of(few.T, sample(few))
    assert "clipped" not in of(np.where(MASK, 0.5, X), np.where(MASK, -X, X))


def test_a_gradient_cut_in_time_has_no_wrong_outputs():
    """Parts of 1e-13 that are claimed where there are none of 1e-14 are no wrong index."""
    (slip,) = [s for s in BLIND if s.name == "rnn: truncated after two steps"]
    report = check_backward(slip.example.forward, slip.example.backward, *slip.example.args())
    hints = [argument.hint for argument in report.arguments]
    assert not any("wrong outputs" in found for found in hints)
    assert "a path is lost" in hints[0]
    assert "right up to index 1, and wrong from index 2 on" in hints[2]


def test_a_term_that_is_wrong_in_the_first_step_alone_is_placed_there():
    def forward(h):
        return np.stack([np.sin(k * h) + k * h.sum() for k in (1, 2, 3, 4)]), h

    def backward(dout, h):
        ks = np.arange(1.0, 5.0)[:, None]
        return (dout * ks * np.cos(ks * h)).sum(axis=0) + (ks * dout).sum() + dout[0].sum() * np.tanh(h + 2)

    report = check_backward(forward, backward, X[0])
    assert (
        report.arguments[0].hint == "what comes through axis 0 of out is wrong up to index 0, and right from index 1 on"
    )
