"""Read UTF-8 text files, and split them for training and validation."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

TRAIN_SHARE = 0.9


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file; a byte order mark at its start is left out.

    Raises FileNotFoundError, or ValueError for a file that is empty or not UTF-8, with the offset of the first byte
    that is wrong.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the text files in it")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; save it as UTF-8"
        ) from None
    text = text.removeprefix("\ufeff")
    if not text:
        raise ValueError(f"{path}: the file is empty")
    return text


def encode_split(
    texts: Iterable[str], encode: Callable[[str], np.ndarray], n_positions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Encode texts and cut each by position: its first 90% of tokens to train, the rest to validate.

    Returns both as one-dimensional arrays of ids. Raises ValueError where that leaves fewer than n_positions + 1 tokens
    to train on or fewer than 2 to validate.
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
    """Raise ValueError for fewer than n_positions + 1 tokens to train on, or fewer than 2 to validate."""
    if len(train_ids) <= n_positions or len(val_ids) < 2:
        raise ValueError(
            f"the text is too short: {len(train_ids)} tokens to train on and {len(val_ids)} to validate, but "
            f"n_positions={n_positions} needs at least {n_positions + 1} and 2; "
            "give a longer text or a smaller n_positions"
        )
