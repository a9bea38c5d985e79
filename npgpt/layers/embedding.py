"""Embedding: a table of vectors, one row for each id."""

import numpy as np


def embedding_forward(ids: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Look up the row of every id: `out = weight[ids]`.

    ids     (...) integers in 0..V-1: tokens, or positions
    weight  (V, C)
    out     (..., C), the dtype of weight

    Raises ValueError for an id outside the table; a negative one would otherwise count from the end.
    """
    V = weight.shape[0]
    if ids.size and not (0 <= ids.min() and ids.max() < V):
        bad = ids[(ids < 0) | (ids >= V)].flat[0]
        raise ValueError(f"id {bad} is outside the table of {V} rows (0..{V - 1})")
    out = weight[ids]
    return out, (ids, weight.shape)


def embedding_backward(dout: np.ndarray, cache: tuple, dweight: np.ndarray | None = None) -> np.ndarray:
    """Add each position's gradient to the row that it came from.

    dout     (..., C)
    dweight  (V, C); zero for the rows that no id named. A given one is added to, not overwritten
    """
    ids, shape = cache
    # out = weight[ids]: a row named by several ids gets the sum. `dweight[ids] += dout` would keep
    # only the last of them; np.add.at is the form that adds up.
    dweight = np.zeros(shape, dout.dtype) if dweight is None else dweight
    np.add.at(dweight, ids, dout)
    return dweight
