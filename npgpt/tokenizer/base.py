"""The interface of every tokenizer, and how one is read back from its tokenizer.json."""

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


class Tokenizer(ABC):
    """Text to ids and back: `tokenizer.decode(tokenizer.encode(text)) == text`.

    kind  its name for --tokenizer
    """

    kind: str

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The number of ids; they are 0..vocab_size-1."""

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

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as `tokenizers` and `transformers` read them."""
        from npgpt.files import write_json

        write_json(Path(folder) / "tokenizer.json", self.to_json())
        # the class of transformers that takes tokenizer.json as it stands, whatever its model
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        write_json(Path(folder) / "tokenizer_config.json", config)

    @staticmethod
    def from_pretrained(folder: str | Path) -> "Tokenizer":
        """Read the tokenizer of a folder, or a tokenizer.json itself.

        Raises FileNotFoundError, or ValueError for a file that is broken or of a kind that npgpt does not know.
        """
        from npgpt.files import read_json
        from npgpt.tokenizer.bytes import ByteTokenizer
        from npgpt.tokenizer.chars import CharTokenizer

        path = Path(folder)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; a run folder holds a tokenizer.json")
        content = normalised(read_json(path))
        for kind in (ByteTokenizer, CharTokenizer):
            try:
                tokenizer = kind.from_json(content)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            if tokenizer is not None:
                return tokenizer
        model = content.get("model")
        name = model.get("type") if isinstance(model, dict) else None
        raise ValueError(
            f"{path}: a tokenizer of the kind {json.dumps(name)} that is neither npgpt's bytes nor its characters"
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
    array = np.fromiter((int(i) for i in ids), dtype=np.int64)
    wrong = array[(array < 0) | (array >= vocab_size)]
    if wrong.size:
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
