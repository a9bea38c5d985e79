"""Pre-tokens to ids in one pass, with a cache of those seen before, and ids back to bytes."""

from typing import NamedTuple

import numpy as np

from npgpt.support.jit import jit
from npgpt.tokenizer.fast.merge import GOLDEN, SHORT, merge_long, merge_short

PACKED = 15  # bytes of a pre-token that fit, with their number, into two words of 64 bits
CACHED = 64  # the most bytes of a pre-token in the cache: a longer one hardly ever comes again


class Tables(NamedTuple):
    """What the kernels know of a tokenizer.

    byte_ids    (256,) uint32, the token of each byte
    byte_pairs  (65536,) uint32, the rank of each pair of bytes
    table       (slots,) uint64, the ranks of pairs of ids, an open-addressing table
    shift       of the hash: slots == 2**(64 - shift)
    merged      (ranks,) uint32, the token that each rank makes
    overlaps    (ranks,) bool, whether two places of this rank may share a token, so that the left one must merge first
    proper      whether every token is made by one merge, and after the merges that make its parts
    whole       (slots,) int32, every token by the hash of its bytes, -1 where free, if a pre-token that is a token
                skips the merges; else empty
    starts      (tokens + 1,) int64, where each token's bytes begin in `pool`
    pool        uint8, the bytes of all tokens
    """

    byte_ids: np.ndarray
    byte_pairs: np.ndarray
    table: np.ndarray
    shift: int
    merged: np.ndarray
    overlaps: np.ndarray
    proper: bool
    whole: np.ndarray
    starts: np.ndarray
    pool: np.ndarray


@jit
def load(data, i, size):
    """Return size bytes from i on, at most 8, as a little-endian number. There must be 8 to read."""
    j = np.uint64(i)
    word = np.uint64(data[j])
    # the compiler turns these eight loads into one
    word |= np.uint64(data[j + np.uint64(1)]) << np.uint64(8)
    word |= np.uint64(data[j + np.uint64(2)]) << np.uint64(16)
    word |= np.uint64(data[j + np.uint64(3)]) << np.uint64(24)
    word |= np.uint64(data[j + np.uint64(4)]) << np.uint64(32)
    word |= np.uint64(data[j + np.uint64(5)]) << np.uint64(40)
    word |= np.uint64(data[j + np.uint64(6)]) << np.uint64(48)
    word |= np.uint64(data[j + np.uint64(7)]) << np.uint64(56)
    return word if size >= 8 else word & ((np.uint64(1) << np.uint64(8 * size)) - np.uint64(1))


@jit
def mix(word):
    """Return a hash of a 64-bit word."""
    word = (word ^ word >> np.uint64(32)) * GOLDEN
    return word ^ word >> np.uint64(29)


@jit
def digest(data, start, end):
    """Return two words for data[start:end], which 8 more bytes must follow. Up to PACKED bytes fit in as they are.

    Example: the bytes "ab" give 0x6261 and 2 << 56.
    """
    size = end - start
    length = np.uint64(size) << np.uint64(56)
    if size <= 8:
        return load(data, start, size), length
    if size <= PACKED:
        return load(data, start, 8), load(data, start + 8, size - 8) | length
    word = np.uint64(size)
    i = start
    while i < end:
        word = mix(word ^ load(data, i, end - i))
        i += 8
    return word, np.uint64(0xFF) << np.uint64(56)


@jit
def same(data, a, other, b, size):
    """Return whether data[a : a + size] and other[b : b + size] are equal."""
    k = 0
    while k < size and data[a + k] == other[b + k]:
        k += 1
    return k == size


@jit
def fill_whole(whole, starts, pool, is_plain):
    """Fill the table of tokens by their bytes. Special tokens are left out, because no text contains them."""
    mask = len(whole) - 1
    for token in range(len(starts) - 1):
        if is_plain[token]:
            first, second = digest(pool, starts[token], starts[token + 1])
            slot = np.int64(mix(first ^ mix(second)) & np.uint64(mask))
            while whole[slot] >= 0:
                slot = (slot + 1) & mask
            whole[slot] = token


@jit
def find_whole(data, start, end, hashed, tables):
    """Return the token that data[start:end] is, or -1."""
    mask = len(tables.whole) - 1
    slot = np.int64(hashed & np.uint64(mask))
    while tables.whole[slot] >= 0:
        token = tables.whole[slot]
        first = tables.starts[token]
        size = tables.starts[token + 1] - first
        if size == end - start and same(data, start, tables.pool, first, size):
            return np.int64(token)
        slot = (slot + 1) & mask
    return np.int64(-1)


@jit
def encode_pieces(data, begin, ends, breaks, break_ids, break_counts, tables, cache, room, out):
    """Write the ids of all pre-tokens into out, and return their number.

    data          (bytes + 8,) uint8, UTF-8 with eight bytes more
    begin, ends   where the first pre-token begins, and where each ends
    breaks        ascending indices of pre-tokens; the last is beyond all of them. break_counts gets the number of ids
                  before each. A pre-token whose break_ids is not -1 is the special token with that id
    cache         (a power of 2, 4) uint64, zeros. A row has the two words of a pre-token's digest, where its ids are in
                  out and how many, and where its bytes are in data
    room          of merge_long, for all of it or for WINDOW bytes
    out           int32, with room for as many ids as there are bytes

    A row of the cache is overwritten by the next pre-token with the same slot, so the cache never grows.

    This is one long function, so that the arrays are taken from `tables` once and not for each pre-token: numba counts
    references each time an array is taken from a tuple.
    """
    byte_ids, byte_pairs, merged = tables.byte_ids, tables.byte_pairs, tables.merged
    table, shift = tables.table, tables.shift
    takes_whole = len(tables.whole) > 0
    mask = np.uint64(len(cache) - 1)
    ranks = np.empty(SHORT, np.uint32)
    start, count, next_break = begin, 0, 0
    for piece in range(len(ends)):
        end = ends[piece]
        is_special = False
        while breaks[next_break] == piece:
            break_counts[next_break] = count
            if break_ids[next_break] >= 0:
                out[count] = break_ids[next_break]
                count += 1
                is_special = True
            next_break += 1
        size = end - start
        if is_special:
            pass
        elif size == 1:
            out[count] = byte_ids[data[start]]
            count += 1
        elif size > CACHED and not takes_whole:
            count = merge_long(data, start, end, tables, out, count, room)
        else:
            first, second = digest(data, start, end)
            hashed = mix(first ^ mix(second))
            row = np.int64(hashed & mask)
            hit = cache[row, 0] == first and cache[row, 1] == second
            if hit and size > PACKED:
                earlier = np.int64(cache[row, 3])
                hit = earlier & 0xFF == size and same(data, earlier >> 8, data, start, size)
            if hit:
                found = np.int64(cache[row, 2])
                for k in range(found >> 8, (found >> 8) + (found & 0xFF)):
                    out[count] = out[k]
                    count += 1
            else:
                before = count
                token = np.int64(-1)
                if takes_whole:
                    token = find_whole(data, start, end, hashed, tables)
                if token >= 0:
                    out[count] = token
                    count += 1
                elif size <= SHORT:
                    count = merge_short(
                        data,
                        start,
                        end,
                        byte_ids,
                        byte_pairs,
                        table,
                        shift,
                        merged,
                        out,
                        count,
                        ranks,
                    )
                else:
                    count = merge_long(data, start, end, tables, out, count, room)
                if size <= CACHED:
                    cache[row, 0] = first
                    cache[row, 1] = second
                    cache[row, 2] = np.uint64(before << 8 | count - before)
                    cache[row, 3] = np.uint64(start << 8 | size)
        start = end
    while next_break < len(breaks):
        break_counts[next_break] = count
        next_break += 1
    return count


@jit
def decode_ids(ids, starts, pool, out):
    """Write the bytes of ids one after another into out."""
    count = 0
    for token in ids:
        for k in range(starts[token], starts[token + 1]):
            out[count] = pool[k]
            count += 1
