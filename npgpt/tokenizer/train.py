"""Learning a byte-level BPE: pre-tokens are counted in one pass over the texts, then merged again and again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from npgpt.tokenizer.base import to_utf8
from npgpt.tokenizer.cut import Cutter, Pieces
from npgpt.tokenizer.definition import LEAST_COUNT
from npgpt.tokenizer.engine import piece_counts, splitter
from npgpt.tokenizer.patterns import pattern_text
from npgpt.tokenizer.stream import TextFile
from npgpt.tokenizer.vocabulary import Vocabulary, text_tokens

Text = str | bytes | Path | TextFile
Name = TypeVar("Name", str, bytes)


def train_vocabulary(
    texts: Iterable[Text],
    vocab_size: int,
    pattern: str,
    special_tokens: Sequence[str],
    fast: bool,
    progress: Callable[[int], object],
) -> Vocabulary:
    """Learn a vocabulary, as Tokenizer.train describes it. fast=False runs the definition, which takes long.

    Example: from ["ab ab"] with special_tokens=["<x>"] it learns token 256, b"ab", and <x> becomes 257.
    """
    if isinstance(texts, str | bytes):
        raise TypeError("texts must be an iterable of strings: give [text] for one")
    names = list(special_tokens)
    n_merges = vocab_size - 256 - len(names)
    if n_merges < 0:
        needed = f"256 bytes and {len(names)} special tokens: give at least {256 + len(names)}"
        raise ValueError(f"vocab_size={vocab_size} is too small for {needed}")
    if len(set(names)) < len(names):
        raise ValueError(f"a special token stands twice among {names}")
    pattern = pattern_text(pattern)
    tokens = [bytes([byte]) for byte in range(256)]
    named = [to_utf8(name) for name in names]
    text_tokens([*tokens, *named], numbered(names, 256), {})  # refuses bad names before the texts are read
    cutter = Cutter(splitter(fast), pattern, numbered(named, 256), {})
    counts = piece_counts(fast)
    for pieces in cut_all(texts, cutter):
        count_text(counts, pieces)
        progress(int(pieces.ends[-1]) if len(pieces.ends) else 0)
    merges = counts.learn(n_merges, LEAST_COUNT)
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return Vocabulary([*tokens, *named], merges, pattern, numbered(names, len(tokens)))


def numbered(names: Iterable[Name], first: int) -> dict[Name, int]:
    """Return {name: id}, the ids counted up from `first`."""
    return {name: first + i for i, name in enumerate(names)}


def cut_all(texts: Iterable[Text], cutter: Cutter) -> Iterator[Pieces]:
    """Yield the pre-tokens of each text: a file's part by part, any other's at once."""
    for text in texts:
        if isinstance(text, Path | TextFile):
            yield from cutter.file(text)
        else:
            yield cutter.texts([to_utf8(text) if isinstance(text, str) else text])


def count_text(counts: Any, pieces: Pieces) -> None:
    """Add all pre-tokens but the special tokens to the counts."""
    special = [k for k, _ in pieces.special]
    for before, k in pairwise([-1, *special, len(pieces.ends)]):
        begin = int(pieces.ends[before]) if before >= 0 else 0
        counts.add(pieces.data, pieces.ends[before + 1 : k], begin)
