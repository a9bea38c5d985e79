"""Forwards that refuse arguments which are not far away, or all but one dtype."""

import numpy as np

from tests.gradcheck.bugs import raises as bugs
from tests.gradcheck.example import correct


def softmax_forward(x):
    """Check by assert that probabilities sum to 1, that they are finite, and that nobody hands in logits of 4."""
    assert np.all(np.abs(np.real(x)) < 4), "logits of 4 and more"
    e = np.exp(x)
    probs = e / e.sum()
    assert np.allclose(probs.sum(), 1)
    return probs, probs


def softmax_backward(dout, probs):
    return probs * (dout - (dout * probs).sum())


def ordered_forward(x):
    """Take the logarithms of gaps, and refuse knots that are out of order."""
    gaps = np.diff(x)
    if np.any(np.real(gaps) <= 0):
        raise IndexError("knots out of order")
    return np.log(gaps), gaps


def ordered_backward(dout, gaps):
    d = dout / gaps
    dx = np.zeros(len(d) + 1)
    dx[1:] += d
    dx[:-1] -= d
    return dx


NASTY = [
    correct("log that refuses", bugs.log_forward, bugs.log_backward, bugs.near_zero, "zero is 3e-5 away"),
    correct(
        "Cholesky of a nearly singular matrix",
        bugs.cholesky_forward,
        bugs.cholesky_backward,
        bugs.nearly_singular,
        "singular 1e-4 away",
        step=1e-7,
        rtol=1e-7,
    ),
    correct("logit that refuses", bugs.logit_forward, bugs.logit_backward, bugs.chances, "0 is 1e-4 away", step=2e-5),
    correct(
        "arcsin that refuses",
        bugs.arcsin_forward,
        bugs.arcsin_backward,
        lambda: (np.array([0.9999, -0.5, -0.99, 0.1]),),
        "1 is 1e-4 away",
        step=1e-6,
    ),
    correct("table with ends", bugs.table_forward, bugs.table_backward, bugs.inside, "ends 1e-4 away", step=2e-5),
    correct(
        "solver that gives up",
        bugs.solver_forward,
        bugs.solver_backward,
        bugs.conditioned,
        "does not converge nearby",
        exact=bugs.exact_solver,
        rtol=1e-7,
    ),
    correct(
        "float32 alone",
        bugs.single_forward,
        bugs.single_backward,
        bugs.singles,
        "no derivative in float64 can be had",
        exact=bugs.any_forward,
        rtol=1e-5,
        check={"dtype": np.float32},
    ),
    correct(
        "softmax with asserts",
        softmax_forward,
        softmax_backward,
        lambda: (np.array([0.3, 3.999, -1.0, 2.0]),),
        "its limit is 1e-3 away",
        step=2e-5,
    ),
    correct(
        "knots in order",
        ordered_forward,
        ordered_backward,
        lambda: (np.concatenate((np.arange(3.0), 2 + 1e-4 * np.arange(1.0, 4.0))),),
        "out of order 1e-4 away",
        step=1e-6,
    ),
]
