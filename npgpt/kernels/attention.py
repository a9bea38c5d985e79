"""Attention over tiles of keys and queries: tiles of later keys, which no query sees, are not computed.

A tile holds the scores of some keys (its rows) and some queries (its columns), and fits into a core's nearest cache.
From tile to tile, each query's largest score and sum are carried along, and what has been averaged so far is rescaled
when the largest grows.

If a context is one tile of keys, the weights are kept, not yet divided by their sums. In a longer one each query's
largest score and sum alone are kept, and the backward recomputes the weights: memory grows with T, not with T^2.

Example: T = 300 has the queries 0..31, 32..63, ..., 288..299. The last have the keys 0..127, 128..255 and 256..299.

Source: Dao et al., "FlashAttention", arXiv:2205.14135; the order of the loops, with queries outside, is that of Dao,
"FlashAttention-2", arXiv:2307.08691.
"""

import math

import numpy as np

from npgpt.kernels.attention_tiles import (
    copy,
    cut,
    dots_of_rows,
    drop,
    exponentials,
    exponentials_again,
    hide,
    means_of_columns,
    part,
    scale_rows,
    softmax_backward,
    turn,
)
from npgpt.kernels.causal_softmax import check_starts, first_keys
from npgpt.kernels.products import product
from npgpt.kernels.rows import as_rows
from npgpt.support.buffers import empty
from npgpt.support.jit import jit

QUERIES, KEYS = 32, 128  # of a tile: OpenBLAS multiplies M x K x N up to 100^3 without copying, which is fastest
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
    attend(rows, *options, out, stats, kept, scratch, QUERIES, KEYS)
    return out.reshape(B, T, C), (rows, out, options, stats, kept)


def attention_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Do what npgpt.layers.attention_backward does."""
    rows, out, options, stats, kept = cache
    dqkv = empty(rows.shape, rows.dtype)
    scratch = empty((scratch_size(options[0], out.shape[1] // options[1]),), rows.dtype)
    attend_backward(as_rows(dout), rows, out, *options, stats, kept, dqkv, scratch, QUERIES, KEYS)
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
    return 4 * T * D + min(T, QUERIES) * (4 + 3 * D + 3 * min(T, KEYS))


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
    one, scale = qkv.dtype.type(1), qkv.dtype.type(LOG2E / math.sqrt(D))  # the weights are powers of 2
    grow = one / (one - p) if mask.size else one
    key, value = cut(scratch, 0, T, D), cut(scratch, T * D, T, D)
    place = 4 * T * D
    weights = kept.reshape(-1) if kept.size else scratch
    for pair in range(first, last):
        begin, h = pair // H * T, pair % H * D
        copy(qkv, begin, C + h, T, D, key, 0, 0)
        copy(qkv, begin, 2 * C + h, T, D, value, 0, 0)
        for t in range(0, T, queries):
            n, at = min(queries, T - t), begin + t
            vectors, turned = cut(scratch, place, 4, n), cut(scratch, place + 4 * n, D, n)
            top, total, change = vectors[0], vectors[1], vectors[2]
            for i in range(n):
                top[i], total[i], change[i] = LOWEST, 0, scale
            turn(qkv, at, h, change, turned)
            begin_keys = first_tile(firsts, at, n, keys)
            heads = part(out, at, h, n, D)
            for k in range(begin_keys, t + n, keys):
                m = min(keys, t + n - k)
                tile = cut(weights, (pair * T + t) * T + k * n if kept.size else place + (4 + D) * n, m, n)
                product(part(key, k, 0, m, D), turned, tile, False)
                hide(tile, firsts, at, t, k)
                exponentials(tile, top, total, change)
                if k > begin_keys:
                    scale_rows(out, at, h, D, change)
                if mask.size:
                    dropped = cut(scratch, place + (4 + D + m) * n, m, n)
                    drop(tile, mask, pair, t, k, T, dropped)
                    tile = dropped
                product(tile.T, part(value, k, 0, m, D), heads, k > begin_keys)
            for i in range(n):
                stats[pair, t + i, 0], stats[pair, t + i, 1] = top[i], one / total[i]
                change[i] = grow / total[i]
            scale_rows(out, at, h, D, change)


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
    one, scale = qkv.dtype.type(1), qkv.dtype.type(1 / math.sqrt(D))
    grow = one / (one - p) if mask.size else one
    key, value = cut(scratch, 0, T, D), cut(scratch, T * D, T, D)
    dkey, dvalue = cut(scratch, 2 * T * D, T, D), cut(scratch, 3 * T * D, T, D)
    place = 4 * T * D
    weights = kept.reshape(-1) if kept.size else scratch
    for pair in range(first, last):
        begin, h = pair // H * T, pair % H * D
        copy(qkv, begin, C + h, T, D, key, 0, 0)
        copy(qkv, begin, 2 * C + h, T, D, value, 0, 0)
        scratch[2 * T * D : place] = 0
        for t in range(0, T, queries):
            n, at = min(queries, T - t), begin + t
            vectors, dheads = cut(scratch, place, 4, n), cut(scratch, place + 4 * n, n, D)
            top, share, mean, change = vectors[0], vectors[1], vectors[2], vectors[3]
            turned, dturned = cut(scratch, place + (4 + D) * n, D, n), cut(scratch, place + (4 + 2 * D) * n, D, n)
            if not kept.size:
                for i in range(n):
                    change[i] = qkv.dtype.type(LOG2E / math.sqrt(D))
                turn(qkv, at, h, change, turned)
            # probs = weights * share: the share is a factor of dheads instead, for all that is made of them
            for i in range(n):
                top[i], share[i] = stats[pair, t + i, 0], stats[pair, t + i, 1]
                change[i] = share[i] * grow
            copy(dout, at, h, n, D, dheads, 0, 0)
            scale_rows(dheads, 0, 0, D, change)
            for i in range(n):
                change[i] *= scale
            turn(dout, at, h, change, dturned)
            begin_keys = first_tile(firsts, at, n, keys)
            one_tile = begin_keys + keys >= t + n
            if not one_tile:  # the sum of probs * dprobs over all keys is that of dheads * heads over all channels
                dots_of_rows(dout, out, at, h, D, share, scale, mean)
            q, dq = part(qkv, at, h, n, D), part(dqkv, at, h, n, D)
            for k in range(begin_keys, t + n, keys):
                m, spare = min(keys, t + n - k), place + (4 + 3 * D) * n
                tile = cut(weights, (pair * T + t) * T + k * n if kept.size else spare, m, n)
                dtile = cut(scratch, spare + m * n, m, n)
                if not kept.size:
                    product(part(key, k, 0, m, D), turned, tile, False)
                    hide(tile, firsts, at, t, k)
                    exponentials_again(tile, top)
                # heads = dropout(weights).T @ value
                product(part(value, k, 0, m, D), dturned, dtile, False)
                dropped = tile
                if mask.size:
                    drop(dtile, mask, pair, t, k, T, dtile)
                    dropped = cut(scratch, spare + 2 * m * n, m, n)
                    drop(tile, mask, pair, t, k, T, dropped)
                product(dropped, dheads, part(dvalue, k, 0, m, D), True)
                # weights = softmax(scores), scores = key @ q.T * scale
                if one_tile:
                    means_of_columns(tile, dtile, share, mean)
                softmax_backward(tile, dtile, mean)
                product(dtile, q, part(dkey, k, 0, m, D), True)
                product(dtile.T, part(key, k, 0, m, D), dq, k > begin_keys)
        copy(dkey, 0, 0, T, D, dqkv, begin, C + h)
        copy(dvalue, 0, 0, T, D, dqkv, begin, 2 * C + h)


@jit
def first_tile(firsts: np.ndarray, at: int, n: int, keys: int) -> int:
    """Return the first key of the first tile that one of the queries at..at+n-1 sees."""
    if not firsts.size:
        return 0
    first = firsts[at]
    for i in range(at, at + n):
        first = min(first, firsts[i])
    return first // keys * keys
