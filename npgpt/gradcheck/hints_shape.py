"""What a gradient of a wrong shape suggests."""

import math

import numpy as np


def shape_hint(analytic: np.ndarray, shape: tuple[int, ...]) -> str:
    """Return what a gradient of a wrong shape suggests, or nothing."""
    if analytic.ndim == len(shape) and analytic.shape == shape[::-1] and analytic.ndim > 1:
        return "it has the transposed shape"
    if analytic.ndim > len(shape) and (not shape or analytic.shape[analytic.ndim - len(shape) :] == shape):
        axes = tuple(range(analytic.ndim - len(shape)))
        return f"sum it over the leading {'axis' if len(axes) == 1 else 'axes'} {', '.join(map(str, axes))}"
    if analytic.size == math.prod(shape):
        return "it has the right number of elements in another shape"
    return ""
