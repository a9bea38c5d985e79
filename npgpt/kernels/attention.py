"""Attention over blocks of queries, each with the keys up to its last query: later keys are not computed.

If all queries fit into one block, the weights are kept. In a longer context only each row's maximum and sum are kept,
and the backward recomputes the weights from them, so memory grows with T, not with T^2.

Example: T = 300 has the blocks of queries 172..299, 44..171 and 0..43, with the keys 0..299, 0..171 and 0..43.

Source: Dao et al., "FlashAttention", arXiv:2205.14135, whose blocks also divide the keys.
"""

import math
from collections.abc import Iterator

import numpy as np

from npgpt.kernels.causal_softmax import (
    check_starts,
    first_keys,
    softmax_rows,
    softmax_rows_again,
    softmax_rows_backward,
)
from npgpt.support.buffers import empty

BLOCK = 128  # queries
SCRATCH = 2**17  # elements of the scores of a block, so that they fit into a core's own cache

Slices = tuple[slice, slice, slice]


def attention_forward(
    qkv: np.ndarray,
    n_head: int,
    p: float = 0.0,
    rng: np.random.Generator | None = None,
    starts: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.attention_forward does. With dropout, the mask is kept, one byte per query and key."""
    B, T, C3 = qkv.shape
    if C3 % (3 * n_head):
        raise ValueError(f"{C3} channels of qkv do not split into 3 times n_head={n_head} heads")
    if starts is not None:
        if starts.shape != (B, T):
            raise ValueError(f"starts {starts.shape} must have the shape (B, T) = {B, T}")
        check_starts(first_keys(starts, (B, T, T)), T, T)
    D = C3 // (3 * n_head)
    q, k, v = qkv.reshape(B, T, 3, n_head, D).transpose(2, 0, 3, 1, 4)  # each (B, H, T, D), views
    mask = dropout_mask((B, n_head, T, T), p, rng)
    out = empty((B, T, n_head, D), qkv.dtype)
    stats = empty((B, n_head, T, 2), qkv.dtype)
    kept = empty((B, n_head, T, T), qkv.dtype) if T <= BLOCK else None
    for b, h, t in blocks(B, n_head, T):
        keys, firsts = visible_keys(starts, b, h, t)
        probs = scores_of(q, k, b, h, t, keys, kept)
        rows = probs.reshape(-1, probs.shape[-1])
        row_stats = empty((len(rows), 2), qkv.dtype)
        softmax_rows(rows, t.stop - t.start, firsts, qkv.dtype.type(1 / math.sqrt(D)), row_stats)
        if kept is None:
            stats[b, h, t] = row_stats.reshape(*probs.shape[:-1], 2)
        att = probs if mask is None else dropped(probs, mask[b, h, t, keys], p)
        np.matmul(att, v[b, h, keys], out=out.transpose(0, 2, 1, 3)[b, h, t])
    return out.reshape(B, T, n_head * D), (q, k, v, stats, kept, mask, p, starts)


def attention_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Do what npgpt.layers.attention_backward does."""
    q, k, v, stats, kept, mask, p, starts = cache
    B, H, T, D = q.shape
    scale = q.dtype.type(1 / math.sqrt(D))
    dheads = dout.reshape(B, T, H, D).transpose(0, 2, 1, 3)
    dqkv = empty((B, T, 3, H, D), q.dtype)
    dq, dk, dv = dqkv.transpose(2, 0, 3, 1, 4)
    for b, h, t in blocks(B, H, T):
        keys, firsts = visible_keys(starts, b, h, t)
        if kept is None:
            probs = scores_of(q, k, b, h, t, keys, None)
            rows = probs.reshape(-1, probs.shape[-1])
            row_stats = np.ascontiguousarray(stats[b, h, t]).reshape(-1, 2)
            softmax_rows_again(rows, t.stop - t.start, firsts, scale, row_stats)
        else:
            probs = kept[b, h]
        datt = np.matmul(dheads[b, h, t], v[b, h, keys].swapaxes(-1, -2), out=empty(probs.shape, q.dtype))
        att = probs
        if mask is not None:
            att = dropped(probs, mask[b, h, t, keys], p)
            datt = dropped(datt, mask[b, h, t, keys], p)
        rows = datt.reshape(-1, datt.shape[-1])
        softmax_rows_backward(rows, probs.reshape(rows.shape), t.stop - t.start, firsts, scale)
        dscores = datt
        np.matmul(dscores, k[b, h, keys], out=dq[b, h, t])
        # the block of the last queries comes first and overwrites dk and dv; the others are added to them
        if t.stop == T:
            dk[b, h, : keys.start], dv[b, h, : keys.start] = 0, 0
        add_product(dscores.swapaxes(-1, -2), q[b, h, t], dk[b, h, keys], t.stop == T)
        add_product(att.swapaxes(-1, -2), dheads[b, h, t], dv[b, h, keys], t.stop == T)
    return dqkv.reshape(B, T, 3 * H * D)


def blocks(B: int, H: int, T: int) -> Iterator[Slices]:
    """Yield slices of batch, heads and queries whose scores fit into SCRATCH elements, the last queries first."""
    queries = min(T, BLOCK)
    heads = min(H, max(1, SCRATCH // (queries * T)))
    batch = min(B, max(1, SCRATCH // (H * queries * T))) if heads == H else 1
    for b in range(0, B, batch):
        for h in range(0, H, heads):
            for stop in range(T, 0, -queries):
                yield slice(b, min(b + batch, B)), slice(h, min(h + heads, H)), slice(max(0, stop - queries), stop)


def visible_keys(starts: np.ndarray | None, b: slice, h: slice, t: slice) -> tuple[slice, np.ndarray]:
    """Return the keys to compare a block of queries with, and the first visible one of them for each query.

    The keys end at the last query. At their beginning, whole blocks that no query sees are left out. Single keys are
    not left out, because memory is reused by shape, and there should be few shapes.
    """
    if starts is None:
        return slice(0, t.stop), first_keys(None, ())
    some = starts[b, t]
    keys = slice(int(some.min()) // BLOCK * BLOCK, t.stop)
    shape = (len(some), h.stop - h.start, t.stop - t.start, 1)
    return keys, first_keys(some[:, None], shape, keys.start)


def scores_of(
    q: np.ndarray, k: np.ndarray, b: slice, h: slice, t: slice, keys: slice, kept: np.ndarray | None
) -> np.ndarray:
    """Return q @ k.T for a block of queries and keys, written into kept if it is given."""
    queries = q[b, h, t]
    out = empty((*queries.shape[:-1], keys.stop - keys.start), q.dtype) if kept is None else kept[b, h]
    return np.matmul(queries, k[b, h, keys].swapaxes(-1, -2), out=out)


def add_product(a: np.ndarray, b: np.ndarray, out: np.ndarray, first: bool) -> None:
    """Put a @ b into out if it is the first product there, else add it."""
    if first:
        np.matmul(a, b, out=out)
    else:
        out += np.matmul(a, b, out=empty(out.shape, out.dtype))


def dropout_mask(shape: tuple[int, ...], p: float, rng: np.random.Generator | None) -> np.ndarray | None:
    """Draw which elements npgpt.layers.dropout_forward would keep, as booleans; None if dropout is off."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability p={p} must be in [0, 1)")
    return None if p == 0 or rng is None else rng.random(shape) >= p


def dropped(x: np.ndarray, mask: np.ndarray, p: float) -> np.ndarray:
    """Return x / (1 - p) where the mask is true, else 0."""
    out = np.multiply(x, mask, out=empty(x.shape, x.dtype))
    out *= x.dtype.type(1 / (1 - p))
    return out
