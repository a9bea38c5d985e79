"""The choice between the definition and its compiled twin."""

import functools
import types
from typing import Any

from npgpt.tokenizer.cut import Split
from npgpt.tokenizer.definition import PieceCounts, split_spans


@functools.cache
def twin() -> types.ModuleType:
    """Return the compiled twin. It is imported on first need, because importing numba takes a second."""
    import npgpt.tokenizer.fast as module

    return module


def splitter(fast: bool) -> Split:
    """Return the function that cuts text into pre-tokens."""
    return twin().split if fast else split_spans


def piece_counts(fast: bool) -> Any:
    """Return an empty count of pre-tokens."""
    return twin().PieceCounts() if fast else PieceCounts()
