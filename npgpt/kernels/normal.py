"""The normal distribution for kernels: polynomials in float32, the C library's exp and erfc in float64.

The compiler vectorises the polynomials, but not a loop that contains a call.
"""

import math
from typing import Any

import numpy as np
from numba import float32
from numba.extending import overload

from npgpt.kernels.exp import exp32
from npgpt.support.jit import INNER, jit

# Where both functions are 0 in float32; infinity is taken for it
LAST = np.float32(14)
UPPER = np.int32(-(2**12))  # a mask of all bits but the last 12: the square of what it leaves is exact
CENTRE = np.float32(4)
# (CENTRE + t) * tail(t) / bell(t) as a polynomial of (CENTRE - t) / (CENTRE + t), to 2^-26.9 for 0 <= t <= LAST, fitted
# by least squares in relative errors, weighted anew until the largest was as small as possible.
# Source of the form: Shepherd, Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x", Math. Comp. 36, 1981
Q0, Q1, Q2, Q3, Q4 = (
    np.float32(c) for c in (1.2952801265e-4, 1.8462958663e-4, -1.5718574542e-3, -3.5149827926e-3, 7.5267265564e-3)
)
Q5, Q6, Q7, Q8, Q9 = (
    np.float32(c) for c in (6.0404143581e-2, 1.8652320637e-1, 3.8713688982e-1, 6.0789659715e-1, 7.5528513546e-1)
)


# No fastmath: the rounding error of the square is the difference of numbers that are equal in exact arithmetic.
@jit(fastmath=set())
def bell32(t: np.float32) -> np.float32:
    """Return `exp(-t^2 / 2)` to 3 units in the last place; 0 below exp(-87.3). NaN gives NaN.

    A rounding of t^2 alone would be an error of t^2 / 2 units.
    """
    t = LAST if t > LAST else t
    upper = np.int32(np.float32(t).view(np.int32) & UPPER).view(np.float32)
    square = t * t
    missing = (upper * upper - square) + (t - upper) * (t + upper)  # t^2 - square
    e = exp32(np.float32(-0.5) * square)
    return e - e * (np.float32(0.5) * missing)


@jit
def tail32(t: np.float32, e: np.float32) -> np.float32:
    """Return the probability that a normal variable exceeds t, to 3 units in the last place beside the error of e.

    Example: t = 0 and e = 1 give 0.5; t = 2 and e = exp(-2) give 0.02275.

    t  float32, 0 or more; NaN gives NaN
    e  float32: bell32(t)
    """
    t = LAST if t > LAST else t
    share = np.float32(1) / (CENTRE + t)
    s = (CENTRE - t) * share
    p = ((((Q0 * s + Q1) * s + Q2) * s + Q3) * s + Q4) * s
    return (((((p + Q5) * s + Q6) * s + Q7) * s + Q8) * s + Q9) * share * e


def bell(t: Any) -> Any:
    """Return `exp(-t^2 / 2)` for t >= 0, in the precision of t."""
    return bell32(t) if isinstance(t, np.float32) else np.float64(math.exp(-0.5 * t * t))


def tail(t: Any, e: Any) -> Any:
    """Return the probability that a normal variable exceeds t >= 0, given e = bell(t), in the precision of t."""
    return tail32(t, e) if isinstance(t, np.float32) else np.float64(0.5 * math.erfc(t * math.sqrt(0.5)))


@overload(bell, jit_options=INNER)
def _bell(t: Any) -> Any:
    def single(t: Any) -> Any:
        return bell32(t)

    def double(t: Any) -> Any:
        return math.exp(-0.5 * t * t)

    return single if t == float32 else double


@overload(tail, jit_options=INNER)
def _tail(t: Any, e: Any) -> Any:
    def single(t: Any, e: Any) -> Any:
        return tail32(t, e)

    def double(t: Any, e: Any) -> Any:
        return 0.5 * math.erfc(t * math.sqrt(0.5))

    return single if t == float32 else double
