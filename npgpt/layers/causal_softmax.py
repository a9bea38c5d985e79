"""Causal softmax: each query's weights over the keys that it may see."""

import numpy as np


def causal_softmax_forward(scores: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Normalise each row over the keys up to its query: `out_ij = exp(s_ij) / sum_k exp(s_ik)`, 0 for later keys.

    scores  (..., Tq, Tk), Tq <= Tk. The queries are the last Tq of the Tk positions: query i sees the keys
            0..Tk-Tq+i. In training Tq = Tk; with a cache of earlier keys Tq is smaller.
    out     (..., Tq, Tk), the rows sum to 1

    Raises ValueError for more queries than keys: the first of them would see none.
    """
    Tq, Tk = scores.shape[-2:]
    if Tq > Tk:
        raise ValueError(f"{Tq} queries but only {Tk} keys: every query must see at least its own key")
    visible = np.tri(Tq, Tk, Tk - Tq, dtype=bool)
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
