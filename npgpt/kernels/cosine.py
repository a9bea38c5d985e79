"""Cosine similarity, one row at a time: three sums in one pass, and no array of unit vectors."""

import numpy as np

from npgpt.kernels.rows import as_rows
from npgpt.layers.distributions import checked_vectors
from npgpt.support.buffers import empty
from npgpt.support.jit import jit


def cosine_forward(a: np.ndarray, b: np.ndarray, eps: float = 1e-8) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.cosine_forward does, but keep a, b and three numbers per row."""
    checked_vectors(a, b)
    a_rows, b_rows = as_rows(a), as_rows(b)
    out = empty(a_rows.shape[:1], a.dtype)
    stats = empty((len(a_rows), 3), np.dtype(np.float64))
    _forward(a_rows, b_rows, eps, out, stats)
    # of two vectors without further axes, a scalar, as the definition's sum
    return out.reshape(a.shape[:-1])[()], (a_rows, b_rows, stats, float(eps), a.shape)


def cosine_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Do what npgpt.layers.cosine_backward does."""
    a, b, stats, eps, shape = cache
    da, db = empty(a.shape, a.dtype), empty(b.shape, b.dtype)
    _backward(np.ascontiguousarray(dout).reshape(-1), a, b, stats, eps, da, db)
    return da.reshape(shape), db.reshape(shape)


@jit
def _forward(a: np.ndarray, b: np.ndarray, eps: float, out: np.ndarray, stats: np.ndarray) -> None:
    for n in range(a.shape[0]):
        aa = bb = ab = np.float64(0)  # squares of large numbers do not overflow
        for c in range(a.shape[1]):
            x, y = np.float64(a[n, c]), np.float64(b[n, c])
            aa += x * x
            bb += y * y
            ab += x * y
        a_norm, b_norm = np.sqrt(aa), np.sqrt(bb)
        cosine = ab / max(a_norm, eps) / max(b_norm, eps)
        stats[n, 0], stats[n, 1], stats[n, 2] = a_norm, b_norm, cosine
        out[n] = cosine


@jit
def _backward(
    dout: np.ndarray, a: np.ndarray, b: np.ndarray, stats: np.ndarray, eps: float, da: np.ndarray, db: np.ndarray
) -> None:
    for n in range(a.shape[0]):
        a_norm, b_norm, cosine = stats[n, 0], stats[n, 1], stats[n, 2]
        across = dout[n] / max(a_norm, eps) / max(b_norm, eps)
        along_a = 0.0 if a_norm < eps else dout[n] * cosine / a_norm / a_norm
        along_b = 0.0 if b_norm < eps else dout[n] * cosine / b_norm / b_norm
        for c in range(a.shape[1]):
            da[n, c] = across * b[n, c] - along_a * a[n, c]
        for c in range(a.shape[1]):
            db[n, c] = across * a[n, c] - along_b * b[n, c]
