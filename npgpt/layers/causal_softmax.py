"""Causal softmax: each query's weights over the keys that it may see."""

import numpy as np


def causal_softmax_forward(scores: np.ndarray, starts: np.ndarray | None = None) -> tuple[np.ndarray, tuple]:
    """Normalise each row over the keys up to its query: `out_ij = exp(s_ij) / sum_k exp(s_ik)`, 0 for other keys.

    scores  (..., Tq, Tk), Tq <= Tk. The queries are the last Tq of the Tk positions: query i sees the keys
            0..Tk-Tq+i. In training Tq = Tk; with a cache of earlier keys Tq is smaller.
    starts  (..., Tq) integers, as they broadcast over the rows of scores: the first key that each query sees, where
            several texts lie behind one another. None: the key 0
    out     (..., Tq, Tk), the rows sum to 1

    Raises ValueError for more queries than keys, because the first of them would see none, and for a start that is no
    key up to its query; TypeError for starts that are not integers.
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
    # shifting a row changes nothing, and with its largest at 0 no exp overflows
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs = exp / exp.sum(axis=-1, keepdims=True)
    return probs, (probs,)


def causal_softmax_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Return `dscores = probs * (dout - sum_j dout_j probs_j)`; zero where a key was not visible.

    dout, dscores  (..., Tq, Tk)
    """
    (probs,) = cache
    # d probs_j / d scores_i = probs_j * ([i == j] - probs_i)
    dscores = probs * (dout - (dout * probs).sum(axis=-1, keepdims=True))
    return dscores
