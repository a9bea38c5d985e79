"""GELU, the tanh form of GPT-2: `activation_function="gelu_new"`."""

import math

import numpy as np

SCALE = math.sqrt(2 / math.pi)
CUBIC = 0.044715


def gelu_new_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Approximate GELU with tanh: `out = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.

    x, out  (...)

    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415, section 2; GPT-2's model.py.
    """
    tanh = np.tanh(SCALE * (x + CUBIC * (x * x * x)))
    out = 0.5 * x * (1 + tanh)
    return out, (x, tanh)


def gelu_new_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Return `dx = dout * ((1 + tanh u) / 2 + x / 2 * (1 - tanh(u)^2) * du/dx)`, where u is the argument of tanh.

    dout, dx  (...)
    """
    x, tanh = cache
    # u = SCALE * (x + CUBIC * x^3)
    du = SCALE * (1 + 3 * CUBIC * (x * x))
    # out = 0.5 * x * (1 + tanh), and tanh' = 1 - tanh^2
    dx = dout * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * du)
    return dx
