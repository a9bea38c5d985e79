"""Cross-entropy: two passes over each row of logits, for the largest logit and for the sum of exponentials."""

import numpy as np

from npgpt.kernels.exp import exp
from npgpt.kernels.rows import as_rows, largest
from npgpt.layers.distributions import checked_smoothing
from npgpt.support.buffers import empty
from npgpt.support.jit import jit

CHUNK = 128  # terms that are summed in the precision of the logits; the sum over chunks is in float64
NOT_COUNTED = -1  # replaces ignore_index, whatever its value


def cross_entropy_forward(
    logits: np.ndarray, targets: np.ndarray, ignore_index: int = -100, label_smoothing: float = 0.0
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.cross_entropy_forward does, but keep the logits and two numbers per row."""
    e = checked_smoothing(label_smoothing)
    rows = as_rows(logits)
    ids, count = checked(targets, logits.shape[-1], ignore_index)
    stats = empty((len(rows), 2), rows.dtype)
    loss = rows.dtype.type(_forward(rows, ids, e, stats) / count)
    return loss, (rows, ids, stats, count, logits.shape, e)


def cross_entropy_backward(dout: np.ndarray | float, cache: tuple) -> np.ndarray:
    """Do what npgpt.layers.cross_entropy_backward does."""
    rows, ids, stats, count, shape, e = cache
    dlogits = empty(rows.shape, rows.dtype)
    real = rows.dtype.type
    scale = real(real(dout) / count)
    _backward(rows, ids, stats, scale, real(scale * (1 - e)), real(scale * e / shape[-1]), dlogits)
    return dlogits.reshape(shape)


def checked(targets: np.ndarray, V: int, ignore_index: int) -> tuple[np.ndarray, int]:
    """Return the flat targets as int64, with NOT_COUNTED for ignore_index, and the number of others, but at least 1.

    Example: targets [[3, -100], [0, 1]] and ignore_index -100 give [3, -1, 0, 1] and 3.

    Raises ValueError for a target that is neither in 0..V-1 nor ignore_index.
    """
    flat = targets.reshape(-1)
    counted = flat != ignore_index
    ids = np.where(counted, flat.astype(np.int64), NOT_COUNTED)  # int64 first, as unsigned dtypes have no -1
    bad = flat[counted & ((flat < 0) | (flat >= V))]
    if bad.size:
        raise ValueError(f"target {bad[0]} is neither in 0..{V - 1} nor ignore_index={ignore_index}")
    return ids, max(1, int(counted.sum()))


@jit
def _forward(logits: np.ndarray, ids: np.ndarray, e: float, stats: np.ndarray) -> float:
    V = logits.shape[1]
    loss = np.float64(0)
    for n in range(logits.shape[0]):
        top = largest(logits[n])
        total = np.float64(0)
        for start in range(0, V, CHUNK):
            # indices that begin at 0 are never negative, so the loop is vectorised
            chunk = logits[n, start : start + CHUNK]
            part = logits.dtype.type(0)
            for v in range(chunk.size):
                part += exp(chunk[v] - top)
            total += part
        stats[n, 0], stats[n, 1] = top, 1 / total
        if ids[n] != NOT_COUNTED:
            loss += np.log(total) - (np.float64(logits[n, ids[n]]) - top)
            if e:
                rest = np.float64(0)
                for v in range(V):
                    rest += np.float64(logits[n, v]) - top
                loss += e * (np.float64(logits[n, ids[n]]) - top - rest / V)
    return loss


@jit
def _backward(
    logits: np.ndarray,
    ids: np.ndarray,
    stats: np.ndarray,
    scale: float,
    of_target: float,
    of_each: float,
    dlogits: np.ndarray,
) -> None:
    for n in range(logits.shape[0]):
        if ids[n] == NOT_COUNTED:
            dlogits[n, :] = 0
            continue
        top, share = stats[n, 0], stats[n, 1] * scale
        for v in range(logits.shape[1]):
            dlogits[n, v] = exp(logits[n, v] - top) * share - of_each
        dlogits[n, ids[n]] -= of_target
