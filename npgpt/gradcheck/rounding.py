"""How far rounding may put a right gradient from the exact one."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .function import Function
from .gradients import Backward
from .leaf import Leaf
from .numeric import EPS, fourth_differences, largest, norm
from .problem import Problem
from .tree import leaves, map_leaves

STEPS = range(-4, 5)  # nine equally spaced values, as fourth_differences takes them


@dataclass(frozen=True)
class Precision:
    """The precision in which backward computes.

    unit     the rounding of a number near 1
    limit    an error that is allowed everywhere, relative to the size of an element's terms
    floor    one that is allowed everywhere, relative to the largest of all terms
    doubles  whether the forward's own noise, too, is that of float64
    """

    unit: float
    limit: float
    floor: float
    doubles: bool


def allowances(
    problem: Problem, functions: list[Function], backward: Backward, dout: Any, gradients: list[Any]
) -> list[np.ndarray]:
    """Return for each leaf how far rounding may put a right gradient from the exact one, element by element.

    A gradient is a sum over outputs: under random signs of dout its terms do not cancel, and show how large they are.
    Its own rounding shows in its fourth differences, and what its arguments' rounding does to it in its first.
    """
    rng = np.random.default_rng(3)
    precision = _precision(problem, functions)
    exact = [np.asarray(g, dtype=np.float64) for g in gradients]
    sizes = _sizes(problem, backward, dout, exact, rng)
    signs = {leaf.number: rng.choice([-1.0, 1.0], leaf.x.shape) for leaf in problem.leaves}
    dout_signs = map_leaves(lambda leaf: rng.choice([-1.0, 1.0], np.shape(leaf)), dout)

    def gradients_at(step: float) -> list[np.ndarray]:
        """Return the gradients with every argument moved by step times its own size, and dout; NaN if that is refused.

        In dout a gradient is linear, and may be so in nothing else: then dout alone shows its rounding.
        """

        def move(leaf: Leaf) -> np.ndarray:
            return np.array(leaf.x * (1 + step * signs[leaf.number]), dtype=problem.dtype)

        other = iter([leaf for _, leaf in leaves(dout_signs)])
        moved = map_leaves(lambda leaf: np.asarray(leaf * (1 + step * next(other)), np.asarray(leaf).dtype)[()], dout)
        with np.errstate(all="ignore"):
            return backward.tried(problem.moved(move), moved)

    # close by, and far enough that the rounding of a number near 1 shows in what it leaves when 1 is taken away
    near, far = ([gradients_at(k * step) for k in STEPS] for step in (64 * precision.unit, 2.0**-22))
    found = []
    for i, (function, g, size) in enumerate(zip(functions, exact, sizes, strict=True)):
        ladders = [values[i] for values in near], [values[i] for values in far]
        found.append(_allowance(function, precision, g, size, *ladders))
    return found


def _precision(problem: Problem, functions: list[Function]) -> Precision:
    if problem.single:
        unit = float(np.finfo(np.float32).eps)
        return Precision(unit, 100 * unit, unit, False)
    noise = max(norm(function.noise) for function in functions)
    return Precision(EPS, 1e-12, 0.0, noise <= 1e-11 * (problem.magnitude + problem.largest_dout))


def _sizes(
    problem: Problem, backward: Backward, dout: Any, exact: list[np.ndarray], rng: np.random.Generator
) -> list[np.ndarray]:
    """Return for each element of each gradient how large the terms are of which it is a sum."""

    def flip(leaf: Any) -> Any:
        return np.asarray(leaf * rng.choice([-1.0, 1.0], np.shape(leaf)), np.asarray(leaf).dtype)[()]

    sizes = [np.array(np.abs(g)) for g in exact]
    for _ in range(3):
        flipped = map_leaves(flip, dout)
        for size, g in zip(sizes, backward.tried(problem.copies(problem.dtype), flipped), strict=True):
            np.fmax(size, np.abs(g), out=size)
    return sizes


def _allowance(
    function: Function,
    precision: Precision,
    exact: np.ndarray,
    size: np.ndarray,
    near: list[np.ndarray],
    far: list[np.ndarray],
) -> np.ndarray:
    problem = function.problem
    size = np.where(np.isfinite(size), size, 0.0)  # one NaN says nothing of the other elements
    with np.errstate(all="ignore"):
        noise = np.maximum(fourth_differences(near), fourth_differences(far))
        # they are 64 units apart; 8 sixteenths of what that changes allow for arguments that are off by 32. By the
        # median, because one of them may jump over a kink
        move = np.median(np.abs(np.diff(near, axis=0)), axis=0) / 16
    if precision.doubles:
        # double precision loses some last places of the largest number at hand, and not half of its digits
        noise = np.minimum(noise, 100 * EPS * (largest(size) + problem.largest_dout))
    # what is a good part of the gradient itself is no rounding: the step has jumped over a kink
    part = 1e-3 * (np.abs(exact) + size)
    noise = np.where(np.isfinite(noise) & (precision.doubles | (noise <= part)), noise, 0.0)
    move = np.where(np.isfinite(move) & (move <= part), move, 0.0)
    return precision.limit * size + 20 * noise + 8 * move + precision.floor * largest(size)
