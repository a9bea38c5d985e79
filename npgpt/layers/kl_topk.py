"""Kullback-Leibler divergence from a teacher of which only the K likeliest tokens and the rest's mass are known."""

import numpy as np

from npgpt.layers.distributions import (
    checked_temperature,
    checked_tokens,
    counted_positions,
    in_place,
    logsumexp,
    teacher_masses,
)


def kl_topk_forward(
    logits: np.ndarray,
    ids: np.ndarray,
    logp: np.ndarray,
    temperature: float = 1.0,
    targets: np.ndarray | None = None,
    ignore_index: int = -100,
) -> tuple[np.ndarray, tuple]:
    """Average `T^2 * (sum_k p_k log(p_k / q_k) + r log(r / s))` over the positions.

    q = softmax(logits / T), p = exp(logp), and r = 1 - sum p and s are the masses that teacher and student give to all
    other tokens together. It is the divergence of distributions over K + 1 outcomes, and so at most that over V tokens,
    which it equals where the student divides s among the other tokens as the teacher divides r.

    logits   (..., V), the student's
    ids      (..., K) the teacher's tokens, none twice at a position
    logp     (..., K) their log-probabilities at that temperature, in any float dtype. Where the probabilities add up
             to more than 1 by rounding, or K is V, they are divided by their sum, and r is 0
    targets  (...) or None: positions whose target is ignore_index do not count; other values mean nothing here
    loss     a scalar in the dtype of logits, in nats; 0 if no position counts

    Raises ValueError for a temperature that is not positive, shapes that do not fit, and an id that is outside the
    vocabulary or occurs twice.
    """
    V, K = logits.shape[-1], ids.shape[-1]
    T = checked_temperature(temperature)
    counted = counted_positions(targets, logits.shape[:-1], ignore_index)
    ids = checked_tokens(ids, logp, logits.shape, counted)
    z = logits.reshape(-1, V)[counted] / T
    log_p, rest = teacher_masses(logp, counted, V, z.dtype)
    known, others = np.take_along_axis(z, ids, -1), z.copy()
    np.put_along_axis(others, ids, -np.inf, -1)
    # log s from the other logits alone: 1 - sum q_k would lose its digits where s is small
    lse_known = logsumexp(known)
    lse_rest = logsumexp(others) if K < V else np.full_like(lse_known, -np.inf)
    lse = logsumexp(np.concatenate([lse_known, lse_rest], axis=-1))
    each = (np.exp(log_p) * (log_p - (known - lse))).sum(axis=-1, keepdims=True)
    some = rest > 0
    each[some] += rest[some] * (np.log(rest[some]) - (lse_rest - lse)[some])
    loss = each.sum() * (T * T / max(counted.size, 1))
    # how the student divides s among the other tokens
    share = np.exp(others - lse_rest) if K < V else np.zeros_like(others)
    return loss, (share, np.exp(lse_rest - lse), rest, known, lse, log_p, ids, counted, T, logits.shape)


def kl_topk_backward(dout: np.ndarray | float, cache: tuple) -> np.ndarray:
    """Return `dlogits = dout * T / N * (q - p)`, where the teacher divides r among the other tokens as the student.

    N is the number of positions that count. Positions that do not count get 0.

    dout     the scalar gradient of the loss
    dlogits  (..., V)
    """
    share, s, rest, known, lse, log_p, ids, counted, T, shape = cache
    # the other tokens: q = s * share, and p = r * share
    dz = share * (s - rest)
    # each = (p * (log_p - (known - lse))).sum() + ...
    dz[np.arange(len(ids))[:, None], ids] = np.exp(known - lse) - np.exp(log_p)
    # loss = T^2 / N * each.sum(), and the logits were divided by T
    scale = share.dtype.type(dout) * (T / max(counted.size, 1))
    return in_place(scale * dz, counted, shape)
