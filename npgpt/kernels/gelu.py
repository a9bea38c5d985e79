"""GELU in the exact form: one exponential serves the distribution and its density. The forward keeps the slope."""

import math

import numpy as np

from npgpt.kernels.normal import bell, tail
from npgpt.kernels.rows import as_rows, or_empty
from npgpt.support.buffers import empty
from npgpt.support.jit import jit

PEAK = math.sqrt(0.5 / math.pi)  # of the density


def gelu_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.gelu_forward does, but keep the slope."""
    rows = as_rows(x)
    slope, out = empty(rows.shape, x.dtype), empty(rows.shape, x.dtype)
    slope[...] = rows
    bend(slope, or_empty(None, x.dtype), out)
    return out.reshape(x.shape), (slope,)


def gelu_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Do what npgpt.layers.gelu_backward does."""
    (slope,) = cache
    return np.multiply(as_rows(dout), slope, out=empty(slope.shape, slope.dtype)).reshape(dout.shape)


@jit
def bend(x: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """Put GELU of x + bias into out and its derivative into x, whose values are not needed afterwards.

    x, out  (N, C)
    bias    (C,), or of size 0 if there is none
    """
    one, peak = x.dtype.type(1), x.dtype.type(PEAK)
    for n in range(x.shape[0]):
        if bias.size:
            for c in range(x.shape[1]):
                x[n, c] += bias[c]
        # in two loops: the constants of exp leave too few registers for those of the rest
        for c in range(x.shape[1]):
            out[n, c] = bell(abs(x[n, c]))
        for c in range(x.shape[1]):
            z, e = x[n, c], out[n, c]
            low = tail(abs(z), e)
            Phi = low if z < 0 else one - low
            out[n, c] = z * Phi
            x[n, c] = Phi + z * (peak * e)
