"""Cross-attention in a block of GPT-2 (`add_cross_attention` in transformers): what the block reads of a source."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from npgpt.config import GPTConfig
from npgpt.layers.lengths import real_positions, softmax_of_real
from npgpt.models.gpt2_parameters import weight_and_bias
from npgpt.models.taps import Taps
from npgpt.ops import Ops
from npgpt.support.parameters import Parameters

IN_CROSS_ATTENTION = ("ln_cross_attn", "crossattention.probs", "crossattention.out")


class Source(NamedTuple):
    """What the blocks attend to.

    features  (N, S, E)
    lengths   (N,): how many of its S positions each source has; None for all
    kept      {block: its keys and values}, to which those of each block are added; None keeps none
    """

    features: np.ndarray
    lengths: np.ndarray | None = None
    kept: dict[str, np.ndarray] | None = None


class CrossCache(NamedTuple):
    """What the backward needs: the cache of each op."""

    ln: tuple
    q_attn: tuple
    c_attn: tuple
    attn: tuple
    c_proj: tuple
    drop: tuple


def cross_forward(
    x: np.ndarray,
    source: Source,
    params: Parameters,
    h: str,
    config: GPTConfig,
    ops: Ops,
    rng: np.random.Generator | None,
    taps: Taps,
) -> tuple[np.ndarray, CrossCache]:
    """Return what the cross-attention of block `h` adds to the residual stream x (N, T, C)."""
    y, ln = ops.layernorm_forward(x, *weight_and_bias(params, f"{h}.ln_cross_attn"), config.layer_norm_epsilon)
    y = taps(f"{h}.ln_cross_attn", y)
    q, q_attn = ops.linear_forward(y, *weight_and_bias(params, f"{h}.crossattention.q_attn"))
    kept, c_attn = source.kept or {}, ()
    kv = kept.get(h)
    if kv is None:
        kv, c_attn = ops.linear_forward(source.features, *weight_and_bias(params, f"{h}.crossattention.c_attn"))
    if source.kept is not None:
        source.kept[h] = kv
    if taps.want([f"{h}.crossattention.probs"]):
        heads, attn = cross_attention_seen(q, kv, config.n_head, source.lengths, taps, f"{h}.crossattention.probs"), ()
    else:
        heads, attn = ops.cross_attention_forward(q, kv, config.n_head, source.lengths, config.attn_pdrop, rng)
    y, c_proj = ops.linear_forward(heads, *weight_and_bias(params, f"{h}.crossattention.c_proj"))
    y, drop = ops.dropout_forward(y, config.resid_pdrop, rng)
    return taps(f"{h}.crossattention.out", y), CrossCache(ln, q_attn, c_attn, attn, c_proj, drop)


def cross_backward(
    dy: np.ndarray, cache: CrossCache, h: str, ops: Ops, grads: Parameters, dsource: np.ndarray
) -> np.ndarray:
    """Return the gradient of x (N, T, C); the gradients of the parameters go into grads.

    dy       (N, T, C), the gradient of what was added to the residual stream
    dsource  (N, S, E), to which the gradient of the features is added
    """
    dy = ops.dropout_backward(dy, cache.drop)
    dheads, *_ = ops.linear_backward(dy, cache.c_proj, *weight_and_bias(grads, f"{h}.crossattention.c_proj"))
    dq, dkv = ops.cross_attention_backward(dheads, cache.attn)
    # kv = linear(features), and every block reads the same features
    dfeatures, *_ = ops.linear_backward(dkv, cache.c_attn, *weight_and_bias(grads, f"{h}.crossattention.c_attn"))
    dsource += dfeatures
    dx, *_ = ops.linear_backward(dq, cache.q_attn, *weight_and_bias(grads, f"{h}.crossattention.q_attn"))
    dx, *_ = ops.layernorm_backward(dx, cache.ln, *weight_and_bias(grads, f"{h}.ln_cross_attn"))
    return dx


def cross_attention_seen(
    q: np.ndarray, kv: np.ndarray, n_head: int, lengths: np.ndarray | None, taps: Taps, name: str
) -> np.ndarray:
    """Do what cross_attention_forward does, without dropout, with a tap of the weights (N, H, T, S) in the middle."""
    (N, T, C), S, D = q.shape, kv.shape[1], q.shape[2] // n_head
    real = real_positions(lengths, N, S)
    kv = np.where(real[:, :, None], kv, 0)
    q = q.reshape(N, T, n_head, D).transpose(0, 2, 1, 3)  # (N, H, T, D)
    k, v = kv.reshape(N, S, 2, n_head, D).transpose(2, 0, 3, 1, 4)  # each (N, H, S, D)
    probs = softmax_of_real(q @ k.swapaxes(-1, -2) / math.sqrt(D), real[:, None, None])
    return (taps(name, probs) @ v).transpose(0, 2, 1, 3).reshape(N, T, C)


def cross_names(h: str) -> Iterable[str]:
    """Return the names of what taps can see and replace in the cross-attention of block `h`."""
    return (f"{h}.{name}" for name in IN_CROSS_ATTENTION)
