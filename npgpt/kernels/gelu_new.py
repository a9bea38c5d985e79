"""GELU in the tanh form, with the logistic function: (1 + tanh u) / 2 = 1 / (1 + exp(-2u)), one exp per element.

The forward already has everything that the slope needs, so it computes the slope too, and the backward is one product.
"""

import math

import numpy as np

from npgpt.kernels.exp import exp
from npgpt.kernels.rows import as_rows, or_empty
from npgpt.support.buffers import empty
from npgpt.support.jit import jit

TWICE_SCALE = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715


def gelu_new_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.gelu_new_forward does, but keep the slope."""
    rows = as_rows(x)
    slope, out = empty(rows.shape, x.dtype), empty(rows.shape, x.dtype)
    slope[...] = rows
    bend(slope, or_empty(None, x.dtype), out)
    return out.reshape(x.shape), (slope,)


def gelu_new_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Do what npgpt.layers.gelu_new_backward does."""
    (slope,) = cache
    return np.multiply(as_rows(dout), slope, out=empty(slope.shape, slope.dtype)).reshape(dout.shape)


@jit
def bend(x: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """Put GELU of x + bias into out and its derivative into x, whose values are not needed afterwards.

    x, out  (N, C)
    bias    (C,), or of size 0 if there is none
    """
    one, scale, cubic = x.dtype.type(1), x.dtype.type(TWICE_SCALE), x.dtype.type(CUBIC)
    three = x.dtype.type(3)
    for n in range(x.shape[0]):
        if bias.size:
            for c in range(x.shape[1]):
                x[n, c] += bias[c]
        # in two loops: the constants of exp leave too few registers for those of the rest
        for c in range(x.shape[1]):
            z = x[n, c]
            out[n, c] = exp(-abs(scale * (z + cubic * (z * z * z))))
        for c in range(x.shape[1]):
            # the logistic function of |2u| and of -|2u|: their sum is 1, and 1 - high would round the small one away
            z, e = x[n, c], out[n, c]
            high = one / (one + e)
            low = e * high
            s = low if z < 0 else high
            out[n, c] = z * s
            # out = z * s(2u), and s' = s * (1 - s) = high * low
            x[n, c] = s + z * (high * low) * (scale * (one + three * cubic * (z * z)))
