"""Embedding: rows are copied and gradients are added row by row, without an index array in between."""

import numpy as np

from npgpt.kernels.rows import as_rows
from npgpt.support.buffers import empty
from npgpt.support.jit import jit


def embedding_forward(ids: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.embedding_forward does."""
    V, C = weight.shape
    if ids.size and not (0 <= ids.min() and ids.max() < V):
        bad = ids[(ids < 0) | (ids >= V)].flat[0]
        raise ValueError(f"id {bad} is outside the table of {V} rows (0..{V - 1})")
    out = empty((*ids.shape, C), weight.dtype)
    np.take(weight, ids, axis=0, out=out, mode="clip")  # ids were checked; mode "raise" would make a copy
    return out, (ids, weight.shape)


def embedding_backward(dout: np.ndarray, cache: tuple, dweight: np.ndarray | None = None) -> np.ndarray:
    """Do what npgpt.layers.embedding_backward does."""
    ids, shape = cache
    if dweight is None:
        dweight = empty(shape, dout.dtype)
        dweight[...] = 0
    add_rows(np.ascontiguousarray(ids.reshape(-1), np.int64), as_rows(dout), dweight)
    return dweight


@jit
def add_rows(ids: np.ndarray, dout: np.ndarray, dweight: np.ndarray) -> None:
    """Add each row of dout (N, C) to the row of dweight (V, C) that ids (N,) names, in order."""
    for n in range(ids.size):
        for c in range(dout.shape[1]):
            dweight[ids[n], c] += dout[n, c]
