"""How accurate a forward is that stops when it is near enough: it jumps where it takes one step more."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .function import Function, shifted
from .leaf import Leaf
from .numeric import EPS, Line, complex_step, norm

POINTS = 129  # over the scale of the array
NEXT = 17  # over an eighth of what was looked at before, until a jump is pinned down
CLOSE = 2.0**-36
LEAST = 1e3 * EPS  # a jump of a smaller share of the function is rounding
TRIFLE = 1e-6  # a jump of a larger share of the function is part of it, and no inaccuracy
# shares of the array's scale: over the whole a bend may hide a jump, over a part there may be none
REACHES = (1.0, 0.25, 1.0, 0.25, 0.0625)
JUMPS = 16  # by how many jumps over the array's scale a gradient may be off, and by how many of its own


def allowed_for(
    function: Function, gradient_at: Callable[[np.ndarray], np.ndarray], trifle: bool
) -> tuple[np.ndarray, Function] | None:
    """Return how far off a right gradient may be because forward is inexact, and the function with its noise.

    An iteration that stops at 1e-11 is smooth but for jumps of about that size, where it takes one step more or less.
    Between them its derivative is not that of what it approximates, and its backward's, which takes the result for
    exact, is neither. The jump of the gradient at the same place shows by how much.

    function     the function of one leaf
    gradient_at  the gradient of the leaf that backward returns with other numbers in its place
    trifle       whether so little is at stake that the gradient's own jumps, where forward has none, may explain it
    Returns None if the function does not jump, or by so much that the jump is not an inaccuracy.
    """
    leaf = function.leaf
    rng = np.random.default_rng(5)
    least = max(30 * norm(function.noise), LEAST * function.problem.magnitude)
    for reach in REACHES:
        v = reach * leaf.steps * rng.standard_normal(leaf.x.shape) / math.sqrt(leaf.x.size)
        found = find_jump(function.line(v), least)
        size = found[2] if found else 0.0
        if found and size <= TRIFLE * function.problem.magnitude:
            before, after = (gradient_at(leaf.x + t * v) for t in found[:2])
            own = np.abs(after - before)
            noise = np.maximum(function.noise, np.where(function.problem.still, 0.0, size))
            own = np.where(np.isfinite(own), own, 0.0)
            return JUMPS * (size / leaf.steps + own), replace(function, noise=noise, complex_safe=False)
    own_jump = _of_backward(function, gradient_at, rng) if trifle and function.complex_safe else None
    return None if own_jump is None else (JUMPS * own_jump, function)


def _of_backward(
    function: Function, gradient_at: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
) -> np.ndarray | None:
    """Return by how much the gradient jumps where the slope of the function does not.

    An eigenvalue is as exact as the square of its eigenvector: the function may be smooth to the last place, and the
    gradient, which holds the vector, not.
    """
    leaf = function.leaf
    for reach in REACHES[:2]:
        v = reach * leaf.steps * rng.standard_normal(leaf.x.shape) / math.sqrt(leaf.x.size)
        found = find_jump(_gradient_line(leaf, v, gradient_at), LEAST * function.problem.magnitude)
        if found and found[2] <= TRIFLE * function.problem.magnitude:
            change = gradient_at(leaf.x + found[1] * v) - gradient_at(leaf.x + found[0] * v)
            slopes = [complex_step(shifted(function.line(v), t)) for t in found[:2]]
            along = float(np.sum(change * v))
            if abs(along - (slopes[1] - slopes[0])) > abs(along) / 2:
                return np.abs(change)
    return None


def _gradient_line(leaf: Leaf, v: np.ndarray, gradient_at: Callable[[np.ndarray], np.ndarray]) -> Line:
    """Return the gradient along v, flat, each element times its scale: what it would change of the function."""
    return lambda t: (leaf.steps * gradient_at(leaf.x + t * v)).reshape(-1)


def find_jump(line: Line, least: float) -> tuple[float, float, float] | None:
    """Return two points close by, around a jump of line(t) for t from -1 to 1, and the size of the jump.

    A jump of 1 contributes 35 to the largest eighth difference of equally spaced values, and goes on doing so as the
    spacing shrinks, while little is left of a smooth function. None if no jump is larger than `least`.
    """
    low, high, points = -1.0, 1.0, POINTS
    while True:
        times = np.linspace(low, high, points)
        with np.errstate(all="ignore"):
            eighth = np.abs(np.diff(np.array([line(float(t)) for t in times]), 8, axis=0)) / 35
            sizes = np.linalg.norm(eighth, axis=1)
        if not np.any(sizes[np.isfinite(sizes)] > least):
            return None
        first = int(np.nanargmax(np.where(np.isfinite(sizes), sizes, -1.0)))
        low, high, points = float(times[first]), float(times[first + 8]), NEXT
        if high - low < CLOSE:
            return low, high, float(sizes[first])


def saturates(leaf: Leaf, gradient_at: Callable[[np.ndarray], np.ndarray], index: int, value: float) -> bool:
    """Return whether a gradient of 0 is what rounding leaves of `value`: an element moved towards 0 must show it.

    sigmoid(z) - 1 is -1e-22 at 50, and computed as 0. Nearer to 0 it is as small as a last place of its largest, and
    grows from there. One that a slip has lost does not, or begins with more.
    """
    claims: list[float] = []
    for k in range(32, -1, -1):
        x = leaf.x.copy()
        x.reshape(-1)[index] *= k / 32
        claims.append(abs(float(gradient_at(x).flat[index])))
    first = next((claim for claim in claims if claim > 0), 0.0)
    return abs(value) <= first <= LEAST * max(claims)
