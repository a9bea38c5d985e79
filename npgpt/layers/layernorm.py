"""Layer norm: zero mean and unit variance over the channels, then a learned scale and shift."""

import numpy as np


def layernorm_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float = 1e-5
) -> tuple[np.ndarray, tuple]:
    """Normalise each position: `out = (x - mean) / sqrt(var + eps) * weight + bias`.

    x       (..., C); mean and var are over C, var with the divisor C
    weight  (C,)
    bias    (C,) or None
    out     (..., C)

    Source: Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450. Derivation: docs/layers/layernorm.md.
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    var = (centred * centred).mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(var + eps)
    xhat = centred * rstd
    out = xhat * weight
    if bias is not None:
        out = out + bias
    return out, (xhat, rstd, weight, bias is not None)


def layernorm_backward(
    dout: np.ndarray, cache: tuple, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return `dx, dweight, dbias`; dbias is None if the forward had no bias.

    dout     (..., C)
    dx       (..., C)    rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))
    dweight  (C,)        dout * xhat, summed over all leading axes
    dbias    (C,)        dout, summed over all leading axes
    """
    xhat, rstd, weight, has_bias = cache
    leading = tuple(range(dout.ndim - 1))
    # out = xhat * weight + bias
    dweight = (dout * xhat).sum(axis=leading, out=dweight)
    dbias = dout.sum(axis=leading, out=dbias) if has_bias else None
    dxhat = dout * weight
    # xhat = (x - mean) * rstd: moving one x moves mean and rstd of its position too. The first mean below
    # is what flows back through mean, the second what flows back through rstd.
    through_mean = dxhat.mean(axis=-1, keepdims=True)
    through_rstd = xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = rstd * (dxhat - through_mean - through_rstd)
    return dx, dweight, dbias
