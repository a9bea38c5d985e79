"""exp for kernels: a polynomial in float32, which the compiler vectorises, and the C library's exp in float64.

For expf, numba would call the C library for every element, and a loop that contains a call is not vectorised.
"""

import math
from typing import Any

import numpy as np
from numba import float32
from numba.extending import overload

from npgpt.support.jit import INNER, jit

LOG2E = np.float32(math.log2(math.e))
LN2 = math.log(2)
# ln 2 in two parts: n * LN2_HIGH is exact for every n that occurs, so x - n * ln 2 loses no digits
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(math.log(2) - 0.693359375)
# Adding this to a float32 rounds it to an integer, which is then in the low bits of the sum
ROUNDER = np.float32(1.5 * 2**23)
ROUNDER_BITS = np.float32(1.5 * 2**23).view(np.int32)
# Below LOWEST the result would be subnormal, and 0 is returned; at HIGHEST n is 128, and 2^128 is infinity
LOWEST, HIGHEST = np.float32(-87.3), np.float32(88.5)
# Source: Moshier, Cephes, expf.c: exp(r) = 1 + r + r^2 * P(r) for |r| <= ln(2) / 2
P0, P1, P2, P3, P4, P5 = (
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)


# Only "contract": the subtractions of n * ln 2 are exact in this order only, and "reassoc" would change it.
@jit(fastmath={"contract"})
def exp32(x: np.float32) -> np.float32:
    """Return `exp(x) = 2^n * exp(x - n ln 2)`, n the nearest integer to x / ln 2, to 2 units in the last place.

    Example: x = 1 gives n = 1 and r = x - n ln 2 = 0.3069, and 2 * exp(0.3069) = 2.7183.

    x  float32; above 88.4 the result is infinity (88.7 in exact arithmetic), below -87.3 it is 0. NaN gives NaN.
    """
    below = x < LOWEST
    x = HIGHEST if x > HIGHEST else x
    x = LOWEST if below else x
    rounded = x * LOG2E + ROUNDER
    n = rounded - ROUNDER
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = ((((P0 * r + P1) * r + P2) * r + P3) * r + P4) * r + P5
    exponent = np.float32(rounded).view(np.int32) - ROUNDER_BITS + np.int32(127)
    power = np.int32(exponent << np.int32(23)).view(np.float32)
    return np.float32(0) if below else (p * (r * r) + r + np.float32(1)) * power


# Source: Moshier, Cephes, exp2f.c: 2^r = 1 + r * Q(r) for |r| <= 1/2
Q0, Q1, Q2, Q3, Q4, Q5 = (
    np.float32(c)
    for c in (1.535336188e-4, 1.339887440e-3, 9.618437357e-3, 5.550332471e-2, 2.402264791e-1, 6.931472028e-1)
)
SMALLEST = np.float32(-127)  # the power of 2 whose exponent has no bit set: it is made as 0


@jit(fastmath={"contract"})
def exp2_32(x: np.float32) -> np.float32:
    """Return 2^x to 2 units in the last place, for x of at most 127, as the softmax has them; NaN gives NaN.

    Below -126.5 the result is 0.
    """
    x = SMALLEST if x < SMALLEST else x
    rounded = x + ROUNDER
    r = x - (rounded - ROUNDER)
    q = ((((Q0 * r + Q1) * r + Q2) * r + Q3) * r + Q4) * r + Q5
    exponent = np.float32(rounded).view(np.int32) - ROUNDER_BITS + np.int32(127)
    return (q * r + np.float32(1)) * np.int32(exponent << np.int32(23)).view(np.float32)


def exp2(x: Any) -> Any:
    """Return 2^x in the precision of x, for x of at most 127."""
    return exp2_32(x) if isinstance(x, np.float32) else np.float64(math.exp(x * LN2))


@overload(exp2, jit_options=INNER)
def _exp2(x: Any) -> Any:
    def single(x: Any) -> Any:
        return exp2_32(x)

    def double(x: Any) -> Any:
        return math.exp(x * LN2)

    return single if x == float32 else double


def exp(x: Any) -> Any:
    """Return exp(x) in the precision of x."""
    return exp32(x) if isinstance(x, np.float32) else np.float64(math.exp(x))


@overload(exp, jit_options=INNER)
def _exp(x: Any) -> Any:
    def single(x: Any) -> Any:
        return exp32(x)

    def double(x: Any) -> Any:
        return math.exp(x)

    return single if x == float32 else double
