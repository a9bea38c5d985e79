"""Arguments whose numbers are all alike: their spread is rounding, and says nothing of their scale."""

import numpy as np

from tests.gradcheck.bugs import constants as bugs
from tests.gradcheck.example import correct, normal


def same_rows():
    """Draw one row, and repeat it: a layer that has not yet broken its symmetry."""
    (row,) = normal(321, (5,))
    return np.repeat(row[None], 3, axis=0), np.full((5, 3), 0.2)


def zero_gains():
    return bugs.drawn(322, (3, 6), alike=[(6, 0.0), (6, 0.0)])


def biased_forward(x, bias):
    """Add a bias before a batch norm, which takes it away again."""
    out, cache = bugs.batchnorm_forward(x + bias[:, None], np.ones_like(bias))
    return out, cache


def biased_backward(dout, cache):
    dx, _ = bugs.batchnorm_backward(dout, cache)
    return dx, dx.sum(axis=(0, 2))


def shifted_forward(scores, shift):
    """Shift all scores of a softmax, which changes nothing."""
    e = np.exp(scores + shift - (scores + shift).max(axis=-1, keepdims=True))
    probs = e / e.sum(axis=-1, keepdims=True)
    return probs, probs


def shifted_backward(dout, probs):
    d = probs * (dout - (dout * probs).sum(axis=-1, keepdims=True))
    return d, d.sum(axis=-1, keepdims=True)


def switched_forward(x, gain, scale):
    """Give a gain to a branch that is switched off."""
    return scale * np.sin(x) + 0.0 * gain * x, (x, scale)


def switched_backward(dout, cache):
    x, scale = cache
    return dout * scale * np.cos(x), np.zeros(x.shape[1]), (dout * np.sin(x)).sum(axis=0)


NASTY = [
    correct(
        "gain of 0.3",
        bugs.gain_forward,
        bugs.gain_backward,
        lambda: bugs.drawn(301, (3, 10), alike=[(10, 0.3)]),
        "a spread of 5e-17",
    ),
    correct(
        "layernorm, gain 0.1 and bias 1e-4",
        bugs.layernorm_forward,
        bugs.layernorm_backward,
        lambda: bugs.drawn(302, (3, 7), alike=[(7, 0.1), (7, 1e-4)]),
        "two spreads of rounding",
    ),
    correct(
        "layernorm of zero gain and bias",
        bugs.layernorm_forward,
        bugs.layernorm_backward,
        zero_gains,
        "the output is zero, and one gradient of three",
    ),
    correct(
        "layer scale of 1e-6",
        bugs.layer_scale_forward,
        bugs.layer_scale_backward,
        lambda: bugs.drawn(303, (3, 12), (3, 12), alike=[(12, 1e-6)]),
        "a spread of 1e-22",
        step=4e-3,
    ),
    correct(
        "kernel of lengths 0.35",
        bugs.ard_forward,
        bugs.ard_backward,
        lambda: (0.3 * normal(310, (4, 3))[0], np.full(3, 0.35)),
        "curved at the scale of its constant",
    ),
    correct("batch norm of gain 0.8", bugs.batchnorm_forward, bugs.batchnorm_backward, bugs.channels, "a constant"),
    correct(
        "prelu of slope 0.35, on integers",
        bugs.prelu_forward,
        bugs.prelu_backward,
        lambda: (np.array([[-3.0, 2.0, 1.0], [4.0, -1.0, -2.0]]), np.full(3, 0.35)),
        "a constant beside a kink",
    ),
    correct("equal rows and weights of 0.2", bugs.pooling_forward, bugs.pooling_backward, same_rows, "two symmetries"),
    correct(
        "bias of 0.1 before a batch norm",
        biased_forward,
        biased_backward,
        lambda: bugs.drawn(323, (4, 3, 5), alike=[(3, 0.1)]),
        "a constant whose gradient is zero by cancellation",
        size=1.0,
    ),
    correct(
        "shift of 0.7 before a softmax",
        shifted_forward,
        shifted_backward,
        lambda: bugs.drawn(324, (3, 4), alike=[((3, 1), 0.7)]),
        "a constant whose gradient is zero by cancellation",
        size=1.0,
    ),
    correct(
        "gain of 0.1 of a branch that is off",
        switched_forward,
        switched_backward,
        lambda: bugs.drawn(325, (4, 7), alike=[(7, 0.1), (7, 0.35)]),
        "a constant that moves nothing beside one that does",
    ),
]
