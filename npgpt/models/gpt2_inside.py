"""Inside a GPT's fused ops: the names of all values, and attention step by step, for taps and for a past."""

import math

import numpy as np

from npgpt.config import GPTConfig
from npgpt.models.kv_cache import KVCache
from npgpt.models.taps import Taps
from npgpt.ops import Ops

INSIDE_ATTENTION = ("attn.q", "attn.k", "attn.v", "attn.probs", "attn.heads")  # what the fused op does not show
IN_A_BLOCK = ("in", "ln_1", *INSIDE_ATTENTION, "attn.out", "mid", "ln_2", "mlp.act", "mlp.out", "out")


def tap_names(config: GPTConfig) -> list[str]:
    """Return the names of the values that taps can see and replace, in the order of the forward.

    wte, wpe             (B, T, C) and (T, C)  the embeddings of tokens and of positions
    h.0.in               (B, T, C)     the residual stream before a block; h.0.mid after its attention, h.0.out after it
    h.0.ln_1, h.0.ln_2   (B, T, C)     what attention and MLP read
    h.0.attn.q, .k, .v   (B, H, T, D)  queries, keys and values; with a past, k and v are those of all tokens
    h.0.attn.probs       (B, H, T, T)  the attention weights of each head
    h.0.attn.heads       (B, H, T, D)  the heads' outputs
    h.0.attn.out         (B, T, C)     what attention adds to the residual stream; h.0.mlp.out likewise
    h.0.mlp.act          (B, T, F)     the MLP's activations
    ln_f                 (B, T, C)     the final hidden states
    logits               (B, T, V)
    """
    blocks = [f"h.{i}.{name}" for i in range(config.n_layer) for name in IN_A_BLOCK]
    return ["wte", "wpe", *blocks, "ln_f", "logits"]


def attention(
    qkv: np.ndarray,
    h: str,
    config: GPTConfig,
    ops: Ops,
    rng: np.random.Generator | None,
    starts: np.ndarray | None,
    past: KVCache | None,
    taps: Taps,
) -> tuple[np.ndarray, tuple]:
    """Run a block's attention: by the fused op, unless a past or a tap needs its steps. qkv (B, T, 3C) -> (B, T, C).

    Then there is no dropout and no cache: nobody trains with a past or taps.
    """
    if past is None and not taps.want(f"{h}.{name}" for name in INSIDE_ATTENTION):
        return ops.attention_forward(qkv, config.n_head, config.attn_pdrop, rng, starts)
    B, T, C3 = qkv.shape
    H, D = config.n_head, C3 // (3 * config.n_head)
    q, k, v = qkv.reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)  # each (B, H, T, D)
    if past is not None:
        k, v = past.extend(int(h.removeprefix("h.")), k, v)
    q, k, v = taps(f"{h}.attn.q", q), taps(f"{h}.attn.k", k), taps(f"{h}.attn.v", v)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(D)
    probs, _ = ops.causal_softmax_forward(scores, None if starts is None else starts[:, None])
    heads = taps(f"{h}.attn.heads", taps(f"{h}.attn.probs", probs) @ v)
    return heads.transpose(0, 2, 1, 3).reshape(B, T, H * D), ()


def mlp(
    x: np.ndarray,
    fc_weight: np.ndarray,
    fc_bias: np.ndarray | None,
    proj_weight: np.ndarray,
    proj_bias: np.ndarray | None,
    h: str,
    config: GPTConfig,
    ops: Ops,
    taps: Taps,
) -> tuple[np.ndarray, tuple]:
    """Run a block's MLP: by the fused op, unless a tap needs its activations. x (B, T, C) -> (B, T, C)."""
    activation = config.activation_function
    if not taps.want([f"{h}.mlp.act"]):
        return ops.mlp_forward(x, fc_weight, fc_bias, proj_weight, proj_bias, activation)
    pre, _ = ops.linear_forward(x, fc_weight, fc_bias)
    act, _ = ops.gelu_forward(pre) if activation == "gelu" else ops.gelu_new_forward(pre)
    return ops.linear_forward(taps(f"{h}.mlp.act", act), proj_weight, proj_bias)[0], ()
