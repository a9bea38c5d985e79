"""A small term that complex numbers pass through as if it were constant, beside a large analytic one."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs import small_terms as bugs
from tests.gradcheck.example import correct, normal


def clipped_forward(w):
    """Add a penalty to what is already limited by its norm."""
    norm = np.linalg.norm(w)
    return np.sin(w) + 1e-3 * w / max(1.0, float(norm)), (w, norm)


def clipped_backward(dout, cache):
    w, norm = cache
    return dout * np.cos(w) + 1e-3 * (dout / norm - w * (dout * w).sum() / norm**3)


def nothing_forward(x):
    """Add a term that is 0 here, and stays so nearby: no element is over the limit."""
    return np.tanh(x) + 1e-3 * np.maximum(np.abs(x) - 10, 0), x


def nothing_backward(dout, x):
    return dout * (1 - np.tanh(x) ** 2)


def cancel_forward(x):
    """Add moduli that cancel: |x|^2 - x^2 is 0, but not for complex numbers."""
    return np.sin(x) + np.abs(x) ** 2 - x * x, x


def cancel_backward(dout, x):
    return dout * np.cos(x)


NASTY = [
    correct(
        name,
        bugs.FORWARDS[name][0],
        backward,
        bugs.ARGS[name],
        "real for complex numbers",
        each=True,
        exact=bugs.FORWARDS[name][1],
        size=1e-4,
        inconclusive_ok=name == "waves and a robust loss",
    )
    for name, (_, backward, *_) in bugs.SUMS.items()
] + [
    correct(
        "layer and adapter of 1e-3",
        bugs.adapter_forward,
        bugs.adapter_backward,
        lambda: (normal(390, (5, 3))[0], 1e-3 * normal(381, (3,))[0]),
        "quiet channels beside loud ones",
        each=True,
        rtol=1e-5,
        inconclusive_ok=True,
    ),
    correct(
        "cosine and barrier",
        bugs.barrier_forward,
        bugs.barrier_backward,
        partial(normal, 385, (8,)),
        "real for some elements only",
    ),
    correct(
        "sine and clipped norm",
        clipped_forward,
        clipped_backward,
        partial(normal, 386, (5,)),
        "real for complex numbers",
    ),
    correct(
        "tanh and a limit far away", nothing_forward, nothing_backward, partial(normal, 387, (5,)), "a term of zeros"
    ),
    correct(
        "moduli that cancel", cancel_forward, cancel_backward, partial(normal, 388, (5,)), "not for complex numbers"
    ),
]
