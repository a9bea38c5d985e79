"""The bytes of tokens: which tokens contain a string, begin with it, or bring it about after the text so far."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.base import to_utf8


class Spelling:
    """The bytes of every token of a vocabulary; `spelling_of` returns that of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = np.arange(tokenizer.vocab_size)
        self.data = tokenizer.decode_bytes(ids)  # of all tokens, one after another
        self.sizes = tokenizer.sizes(ids)
        self.ends = np.cumsum(self.sizes)
        starts = self.ends - self.sizes
        self.tokens = [self.data[start:end] for start, end in zip(starts, self.ends, strict=True)]

    @cached_property
    def _ordered(self) -> tuple[list[bytes], np.ndarray]:
        order = sorted(range(len(self.tokens)), key=self.tokens.__getitem__)
        return [self.tokens[i] for i in order], np.array(order)

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """Return the bytes of each token. Ids that only the model has, because its vocabulary is padded, have none."""
        return [self.tokens[i] if i < len(self.tokens) else b"" for i in ids]

    def containing(self, part: bytes) -> np.ndarray:
        """Return the ids of the tokens that contain a string, in order."""
        return np.unique(occurrences(self.data, part, self.ends, whole=True))

    def beginning(self, part: bytes) -> np.ndarray:
        """Return the ids of the tokens that begin with a string."""
        tokens, ids = self._ordered
        first, last = (cut(tokens, part, key=lambda token: token[: len(part)]) for cut in (bisect_left, bisect_right))
        return ids[first:last]

    def leading_to(self, text: bytes) -> np.ndarray:
        """Return the ids of the tokens that a text which is to begin with this one may begin with.

        They are the beginnings of it, and the tokens that begin with all of it.
        """
        tokens, ids = self._ordered
        begun = [text[:size] for size in range(1, min(len(text), int(self.sizes.max()) + 1))]
        found = [ids[bisect_left(tokens, part) : bisect_right(tokens, part)] for part in begun]
        return np.concatenate([self.beginning(text), *found])


def occurrences(data: bytes, part: bytes, ends: np.ndarray, whole: bool) -> np.ndarray:
    """Return the tokens in which occurrences of a string end, of tokens that end at `ends` in data.

    whole  leave out those that begin in an earlier token
    """
    places, place = [], data.find(part)
    while place >= 0:
        places.append(place)
        place = data.find(part, place + 1)
    first = np.array(places, np.int64)
    found = np.searchsorted(ends, first + len(part))  # the first token that does not end before
    return found[np.searchsorted(ends, first, side="right") == found] if whole else found


_SPELLINGS: WeakKeyDictionary[Tokenizer, Spelling] = WeakKeyDictionary()


def spelling_of(tokenizer: Tokenizer) -> Spelling:
    """Return the spelling of a tokenizer, which is kept as long as the tokenizer."""
    if tokenizer not in _SPELLINGS:
        _SPELLINGS[tokenizer] = Spelling(tokenizer)
    return _SPELLINGS[tokenizer]


class Words:
    """Strings that must not be written, however they are cut into tokens.

    A token completes a word if it contains it, or if it begins with the rest of a word whose beginning is at the end of
    the text so far. End tokens are no text: they complete nothing, and no word goes on after one.

    >>> from npgpt.tokenizer import ByteTokenizer
    >>> words = Words(["abc"], spelling_of(ByteTokenizer()), ends=())
    >>> bytes(words.completed_by(np.array([*b"xab"])).tolist())
    b'c'
    """

    def __init__(self, words: Sequence[str], spelling: Spelling, ends: Collection[int]) -> None:
        self.spelling, self.ends = spelling, frozenset(ends)
        parts = [to_utf8(word) for word in words]
        self._inside = self._texts([spelling.containing(part) for part in parts])
        self._longest = max(map(len, parts)) - 1
        rests: dict[bytes, list[np.ndarray]] = {}
        for part in parts:
            for size in range(1, len(part)):
                rests.setdefault(part[:size], []).append(spelling.beginning(part[size:]))
        self._after = {begun: self._texts(found) for begun, found in rests.items()}

    def _texts(self, found: list[np.ndarray]) -> np.ndarray:
        return np.setdiff1d(np.concatenate(found), list(self.ends)).astype(np.int64)

    def completed_by(self, ids: np.ndarray) -> np.ndarray:
        """Return the ids of the tokens that would complete a word after ids; some may be there twice."""
        text = b""
        for i in ids[::-1].tolist():
            if i in self.ends or len(text) >= self._longest:
                break
            text = self.spelling.pieces([i])[0] + text
        begun = [text[-size:] for size in range(1, min(len(text), self._longest) + 1)]
        return np.concatenate([self._inside, *(self._after[end] for end in begun if end in self._after)])
