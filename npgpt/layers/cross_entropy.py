"""Softmax and cross-entropy in one: the mean surprise, in nats, at the tokens that came."""

import numpy as np


def cross_entropy_forward(
    logits: np.ndarray, targets: np.ndarray, ignore_index: int = -100
) -> tuple[np.ndarray, tuple]:
    """Average `-log softmax(logits)[target]` over the targets that count.

    logits   (..., V)
    targets  (...) integers in 0..V-1, or ignore_index, which does not count
    loss     a scalar in the dtype of logits, in nats; 0 where no target counts

    Raises ValueError for any other target.
    """
    V = logits.shape[-1]
    rows, flat = logits.reshape(-1, V), targets.reshape(-1)
    counted = np.flatnonzero(flat != ignore_index)
    ids = flat[counted]
    if ids.size and not (0 <= ids.min() and ids.max() < V):
        bad = ids[(ids < 0) | (ids >= V)][0]
        raise ValueError(f"target {bad} is neither in 0..{V - 1} nor ignore_index={ignore_index}")
    # with its largest logit at 0 no exp of a row overflows, and their sum is at least 1
    shifted = rows - rows.max(axis=-1, keepdims=True)
    exp = np.exp(shifted)
    total = exp.sum(axis=-1, keepdims=True)
    nll = np.log(total[counted, 0]) - shifted[counted, ids]
    loss = nll.sum() / max(counted.size, 1)
    return loss, (exp / total, counted, ids, logits.shape)


def cross_entropy_backward(dout: np.ndarray | float, cache: tuple) -> np.ndarray:
    """Return `dlogits = dout / N * (softmax(logits) - onehot(target))`, 0 where the target does not count.

    dout     the scalar gradient of the loss
    dlogits  (..., V)
    """
    probs, counted, ids, shape = cache
    dlogits = np.zeros_like(probs)
    # nll = log(sum(exp(logits))) - logits[target]
    dlogits[counted] = probs[counted]
    dlogits[counted, ids] -= 1
    # loss = nll.sum() / N
    dlogits *= probs.dtype.type(dout) / max(counted.size, 1)
    return dlogits.reshape(shape)
