"""Byte-level BPE: bytes, and the frequent sequences of bytes that were learned from a text."""

import copy
import difflib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from npgpt.tokenizer.base import Tokenizer, errors_naming, id_array, register, to_utf8
from npgpt.tokenizer.cut import Cutter, Pieces
from npgpt.tokenizer.definition import merge
from npgpt.tokenizer.engine import splitter, twin
from npgpt.tokenizer.formats import (
    json_of_vocabulary,
    read_ranks,
    read_vocab_and_merges,
    vocabulary_of_json,
    vocabulary_of_ranks,
    with_unmade_special,
    write_vocab_and_merges,
)
from npgpt.tokenizer.neighbours import with_neighbours
from npgpt.tokenizer.patterns import pattern_text
from npgpt.tokenizer.stream import TextFile
from npgpt.tokenizer.train import train_vocabulary
from npgpt.tokenizer.vocabulary import MergesError, Vocabulary, ranked_merges, text_tokens

Specials = Literal["all"] | Collection[str]


@register
class BPETokenizer(Tokenizer):
    """Byte-level byte pair encoding, as in GPT-2. It can encode every text and every sequence of bytes.

    Only a vocabulary read from a file may lack some bytes, and then refuses a text that has them.

    definition.py says what it computes; with fast=True the compiled twin in fast/ computes the same.
    """

    kind = "bpe"
    files = "byte-level BPE"
    exact = False

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: Sequence[tuple[int, int]] | Mapping[tuple[int, int], int],
        pattern: str = "gpt2",
        special_tokens: Mapping[str, int] | None = None,
        whole: bool = False,
        added_tokens: Mapping[str, int] | None = None,
        fast: bool = True,
    ) -> None:
        """Take a vocabulary; see Vocabulary for its parts.

        fast  whether the compiled twin encodes and decodes, or the definition

        Raises ValueError for a vocabulary that is inconsistent.
        """
        self.tokens = list(tokens)
        self.pattern = pattern_text(pattern)
        self.special_tokens = dict(special_tokens or {})
        self.whole = whole
        self.added_tokens = dict(added_tokens or {})
        self.fast = fast
        self._special, self._size = self.special_tokens, len(self.tokens)
        self.holes = [i for i, token in enumerate(self.tokens) if not token]
        self._of_text = text_tokens(self.tokens, self.special_tokens, self.added_tokens)
        self._added = {to_utf8(name): i for name, i in self.added_tokens.items()}
        self._lacks = np.array([bytes([byte]) not in self._of_text for byte in range(256)])
        self.merges = ranked_merges(merges, self.tokens, self._of_text)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary; BPETokenizer(*tokenizer.vocabulary) is an equal tokenizer."""
        ranks = {pair: rank for pair, (rank, _) in self.merges.items()}
        added = {name.decode("utf-8"): i for name, i in self._added.items()}
        return Vocabulary(self.tokens, ranks, self.pattern, self._special, self.whole, added)

    @property
    def vocab_size(self) -> int:
        return self._size

    def below(self, size: int) -> Self:
        if self.vocab_size <= size:
            return self
        other = copy.copy(self)
        other._size = size
        other.special_tokens = {name: i for name, i in self.special_tokens.items() if i < size}
        other.added_tokens = {name: i for name, i in self.added_tokens.items() if i < size}
        other.beyond = {
            i: token.decode("utf-8", errors="backslashreplace")
            for i, token in enumerate(self.tokens)
            if i >= size and token
        }
        other.holes = [i for i in self.holes if i < size]
        if self._end in other.beyond.values():
            other._end = None
        return other

    def encode(self, text: str, allowed_special: Specials = ()) -> np.ndarray:
        """Return the ids of text, int32. Special tokens in it are plain text unless they are allowed.

        allowed_special  "all", or the names of those that become their ids

        Raises ValueError for a lone surrogate, for a name that is no special token, and for a byte that is not in the
        vocabulary.
        """
        return self.encode_bytes(to_utf8(text), allowed_special)

    def encode_bytes(self, data: bytes, allowed_special: Specials = ()) -> np.ndarray:
        """Return the ids of any bytes, UTF-8 or not; decode_bytes gives them back."""
        return self._ids(self._cutter(allowed_special).texts([data]))[0]

    def encode_batch(self, texts: Iterable[str], allowed_special: Specials = ()) -> list[np.ndarray]:
        """Return the ids of each text, as encode does; faster for many short ones."""
        return self._ids(self._cutter(allowed_special).texts([to_utf8(text) for text in texts]))

    def encode_prompt(self, text: str, special: bool = False) -> list[int]:
        if not (special and self._special):
            return super().encode_prompt(text, special)
        return [int(i) for i in self.encode(text, "all")]

    def encode_file(self, path: str | Path | TextFile, allowed_special: Specials = ()) -> Iterator[np.ndarray]:
        """Yield the ids of a text file, part by part, in memory that does not grow with the file.

        A path is read as UTF-8, with CRLF and CR as LF. For the named patterns the ids are together those of `encode`
        on the whole text, without a byte-order mark. A pattern of your own that looks at more than a few pre-tokens may
        cut differently where two parts meet.

        Raises FileNotFoundError, or ValueError for a file that is not UTF-8, with the offset of the first wrong byte.
        """
        for pieces in self._cutter(allowed_special).file(path):
            yield self._ids(pieces)[0]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        array = id_array(ids, self.vocab_size)
        if self.fast and len(array) > 64:  # for fewer ids the call costs more than it saves
            return twin().decode(array, self._tables)
        return b"".join([self.tokens[i] for i in array])

    def sizes(self, ids: Iterable[int]) -> np.ndarray:
        return self._sizes[id_array(ids, self.vocab_size)]

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([len(token) for token in self.tokens])

    def _cutter(self, allowed: Specials) -> Cutter:
        return Cutter(splitter(self.fast), self.pattern, self._special_ids(allowed), self._added)

    def _special_ids(self, allowed: Specials) -> dict[bytes, int]:
        """Return the allowed special tokens, {bytes: id}."""
        if isinstance(allowed, str) and allowed != "all":
            raise ValueError(f'allowed_special={allowed!r} must be "all" or a list of names')
        if not allowed:
            return {}
        names = self._special if allowed == "all" else [n for n in allowed if n not in self.added_tokens]
        for name in names:
            if name not in self._special:
                close = difflib.get_close_matches(name, self._special, n=1, cutoff=0.5)
                known = ", ".join(self._special) or "none"
                hint = f"did you mean {close[0]!r}?" if close else f"there are: {known}"
                raise ValueError(f"{name!r} is no special token of this vocabulary; {hint}")
        return {name.encode("utf-8"): self._special[name] for name in names}

    def _ids(self, pieces: Pieces) -> list[np.ndarray]:
        """Return the ids of each text. Raises ValueError for one that `below` has left out."""
        found = self._all_ids(pieces)
        for ids in found if self.beyond else ():
            if wrong := ids[ids >= self._size][:1].tolist():
                raise ValueError(
                    f"the text has {self.beyond[wrong[0]]!r}, the token {wrong[0]} of the tokenizer, and the model has "
                    f"only {self._size} tokens"
                )
        return found

    def _all_ids(self, pieces: Pieces) -> list[np.ndarray]:
        if self._lacks.any():
            self._require_known(pieces)
        if not self.fast:
            return self._ids_by_definition(pieces)
        breaks = sorted([*((k, -1) for k in pieces.texts), *pieces.special])
        ids, counts = twin().encode(pieces.data, pieces.ends, breaks, self._tables)
        borders = [int(count) for count, (_, token) in zip(counts, breaks, strict=True) if token < 0]
        return [ids[start:end] for start, end in pairwise([0, *borders])]

    def _ids_by_definition(self, pieces: Pieces) -> list[np.ndarray]:
        special = dict(pieces.special)
        data = pieces.data.tobytes()
        found: list[list[int]] = []  # the ids of each pre-token
        for k, (start, end) in enumerate(pairwise([0, *pieces.ends])):
            found.append([special[k]] if k in special else self._merged(data[start:end]))
        return [
            np.array([i for ids in found[first:last] for i in ids], np.int32)
            for first, last in pairwise([0, *pieces.texts])
        ]

    def _require_known(self, pieces: Pieces) -> None:
        """Raise ValueError for a pre-token with a byte that is not in the vocabulary, unless it is a token itself."""
        ends, special = pieces.ends, dict(pieces.special)
        data = pieces.data[: ends[-1] if len(ends) else 0]
        for k in np.unique(np.searchsorted(ends, np.flatnonzero(self._lacks[data]), side="right")).tolist():
            piece = data[ends[k - 1] if k else 0 : ends[k]].tobytes()
            if k in special or (self.whole and piece in self._of_text):
                continue
            byte = next(byte for byte in piece if self._lacks[byte])
            raise ValueError(
                f"the byte 0x{byte:02x} in {piece.decode('utf-8', errors='backslashreplace')!r} is not in this "
                f"vocabulary, which has {np.count_nonzero(~self._lacks)} of the 256 bytes"
            )

    def _merged(self, piece: bytes) -> list[int]:
        if self.whole and piece in self._of_text:
            return [self._of_text[piece]]
        return merge([self._of_text[bytes([byte])] for byte in piece], self.merges)

    @functools.cached_property
    def _tables(self) -> Any:
        of_text = set(self._of_text.values())
        is_plain = [i in of_text for i in range(len(self.tokens))]
        return twin().make_tables(self.tokens, self.merges, is_plain, self.whole)

    def to_json(self) -> dict[str, Any]:
        return json_of_vocabulary(self.vocabulary)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, and for GPT-2's pattern vocab.json and merges.txt as well."""
        super().save_pretrained(folder)
        write_vocab_and_merges(self.vocabulary, Path(folder))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "BPETokenizer | None":
        vocabulary = vocabulary_of_json(content)
        return None if vocabulary is None else cls(*vocabulary)

    @classmethod
    def from_other_files(cls, folder: Path) -> "BPETokenizer | None":
        """Read GPT-2's vocab.json and merges.txt."""
        if not (folder / "vocab.json").exists():
            return None
        content, end = with_neighbours(read_vocab_and_merges(folder), folder)
        try:
            tokenizer = cls.from_json(with_unmade_special(content))
        except MergesError as error:
            raise ValueError(f"{folder / 'merges.txt'}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{folder / 'vocab.json'}: {error}") from None
        return tokenizer if end is None or tokenizer is None else tokenizer.ending_with(end)

    @classmethod
    def from_tiktoken(
        cls, path: str | Path, pattern: str, special_tokens: Sequence[str] | Mapping[str, int] = ()
    ) -> "BPETokenizer":
        """Read tiktoken's file of ranks, as from_ranks describes them: on each line a token in base64 and its rank.

        Raises FileNotFoundError, or ValueError for a file that is broken; the message names the line.
        """
        ranks = read_ranks(Path(path))
        with errors_naming(Path(path)):
            return cls.from_ranks(ranks, pattern, special_tokens)

    @classmethod
    def from_ranks(
        cls, ranks: Mapping[bytes, int], pattern: str, special_tokens: Sequence[str] | Mapping[str, int] = ()
    ) -> "BPETokenizer":
        """Return the tokenizer of tiktoken's mergeable ranks.

        ranks           {token: rank}; the rank is also the id
        pattern         "gpt2", "gpt4" or another; tiktoken's files do not say it
        special_tokens  names, which get the ids after the last rank; or {name: id}

        Raises ValueError for ranks that are inconsistent.
        """
        return cls(*vocabulary_of_ranks(ranks, pattern, special_tokens))

    @classmethod
    def learn(
        cls,
        texts: Iterable[str | bytes | Path | TextFile],
        vocab_size: int,
        pattern: str,
        special_tokens: Sequence[str],
        fast: bool,
        progress: Callable[[int], object],
    ) -> "BPETokenizer":
        """Learn a vocabulary; Tokenizer.train has the defaults and describes the arguments."""
        return cls(*train_vocabulary(texts, vocab_size, pattern, special_tokens, fast, progress), fast=fast)
