"""RMS norm, one row at a time: a row is read from memory once, and then stays in the processor's cache."""

import numpy as np

from npgpt.kernels.rows import as_rows
from npgpt.support.buffers import empty
from npgpt.support.jit import jit


def rmsnorm_forward(x: np.ndarray, weight: np.ndarray, eps: float = 1e-6) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.rmsnorm_forward does, but keep x and rrms instead of xhat."""
    rows = as_rows(x)
    out, rrms = empty(rows.shape, x.dtype), empty(rows.shape[:1], x.dtype)
    scale_rows_to_one(rows, weight, x.dtype.type(eps), out, rrms)
    return out.reshape(x.shape), (rows, rrms, weight)


def rmsnorm_backward(
    dout: np.ndarray, cache: tuple, dweight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Do what npgpt.layers.rmsnorm_backward does."""
    rows, rrms, weight = cache
    dx = empty(rows.shape, rows.dtype)
    dweight = empty(weight.shape, weight.dtype) if dweight is None else dweight
    scale_rows_to_one_backward(as_rows(dout), rows, rrms, weight, dx, dweight)
    return dx.reshape(dout.shape), dweight


@jit
def scale_rows_to_one(x: np.ndarray, weight: np.ndarray, eps: float, out: np.ndarray, rrms: np.ndarray) -> None:
    """Put the RMS norm of the rows of x (N, C) into out, and what the backward needs into rrms (N,)."""
    C, one = x.dtype.type(x.shape[1]), x.dtype.type(1)
    for n in range(x.shape[0]):
        square = x.dtype.type(0)
        for c in range(x.shape[1]):
            square += x[n, c] * x[n, c]
        r = one / np.sqrt(square / C + eps)
        for c in range(x.shape[1]):
            out[n, c] = x[n, c] * r * weight[c]
        rrms[n] = r


@jit
def scale_rows_to_one_backward(
    dout: np.ndarray, x: np.ndarray, rrms: np.ndarray, weight: np.ndarray, dx: np.ndarray, dweight: np.ndarray
) -> None:
    """Put the gradients of scale_rows_to_one into dx (N, C) and dweight (C,)."""
    C = x.dtype.type(x.shape[1])
    dweight[:] = 0
    for n in range(x.shape[0]):
        r = rrms[n]
        through_rrms = x.dtype.type(0)
        for c in range(x.shape[1]):
            xhat = x[n, c] * r
            through_rrms += dout[n, c] * weight[c] * xhat
            dweight[c] += dout[n, c] * xhat
        through_rrms /= C
        for c in range(x.shape[1]):
            dx[n, c] = r * (dout[n, c] * weight[c] - x[n, c] * r * through_rrms)
