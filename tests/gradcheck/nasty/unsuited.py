"""Code that complex steps or differences do not suit: real parts, comparisons, float32, a library of floats."""

import math
from functools import partial

import numpy as np

from tests.gradcheck.example import correct, normal


def single_forward(x, weight):
    """Compute in float32 whatever comes."""
    return x.astype(np.float32) @ weight.astype(np.float32), (x, weight)


def double_forward(x, weight):
    return x @ weight, None


def single_backward(dout, cache):
    x, weight = (a.astype(np.float32) for a in cache)
    d = dout.astype(np.float32)
    return (d @ weight.T).astype(cache[0].dtype), (x.T @ d).astype(cache[1].dtype)


def single_tanh_forward(x):
    return np.tanh(x.astype(np.float32)), x


def double_tanh_forward(x):
    return np.tanh(x), x


def single_tanh_backward(dout, x):
    return (dout * (1 - np.tanh(x.astype(np.float32)) ** 2)).astype(x.dtype)


def erf_forward(x):
    """Take the standard library's erf, which knows floats alone."""
    values = np.array([math.erf(v) for v in x.ravel()]).reshape(x.shape)
    return values, x


def erf_backward(dout, x):
    return dout * 2 / math.sqrt(math.pi) * np.exp(-x * x)


def norm_forward(x):
    return np.linalg.norm(x) ** 2, x


def norm_backward(dout, x):
    return 2 * dout * x


def modulus_forward(x):
    """Square the modulus: a complex step gives zero, without a complaint."""
    return np.abs(x) ** 2 * 0.5, x


def modulus_backward(dout, x):
    return dout * x


def conjugate_forward(x, y):
    """Take the conjugate on the way, as np.vdot does."""
    return np.vdot(x, y) + (x * np.conj(x)).sum(), (x, y)


def conjugate_backward(dout, cache):
    x, y = cache
    return dout * (y + 2 * x), dout * x


def real_forward(x):
    """Go through a Fourier transform and its real part."""
    return np.fft.fft(x).real ** 2, x


def real_backward(dout, x):
    spectrum = np.fft.fft(x).real
    return np.fft.fft(dout * 2 * spectrum).real


def elu_forward(x):
    """Choose by comparison, which complex numbers make by their real part."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0))), x


def elu_backward(dout, x):
    return dout * np.where(x > 0, 1, np.exp(np.minimum(x, 0)))


NASTY = [
    correct(
        "linear in float32",
        single_forward,
        single_backward,
        partial(normal, 261, (3, 4), (4, 2)),
        "noise of 1e-7, but straight",
        exact=double_forward,
        rtol=1e-5,
    ),
    correct(
        "tanh in float32",
        single_tanh_forward,
        single_tanh_backward,
        partial(normal, 261, (5,)),
        "noise of 1e-7, and curved",
        exact=double_tanh_forward,
        rtol=1e-5,
        inconclusive_ok=True,
    ),
    correct(
        "erf of the standard library", erf_forward, erf_backward, partial(normal, 264, (5,)), "takes no complex number"
    ),
    correct("np.linalg.norm", norm_forward, norm_backward, partial(normal, 265, (5,)), "real for complex numbers"),
    correct(
        "half the modulus squared",
        modulus_forward,
        modulus_backward,
        partial(normal, 266, (5,)),
        "a complex step is silently wrong",
    ),
    correct(
        "np.vdot and np.conj",
        conjugate_forward,
        conjugate_backward,
        partial(normal, 267, (4,), (4,)),
        "a complex step is silently wrong",
    ),
    correct(
        "real part of a Fourier transform",
        real_forward,
        real_backward,
        partial(normal, 268, (6,)),
        "a complex step is silently wrong",
    ),
    correct("elu by comparison", elu_forward, elu_backward, partial(normal, 269, (8,)), "branches on a real part"),
]
