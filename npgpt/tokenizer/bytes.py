"""Bytes: the 256 tokens that any text is made of."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from npgpt.tokenizer.base import Tokenizer, id_array, to_utf8


def byte_characters() -> list[str]:
    """Return the visible character that stands for each byte in GPT-2's vocabulary.

    The 188 visible ones of Latin-1 stand for themselves; the others are counted up from U+0100.

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


class ByteTokenizer(Tokenizer):
    """Every byte of the UTF-8 text is a token, and its value the id. Knows every text; 中 is three tokens."""

    kind = "bytes"

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(to_utf8(text), dtype=np.uint8).astype(np.int32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return id_array(ids, 256).astype(np.uint8).tobytes()

    def to_json(self) -> dict[str, Any]:
        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {character: byte for byte, character in enumerate(byte_characters())},
                "merges": [],
            },
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ByteTokenizer | None":
        """Return the tokenizer if content is its tokenizer.json, else None."""
        return cls() if content == cls().to_json() else None
