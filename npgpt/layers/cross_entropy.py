"""Softmax and cross-entropy in one: the mean negative log-probability of the targets, in nats."""

import numpy as np

from npgpt.layers.distributions import checked_smoothing


def cross_entropy_forward(
    logits: np.ndarray, targets: np.ndarray, ignore_index: int = -100, label_smoothing: float = 0.0
) -> tuple[np.ndarray, tuple]:
    """Average `-log softmax(logits)[target]` over the targets that are not ignored.

    Example: logits [[0, 0], [5, 1]] and targets [1, -100] give log 2 = 0.693.

    logits           (..., V)
    targets          (...) integers in 0..V-1, or ignore_index for a position to ignore
    label_smoothing  the share e in 0..1 of each target that is divided among all V tokens: the average is that of
                     `-((1 - e) * log softmax(logits)[target] + e * mean(log softmax(logits)))`
    loss             a scalar in the dtype of logits, in nats; 0 if every target is ignored

    Raises ValueError for any other target, and for a share outside 0..1.

    Source of the smoothing: Szegedy et al., arXiv:1512.00567, section 7.
    """
    e = checked_smoothing(label_smoothing)
    V = logits.shape[-1]
    rows, flat = logits.reshape(-1, V), targets.reshape(-1)
    counted = np.flatnonzero(flat != ignore_index)
    ids = flat[counted]
    if ids.size and not (0 <= ids.min() and ids.max() < V):
        bad = ids[(ids < 0) | (ids >= V)][0]
        raise ValueError(f"target {bad} is neither in 0..{V - 1} nor ignore_index={ignore_index}")
    # if a row's largest logit is 0, no exp overflows, and their sum is at least 1
    shifted = rows - rows.max(axis=-1, keepdims=True)
    exp = np.exp(shifted)
    total = exp.sum(axis=-1, keepdims=True)
    nll = np.log(total[counted, 0]) - shifted[counted, ids]
    if e:
        nll = nll + e * (shifted[counted, ids] - shifted[counted].mean(axis=-1))
    loss = nll.sum() / max(counted.size, 1)
    return loss, (exp / total, counted, ids, logits.shape, e)


def cross_entropy_backward(dout: np.ndarray | float, cache: tuple) -> np.ndarray:
    """Return `dlogits = dout / N * (softmax(logits) - (1 - e) * onehot(target) - e / V)`, 0 where it is ignored.

    N is the number of targets that are not ignored, and e the label smoothing.

    dout     the scalar gradient of the loss
    dlogits  (..., V)
    """
    probs, counted, ids, shape, e = cache
    dlogits = np.zeros_like(probs)
    # nll = log(sum(exp(logits))) - (1 - e) * logits[target] - e * mean(logits)
    dlogits[counted] = probs[counted] - e / shape[-1]
    dlogits[counted, ids] -= 1 - e
    # loss = nll.sum() / N
    dlogits *= probs.dtype.type(dout) / max(counted.size, 1)
    return dlogits.reshape(shape)
