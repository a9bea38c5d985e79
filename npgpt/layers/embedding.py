"""Embedding: a table of vectors, one row per id."""

import numpy as np


def embedding_forward(ids: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Look up the row of every id: `out = weight[ids]`.

    ids     (...) integers in 0..V-1: tokens, or positions
    weight  (V, C)
    out     (..., C), the dtype of weight

    Raises ValueError for an id outside the table. Without the check, a negative id would count from the end.
    """
    V = weight.shape[0]
    if ids.size and not (0 <= ids.min() and ids.max() < V):
        bad = ids[(ids < 0) | (ids >= V)].flat[0]
        raise ValueError(f"id {bad} is outside the table of {V} rows (0..{V - 1})")
    out = weight[ids]
    return out, (ids, weight.shape)


def embedding_backward(dout: np.ndarray, cache: tuple, dweight: np.ndarray | None = None) -> np.ndarray:
    """Add each position's gradient to the row that was looked up there.

    Example: ids [4, 1, 4] give dweight[4] = dout[0] + dout[2] and dweight[1] = dout[1].

    dout     (..., C)
    dweight  (V, C); zero in the rows of unused ids. If given, it is added to, not overwritten
    """
    ids, shape = cache
    # out = weight[ids]: a row that several positions look up gets the sum of their gradients. `dweight[ids] += dout`
    # would keep only the last one; np.add.at adds them all.
    dweight = np.zeros(shape, dout.dtype) if dweight is None else dweight
    np.add.at(dweight, ids, dout)
    return dweight
