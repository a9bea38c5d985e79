"""KL divergence from a teacher's likeliest tokens: two passes over a row for the tokens that are not among them."""

import numpy as np

from npgpt.kernels.cross_entropy import CHUNK
from npgpt.kernels.exp import exp
from npgpt.kernels.rows import as_rows, largest
from npgpt.layers.distributions import checked_temperature, checked_tokens, counted_positions, teacher_masses
from npgpt.support.buffers import empty
from npgpt.support.jit import jit


def kl_topk_forward(
    logits: np.ndarray,
    ids: np.ndarray,
    logp: np.ndarray,
    temperature: float = 1.0,
    targets: np.ndarray | None = None,
    ignore_index: int = -100,
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.kl_topk_forward does, but keep the logits and four numbers per position."""
    T = checked_temperature(temperature)
    counted = counted_positions(targets, logits.shape[:-1], ignore_index)
    tokens = checked_tokens(ids, logp, logits.shape, counted)
    rows = as_rows(logits)
    log_p, rest = teacher_masses(logp, counted, logits.shape[-1], rows.dtype)
    stats = empty((len(rows), 4), np.dtype(np.float64))
    others = empty(rows.shape[1:], rows.dtype)
    total = _forward(rows, counted, tokens, log_p, rest[:, 0], rows.dtype.type(1 / T), others, stats)
    loss = rows.dtype.type(total * (T * T / max(counted.size, 1)))
    return loss, (rows, counted, tokens, log_p, T, stats, logits.shape)


def kl_topk_backward(dout: np.ndarray | float, cache: tuple) -> np.ndarray:
    """Do what npgpt.layers.kl_topk_backward does."""
    rows, counted, tokens, log_p, T, stats, shape = cache
    real = rows.dtype.type
    dlogits = empty(rows.shape, rows.dtype)
    scale = float(real(dout)) * (T / max(counted.size, 1))
    _backward(rows, counted, tokens, log_p, real(1 / T), stats, scale, dlogits)
    return dlogits.reshape(shape)


@jit
def _forward(
    logits: np.ndarray,
    counted: np.ndarray,
    tokens: np.ndarray,
    log_p: np.ndarray,
    rest: np.ndarray,
    per_t: float,
    others: np.ndarray,
    stats: np.ndarray,
) -> float:
    V, K = logits.shape[1], tokens.shape[1]
    loss = np.float64(0)
    for i in range(counted.size):
        row = logits[counted[i]]
        others[:] = row
        highest = row[tokens[i, 0]]
        for k in range(K):
            highest = max(highest, row[tokens[i, k]])
            others[tokens[i, k]] = -np.inf
        known = np.float64(0)
        for k in range(K):
            known += np.exp(np.float64((row[tokens[i, k]] - highest) * per_t))
        of_known = np.float64(highest * per_t) + np.log(known)
        of_rest, top, total = -np.inf, logits.dtype.type(0), np.float64(1)
        if K < V:
            top, total = largest(others), np.float64(0)
            for start in range(0, V, CHUNK):
                chunk = others[start : start + CHUNK]
                part = logits.dtype.type(0)
                for v in range(chunk.size):
                    part += exp((chunk[v] - top) * per_t)
                total += part
            of_rest = np.float64(top * per_t) + np.log(total)
        larger = max(of_known, of_rest)
        lse = larger + np.log(np.exp(of_known - larger) + np.exp(of_rest - larger))
        for k in range(K):
            surplus = log_p[i, k] - (np.float64(row[tokens[i, k]] * per_t) - lse)
            loss += np.exp(np.float64(log_p[i, k])) * surplus
        if rest[i] > 0:
            loss += rest[i] * (np.log(np.float64(rest[i])) - (of_rest - lse))
        stats[i, 0], stats[i, 1], stats[i, 2], stats[i, 3] = top, total, np.exp(of_rest - lse) - rest[i], lse
    return loss


@jit
def _backward(
    logits: np.ndarray,
    counted: np.ndarray,
    tokens: np.ndarray,
    log_p: np.ndarray,
    per_t: float,
    stats: np.ndarray,
    scale: float,
    dlogits: np.ndarray,
) -> None:
    zero = logits.dtype.type(0)
    i = 0
    for n in range(logits.shape[0]):
        if i == counted.size or counted[i] != n:
            dlogits[n, :] = 0
            continue
        top = logits.dtype.type(stats[i, 0])
        share = logits.dtype.type(stats[i, 2] / stats[i, 1] * scale)
        for v in range(logits.shape[1]):
            x = (logits[n, v] - top) * per_t
            # only a known token's logit, whose gradient follows, is above top, and may be so far that exp overflows
            dlogits[n, v] = exp(zero if x > zero else x) * share
        for k in range(tokens.shape[1]):
            v = tokens[i, k]
            q = np.exp(np.float64(logits[n, v] * per_t) - stats[i, 3])
            dlogits[n, v] = scale * (q - np.exp(np.float64(log_p[i, k])))
        i += 1
