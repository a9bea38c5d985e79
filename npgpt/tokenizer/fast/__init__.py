"""The compiled twin of definition.py: the same ids and the same merges. Other modules call only this file."""

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
from npgpt.tokenizer.patterns import GPT2, GPT4, find_spans

SCANNERS = {GPT2: scan_gpt2, GPT4: scan_gpt4}
CACHE_ROWS = 1 << 16  # 2 MB

# hashes overflow on purpose; without numba NumPy would warn about it
quietly = np.errstate(over="ignore")

__all__ = ["PieceCounts", "Tables", "decode", "encode", "make_tables", "pad", "split"]


@quietly
def make_tables(
    tokens: Sequence[bytes], merges: Mapping[tuple[int, int], tuple[int, int]], is_plain: Sequence[bool], whole: bool
) -> Tables:
    """Return what the kernels know of a tokenizer.

    tokens    the bytes of each id
    merges    {(left id, right id): (rank, id of the merged token)}
    is_plain  for each id, whether it is a token of text rather than a special token
    whole     whether a pre-token that is a token skips the merges
    """
    n = len(merges)
    if len(tokens) > NO_TOKEN or n > 1 << RANK_BITS:
        raise ValueError(f"{len(tokens):,} tokens and {n:,} merges are more than the twin knows: take fast=False")
    # most look-ups are of pairs that never merge: in a sparse table they end at the first slot
    bits = max(4, (4 * n - 1).bit_length())
    pairs = np.array(list(merges), np.int64).reshape(n, 2)
    ranks, made = np.array(list(merges.values()), np.int64).reshape(n, 2).T
    dense, ranks = np.unique(ranks, return_inverse=True)  # numbered 0, 1, ... in the same order
    table = np.full(1 << bits, FREE)
    build_table(pairs[:, 0].copy(), pairs[:, 1].copy(), ranks, table, 64 - bits)

    once = len(np.unique(made)) == n
    if not once:
        live = _live_pairs(pairs, ranks, made, tokens, table, 64 - bits)
        if live is not None:
            return make_tables(tokens, {pair: merges[pair] for pair in live}, is_plain, whole)
    merged = np.zeros(len(dense), np.uint32)
    merged[ranks] = made
    made_at = np.full(len(tokens), -1)  # the rank that makes each token
    made_at[made] = ranks
    proper = bool(once and (made_at[pairs] < ranks[:, None]).all())
    overlaps = np.full(len(dense), not proper)
    overlaps[ranks[pairs[:, 0] == pairs[:, 1]]] = True

    byte_ids, byte_pairs = _byte_tables(tokens, is_plain, pairs, ranks)
    starts = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([len(token) for token in tokens], out=starts[1:])
    pool = pad(b"".join(tokens))
    by_bytes = np.full(1 << (2 * len(tokens)).bit_length() if whole else 0, -1, np.int32)
    if whole:
        fill_whole(by_bytes, starts, pool, np.array(is_plain))
    return Tables(byte_ids, byte_pairs, table, 64 - bits, merged, overlaps, proper, by_bytes, starts, pool)


def _live_pairs(
    pairs: np.ndarray, ranks: np.ndarray, made: np.ndarray, tokens: Sequence[bytes], table: np.ndarray, shift: int
) -> list[tuple[int, int]] | None:
    """Return for each merged token the one pair that can ever make it, or None if some token has none."""
    order = np.argsort(ranks, kind="stable")
    sizes = np.array([len(token) for token in tokens])
    columns = [column[order].copy() for column in (pairs[:, 0], pairs[:, 1], ranks, made)]
    live = live_merges(*columns, np.where(sizes == 1, -1, NEVER), table, shift)[np.unique(made)]
    if (live < 0).any():
        return None
    return [(int(left), int(right)) for left, right in pairs[order[live]]]


def _byte_tables(
    tokens: Sequence[bytes], is_plain: Sequence[bool], pairs: np.ndarray, ranks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the token of each byte, and the rank of each pair of bytes, NEVER if it does not merge."""
    byte_ids = np.zeros(256, np.uint32)
    byte_of = np.full(len(tokens), -1)
    for i, (token, plain) in enumerate(zip(tokens, is_plain, strict=True)):
        if plain and len(token) == 1:
            byte_ids[token[0]] = i
            byte_of[i] = token[0]
    byte_pairs = np.full(1 << 16, NEVER, np.uint32)
    of_bytes = (byte_of[pairs] >= 0).all(axis=1)
    left, right = byte_of[pairs[of_bytes]].T
    byte_pairs[left * 256 + right] = ranks[of_bytes]
    return byte_ids, byte_pairs


def pad(data: bytes) -> np.ndarray:
    """Return bytes as an array, with eight more because the kernels read up to eight at a time."""
    return np.frombuffer(data + bytes(8), np.uint8)


def split(data: np.ndarray, pattern: str, spans: Iterable[tuple[int, int]] | None = None) -> list[np.ndarray]:
    """Return where the pre-tokens end, for each (start, end) of padded data by itself; by default for all of it."""
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
    borders = np.array(find_spans(pattern, text), np.int64).reshape(-1)
    borders = np.unique(np.append(borders, len(text)))  # text between two matches is a pre-token too
    if len(text) < end - start:  # from characters to bytes; U+DC80..DCFF stand for one byte each
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
    """Return the ids of pre-tokens, int32, and the number of ids before each break.

    data, begin, ends  padded bytes, where the first pre-token begins, and where each ends
    breaks             ascending (index of a pre-token, id): the pre-token is this special token, or any if the id is -1
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
    """Counts of distinct pre-tokens, in arrays that grow. The order of counting does not change what is learned."""

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
