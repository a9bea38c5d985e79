"""Helpers of the kernels: arrays as contiguous rows, and sums over rows."""

import numpy as np

from npgpt.support.buffers import empty
from npgpt.support.jit import jit


def as_rows(x: np.ndarray) -> np.ndarray:
    """Return x (..., C) as a contiguous array (N, C): a view if x is contiguous, otherwise a copy.

    Raises TypeError if the dtype is not float32 or float64.
    """
    if x.dtype.char not in "fd":
        raise TypeError(f"the compiled ops take float32 or float64, got {x.dtype}")
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


def or_empty(array: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    """Return the array, or one of size 0 for None: a loop is compiled anew for None, but not for another size."""
    return empty((0,), dtype) if array is None else array


@jit
def add_bias(x: np.ndarray, bias: np.ndarray) -> None:
    """Add bias (C,) to every row of x (N, C), in place."""
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            x[n, c] += bias[c]


@jit
def sum_rows(x: np.ndarray, out: np.ndarray) -> None:
    """Put the sum of the rows of x (N, C) into out (C,)."""
    out[:] = 0
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            out[c] += x[n, c]
