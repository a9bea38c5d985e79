"""Memory that training steps reuse: `empty`, and the pool that it takes arrays from.

New memory costs a page fault every 4 KB, which for a small array takes longer than filling it. Each step needs the same
shapes as the one before, so a pool that keeps its arrays needs no new memory from the second step on. Where shapes
differ from step to step, a pool keeps those of the last step only, or it would grow as long as a run lasts; a model
whose shapes always differ asks for `of_many_shapes`.
"""

import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import numpy as np

ALIGNMENT = 64  # bytes: the width of a vector and of a cache line
CLASSES = 5  # of sizes: memory of at most twice the size is as good

_thread = threading.local()


class Buffers:
    """A pool of arrays. An array is reused only when no reference to it or to a view of it is left.

    >>> buffers = Buffers()
    >>> with buffers:                        # in this thread, until the end of the block
    ...     x = empty((2, 3), np.float32)    # as all kernels ask for their results
    """

    def __init__(self) -> None:
        self.arrays: dict[tuple, list[np.ndarray]] = {}  # by shape and dtype
        self.asked: set[tuple] = set()  # for which of these, in the block so far
        self.pieces = Pieces()

    @property
    def nbytes(self) -> int:
        """The memory in the pool, in bytes."""
        lists = (*self.arrays.values(), *self.pieces.arrays.values())
        return sum(array.nbytes for arrays in lists for array in arrays)

    def __enter__(self) -> "Buffers":
        self._outer = getattr(_thread, "pool", None)
        _thread.pool = self
        self.asked.clear()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _thread.pool = self._outer
        for key in self.arrays.keys() - self.asked:
            del self.arrays[key]

    def of(self, key: tuple) -> list[np.ndarray]:
        """Return the arrays of a shape and dtype, which the end of the block will keep."""
        self.asked.add(key)
        return self.arrays.setdefault(key, [])


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array: from the pool that the thread is in, or else from NumPy."""
    pool = getattr(_thread, "pool", None)
    if pool is None:
        return np.empty(shape, dtype)
    if isinstance(pool, Pieces):
        return np.ndarray(shape, dtype, pool.piece(size_class(math.prod(shape) * dtype.itemsize)))
    arrays = pool.of((shape, dtype.char))
    array = _unused(arrays, FREE)
    return _added(arrays, shape, dtype) if array is None else array


class Pieces:
    """A pool of memory of a few sizes, from which arrays of any shape are made."""

    def __init__(self) -> None:
        self.arrays: dict[int | tuple, list[np.ndarray]] = {}  # bytes by their number

    def piece(self, size: int) -> np.ndarray:
        """Return unused memory of this size class, or else of one of the next ones, or else new memory."""
        room = size
        for _ in range(CLASSES):
            array = _unused(self.arrays.get(room, []), FREE)
            if array is not None:
                return array
            room = size_class(room + 1)
        return _added(self.arrays.setdefault(size, []), (size,), np.dtype(np.uint8))

    def of(self, key: tuple) -> list[np.ndarray]:
        """Return the arrays that are kept for something else (workspace)."""
        return self.arrays.setdefault(key, [])


@contextmanager
def of_many_shapes() -> Iterator[None]:
    """Let `empty` make arrays of whatever shape from memory of a few sizes, in a with block in this thread's pool.

    For models whose shapes differ from step to step. A pool of arrays by their shapes would need new memory each time.
    """
    pool = getattr(_thread, "pool", None)
    if not isinstance(pool, Buffers):
        yield
        return
    _thread.pool = pool.pieces
    try:
        yield
    finally:
        _thread.pool = pool


def size_class(size: int) -> int:
    """Return a number of bytes rounded up to three binary digits, so that few sizes serve all, and waste little.

    Example: 1000 bytes are 0b1111101000, and get 1024; 1030 bytes get 1280.
    """
    shift = max(0, size.bit_length() - 3)
    return max(ALIGNMENT, -(-size >> shift) << shift)


def _added(arrays: list[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return a new array of this shape, which is added to a pool's."""
    # The memory is a bytearray, because a view refers to the array at the end of its chain of views. That is this
    # array, so its reference count includes all its views.
    block = bytearray(math.prod(shape) * dtype.itemsize + ALIGNMENT)
    array = np.ndarray(shape, dtype, block, -np.frombuffer(block, np.uint8).ctypes.data % ALIGNMENT)
    arrays.append(array)
    return array


def workspace(size: int, dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array (n,), n at least `size`: the pool's own for this purpose, or else a new one.

    A pool has one for each dtype. It serves one call at a time, and grows if a larger one is asked for.
    """
    pool = getattr(_thread, "pool", None)
    arrays = [] if pool is None else pool.of(("workspace", dtype.char))
    if not arrays or arrays[0].size < size:
        arrays.clear()  # before the new one is made
        block = np.empty(size + ALIGNMENT // dtype.itemsize, dtype)
        arrays.append(block[-block.ctypes.data % ALIGNMENT // dtype.itemsize :][:size])
    return arrays[0]


def _unused(arrays: list[np.ndarray], free: int) -> np.ndarray | None:
    """Return the first array with at most `free` references, if there is one."""
    for array in arrays:
        if sys.getrefcount(array) <= free:
            return array
    return None


# The reference count of an array that only its pool refers to. It is found by trial, because versions of Python count
# the loop's own variable and the argument of a call differently.
FREE = next(n for n in range(10) if _unused([np.empty(1)], n) is not None)
