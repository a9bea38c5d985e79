"""Memory that a training step uses again and again: `empty`, and the pool that it draws from.

Fresh memory costs a page fault every 4 KB, which for a small array is more than filling it. Each step asks for the same
shapes as the one before, so a pool that keeps what was asked for needs nothing new from the second step on.
"""

import math
import sys
import threading
from types import TracebackType

import numpy as np

ALIGNMENT = 64  # bytes: the width of a vector and of a cache line

_thread = threading.local()


class Buffers:
    """A pool of arrays. One is given out again when nobody holds it or a view of it any more, and never before.

    >>> buffers = Buffers()
    >>> with buffers:                        # in this thread, until the end of the block
    ...     x = empty((2, 3), np.float32)    # as all kernels ask for their results
    """

    def __init__(self) -> None:
        self.arrays: dict[tuple, list[np.ndarray]] = {}  # by shape and dtype

    @property
    def nbytes(self) -> int:
        """The memory in the pool, in bytes."""
        return sum(array.nbytes for arrays in self.arrays.values() for array in arrays)

    def __enter__(self) -> "Buffers":
        self._outer = getattr(_thread, "arrays", None)
        _thread.arrays = self.arrays
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _thread.arrays = self._outer


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array that is not filled: from the thread's pool if it is in one, else from NumPy."""
    pool = getattr(_thread, "arrays", None)
    if pool is None:
        return np.empty(shape, dtype)
    arrays = pool.setdefault((shape, dtype.char), [])
    array = _unused(arrays, FREE)
    if array is not None:
        return array
    # In a bytearray, because a view refers to the last array below it that is not a view of another array itself: so to
    # this one, whose references then count all its views.
    block = bytearray(math.prod(shape) * dtype.itemsize + ALIGNMENT)
    array = np.ndarray(shape, dtype, block, -np.frombuffer(block, np.uint8).ctypes.data % ALIGNMENT)
    arrays.append(array)
    return array


def _unused(arrays: list[np.ndarray], free: int) -> np.ndarray | None:
    """Return the first array with at most so many references, if there is one."""
    for array in arrays:
        if sys.getrefcount(array) <= free:
            return array
    return None


# How many references an array has that only its pool knows: tried out, because Python's versions count the loop's own
# variable and the argument of a call differently.
FREE = next(n for n in range(10) if _unused([np.empty(1)], n) is not None)
