"""The head and its loss: nothing else uses the logits, so their gradient overwrites them.

The N x V logits of a batch are the largest array of a step, and so there is only one of that size. Logits are computed
only for targets that are not ignored, and each is exponentiated once.
"""

import math

import numpy as np

from npgpt.kernels.cross_entropy import CHUNK, NOT_COUNTED, checked
from npgpt.kernels.exp import exp
from npgpt.kernels.rows import as_rows, largest
from npgpt.support.buffers import empty
from npgpt.support.jit import jit


def linear_cross_entropy_forward(
    x: np.ndarray, weight: np.ndarray, targets: np.ndarray, ignore_index: int = -100
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.linear_cross_entropy_forward does, but keep the gradient of the logits for dout = 1."""
    rows = as_rows(x)
    ids, count = checked(targets, len(weight), ignore_index)
    kept = np.flatnonzero(ids != NOT_COUNTED)  # a prompt, for example, needs no logits
    buffer = empty((len(rows), len(weight)), rows.dtype)  # the same shape at every step, so its memory is reused
    rows = rows[kept]
    logits = np.dot(rows, weight.T, out=buffer[: len(kept)])
    loss = rows.dtype.type(loss_and_dlogits(logits, ids[kept], rows.dtype.type(1 / count)) / count)
    dlogits = logits
    return loss, (rows, weight, dlogits, kept, x.shape)


def linear_cross_entropy_backward(
    dout: np.ndarray | float, cache: tuple, dweight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Do what npgpt.layers.linear_cross_entropy_backward does."""
    rows, weight, dlogits, kept, shape = cache
    scale = rows.dtype.type(dout)
    dx = np.zeros((math.prod(shape[:-1]), shape[-1]), rows.dtype)
    # x and dx are multiplied by dout, because they are smaller than dlogits and dweight
    dx[kept] = np.dot(dlogits, weight) * scale
    scaled = rows * scale
    dweight = np.dot(dlogits.T, scaled, out=empty(weight.shape, weight.dtype) if dweight is None else dweight)
    return dx.reshape(shape), dweight


@jit
def loss_and_dlogits(logits: np.ndarray, ids: np.ndarray, scale: float) -> float:
    """Return the sum of the rows' cross-entropies, and put scale times its gradient in the place of logits (N, V)."""
    V = logits.shape[1]
    loss = np.float64(0)
    for n in range(logits.shape[0]):
        top = largest(logits[n])
        target = np.float64(logits[n, ids[n]]) - top
        # in two loops: a loop that both stores and sums is not vectorised
        for v in range(V):
            logits[n, v] = exp(logits[n, v] - top)
        total = np.float64(0)
        for start in range(0, V, CHUNK):
            # indices that begin at 0 are never negative, so the loop is vectorised
            chunk = logits[n, start : start + CHUNK]
            part = logits.dtype.type(0)
            for v in range(chunk.size):
                part += chunk[v]
            total += part
        loss += np.log(total) - target
        share = logits.dtype.type(scale / total)
        for v in range(V):
            logits[n, v] *= share
        logits[n, ids[n]] -= scale
    return loss
