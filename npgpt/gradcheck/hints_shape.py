"""What a gradient of a wrong shape suggests."""

import itertools
import math

import numpy as np


def shape_hint(analytic: np.ndarray, shape: tuple[int, ...]) -> str:
    """Return what a gradient of a wrong shape suggests, or nothing.

    >>> shape_hint(np.ones((5, 3)), (3,))
    'sum it over axis 0'
    """
    found = analytic.shape
    if found == shape[::-1] and len(shape) > 1:
        return "it has the transposed shape"
    if sorted(found) == sorted(shape):
        return "its axes are in another order"
    if [n for n in found if n != 1] == [n for n in shape if n != 1] and analytic.size > 1:
        if len(found) > len(shape):
            return "an axis of size 1 is left over: drop it, or sum without keepdims=True"
        return "an axis of size 1 is missing: sum with keepdims=True"
    over = _too_many(found, shape)
    if over:
        return f"sum it over {over}"
    if len(found) == len(shape) and all(n in (m, 1) for n, m in zip(shape, found, strict=True)):
        axes = [axis for axis, (n, m) in enumerate(zip(shape, found, strict=True)) if n != m]
        return f"sum it over {_named(axes)}, with keepdims=True"
    over = _too_many(shape, found)
    if over:
        return f"it is summed over {over} of the argument, and should not be"
    return "it has the right number of elements in another shape" if analytic.size == math.prod(shape) else ""


def _too_many(found: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Name the axes without which one shape is the other, the first ones if there is a choice; or nothing."""
    for axes in itertools.combinations(range(len(found)), max(len(found) - len(shape), 0)):
        if axes and tuple(n for axis, n in enumerate(found) if axis not in axes) == shape:
            return _named(list(axes))
    return ""


def _named(axes: list[int]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"
