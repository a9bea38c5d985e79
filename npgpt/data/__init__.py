"""From text files to tokens."""

from npgpt.data.text import encode_split, read_text

__all__ = ["encode_split", "read_text"]
