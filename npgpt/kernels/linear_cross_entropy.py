"""The head and its loss: the logits are made here and seen by nobody else, so their gradient is put in their place.

Of a batch's N x V logits, the largest array of a step, there is one, and each of them is exponentiated once.
"""

import math

import numpy as np

from npgpt.buffers import empty
from npgpt.jit import jit
from npgpt.kernels.cross_entropy import CHUNK, IGNORED, checked
from npgpt.kernels.exp import exp
from npgpt.kernels.rows import as_rows


def linear_cross_entropy_forward(
    x: np.ndarray, weight: np.ndarray, targets: np.ndarray, ignore_index: int = -100
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.linear_cross_entropy_forward does; keep the gradient of the logits for dout = 1."""
    rows = as_rows(x)
    ids, count = checked(targets, len(weight), ignore_index)
    N, V = len(rows), len(weight)
    kept = np.flatnonzero(ids != IGNORED)
    if len(kept) < N:  # as of a prompt: logits are made of those rows alone whose targets count
        # memory is asked for in sizes that do not change from step to step
        rows, ids = np.take(rows, kept, axis=0, out=empty(rows.shape, rows.dtype)[: len(kept)]), ids[kept]
    logits = np.dot(rows, weight.T, out=empty((N, V), rows.dtype)[: len(rows)])
    loss = rows.dtype.type(_forward(logits, ids, rows.dtype.type(1 / count)) / count)
    dlogits = logits
    return loss, (rows, weight, dlogits, kept, x.shape)


def linear_cross_entropy_backward(
    dout: np.ndarray | float, cache: tuple, dweight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Do what npgpt.layers.linear_cross_entropy_backward does."""
    rows, weight, dlogits, kept, shape = cache
    scale = rows.dtype.type(dout)
    dx = empty((math.prod(shape[:-1]), shape[-1]), rows.dtype)
    part = dx if len(rows) == len(dx) else empty(dx.shape, dx.dtype)[: len(rows)]
    np.dot(dlogits, weight, out=part)
    part *= scale
    if part is not dx:
        dx.fill(0)
        dx[kept] = part
    # dout times the few numbers of x, not times the many of dlogits or of dweight
    scaled = np.multiply(rows, scale, out=empty(dx.shape, rows.dtype)[: len(rows)])
    dweight = np.dot(dlogits.T, scaled, out=empty(weight.shape, weight.dtype) if dweight is None else dweight)
    return dx.reshape(shape), dweight


@jit
def _forward(logits: np.ndarray, ids: np.ndarray, scale: float) -> float:
    V = logits.shape[1]
    loss = np.float64(0)
    for n in range(logits.shape[0]):
        top = logits[n, 0]
        for v in range(V):
            top = max(top, logits[n, v])
        target = np.float64(logits[n, ids[n]]) - top
        # in two loops: a loop that both stores and adds up is not vectorised
        for v in range(V):
            logits[n, v] = exp(logits[n, v] - top)
        total = np.float64(0)
        for start in range(0, V, CHUNK):
            part = logits.dtype.type(0)
            for v in range(start, min(start + CHUNK, V)):
                part += logits[n, v]
            total += part
        loss += np.log(total) - target
        share = logits.dtype.type(scale / total)
        for v in range(V):
            logits[n, v] *= share
        logits[n, ids[n]] -= scale
    return loss
