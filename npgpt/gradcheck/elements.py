"""Hold a gradient against the numerical one: element by element, and along random directions."""

import math
from dataclasses import dataclass, field

import numpy as np

from npgpt.gradcheck.numeric import one_sided
from npgpt.gradcheck.problem import Leaf, Problem
from npgpt.gradcheck.tree import ids_among

MAX_KINKS = 300  # elements of one array that are looked at from both sides
CLEARLY_WRONG = 16  # of them without a kink, and the others need no closer look
DIRECTIONS = 4
ESCAPE = 0.05  # the bounds that are printed hold with a probability of 95%


@dataclass
class Numeric:
    """What was found of one leaf's gradient; NaN in value where an element was not looked at."""

    value: np.ndarray
    error: np.ndarray
    wrong: np.ndarray
    kinks: np.ndarray
    looked_at: np.ndarray
    directions: int = 0
    mismatch: float = 0.0  # the largest of a direction, relative to the gradient along it
    blind: float = 0.0  # an error whose norm is below this share of the gradient's could have escaped the directions
    notes: list[str] = field(default_factory=list)

    @classmethod
    def blank(cls, shape: tuple[int, ...]) -> "Numeric":
        no = np.zeros(shape, dtype=bool)
        return cls(np.full(shape, np.nan), np.full(shape, np.nan), no, no.copy(), no.copy())


def check_elements(
    problem: Problem, leaf: Leaf, analytic: np.ndarray, allowance: np.ndarray, indices: np.ndarray, found: Numeric
) -> None:
    """Differentiate by the elements at these flat indices, and mark those that are wrong or at a kink."""
    value, error = found.value.reshape(-1), found.error.reshape(-1)
    flat, allowed = analytic.reshape(-1), allowance.reshape(-1)
    for index in indices:
        value[index], error[index] = _derivative(problem, leaf, int(index))
    found.looked_at.reshape(-1)[indices] = True
    with np.errstate(invalid="ignore"):
        right = np.abs(flat[indices] - value[indices]) <= error[indices] + allowed[indices]
    suspects = indices[~right]
    # the most different first; a NaN before all
    distance = np.abs(flat[suspects] - value[suspects])
    order = np.argsort(-np.where(np.isnan(distance), np.inf, distance), kind="stable")
    for count, index in enumerate(suspects[order]):
        if not np.isfinite(flat[index]):  # where the derivative is not finite either, it has overflowed
            found.wrong.reshape(-1)[index] = np.isfinite(value[index])
        elif count < MAX_KINKS and (count < CLEARLY_WRONG or found.kinks.any()):
            _look_closer(problem, leaf, analytic, allowance, int(index), found)
        else:
            found.wrong.reshape(-1)[index] = True


def _derivative(problem: Problem, leaf: Leaf, index: int, real: bool = False) -> tuple[float, float]:
    line, scale = problem.element_line(leaf, index), float(leaf.scale.flat[index])
    value, error = problem.derivative(line, scale, leaf, real=real)
    size = abs(float(leaf.x.flat[index]))
    if not error <= 1e-6 * abs(value) and 0 < size < 1e-2 * scale:
        # small among large ones: perhaps the function cares for its own size
        again = problem.derivative(line, size, leaf, real=real)
        value, error = again if not again[1] >= error else (value, error)
    return value, error


def _look_closer(
    problem: Problem, leaf: Leaf, analytic: np.ndarray, allowance: np.ndarray, index: int, found: Numeric
) -> None:
    """Decide on an element that looks wrong: by real differences too, and from both sides."""
    claimed, allowed = float(analytic.flat[index]), float(allowance.flat[index])
    if problem.complex_safe:
        value, error = _derivative(problem, leaf, index, real=True)
        disagree = abs(value - found.value.flat[index]) > 4 * error + 1e-9 * abs(value)
        if disagree and math.isfinite(value):  # complex arithmetic took another branch here
            found.value.flat[index], found.error.flat[index] = value, error
            if abs(claimed - value) <= error + allowed:
                return
    line, scale = problem.element_line(leaf, index), float(leaf.scale.flat[index])
    low, high, error = one_sided(line, scale, leaf.noise)
    bar = error + allowed + 1e-7 * max(abs(low), abs(high))
    if high - low > 4 * bar:
        if low - bar <= claimed <= high + bar:
            found.kinks.flat[index] = True
            return
        found.notes.append(f"at {_index(analytic, index)} the slopes of the two sides are {low:.6g} and {high:.6g}")
    if math.isfinite(found.value.flat[index]):
        found.wrong.flat[index] = True


def _index(array: np.ndarray, flat: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, array.shape))


def check_directions(
    problem: Problem,
    leaf: Leaf,
    analytic: np.ndarray,
    allowance: np.ndarray,
    rng: np.random.Generator,
    found: Numeric,
) -> None:
    """Differentiate along random directions through all elements; on a mismatch bisect to an element.

    Every element has its share in a Gaussian direction, so an error in a single one of a million shows, if it is larger
    than the error bar; what sees it is the precision of the derivative, not luck.
    """
    for _ in range(DIRECTIONS):
        v = leaf.scale * rng.standard_normal(leaf.x.shape)
        for _ in range(20):  # an element at a kink is taken out of the direction, and the rest is tried again
            mismatch, bar, size = _mismatch(problem, leaf, analytic, allowance, v)
            if not (math.isfinite(mismatch) and mismatch > bar):
                break
            index = _bisect(problem, leaf, analytic, v)
            if not found.looked_at.flat[index]:
                check_elements(problem, leaf, analytic, allowance, np.array([index]), found)
            if found.wrong.flat[index]:
                break
            if v.flat[index] == 0 or not found.kinks.flat[index]:
                found.notes.append("a direction disagrees, but no element by itself")
                found.wrong.flat[index] = True
                break
            v.flat[index] = 0.0
        found.directions += 1
        if size > 0:
            found.mismatch = max(found.mismatch, mismatch / size)
            # |<d, v>| < bar happens by chance for each direction with probability bar / |d v| * sqrt(2 / pi)
            found.blind = max(found.blind, bar / size * math.sqrt(2 / math.pi) / ESCAPE ** (1 / DIRECTIONS))
        if found.wrong.any():
            return


def _mismatch(
    problem: Problem, leaf: Leaf, analytic: np.ndarray, allowance: np.ndarray, v: np.ndarray
) -> tuple[float, float, float]:
    """Return how far <gradient, v> is from the derivative along v, the error bar, and the size of what was added up."""
    value, error = problem.derivative(problem.line(leaf, v), 1.0, leaf, float(np.linalg.norm(v)))
    product = analytic * v
    bar = error + 4 * float(np.linalg.norm(allowance * v))
    return abs(float(np.sum(product)) - value), bar, float(np.linalg.norm(product))


def _bisect(problem: Problem, leaf: Leaf, analytic: np.ndarray, v: np.ndarray) -> int:
    """Return the flat index of an element to which a mismatch along v comes down, halving the elements each time."""
    indices = np.flatnonzero(v)
    while len(indices) > 1:
        halves = np.array_split(indices, 2)
        misses = []
        for half in halves:
            part = np.zeros_like(v)
            part.reshape(-1)[half] = v.reshape(-1)[half]
            value, error = problem.derivative(problem.line(leaf, part), 1.0, leaf, float(np.linalg.norm(part)))
            miss = abs(float(np.sum(analytic * part)) - value)
            misses.append(miss / (error + 1e-300) if not math.isfinite(miss) else miss)
        indices = halves[0] if not misses[0] < misses[1] else halves[1]
    return int(indices[0])


def check_together(
    problem: Problem, leaf: Leaf, analytic: np.ndarray, allowance: np.ndarray, rng: np.random.Generator, found: Numeric
) -> None:
    """Move many elements at once, by real differences: each may look right by itself, and together they claim too much.

    So do two that tie for a maximum if each is given all of it. A complex step does not even see that there is a kink.
    """
    mask = found.kinks if found.kinks.sum() > 1 else np.ones(leaf.x.shape, dtype=bool)
    for attempt in range(8 if found.kinks.any() else 3):
        # first all by the same: those that tie go on doing so, and along that direction there is no kink
        each = rng.standard_normal(leaf.x.shape) if attempt else np.ones(leaf.x.shape)
        v = np.where(mask, leaf.scale * each, 0.0)
        claimed, length = float(np.sum(analytic * v)), float(np.linalg.norm(v))
        line, allowed = problem.line(leaf, v), 4 * float(np.linalg.norm(allowance * v))
        value, error = problem.derivative(line, 1.0, leaf, length, real=True)
        if abs(claimed - value) <= error + allowed:
            continue
        low, high, error = one_sided(line, 1.0, leaf.noise)
        bar = error + allowed + 1e-7 * max(abs(low), abs(high))
        if math.isfinite(error) and not low - bar <= claimed <= high + bar:
            found.notes.append(f"together they claim a slope of {claimed:.6g}, not in {low:.6g} to {high:.6g}")
            for index in np.flatnonzero(mask):
                value, error = _derivative(problem, leaf, int(index), real=True)
                wrong = not abs(float(analytic.flat[index]) - value) <= error + float(allowance.flat[index])
                found.wrong.flat[index] = wrong
                found.value.flat[index] = value
            found.wrong |= mask & (not found.wrong.any())
            found.kinks[...] = False
            return


def sample(shape: tuple[int, ...], args: list, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return flat indices to look at in an array that is too large to look at all of it.

    One at random from each of `count` equal parts; some from the first and the last row; and some from the rows that
    ids among the arguments name, the repeated ones first.
    """
    size = math.prod(shape)
    edges = np.linspace(0, size, count + 1).astype(np.int64)
    chosen = list(rng.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)))
    row = size // shape[0] if shape else 1
    few = max(1, count // 8)
    for first in (0, size - row):
        chosen += list(first + rng.integers(0, row, few))
    for ids in ids_among(args) if shape else ():
        rows, counts = np.unique(ids, return_counts=True)
        inside = (rows >= 0) & (rows < shape[0])
        rows = rows[inside][np.argsort(-counts[inside], kind="stable")][:few]
        chosen += list(rows * row + rng.integers(0, row, len(rows)))
    return np.unique(np.clip(np.array(chosen, dtype=np.int64), 0, size - 1))
