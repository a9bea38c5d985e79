"""GELU, the exact form: `activation_function="gelu"`."""

import math

import numpy as np

# NumPy has no erf. That of the standard library is exact to about the last bit. It is slow, because it takes one
# element per call, but GPT-2 itself uses gelu_new.
erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Multiply x by the normal distribution function: `out = x * Phi(x)`, `Phi(x) = (1 + erf(x / sqrt(2))) / 2`.

    x, out  (...)

    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415.
    """
    Phi = ((1 + erf(x / math.sqrt(2))) / 2).astype(x.dtype)
    out = x * Phi
    return out, (x, Phi)


def gelu_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Return `dx = dout * (Phi(x) + x * phi(x))`, where phi is the normal density.

    dout, dx  (...)
    """
    x, Phi = cache
    # out = x * Phi, and dPhi/dx is the density
    phi = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    dx = dout * (Phi + x * phi)
    return dx
