"""int8: the product straight from the integers, by the loops of `streams.py`."""

import numpy as np

from npgpt.kernels.rows import as_rows
from npgpt.kernels.streams import columns_product, rows_product
from npgpt.support.buffers import empty
from npgpt.support.jit import jit


def int8_linear_forward(x: np.ndarray, q: np.ndarray, scale: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Do what npgpt.layers.int8_linear_forward does. q may be the transpose of a matrix (O, I), too."""
    rows = as_rows(x)
    out = empty((len(rows), q.shape[1]), x.dtype)
    if q.flags.f_contiguous and not q.flags.c_contiguous:
        _by_rows(rows, q.T, scale, out)
        if bias is not None:
            out += bias
    else:
        _by_columns(rows, np.ascontiguousarray(q), scale, scale[:0] if bias is None else bias, out)
    return out.reshape(*x.shape[:-1], -1)


@jit
def _by_columns(x: np.ndarray, q: np.ndarray, scale: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    columns_product(x, q, scale, bias, out, 0, q.shape[1])


@jit
def _by_rows(x: np.ndarray, q: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
    rows_product(x, q, scale, out, 0, q.shape[0])
