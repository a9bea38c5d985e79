"""Causal softmax, a row at a time over the keys that its query sees; what the mask hides is not computed.

The compiled functions take an empty array of starts where every query sees from the key 0 on.
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
    softmax_rows(probs, Tq, firsts, probs.dtype.type(1), empty((len(probs), 2), probs.dtype))
    return probs.reshape(scores.shape), (probs, Tq, firsts)


def causal_softmax_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Do what npgpt.layers.causal_softmax_backward does."""
    probs, Tq, firsts = cache
    dscores = empty(probs.shape, probs.dtype)
    dscores[...] = as_rows(dout)
    softmax_rows_backward(dscores, probs, Tq, firsts, probs.dtype.type(1))
    return dscores.reshape(dout.shape)


def first_keys(starts: np.ndarray | None, shape: tuple[int, ...], left_out: int = 0) -> np.ndarray:
    """Return the first key that each row of scores of this shape sees, where so many keys are left out: (N,) int64.

    None gives an empty array. Raises TypeError for starts that are not integers.
    """
    if starts is None:
        return empty((0,), INDEX)
    if starts.dtype.kind not in "iu":
        raise TypeError(f"starts must be integers, got {starts.dtype}")
    firsts = empty(shape[:-1], INDEX)
    firsts[...] = np.broadcast_to(starts, shape[:-1])
    firsts -= left_out
    return firsts.reshape(-1)


def check_starts(firsts: np.ndarray, Tq: int, Tk: int) -> None:
    """Raise ValueError for a start that is not a key up to its query."""
    queries = np.arange(len(firsts)) % Tq + Tk - Tq
    wrong = np.flatnonzero((firsts < 0) | (firsts > queries))
    if wrong.size:
        raise ValueError(f"start {firsts[wrong[0]]} is not in 0..{queries[wrong[0]]}, its query")


@jit
def softmax_rows(scores: np.ndarray, Tq: int, firsts: np.ndarray, scale: float, stats: np.ndarray) -> None:
    """Turn scores (N, Tk) into the softmax of scale * scores, in place: every Tq rows are the queries of one head.

    firsts  (N,): the first key that each row sees; empty where it is 0 for all
    stats   (N, 2): each row's largest score, and 1 / the sum of its exponentials
    """
    Tk = scores.shape[1]
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    for n in range(scores.shape[0]):
        first = firsts[n] if len(firsts) else 0
        visible = Tk - Tq + n % Tq + 1 - first
        row = scores[n, first:]  # a loop that begins at 0 is vectorised: its indices are never negative
        top = row[0]
        for k in range(visible):
            top = max(top, row[k])
        total = zero
        for k in range(visible):
            e = exp(scale * (row[k] - top))
            row[k] = e
            total += e
        share = one / total
        for k in range(visible):
            row[k] *= share
        hidden = zero * share  # NaN in a row that has one, as in the definition
        for k in range(first):
            scores[n, k] = hidden
        for k in range(visible, len(row)):
            row[k] = hidden
        stats[n, 0], stats[n, 1] = top, share


@jit
def softmax_rows_again(scores: np.ndarray, Tq: int, firsts: np.ndarray, scale: float, stats: np.ndarray) -> None:
    """Turn scores into what softmax_rows made of them, in place, without its sums."""
    Tk = scores.shape[1]
    for n in range(scores.shape[0]):
        first = firsts[n] if len(firsts) else 0
        visible = Tk - Tq + n % Tq + 1 - first
        row = scores[n, first:]
        top, share = stats[n, 0], stats[n, 1]
        for k in range(visible):
            row[k] = exp(scale * (row[k] - top)) * share
        hidden = scores.dtype.type(0) * share
        for k in range(first):
            scores[n, k] = hidden
        for k in range(visible, len(row)):
            row[k] = hidden


@jit
def softmax_rows_backward(dprobs: np.ndarray, probs: np.ndarray, Tq: int, firsts: np.ndarray, scale: float) -> None:
    """Turn the gradient of probs into that of the scores, in place; zero where a key was not visible."""
    Tk = probs.shape[1]
    for n in range(probs.shape[0]):
        first = firsts[n] if len(firsts) else 0
        visible = Tk - Tq + n % Tq + 1 - first
        drow, row = dprobs[n, first:], probs[n, first:]
        mean = probs.dtype.type(0)
        for k in range(visible):
            mean += drow[k] * row[k]
        for k in range(visible):
            drow[k] = scale * row[k] * (drow[k] - mean)
        hidden = probs.dtype.type(0) * mean
        for k in range(first):
            dprobs[n, k] = hidden
        for k in range(visible, len(drow)):
            drow[k] = hidden
