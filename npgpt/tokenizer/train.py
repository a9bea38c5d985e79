"""Learning a byte-level BPE: pre-tokens are counted in one pass over the texts, then merged again and again."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from npgpt.tokenizer import definition
from npgpt.tokenizer.base import to_utf8
from npgpt.tokenizer.bpe import BPETokenizer

Text = str | bytes | Path


def train_bpe(
    texts: Iterable[Text],
    vocab_size: int,
    pattern: str,
    special_tokens: Sequence[str],
    fast: bool,
    progress: Callable[[int], object],
) -> BPETokenizer:
    """Learn a vocabulary, as Tokenizer.train describes it. With fast=False as defined, which takes long."""
    if isinstance(texts, str | bytes):
        raise TypeError("texts must be an iterable of strings: give [text] for one")
    names = list(special_tokens)
    n_merges = vocab_size - 256 - len(names)
    if n_merges < 0:
        raise ValueError(f"vocab_size={vocab_size} is too small for 256 bytes and {len(names)} special tokens")
    if len(set(names)) < len(names):
        raise ValueError(f"a special token stands twice among {names}")
    tokens = [bytes([byte]) for byte in range(256)]
    bytes_alone = vocabulary(tokens, [], pattern, names, fast)
    merges = learn(bytes_alone, texts, n_merges, progress)
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return vocabulary(tokens, merges, pattern, names, fast)


def vocabulary(
    tokens: list[bytes], merges: list[definition.Pair], pattern: str, names: list[str], fast: bool
) -> BPETokenizer:
    """Return the tokenizer of tokens and, with the ids after them, special tokens."""
    special = {name: len(tokens) + i for i, name in enumerate(names)}
    return BPETokenizer([*tokens, *map(to_utf8, names)], merges, pattern, special, fast=fast)


def learn(
    tokenizer: BPETokenizer, texts: Iterable[Text], n_merges: int, progress: Callable[[int], object]
) -> list[definition.Pair]:
    """Return the merges of texts, cut by the tokenizer's pattern and special tokens."""
    counts: Any = tokenizer.twin.PieceCounts() if tokenizer.fast else definition.PieceCounts()
    for text in texts:
        for pieces in tokenizer.pieces_of_file(text, "all") if isinstance(text, Path) else [in_one(tokenizer, text)]:
            first = 0
            for k in [*(k for k, _ in pieces.special), len(pieces.ends)]:  # all but the special tokens
                counts.add(pieces.data, pieces.ends[first:k], int(pieces.ends[first - 1]) if first else 0)
                first = k + 1
            progress(int(pieces.ends[-1]) if len(pieces.ends) else 0)
    return counts.learn(n_merges, definition.LEAST_COUNT)


def in_one(tokenizer: BPETokenizer, text: str | bytes) -> Any:
    return tokenizer.pieces([to_utf8(text) if isinstance(text, str) else text], "all")
