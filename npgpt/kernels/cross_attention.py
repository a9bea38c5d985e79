"""Cross-attention over tiles of queries, and the whole source at a time: only real keys are read.

The weights are kept for the backward, not yet divided by their sums.
"""

import math

import numpy as np

from npgpt.kernels.attention import LOG2E, LOWEST, dropout_mask
from npgpt.kernels.attention_tiles import (
    copy,
    cut,
    drop,
    exponentials,
    means_of_columns,
    part,
    scale_rows,
    softmax_backward,
    turn,
)
from npgpt.kernels.products import product
from npgpt.kernels.rows import as_rows
from npgpt.layers.lengths import real_positions
from npgpt.support.buffers import empty
from npgpt.support.jit import jit

QUERIES = 32  # of a tile, as in attention.py


def cross_attention_forward(
    q: np.ndarray,
    kv: np.ndarray,
    n_head: int,
    lengths: np.ndarray | None = None,
    p: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.cross_attention_forward does. With dropout, the mask is kept, one byte a query and key."""
    B, T, C = q.shape
    if C % n_head:
        raise ValueError(f"{C} channels of q do not split into n_head={n_head} heads")
    if kv.ndim != 3 or (kv.shape[0], kv.shape[2]) != (B, 2 * C):
        raise ValueError(f"kv {kv.shape} must have the shape (B, S, 2C) = ({B}, S, {2 * C})")
    S, pairs = kv.shape[1], B * n_head
    counts = real_positions(lengths, B, S).sum(axis=1)
    mask = dropout_mask((B, n_head, T, S), p, rng)
    rows, sources = as_rows(q), as_rows(kv)
    out, shares, kept = (empty(shape, rows.dtype) for shape in (rows.shape, (pairs, T), (pairs * T * S,)))
    options = T, S, n_head, counts, mask, rows.dtype.type(p)
    scratch = empty((scratch_size(T, S, C // n_head),), rows.dtype)
    attend_across(rows, sources, *options, out, shares, kept, scratch, QUERIES)
    return out.reshape(B, T, C), (rows, sources, options, shares, kept)


def cross_attention_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Do what npgpt.layers.cross_attention_backward does."""
    rows, sources, options, shares, kept = cache
    T, S, n_head, *_ = options
    dq, dkv = empty(rows.shape, rows.dtype), empty(sources.shape, rows.dtype)
    scratch = empty((scratch_size(T, S, rows.shape[1] // n_head),), rows.dtype)
    attend_across_backward(as_rows(dout), rows, sources, *options, shares, kept, dq, dkv, scratch, QUERIES)
    return dq.reshape(dout.shape), dkv.reshape(len(dout), S, -1)


def scratch_size(T: int, S: int, D: int) -> int:
    """Return how many numbers of scratch memory `attend_across` and `attend_across_backward` need."""
    return min(T, QUERIES) * (3 + 2 * D + 2 * S)


@jit
def attend_across(
    q: np.ndarray,
    kv: np.ndarray,
    T: int,
    S: int,
    H: int,
    counts: np.ndarray,
    mask: np.ndarray,
    p: float,
    out: np.ndarray,
    shares: np.ndarray,
    kept: np.ndarray,
    scratch: np.ndarray,
    queries: int = QUERIES,
) -> None:
    """Compute cross-attention, one sequence and head after another.

    q, out   (B * T, C)
    kv       (B * S, 2C)
    counts   (B,): how many of its S keys each source has
    mask     (B * H, T * S) bytes: 1 for each weight that dropout keeps, else 0; empty if there is no dropout
    p        the probability of dropout, in the precision of q
    shares   (B * H, T), written: 1 / the sum of each query's weights
    kept     (B * H * T * S,), written: in the place of each tile's queries its weights, not yet divided by their sums
    scratch  (scratch_size(T, S, D),)
    """
    C = q.shape[1]
    D = C // H
    one, scale = q.dtype.type(1), q.dtype.type(LOG2E / math.sqrt(D))  # the weights are powers of 2
    grow = one / (one - p) if mask.size else one
    for pair in range(len(shares)):
        b, h = pair // H, pair % H * D
        m = counts[b]
        for t in range(0, T, queries):
            n, at = min(queries, T - t), b * T + t
            heads = part(out, at, h, n, D)
            if m == 0:
                heads[...] = 0
                continue
            vectors, turned = cut(scratch, 0, 3, n), cut(scratch, 3 * n, D, n)
            top, total, change = vectors[0], vectors[1], vectors[2]
            for i in range(n):
                top[i], total[i], change[i] = LOWEST, 0, scale
            turn(q, at, h, change, turned)
            tile = cut(kept, (pair * T + t) * S, m, n)
            product(part(kv, b * S, h, m, D), turned, tile, False)
            exponentials(tile, top, total, change)
            if mask.size:
                dropped = cut(scratch, (3 + D) * n, m, n)
                drop(tile, mask, pair, t, 0, S, dropped)
                tile = dropped
            product(tile.T, part(kv, b * S, C + h, m, D), heads, False)
            for i in range(n):
                shares[pair, t + i] = one / total[i]
                change[i] = grow / total[i]
            scale_rows(out, at, h, D, change)


@jit
def attend_across_backward(
    dout: np.ndarray,
    q: np.ndarray,
    kv: np.ndarray,
    T: int,
    S: int,
    H: int,
    counts: np.ndarray,
    mask: np.ndarray,
    p: float,
    shares: np.ndarray,
    kept: np.ndarray,
    dq: np.ndarray,
    dkv: np.ndarray,
    scratch: np.ndarray,
    queries: int = QUERIES,
) -> None:
    """Compute the gradient of cross-attention, from what attend_across has written.

    dout, dq  (B * T, C)
    dkv       (B * S, 2C), 0 beyond the counts

    It is one long function, as attend is.
    """
    C = q.shape[1]
    D = C // H
    one, scale = q.dtype.type(1), q.dtype.type(1 / math.sqrt(D))
    grow = one / (one - p) if mask.size else one
    for pair in range(len(shares)):
        b, h = pair // H, pair % H * D
        m, begin = counts[b] if T > 0 else 0, b * S  # without queries, nothing below writes dkv
        part(dkv, begin + m, h, S - m, D)[...] = 0
        part(dkv, begin + m, C + h, S - m, D)[...] = 0
        for t in range(0, T, queries):
            n, at = min(queries, T - t), b * T + t
            dqueries = part(dq, at, h, n, D)
            if m == 0:
                dqueries[...] = 0
                continue
            vectors, dheads, dturned = cut(scratch, 0, 3, n), cut(scratch, 3 * n, n, D), cut(scratch, (3 + D) * n, D, n)
            share, mean, change = vectors[0], vectors[1], vectors[2]
            # probs = weights * share: the share is a factor of dheads instead, for all that is made of them
            for i in range(n):
                share[i] = shares[pair, t + i]
                change[i] = share[i] * grow
            copy(dout, at, h, n, D, dheads, 0, 0)
            scale_rows(dheads, 0, 0, D, change)
            for i in range(n):
                change[i] *= scale
            turn(dout, at, h, change, dturned)
            place = (3 + 2 * D) * n
            tile, dtile = cut(kept, (pair * T + t) * S, m, n), cut(scratch, place, m, n)
            # heads = dropout(weights).T @ value
            product(part(kv, begin, C + h, m, D), dturned, dtile, False)
            dropped = tile
            if mask.size:
                drop(dtile, mask, pair, t, 0, S, dtile)
                dropped = cut(scratch, place + m * n, m, n)
                drop(tile, mask, pair, t, 0, S, dropped)
            product(dropped, dheads, part(dkv, begin, C + h, m, D), t > 0)
            # weights = softmax(scores), scores = key @ q.T * scale
            means_of_columns(tile, dtile, share, mean)
            softmax_backward(tile, dtile, mean)
            product(dtile, part(q, at, h, n, D), part(dkv, begin, h, m, D), t > 0)
            product(dtile.T, part(kv, begin, h, m, D), dqueries, False)
