"""Cross-attention: each position of one sequence averages the values of another sequence, in several heads."""

import math

import numpy as np

from npgpt.layers.dropout import dropout_backward, dropout_forward
from npgpt.layers.lengths import real_positions, softmax_of_real


def cross_attention_forward(
    q: np.ndarray,
    kv: np.ndarray,
    n_head: int,
    lengths: np.ndarray | None = None,
    p: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, tuple]:
    """Average a source's values for each query: `out = dropout(softmax(q @ k.T / sqrt(D))) @ v`, head by head.

    q        (B, T, C): queries, n_head heads of D channels
    kv       (B, S, 2C): the sources' keys and values side by side
    n_head   H; it must divide C
    lengths  (B,) integers: how many of its S positions each source has. What stands beyond them has the weight 0 and
             the gradient 0, whatever it is. A source of length 0 gives 0. None: all have S
    p, rng   dropout of the attention weights; rng None switches it off
    out      (B, T, C), the heads side by side

    Raises ValueError if q does not split into n_head heads, if kv does not fit it, or for a length that is not in 0..S;
    TypeError if lengths are not integers.

    Source: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, section 3.2.3. Derivation:
    docs/layers/cross_attention.md.
    """
    B, T, C = q.shape
    if C % n_head:
        raise ValueError(f"{C} channels of q do not split into n_head={n_head} heads")
    if kv.ndim != 3 or (kv.shape[0], kv.shape[2]) != (B, 2 * C):
        raise ValueError(f"kv {kv.shape} must have the shape (B, S, 2C) = ({B}, S, {2 * C})")
    S, D = kv.shape[1], C // n_head
    real = real_positions(lengths, B, S)
    kv = np.where(real[:, :, None], kv, 0)  # 0 times what stands beyond a length would be NaN, if that is NaN
    q = q.reshape(B, T, n_head, D).transpose(0, 2, 1, 3)  # (B, H, T, D)
    k, v = kv.reshape(B, S, 2, n_head, D).transpose(2, 0, 3, 1, 4)  # each (B, H, S, D)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(D)  # (B, H, T, S)
    probs = softmax_of_real(scores, real[:, None, None])
    att, dropout_cache = dropout_forward(probs, p, rng)
    heads = att @ v  # (B, H, T, D)
    out = heads.transpose(0, 2, 1, 3).reshape(B, T, C)
    return out, (q, k, v, real, probs, att, dropout_cache)


def cross_attention_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Return `dq, dkv` by going through the forward's steps from the last to the first.

    dout  (B, T, C)
    dq    (B, T, C)
    dkv   (B, S, 2C), 0 beyond the lengths
    """
    q, k, v, real, probs, att, dropout_cache = cache
    (B, H, T, D), S = q.shape, k.shape[2]
    # out = heads, side by side
    dheads = dout.reshape(B, T, H, D).transpose(0, 2, 1, 3)
    # heads = att @ v
    datt = dheads @ v.swapaxes(-1, -2)
    dv = att.swapaxes(-1, -2) @ dheads
    # att = dropout(probs), probs = softmax(scores)
    dprobs = dropout_backward(datt, dropout_cache)
    dscores = probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True))
    # scores = q @ k.T / sqrt(D): a query gathers over its keys, a key over the queries that saw it
    dq = dscores @ k / math.sqrt(D)
    dk = dscores.swapaxes(-1, -2) @ q / math.sqrt(D)
    # q was split into heads, and k, v = kv, split: (2, B, H, S, D) back to (B, S, 2, H, D)
    dq = dq.transpose(0, 2, 1, 3).reshape(B, T, H * D)
    dkv = np.stack((dk, dv)).transpose(1, 3, 0, 2, 4).reshape(B, S, 2 * H * D)
    # kv = where(real, kv, 0)
    dkv = np.where(real[:, :, None], dkv, 0)
    return dq, dkv
