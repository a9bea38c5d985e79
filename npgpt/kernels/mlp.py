"""MLP: one pass over the first product adds the bias and applies the activation; the backward is fused likewise."""

import numpy as np

from npgpt.kernels import gelu, gelu_new
from npgpt.kernels.linear import linear_backward, linear_forward
from npgpt.kernels.rows import as_rows, or_empty
from npgpt.support.buffers import empty
from npgpt.support.jit import jit

ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_new}


def mlp_forward(
    x: np.ndarray,
    fc_weight: np.ndarray,
    fc_bias: np.ndarray | None,
    proj_weight: np.ndarray,
    proj_bias: np.ndarray | None,
    activation: str = "gelu_new",
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.mlp_forward does."""
    pre, fc_cache = linear_forward(as_rows(x), fc_weight, None)
    hidden = empty(pre.shape, pre.dtype)
    ACTIVATIONS[activation].bend(pre, or_empty(fc_bias, x.dtype), hidden)
    slope = pre  # bend has overwritten it
    out, proj_cache = linear_forward(hidden, proj_weight, proj_bias)
    return out.reshape(x.shape[:-1] + out.shape[1:]), (fc_cache, slope, fc_bias is not None, proj_cache)


def mlp_backward(
    dout: np.ndarray,
    cache: tuple,
    dfc_weight: np.ndarray | None = None,
    dfc_bias: np.ndarray | None = None,
    dproj_weight: np.ndarray | None = None,
    dproj_bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Do what npgpt.layers.mlp_backward does."""
    fc_cache, slope, has_bias, proj_cache = cache
    dhidden, dproj_weight, dproj_bias = linear_backward(as_rows(dout), proj_cache, dproj_weight, dproj_bias)
    if has_bias and dfc_bias is None:
        dfc_bias = empty(slope.shape[1:], slope.dtype)
    multiply_and_sum(dhidden, slope, or_empty(dfc_bias if has_bias else None, slope.dtype))
    dpre = dhidden  # multiply_and_sum has overwritten it
    dx, dfc_weight, _ = linear_backward(dpre, fc_cache, dfc_weight)
    return dx.reshape(dout.shape[:-1] + dx.shape[1:]), dfc_weight, dfc_bias, dproj_weight, dproj_bias


@jit
def multiply_and_sum(dx: np.ndarray, slope: np.ndarray, dbias: np.ndarray) -> None:
    """Multiply dx by the slope in place, and put the sum of its rows into dbias unless dbias is of size 0.

    Example: dx [[1, 2], [3, 4]] and slope [[1, 1], [2, 0]] give dx [[1, 2], [6, 0]] and dbias [7, 2].
    """
    dbias[:] = 0
    for n in range(dx.shape[0]):
        for c in range(dx.shape[1]):
            dx[n, c] *= slope[n, c]
        if dbias.size:
            for c in range(dx.shape[1]):
                dbias[c] += dx[n, c]
