"""Attention: each position averages the values of the positions up to itself, in several heads."""

import math

import numpy as np

from npgpt.layers.causal_softmax import causal_softmax_backward, causal_softmax_forward
from npgpt.layers.dropout import dropout_backward, dropout_forward


def attention_forward(
    qkv: np.ndarray,
    n_head: int,
    p: float = 0.0,
    rng: np.random.Generator | None = None,
    starts: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple]:
    """Average the values up to each position: `out = dropout(causal_softmax(q @ k.T / sqrt(D))) @ v`, head by head.

    qkv     (B, T, 3C): queries, keys and values side by side, each with n_head heads of D channels
    n_head  H; it must divide C
    p, rng  dropout of the attention weights; rng None switches it off
    starts  (B, T) integers: where in the row each position's text begins; earlier keys are masked. None: at 0
    out     (B, T, C), the heads side by side

    Raises ValueError if qkv does not split into three times n_head heads, or if a start is not in 0..its own position;
    TypeError if starts are not integers.

    Source: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762. Derivation: docs/layers/attention.md.
    """
    B, T, C3 = qkv.shape
    if C3 % (3 * n_head):
        raise ValueError(f"{C3} channels of qkv do not split into 3 times n_head={n_head} heads")
    if starts is not None and starts.shape != (B, T):
        raise ValueError(f"starts {starts.shape} must have the shape (B, T) = {B, T}")
    D = C3 // (3 * n_head)
    q, k, v = qkv.reshape(B, T, 3, n_head, D).transpose(2, 0, 3, 1, 4)  # each (B, H, T, D)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(D)  # (B, H, T, T)
    probs, softmax_cache = causal_softmax_forward(scores, None if starts is None else starts[:, None])
    att, dropout_cache = dropout_forward(probs, p, rng)
    heads = att @ v  # (B, H, T, D)
    out = heads.transpose(0, 2, 1, 3).reshape(B, T, n_head * D)
    return out, (q, k, v, att, softmax_cache, dropout_cache)


def attention_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Return dqkv by going through the forward's steps from the last to the first.

    dout  (B, T, C)
    dqkv  (B, T, 3C)
    """
    q, k, v, att, softmax_cache, dropout_cache = cache
    B, H, T, D = q.shape
    # out = heads, side by side
    dheads = dout.reshape(B, T, H, D).transpose(0, 2, 1, 3)
    # heads = att @ v
    datt = dheads @ v.swapaxes(-1, -2)
    dv = att.swapaxes(-1, -2) @ dheads
    # att = dropout(probs), probs = causal_softmax(scores)
    dprobs = dropout_backward(datt, dropout_cache)
    dscores = causal_softmax_backward(dprobs, softmax_cache)
    # scores = q @ k.T / sqrt(D): a query gathers over its keys, a key over the queries that saw it
    dq = dscores @ k / math.sqrt(D)
    dk = dscores.swapaxes(-1, -2) @ q / math.sqrt(D)
    # q, k, v = qkv, split: (3, B, H, T, D) back to (B, T, 3, H, D)
    dqkv = np.stack((dq, dk, dv)).transpose(1, 3, 0, 2, 4).reshape(B, T, 3 * H * D)
    return dqkv
