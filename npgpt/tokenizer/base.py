"""The interface of every tokenizer, and how one is read back from its tokenizer.json."""

import codecs
import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

import numpy as np

from npgpt.tokenizer.document import normalised
from npgpt.tokenizer.neighbours import with_neighbours
from npgpt.tokenizer.others import TYPES, WAY_OUT, seems, seen_in
from npgpt.tokenizer.stream import END, TextFile, read_parts

FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")  # what save_pretrained may write
LEARNED = "bpe"  # the kind that Tokenizer.train learns


class Tokenizer(ABC):
    """Text to ids and back: `tokenizer.decode(tokenizer.encode(text)) == text`.

    A kind of tokenizer is a subclass with the decorator `register`.

    kind   its name for --tokenizer
    files  what it reads, in the words of an error message
    exact  whether from_json accepts only what to_json of this kind writes. from_pretrained asks these kinds first
    """

    kind: str
    files: str
    exact: bool = True

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The number of ids; they are 0..vocab_size-1."""

    special_tokens: Mapping[str, int] = MappingProxyType({})  # {name: id}
    added_tokens: Mapping[str, int] = MappingProxyType({})  # {name: id} of those that are not special
    beyond: Mapping[int, str] = MappingProxyType({})  # {id: name or text} of the tokens that `below` has left out
    holes: Sequence[int] = ()  # the ids below vocab_size that no token has
    _end: str | None = None  # the name of the token that ends a text; None if it is END, or if there is none

    @property
    def end_token(self) -> str | None:
        """The name of the token that ends a text; None in a vocabulary without one."""
        return self._end or (END if END in self.special_tokens else None)

    @property
    def end_id(self) -> int | None:
        """The id of the token that ends a text; None in a vocabulary without one."""
        name = self.end_token or ""
        return self.special_tokens.get(name, self.added_tokens.get(name))

    def require_end_id(self) -> int:
        """Return end_id. Raises ValueError if there is none."""
        if self.end_id is None:
            names = ", ".join([*self.special_tokens, *self.added_tokens])
            todo = f"name one of {names} with --end-token" if names else "train a model with --tokenizer bpe:SIZE"
            raise ValueError(
                f"the tokenizer, of the kind {self.kind}, has no token that ends an example, such as {END}; {todo}"
            )
        return self.end_id

    def ending_with(self, name: str) -> Self:
        """Return this tokenizer with another end token, one of its special or added tokens.

        Raises ValueError for any other name.
        """
        known = [*self.special_tokens, *self.added_tokens]
        if name in self.beyond.values():
            raise ValueError(
                f"{name!r} cannot end a text: the model has only {self.vocab_size} tokens, and not this one"
            )
        if name not in known:
            instead = f"the vocabulary has {', '.join(known)}" if known else f"a {self.kind} tokenizer has none"
            raise ValueError(f"{name!r} is no special token, which could end a text: {instead}")
        other = copy.copy(self)
        other._end = None if name == END else name
        return other

    def ending_with_id(self, ids: Sequence[int]) -> Self:
        """Return this tokenizer with the first of these ids that is a special or added token as its end token.

        If its own end token is among them, or none of them is such a token, the tokenizer stays as it is.
        """
        names = {i: name for name, i in [*self.added_tokens.items(), *self.special_tokens.items()]}
        found = [names[i] for i in ids if i in names]
        return self if not found or self.end_token in found else self.ending_with(found[0])

    def below(self, size: int) -> Self:
        """Return this tokenizer for a model of `size` tokens: the ids from there on are in `beyond`, and not usable.

        Its vocab_size is `size` at most, and a text that would have an id beyond cannot be encoded. The files that it
        writes are the same.

        Raises ValueError if it has more tokens, and is of a kind that can leave none out.
        """
        if self.vocab_size > size:
            raise ValueError(f"the tokenizer has {self.vocab_size} tokens, the model {size}")
        return self

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the ids of text, one-dimensional and int32.

        Raises ValueError for a character that the tokenizer does not know; the message says which and where.
        """

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the UTF-8 bytes that ids stand for. Raises ValueError for an id outside the vocabulary."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the content of tokenizer.json."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Tokenizer | None":
        """Return the tokenizer of a tokenizer.json, or None if the file is of another kind.

        Raises ValueError for a file of this kind with a setting that npgpt does not support; the message names it.
        """
        return None

    @classmethod
    def from_other_files(cls, folder: Path) -> "Tokenizer | None":
        """Return the tokenizer of a folder without a tokenizer.json, or None if the folder has no files of this kind.

        Raises FileNotFoundError or ValueError, naming the file, for one that is missing or broken.
        """
        return None

    @classmethod
    def learn(
        cls,
        texts: Iterable[str | bytes | Path | TextFile],
        vocab_size: int,
        pattern: str,
        special_tokens: Sequence[str],
        fast: bool,
        progress: Callable[[int], object],
    ) -> "Tokenizer":
        """Learn a vocabulary, as `train` describes it. Only the kind LEARNED has to implement this."""
        raise NotImplementedError(f"a tokenizer of the kind {cls.kind} is not learned from texts")

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text that ids stand for, with U+FFFD in place of bytes that are not whole characters."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of one id after another. Bytes are held back until they make a whole character."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in ids:
            yield decoder.decode(self.decode_bytes([token]))
        yield decoder.decode(b"", final=True)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the content of tokenizer.json and of an end token that is not END, in hexadecimal.

        Equal tokenizers have equal ones.
        """
        parts = self.to_json() if self._end is None else {**self.to_json(), "end_token": self._end}
        content = json.dumps(parts, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Return the ids of each text, as encode does."""
        return [self.encode(text) for text in texts]

    def encode_prompt(self, text: str, special: bool = False) -> list[int]:
        """Return the ids of a text as a list; with `special`, special tokens in it are encoded as such.

        Raises ValueError as encode does, and for `special` if there are no special tokens.
        """
        if special:
            raise ValueError(f"this {self.kind} tokenizer has no special tokens; leave --special out")
        return [int(i) for i in self.encode(text)]

    def encode_file(self, path: str | Path | TextFile) -> Iterator[np.ndarray]:
        """Yield the ids of a text file, part by part, in memory that does not grow with the file.

        A path is read as UTF-8, with CRLF and CR as LF. Raises FileNotFoundError, or ValueError that names the file: it
        is not UTF-8 (with the offset of the first wrong byte), is no text, or cannot be encoded.
        """
        for part in read_parts(path):
            try:
                ids = self.encode(part.decode("utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            yield ids

    def sizes(self, ids: Iterable[int]) -> np.ndarray:
        """Return the number of bytes of each id, int64. Raises ValueError for one outside the vocabulary."""
        return np.array([len(self.decode_bytes([token])) for token in ids], np.int64)

    def offsets(self, ids: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return where the tokens of a text lie in it: in bytes and in characters, both (N, 2), start and end.

        A token that holds only a part of a character counts as all of it, so tokens may overlap in characters.
        Example: the four bytes of "a中" lie in the characters [[0, 1], [1, 2], [1, 2], [1, 2]].
        """
        ids = list(ids)
        ends = np.cumsum(self.sizes(ids))
        in_bytes = np.stack([np.append(0, ends)[:-1], ends], axis=1)
        data = np.frombuffer(self.decode_bytes(ids), np.uint8)
        character = np.cumsum(data & 0xC0 != 0x80) - 1  # of each byte
        in_characters = np.stack([character[in_bytes[:, 0]], character[in_bytes[:, 1] - 1] + 1], axis=1)
        return in_bytes, in_characters

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as `tokenizers` and `transformers` read them."""
        from npgpt.support.files import write_json

        write_json(Path(folder) / "tokenizer.json", self.to_json())
        # the class of transformers that reads any tokenizer.json, whatever its model
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        if self.end_token is not None:  # one token for both, as in GPT-2
            config |= {"bos_token": self.end_token, "eos_token": self.end_token}
        write_json(Path(folder) / "tokenizer_config.json", config)

    @staticmethod
    def train(
        texts: Iterable[str | bytes | Path | TextFile],
        vocab_size: int = 4096,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = (END,),
        fast: bool = True,
        progress: Callable[[int], object] = lambda n: None,
    ) -> "Tokenizer":
        """Learn a byte-level BPE, a BPETokenizer: 256 bytes, then merges, then the special tokens, vocab_size in all.

        Each round the most frequent pair of neighbours becomes a token. Of equally frequent pairs, the one with the
        smaller ids wins, left id first. Nothing else matters: not the order of the texts, nor threads or hash seeds.
        If no pair occurs twice, learning ends early, with fewer tokens than vocab_size.

        texts           strings, bytes, paths of UTF-8 files, or TextFiles. They are read once, one after another, in
                        memory that grows with the distinct pre-tokens only. Special tokens in them are not learned from
        pattern         "gpt2", "gpt4", "chinese", or a regular expression. Pairs are merged only within its matches
        special_tokens  names of tokens that encode to their ids only where they are allowed
        fast            whether the compiled twin does the work, or the definition
        progress        is called with the number of bytes of each part once it is read; a file has many parts

        Raises ValueError for a vocab_size that cannot hold the bytes and the special tokens, and for a bad pattern.
        """
        return _KINDS[LEARNED].learn(texts, vocab_size, pattern, special_tokens, fast, progress)

    @staticmethod
    def from_pretrained(folder: str | Path) -> "Tokenizer":
        """Read the tokenizer of a folder: its tokenizer.json, or GPT-2's vocab.json and merges.txt.

        folder  the folder, the path of a tokenizer.json, or the name of a model on the Hugging Face hub

        Raises FileNotFoundError, or ValueError for a file that is broken or of a kind that npgpt does not know.
        """
        from npgpt.support.files import read_json

        path = Path(folder)
        if not path.exists():
            from npgpt.hub.folders import TOKENIZER, find_folder

            path = find_folder(path, TOKENIZER)
        if path.is_dir():
            path = path / "tokenizer.json"
            if not path.exists():
                for kind in kinds():
                    if (tokenizer := kind.from_other_files(path.parent)) is not None:
                        return tokenizer
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file{seen_in(path.parent) or '; a run folder holds a tokenizer.json'}"
            )
        if path.name != "tokenizer.json" and (what := seems(path)):
            raise ValueError(f"{path} is no tokenizer.json, but {what}")
        content, end = with_neighbours(normalised(read_json(path)), path.parent)
        with errors_naming(path):
            for kind in kinds():
                if (tokenizer := kind.from_json(content)) is not None:
                    return tokenizer if end is None else tokenizer.ending_with(end)
            model = content.get("model")
            name = model.get("type") if isinstance(model, dict) else None
            supported = ", ".join(kind.files for kind in reversed(kinds()))
            how, todo = (f", {TYPES[str(name)]},", f"; {WAY_OUT}") if str(name) in TYPES else ("", "")
            raise ValueError(
                f"a tokenizer of the kind {json.dumps(name)}{how} is not supported, only {supported}{todo}"
            )


_KINDS: dict[str, type[Tokenizer]] = {}
Kind = TypeVar("Kind", bound=type[Tokenizer])


def register(kind: Kind) -> Kind:
    """Make a subclass known to Tokenizer.from_pretrained. A class decorator.

    Raises ValueError if another class has the same name as its `kind`.
    """
    if _KINDS.setdefault(kind.kind, kind) is not kind:
        raise ValueError(f"the kind {kind.kind!r} is registered already, as {_KINDS[kind.kind].__name__}")
    return kind


def kinds() -> list[type[Tokenizer]]:
    """Return the registered kinds in the order in which from_pretrained asks them, whatever the order of registration.

    An exact kind comes before one that reads files from other libraries: the byte tokenizer's file is a BPE without
    merges, which BPETokenizer would accept too. Otherwise the order is that of the names.
    """
    return sorted(_KINDS.values(), key=lambda kind: (not kind.exact, kind.kind))


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Put a file's path in front of the message of any ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def id_array(ids: Iterable[int], vocab_size: int) -> np.ndarray:
    """Return ids as an array. Raises ValueError for one outside the vocabulary."""
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "iu":
        array = ids
    else:
        try:
            array = np.fromiter(ids, dtype=np.int64)
        except OverflowError:
            raise ValueError(f"an id of more than 64 bits is outside the vocabulary of {vocab_size}") from None
    if array.size and not 0 <= array.min() <= array.max() < vocab_size:
        wrong = array[(array < 0) | (array >= vocab_size)]
        raise ValueError(f"id {wrong[0]} is outside the vocabulary of {vocab_size}")
    return array


def to_utf8(text: str) -> bytes:
    """Return text as UTF-8. Raises ValueError for a lone surrogate, which is half a character."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(
            f"character {error.start} is the lone surrogate U+{code:04X}, which no UTF-8 text can hold"
        ) from None
