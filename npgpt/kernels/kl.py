"""KL divergence, one position at a time: three sums over a row of logits and the teacher's row, and no array of theirs.

The gradients are computed in the backward from the same exponentials, so that the only arrays of the logits' size are
the gradients that are returned.
"""

import numpy as np

from npgpt.kernels.cross_entropy import CHUNK
from npgpt.kernels.exp import exp
from npgpt.kernels.rows import as_rows, largest
from npgpt.layers.distributions import checked_temperature, checked_vectors, counted_positions
from npgpt.support.buffers import empty
from npgpt.support.jit import FASTMATH, jit


def kl_forward(
    logits: np.ndarray,
    teacher: np.ndarray,
    temperature: float = 1.0,
    targets: np.ndarray | None = None,
    ignore_index: int = -100,
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.kl_forward does, but keep the logits and five numbers per position."""
    checked_vectors(logits, teacher)
    counted = counted_positions(targets, logits.shape[:-1], ignore_index)
    T = checked_temperature(temperature)
    rows, theirs = as_rows(logits), as_rows(teacher)
    stats = empty((len(rows), 5), rows.dtype)
    total = _forward(rows, theirs, counted, rows.dtype.type(1 / T), stats)
    loss = rows.dtype.type(total * (T * T / max(counted.size, 1)))
    return loss, (rows, theirs, counted, T, stats, logits.shape)


def kl_backward(
    dout: np.ndarray | float, cache: tuple, with_teacher: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Do what npgpt.layers.kl_backward does."""
    rows, theirs, counted, T, stats, shape = cache
    real = rows.dtype.type
    per_t, scale = real(1 / T), real(real(dout) * (T / max(counted.size, 1)))
    dlogits = empty(rows.shape, rows.dtype)
    _to_student(rows, theirs, counted, per_t, stats, scale, dlogits)
    if not with_teacher:
        return dlogits.reshape(shape), None
    dteacher = empty(rows.shape, rows.dtype)
    _to_teacher(rows, theirs, counted, per_t, stats, scale, dteacher)
    return dlogits.reshape(shape), dteacher.reshape(shape)


@jit
def _forward(logits: np.ndarray, teacher: np.ndarray, counted: np.ndarray, per_t: float, stats: np.ndarray) -> float:
    V = logits.shape[1]
    loss = np.float64(0)
    for i in range(counted.size):
        n = counted[i]
        top, their_top = largest(logits[n]), largest(teacher[n])
        total, their_total, surplus = np.float64(0), np.float64(0), np.float64(0)
        for start in range(0, V, CHUNK):
            # indices that begin at 0 are never negative, so the loop is vectorised
            q, p = logits[n, start : start + CHUNK], teacher[n, start : start + CHUNK]
            part = their_part = over = logits.dtype.type(0)
            for v in range(q.size):
                x, y = (q[v] - top) * per_t, (p[v] - their_top) * per_t
                weight = exp(y)
                part += exp(x)
                their_part += weight
                over += weight * (y - x)
            total += part
            their_total += their_part
            surplus += over
        # log p - log q = y - x - shift
        shift = np.log(their_total) - np.log(total)
        each = surplus / their_total - shift
        loss += each
        stats[n, 0], stats[n, 1], stats[n, 2], stats[n, 3] = top, 1 / total, their_top, 1 / their_total
        stats[n, 4] = shift + each
    return loss


# Not "contract": it would round one product together with the difference and the other before it, and the gradient of
# equal logits, which is 0, would be a rounding error.
@jit(fastmath=FASTMATH - {"contract"})
def _to_student(
    logits: np.ndarray,
    teacher: np.ndarray,
    counted: np.ndarray,
    per_t: float,
    stats: np.ndarray,
    scale: float,
    dlogits: np.ndarray,
) -> None:
    i = 0
    for n in range(logits.shape[0]):
        if i == counted.size or counted[i] != n:
            dlogits[n, :] = 0
            continue
        i += 1
        top, share, their_top, their_share = stats[n, 0], stats[n, 1] * scale, stats[n, 2], stats[n, 3] * scale
        for v in range(logits.shape[1]):
            q, p = exp((logits[n, v] - top) * per_t), exp((teacher[n, v] - their_top) * per_t)
            dlogits[n, v] = q * share - p * their_share


@jit
def _to_teacher(
    logits: np.ndarray,
    teacher: np.ndarray,
    counted: np.ndarray,
    per_t: float,
    stats: np.ndarray,
    scale: float,
    dteacher: np.ndarray,
) -> None:
    i = 0
    for n in range(logits.shape[0]):
        if i == counted.size or counted[i] != n:
            dteacher[n, :] = 0
            continue
        i += 1
        top, their_top, share, mean = stats[n, 0], stats[n, 2], stats[n, 3] * scale, stats[n, 4]
        for v in range(logits.shape[1]):
            x, y = (logits[n, v] - top) * per_t, (teacher[n, v] - their_top) * per_t
            dteacher[n, v] = exp(y) * share * (y - x - mean)
