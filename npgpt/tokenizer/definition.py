"""Byte-level BPE as it is defined: short, slow, and the reference for the fast twin.

A pattern cuts a text into pre-tokens, and each pre-token into its UTF-8 bytes, which are the first tokens. Then
neighbours are merged: first the pair that was learned first, wherever it occurs, then the next, until no pair is left
that was learned.

Source: Sennrich, Haddow, Birch, "Neural machine translation of rare words with subword units" (2016); over bytes in
Radford et al., "Language models are unsupervised multitask learners" (2019).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from npgpt.tokenizer.patterns import find_spans

Pair = tuple[int, int]

# a pair that occurs only once says nothing about the next text
LEAST_COUNT = 2


def split(data: bytes, pattern: str) -> list[bytes]:
    """Cut UTF-8 into pre-tokens: the matches of the pattern, and the text between them.

    Example: split(b"I'm 5", GPT2) is [b"I", b"'m", b" 5"].

    A byte that is not part of a whole character counts as a character that is neither letter, number nor white space.
    """
    text = data.decode("utf-8", errors="surrogateescape")
    pieces, end = [], 0
    for start, stop in find_spans(pattern, text):
        pieces += [text[end:start], text[start:stop]]
        end = stop
    pieces.append(text[end:])
    return [piece.encode("utf-8", errors="surrogateescape") for piece in pieces if piece]


def merge(ids: list[int], merges: Mapping[Pair, tuple[int, int]]) -> list[int]:
    """Merge the pair of lowest rank, the leftmost if there are several, until none can be merged.

    Example: merge([97, 97, 98], {(97, 98): (0, 256)}) is [97, 256].

    merges   {(left id, right id): (rank, id of the merged token)}
    """
    ids = list(ids)
    while True:
        ranked = [(merges[pair][0], i) for i, pair in enumerate(pairwise(ids)) if pair in merges]
        if not ranked:
            return ids
        _, i = min(ranked)
        ids[i : i + 2] = [merges[ids[i], ids[i + 1]][1]]


def train(counts: Mapping[bytes, int], n_merges: int, least_count: int = LEAST_COUNT) -> list[Pair]:
    """Learn merges: each round the most frequent pair of neighbours becomes a token.

    Of equally frequent pairs, the one with the smaller ids wins, left id first. Ids 0..255 are the bytes, and 256 is
    the first merge. Learning ends early when no pair occurs twice.

    Example: train({b"abc": 3, b"ab": 2}, 2) is [(97, 98), (256, 99)]: ab occurs 5 times, then abc 3 times.

    counts   {pre-token: how often it occurs}
    returns  the pairs in the order in which they were learned, at most n_merges
    """
    words = [(list(piece), count) for piece, count in counts.items()]
    merges: list[Pair] = []
    while len(merges) < n_merges:
        pairs: Counter[Pair] = Counter()
        for ids, count in words:
            for pair in pairwise(ids):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < least_count:
            break
        merges.append(best)
        words = [(replace(ids, best, 255 + len(merges)), count) for ids, count in words]
    return merges


def replace(ids: list[int], pair: Pair, new: int) -> list[int]:
    """Replace every occurrence of a pair, from left to right: replace([7, 7, 7], (7, 7), 256) is [256, 7]."""
    out: list[int] = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


class PieceCounts:
    """Counts of distinct pre-tokens."""

    def __init__(self) -> None:
        self.counts: Counter[bytes] = Counter()

    def add(self, data: np.ndarray, ends: np.ndarray, begin: int = 0) -> None:
        """Count the pre-tokens of data that begin at `begin` and end at each of `ends`."""
        self.counts.update(data[i:j].tobytes() for i, j in pairwise([begin, *ends]))

    def learn(self, n_merges: int, least_count: int) -> list[Pair]:
        """Return the merges."""
        return train(self.counts, n_merges, least_count)


def split_spans(data: np.ndarray, pattern: str, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Return where the pre-tokens end, for each (start, end) of data by itself."""
    parts = [split(data[start:end].tobytes(), pattern) for start, end in spans]
    return [
        start + np.cumsum([len(piece) for piece in part], dtype=np.int64)
        for (start, _), part in zip(spans, parts, strict=True)
    ]
