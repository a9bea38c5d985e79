"""Helpers of the kernels: arrays as contiguous rows, and sums over rows."""

import numpy as np

from npgpt.support.buffers import empty
from npgpt.support.jit import FASTMATH, jit

PORTION = 2**12  # elements that are added up at a time, so that they are still in a core's own cache for the next sum


def as_rows(x: np.ndarray) -> np.ndarray:
    """Return x (..., C) as a contiguous array (N, C): a view if x is contiguous, otherwise a copy.

    Raises TypeError if the dtype is not float32 or float64.
    """
    if x.dtype.char not in "fd":
        raise TypeError(f"the compiled ops take float32 or float64, got {x.dtype}")
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


def or_empty(array: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    """Return the array, or one of size 0 for None: a loop is compiled anew for None, but not for another size."""
    return empty((0,), dtype) if array is None else array


@jit
def largest(x: np.ndarray) -> float:
    """Return the largest element of x (N,), which has at least one; NaN may be passed over.

    Eight comparisons run at a time. The compiler may not reorder them by itself, because there may be NaN.
    """
    a = b = c = d = e = f = g = h = x[0]
    for i in range(x.size // 8):
        a, b, c, d = max(a, x[8 * i]), max(b, x[8 * i + 1]), max(c, x[8 * i + 2]), max(d, x[8 * i + 3])
        e, f, g, h = max(e, x[8 * i + 4]), max(f, x[8 * i + 5]), max(g, x[8 * i + 6]), max(h, x[8 * i + 7])
    for i in range(x.size // 8 * 8, x.size):
        a = max(a, x[i])
    return max(max(max(a, b), max(c, d)), max(max(e, f), max(g, h)))


@jit
def add_bias(x: np.ndarray, bias: np.ndarray) -> None:
    """Add bias (C,) to every row of x (N, C), in place."""
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            x[n, c] += bias[c]


@jit
def sum_rows(x: np.ndarray, out: np.ndarray) -> None:
    """Put the sum of the rows of x (N, C) into out (C,)."""
    out[:] = 0
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            out[c] += x[n, c]


@jit
def sum_of_squares(x: np.ndarray) -> float:
    """Return the sum of the squares of x (N,), accumulated in float64."""
    squares = np.float64(0)
    for i in range(x.size):
        squares += np.float64(x[i]) * np.float64(x[i])
    return squares


# Without "reassoc" the rows are added in this order wherever a part begins
@jit(fastmath=FASTMATH - {"reassoc"})
def add_up(x: np.ndarray, start: int, stop: int) -> float:
    """Put the sum of the rows of x (N, size) into row 0, and return the sum of the squares of its elements.

    Example: x [[1, 0], [2, 1], [4, 1]], start 0 and stop 2 give row 0 [7, 2] and return 53.

    start, stop  the elements to add up; for any division into parts the sums have the same bits

    Rows are added in groups of four, the groups' sums in groups of four, and so on: rounding errors grow with log N.
    Sums of groups are put into the groups' first rows.
    """
    N = x.shape[0]
    squares = np.float64(0)
    for low in range(start, stop, PORTION):
        high = min(low + PORTION, stop)
        step = 1
        while step < N:
            for n in range(0, N - step, 4 * step):
                total, second = x[n, low:high], x[n + step, low:high]
                # sums of two, three or four rows, so that total is read and written once
                if n + 3 * step < N:
                    third, fourth = x[n + 2 * step, low:high], x[n + 3 * step, low:high]
                    for i in range(total.size):
                        total[i] = (total[i] + second[i]) + (third[i] + fourth[i])
                elif n + 2 * step < N:
                    third = x[n + 2 * step, low:high]
                    for i in range(total.size):
                        total[i] = (total[i] + second[i]) + third[i]
                else:
                    for i in range(total.size):
                        total[i] += second[i]
            step *= 4
        squares += sum_of_squares(x[0, low:high])
    return squares
