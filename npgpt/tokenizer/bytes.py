"""Bytes: the 256 tokens that any text is made of."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from npgpt.tokenizer.base import Tokenizer, id_array, register, to_utf8
from npgpt.tokenizer.document import bpe_model, byte_level, document


def byte_characters() -> list[str]:
    """Return the visible character that stands for each byte in GPT-2's vocabulary.

    The 188 visible characters of Latin-1 stand for themselves. The other bytes get the characters from U+0100 on.

    Example: byte 0x41 is "A", and byte 0x20, the space, is "Ġ".

    Source: `bytes_to_unicode` in GPT-2's encoder.py.
    """
    visible = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), 256),
    }
    hidden = [byte for byte in range(256) if byte not in visible]
    stand_ins = {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return [stand_ins.get(byte, chr(byte)) for byte in range(256)]


CHARACTERS = byte_characters()
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}
TO_CHARACTERS = dict(enumerate(CHARACTERS))


def shown(token: bytes) -> str:
    """Return a token in GPT-2's characters for bytes: shown(b" a") is "Ġa"."""
    return token.decode("latin-1").translate(TO_CHARACTERS)


def unshown(text: str) -> bytes | None:
    """Return the bytes that GPT-2's characters stand for, or None for other text: unshown("Ġa") is b" a"."""
    try:
        return bytes([BYTES[character] for character in text])
    except KeyError:
        return None


@register
class ByteTokenizer(Tokenizer):
    """Every byte of the UTF-8 text is a token, and its value the id. It can encode every text; 中 is three tokens."""

    kind = "bytes"
    files = "bytes"

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(to_utf8(text), dtype=np.uint8).astype(np.int32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return id_array(ids, 256).astype(np.uint8).tobytes()

    def to_json(self) -> dict[str, Any]:
        return document(byte_level(use_regex=False), byte_level(use_regex=False), bpe_model(dict(BYTES), []))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ByteTokenizer | None":
        return cls() if content == cls().to_json() else None
