"""A block of the GPT: block_forward, and block_backward, its mirror image.

Pre-norm blocks on a residual stream, as in GPT-2: `x + attention(layernorm(x))`, then `x + mlp(layernorm(x))`. Where
there is a source, the block attends to it in between.
"""

from typing import Any, NamedTuple

import numpy as np

from npgpt.config import GPTConfig
from npgpt.models.gpt2_cross import CrossCache, Source, cross_backward, cross_forward
from npgpt.models.gpt2_inside import attention, mlp
from npgpt.models.gpt2_parameters import weight_and_bias
from npgpt.models.kv_cache import KVCache
from npgpt.models.taps import NO_TAPS, Taps
from npgpt.ops import Ops
from npgpt.support.parameters import Parameters

Rng = np.random.Generator | None
Starts = np.ndarray | None  # (B, T): where in its row each position's own text begins; None where that is 0


def add(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return y + x, computed in the memory of y, which must be a new array that nothing else uses."""
    y += x
    return y


class BlockCache(NamedTuple):
    """What a block's backward needs: its name, the ops that it ran on, and the cache of each of them."""

    h: str
    ops: Ops
    ln_1: tuple
    c_attn: tuple
    attn: tuple
    c_proj: tuple
    drop_1: Any
    ln_2: tuple
    mlp: tuple
    drop_2: Any
    cross: CrossCache | None = None


def block_forward(
    x: np.ndarray,
    params: Parameters,
    h: str,
    config: GPTConfig,
    ops: Ops,
    rng: Rng,
    starts: Starts = None,
    past: KVCache | None = None,
    taps: Taps = NO_TAPS,
    source: Source | None = None,
) -> tuple[np.ndarray, BlockCache]:
    """Run block `h` ("h.0", "h.1", ...): x (B, T, C) -> (B, T, C).

    source  what the block attends to, if it has a cross-attention
    """
    eps, p = config.layer_norm_epsilon, config.resid_pdrop
    x = taps(f"{h}.in", x)
    y, ln_1 = ops.layernorm_forward(x, *weight_and_bias(params, f"{h}.ln_1"), eps)
    y = taps(f"{h}.ln_1", y)
    qkv, c_attn = ops.linear_forward(y, *weight_and_bias(params, f"{h}.attn.c_attn"))
    heads, attn = attention(qkv, h, config, ops, rng, starts, past, taps)
    y, c_proj = ops.linear_forward(heads, *weight_and_bias(params, f"{h}.attn.c_proj"))
    y, drop_1 = ops.dropout_forward(y, p, rng)
    x = add(taps(f"{h}.attn.out", y), x)
    x = taps(f"{h}.mid", x)
    cross = None
    if source is not None:
        y, cross = cross_forward(x, source, params, h, config, ops, rng, taps)
        x = add(y, x)
    y, ln_2 = ops.layernorm_forward(x, *weight_and_bias(params, f"{h}.ln_2"), eps)
    y = taps(f"{h}.ln_2", y)
    c_fc, c_mlp_proj = weight_and_bias(params, f"{h}.mlp.c_fc"), weight_and_bias(params, f"{h}.mlp.c_proj")
    y, mlp_cache = mlp(y, *c_fc, *c_mlp_proj, h, config, ops, taps)
    y, drop_2 = ops.dropout_forward(y, p, rng)
    x = add(taps(f"{h}.mlp.out", y), x)
    x = taps(f"{h}.out", x)
    return x, BlockCache(h, ops, ln_1, c_attn, attn, c_proj, drop_1, ln_2, mlp_cache, drop_2, cross)


def block_backward(
    dx: np.ndarray, cache: BlockCache, grads: Parameters, dsource: np.ndarray | None = None
) -> np.ndarray:
    """Return dx (B, T, C) at the block's input; the gradients of its parameters go into grads.

    dsource  (B, S, E), where the block has a cross-attention: the gradient of the source's features is added to it
    """
    h, ops = cache.h, cache.ops
    # x = x + y: the residual stream carries dx past the branch, and the branch adds its own
    dy = ops.dropout_backward(dx, cache.drop_2)
    c_fc, c_mlp_proj = weight_and_bias(grads, f"{h}.mlp.c_fc"), weight_and_bias(grads, f"{h}.mlp.c_proj")
    dy, *_ = ops.mlp_backward(dy, cache.mlp, *c_fc, *c_mlp_proj)
    dy, *_ = ops.layernorm_backward(dy, cache.ln_2, *weight_and_bias(grads, f"{h}.ln_2"))
    dx = add(dy, dx)
    if cache.cross is not None and dsource is not None:
        dx = add(cross_backward(dx, cache.cross, h, ops, grads, dsource), dx)
    dy = ops.dropout_backward(dx, cache.drop_1)
    dy, *_ = ops.linear_backward(dy, cache.c_proj, *weight_and_bias(grads, f"{h}.attn.c_proj"))
    dqkv = ops.attention_backward(dy, cache.attn)
    dy, *_ = ops.linear_backward(dqkv, cache.c_attn, *weight_and_bias(grads, f"{h}.attn.c_attn"))
    dy, *_ = ops.layernorm_backward(dy, cache.ln_1, *weight_and_bias(grads, f"{h}.ln_1"))
    return add(dy, dx)
