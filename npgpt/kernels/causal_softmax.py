"""Causal softmax, one row at a time, over the visible keys only: nothing is computed for masked keys.

For the compiled functions, an empty array of first keys means that every query begins at the key 0.
"""

import numpy as np

from npgpt.kernels.exp import exp
from npgpt.kernels.rows import as_rows
from npgpt.support.buffers import empty
from npgpt.support.jit import jit

INDEX = np.dtype(np.int64)


def causal_softmax_forward(scores: np.ndarray, starts: np.ndarray | None = None) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.causal_softmax_forward does."""
    Tq, Tk = scores.shape[-2:]
    if Tq > Tk:
        raise ValueError(f"{Tq} queries but only {Tk} keys: every query must see at least its own key")
    firsts = first_keys(starts, scores.shape)
    if starts is not None:
        check_starts(firsts, Tq, Tk)
    probs = empty((scores.size // Tk, Tk), scores.dtype)
    probs[...] = as_rows(scores)
    softmax_rows(probs, Tq, firsts)
    return probs.reshape(scores.shape), (probs, Tq, firsts)


def causal_softmax_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Do what npgpt.layers.causal_softmax_backward does."""
    probs, Tq, firsts = cache
    dscores = empty(probs.shape, probs.dtype)
    dscores[...] = as_rows(dout)
    softmax_rows_backward(dscores, probs, Tq, firsts)
    return dscores.reshape(dout.shape)


def first_keys(starts: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return the first visible key of each row of scores of this shape: (N,) int64.

    Example: starts [[0, 2]] and shape (1, 2, 4) give [0, 2]. starts None gives an empty array.

    Raises TypeError if starts are not integers.
    """
    if starts is None:
        return empty((0,), INDEX)
    if starts.dtype.kind not in "iu":
        raise TypeError(f"starts must be integers, got {starts.dtype}")
    firsts = empty(shape[:-1], INDEX)
    firsts[...] = np.broadcast_to(starts, shape[:-1])
    return firsts.reshape(-1)


def check_starts(firsts: np.ndarray, Tq: int, Tk: int) -> None:
    """Raise ValueError if a start is not in 0..its query's position."""
    queries = np.arange(len(firsts)) % Tq + Tk - Tq
    wrong = np.flatnonzero((firsts < 0) | (firsts > queries))
    if wrong.size:
        raise ValueError(f"start {firsts[wrong[0]]} is not in 0..{queries[wrong[0]]}, its query")


@jit
def softmax_rows(scores: np.ndarray, Tq: int, firsts: np.ndarray) -> None:
    """Turn scores (N, Tk) into their softmax, in place. Each group of Tq rows is one head's queries.

    Example: [[0, 9], [0, 0]] with Tq = 2 becomes [[1, 0], [0.5, 0.5]].

    firsts  (N,): the first visible key of each row; empty if it is 0 for all
    """
    Tk = scores.shape[1]
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    for n in range(scores.shape[0]):
        first = firsts[n] if len(firsts) else 0
        visible = Tk - Tq + n % Tq + 1 - first
        row = scores[n, first:]  # the loops below begin at 0, so their indices are never negative: they are vectorised
        top = row[0]
        for k in range(visible):
            top = max(top, row[k])
        total = zero
        for k in range(visible):
            e = exp(row[k] - top)
            row[k] = e
            total += e
        share = one / total
        for k in range(visible):
            row[k] *= share
        hidden = zero * share  # NaN if the row has a NaN, as in the definition
        for k in range(first):
            scores[n, k] = hidden
        for k in range(visible, len(row)):
            row[k] = hidden


@jit
def softmax_rows_backward(dprobs: np.ndarray, probs: np.ndarray, Tq: int, firsts: np.ndarray) -> None:
    """Turn the gradient of probs into that of the scores, in place; it is 0 for masked keys."""
    Tk = probs.shape[1]
    for n in range(probs.shape[0]):
        first = firsts[n] if len(firsts) else 0
        visible = Tk - Tq + n % Tq + 1 - first
        drow, row = dprobs[n, first:], probs[n, first:]
        mean = probs.dtype.type(0)
        for k in range(visible):
            mean += drow[k] * row[k]
        for k in range(visible):
            drow[k] = row[k] * (drow[k] - mean)
        hidden = probs.dtype.type(0) * mean
        for k in range(first):
            dprobs[n, k] = hidden
        for k in range(visible, len(drow)):
            drow[k] = hidden
