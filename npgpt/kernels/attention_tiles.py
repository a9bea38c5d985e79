"""The loops over a tile of attention: keys are its rows, queries its columns.

A query's softmax goes down a column, so every inner loop works on whole vectors of queries.
"""

import numpy as np

from npgpt.kernels.exp import exp2
from npgpt.support.jit import jit


@jit(inner=True)
def part(x: np.ndarray, row: int, column: int, rows: int, columns: int) -> np.ndarray:
    """Return a part of a matrix, for a product. All parts are of one type, whatever x is, and share compiled code."""
    return x[row : row + rows, column : column + columns]


@jit(inner=True)
def cut(memory: np.ndarray, begin: int, rows: int, columns: int) -> np.ndarray:
    """Return a piece of memory as a contiguous matrix."""
    return memory[begin : begin + rows * columns].reshape(rows, columns)


@jit(inner=True)
def copy(
    x: np.ndarray, row: int, column: int, rows: int, columns: int, out: np.ndarray, to_row: int, to_column: int
) -> None:
    """Copy a part of x into a part of out. Rows that lie close together cost the processor fewer pages to look up."""
    for n in range(rows):
        line, to = x[row + n, column:], out[to_row + n, to_column:]
        for c in range(columns):
            to[c] = line[c]


@jit(inner=True)
def turn(x: np.ndarray, row: int, column: int, factors: np.ndarray, out: np.ndarray) -> None:
    """Put a part of x, its rows multiplied by their factors, into out, transposed."""
    columns, rows = out.shape
    for n in range(rows):
        line, factor = x[row + n, column:], factors[n]
        for c in range(columns):
            out[c, n] = factor * line[c]


@jit(inner=True)
def hide(tile: np.ndarray, firsts: np.ndarray, at: int, t: int, k: int) -> None:
    """Put minus infinity where a query does not see a key; k is the tile's first key and t its first query.

    firsts  the first key that each query sees, or empty; that of the tile's first query is firsts[at]
    """
    m, n = tile.shape
    hidden = tile.dtype.type(-np.inf)
    for j in range(m):
        row = tile[j]
        for i in range(k + j - t):
            row[i] = hidden
    for j in range(m if firsts.size else 0):
        row, some = tile[j], firsts[at : at + n]
        for i in range(n):
            row[i] = hidden if k + j < some[i] else row[i]


@jit(inner=True)
def larger(a: float, b: float) -> float:
    """Return the larger of two numbers."""
    return b if b > a else a


@jit(inner=True)
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


@jit(inner=True)
def exponentials_again(tile: np.ndarray, top: np.ndarray) -> None:
    """Turn scores into 2^(score - top), in place."""
    for k in range(tile.shape[0]):
        row = tile[k]
        for i in range(tile.shape[1]):
            row[i] = exp2(row[i] - top[i])


@jit(inner=True)
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


@jit(inner=True)
def softmax_backward(weights: np.ndarray, dtile: np.ndarray, mean: np.ndarray) -> None:
    """Turn the gradient of the weights into that of the scores, in place."""
    for k in range(weights.shape[0]):
        row, drow = weights[k], dtile[k]
        for i in range(weights.shape[1]):
            drow[i] = row[i] * (drow[i] - mean[i])


@jit(inner=True)
def drop(tile: np.ndarray, mask: np.ndarray, pair: int, t: int, k: int, T: int, out: np.ndarray) -> None:
    """Put the tile of the queries from t and the keys from k into out, with 0 where the mask (B * H, T * T) is 0."""
    m, n = tile.shape
    for i in range(n):
        begin = (t + i) * T + k
        line = mask[pair, begin:]
        for j in range(m):
            out[j, i] = tile[j, i] * tile.dtype.type(line[j])


@jit(inner=True)
def scale_rows(x: np.ndarray, row: int, column: int, columns: int, factors: np.ndarray) -> None:
    """Multiply each row of a part of x by its factor, in place."""
    for n in range(len(factors)):
        line, factor = x[row + n, column:], factors[n]
        for c in range(columns):
            line[c] *= factor


@jit(inner=True)
def dots_of_rows(
    x: np.ndarray,
    y: np.ndarray,
    row: int,
    column: int,
    columns: int,
    factors: np.ndarray,
    scale: float,
    out: np.ndarray,
) -> None:
    """Put the scalar products of the rows of a part of x and y, multiplied by their factors and scale, into out."""
    for n in range(len(out)):
        a, b = x[row + n, column:], y[row + n, column:]
        total = x.dtype.type(0)
        for c in range(columns):
            total += a[c] * b[c]
        out[n] = total * factors[n] * scale
