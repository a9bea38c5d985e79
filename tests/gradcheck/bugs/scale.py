"""Bugs that hide in the size of the numbers: tiny gradients, and arguments far from zero."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted


def tiny_forward(x):
    return 1e-9 * np.sin(x), x


def tiny_backward(dout, x, slip=""):
    factor = 1.001 if slip == "times 1.001" else 0.0 if slip == "zero" else 1.0
    return factor * 1e-9 * dout * np.cos(x)


def far_forward(x):
    """Standardise numbers far from zero."""
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean()), (centred,)


def far_backward(dout, cache, slip=""):
    (centred,) = cache
    std = np.sqrt((centred**2).mean())
    xhat = centred / std
    through = xhat * (dout * xhat).mean()
    if slip == "term through the variance a thousandth too large":
        through = 1.001 * through
    if slip == "term through the mean missing":
        return (dout - through) / std
    return (dout - dout.mean() - through) / std


tiny = partial(planted, "gradient of 1e-9", forward=tiny_forward, right=tiny_backward, args=partial(normal, 126, (4,)))
far = partial(
    planted,
    "standardise around 1e6",
    forward=far_forward,
    right=far_backward,
    args=lambda: (1e6 + normal(127, (6,))[0],),
    rtol=1e-6,
)

BUGS = [
    tiny("times 1.001", note="far below any absolute tolerance"),
    tiny("zero", note="far below any absolute tolerance"),
    far("term through the variance a thousandth too large"),
    far("term through the mean missing"),
]
