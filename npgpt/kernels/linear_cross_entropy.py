"""The head and its loss: the logits are made here and seen by nobody else, so their gradient is put in their place.

Of a batch's N x V logits, the largest array of a step, there is one, and each of them is exponentiated once.
"""

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
    logits = np.dot(rows, weight.T, out=empty((len(rows), len(weight)), rows.dtype))
    loss = rows.dtype.type(_forward(logits, ids, rows.dtype.type(1 / count)) / count)
    dlogits = logits
    return loss, (rows, weight, dlogits, x.shape)


def linear_cross_entropy_backward(
    dout: np.ndarray | float, cache: tuple, dweight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Do what npgpt.layers.linear_cross_entropy_backward does."""
    rows, weight, dlogits, shape = cache
    scale = rows.dtype.type(dout)
    dx = np.dot(dlogits, weight, out=empty(rows.shape, rows.dtype))
    dx *= scale
    # dout times the few numbers of x, not times the many of dlogits or of dweight
    scaled = np.multiply(rows, scale, out=empty(rows.shape, rows.dtype))
    dweight = np.dot(dlogits.T, scaled, out=empty(weight.shape, weight.dtype) if dweight is None else dweight)
    return dx.reshape(shape), dweight


@jit
def _forward(logits: np.ndarray, ids: np.ndarray, scale: float) -> float:
    V = logits.shape[1]
    loss = np.float64(0)
    for n in range(logits.shape[0]):
        if ids[n] == IGNORED:
            logits[n, :] = 0
            continue
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
