"""The formula is right, and what comes back has another dtype, another shape, another order, or another owner."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs.contract import ids_and_table, linear_forward, lookup_forward, matrix, square_forward, vector
from tests.gradcheck.example import broken, normal, planted

BUFFER: dict = {}


def biased_forward(x, bias):
    return np.tanh(x + bias), np.tanh(x + bias)


def biased_backward(shrink):
    def backward(dout, y):
        dx = dout * (1 - y * y)
        return dx, shrink(dx)

    return backward


def reuses_buffer(dout, x):
    """Return the same array each time, as a captured graph does."""
    buffer = BUFFER.setdefault(x.shape, np.empty_like(x))
    np.multiply(2 * x, dout, out=buffer)
    return buffer


def gives_float32(dout, x):
    return (2 * x * dout).astype(np.float32)


def fft_forward(x, kernel):
    """Convolve round a circle."""
    return np.fft.ifft(np.fft.fft(x) * np.fft.fft(kernel)).real, (np.fft.fft(x), np.fft.fft(kernel))


def gives_complex(dout, cache):
    fx, fk = cache
    d = np.fft.fft(dout)
    return np.fft.ifft(d * fk.conj()), np.fft.ifft(d * fx.conj())


def gives_integers(dout, cache):
    ids, shape = cache
    dweight = np.zeros(shape, dtype=ids.dtype)
    np.add.at(dweight, ids, dout.astype(ids.dtype))
    return dweight


def by_memory(dout, x):
    """Read dout as it lies in memory, which is not always its order."""
    return 2 * x * dout.ravel(order="K").reshape(x.shape)


def pair_backward(dout, cache, slip=""):
    x, weight = cache
    gradients = dout @ weight.T, x.T @ dout
    return gradients[::-1] if slip == "dweight, dx for dx, dweight" else gradients


def params_forward(x, params):
    return np.tanh(x @ params["up"]) @ params["down"], (x, params)


def params_backward(dout, cache, slip=""):
    x, params = cache
    hidden = np.tanh(x @ params["up"])
    dpre = dout @ params["down"].T * (1 - hidden * hidden)
    grads = {"up": x.T @ dpre, "down": hidden.T @ dout}
    if slip == "gradients under each other's keys":
        grads = {"up": grads["down"], "down": grads["up"]}
    return dpre @ params["up"].T, grads


def params():
    x, up, down = normal(148, (2, 3), (3, 3), (3, 3))
    return x, {"up": up, "down": down}


rows_and_bias = partial(normal, 144, (3, 4), (4,))
one_row_and_bias = partial(normal, 145, (1, 4), (4,))
STATIC = "https://github.com/pytorch/pytorch/issues/181723"

BUGS = [
    broken(
        "buffer returned that the next call overwrites",
        "result overwritten",
        square_forward,
        reuses_buffer,
        vector,
        STATIC,
    ),
    broken(
        "float32 for float64",
        "dtype",
        square_forward,
        gives_float32,
        vector,
        "https://github.com/chainer/chainer/issues/684",
        "there float64 for float32",
    ),
    broken(
        "complex for real",
        "dtype",
        fft_forward,
        gives_complex,
        partial(normal, 149, (6,), (6,)),
        note="the imaginary parts are zero but for rounding",
    ),
    broken("integers for floats", "dtype", lookup_forward, gives_integers, ids_and_table),
    broken(
        "bias gradient with a kept axis",
        "shape",
        biased_forward,
        biased_backward(lambda d: d.sum(0, keepdims=True)),
        rows_and_bias,
        "https://github.com/tensorflow/tfjs/issues/8721",
    ),
    broken(
        "bias gradient not summed",
        "shape",
        biased_forward,
        biased_backward(lambda d: d),
        rows_and_bias,
        "https://github.com/deeplearning4j/nd4j/issues/2424",
    ),
    broken(
        "bias gradient of one row not summed",
        "shape",
        biased_forward,
        biased_backward(lambda d: d),
        one_row_and_bias,
        "https://github.com/deeplearning4j/nd4j/issues/2424",
        "every number right; (1, 4) for (4,) still broadcasts",
    ),
    broken(
        "bias gradient summed to a number",
        "shape",
        biased_forward,
        biased_backward(np.sum),
        rows_and_bias,
        "https://github.com/tensorflow/tensorflow/issues/127690",
        "a shape that broadcasts",
    ),
    broken(
        "None for the bias gradient",
        "shape",
        biased_forward,
        biased_backward(lambda d: None),
        rows_and_bias,
        "https://github.com/harvard-edge/cs249r_book/pull/1504",
    ),
    broken(
        "dout read in the order of memory",
        "layout",
        square_forward,
        by_memory,
        matrix,
        "https://github.com/Dao-AILab/flash-attention/issues/355",
        "right for a dout in C order",
    ),
    planted(
        "gradients in another order",
        "dweight, dx for dx, dweight",
        linear_forward,
        pair_backward,
        partial(normal, 150, (3, 3), (3, 3)),
        note="the same shapes, so nothing but the numbers tells",
    ),
    planted("dict of parameters", "gradients under each other's keys", params_forward, params_backward, params),
]
