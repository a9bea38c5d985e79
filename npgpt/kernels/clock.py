"""Where the time of compiled code goes: a clock that it can read without the interpreter's lock, and laps by op.

>>> laps = np.zeros(SIZE)  # the seconds of each op, and at the end when the last lap ended
>>> start(laps)
>>> ...                    # a layer norm, forward
>>> lap(laps, NORM)
>>> ...                    # its backward
>>> lap(laps, BACKWARD + NORM)

An array without elements switches the clock off: then a lap is one comparison.
"""

import ctypes
import sys
import time
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import float64
from numba.core import cgutils
from numba.extending import intrinsic, overload

from npgpt.support.jit import INNER, jit

# The forward ops of a GPT. NORM includes the additions to the residual stream, LINEAR is attention's two products with
# weights, ATTENTION all between them, and MLP the MLP's two products. BACKWARD + NORM is the backward of NORM.
EMBED, NORM, LINEAR, ATTENTION, MLP, ACTIVATION, HEAD, LOSS, DROPOUT = range(9)
BACKWARD = 9
ADD, WAIT = 2 * BACKWARD, 2 * BACKWARD + 1  # gradients of several threads are added up; one thread waits for others
SIZE = WAIT + 2


def _register() -> tuple[list[int], list[float]]:
    """Make the system's clock known to compiled code as npgpt_clock.

    Return the arguments before the address of its two numbers, and how many seconds each of the two counts.
    """
    library: Any = ctypes.CDLL("kernel32" if sys.platform == "win32" else None)
    if sys.platform == "win32":
        frequency = ctypes.c_int64()
        library.QueryPerformanceFrequency(ctypes.byref(frequency))
        clock, before, units = library.QueryPerformanceCounter, [], [1 / frequency.value]
    else:
        # on macOS, the monotonic clock counts microseconds only
        clock, before = library.clock_gettime, [getattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC)]
        units = [1.0, 1e-9]
    llvmlite.binding.add_symbol("npgpt_clock", ctypes.cast(clock, ctypes.c_void_p).value)
    return before, units


BEFORE, UNITS = _register()


def seconds() -> float:
    """Return the seconds since some moment in the past, of a clock that never goes back."""
    return time.perf_counter()


@intrinsic
def _seconds(typing_context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, real = ir.IntType(32), ir.DoubleType()
        numbers = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(64), 2))
        kind = ir.FunctionType(word, [word] * len(BEFORE) + [numbers.type])
        clock = cgutils.get_or_insert_function(builder.module, kind, "npgpt_clock")
        builder.call(clock, [*map(word, BEFORE), numbers])
        found, total = builder.load(numbers), real(0)
        for i, unit in enumerate(UNITS):
            part = builder.sitofp(builder.extract_value(found, i), real)
            total = builder.fadd(total, builder.fmul(part, real(unit)))
        return total

    return float64(), generate


@overload(seconds, jit_options=INNER)
def _compiled_seconds() -> Any:
    read: Any = _seconds
    return lambda: read()


@jit
def start(laps: np.ndarray) -> None:
    """Begin the first lap of laps (SIZE,), float64; do nothing if it has no elements."""
    if laps.size > 0:
        laps[-1] = seconds()


@jit
def lap(laps: np.ndarray, op: int) -> None:
    """Add the seconds since the last lap ended to laps[op], and begin the next; do nothing if laps has no elements."""
    if laps.size > 0:
        now = seconds()
        laps[op] += now - laps[-1]
        laps[-1] = now
