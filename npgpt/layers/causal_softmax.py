"""Causal softmax: each query's weights over the keys up to its own position."""

import numpy as np


def causal_softmax_forward(scores: np.ndarray, starts: np.ndarray | None = None) -> tuple[np.ndarray, tuple]:
    """Normalise each row over the keys up to its query: `out_ij = exp(s_ij) / sum_k exp(s_ik)`, 0 for other keys.

    Example: scores [[0, 9], [0, 0]] give [[1, 0], [0.5, 0.5]].

    scores  (..., Tq, Tk), Tq <= Tk. The queries are at the last Tq of the Tk positions, so the keys 0..Tk-Tq+i are
            visible to query i. In training Tq = Tk; with a cache of earlier keys Tq is smaller.
    starts  (..., Tq) integers, or a shape that broadcasts to it: the first visible key of each query, if a row holds
            several texts. None: the key 0
    out     (..., Tq, Tk), the rows sum to 1

    Raises ValueError for more queries than keys, because the first query would have no key, and for a start that is
    not in 0..its query's position; TypeError if starts are not integers.
    """
    Tq, Tk = scores.shape[-2:]
    if Tq > Tk:
        raise ValueError(f"{Tq} queries but only {Tk} keys: every query must see at least its own key")
    visible = np.tri(Tq, Tk, Tk - Tq, dtype=bool)
    if starts is not None:
        if starts.dtype.kind not in "iu":
            raise TypeError(f"starts must be integers, got {starts.dtype}")
        starts = np.broadcast_to(starts, scores.shape[:-1])
        wrong = (starts < 0) | (starts > np.arange(Tk - Tq, Tk))
        if wrong.any():
            raise ValueError(f"start {starts[wrong][0]} is not in 0..{np.nonzero(wrong)[-1][0] + Tk - Tq}, its query")
        visible = visible & (starts[..., None] <= np.arange(Tk))
    scores = np.where(visible, scores, -np.inf)
    # shifting a row does not change its softmax, and if its largest score is 0, no exp overflows
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs = exp / exp.sum(axis=-1, keepdims=True)
    return probs, (probs,)


def causal_softmax_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Return `dscores = probs * (dout - sum_j dout_j probs_j)`, which is 0 for masked keys.

    dout, dscores  (..., Tq, Tk)
    """
    (probs,) = cache
    # d probs_j / d scores_i = probs_j * ([i == j] - probs_i)
    dscores = probs * (dout - (dout * probs).sum(axis=-1, keepdims=True))
    return dscores
