"""MLP: linear, activation, linear, at each position separately."""

import numpy as np

from npgpt.layers.gelu import gelu_backward, gelu_forward
from npgpt.layers.gelu_new import gelu_new_backward, gelu_new_forward
from npgpt.layers.linear import linear_backward, linear_forward

ACTIVATIONS = {
    "gelu": (gelu_forward, gelu_backward),
    "gelu_new": (gelu_new_forward, gelu_new_backward),
}


def mlp_forward(
    x: np.ndarray,
    fc_weight: np.ndarray,
    fc_bias: np.ndarray | None,
    proj_weight: np.ndarray,
    proj_bias: np.ndarray | None,
    activation: str = "gelu_new",
) -> tuple[np.ndarray, tuple]:
    """Compute `out = activation(x @ fc_weight + fc_bias) @ proj_weight + proj_bias`.

    x            (..., C)
    fc_weight    (C, F), fc_bias (F,) or None; F is 4C in GPT-2
    proj_weight  (F, C), proj_bias (C,) or None
    activation   "gelu_new" or "gelu"
    out          (..., C)
    """
    act_forward, _ = ACTIVATIONS[activation]
    pre, fc_cache = linear_forward(x, fc_weight, fc_bias)
    hidden, act_cache = act_forward(pre)
    out, proj_cache = linear_forward(hidden, proj_weight, proj_bias)
    return out, (activation, fc_cache, act_cache, proj_cache)


def mlp_backward(
    dout: np.ndarray,
    cache: tuple,
    dfc_weight: np.ndarray | None = None,
    dfc_bias: np.ndarray | None = None,
    dproj_weight: np.ndarray | None = None,
    dproj_bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Return `dx, dfc_weight, dfc_bias, dproj_weight, dproj_bias`: the three backward passes in reverse order.

    dout  (..., C)
    """
    activation, fc_cache, act_cache, proj_cache = cache
    _, act_backward = ACTIVATIONS[activation]
    dhidden, dproj_weight, dproj_bias = linear_backward(dout, proj_cache, dproj_weight, dproj_bias)
    dpre = act_backward(dhidden, act_cache)
    dx, dfc_weight, dfc_bias = linear_backward(dpre, fc_cache, dfc_weight, dfc_bias)
    return dx, dfc_weight, dfc_bias, dproj_weight, dproj_bias
