"""Products of bfloat16 operands: the definition of what `--compute bf16` computes.

A bfloat16 is the upper half of a float32: the same sign and exponent, but 8 significant bits in place of 24. Weights,
activations and gradients stay float32. Only the operands of the large products are rounded, because processors multiply
bfloat16s twice as fast; the products are added up in float32. With r for `rounded`:

    linear  forward   out = r(x) @ r(weight) + bias
            backward  dx = r(dout) @ r(weight).T
                      dweight = r(x).T @ r(dout)
                      dbias = dout, summed
    head    forward   logits = r(x) @ r(weight).T
            backward  dx = r(dlogits) @ r(weight)
                      dweight = r(dlogits).T @ r(x)

The MLP is two linear layers. The backward takes the slope of a rounding for 1. Attention, layer norms, activations,
softmax and the loss are those of the other files. `bf16_ops` in npgpt/ops.py makes a table with the functions below.
"""

import numpy as np

from npgpt.layers import cross_entropy, linear, linear_cross_entropy, mlp


def rounded(x: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bfloat16, of two equally near ones to that with an even last bit; return float32.

    The lower 16 bits become zero. Half of their range, less one, is added before, and one more if the bit above is set:
    the carry rounds up what lies above the middle, and the middle itself if that makes the bit even. Example:
    1 + 2^-8 lies in the middle of 1 and 1 + 2^-7, and becomes 1.

    NaN stays NaN, an infinity infinity. What lies above the largest bfloat16 by half a step or more becomes infinity.
    """
    bits = x.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    nearest = bits + (odd + np.uint32(0x7FFF))
    # a carry would make an infinity of some NaN, or a number: instead its highest digit is set, as processors do
    nearest = np.where(np.isnan(x), bits | np.uint32(0x400000), nearest)
    return (nearest & np.uint32(0xFFFF0000)).view(np.float32)


def linear_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.linear_forward does, with rounded operands."""
    return linear.linear_forward(rounded(x), rounded(weight), bias)


def linear_backward(
    dout: np.ndarray, cache: tuple, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return `dx, dweight, dbias`, as npgpt.layers.linear_backward does, with rounded operands."""
    x, weight, has_bias = cache
    dx, dweight, _ = linear.linear_backward(rounded(dout), (x, weight, False), dweight)
    if has_bias:  # it is no product
        dbias = dout.reshape(-1, dout.shape[-1]).sum(axis=0, out=dbias)
    return dx, dweight, dbias


def mlp_forward(
    x: np.ndarray,
    fc_weight: np.ndarray,
    fc_bias: np.ndarray | None,
    proj_weight: np.ndarray,
    proj_bias: np.ndarray | None,
    activation: str = "gelu_new",
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.mlp_forward does, with rounded operands of both products."""
    act_forward, _ = mlp.ACTIVATIONS[activation]
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
    """Return the gradients that npgpt.layers.mlp_backward returns, with rounded operands of all products."""
    activation, fc_cache, act_cache, proj_cache = cache
    _, act_backward = mlp.ACTIVATIONS[activation]
    dhidden, dproj_weight, dproj_bias = linear_backward(dout, proj_cache, dproj_weight, dproj_bias)
    dpre = act_backward(dhidden, act_cache)
    dx, dfc_weight, dfc_bias = linear_backward(dpre, fc_cache, dfc_weight, dfc_bias)
    return dx, dfc_weight, dfc_bias, dproj_weight, dproj_bias


def linear_cross_entropy_forward(
    x: np.ndarray, weight: np.ndarray, targets: np.ndarray, ignore_index: int = -100
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.linear_cross_entropy_forward does, with rounded operands."""
    return linear_cross_entropy.linear_cross_entropy_forward(rounded(x), rounded(weight), targets, ignore_index)


def linear_cross_entropy_backward(
    dout: np.ndarray | float, cache: tuple, dweight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return `dx, dweight`, as npgpt.layers.linear_cross_entropy_backward does, with rounded operands."""
    x, weight, loss_cache = cache
    dlogits = cross_entropy.cross_entropy_backward(dout, loss_cache)
    # logits = x @ weight.T
    dx, dweight_t, _ = linear_backward(dlogits, (x, weight.T, False), None if dweight is None else dweight.T)
    return dx, dweight_t.T
