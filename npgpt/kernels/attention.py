"""Attention over tiles of keys and queries: tiles of later keys, which no query sees, are not computed.

A tile holds the scores of some keys (its rows) and some queries (its columns), and fits into a core's nearest caches.
From tile to tile, each query's largest score and sum are carried along, and what has been averaged so far is rescaled
when the largest grows.

If a context is one tile of keys, the weights are kept, not yet divided by their sums. In a longer one each query's
largest score and sum alone are kept, and the backward recomputes the weights: memory grows with T, not with T^2.

Example: T = 300 has the queries 0..63, 64..127, ..., 256..299. The last have the keys 0..127, 128..255 and 256..299.

Source: Dao et al., "FlashAttention", arXiv:2205.14135; the order of the loops, with queries outside, is that of Dao,
"FlashAttention-2", arXiv:2307.08691.
"""

import math

import numpy as np

from npgpt.kernels.attention_tiles import (
    dots_of_rows,
    drop,
    exponentials,
    exponentials_again,
    hide,
    means_of_columns,
    scale_rows,
    scaled_rows,
    softmax_backward,
    turn,
)
from npgpt.kernels.causal_softmax import check_starts, first_keys
from npgpt.kernels.products import product
from npgpt.kernels.rows import as_rows
from npgpt.support.buffers import empty
from npgpt.support.jit import jit

QUERIES, KEYS = 64, 128  # of a tile: OpenBLAS multiplies M x K x N up to 100^3 without copying, which is fastest
BLOCK = KEYS  # the longest context whose weights are kept
LOG2E = math.log2(math.e)
LOWEST = -3e38  # what the largest score begins at: not minus infinity, whose difference from itself is NaN


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
    if starts is not None and starts.shape != (B, T):
        raise ValueError(f"starts {starts.shape} must have the shape (B, T) = {B, T}")
    firsts = first_keys(starts, (B, T, T))
    if starts is not None:
        check_starts(firsts, T, T)
    pairs, C = B * n_head, C3 // 3
    mask = dropout_mask((B, n_head, T, T), p, rng)
    rows = as_rows(qkv)
    out, stats = empty((B * T, C), rows.dtype), empty((pairs, T, 2), rows.dtype)
    kept = empty((pairs, T, T) if T <= BLOCK else (0, T, T), rows.dtype)
    scratch = empty((scratch_size(T, C // n_head),), rows.dtype)
    options = T, n_head, firsts, mask, rows.dtype.type(p), 0, pairs
    attend(rows, *options, out, stats, kept, scratch)
    return out.reshape(B, T, C), (rows, out, options, stats, kept)


def attention_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Do what npgpt.layers.attention_backward does."""
    rows, out, options, stats, kept = cache
    dqkv = empty(rows.shape, rows.dtype)
    scratch = empty((scratch_size(options[0], out.shape[1] // options[1]),), rows.dtype)
    attend_backward(as_rows(dout), rows, out, *options, stats, kept, dqkv, scratch)
    return dqkv.reshape(*dout.shape[:2], -1)


def dropout_mask(shape: tuple[int, ...], p: float, rng: np.random.Generator | None) -> np.ndarray:
    """Draw which weights (B, H, T, T) npgpt.layers.dropout_forward would keep: (B * H, T * T) bytes, 1 for those kept.

    Without dropout there are none: (0, T * T).
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability p={p} must be in [0, 1)")
    pairs, T = shape[0] * shape[1], shape[2]
    mask = np.empty((0, T * T), bool) if p == 0 or rng is None else rng.random(shape).reshape(pairs, -1) >= p
    return mask.view(np.uint8)


def scratch_size(T: int, D: int) -> int:
    """Return how many numbers of scratch memory `attend` and `attend_backward` need."""
    return min(T, QUERIES) * (4 + 3 * D + 3 * min(T, KEYS))


@jit
def attend(
    qkv: np.ndarray,
    T: int,
    H: int,
    firsts: np.ndarray,
    mask: np.ndarray,
    p: float,
    first: int,
    last: int,
    out: np.ndarray,
    stats: np.ndarray,
    kept: np.ndarray,
    scratch: np.ndarray,
    queries: int = QUERIES,
    keys: int = KEYS,
) -> None:
    """Compute attention for the pairs first..last-1 of a sequence b and a head h, numbered b * H + h, and no others.

    qkv      (B * T, 3C)
    firsts   (B * T,) int64: the first visible key of each row, counted in its own sequence; empty if it is 0 for all
    mask     (B * H, T * T) bytes: 1 for each weight that dropout keeps, else 0; empty if there is no dropout
    p        the probability of dropout, in the precision of qkv
    out      (B * T, C), written
    stats    (B * H, T, 2), written: each query's largest score, and 1 / the sum of its weights
    kept     (B * H, T, T), written tile by tile: the weights, not yet divided by their sums; empty if T is above BLOCK
    scratch  (scratch_size(T, D),), of this thread alone

    It is one long function because what its three loops share would be a dozen arguments.
    """
    C = out.shape[1]
    D = C // H
    one = qkv.dtype.type(1)
    scale = qkv.dtype.type(LOG2E / math.sqrt(D))  # the weights are powers of 2
    grow = one / (one - p) if mask.size else one
    queries = tile_queries(queries, T)
    for pair in range(first, last):
        begin, h = pair // H * T, pair % H * D
        for t in range(0, T, queries):
            n = min(queries, T - t)
            rows = slice(begin + t, begin + t + n)
            heads = out[rows, h : h + D]
            top, total, change = scratch[:n], scratch[n : 2 * n], scratch[2 * n : 3 * n]
            turned, tiles = scratch[3 * n : (3 + D) * n].reshape(D, n), scratch[(3 + D) * n :]
            turn(qkv[rows, h : h + D], scale, turned)
            for i in range(n):
                top[i], total[i] = LOWEST, 0
            begin_keys = first_tile(firsts[rows], keys)
            for k in range(begin_keys, t + n, keys):
                m = min(keys, t + n - k)
                seen = slice(begin + k, begin + k + m)
                tile = tile_of(kept, pair, t, k, tiles, m, n)
                product(qkv[seen, C + h : C + h + D], turned, tile, False)
                hide(tile, k - t, firsts[rows], k)
                exponentials(tile, top, total, change)
                if k > begin_keys:
                    scale_rows(heads, change)
                if mask.size:
                    tile = drop(tile, mask[pair], t * T + k, T, tiles[m * n : 2 * m * n].reshape(m, n))
                product(tile.T, qkv[seen, 2 * C + h : 2 * C + h + D], heads, k > begin_keys)
            for i in range(n):
                stats[pair, t + i, 0], stats[pair, t + i, 1] = top[i], one / total[i]
                change[i] = grow / total[i]
            scale_rows(heads, change)


@jit
def attend_backward(
    dout: np.ndarray,
    qkv: np.ndarray,
    out: np.ndarray,
    T: int,
    H: int,
    firsts: np.ndarray,
    mask: np.ndarray,
    p: float,
    first: int,
    last: int,
    stats: np.ndarray,
    kept: np.ndarray,
    dqkv: np.ndarray,
    scratch: np.ndarray,
    queries: int = QUERIES,
    keys: int = KEYS,
) -> None:
    """Compute the gradient of attention for the pairs first..last-1, from what attend has written.

    dout  (B * T, C)
    dqkv  (B * T, 3C), written in the channels of these pairs

    It is one long function, as attend is.
    """
    C = out.shape[1]
    D = C // H
    one = qkv.dtype.type(1)
    scale = one / qkv.dtype.type(math.sqrt(D))
    grow = one / (one - p) if mask.size else one
    queries = tile_queries(queries, T)
    for pair in range(first, last):
        begin, h = pair // H * T, pair % H * D
        dqkv[begin : begin + T, C + h : C + h + D] = 0
        dqkv[begin : begin + T, 2 * C + h : 2 * C + h + D] = 0
        for t in range(0, T, queries):
            n = min(queries, T - t)
            rows = slice(begin + t, begin + t + n)
            q, dq, dheads = qkv[rows, h : h + D], dqkv[rows, h : h + D], dout[rows, h : h + D]
            top, share, mean, change = scratch[:n], scratch[n : 2 * n], scratch[2 * n : 3 * n], scratch[3 * n : 4 * n]
            turned, dturned = (
                scratch[4 * n : (4 + D) * n].reshape(D, n),
                scratch[(4 + D) * n : (4 + 2 * D) * n].reshape(D, n),
            )
            shared, tiles = scratch[(4 + 2 * D) * n : (4 + 3 * D) * n].reshape(n, D), scratch[(4 + 3 * D) * n :]
            for i in range(n):
                top[i], share[i] = stats[pair, t + i, 0], stats[pair, t + i, 1]
            # probs = weights * share: the share is a factor of dheads instead, for all that is made of them
            for i in range(n):
                change[i] = share[i] * grow
            scaled_rows(dheads, change, shared)
            turn(shared, scale, dturned)
            if not kept.size:
                turn(q, qkv.dtype.type(LOG2E / math.sqrt(D)), turned)
            begin_keys = first_tile(firsts[rows], keys)
            one_tile = begin_keys + keys >= t + n
            if not one_tile:  # the sum of probs * dprobs over all keys is that of dheads * heads over all channels
                dots_of_rows(dheads, out[rows, h : h + D], share, scale, mean)
            for k in range(begin_keys, t + n, keys):
                m = min(keys, t + n - k)
                seen = slice(begin + k, begin + k + m)
                key, value = qkv[seen, C + h : C + h + D], qkv[seen, 2 * C + h : 2 * C + h + D]
                dkey, dvalue = dqkv[seen, C + h : C + h + D], dqkv[seen, 2 * C + h : 2 * C + h + D]
                tile = tile_of(kept, pair, t, k, tiles, m, n)
                dtile, dropped = tiles[m * n : 2 * m * n].reshape(m, n), tiles[2 * m * n : 3 * m * n].reshape(m, n)
                if not kept.size:
                    product(key, turned, tile, False)
                    hide(tile, k - t, firsts[rows], k)
                    exponentials_again(tile, top)
                # heads = att.T @ value, att = dropout(weights)
                product(value, dturned, dtile, False)
                if mask.size:
                    drop(dtile, mask[pair], t * T + k, T, dtile)
                    product(drop(tile, mask[pair], t * T + k, T, dropped), shared, dvalue, True)
                else:
                    product(tile, shared, dvalue, True)
                # weights = softmax(scores); scores = key @ q.T * scale
                if one_tile:
                    means_of_columns(tile, dtile, share, mean)
                softmax_backward(tile, dtile, mean)
                product(dtile, q, dkey, True)
                product(dtile.T, key, dq, k > begin_keys)


@jit
def tile_queries(queries: int, T: int) -> int:
    """Return how many queries a tile has: two tiles in a short context, so that part of what is hidden is left out."""
    return min(queries, max(16, (T + 1) // 2))


@jit
def first_tile(firsts: np.ndarray, keys: int) -> int:
    """Return the first key of the first tile that one of these queries sees."""
    first = firsts[0] if len(firsts) else 0
    for start in firsts:
        first = start if start < first else first
    return first // keys * keys


@jit
def tile_of(kept: np.ndarray, pair: int, t: int, k: int, tiles: np.ndarray, m: int, n: int) -> np.ndarray:
    """Return where a tile of weights (m, n) lies: among those that are kept, else at the beginning of `tiles`."""
    if not kept.size:
        return tiles[: m * n].reshape(m, n)
    T = kept.shape[1]
    begin = (pair * T + t) * T + k * n
    return kept.reshape(-1)[begin : begin + m * n].reshape(m, n)
