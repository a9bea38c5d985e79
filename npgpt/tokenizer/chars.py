"""Characters: every code point of the training text is a token."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from npgpt.tokenizer.base import Tokenizer, id_array, register, to_utf8
from npgpt.tokenizer.document import document, split_by


@register
class CharTokenizer(Tokenizer):
    """Every character (code point) is a token; the ids number the characters in the order of their code points.

    Those that with_characters adds follow the ids that were there. A combining mark is a character of its own. A
    character outside the vocabulary cannot be encoded.
    """

    kind = "chars"
    files = "npgpt's characters"

    def __init__(self, characters: Iterable[str], first: Iterable[str] = ()) -> None:
        """Take the vocabulary from all characters of the given strings. Raises ValueError if there are none.

        first  the characters of the first ids, in their order
        """
        known = dict.fromkeys(first)
        self.characters = [*known, *sorted(set().union(*characters) - known.keys())]
        if not self.characters:
            raise ValueError("a character vocabulary needs at least one character")
        codes = _code_points("".join(self.characters))
        self._ids = np.full(int(codes.max()) + 1, -1, dtype=np.int32)  # code point -> id, -1 for unknown
        self._ids[codes] = np.arange(len(codes), dtype=np.int32)

    def with_characters(self, characters: Iterable[str]) -> "CharTokenizer":
        """Return a tokenizer with further characters, whose ids follow those of this one.

        Example: CharTokenizer(["bd"]).with_characters("ac") numbers b, d, a, c.
        """
        return CharTokenizer(characters, self.characters)

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        codes = _code_points(text)
        known = codes < len(self._ids)
        ids = np.where(known, self._ids[np.where(known, codes, 0)], -1)
        unknown = np.flatnonzero(ids < 0)
        if unknown.size:
            where = int(unknown[0])
            character = text[where]
            raise ValueError(
                f"character {character!r} (U+{ord(character):04X}) at position {where} is not among the "
                f"{self.vocab_size} characters that the tokenizer knows"
            )
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return "".join(self.characters[i] for i in id_array(ids, self.vocab_size)).encode("utf-8")

    def to_json(self) -> dict[str, Any]:
        pre_tokenizer = split_by(r"[\s\S]")  # every character is a pre-token, line ends included
        model = {
            "type": "WordLevel",
            "vocab": {character: i for i, character in enumerate(self.characters)},
            # not in the vocabulary, so that `tokenizers` rejects an unknown character as encode does
            "unk_token": "[UNK]",
        }
        return document(pre_tokenizer, {"type": "Fuse"}, model)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CharTokenizer | None":
        model = content.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocab, dict) or not vocab or any(len(key) != 1 for key in vocab):
            return None
        if any(type(i) is not int for i in vocab.values()):
            return None
        tokenizer = cls((), sorted(vocab, key=lambda character: vocab[character]))
        return tokenizer if content == tokenizer.to_json() else None


def _code_points(text: str) -> np.ndarray:
    to_utf8(text)  # raises an error that names a lone surrogate
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64)
