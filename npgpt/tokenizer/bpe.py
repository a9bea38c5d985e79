"""Byte-level BPE: bytes, and the frequent sequences of bytes that were learned from a text."""

import difflib
import functools
import importlib
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from npgpt.tokenizer import definition
from npgpt.tokenizer.base import END, Tokenizer, id_array, to_utf8
from npgpt.tokenizer.patterns import pattern_text, special_pattern
from npgpt.tokenizer.stream import read_parts

Specials = Literal["all"] | Collection[str]


class Pieces(NamedTuple):
    """Texts, cut into pre-tokens.

    data     the UTF-8 of all texts, one after another, and eight bytes more; uint8
    ends     where each pre-token ends; int64
    special  (index of a pre-token, id) of those that are special tokens
    texts    for each text, the index of the pre-token after it
    """

    data: np.ndarray
    ends: np.ndarray
    special: list[tuple[int, int]]
    texts: list[int]


class BPETokenizer(Tokenizer):
    """Byte-level byte pair encoding, as GPT-2 has it. It knows every text and every sequence of bytes.

    definition.py says what it computes; with fast=True the compiled twin in fast/ computes the same.
    """

    kind = "bpe"

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: Sequence[tuple[int, int]] | Mapping[tuple[int, int], int],
        pattern: str = "gpt2",
        special_tokens: Mapping[str, int] | None = None,
        whole: bool = False,
        fast: bool = True,
    ) -> None:
        """Take a vocabulary.

        tokens          the bytes of each id; all 256 single bytes are among them
        merges          pairs of ids whose bytes together are a token, the ones to merge first in front; or their ranks
        pattern         "gpt2", "gpt4", "chinese", or a regular expression: the pre-tokens
        special_tokens  {name: id}; an id's bytes are its name
        whole           take a pre-token that is a token as it is, though merges may not lead there
        fast            encode and decode with the compiled twin, or as defined

        Raises ValueError for a vocabulary that does not hold together.
        """
        self.tokens = list(tokens)
        self.pattern = pattern_text(pattern)
        self.special_tokens = dict(special_tokens or {})
        self.whole = whole
        self.fast = fast
        for name, token in self.special_tokens.items():
            if not name or not 0 <= token < len(self.tokens) or self.tokens[token] != to_utf8(name):
                raise ValueError(f"the special token {name!r} is not the token of its id {token}")
        special = set(self.special_tokens.values())
        plain = {token: i for i, token in enumerate(self.tokens) if i not in special}
        if len(plain) < len(self.tokens) - len(special):
            twice = next(token for i, token in enumerate(self.tokens) if i not in special and plain[token] != i)
            raise ValueError(f"the token {twice!r} is twice in the vocabulary")
        missing = [byte for byte in range(256) if bytes([byte]) not in plain]
        if missing:
            raise ValueError(f"the byte 0x{missing[0]:02x} is not in the vocabulary, which needs all 256")
        if b"" in plain:
            raise ValueError(f"token {plain[b'']} is empty")
        ranks = merges if isinstance(merges, Mapping) else {pair: rank for rank, pair in enumerate(merges)}
        if len(ranks) < len(merges):
            raise ValueError(f"a merge stands twice in the list of {len(merges)}")
        self.merges: dict[tuple[int, int], tuple[int, int]] = {}
        for (left, right), rank in ranks.items():
            for part in (left, right):
                if not 0 <= part < len(self.tokens) or part in special:
                    raise ValueError(f"merge {rank} joins {left} and {right}, but {part} is no token of text")
            joined = self.tokens[left] + self.tokens[right]
            if joined not in plain:
                raise ValueError(f"merge {rank} makes {joined!r}, which is not in the vocabulary")
            self.merges[left, right] = rank, plain[joined]
        self._plain = plain

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @property
    def end_id(self) -> int | None:
        return self.special_tokens.get(END)

    def encode(self, text: str, allowed_special: Specials = ()) -> np.ndarray:
        """Return the ids of text, int32. Special tokens in it are text like any other, unless they are allowed.

        allowed_special  "all", or the names of those that become their ids

        Raises ValueError for a lone surrogate, and for a name that is no special token.
        """
        return self.encode_bytes(to_utf8(text), allowed_special)

    def encode_bytes(self, data: bytes, allowed_special: Specials = ()) -> np.ndarray:
        """Return the ids of any bytes, UTF-8 or not; decode_bytes gives them back."""
        return self._ids(self.pieces([data], allowed_special))[0]

    def encode_batch(self, texts: Iterable[str], allowed_special: Specials = ()) -> list[np.ndarray]:
        """Return the ids of each text, as encode does; faster for many short ones."""
        return self._ids(self.pieces([to_utf8(text) for text in texts], allowed_special))

    def encode_file(self, path: str | Path, allowed_special: Specials = ()) -> Iterator[np.ndarray]:
        """Yield the ids of a UTF-8 text file, part by part, in memory that does not grow with the file.

        Together they are those of `encode` on the whole text, a byte order mark left out, for the named patterns. A
        pattern of your own that looks further around than a few pre-tokens may cut differently where parts meet.

        Raises FileNotFoundError, or ValueError for a file that is not UTF-8, with the offset of the first wrong byte.
        """
        for pieces in self.pieces_of_file(Path(path), allowed_special):
            yield self._ids(pieces)[0]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        array = id_array(ids, self.vocab_size)
        if self.fast and len(array) > 64:  # below, the call costs more than it saves
            return self.twin.decode(array, self._tables)
        return b"".join([self.tokens[i] for i in array])

    def sizes(self, ids: Iterable[int]) -> np.ndarray:
        return self._sizes[id_array(ids, self.vocab_size)]

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([len(token) for token in self.tokens])

    def _special_ids(self, allowed: Specials) -> dict[bytes, int]:
        """Return the allowed special tokens, {bytes: id}."""
        if isinstance(allowed, str) and allowed != "all":
            raise ValueError(f'allowed_special={allowed!r} must be "all" or a list of names')
        names = self.special_tokens if allowed == "all" else list(allowed)
        for name in names:
            if name not in self.special_tokens:
                close = difflib.get_close_matches(name, self.special_tokens, n=1, cutoff=0.5)
                hint = (
                    f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(self.special_tokens) or 'none'}"
                )
                raise ValueError(f"{name!r} is no special token of this vocabulary; {hint}")
        return {name.encode("utf-8"): self.special_tokens[name] for name in names}

    def pieces(self, texts: Sequence[bytes], allowed: Specials) -> Pieces:
        """Cut texts into pre-tokens. They are held as one, so that their encoding shares one cache."""
        data = np.frombuffer(b"".join([*texts, bytes(8)]), np.uint8)
        ids = self._special_ids(allowed)
        segments: list[tuple[int, int, int]] = []  # (start, end, id of the special token or -1)
        until, at = [], 0
        for text in texts:
            last = 0
            for found in special_pattern(ids).finditer(text) if ids else ():
                segments.append((at + last, at + found.start(), -1))
                segments.append((at + found.start(), at + found.end(), ids[found.group()]))
                last = found.end()
            segments.append((at + last, at + len(text), -1))
            until.append(len(segments))
            at += len(text)
        split = self.twin.split if self.fast else definition.split_spans
        parts = iter(split(data, self.pattern, [(start, end) for start, end, token in segments if token < 0]))
        ends = [next(parts) if token < 0 else np.array([end]) for _, end, token in segments]
        firsts = np.cumsum([0, *map(len, ends)])
        special = [(int(firsts[k]), token) for k, (_, _, token) in enumerate(segments) if token >= 0]
        all_ends = ends[0] if len(ends) == 1 else np.concatenate([np.empty(0, np.int64), *ends])
        return Pieces(data, all_ends, special, [int(firsts[k]) for k in until])

    def _ids(self, pieces: Pieces) -> list[np.ndarray]:
        """Return the ids of each text."""
        if self.fast:
            breaks = sorted([*((k, -1) for k in pieces.texts), *pieces.special])
            ids, counts = self.twin.encode(pieces.data, pieces.ends, breaks, self._tables)
            borders = [int(count) for count, (_, token) in zip(counts, breaks, strict=True) if token < 0]
            return [ids[start:end] for start, end in zip([0, *borders], borders)]  # noqa: B905, one is longer
        special = dict(pieces.special)
        data = pieces.data.tobytes()
        found: list[list[int]] = []
        for k, (start, end) in enumerate(zip([0, *pieces.ends], pieces.ends)):  # noqa: B905
            found.append([special[k]] if k in special else self._merged(data[start:end]))
        return [
            np.array([i for ids in found[first:last] for i in ids], np.int32)
            for first, last in zip([0, *pieces.texts], pieces.texts)  # noqa: B905
        ]

    def _merged(self, piece: bytes) -> list[int]:
        if self.whole and piece in self._plain:
            return [self._plain[piece]]
        return definition.merge([self._plain[bytes([byte])] for byte in piece], self.merges)

    def pieces_of_file(self, path: Path, allowed: Specials) -> Iterator[Pieces]:
        """Yield the pre-tokens of a file, part by part, each time those that no text after them can change."""
        longest = max((len(name) for name in self._special_ids(allowed)), default=0)
        rest, parts = b"", []
        for part in read_parts(path):
            parts.append(part)
            # twice as much each time while nothing is settled, so that one endless word is not cut again and again
            if sum(map(len, parts)) < len(rest):
                continue
            rest, parts = b"".join([rest, *parts]), []
            pieces = self.pieces([rest], allowed)
            # the last pre-token may go on, and change the one before it: ' r e becomes 're. Two more for patterns of
            # one's own. And a special token may begin where the longest would not fit any more
            fits = int(np.searchsorted(pieces.ends, len(rest) - longest, side="right"))
            settled = min(len(pieces.ends) - 4, fits)
            if settled > 0:
                special = [(k, token) for k, token in pieces.special if k < settled]
                yield Pieces(pieces.data, pieces.ends[:settled], special, [settled])
                rest = rest[pieces.ends[settled - 1] :]
        yield self.pieces([b"".join([rest, *parts])], allowed)

    @functools.cached_property
    def twin(self) -> types.ModuleType:
        """The compiled twin. It is imported when it is first needed, because numba takes a while."""
        return importlib.import_module("npgpt.tokenizer.fast")

    @functools.cached_property
    def _tables(self) -> Any:
        special = set(self.special_tokens.values())
        is_plain = [i not in special for i in range(len(self.tokens))]
        return self.twin.make_tables(self.tokens, self.merges, is_plain, self.whole)

    def to_json(self) -> dict[str, Any]:
        from npgpt.tokenizer.formats import bpe_to_json

        return bpe_to_json(self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, and for GPT-2's pattern vocab.json and merges.txt as well."""
        from npgpt.tokenizer.formats import write_vocab_and_merges

        super().save_pretrained(folder)
        write_vocab_and_merges(self, Path(folder))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "BPETokenizer | None":
        """Return the tokenizer if content is a tokenizer.json with a BPE in it, else None.

        Raises ValueError, naming it, for a setting that npgpt does not have.
        """
        from npgpt.tokenizer.formats import bpe_from_json

        return bpe_from_json(content)
