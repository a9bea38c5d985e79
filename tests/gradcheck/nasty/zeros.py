"""Gradients that are exactly zero, or would be divided by zero."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs.attention import softmax
from tests.gradcheck.bugs.maths import cumprod_backward, cumprod_forward, prod_backward, prod_forward
from tests.gradcheck.example import correct, normal


def key_bias_forward(q, k, bias):
    """Add a bias to all keys: it adds the same to all scores of a row, and softmax takes it away."""
    keys = k + bias
    probs = softmax(q @ keys.T)
    return probs, (q, keys, probs)


def key_bias_backward(dout, cache):
    q, keys, probs = cache
    dscores = probs * (dout - (dout * probs).sum(axis=-1, keepdims=True))
    dkeys = dscores.T @ q
    return dscores @ keys, dkeys, dkeys.sum(axis=0)


def total_forward(x):
    """Sum what sums to one."""
    return softmax(x).sum(axis=-1), softmax(x)


def total_backward(dout, probs):
    d = np.broadcast_to(dout[:, None], probs.shape)
    return probs * (d - (d * probs).sum(axis=-1, keepdims=True))


def unit_forward(x):
    """Layer norm over one channel: the output is zero whatever goes in."""
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
    return centred * rstd, (centred * rstd, rstd)


def unit_backward(dout, cache):
    xhat, rstd = cache
    return rstd * (dout - dout.mean(axis=-1, keepdims=True) - xhat * (dout * xhat).mean(axis=-1, keepdims=True))


def nothing_forward(x):
    return x - x, x


def zeros_backward(dout, x):
    return np.zeros_like(x)


def constant_forward(x):
    return 0 * x + 3, x


def unused_forward(x, y):
    return np.sin(x), (x, y)


def unused_backward(dout, cache):
    x, y = cache
    return dout * np.cos(x), np.zeros_like(y)


def dead_forward(x):
    return np.maximum(x, 0), x


def steps_forward(x):
    return np.round(x) + np.sign(x), x


def flat_forward(x):
    """Saturate: in floating point the slope is exactly zero."""
    return np.tanh(x), x


def flat_backward(dout, x):
    return dout * (1 - np.tanh(x) ** 2)


def partly_forward(x):
    """Use a few of the elements."""
    return np.exp(x[2:4]), x


def partly_backward(dout, x):
    dx = np.zeros_like(x)
    dx[2:4] = dout * np.exp(x[2:4])
    return dx


def even_forward(x):
    return x * x * np.cos(x), x


def even_backward(dout, x):
    return dout * (2 * x * np.cos(x) - x * x * np.sin(x))


def sinc_forward(x):
    return np.sinc(x / np.pi), x


def sinc_backward(dout, x):
    safe = np.where(x == 0, 1, x)
    return dout * np.where(x == 0, 0, (x * np.cos(x) - np.sin(x)) / safe**2)


def shift_forward(x, shift):
    """Standardise after a shift that standardising takes away."""
    moved = x + shift
    centred = moved - moved.mean()
    std = np.sqrt((centred * centred).mean())
    return centred / std, (centred / std, std)


def shift_backward(dout, cache):
    xhat, std = cache
    dx = (dout - dout.mean() - xhat * (dout * xhat).mean()) / std
    return dx, dx.sum()


def products():
    (x,) = normal(231, (3, 4))
    x[0, 1] = x[1, 0] = x[1, 2] = 0
    return (x,)


NASTY = [
    correct(
        "key bias of attention",
        key_bias_forward,
        key_bias_backward,
        partial(normal, 232, (3, 4), (5, 4), (4,)),
        "zero, computed as 1e-17",
        size=1.0,
    ),
    correct(
        "sum of a softmax", total_forward, total_backward, partial(normal, 233, (3, 5)), "zero for every dout", size=1.0
    ),
    correct(
        "layernorm of one channel",
        unit_forward,
        unit_backward,
        partial(normal, 234, (4, 1)),
        "zero output and gradient",
        "https://github.com/pytorch/pytorch/issues/188372",
    ),
    correct("x - x", nothing_forward, zeros_backward, partial(normal, 235, (4,)), "zero"),
    correct(
        "a constant", constant_forward, zeros_backward, partial(normal, 235, (4,)), "zero beside an output of three"
    ),
    correct(
        "an argument that is not used",
        unused_forward,
        unused_backward,
        partial(normal, 236, (4,), (3,)),
        "zero for y alone",
    ),
    correct(
        "dead relu",
        dead_forward,
        zeros_backward,
        lambda: (-np.abs(normal(237, (6,))[0]) - 0.1,),
        "zero on one side of the kink",
    ),
    correct(
        "round and sign, away from their steps",
        steps_forward,
        zeros_backward,
        lambda: (np.array([0.3, -1.2, 2.3, 4.9]),),
        "piecewise constant; a complex step has no sign",
    ),
    correct(
        "tanh at 25",
        flat_forward,
        flat_backward,
        lambda: (np.array([25.0, -25.0, 30.0]),),
        "exactly zero in floating point",
    ),
    correct("two elements of six", partly_forward, partly_backward, partial(normal, 238, (6,)), "zero for the others"),
    correct(
        "x^2 cos x at zero",
        even_forward,
        even_backward,
        lambda: (np.array([0.0, 1e-9, 0.5]),),
        "zero at a smooth minimum",
    ),
    correct("sinc at zero", sinc_forward, sinc_backward, lambda: (np.array([0.0, 0.5, -2.0]),), "0 / 0 by its formula"),
    correct(
        "shift before standardising",
        shift_forward,
        shift_backward,
        lambda: (*normal(239, (6,)), np.array(0.3)),
        "zero-dimensional argument with a zero gradient",
        size=1.0,
    ),
    correct("prod with zeros", prod_forward, prod_backward, products, "the quotient rule fails at zero"),
    correct(
        "cumprod with zeros",
        cumprod_forward,
        cumprod_backward,
        lambda: (np.array([2.0, 0, 3, -1.5, 0, 4]),),
        "the quotient rule fails at zero",
    ),
]
