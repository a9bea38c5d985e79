"""The interface of every tokenizer, and how one is read back from its tokenizer.json."""

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from npgpt.tokenizer.stream import read_parts

if TYPE_CHECKING:
    from npgpt.tokenizer.bpe import BPETokenizer


END = "<|endoftext|>"  # the name of the token that ends a text, as in GPT-2's vocabulary


class Tokenizer(ABC):
    """Text to ids and back: `tokenizer.decode(tokenizer.encode(text)) == text`.

    kind  its name for --tokenizer
    """

    kind: str

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The number of ids; they are 0..vocab_size-1."""

    @property
    def end_id(self) -> int | None:
        """The id of the token that ends a text; None in a vocabulary without one."""
        return None

    def require_end_id(self) -> int:
        """Return end_id. Raises ValueError where there is none."""
        if self.end_id is None:
            raise ValueError(
                f"a tokenizer of the kind {self.kind} without the token {END} cannot say where an example ends; "
                "train a model with --tokenizer bpe:SIZE, as in bpe:4096"
            )
        return self.end_id

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the ids of text, one-dimensional and int32.

        Raises ValueError, naming the character and where it is, for one that the tokenizer does not know.
        """

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the UTF-8 bytes that ids stand for. Raises ValueError for an id outside the vocabulary."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what tokenizer.json holds."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text that ids stand for, U+FFFD in place of bytes that are not whole characters."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of one id after another, holding back bytes until they make a whole character."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in ids:
            yield decoder.decode(self.decode_bytes([token]))
        yield decoder.decode(b"", final=True)

    def fingerprint(self) -> str:
        """Return a SHA-256 of what tokenizer.json holds: the same for the same tokenizer, in hexadecimal."""
        content = json.dumps(self.to_json(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Return the ids of each text, as encode does."""
        return [self.encode(text) for text in texts]

    def encode_file(self, path: str | Path) -> Iterator[np.ndarray]:
        """Yield the ids of a UTF-8 text file, part by part, in memory that does not grow with the file.

        Raises FileNotFoundError, or ValueError for a file that is not UTF-8, with the offset of the first wrong byte.
        """
        for part in read_parts(path):
            yield self.encode(part.decode("utf-8"))

    def sizes(self, ids: Iterable[int]) -> np.ndarray:
        """Return the number of bytes of each id, int64. Raises ValueError for one outside the vocabulary."""
        return np.array([len(self.decode_bytes([token])) for token in ids], np.int64)

    def offsets(self, ids: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return where the tokens of a text lie in it: in bytes and in characters, both (N, 2), start and end.

        A token that holds a part of a character only is given all of it, so that characters may overlap.
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
        # the class of transformers that takes tokenizer.json as it stands, whatever its model
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        if self.end_id is not None:  # one token for both, as in GPT-2's
            config |= {"bos_token": END, "eos_token": END}
        write_json(Path(folder) / "tokenizer_config.json", config)

    @staticmethod
    def train(
        texts: Iterable[str | bytes | Path],
        vocab_size: int = 4096,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = ("<|endoftext|>",),
        fast: bool = True,
        progress: Callable[[int], object] = lambda n: None,
    ) -> "BPETokenizer":
        """Learn a byte-level BPE: 256 bytes, then merges, then the special tokens, vocab_size in all.

        Each round the most frequent pair of neighbours becomes a token; of several, the one with the smaller ids, left
        then right. Nothing else has a say: not the order of the texts, nor threads or hash seeds. It ends early, with
        fewer tokens than vocab_size, when no pair occurs twice.

        texts           strings, bytes, or paths of UTF-8 files; read once, one after another, in memory that goes by
                        the distinct pre-tokens. A special token in them is not learned from
        pattern         "gpt2", "gpt4", "chinese", or a regular expression: within its matches pairs are merged
        special_tokens  names of tokens that no text has but where it is allowed
        fast            with the compiled twin, or as defined
        progress        is told of each part how many bytes have been read; a file has many

        Raises ValueError for a vocab_size that cannot hold the bytes and the special tokens, and for a bad pattern.
        """
        from npgpt.tokenizer.train import train_bpe

        return train_bpe(texts, vocab_size, pattern, special_tokens, fast, progress)

    @staticmethod
    def from_pretrained(folder: str | Path) -> "Tokenizer":
        """Read the tokenizer of a folder, from its tokenizer.json or GPT-2's vocab.json and merges.txt; or the former.

        Raises FileNotFoundError, or ValueError for a file that is broken or of a kind that npgpt does not know.
        """
        from npgpt.support.files import read_json
        from npgpt.tokenizer.bpe import BPETokenizer
        from npgpt.tokenizer.bytes import ByteTokenizer
        from npgpt.tokenizer.chars import CharTokenizer
        from npgpt.tokenizer.formats import read_vocab_and_merges

        path = Path(folder)
        if path.is_dir():
            if not (path / "tokenizer.json").exists() and (path / "vocab.json").exists():
                return read_vocab_and_merges(path)
            path = path / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; a run folder holds a tokenizer.json")
        content = normalised(read_json(path))
        for kind in (ByteTokenizer, CharTokenizer, BPETokenizer):
            try:
                tokenizer = kind.from_json(content)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            if tokenizer is not None:
                return tokenizer
        model = content.get("model")
        name = model.get("type") if isinstance(model, dict) else None
        raise ValueError(
            f"{path}: a tokenizer of the kind {json.dumps(name)} is not supported, only byte-level BPE, bytes, and "
            "npgpt's characters"
        )


def normalised(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a tokenizer.json says without what does not change the ids of a text.

    transformers saves the last call's truncation and padding, and a template that adds no tokens.
    """
    content = content | {"truncation": None, "padding": None}
    template = content.get("post_processor")
    if (
        isinstance(template, dict)
        and template.get("type") == "TemplateProcessing"
        and template.get("special_tokens") == {}
    ):
        content["post_processor"] = None
    return content


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
