"""The merges of one pre-token: a plain scan for a short one, lists of places by rank for a long one."""

import heapq
from typing import NamedTuple

import numpy as np

from npgpt.support.jit import jit

NEVER = 2**31 - 1  # the rank of a pair that is never merged
TOKEN_BITS, RANK_BITS = 21, 22  # of a slot of the table of pairs: two tokens, and the rank of their merge
FREE = np.uint64(2**64 - 1)  # an empty slot
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio: a product with it spreads bits upwards
NO_TOKEN = 2**TOKEN_BITS - 1  # stands before the first token and after the last: no pair has it
SHORT = 64  # bytes up to which looking at every pair each time is faster
WINDOW, MARGIN = 16384, 512  # bytes of a long pre-token that are merged together, in the processor's cache


@jit
def slot_of(left, right, shift):
    """Return the place of a pair's hash in a table of 2**(64 - shift) slots, and the pair as one number."""
    key = np.uint64(left) << np.uint64(32) | np.uint64(right)
    mixed = (key ^ key >> np.uint64(29)) * GOLDEN
    return np.int64(mixed >> np.uint64(shift)), np.int64(key)


@jit
def pair_slot(left, right, shift):
    """Return the slot of 2**(64 - shift) where the search for a pair begins, and the pair's entry without its rank."""
    key = np.uint64(left) << np.uint64(TOKEN_BITS) | np.uint64(right)
    mixed = (key ^ key >> np.uint64(15)) * GOLDEN
    return mixed >> np.uint64(shift), key << np.uint64(RANK_BITS)


@jit
def build_table(left, right, ranks, table, shift):
    """Fill an open-addressing table, FREE before, with the ranks of pairs."""
    for i in range(len(left)):
        slot, key = pair_slot(left[i], right[i], shift)
        while table[slot] != FREE:
            slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
        table[slot] = key | np.uint64(ranks[i])


@jit
def rank_of(left, right, table, shift):
    """Return the rank of a pair of ids, NEVER if it does not merge.

    All numbers are unsigned, because numba lets a signed index count from the end, and the check for that costs as much
    as the look-up.
    """
    slot, key = pair_slot(left, right, shift)
    found = table[slot]
    while found ^ key >= np.uint64(1 << RANK_BITS):  # another pair's
        if found == FREE:
            return np.uint32(NEVER)
        slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
        found = table[slot]
    return np.uint32(found ^ key)


@jit
def live_merges(left, right, ranks, made, made_at, table, shift):
    """Return the index of the one merge that can ever make each token, -1 where none is found.

    A token's bytes are merged in one way, and the last step joins two tokens. Any other merge with the same result
    never meets its pair. tiktoken's ranks, for example, have a merge for every way to cut a token in two.

    Example: with (a, b) -> ab as merge 0, (b, c) -> bc as 1, (a, bc) -> abc as 2 and (ab, c) -> abc as 3, the bytes abc
    merge to ab, c and then abc. So abc is made by merge 3, and merge 2 never happens.

    left, right, ranks, made  the merges, ascending by rank, and the token of each
    made_at                   (tokens,) -1 for a byte, NEVER for the others; afterwards by which rank
    """
    by = np.full(len(made_at), -1)
    for i in range(len(left)):
        a, b, limit = left[i], right[i], ranks[i]
        alive = by[made[i]] < 0 and made_at[a] < limit and made_at[b] < limit
        while alive:  # undo merges, the latest first: the two tokens at the border must not have merged earlier
            if rank_of(a, b, table, shift) < limit:
                alive = False
            elif made_at[a] > made_at[b]:
                limit = made_at[a]
                a = right[by[a]]
            elif made_at[b] >= 0:
                limit = made_at[b] + 1  # of two places with one rank the left one merges first
                b = left[by[b]]
            else:
                by[made[i]], made_at[made[i]] = i, ranks[i]
                break
    return by


@jit
def merge_short(data, start, end, byte_ids, byte_pairs, table, shift, merged, out, count, ranks):
    """Merge data[start:end] in out from index count on, and return the new count. `ranks` is room for SHORT numbers.

    The tables are separate arguments, because numba counts references each time an array is taken from a tuple.
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
            ranks[at - 1] = rank_of(out[count + at - 1], new, table, shift)
        if at + 1 < m:
            ranks[at] = rank_of(new, out[count + at + 1], table, shift)
    return count + m


class Room(NamedTuple):
    """Working memory for merging up to n bytes. All numbers are unsigned: see rank_of.

    cells   (n + 2, 4) uint32, for each place, counted from 1: its token, the rank of the pair that begins there, and
            the places to the left and to the right. One row before the first and one after the last have NO_TOKEN
    nodes   (3 n + 1, 2) uint32, a place and the next node, 0 at the end: at most one for each byte, two for each merge
    line    (n,) uint32, the places of one rank
    heads   (ranks,) uint32, where the list of each rank begins; valid only if its bit is set in filled
    filled  uint64, one bit for each rank, all 0 before and after
    """

    cells: np.ndarray
    nodes: np.ndarray
    line: np.ndarray
    heads: np.ndarray
    filled: np.ndarray


@jit
def make_room(n, heads, filled):
    """Return room for n bytes."""
    return Room(
        np.empty((n + 2, 4), np.uint32), np.empty((3 * n + 1, 2), np.uint32), np.empty(n, np.uint32), heads, filled
    )


@jit
def merge_long(data, start, end, tables, out, count, room):
    """Merge data[start:end] into out from index count on, and return the new count. The room is for WINDOW bytes.

    Bytes that are far apart do not influence each other, so the text is merged window by window. Each window begins at
    a border between two tokens of the one before, its seam. The ids are right if, at each seam, the bytes of the two
    tokens beside it merge to the same two tokens: the first merge across the seam would also happen with these two
    alone, provided that every token is made by one merge, after the merges that make its parts (tables.proper). If a
    seam fails this check, the whole is merged at once.
    """
    first, at = count, start
    while tables.proper or end - start <= WINDOW:
        stop = min(at + WINDOW, end)
        seam = count
        count = merge_window(data, at, stop, tables, out, count, room)
        if seam > first:
            left, right = out[seam - 1], out[seam]
            a = at - (tables.starts[left + 1] - tables.starts[left])
            b = at + (tables.starts[right + 1] - tables.starts[right])
            two = np.empty(b - a, np.int32)
            if b - a > WINDOW or merge_window(data, a, b, tables, two, 0, room) != 2 or two[0] != left:
                break
        if stop == end:
            return count
        at = stop
        while at > stop - MARGIN:  # tokens near the end may depend on what follows
            count -= 1
            at -= tables.starts[out[count] + 1] - tables.starts[out[count]]
        if count == seam:  # a token as long as the window
            break
    return merge_window(data, start, end, tables, out, first, make_room(end - start, room.heads, room.filled))


@jit
def merge_window(data, start, end, tables, out, count, room):
    """Merge data[start:end] into out from index count on, and return the new count, in at most n log n steps.

    The places of each rank are a list. Ranks are merged in order, and the places of one rank from left to right if they
    overlap. A merge can create a pair of lower rank in hand-made vocabularies; such pairs go into a heap, which is
    emptied first.

    This is one long function, because a helper would have to take and return the heap and two counters for each merge,
    and take nine arrays.
    """
    byte_ids, byte_pairs, merged, overlaps = tables.byte_ids, tables.byte_pairs, tables.merged, tables.overlaps
    table, shift = tables.table, tables.shift
    cells, nodes, line, heads, filled = room.cells, room.nodes, room.line, room.heads, room.filled
    m = end - start
    for k in (0, m + 1):
        cells[k, 0], cells[k, 1] = NO_TOKEN, NEVER
    cells[0, 3] = 1
    n_nodes, n_urgent = 1, 0
    urgent = [np.int64(0) for _ in range(0)]
    for k in range(m):
        at = np.uint32(k + 1)
        rank = (
            byte_pairs[np.int64(data[start + k]) << 8 | np.int64(data[start + k + 1])]
            if k + 1 < m
            else np.uint32(NEVER)
        )
        cells[at, 0], cells[at, 1], cells[at, 2], cells[at, 3] = byte_ids[data[start + k]], rank, k, k + 2
        if rank != NEVER:
            n_nodes = add_place(at, rank, heads, filled, nodes, n_nodes)
    word = 0
    while word < len(filled):
        if filled[word] == 0:
            word += 1
            continue
        current = np.uint32(word << 6 | lowest_bit(filled[word]))
        filled[word] &= filled[word] - np.uint64(1)
        node, size, taken = heads[current], 0, 0
        if overlaps[current]:
            size = take_places(node, nodes, line)
            node = np.uint32(0)
        while node > 0 or taken < size:
            if node > 0:
                at, node = nodes[node, 0], nodes[node, 1]
            else:
                at = line[taken]
                taken += 1
            wanted = current
            while True:
                if cells[at, 1] == wanted:
                    new, gone, previous = merged[wanted], cells[at, 3], cells[at, 2]
                    following = cells[gone, 3]
                    cells[at, 0], cells[at, 3] = new, following
                    cells[gone, 1] = NEVER
                    cells[following, 2] = at
                    rank = rank_of(new, cells[following, 0], table, shift)
                    rank_before = rank_of(cells[previous, 0], new, table, shift)
                    cells[at, 1], cells[previous, 1] = rank, rank_before
                    if rank_before < current:
                        heapq.heappush(urgent, np.int64(rank_before) << 32 | np.int64(previous))
                        n_urgent += 1
                    elif rank_before != NEVER:
                        n_nodes = add_place(previous, rank_before, heads, filled, nodes, n_nodes)
                    if rank < current:
                        heapq.heappush(urgent, np.int64(rank) << 32 | np.int64(at))
                        n_urgent += 1
                    elif rank != NEVER:
                        n_nodes = add_place(at, rank, heads, filled, nodes, n_nodes)
                if n_urgent == 0:
                    break
                first = heapq.heappop(urgent)
                n_urgent -= 1
                at, wanted = np.uint32(first & 0xFFFFFFFF), np.uint32(first >> 32)
    at = cells[0, 3]
    while at <= m:
        out[count] = cells[at, 0]
        count += 1
        at = cells[at, 3]
    return count


@jit
def add_place(at, rank, heads, filled, nodes, n_nodes):
    """Put a place in front of the list of its rank."""
    word, bit = rank >> np.uint32(6), np.uint64(1) << np.uint64(rank & np.uint32(63))
    nodes[n_nodes, 0] = at
    nodes[n_nodes, 1] = heads[rank] if filled[word] & bit else np.uint32(0)
    filled[word] |= bit
    heads[rank] = n_nodes
    return n_nodes + 1


@jit
def take_places(node, nodes, line):
    """Write the places of a list into line, ascending, and return their number. The list begins with the latest."""
    size, ascending = 0, True
    while node > 0:
        line[size] = nodes[node, 0]
        ascending = ascending and (size == 0 or line[size] < line[size - 1])
        size += 1
        node = nodes[node, 1]
    for k in range(size // 2):
        line[k], line[size - 1 - k] = line[size - 1 - k], line[k]
    if not ascending and size > 32:
        line[:size].sort()
    elif not ascending:  # insertion sort: they are few and nearly in order
        for k in range(1, size):
            place, j = line[k], k
            while j > 0 and line[j - 1] > place:
                line[j] = line[j - 1]
                j -= 1
            line[j] = place
    return size


@jit
def lowest_bit(word):
    """Return the index of the lowest set bit of a 64-bit word, which must not be 0: of 0b1100 it is 2."""
    index = 0
    for step in (32, 16, 8, 4, 2, 1):
        if word & ((np.uint64(1) << np.uint64(step)) - np.uint64(1)) == 0:
            word >>= np.uint64(step)
            index += step
    return index
