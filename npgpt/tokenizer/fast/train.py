"""Training: pre-tokens counted once in a hash table, then pairs counted as the merges change them."""

import heapq
from typing import NamedTuple

import numpy as np

from npgpt.support.jit import jit
from npgpt.tokenizer.fast.encode import digest, mix, same
from npgpt.tokenizer.fast.merge import slot_of

FIRST_BITS = 18  # of the first table of pairs: its half has more room than there are pairs of bytes


@jit
def count_pieces(data, start, ends, piece, slots, hashes, starts, counts, pool, n_words):
    """Count pre-tokens from index `piece` on, until all are done or there is no room left.

    data, ends  as for encode_pieces
    slots       (a power of 2,) int32, the index of a word by its hash; -1 where free
    hashes, starts, counts   the words' hashes, where their bytes begin in `pool`, and how often each occurred
    pool        uint8, the bytes of all words
    returns     the index of the next pre-token, where it begins, and the number of words
    """
    mask = len(slots) - 1
    while piece < len(ends):
        end = ends[piece]
        size = end - start
        if 2 * n_words >= len(slots) or starts[n_words] + size > len(pool):
            break
        first, second = digest(data, start, end)
        hashed = mix(first ^ mix(second))
        slot = np.int64(hashed & np.uint64(mask))
        while True:
            word = slots[slot]
            if word < 0:
                slots[slot] = n_words
                hashes[n_words] = hashed
                counts[n_words] = 1
                pool[starts[n_words] : starts[n_words] + size] = data[start:end]
                starts[n_words + 1] = starts[n_words] + size
                n_words += 1
                break
            if (
                hashes[word] == hashed
                and starts[word + 1] - starts[word] == size
                and same(data, start, pool, starts[word], size)
            ):
                counts[word] += 1
                break
            slot = (slot + 1) & mask
        start = end
        piece += 1
    return piece, start, n_words


@jit
def rehash(hashes, n_words, slots):
    """Fill an empty table of slots with the words."""
    mask = len(slots) - 1
    for word in range(n_words):
        slot = np.int64(hashes[word] & np.uint64(mask))
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = word


class Pairs(NamedTuple):
    """All pairs of neighbours that ever occurred, numbered in the order in which they first did.

    keys, indices   an open-addressing table from a pair as one number to its index; indices -1 where free
    shift           of the hash: 2**(64 - shift) slots
    pairs, counts   each pair as one number, and how often it occurs
    heads, tails    the first and the last node of its list of places
    places, links   of each node, the place where the pair begins, and the next node, -1 at the end
    sizes           (2,) int64, the number of pairs and of nodes
    """

    keys: np.ndarray
    indices: np.ndarray
    shift: int
    pairs: np.ndarray
    counts: np.ndarray
    heads: np.ndarray
    tails: np.ndarray
    places: np.ndarray
    links: np.ndarray
    sizes: np.ndarray


@jit
def find_slot(left, right, keys, indices, shift):
    """Return the slot of a pair, or a free one if the pair is new, and the pair as one number."""
    slot, key = slot_of(left, right, shift)
    mask = len(keys) - 1
    while indices[slot] >= 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot, key


@jit
def add_pair(left, right, at, weight, p):
    """Count a pair `weight` times more, at one more place."""
    slot, key = find_slot(left, right, p.keys, p.indices, p.shift)
    index = np.int64(p.indices[slot])
    node = p.sizes[1]
    p.sizes[1] += 1
    p.places[node] = at
    p.links[node] = -1
    if index < 0:
        index = p.sizes[0]
        p.sizes[0] += 1
        p.keys[slot] = key
        p.indices[slot] = index
        p.pairs[index] = key
        p.counts[index] = 0
        p.heads[index] = node
    else:
        p.links[p.tails[index]] = node
    p.tails[index] = node
    p.counts[index] += weight


@jit
def remove_pair(left, right, weight, p):
    """Count a pair `weight` times less. Its place stays in the list; `learn` skips it there."""
    slot, _ = find_slot(left, right, p.keys, p.indices, p.shift)
    p.counts[p.indices[slot]] -= weight


@jit
def with_room(p, more):
    """Return the same pairs with room for `more` new ones, the table at most half full."""
    n = p.sizes[0]
    if 2 * (n + more) <= len(p.keys):
        return p
    shift = p.shift
    while 2 * (n + more) > 1 << (64 - shift):
        shift -= 1
    size = 1 << (64 - shift)
    keys, indices = np.empty(size, np.int64), np.full(size, -1, np.int32)
    for index in range(n):
        slot, key = find_slot(p.pairs[index] >> 32, p.pairs[index] & 0xFFFFFFFF, keys, indices, shift)
        keys[slot] = key
        indices[slot] = index
    pairs, counts = np.empty(size // 2, np.int64), np.empty(size // 2, np.int64)
    heads, tails = np.empty(size // 2, np.int32), np.empty(size // 2, np.int32)
    pairs[:n], counts[:n], heads[:n], tails[:n] = p.pairs[:n], p.counts[:n], p.heads[:n], p.tails[:n]
    return Pairs(keys, indices, shift, pairs, counts, heads, tails, p.places, p.links, p.sizes)


class Places(NamedTuple):
    """The bytes of all words, one place a byte. A merged token stands at the place of its first byte.

    ids            the token at each place, -1 at one that was merged into another
    before, after  the places of the neighbours, -1 at a word's ends
    weights        how often the word occurs
    """

    ids: np.ndarray
    before: np.ndarray
    after: np.ndarray
    weights: np.ndarray


@jit
def first_places(pool, starts, word_counts):
    """Return the places of all words, and the pairs of their bytes."""
    n = starts[-1]
    ids = np.empty(n, np.int32)
    before, after = np.empty(n, np.int32), np.empty(n, np.int32)
    weights = np.empty(n, np.int64)
    size = 1 << FIRST_BITS
    p = Pairs(
        np.empty(size, np.int64),
        np.full(size, -1, np.int32),
        np.int64(64 - FIRST_BITS),
        np.empty(size // 2, np.int64),
        np.empty(size // 2, np.int64),
        np.empty(size // 2, np.int32),
        np.empty(size // 2, np.int32),
        np.empty(3 * n, np.int32),  # at most one node for each byte, and two for each merge
        np.empty(3 * n, np.int32),
        np.zeros(2, np.int64),
    )
    for word in range(len(starts) - 1):
        for at in range(starts[word], starts[word + 1]):
            ids[at] = pool[at]
            weights[at] = word_counts[word]
            before[at] = at - 1 if at > starts[word] else -1
            after[at] = at + 1 if at + 1 < starts[word + 1] else -1
            if after[at] >= 0:
                add_pair(pool[at], pool[at + 1], at, word_counts[word], p)
    return Places(ids, before, after, weights), p


@jit
def pop_best(heap, p, least_count):
    """Take the most frequent pair from the heap of (-count, pair, index), and return its index, or -1 if none is left.

    Counts only fall, so one in the heap may be too high. Such a pair goes back with its present count.
    """
    while len(heap) > 0:
        negative, pair, index = heapq.heappop(heap)
        if p.counts[index] == -negative:
            return index
        if p.counts[index] >= least_count:
            heapq.heappush(heap, (-p.counts[index], pair, index))
    return np.int64(-1)


@jit
def list_length(node, links):
    """Return the number of nodes of a list that begins at `node`."""
    length = 0
    while node >= 0:
        length += 1
        node = links[node]
    return length


@jit
def learn(pool, starts, word_counts, n_merges, least_count):
    """Learn merges as the definition does, and return them as (merges, 2) int32 ids.

    The places of each pair are kept in a list. All of them arise in one merge, that of the younger of its two tokens,
    so they are in ascending order, and the pair's count only falls afterwards. A merge costs time for the places that
    it changes, and all merges together cost n log n in the bytes of distinct pre-tokens.

    Example: the words aba and ab, once each, with n_merges 1 give [[97, 98]], because ab occurs twice and ba once.

    pool, starts   the words' bytes one after another, and where each begins; the last ends where one more would begin
    word_counts    how often each occurs
    """
    (ids, before, after, weights), p = first_places(pool, starts, word_counts)
    merges = np.empty((n_merges, 2), np.int32)
    heap = [(np.int64(0), np.int64(0), np.int64(0)) for _ in range(0)]
    done, in_heap = 0, 0
    while done < n_merges:
        for index in range(in_heap, p.sizes[0]):
            if p.counts[index] >= least_count:
                heapq.heappush(heap, (-p.counts[index], p.pairs[index], np.int64(index)))
        in_heap = p.sizes[0]
        best = pop_best(heap, p, least_count)
        if best < 0:
            break
        left, right = p.pairs[best] >> 32, p.pairs[best] & 0xFFFFFFFF
        merges[done, 0], merges[done, 1] = left, right
        new = 256 + done
        done += 1
        p = with_room(p, 2 * list_length(p.heads[best], p.links))
        node = p.heads[best]
        while node >= 0:
            at = p.places[node]
            node = p.links[node]
            gone = after[at]
            if ids[at] != left or gone < 0 or ids[gone] != right:
                continue
            weight = weights[at]
            p.counts[best] -= weight
            previous, following = before[at], after[gone]
            if previous >= 0:
                remove_pair(ids[previous], left, weight, p)
                add_pair(ids[previous], new, previous, weight, p)
            if following >= 0:
                remove_pair(right, ids[following], weight, p)
                add_pair(new, ids[following], at, weight, p)
                before[following] = at
            ids[at], ids[gone] = new, -1
            after[at] = following
    return merges[:done]
