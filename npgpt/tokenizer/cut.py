"""Texts cut into pre-tokens and special tokens, and files cut the same way part by part."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt.tokenizer.patterns import special_pattern
from npgpt.tokenizer.stream import TextFile, read_parts

Split = Callable[[np.ndarray, str, Sequence[tuple[int, int]]], list[np.ndarray]]
Segment = tuple[int, int, int]  # where it starts and ends, and the id of the special token that it is, or -1


class Pieces(NamedTuple):
    """Texts cut into pre-tokens.

    data     the UTF-8 of all texts, one after another, and eight bytes more; uint8
    ends     where each pre-token ends; int64
    special  (index of the pre-token, id) for each special token
    texts    for each text, the index of the pre-token after it
    """

    data: np.ndarray
    ends: np.ndarray
    special: list[tuple[int, int]]
    texts: list[int]


class Cutter(NamedTuple):
    """How texts are cut.

    split    definition.split_spans or its fast twin
    pattern  a regular expression whose matches are the pre-tokens
    special  {bytes: id} of the special tokens that count as such; others are plain text
    added    {bytes: id} of tokens that are found in the text around them, before it is cut by the pattern
    """

    split: Split
    pattern: str
    special: Mapping[bytes, int]
    added: Mapping[bytes, int]

    def texts(self, texts: Sequence[bytes]) -> Pieces:
        r"""Cut texts into pre-tokens. They are joined, so that their encoding shares one cache.

        Example: "a<x>" and "b c", where <x> is the special token 256 and the pattern is GPT-2's, give the data
        b"a<x>b c" and eight bytes more, the ends [1, 4, 5, 7], special [(1, 256)] and texts [2, 4].
        """
        data = np.frombuffer(b"".join([*texts, bytes(8)]), np.uint8)
        segments: list[Segment] = []
        segments_before = []  # the end of each text, counted in segments
        at = 0
        for text in texts:
            segments += self._segments(text, at)
            segments_before.append(len(segments))
            at += len(text)
        plain = [(start, end) for start, end, token in segments if token < 0]
        parts = iter(self.split(data, self.pattern, plain))
        ends = [next(parts) if token < 0 else np.array([end]) for _, end, token in segments]
        firsts = np.cumsum([0, *map(len, ends)]).tolist()  # the first pre-token of each segment
        special = [(firsts[k], token) for k, (_, _, token) in enumerate(segments) if token >= 0]
        all_ends = ends[0] if len(ends) == 1 else np.concatenate([np.empty(0, np.int64), *ends])
        return Pieces(data, all_ends, special, [firsts[k] for k in segments_before])

    def _segments(self, text: bytes, at: int) -> list[Segment]:
        """Return the special and added tokens of a text that begins at byte `at`, and the plain text around them."""
        segments = [(0, len(text), -1)]
        for tokens in self.special, self.added:
            if tokens:
                segments = [part for segment in segments for part in cut_out(text, segment, tokens)]
        return [(at + start, at + end, token) for start, end, token in segments]

    def file(self, path: str | Path | TextFile) -> Iterator[Pieces]:
        """Yield the pre-tokens of a text file, part by part, each once no later text can change it."""
        longest = max(map(len, [*self.special, *self.added]), default=0)
        rest, parts = b"", []
        for part in read_parts(path):
            parts.append(part)
            # cut again only after the text has doubled, so that one endless word is not cut again and again
            if sum(map(len, parts)) < len(rest):
                continue
            rest, parts = b"".join([rest, *parts]), []
            pieces = self.texts([rest])
            settled = settled_pieces(pieces.ends, len(rest) - longest)
            if settled > 0:
                special = [(k, token) for k, token in pieces.special if k < settled]
                yield Pieces(pieces.data, pieces.ends[:settled], special, [settled])
                rest = rest[pieces.ends[settled - 1] :]
        yield self.texts([b"".join([rest, *parts])])


def cut_out(text: bytes, segment: Segment, tokens: Mapping[bytes, int]) -> Iterator[Segment]:
    """Yield the parts of a segment: tokens by their bytes, and the plain text before, between and after them.

    Example: b"ab<x>c" as the segment (0, 6, -1) gives (0, 2, -1), (2, 5, 7) and (5, 6, -1) if b"<x>" is the token 7.
    """
    start, end, token = segment
    if token < 0:
        for found in special_pattern(tuple(tokens)).finditer(text, start, end):
            yield start, found.start(), -1
            yield found.start(), found.end(), tokens[found.group()]
            start = found.end()
    yield start, end, token


def settled_pieces(ends: np.ndarray, limit: int) -> int:
    """Return how many pre-tokens no later text can change: all but the last four, and those that end by `limit`.

    The last pre-token may continue, and then change the one before it: ' r e becomes 're. Two more are kept back for
    patterns of the user's own. After `limit` the text may hold the beginning of a special token.
    """
    return min(len(ends) - 4, int(np.searchsorted(ends, limit, side="right")))
