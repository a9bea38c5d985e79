"""Kullback-Leibler divergence of a student's distribution from a teacher's, both softened by a temperature."""

import numpy as np

from npgpt.layers.distributions import checked_temperature, checked_vectors, counted_positions, in_place, log_softmax


def kl_forward(
    logits: np.ndarray,
    teacher: np.ndarray,
    temperature: float = 1.0,
    targets: np.ndarray | None = None,
    ignore_index: int = -100,
) -> tuple[np.ndarray, tuple]:
    """Average `T^2 * sum(p * log(p / q))`, p = softmax(teacher / T) and q = softmax(logits / T), over the positions.

    Example: logits [0, 0] and teacher [log 3, 0] give 0.75 log 1.5 + 0.25 log 0.5 = 0.131.

    logits   (..., V), the student's
    teacher  (..., V), the teacher's logits
    targets  (...) or None: positions whose target is ignore_index do not count; other values mean nothing here
    loss     a scalar in the dtype of logits, in nats; 0 if no position counts, and exactly 0 for equal logits

    The factor T^2 keeps the gradient's size: it shrinks with 1 / T^2 as the distributions flatten.

    Raises ValueError for a temperature that is not positive and for shapes that differ.

    Source: Hinton, Vinyals, Dean, arXiv:1503.02531. Derivation: docs/layers/kl.md.
    """
    checked_vectors(logits, teacher)
    V = logits.shape[-1]
    counted = counted_positions(targets, logits.shape[:-1], ignore_index)
    T = checked_temperature(temperature)
    log_q = log_softmax(logits.reshape(-1, V)[counted] / T)
    log_p = log_softmax(teacher.reshape(-1, V)[counted] / T)
    p, surplus = np.exp(log_p), log_p - log_q
    each = (p * surplus).sum(axis=-1, keepdims=True)
    loss = each.sum() * (T * T / max(counted.size, 1))
    return loss, (log_q, p, surplus, each, counted, T, logits.shape)


def kl_backward(
    dout: np.ndarray | float, cache: tuple, with_teacher: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return `dlogits = dout * T / N * (q - p)` and `dteacher = dout * T / N * p * (log(p / q) - KL)`.

    N is the number of positions that count, and KL the position's divergence. Positions that do not count get 0.

    dout          the scalar gradient of the loss
    with_teacher  False returns None in the place of dteacher: a teacher is not trained
    """
    log_q, p, surplus, each, counted, T, shape = cache
    # loss = T^2 / N * each.sum(), and the logits were divided by T
    scale = p.dtype.type(dout) * (T / max(counted.size, 1))
    # each = (p * (log_p - log_q)).sum()
    dlogits = in_place(scale * (np.exp(log_q) - p), counted, shape)
    dteacher = in_place(scale * (p * (surplus - each)), counted, shape) if with_teacher else None
    return dlogits, dteacher
