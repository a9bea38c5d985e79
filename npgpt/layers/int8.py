"""int8: matrices of 8-bit integers with a scale for each output, and their product with rows of floats.

Such weights are a quarter of the memory of float32, and reading memory is most of the time of a new token. They are
made from a trained model and not trained, so there is no backward.
"""

import numpy as np

MOST = 127  # -128 is not used, so that the integers are symmetric around 0
BLOCK = 2**16  # weights that are rounded at a time, which stay in the cache


def quantize(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Round a matrix to integers of 8 bits, with a scale for each of its outputs.

        scale = max |weight| / 127,    q = round(weight / scale)

    weight  (I, O) with axis 0, as in linear_forward, or (O, I) with axis 1, as in an embedding that is a head, too
    axis    along which the weights of one output lie
    q       int8, in the shape of weight, from -127 to 127
    scale   (O,), in the dtype of weight; 0 for an output whose weights are all 0

    q * scale is at most scale / 2 away from weight, besides the rounding of the floats. A scale is rounded up, so that
    this holds also where numbers are so small that the format has few digits left for them.

    Raises ValueError for a weight that is not finite.

    Source: symmetric quantization with a scale for each channel, Krishnamoorthi, "Quantizing deep convolutional
    networks for efficient inference", arXiv:1806.08342, section 2.2.

    >>> quantize(np.array([[1.0, -4.0], [0.3, 2.0]]), axis=1)[0]
    array([[  32, -127],
           [  19,  127]], dtype=int8)
    """
    largest = np.maximum(weight.max(axis=axis), -weight.min(axis=axis))
    if not np.isfinite(largest).all():
        raise ValueError("a weight is not a finite number")
    scale = largest / weight.dtype.type(MOST)
    scale = np.where(scale * weight.dtype.type(MOST) < largest, np.nextafter(scale, np.inf, dtype=scale.dtype), scale)
    divisor = np.expand_dims(np.where(scale > 0, scale, 1), axis)
    q = np.empty(weight.shape, np.int8)
    rows = max(1, BLOCK // max(1, weight.shape[1]))
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        quotient = weight[part] / (divisor[part] if axis == 1 else divisor)
        q[part] = np.rint(quotient, out=quotient)
    return q, scale


def dequantize(q: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """Return the matrix q * scale, in the dtype of scale, from what `quantize` returns."""
    return q * np.expand_dims(scale, axis)


def int8_linear_forward(x: np.ndarray, q: np.ndarray, scale: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Multiply by a matrix of 8-bit integers, and add a bias: `out = x @ q * scale + bias`.

    x      (..., I)
    q      (I, O) int8
    scale  (O,), in the dtype of x
    bias   (O,) or None
    out    (..., O)

    The products are those of floats: x is not rounded. So the result y is away from that of the weights that q is made
    from, y', by what was rounded away from them alone. Each of them is at most scale / 2 away from q * scale, so

        |y_n - y'_n| = |sum_k x_k (q_kn scale_n - weight_kn)| <= sum_k |x_k| scale_n / 2,

    besides the rounding of the floats. For x and weights that are independent of one another it is much less: rounding
    errors are spread evenly over +-scale / 2, with a standard deviation of scale / sqrt(12), and have either sign, so

        standard deviation of y_n - y'_n = scale_n sqrt(sum_k x_k^2 / 12).
    """
    out = x @ q.astype(x.dtype) * scale
    return out if bias is None else out + bias
