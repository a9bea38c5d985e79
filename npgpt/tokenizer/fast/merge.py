"""The merges of one pre-token: a plain scan for a short one, lists of places by rank for a long one."""

import heapq

import numpy as np

from npgpt.jit import jit

NEVER = 2**31 - 1  # the rank of a pair that is never merged
SHORT = 64  # bytes up to which looking at every pair each time is faster


@jit
def slot_of(left, right, shift):
    """Return the place of a pair's hash in a table of 2**(64 - shift) slots, and the pair as one number."""
    key = np.uint64(left) << np.uint64(32) | np.uint64(right)
    mixed = (key ^ key >> np.uint64(29)) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(shift)), np.int64(key)


@jit
def build_table(left, right, ranks, keys, values, shift):
    """Fill an open-addressing table, keys -1 where free, with {(left, right): rank}."""
    mask = len(keys) - 1
    for i in range(len(left)):
        slot, key = slot_of(left[i], right[i], shift)
        while keys[slot] >= 0:
            slot = (slot + 1) & mask
        keys[slot] = key
        values[slot] = ranks[i]


@jit
def rank_of(left, right, keys, values, shift):
    """Return the rank of a pair of ids, NEVER if it is not to be merged."""
    slot, key = slot_of(left, right, shift)
    mask = len(keys) - 1
    while True:
        found = keys[slot]
        if found == key:
            return np.int64(values[slot])
        if found < 0:
            return np.int64(NEVER)
        slot = (slot + 1) & mask


@jit
def merge_short(data, start, end, tables, out, count, ranks):
    """Merge data[start:end] in out from index count on, and return the new count. `ranks` is room for SHORT numbers."""
    m = end - start
    for k in range(m):
        out[count + k] = tables.byte_ids[data[start + k]]
    for k in range(m - 1):
        ranks[k] = tables.byte_pairs[np.int64(data[start + k]) << 8 | np.int64(data[start + k + 1])]
    while m > 1:
        best, at = np.int64(NEVER), 0
        for k in range(m - 1):
            if ranks[k] < best:
                best, at = np.int64(ranks[k]), k
        if best == NEVER:
            break
        m -= 1
        for k in range(at + 1, m):
            out[count + k] = out[count + k + 1]
            ranks[k - 1] = ranks[k]
        new = tables.merged[best]
        out[count + at] = new
        if at > 0:
            ranks[at - 1] = rank_of(out[count + at - 1], new, tables.keys, tables.values, tables.shift)
        if at + 1 < m:
            ranks[at] = rank_of(new, out[count + at + 1], tables.keys, tables.values, tables.shift)
    return count + m


@jit
def merge_long(data, start, end, tables, out, count, heads, filled):
    """Merge data[start:end] into out from index count on, and return the new count, in n log n at most.

    The places of each rank are a list; ranks are taken in order, and the places of one from left to right. A merge that
    gives a pair of lower rank, as hand-made vocabularies can, puts it into a heap that goes first.

    heads    (ranks,), where the list of each rank begins; only read where filled has its bit
    filled   a bit a rank, in words of 64, all 0 before and after
    """
    m = end - start
    ids = np.empty(m, np.int32)
    ranks = np.empty(m, np.int32)  # of the pair that begins at each place
    before = np.arange(-1, m - 1).astype(np.int32)
    after = np.arange(1, m + 1).astype(np.int32)
    places = np.empty(3 * m, np.int32)  # a list node each: at most one a byte, and two a merge
    links = np.empty(3 * m, np.int32)
    nodes = 0
    urgent = [np.int64(0) for _ in range(0)]
    for k in range(m):
        ids[k] = tables.byte_ids[data[start + k]]
        ranks[k] = NEVER
        if k + 1 < m:
            rank = tables.byte_pairs[np.int64(data[start + k]) << 8 | np.int64(data[start + k + 1])]
            ranks[k] = rank
            if rank != NEVER:
                nodes = add_place(k, rank, heads, filled, places, links, nodes)
    word = 0
    while word < len(filled):
        if filled[word] == 0:
            word += 1
            continue
        rank = word << 6 | lowest_bit(filled[word])
        filled[word] &= filled[word] - np.uint64(1)
        line = sorted_places(heads[rank], places, links)
        for at in line:
            if ranks[at] == rank:
                nodes = merge_at(
                    at, rank, tables, ids, ranks, before, after, heads, filled, places, links, nodes, urgent
                )
            while len(urgent) > 0:
                first = heapq.heappop(urgent)
                at, early = first & 0xFFFFFFFF, first >> 32
                if ranks[at] == early:
                    nodes = merge_at(
                        at, rank, tables, ids, ranks, before, after, heads, filled, places, links, nodes, urgent
                    )
    at = 0
    while at < m:
        out[count] = ids[at]
        count += 1
        at = after[at]
    return count


@jit
def merge_at(at, current, tables, ids, ranks, before, after, heads, filled, places, links, nodes, urgent):
    """Merge the pair at a place, and note the two new pairs: in the lists, or as urgent if before `current`."""
    new = tables.merged[ranks[at]]
    gone = after[at]
    following = after[gone]
    ids[at] = new
    after[at] = following
    ranks[gone] = NEVER
    ranks[at] = NEVER
    if following < len(ids):
        before[following] = at
        rank = rank_of(new, ids[following], tables.keys, tables.values, tables.shift)
        ranks[at] = rank
        if rank < current:
            heapq.heappush(urgent, np.int64(rank) << 32 | np.int64(at))
        elif rank != NEVER:
            nodes = add_place(at, rank, heads, filled, places, links, nodes)
    left = before[at]
    if left >= 0:
        rank = rank_of(ids[left], new, tables.keys, tables.values, tables.shift)
        ranks[left] = rank
        if rank < current:
            heapq.heappush(urgent, np.int64(rank) << 32 | np.int64(left))
        elif rank != NEVER:
            nodes = add_place(left, rank, heads, filled, places, links, nodes)
    return nodes


@jit
def add_place(at, rank, heads, filled, places, links, nodes):
    """Put a place in front of the list of its rank."""
    word, bit = rank >> 6, np.uint64(1) << np.uint64(rank & 63)
    links[nodes] = heads[rank] if filled[word] & bit else -1
    filled[word] |= bit
    places[nodes] = at
    heads[rank] = nodes
    return nodes + 1


@jit
def sorted_places(node, places, links):
    """Return the places of a list in ascending order. Each was put in front, so most lists only need reversing."""
    size = 0
    k = node
    while k >= 0:
        size += 1
        k = links[k]
    line = np.empty(size, np.int32)
    ascending = True
    k = node
    for j in range(size - 1, -1, -1):
        line[j] = places[k]
        if j + 1 < size and line[j] > line[j + 1]:
            ascending = False
        k = links[k]
    if not ascending:
        line.sort()
    return line


@jit
def lowest_bit(word):
    """Return the index of the lowest bit that is set in a word of 64, which is not 0."""
    index = 0
    for step in (32, 16, 8, 4, 2, 1):
        if word & ((np.uint64(1) << np.uint64(step)) - np.uint64(1)) == 0:
            word >>= np.uint64(step)
            index += step
    return index
