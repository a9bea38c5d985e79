"""Causal softmax, a row at a time over the keys that its query sees; what the mask hides is not computed."""

import numpy as np

from npgpt.buffers import empty
from npgpt.jit import jit
from npgpt.kernels.exp import exp
from npgpt.kernels.rows import as_rows


def causal_softmax_forward(scores: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.causal_softmax_forward does."""
    Tq, Tk = scores.shape[-2:]
    if Tq > Tk:
        raise ValueError(f"{Tq} queries but only {Tk} keys: every query must see at least its own key")
    probs = empty((scores.size // Tk, Tk), scores.dtype)
    probs[...] = as_rows(scores)
    softmax_rows(probs, Tq, probs.dtype.type(1), empty((len(probs), 2), probs.dtype))
    return probs.reshape(scores.shape), (probs, Tq)


def causal_softmax_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Do what npgpt.layers.causal_softmax_backward does."""
    probs, Tq = cache
    dscores = empty(probs.shape, probs.dtype)
    dscores[...] = as_rows(dout)
    softmax_rows_backward(dscores, probs, Tq, probs.dtype.type(1))
    return dscores.reshape(dout.shape)


@jit
def softmax_rows(scores: np.ndarray, Tq: int, scale: float, stats: np.ndarray) -> None:
    """Turn scores (N, Tk) into the softmax of scale * scores, in place: every Tq rows are the queries of one head.

    stats  (N, 2): each row's largest score, and 1 / the sum of its exponentials
    """
    Tk = scores.shape[1]
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    for n in range(scores.shape[0]):
        visible = Tk - Tq + n % Tq + 1
        top = scores[n, 0]
        for k in range(visible):
            top = max(top, scores[n, k])
        total = zero
        for k in range(visible):
            e = exp(scale * (scores[n, k] - top))
            scores[n, k] = e
            total += e
        share = one / total
        for k in range(visible):
            scores[n, k] *= share
        for k in range(visible, Tk):
            scores[n, k] = zero * share  # NaN in a row that has one, as in the definition
        stats[n, 0], stats[n, 1] = top, share


@jit
def softmax_rows_again(scores: np.ndarray, Tq: int, scale: float, stats: np.ndarray) -> None:
    """Turn scores into what softmax_rows made of them, in place, without its sums."""
    Tk = scores.shape[1]
    for n in range(scores.shape[0]):
        visible = Tk - Tq + n % Tq + 1
        top, share = stats[n, 0], stats[n, 1]
        for k in range(visible):
            scores[n, k] = exp(scale * (scores[n, k] - top)) * share
        for k in range(visible, Tk):
            scores[n, k] = scores.dtype.type(0) * share


@jit
def softmax_rows_backward(dprobs: np.ndarray, probs: np.ndarray, Tq: int, scale: float) -> None:
    """Turn the gradient of probs into that of the scores, in place; zero where a key was not visible."""
    Tk = probs.shape[1]
    for n in range(probs.shape[0]):
        visible = Tk - Tq + n % Tq + 1
        mean = probs.dtype.type(0)
        for k in range(visible):
            mean += dprobs[n, k] * probs[n, k]
        for k in range(visible):
            dprobs[n, k] = scale * probs[n, k] * (dprobs[n, k] - mean)
        for k in range(visible, Tk):
            dprobs[n, k] = probs.dtype.type(0) * mean
