"""The numerical gradient: a fourth-order central difference for each element."""

from collections.abc import Callable

import numpy as np

# With h the truncation error is h^4 / 30 times the fifth derivative, the rounding error about 1.5 eps / h times the
# function. They balance near eps^(1/5) = 7e-4; a power of two near it makes x + h exact more often.
STEP = 2.0**-10


def steps(x: np.ndarray, step: float) -> np.ndarray:
    """Return the step for each element: step, and as much of |x| where that is larger than 1."""
    return step * np.maximum(1.0, np.abs(x))


def numerical_gradient(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = STEP) -> np.ndarray:
    """Differentiate a scalar function at x, one element after another.

        (f(x - 2h) - 8 f(x - h) + 8 f(x + h) - f(x + 2h)) / (12 h),    h = step * max(1, |x|)

    f  takes a float64 array in the shape of x and returns a number; it is called four times an element
    x  (...) floats; it is copied, and left as it is
    Returns the gradient in the shape of x, float64. An f that overflows gives infinity or NaN there.
    """
    x = np.array(x, dtype=np.float64, order="C")  # a copy, in an order whose flat view writes into it
    gradient = np.empty_like(x)
    elements, out, h = x.reshape(-1), gradient.reshape(-1), steps(x, step).reshape(-1)
    for i, centre in enumerate(elements.copy()):
        values = []
        for multiple in (-2, -1, 1, 2):
            elements[i] = centre + multiple * h[i]
            values.append(float(f(x)))
        elements[i] = centre
        out[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h[i])
    return gradient
