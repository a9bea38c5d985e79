"""What a teacher thinks comes next, kept in a file: of each position of some rows the likeliest tokens.

The file is mapped into memory, whatever its size. A header of 160 bytes and the tokens after it:

    16 bytes   b"npgpt teacher 1\\0"
     4 bytes   bytes of an id, 2 or 4; little-endian, as everything here
     4 bytes   K, the tokens of a position
     8 bytes   T, the positions of a row
     8 bytes   R, the rows
    32 bytes   SHA-256 of what follows the header
    32 bytes   the key: a SHA-256 of the teacher, the temperature and the rows
    56 bytes   zeros

A token is its id and its log-probability at the temperature of the lesson, a float16.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from npgpt.data.batch import Batch, Dataset, Text, n_windows
from npgpt.data.packing import Rows
from npgpt.support.files import write_atomically

NAME = "teacher.top"
MAGIC = b"npgpt teacher 1\0"
HEADER = struct.Struct("<16sIIQQ32s32s56x")
BLOCK = 1 << 22  # bytes that are hashed at once
ROWS = 64  # that are hashed at once


def top_dtype(vocab_size: int) -> np.dtype:
    """Return the dtype of a likely token: its id and its log-probability."""
    return np.dtype([("id", "<u2" if vocab_size <= 2**16 else "<i4"), ("logp", "<f2")])


class Windows(Rows):
    """A running text as rows: windows of n_positions tokens end to end, or as many of them, spread evenly over it."""

    def __init__(self, ids: np.ndarray, n_positions: int, most: int) -> None:
        self.ids, self.n_positions = ids, n_positions
        self.windows = (len(ids) - 1) // n_positions
        self.n = min(most, self.windows)

    @property
    def size(self) -> int:
        return self.n * self.n_positions

    @property
    def n_rows(self) -> int:
        return self.n

    def rows(self, which: slice | np.ndarray) -> Batch:
        where = (np.arange(self.n)[which] * self.windows // self.n * self.n_positions)[:, None]
        where = where + np.arange(self.n_positions)
        return Batch(self.ids[where].astype(np.int64), self.ids[where + 1].astype(np.int64))


class Taught(Rows):
    """Rows with what a teacher thinks of them: the first n rows of some data.

    top  (n, T, K) of top_dtype, once it has been asked
    """

    def __init__(self, data: Rows, n: int) -> None:
        self.data, self.in_order = data, data.in_order
        self.n = min(n, data.n_rows)
        self.top: np.ndarray | None = None

    @property
    def size(self) -> int:
        size: int = self.data.size  # type: ignore[attr-defined]
        return size * self.n // self.data.n_rows

    @property
    def n_rows(self) -> int:
        return self.n

    def rows(self, which: slice | np.ndarray) -> Batch:
        if self.top is None:
            raise ValueError("the teacher has not been asked yet")
        numbers = np.arange(self.n)[which]
        return dataclasses.replace(self.data.rows(numbers), teacher=np.asarray(self.top[numbers]))

    def untaught(self, rows: int) -> Iterator[Batch]:
        """Yield the rows in batches of at most `rows`, to ask the teacher."""
        return (self.data.rows(np.arange(i, min(i + rows, self.n))) for i in range(0, self.n, rows))

    def key(self, *what: object) -> bytes:
        """Return a SHA-256 of the rows, and of what else decides the answers."""
        digest = hashlib.sha256(repr((*what, self.n)).encode())
        for batch in self.untaught(ROWS):
            for array in (batch.ids, batch.targets, batch.starts):
                digest.update(b"-" if array is None else np.ascontiguousarray(array, "<i8").data)
        return digest.digest()


def taught_rows(data: Dataset, draws: int) -> Taught:
    """Return the rows of a dataset of which a teacher can be asked before the training.

    draws  how many rows the training will draw: of no more the teacher needs to be asked
    """
    if isinstance(data, Text):
        data = Windows(data.ids, data.n_positions, min(draws, n_windows(len(data.ids), data.n_positions)))
    assert isinstance(data, Rows)
    return Taught(data, draws)


def file_size(n_rows: int, n_positions: int, k: int, dtype: np.dtype) -> int:
    """Return the bytes of a file of so many rows."""
    return HEADER.size + n_rows * n_positions * k * dtype.itemsize


def write_top(
    path: Path, key: bytes, shape: tuple[int, int, int], dtype: np.dtype, parts: Iterable[np.ndarray]
) -> None:
    """Write a file of the shape (R, T, K), whole or not at all; parts are its rows in their order."""

    def write(part: Path) -> None:
        digest = hashlib.sha256()
        with part.open("wb") as file:
            file.write(bytes(HEADER.size))
            for array in parts:
                data = np.ascontiguousarray(array, dtype).view(np.uint8).reshape(-1).data
                digest.update(data)
                file.write(data)
            file.seek(0)
            file.write(HEADER.pack(MAGIC, dtype["id"].itemsize, shape[2], shape[1], shape[0], digest.digest(), key))

    write_atomically(path, write)


def open_top(path: Path, key: bytes) -> np.ndarray | None:
    """Return the likely tokens (R, T, K) of a file, read-only and mapped into memory; None if it has those of another
    teacher or of other rows.

    Raises ValueError, naming the file, for one that is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise ValueError(f"{path}: not a file of a teacher's likeliest tokens: remove it, and it is made again")
        _, item, k, T, rows, checksum, found = HEADER.unpack(header)
        if item not in (2, 4) or any(header[-56:]) or size != HEADER.size + rows * T * k * (item + 2):
            raise ValueError(f"{path}: {size:,} bytes, not as its header says: remove it, and it is made again")
        if found != key:
            return None
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    if digest.digest() != checksum:
        raise ValueError(f"{path}: the checksum is wrong: the file is damaged; remove it, and it is made again")
    dtype = top_dtype(2**16 if item == 2 else 2**17)
    return np.memmap(path, dtype, "r", HEADER.size, (rows, T, k))
