"""The merges of one pre-token: a plain scan for a short one, lists of places by rank for a long one."""

import heapq

import numpy as np

from npgpt.jit import jit

NEVER = 2**31 - 1  # the rank of a pair that is never merged
SHORT = 64  # bytes up to which looking at every pair each time is faster
WINDOW, MARGIN = 16384, 512  # bytes of a long pre-token that are merged together, in the processor's cache


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
def merge_short(data, start, end, byte_ids, byte_pairs, keys, values, shift, merged, out, count, ranks):
    """Merge data[start:end] in out from index count on, and return the new count. `ranks` is room for SHORT numbers.

    It is given the tables one by one, as numba counts references each time that one is taken from a tuple.
    """
    m = end - start
    for k in range(m):
        out[count + k] = byte_ids[data[start + k]]
    for k in range(m - 1):
        ranks[k] = byte_pairs[np.int64(data[start + k]) << 8 | np.int64(data[start + k + 1])]
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
        new = merged[best]
        out[count + at] = new
        if at > 0:
            ranks[at - 1] = rank_of(out[count + at - 1], new, keys, values, shift)
        if at + 1 < m:
            ranks[at] = rank_of(new, out[count + at + 1], keys, values, shift)
    return count + m


@jit
def merge_long(data, start, end, tables, out, count, heads, filled):
    """Merge data[start:end] into out from index count on, and return the new count.

    Far apart bytes do not meet, so it goes window by window, each from a border between tokens of the one before. The
    ids are those of the whole if they are for each two neighbours at such a seam. For: the first merge across a border
    would happen with these two alone as well, where every token is made by one merge, after those of its parts (which
    is tables.proper). Where a seam does not hold, the whole is merged at once.
    """
    first, at = count, start
    while True:
        stop = min(at + WINDOW, end) if tables.proper else end
        seam = count
        count = merge_window(data, at, stop, tables, out, count, heads, filled)
        if seam > first:
            left, right = out[seam - 1], out[seam]
            a = at - (tables.starts[left + 1] - tables.starts[left])
            b = at + (tables.starts[right + 1] - tables.starts[right])
            two = np.empty(b - a, np.int32)
            if merge_window(data, a, b, tables, two, 0, heads, filled) != 2 or two[0] != left:
                return merge_window(data, start, end, tables, out, first, heads, filled)
        if stop == end:
            return count
        at = stop
        while at > stop - MARGIN:  # what stands near the end may depend on what follows
            count -= 1
            at -= tables.starts[out[count] + 1] - tables.starts[out[count]]
        if count == seam:  # a token as long as the window
            return merge_window(data, start, end, tables, out, first, heads, filled)


@jit
def merge_window(data, start, end, tables, out, count, heads, filled):
    """Merge data[start:end] into out from index count on, and return the new count, in n log n at most.

    The places of each rank are a list; ranks are taken in order, and the places of one from left to right. A merge that
    gives a pair of lower rank, as hand-made vocabularies can, puts it into a heap that goes first.

    heads    (ranks,), where the list of each rank begins; only read where filled has its bit
    filled   a bit a rank, in words of 64, all 0 before and after
    """
    byte_ids, byte_pairs, merged = tables.byte_ids, tables.byte_pairs, tables.merged
    keys, values, shift = tables.keys, tables.values, tables.shift
    m = end - start
    ids = np.empty(m, np.int32)
    ranks = np.empty(m, np.int32)  # of the pair that begins at each place
    before, after = np.empty(m, np.int32), np.empty(m, np.int32)
    places = np.empty(3 * m, np.int32)  # a list node each: at most one a byte, and two a merge
    links = np.empty(3 * m, np.int32)
    nodes, n_urgent = 0, 0
    urgent = [np.int64(0) for _ in range(0)]
    for k in range(m):
        ids[k] = byte_ids[data[start + k]]
        before[k], after[k] = k - 1, k + 1
        ranks[k] = NEVER
        if k + 1 < m:
            rank = byte_pairs[np.int64(data[start + k]) << 8 | np.int64(data[start + k + 1])]
            ranks[k] = rank
            if rank != NEVER:
                nodes = add_place(k, rank, heads, filled, places, links, nodes)
    line = np.empty(m, np.int32)
    word = 0
    while word < len(filled):
        if filled[word] == 0:
            word += 1
            continue
        current = word << 6 | lowest_bit(filled[word])
        filled[word] &= filled[word] - np.uint64(1)
        size = take_places(heads[current], places, links, line)
        for j in range(size):
            at, wanted = np.int64(line[j]), current
            while True:
                if ranks[at] == wanted:
                    new = np.int64(merged[wanted])
                    gone = after[at]
                    ids[at] = new
                    after[at] = after[gone]
                    ranks[gone] = NEVER
                    ranks[at] = NEVER
                    if after[at] < m:
                        before[after[at]] = at
                    for left in (np.int64(before[at]), at):
                        if left < 0 or after[left] >= m:
                            continue
                        rank = rank_of(ids[left], ids[after[left]], keys, values, shift)
                        ranks[left] = rank
                        if rank < current:
                            heapq.heappush(urgent, np.int64(rank) << 32 | left)
                            n_urgent += 1
                        elif rank != NEVER:
                            nodes = add_place(left, rank, heads, filled, places, links, nodes)
                if n_urgent == 0:
                    break
                first = heapq.heappop(urgent)
                n_urgent -= 1
                at, wanted = first & 0xFFFFFFFF, first >> 32
    at = np.int64(0)
    while at < m:
        out[count] = ids[at]
        count += 1
        at = np.int64(after[at])
    return count


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
def take_places(node, places, links, line):
    """Write the places of a list into line, ascending, and return how many. Each was put in front of the one before."""
    size, ascending = 0, True
    while node >= 0:
        line[size] = places[node]
        ascending = ascending and (size == 0 or line[size] < line[size - 1])
        size += 1
        node = links[node]
    for k in range(size // 2):
        line[k], line[size - 1 - k] = line[size - 1 - k], line[k]
    if not ascending and size > 32:
        line[:size].sort()
    elif not ascending:  # by insertion: few, and nearly in order
        for k in range(1, size):
            place, j = line[k], k
            while j > 0 and line[j - 1] > place:
                line[j] = line[j - 1]
                j -= 1
            line[j] = place
    return size


@jit
def lowest_bit(word):
    """Return the index of the lowest bit that is set in a word of 64, which is not 0."""
    index = 0
    for step in (32, 16, 8, 4, 2, 1):
        if word & ((np.uint64(1) << np.uint64(step)) - np.uint64(1)) == 0:
            word >>= np.uint64(step)
            index += step
    return index
