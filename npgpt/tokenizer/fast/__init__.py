"""The fast twin of definition.py: the same ids and the same merges, compiled. Others call only what is in this file."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from npgpt.tokenizer.fast.classes import code_point_classes
from npgpt.tokenizer.fast.encode import Tables, decode_ids, encode_pieces, fill_whole
from npgpt.tokenizer.fast.merge import (
    FREE,
    NEVER,
    NO_TOKEN,
    RANK_BITS,
    SHORT,
    WINDOW,
    build_table,
    live_merges,
    make_room,
)
from npgpt.tokenizer.fast.scan import scan_gpt2, scan_gpt4
from npgpt.tokenizer.fast.train import count_pieces, learn, rehash
from npgpt.tokenizer.patterns import GPT2, GPT4, compiled

SCANNERS = {GPT2: scan_gpt2, GPT4: scan_gpt4}
CACHE_ROWS = 1 << 16  # 2 MB

# hashes are meant to overflow; NumPy's numbers would warn of it where numba is switched off
quietly = np.errstate(over="ignore")

__all__ = ["PieceCounts", "Tables", "decode", "encode", "make_tables", "pad", "split"]


@quietly
def make_tables(
    tokens: Sequence[bytes], merges: Mapping[tuple[int, int], tuple[int, int]], is_plain: Sequence[bool], whole: bool
) -> Tables:
    """Return what the kernels know of a tokenizer.

    tokens    the bytes of each id
    merges    {(left id, right id): (rank, id of the merged token)}
    is_plain  of each id, whether it is a token of text and no special one
    whole     whether a pre-token that is a token as a whole is taken as it is
    """
    n = len(merges)
    if len(tokens) > NO_TOKEN or n > 1 << RANK_BITS:
        raise ValueError(f"{len(tokens):,} tokens and {n:,} merges are more than the twin knows: take fast=False")
    bits = max(4, (4 * n - 1).bit_length())  # most look-ups are of pairs that are not there: they end at the first slot
    pairs = np.array(list(merges), np.int64).reshape(n, 2)
    ranks, merged_ids = np.array(list(merges.values()), np.int64).reshape(n, 2).T
    dense, ranks = np.unique(ranks, return_inverse=True)  # numbered 0, 1, ... in the same order
    merged = np.zeros(len(dense), np.uint32)
    merged[ranks] = merged_ids
    table = np.full(1 << bits, FREE)
    build_table(pairs[:, 0].copy(), pairs[:, 1].copy(), ranks, table, 64 - bits)

    made_at = np.full(len(tokens), -1)  # by which rank
    made_at[merged_ids] = ranks
    makes = np.unique(merged_ids)
    once = len(makes) == n
    if not once:
        order = np.argsort(ranks, kind="stable")
        sizes = np.array([len(token) for token in tokens])
        columns = [column[order].copy() for column in (pairs[:, 0], pairs[:, 1], ranks, merged_ids)]
        live = live_merges(*columns, np.where(sizes == 1, -1, NEVER), table, 64 - bits)[makes]
        if (live >= 0).all():
            kept = [(int(left), int(right)) for left, right in pairs[order[live]]]
            return make_tables(tokens, {pair: merges[pair] for pair in kept}, is_plain, whole)
    proper = bool(once and (made_at[pairs] < ranks[:, None]).all())
    overlaps = np.full(len(dense), not proper)
    overlaps[ranks[pairs[:, 0] == pairs[:, 1]]] = True

    byte_ids = np.zeros(256, np.uint32)
    byte_of = np.full(len(tokens), -1)
    for i, (token, plain) in enumerate(zip(tokens, is_plain, strict=True)):
        if plain and len(token) == 1:
            byte_ids[token[0]] = i
            byte_of[i] = token[0]
    byte_pairs = np.full(1 << 16, NEVER, np.uint32)
    of_bytes = (byte_of[pairs] >= 0).all(axis=1)
    byte_pairs[byte_of[pairs[of_bytes, 0]] * 256 + byte_of[pairs[of_bytes, 1]]] = ranks[of_bytes]

    starts = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([len(token) for token in tokens], out=starts[1:])
    pool = pad(b"".join(tokens))
    by_bytes = np.full(1 << (2 * len(tokens)).bit_length() if whole else 0, -1, np.int32)
    if whole:
        fill_whole(by_bytes, starts, pool, np.array(is_plain))
    return Tables(
        byte_ids,
        byte_pairs,
        table,
        64 - bits,
        merged,
        overlaps,
        proper,
        by_bytes,
        starts,
        pool,
    )


def pad(data: bytes) -> np.ndarray:
    """Return bytes as an array with the eight more that the kernels may read."""
    return np.frombuffer(data + bytes(8), np.uint8)


def split(data: np.ndarray, pattern: str, spans: Iterable[tuple[int, int]] | None = None) -> list[np.ndarray]:
    """Return where the pre-tokens end, for each span of data: all of it, or each (start, end) by itself."""
    n = len(data) - 8
    spans = [(0, n)] if spans is None else list(spans)
    scan = SCANNERS.get(pattern)
    if scan is None:
        return [_split_by_regex(data, pattern, start, end) for start, end in spans]
    room = np.empty(max((end - start for start, end in spans), default=0), np.int64)
    classes = code_point_classes()
    found = []
    for start, end in spans:
        ends = room[: scan(data, start, end, classes, room, 0)]
        found.append(ends if len(spans) == 1 else ends.copy())
    return found


def _split_by_regex(data: np.ndarray, pattern: str, start: int, end: int) -> np.ndarray:
    text = data[start:end].tobytes().decode("utf-8", errors="surrogateescape")
    borders = np.array([m.span() for m in compiled(pattern).finditer(text)], np.int64).reshape(-1)
    borders = np.unique(np.append(borders, len(text)))  # what lies between two matches is a pre-token too
    if len(text) < end - start:  # from characters to bytes; an escaped byte is one of U+DC80..DCFF
        codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), "<u4")
        escaped = (codes >= 0xDC80) & (codes <= 0xDCFF)
        sizes = 1 + ((codes >= 0x80) & ~escaped) + ((codes >= 0x800) & ~escaped) + (codes >= 0x10000)
        borders = np.concatenate([[0], np.cumsum(sizes)])[borders]
    return start + borders[borders > 0]


@quietly
def encode(
    data: np.ndarray,
    ends: np.ndarray,
    breaks: Sequence[tuple[int, int]],
    tables: Tables,
    begin: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of pre-tokens, int32, and how many stand before each break.

    data, begin, ends  padded bytes, where the first pre-token begins, and where each ends
    breaks             (index of a pre-token, id of the special token that it is, or -1), ascending
    """
    size = int(ends[-1]) - begin if len(ends) else 0
    rows = min(CACHE_ROWS, 1 << max(4, (size // 4).bit_length()))
    at = np.array([*(piece for piece, _ in breaks), len(ends)], np.int64)
    special = np.array([*(token for _, token in breaks), -1], np.int32)
    counts = np.zeros(len(at), np.int64)
    cache, out = np.zeros((rows, 4), np.uint64), np.empty(size, np.int32)
    n_ranks = len(tables.merged) if size > SHORT else 0
    room = make_room(
        min(size, WINDOW) if size > SHORT else 0,
        np.empty(n_ranks, np.uint32),
        np.zeros((n_ranks + 63) // 64, np.uint64),
    )
    count = encode_pieces(data, begin, ends, at, special, counts, tables, cache, room, out)
    return out[:count].copy(), counts[:-1]


def decode(ids: np.ndarray, tables: Tables) -> bytes:
    """Return the bytes of ids, all of which must be in the vocabulary."""
    sizes = tables.starts[1:] - tables.starts[:-1]
    out = np.empty(int(sizes[ids].sum()), np.uint8)
    decode_ids(ids, tables.starts, tables.pool, out)
    return out.tobytes()


class PieceCounts:
    """Counts of distinct pre-tokens, in arrays that grow; what was counted in which order makes no difference."""

    def __init__(self) -> None:
        self.n_words = 0
        self._slots = np.full(1 << 12, -1, np.int32)
        self._hashes = np.empty(1 << 11, np.uint64)
        self._starts = np.zeros((1 << 11) + 1, np.int64)
        self._counts = np.empty(1 << 11, np.int64)
        self._pool = np.empty(1 << 14, np.uint8)

    @quietly
    def add(self, data: np.ndarray, ends: np.ndarray, begin: int = 0) -> None:
        """Count the pre-tokens of padded data."""
        piece, start = 0, begin
        while piece < len(ends):
            piece, start, self.n_words = count_pieces(
                data,
                start,
                ends,
                piece,
                self._slots,
                self._hashes,
                self._starts,
                self._counts,
                self._pool,
                self.n_words,
            )
            if piece < len(ends):
                self._grow(int(ends[piece]) - start)

    def _grow(self, needed: int) -> None:
        if 2 * self.n_words >= len(self._slots):
            self._slots = np.full(2 * len(self._slots), -1, np.int32)
            rehash(self._hashes, self.n_words, self._slots)
            n = len(self._counts)
            self._hashes, self._counts = np.resize(self._hashes, 2 * n), np.resize(self._counts, 2 * n)
            self._starts = np.resize(self._starts, 2 * n + 1)
        used = int(self._starts[self.n_words])
        if used + needed > len(self._pool):
            pool = np.empty(max(2 * len(self._pool), used + needed), np.uint8)
            pool[:used] = self._pool[:used]
            self._pool = pool

    @quietly
    def learn(self, n_merges: int, least_count: int) -> list[tuple[int, int]]:
        """Return the merges, at most n_merges. Raises ValueError for more distinct text than 32 bits can count."""
        starts = self._starts[: self.n_words + 1].copy()
        if 3 * int(starts[-1]) >= 2**31:
            raise ValueError(f"{int(starts[-1]):,} bytes of distinct pre-tokens are too many: give less text")
        merges = learn(self._pool, starts, self._counts[: self.n_words].copy(), n_merges, least_count)
        return [(int(a), int(b)) for a, b in merges]
