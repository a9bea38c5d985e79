"""Read UTF-8 text files, and split them into parts for training and for validation."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from npgpt.tokenizer.stream import read_parts

TRAIN_SHARE = 0.9


class ContextError(ValueError):
    """Data that do not suit n_positions.

    fits  the nearest n_positions that would do; None if none would
    """

    def __init__(self, message: str, fits: int | None) -> None:
        super().__init__(message)
        self.fits = fits


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file, without the byte order mark that it may begin with.

    Raises FileNotFoundError, or ValueError for a file that is empty or not UTF-8, with the offset of the first wrong
    byte.
    """
    text = b"".join(read_parts(path)).decode("utf-8")
    if not text:
        raise ValueError(f"{path}: the file is empty")
    return text


def encode_split(
    texts: Iterable[str], encode: Callable[[str], np.ndarray], n_positions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Encode texts and cut each in two: its first 90% of tokens are for training, the rest for validation.

    Returns both as one-dimensional arrays of ids. Raises ContextError if that leaves fewer than n_positions + 1
    tokens to train on, or fewer than 2 for validation.
    """
    train, val = [], []
    for text in texts:
        ids = encode(text)
        cut = int(TRAIN_SHARE * len(ids))
        train.append(ids[:cut])
        val.append(ids[cut:])
    train_ids, val_ids = np.concatenate(train), np.concatenate(val)
    require_enough(train_ids, val_ids, n_positions)
    return train_ids, val_ids


def require_enough(train_ids: np.ndarray, val_ids: np.ndarray, n_positions: int) -> None:
    """Raise ContextError for fewer than n_positions + 1 tokens to train on, or fewer than 2 for validation."""
    if len(train_ids) <= n_positions or len(val_ids) < 2:
        raise ContextError(
            f"the text is too short: {len(train_ids)} tokens to train on and {len(val_ids)} for validation, but "
            f"n_positions={n_positions} needs at least {n_positions + 1} and 2; "
            "give a longer text or a smaller n_positions",
            fits=len(train_ids) - 1 if len(train_ids) > 1 and len(val_ids) > 1 else None,
        )
