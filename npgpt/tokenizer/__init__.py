"""Tokenizers: text to ids and back, saved as a Hugging Face tokenizer.json.

Imports of npgpt: config, hub, support.
"""

from npgpt.tokenizer.base import Tokenizer
from npgpt.tokenizer.bpe import BPETokenizer
from npgpt.tokenizer.bytes import ByteTokenizer
from npgpt.tokenizer.chars import CharTokenizer

__all__ = ["BPETokenizer", "ByteTokenizer", "CharTokenizer", "Tokenizer"]
