"""Memory that training steps reuse: `empty`, and the pool that it takes arrays from.

New memory costs a page fault every 4 KB, which for a small array takes longer than filling it. Each step needs the same
shapes as the one before, so a pool that keeps its arrays needs no new memory from the second step on. Where shapes
differ from step to step, a pool keeps those of the last step only, or it would grow as long as a run lasts.
"""

import math
import sys
import threading
from types import TracebackType

import numpy as np

ALIGNMENT = 64  # bytes: the width of a vector and of a cache line

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

    @property
    def nbytes(self) -> int:
        """The memory in the pool, in bytes."""
        return sum(array.nbytes for arrays in self.arrays.values() for array in arrays)

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
    arrays = pool.of((shape, dtype.char))
    array = _unused(arrays, FREE)
    if array is not None:
        return array
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
