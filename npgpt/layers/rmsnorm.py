"""RMS norm: a root mean square of one over the channels, then a learned scale."""

import numpy as np


def rmsnorm_forward(x: np.ndarray, weight: np.ndarray, eps: float = 1e-6) -> tuple[np.ndarray, tuple]:
    """Normalise each position: `out = x / sqrt(mean(x^2) + eps) * weight`.

    x       (..., C); the mean is over C
    weight  (C,)
    out     (..., C)

    Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467. Derivation:
    docs/layers/rmsnorm.md.
    """
    rrms = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    xhat = x * rrms
    return xhat * weight, (xhat, rrms, weight)


def rmsnorm_backward(
    dout: np.ndarray, cache: tuple, dweight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return `dx, dweight`.

    dout     (..., C)
    dx       (..., C)    rrms * (dxhat - xhat * mean(dxhat * xhat))
    dweight  (C,)        dout * xhat, summed over all leading axes
    """
    xhat, rrms, weight = cache
    # out = xhat * weight
    dweight = (dout * xhat).sum(axis=tuple(range(dout.ndim - 1)), out=dweight)
    dxhat = dout * weight
    # xhat = x * rrms: moving one x moves rrms of its position too, and that is what the mean below is for
    dx = rrms * (dxhat - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True))
    return dx, dweight
