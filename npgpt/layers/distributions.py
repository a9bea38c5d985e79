"""Helpers of the losses over a vocabulary: the logarithms that stay finite, positions that count, and checks."""

import math

import numpy as np


def counted_positions(targets: np.ndarray | None, shape: tuple[int, ...], ignore_index: int) -> np.ndarray:
    """Return the flat indices of the positions that count: all without targets, or those that are not ignored.

    Raises ValueError if there are not as many targets as positions.
    """
    if targets is None:
        return np.arange(math.prod(shape))
    if targets.shape != shape:
        raise ValueError(f"targets {targets.shape} must be one for each position, {shape}")
    return np.flatnonzero(targets.reshape(-1) != ignore_index)


def checked_temperature(temperature: float) -> float:
    """Return a temperature. Raises ValueError if it is not positive and finite."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature} must be positive")
    return float(temperature)


def checked_vectors(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ValueError if two arrays of vectors differ in shape: nothing is broadcast."""
    if a.shape != b.shape:
        raise ValueError(f"the two arrays must have one shape, got {a.shape} and {b.shape}")


def checked_tokens(ids: np.ndarray, logp: np.ndarray, shape: tuple[int, ...], counted: np.ndarray) -> np.ndarray:
    """Return the ids of the positions that count, int64 (N, K).

    shape  (..., V), that of the logits

    Raises ValueError for what is no choice of K tokens at each position that counts.
    """
    V, K = shape[-1], ids.shape[-1]
    if ids.shape != logp.shape or ids.shape[:-1] != shape[:-1] or not 1 <= K <= V:
        raise ValueError(f"ids {ids.shape} and logp {logp.shape} must be {(*shape[:-1], 'K')}, with K in 1..{V}")
    rows = ids.reshape(-1, K)[counted].astype(np.int64)
    bad = rows[(rows < 0) | (rows >= V)]
    if bad.size:
        raise ValueError(f"id {bad[0]} is not in 0..{V - 1}")
    ordered = np.sort(rows, axis=-1)
    twice = ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]]
    if twice.size:
        raise ValueError(f"id {twice[0]} occurs twice at one position")
    return rows


def teacher_masses(logp: np.ndarray, counted: np.ndarray, V: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-probabilities (N, K) of the positions that count, and the mass (N, 1) of all other tokens.

    Example: logp [[log 0.5, log 0.3]] gives itself and [[0.2]], but with V = 2 [[log 0.625, log 0.375]] and [[0]].
    """
    K = logp.shape[-1]
    log_p = logp.reshape(-1, K)[counted].astype(dtype)
    total = np.exp(log_p).sum(axis=-1, keepdims=True)
    over = np.maximum(total, 1) if K < V else total
    return log_p - np.log(over), np.maximum(over - total, 0)


def checked_smoothing(label_smoothing: float) -> float:
    """Return the share that is divided among all tokens. Raises ValueError if it is not in 0..1."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing={label_smoothing} must be in 0..1")
    return float(label_smoothing)


def log_softmax(z: np.ndarray) -> np.ndarray:
    """Return log softmax of the rows of z (N, V); no exp overflows, and no logarithm is that of 0."""
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def logsumexp(z: np.ndarray) -> np.ndarray:
    """Return log(sum(exp(z))) of the rows of z (N, V), as (N, 1)."""
    top = z.max(axis=-1, keepdims=True)
    return top + np.log(np.exp(z - top).sum(axis=-1, keepdims=True))


def in_place(rows: np.ndarray, counted: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of that shape (..., V) with these rows at the positions that count, and 0 at the others."""
    out = np.zeros((math.prod(shape[:-1]), shape[-1]), rows.dtype)
    out[counted] = rows
    return out.reshape(shape)
