"""A kernel against its definition: how far each is from the definition in twice the precision."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .check import own_generator
from .conduct import UNSEEDED
from .gradients import matched
from .moves import GRADIENT
from .numeric import largest
from .problem import argument_names, random_cotangent
from .report import ArgumentReport, Report, Unchecked, without_numbers
from .tree import convert, copy_tree, is_floats, leaf_at, leaves, map_leaves

POINTS = 9  # the arguments and eight points close by: errors are random, and at one point g may have none by luck
FAR = 8  # at one element `times` so much of g's error there, or units in the last place, may be reached by chance
FINER = {"float32": np.float64, "float64": np.longdouble}
LABELS = ("f", "truth")
Results = dict[str, np.ndarray]
Pair = Callable | tuple[Callable, Callable]


def compare(
    f: Pair,
    g: Pair,
    *args: Any,
    times: float = 2.0,
    dtype: Any = np.float32,
    rng: np.random.Generator | None = None,
) -> Report:
    """Check that a kernel f is as exact as its definition g: in values and, for pairs, in gradients.

    f, g   `out = f(*args)`, or each a pair: `out, cache = forward(*args)`, `gradients = backward(dout, cache)`. g must
           compute in the precision of its arguments
    args   arrays, or dicts, tuples and lists of them; floats are converted to dtype, all else is handed on
    times  how many times as far from the truth as g f may be
    dtype  in which f and g run, float32 or float64; the truth is g in float64, or in long double
    rng    draws dout, and points close to the arguments; by default seeded with 0

    The verdict is "fail" where the error of f is more than `times` that of g, or of rounding the truth, by norm over an
    array at nine points close to each other; and where at one element it is more than 8 `times` that of g at any of
    these points, and more than 8 `times` a unit in the last place. So a kernel may sum in another order, and may not be
    wrong in a corner that has no weight in a norm. Shapes, infinities, NaN, and outputs that are not floats must be the
    same. The notes give both errors, and how many units in the last place of an element they are at most.

    It is "inconclusive" if g is no finer for finer arguments, if two calls of f differ, or if results are zero.
    Raises ValueError if f and g return results of different structure, or if no argument holds floats.
    """
    rng = own_generator(rng)
    kind = np.dtype(dtype)
    if kind.name not in FINER:
        raise ValueError(f"dtype={kind.name} is not float64 or float32")
    if not times >= 1:
        raise ValueError(f"times={times} is less than 1")
    if not any(is_floats(leaf) for arg in args for _, leaf in leaves(arg)):
        raise ValueError("no argument is an array of floats: the truth is g at finer ones")
    unchecked = []
    if isinstance(f, tuple) != isinstance(g, tuple):
        unchecked.append(Unchecked("gradients", "none", "only one of f and g has a backward"))
        f, g = (_without_backward(one) for one in (f, g))
    given = [map_leaves(lambda leaf: convert(leaf, kind), arg) for arg in args]
    points, again = _points(f, g, given, kind, rng)
    return _report(points, again, kind, times, unchecked)


def _report(
    points: list[list[Results]], again: Results, kind: np.dtype, times: float, unchecked: list[Unchecked]
) -> Report:
    rows, notes = [], []
    for name in again:
        found = [[results[name] for results in point] for point in points]
        if name.startswith(GRADIENT) and not any(array.any() for point in found for array in point):
            unchecked.append(Unchecked(name, kind.name, "it is zero throughout"))
            continue
        row, note = _judge(name, found, kind, times)
        if not _same(again[name], points[0][0][name]):
            row = without_numbers(name, row.shape, "inconclusive", UNSEEDED)
        rows.append(row)
        notes += [note] if note else []
    return Report(tuple(rows), notes=tuple(notes), not_checked=tuple(unchecked), labels=LABELS)


def _points(
    f: Pair, g: Pair, given: list[Any], kind: np.dtype, rng: np.random.Generator
) -> tuple[list[list[Results]], Results]:
    """Return the results of f, of g and of g in more precision, at each point; and those of f at the first again."""
    names = argument_names(g[0] if isinstance(g, tuple) else g, len(given))
    dout = map_leaves(lambda leaf: convert(leaf, kind), random_cotangent(_forward(g, given)[0], rng))
    runs = (f, kind), (g, kind), (g, np.dtype(FINER[kind.name]))
    points = []
    for number in range(POINTS):
        near = [_near(arg, rng) for arg in given] if number else given
        points.append([_run(one, near, names, dout, own) for one, own in runs])
    first, truth = points[0][0], points[0][2]
    if first.keys() != truth.keys():
        raise ValueError(f"f returns {', '.join(first) or 'nothing'}, but g {', '.join(truth) or 'nothing'}")
    return points, _run(f, given, names, dout, kind)


# --- runs


def _forward(function: Pair, args: list[Any]) -> tuple[Any, Any]:
    with np.errstate(all="ignore"):
        result = (function[0] if isinstance(function, tuple) else function)(*map(copy_tree, args))
    if not isinstance(function, tuple):
        return result, None
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"a forward with a backward must return a pair, (out, cache), and not {type(result).__name__}")
    return result


def _run(function: Pair, args: list[Any], names: list[str], dout: Any, dtype: np.dtype) -> Results:
    """Return outputs and gradients by their names, computed in a precision."""
    args = [map_leaves(lambda leaf: convert(leaf, dtype), arg) for arg in args]
    out, cache = _forward(function, args)
    found = {name: np.asarray(leaf) for name, leaf in leaves(out, "out") if leaf is not None}
    if not isinstance(function, tuple):
        return found
    with np.errstate(all="ignore"):
        given = function[1](map_leaves(lambda leaf: convert(leaf, dtype), dout), cache)
    floats = [i for i, arg in enumerate(args) if any(is_floats(leaf) for _, leaf in leaves(arg))]
    for i, tree in zip(floats, matched(given, args, names, floats), strict=True):
        for (name, leaf), gradient in zip(leaves(args[i], names[i]), leaf_at(args[i], tree), strict=True):
            if is_floats(leaf) and gradient is not None:
                found[GRADIENT + name] = np.asarray(gradient)
    return found


def _without_backward(function: Pair) -> Callable:
    if not isinstance(function, tuple):
        return function
    forward = function[0]
    return lambda *args: forward(*args)[0]


def _near(tree: Any, rng: np.random.Generator) -> Any:
    """Return the same with all floats changed in their last places."""

    def move(leaf: Any) -> Any:
        if not is_floats(leaf):
            return leaf
        return np.asarray(
            leaf * (1 + 16 * float(np.finfo(leaf.dtype).eps) * rng.uniform(-1, 1, leaf.shape)), leaf.dtype
        )[()]

    return map_leaves(move, tree)


# --- verdicts


def _judge(name: str, points: list[list[np.ndarray]], dtype: np.dtype, times: float) -> tuple[ArgumentReport, str]:
    """Return the row of one result, and a note on its errors; each point holds f's value, g's and the truth."""
    own, _, truth = points[0]
    if any(array.shape != truth.shape for point in points for array in point):
        return without_numbers(name, truth.shape, "fail", f"f gives the shape {own.shape}, and g {truth.shape}"), ""
    if truth.dtype.kind != "f":
        alike = all(np.array_equal(mine, plain) for mine, plain, _ in points)
        return without_numbers(
            name, truth.shape, "pass" if alike else "fail", "" if alike else "f gives other values than g"
        ), ""
    if not np.finfo(truth.dtype).eps < np.finfo(dtype).eps:
        return without_numbers(name, truth.shape, "inconclusive", f"g gives {truth.dtype} for finer arguments, too"), ""
    errors = Errors.of([np.stack([point[i] for point in points]) for i in range(3)], dtype)
    if not (errors.size or errors.f.any()):
        return without_numbers(name, truth.shape, "inconclusive", "it is zero, infinite or NaN throughout"), ""
    at, reason = errors.judged(times)
    norms, ulps = errors.norms(), errors.ulps()
    values = float(points[at[0]][0][at[1:]]), float(points[at[0]][2][at[1:]])
    numbers = norms[0], times * max(norms[1], errors.half), at[1:], *values
    verdict = "fail" if reason else "pass"
    row = ArgumentReport(name, truth.shape, verdict, *numbers, reason, checked=truth.size, size=truth.size)
    return (
        row,
        f"{name}: f is off by {norms[0]:.1e} ({ulps[0]:.3g} ulp at most), g by {norms[1]:.1e} ({ulps[1]:.3g} ulp)",
    )


@dataclass(frozen=True, eq=False)
class Errors:
    """How far f and g are from the truth, at all points and elements; infinity where f is NaN and should not be.

    places  the unit in the last place of each element
    half    the largest error of rounding a number near 1
    size    the norm of the truth, and largest its largest element
    """

    f: np.ndarray
    g: np.ndarray
    places: np.ndarray
    half: float
    size: float
    largest: float

    @classmethod
    def of(cls, arrays: list[np.ndarray], dtype: np.dtype) -> "Errors":
        f, g, truth = arrays
        usual = np.isfinite(truth) & np.isfinite(g)  # where g overflows, f may too
        special = ~np.isfinite(truth) & ~((f == truth) | (np.isnan(f) & np.isnan(truth)))
        truth = np.where(usual, truth, 0.0)
        with np.errstate(all="ignore"):
            error, own = (np.where(usual, np.abs(array - truth), 0.0).astype(np.float64) for array in (f, g))
            places = np.spacing(np.abs(truth).astype(dtype)).astype(np.float64)
        error = np.where(np.isnan(error) | special, np.inf, error)
        half, size = float(np.finfo(dtype).eps) / 2, float(np.linalg.norm(truth.astype(np.float64)))
        return cls(error, own, places, half, size, largest(truth))

    def norms(self) -> tuple[float, float]:
        """Return both errors by norm, relative to the truth."""
        f, g = (float(np.linalg.norm(error)) / (self.size or 1.0) for error in (self.f, self.g))
        return f, g

    def ulps(self, at: Any = ...) -> tuple[float, float]:
        """Return the largest of both errors in units in the last place."""
        f, g = (float(np.max(error[at] / self.places[at])) for error in (self.f, self.g))
        return f, g

    def judged(self, times: float) -> tuple[tuple[int, ...], str]:
        """Return point and element where f is worst, and what is wrong, if anything is."""
        # beside the largest number so small a one may be zero
        floor = 1e-7 * self.half * self.largest
        excess = self.f - FAR * times * np.maximum(self.g.max(axis=0), self.places) - floor
        worst = np.unravel_index(int(np.argmax(excess if excess.max() > 0 else self.f)), self.f.shape)
        at = tuple(int(i) for i in worst)
        if excess[at] > 0:
            there = self.ulps((slice(None), *at[1:]))[1]
            return at, f"an error of {self.ulps(at)[0]:.3g} ulp, where g has at most {there:.3g}"
        f, g = self.norms()
        return at, "" if f <= times * max(g, self.half) else f"an error of {f:.1e} of its norm, where g has {g:.1e}"


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two runs gave the same but for sums in another order."""
    if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return False
    a, b = (np.where(np.isfinite(x), x, 0.0).astype(np.float64) for x in (one, other))
    return bool(np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(a))
