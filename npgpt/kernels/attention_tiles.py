"""The loops over a tile of attention: keys are its rows, queries its columns.

A query's softmax goes down a column, so every inner loop works on whole vectors of queries.
"""

import numpy as np

from npgpt.kernels.exp import exp2
from npgpt.support.jit import jit


@jit
def turn(x: np.ndarray, scale: float, out: np.ndarray) -> None:
    """Put scale * x.T into out. A product whose right side has contiguous rows is the fastest."""
    for c in range(out.shape[0]):
        for n in range(out.shape[1]):
            out[c, n] = scale * x[n, c]


@jit
def hide(tile: np.ndarray, ahead: int, firsts: np.ndarray, begin: int) -> None:
    """Put minus infinity where a query does not see a key.

    ahead   how many positions the tile's first key is after its first query
    firsts  (queries,): the first key that each query sees, or empty; `begin` is the tile's first key
    """
    hidden = tile.dtype.type(-np.inf)
    for k in range(tile.shape[0]):
        row = tile[k]
        for n in range(ahead + k):
            row[n] = hidden
        for n in range(len(firsts)):
            row[n] = hidden if begin + k < firsts[n] else row[n]


@jit
def larger(a: float, b: float) -> float:
    """Return the larger of two numbers."""
    return b if b > a else a


@jit
def exponentials(tile: np.ndarray, top: np.ndarray, total: np.ndarray, change: np.ndarray) -> None:
    """Turn scores into 2^(score - top), in place, after raising top to the largest in each column.

    top     (queries,), raised
    total   (queries,), rescaled, and the sums of the columns added
    change  (queries,), written: 2^(old top - new top), by which what depends on the old top is to be multiplied
    """
    m, n = tile.shape
    for i in range(n):
        change[i] = top[i]
    for k in range(0, m - 3, 4):  # four rows at once, because reading and writing top costs more than a comparison
        a, b, c, d = tile[k], tile[k + 1], tile[k + 2], tile[k + 3]
        for i in range(n):
            top[i] = larger(top[i], larger(larger(a[i], b[i]), larger(c[i], d[i])))
    for k in range(m // 4 * 4, m):
        row = tile[k]
        for i in range(n):
            top[i] = larger(top[i], row[i])
    for i in range(n):
        change[i] = exp2(change[i] - top[i])
        total[i] *= change[i]
    for k in range(m):
        row = tile[k]
        for i in range(n):
            e = exp2(row[i] - top[i])
            row[i] = e
            total[i] += e


@jit
def exponentials_again(tile: np.ndarray, top: np.ndarray) -> None:
    """Turn scores into 2^(score - top), in place."""
    for k in range(tile.shape[0]):
        row = tile[k]
        for i in range(tile.shape[1]):
            row[i] = exp2(row[i] - top[i])


@jit
def means_of_columns(weights: np.ndarray, dtile: np.ndarray, share: np.ndarray, mean: np.ndarray) -> None:
    """Put the sums of the columns of weights * dtile, multiplied by share, into mean (queries,)."""
    for i in range(len(mean)):
        mean[i] = 0
    for k in range(weights.shape[0]):
        row, drow = weights[k], dtile[k]
        for i in range(weights.shape[1]):
            mean[i] += row[i] * drow[i]
    for i in range(len(mean)):
        mean[i] *= share[i]


@jit
def softmax_backward(weights: np.ndarray, dtile: np.ndarray, mean: np.ndarray) -> None:
    """Turn the gradient of the weights into that of the scores, in place."""
    for k in range(weights.shape[0]):
        row, drow = weights[k], dtile[k]
        for i in range(weights.shape[1]):
            drow[i] = row[i] * (drow[i] - mean[i])


@jit
def drop(tile: np.ndarray, mask: np.ndarray, at: int, T: int, out: np.ndarray) -> np.ndarray:
    """Put the tile, with 0 where the mask is 0, into out and return it. The mask (T * T,) begins at `at`."""
    for i in range(tile.shape[1]):
        for k in range(tile.shape[0]):
            out[k, i] = tile[k, i] * out.dtype.type(mask[at + i * T + k])
    return out


@jit
def scale_rows(x: np.ndarray, factors: np.ndarray) -> None:
    """Multiply each row of x by its factor, in place."""
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            x[n, c] *= factors[n]


@jit
def scaled_rows(x: np.ndarray, factors: np.ndarray, out: np.ndarray) -> None:
    """Put each row of x, multiplied by its factor, into out."""
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            out[n, c] = x[n, c] * factors[n]


@jit
def dots_of_rows(x: np.ndarray, y: np.ndarray, factors: np.ndarray, scale: float, out: np.ndarray) -> None:
    """Put the scalar products of the rows of x and y, multiplied by their factors and by scale, into out (rows,)."""
    for n in range(x.shape[0]):
        total = x.dtype.type(0)
        for c in range(x.shape[1]):
            total += x[n, c] * y[n, c]
        out[n] = total * factors[n] * scale
