"""The head of a student and of its teacher in one pass: cross-entropy, KL at a temperature, and their gradients.

The definition is `distilled_head_forward` and `distilled_head_backward` in npgpt/models/distilled.py, without the
cosine. The logits of both models are computed some rows at a time, so that they are still in a core's own cache when
they are read again; each is exponentiated once or, of the student at a temperature other than 1 and 2, twice.
"""

import numpy as np

from npgpt.kernels.cross_entropy import CHUNK
from npgpt.kernels.exp import exp
from npgpt.kernels.products import product
from npgpt.kernels.rows import largest
from npgpt.support.jit import jit

DISTILLED_ROWS = 128  # of logits at a time
TINY = float(np.finfo(np.float32).tiny)


@jit
def distilled_head(
    rows: np.ndarray,
    weight: np.ndarray,
    teacher_rows: np.ndarray,
    teacher_weight: np.ndarray,
    targets: np.ndarray,
    ce: float,
    kl: float,
    temperature: float,
    drows: np.ndarray,
    dweight: np.ndarray,
    logits: np.ndarray,
    teacher: np.ndarray,
) -> tuple[float, float]:
    """Return the sums of the rows' cross-entropies and of T^2 KL; put the gradients of ce and kl times these sums into
    drows (N, C) and dweight (V, C).

    rows, weight                  the student's hidden states (N, C), and its head (V, C)
    teacher_rows, teacher_weight  the teacher's (N, Ct) and (V, Ct)
    targets                       (N,), all in the vocabulary
    logits, teacher               memory for both models' logits, (R, V)
    """
    scratch = np.empty((2, len(weight)), weight.dtype)
    entropies, divergences = 0.0, 0.0
    for first in range(0, len(rows), len(logits)):
        n = min(len(logits), len(rows) - first)
        some, z, y = rows[first : first + n], logits[:n], teacher[:n]
        product(some, weight.T, z, False)
        product(teacher_rows[first : first + n], teacher_weight.T, y, False)
        for i in range(n):
            entropy, divergence = row_losses(z[i], y[i], targets[first + i], ce, kl, temperature, scratch)
            entropies += entropy
            divergences += divergence
        product(z, weight, drows[first : first + n], False)
        product(z.T, some, dweight, first > 0)
    return entropies, temperature * temperature * divergences


@jit(inner=True)
def row_losses(
    z: np.ndarray, y: np.ndarray, target: int, ce: float, kl: float, T: float, scratch: np.ndarray
) -> tuple[float, float]:
    """Return a row's cross-entropy and KL, and put the gradient of ce * cross-entropy + kl * T^2 KL in the place of the
    student's logits z (V,). The teacher's, y, are overwritten, too.

    p = softmax(z), q = softmax(z / T), r = softmax(y / T): KL = sum r log(r / q), and the gradient is
    ce (p - onehot) + kl T (q - r).
    """
    V, real = z.size, z.dtype.type
    shift, sharp = scratch[0], scratch[1]
    inverse, top, peak = real(1 / T), largest(z), largest(y)
    entropy = -(np.float64(z[target]) - top)
    for v in range(V):
        z[v] = (z[v] - top) * inverse
        y[v] = (y[v] - peak) * inverse
    for v in range(V):
        shift[v] = y[v] - z[v]
    exponentials(z, T, z, sharp)
    for v in range(V):
        y[v] = exp(y[v])
    sum_p, sum_q, sum_r, surplus = np.float64(0), np.float64(0), np.float64(0), np.float64(0)
    for start in range(0, V, CHUNK):
        # indices that begin at 0 are never negative, so the loop is vectorised
        stop = start + CHUNK
        p, q, r, d = sharp[start:stop], z[start:stop], y[start:stop], shift[start:stop]
        of_p, of_q, of_r, of_d = real(0), real(0), real(0), real(0)
        for v in range(p.size):
            of_p += p[v]
            of_q += q[v]
            of_r += r[v]
            of_d += r[v] * d[v]
        sum_p += of_p
        sum_q += of_q
        sum_r += of_r
        surplus += of_d
    to_p, to_q, to_r = real(ce / sum_p), real(kl * T / sum_q), real(kl * T / sum_r)
    for v in range(V):
        z[v] = sharp[v] * to_p + z[v] * to_q - y[v] * to_r
    z[target] -= real(ce)
    return entropy + np.log(sum_p), surplus / sum_r - np.log(sum_r) + np.log(sum_q)


@jit(inner=True)
def exponentials(z: np.ndarray, T: float, soft: np.ndarray, sharp: np.ndarray) -> None:
    """Put exp(z) into soft, which may be z, and exp(T z) into sharp."""
    if T != 1.0 and T != 2.0:
        for v in range(z.size):
            sharp[v] = exp(z[v] * z.dtype.type(T))
    for v in range(z.size):
        soft[v] = exp(z[v])
    if T == 1.0 or T == 2.0:
        for v in range(z.size):
            sharp[v] = soft[v] if T == 1.0 else soft[v] * soft[v]


@jit
def distilled_top_head(
    rows: np.ndarray,
    weight: np.ndarray,
    ids: np.ndarray,
    logp: np.ndarray,
    targets: np.ndarray,
    ce: float,
    kl: float,
    temperature: float,
    drows: np.ndarray,
    dweight: np.ndarray,
    logits: np.ndarray,
) -> tuple[float, float]:
    """Do what distilled_head does for a teacher of which the likeliest tokens are known, ids and logp (N, K).

    The ids of a row are in the vocabulary, and none is there twice.
    """
    scratch = np.empty((2, len(weight)), weight.dtype)
    entropies, divergences = 0.0, 0.0
    for first in range(0, len(rows), len(logits)):
        n = min(len(logits), len(rows) - first)
        some, z = rows[first : first + n], logits[:n]
        product(some, weight.T, z, False)
        for i in range(n):
            k = first + i
            entropy, divergence = row_top_losses(z[i], ids[k], logp[k], targets[k], ce, kl, temperature, scratch)
            entropies += entropy
            divergences += divergence
        product(z, weight, drows[first : first + n], False)
        product(z.T, some, dweight, first > 0)
    return entropies, temperature * temperature * divergences


@jit(inner=True)
def row_top_losses(
    z: np.ndarray, ids: np.ndarray, logp: np.ndarray, target: int, ce: float, kl: float, T: float, scratch: np.ndarray
) -> tuple[float, float]:
    """Do what row_losses does, with KL as in layers/kl_topk.py: over K tokens, and all others together.

    The others' share of the student is at least the smallest number of its precision, so that its logarithm is finite.
    """
    V, K, real = z.size, ids.size, z.dtype.type
    q, sharp = scratch[0], scratch[1]
    top, inverse = largest(z), real(1 / T)
    entropy = -(np.float64(z[target]) - top)
    for v in range(V):
        z[v] = (z[v] - top) * inverse
    exponentials(z, T, q, sharp)
    known, total = np.float64(0), np.float64(0)
    for k in range(K):
        known += q[ids[k]]
        q[ids[k]] = 0
        total += np.exp(np.float64(logp[k]))
    sum_p, others = np.float64(0), np.float64(0)
    for start in range(0, V, CHUNK):
        stop = start + CHUNK
        some, rest = sharp[start:stop], q[start:stop]
        of_some, of_rest = real(0), real(0)
        for v in range(some.size):
            of_some += some[v]
            of_rest += rest[v]
        sum_p += of_some
        others += of_rest
    sum_q, r = known + others, max(1 - total, 0.0) if K < V else 0.0
    over = np.log(max(total, 1.0) if K < V else total)
    divergence = r * (np.log(r) - np.log(max(others, TINY) / sum_q)) if r > 0 else 0.0
    to_p, to_q = real(ce / sum_p), real(kl * T * (1 / sum_q - (r / others if others > 0 else 0.0)))
    for k in range(K):
        log_p, log_q = np.float64(logp[k]) - over, np.float64(z[ids[k]]) - np.log(sum_q)
        divergence += np.exp(log_p) * (log_p - log_q)
    for v in range(V):
        shift = z[v]
        z[v] = sharp[v] * to_p + q[v] * to_q
        q[v] = shift
    for k in range(K):
        log_p, log_q = np.float64(logp[k]) - over, np.float64(q[ids[k]]) - np.log(sum_q)
        z[ids[k]] += real(kl * T * (np.exp(log_q) - np.exp(log_p)))
    z[target] -= real(ce)
    return entropy + np.log(sum_p), divergence
