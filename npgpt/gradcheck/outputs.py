"""The outputs as flat arrays: which of them move at all, and how large they are for what rounding may hide."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .numeric import EPS, largest
from .tree import leaves


def weighted(out: Any, dout: Any) -> np.ndarray:
    """Return dout * out, flat, and not summed: an output that does not move then adds no rounding to a difference."""
    pairs = zip(leaves(out), leaves(dout), strict=True)
    parts = [np.ravel(np.asarray(weight) * np.asarray(part)) for (_, part), (_, weight) in pairs]
    return np.concatenate(parts) if parts else np.zeros(0)


def unmoved(start: np.ndarray, at: Callable[[float, float], np.ndarray], smallest_scale: float) -> np.ndarray:
    """Return which outputs no argument moves: neither over its scale nor over a thousandth of it.

    start           the outputs at the given arguments
    at              at(size, share) gives them at share times each argument, moved at random by size times its scale
    smallest_scale  the least of the arguments' scales
    """
    still = np.ones(start.shape, dtype=bool)

    def move(size: float, share: float = 1.0) -> None:
        nonlocal still
        try:
            with np.errstate(all="ignore"):
                still &= (at(size, share) == start) | np.isnan(start)
        except Exception:  # not there: the given arguments are where forward has to run
            return

    move(1.0)
    move(2.0**-10)
    if np.isinf(start[still]).any():
        move(1.0 / smallest_scale, share=0.0)  # what has overflowed is finite for numbers of order one
    size = np.abs(np.where(np.isfinite(start), start, 0.0))
    if largest(size[still]) > 1e6 * largest(size[~still]):
        # beside so large a number a move is rounded away; a constant stays what it is over a large one, too
        move(64 * EPS * largest(size[still]) / smallest_scale)
    return still


def sizes(start: np.ndarray, still: np.ndarray, ones: np.ndarray) -> np.ndarray:
    """Return the outputs' moduli as a measure of what rounding may hide.

    An output that no argument moves counts for no more than the largest of the others, or than `ones`, which it would
    be if it were 1 before it is weighted: a mask's -1e20 is no measure of anything, while a saturated sigmoid's 1 is.
    """
    size = np.abs(start)
    moving = largest(size[~still])
    most = np.maximum(moving, np.abs(ones))
    return np.where(still, np.minimum(size, most), size) if moving > 0 else size
