"""What the kernels of GRU and LSTM share: rows packed step by step, and the functions of their gates.

Packed arrays hold the first step of every row, then the second of every row that has one, and so on, with the longest
row first: the rows of a step are side by side, and begin with those that go on to the next. So no step computes what
stands after the end of a row, and a reversed row is one whose places run backwards.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import float32
from numba.extending import overload

from npgpt.kernels.exp import exp, exp32
from npgpt.layers.recurrence import steps
from npgpt.support.buffers import empty
from npgpt.support.jit import INNER, jit


class Packed(NamedTuple):
    """How the rows of a batch (B, T, ...) are packed into N rows."""

    rows: np.ndarray  # (B,) int64, from the longest to the shortest
    counts: np.ndarray  # (S,) int64: how many rows take each step; S is the length of the longest
    places: np.ndarray  # (N,) int64: where each packed row stands in (B T, ...)


def pack(B: int, T: int, lengths: np.ndarray | None, reverse: bool, bptt: int | None) -> Packed:
    """Return how rows of these lengths are packed. Raises what npgpt.layers.recurrence.steps does.

    Example: B = 2, T = 3 and lengths [1, 3] give rows [1, 0], counts [2, 1, 1] and places [3, 0, 4, 5]; with reverse,
    the places are [5, 0, 4, 3].
    """
    lengths = steps(B, T, lengths, reverse, bptt).active.sum(axis=(1, 2))
    rows = np.argsort(-lengths, kind="stable")
    takes_it = lengths[rows] > np.arange(lengths.max(initial=0))[:, None]
    step, number = np.nonzero(takes_it)
    row = rows[number]
    return Packed(rows, takes_it.sum(axis=1), row * T + (lengths[row] - 1 - step if reverse else step))


def of_one_dtype(*arrays: np.ndarray) -> list[np.ndarray]:
    """Return the arrays contiguous, in the dtype to which the definition would promote them.

    Raises TypeError if that is not float32 or float64.
    """
    dtype = np.result_type(*arrays)
    if dtype.char not in "fd":
        raise TypeError(f"the compiled ops take float32 or float64, got {dtype}")
    return [np.ascontiguousarray(array, dtype) for array in arrays]


def transposed(w: np.ndarray) -> np.ndarray:
    """Return w.T as a contiguous array: a product of few rows with a transposed view takes three times as long."""
    out = empty(w.shape[::-1], w.dtype)
    out[...] = w.T
    return out


@jit(inner=True)
def copy(x: np.ndarray, out: np.ndarray) -> None:
    """Put x (H,) into out: an assignment would first ask whether they overlap."""
    for j in range(len(x)):
        out[j] = x[j]


@jit(inner=True)
def gather(x: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """Put the rows of x that stand at the places into out, one after the other."""
    for n in range(len(places)):
        copy(x[places[n]], out[n])


@jit(inner=True)
def scatter(x: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """Put the rows of x at their places in out, and 0 elsewhere."""
    if len(places) < len(out):
        out[:] = 0
    for n in range(len(places)):
        copy(x[n], out[places[n]])


@jit(fastmath={"contract"})
def sigmoid(x: float, one: float) -> float:
    """Return 1 / (1 + exp(-x)); one is 1 in the precision of x."""
    e = exp(-abs(x))
    high = one / (one + e)
    return e * high if x < 0 else high


# Source: Moshier, Cephes, tanhf.c: tanh(x) = x + x^3 * P(x^2) for |x| <= 0.625, and 1 - 2 / (exp(2 |x|) + 1) beyond
SMALL = np.float32(0.625)
P0, P1, P2, P3, P4 = (
    np.float32(c) for c in (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
)
ONE, TWO = np.float32(1), np.float32(2)


@jit(fastmath={"contract"})
def tanh32(x: np.float32) -> np.float32:
    """Return tanh(x) to 2 units in the last place; NaN gives NaN. Both forms are computed, without a branch."""
    z = x * x
    near = ((((P0 * z + P1) * z + P2) * z + P3) * z + P4) * (z * x) + x
    far = ONE - TWO / (exp32(TWO * abs(x)) + ONE)
    far = -far if x < 0 else far
    return near if abs(x) <= SMALL else far


def tanh(x: Any) -> Any:
    """Return tanh(x) in the precision of x."""
    return tanh32(x) if isinstance(x, np.float32) else np.float64(math.tanh(x))


@overload(tanh, jit_options=INNER)
def _tanh(x: Any) -> Any:
    def single(x: Any) -> Any:
        return tanh32(x)

    def double(x: Any) -> Any:
        return math.tanh(x)

    return single if x == float32 else double
