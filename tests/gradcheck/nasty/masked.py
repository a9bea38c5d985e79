"""Outputs that no argument moves, beside others: they are large or infinite, and say nothing of the gradient."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs import masked as bugs
from tests.gradcheck.example import correct, normal


def additive_forward(scores):
    """Add the mask, so that -1e9 has rounding where it moves."""
    masked = scores + np.where(bugs.CAUSAL, 0, -1e9)
    e = np.exp(masked - masked.max(axis=-1, keepdims=True))
    probs = e / e.sum(axis=-1, keepdims=True)
    return probs, probs


def additive_backward(dout, probs):
    return probs * (dout - (dout * probs).sum(axis=-1, keepdims=True))


def sigmoid_forward(x):
    return 1 / (1 + np.exp(-x)), x


def sigmoid_backward(dout, x):
    return dout / ((1 + np.exp(-x)) * (1 + np.exp(x)))


def mixed_forward(x):
    """Return what is saturated, what is not, and a constant."""
    with np.errstate(over="ignore"):
        return np.concatenate((np.tanh(x), np.full(2, -np.inf), np.logaddexp(x, 0 * x))), x


def mixed_backward(dout, x):
    tanh, softplus = dout[: len(x)], dout[len(x) + 2 :]
    return tanh * (1 - np.tanh(x)) * (1 + np.tanh(x)) + softplus / (1 + np.exp(-x))


def rows_forward(scores):
    """Leave a row of nothing but padding at zero."""
    valid = np.array([[True, True, False], [False, False, False], [True, True, True]])
    masked = np.where(valid, scores, -np.inf)
    top = np.where(valid.any(axis=-1, keepdims=True), masked.max(axis=-1, keepdims=True), 0)
    e = np.exp(masked - top)
    total = e.sum(axis=-1, keepdims=True)
    probs = e / np.where(total == 0, 1, total)
    return (probs, masked), (probs, valid)


def rows_backward(dout, cache):
    probs, valid = cache
    dprobs, dmasked = dout
    through = probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True))
    return through + np.where(valid, dmasked, 0)


NASTY = [
    correct(
        f"causal scores with {fill}",
        bugs.SCORES[fill],
        bugs.scores_backward,
        partial(normal, 331, (5, 3), (5, 3)),
        "large outputs that do not move",
    )
    for fill in bugs.SCORES
] + [
    correct(
        "log probabilities of legal actions with -inf",
        bugs.LOGITS[-np.inf],
        bugs.legal_backward,
        partial(normal, 332, (3, 4)),
        "infinite outputs that do not move",
    ),
    correct(
        "padded logits of inf",
        bugs.PADDED[np.inf],
        bugs.logit_backward,
        partial(normal, 333, (3, 5)),
        "infinite outputs that do not move",
    ),
    correct(
        "loss beside its bounds",
        bugs.report_forward,
        bugs.report_backward,
        partial(normal, 336, (5,)),
        "constants of 1e300 and inf",
    ),
    correct(
        "offsets of 1e15",
        bugs.offset_forward,
        bugs.offset_backward,
        partial(normal, 338, (4,)),
        "gradients eighteen digits below a constant",
    ),
    correct(
        "distances, the diagonal 1e20",
        bugs.distances_forward,
        bugs.distances_backward,
        partial(normal, 335, (4, 2)),
        "a large diagonal that does not move",
    ),
    correct(
        "additive mask of -1e9",
        additive_forward,
        additive_backward,
        partial(normal, 341, (5, 5)),
        "rounds what it masks, and masked scores have no gradient",
    ),
    correct(
        "sigmoid at 40 and beyond",
        sigmoid_forward,
        sigmoid_backward,
        lambda: (np.array([[40.0, -2.0, 300.0], [1.0, -38.0, -300.0]]),),
        "outputs that do not move, though they have a slope",
    ),
    correct(
        "tanh and softplus of 30 beside -inf",
        mixed_forward,
        mixed_backward,
        lambda: (np.array([30.0, -0.5, -30.0, 2.0, 18.5]),),
        "some slopes are below the rounding of their outputs",
        rtol=1e-7,
    ),
    correct(
        "attention with a row of padding",
        rows_forward,
        rows_backward,
        partial(normal, 342, (3, 3)),
        "a row of -inf, guarded",
    ),
    correct(
        "channels rounded to 1e9",
        bugs.rounded_forward,
        bugs.rounded_backward,
        partial(normal, 343, (6,)),
        "large outputs that move in jumps",
        inconclusive_ok=True,
    ),
    correct(
        "labels that do not move",
        bugs.frozen_forward,
        bugs.frozen_backward,
        partial(normal, 344, (6,)),
        "nothing moves, and the gradient is zero",
    ),
]
