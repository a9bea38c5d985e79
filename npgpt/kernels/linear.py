"""Linear: BLAS computes the products, and writes them into memory from the pool."""

import numpy as np

from npgpt.kernels.rows import add_bias, as_rows, sum_rows
from npgpt.support.buffers import empty


def linear_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.linear_forward does."""
    rows = as_rows(x)
    out = np.dot(rows, weight, out=empty((len(rows), weight.shape[1]), x.dtype))
    if bias is not None:
        add_bias(out, bias)
    return out.reshape(*x.shape[:-1], -1), (rows, weight, bias is not None)


def linear_backward(
    dout: np.ndarray, cache: tuple, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Do what npgpt.layers.linear_backward does."""
    rows, weight, has_bias = cache
    drows = as_rows(dout)
    dweight = np.dot(rows.T, drows, out=empty(weight.shape, weight.dtype) if dweight is None else dweight)
    if has_bias:
        dbias = empty(drows.shape[1:], drows.dtype) if dbias is None else dbias
        sum_rows(drows, dbias)
    dx = np.dot(drows, weight.T, out=empty(rows.shape, rows.dtype))
    return dx.reshape(*dout.shape[:-1], -1), dweight, dbias
