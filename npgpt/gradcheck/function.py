"""The function of one leaf: its outputs along a line, how much of them is noise, and its derivative."""

import itertools
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .analytic import watched
from .leaf import Leaf
from .numeric import (
    EPS,
    GOOD,
    TINY,
    Differences,
    Line,
    complex_parts,
    complex_step,
    extrapolate,
    fourth_differences,
    largest,
    noise_level,
    norm,
)
from .problem import Problem, describe
from .tree import copied, is_tree, leaves, map_leaves

FINE = 1e-13  # a relative error bar that is worth more steps where another derivative is to be held against it
UNDERFLOW = float(np.finfo(np.float64).tiny) / TINY  # a derivative that a complex step may not see


@dataclass(frozen=True, eq=False)
class Function:
    """`sum(dout * out)` as a function of one leaf, all other arguments held.

    writes         whether forward writes into its arguments; then each call gets copies
    complex_safe   whether forward is analytic and takes complex numbers, for this leaf and all others
    loses          whether abs, real or the like is applied to complex numbers, so that terms may be lost on the way
    noise          the standard error of each output when the leaf moves a little
    complex_noise  that of each output's derivative by a complex step, along a direction of length 1
    refused        of the moved points at which forward raised the nearest: its distance, and what was raised there
    """

    problem: Problem
    leaf: Leaf
    writes: bool
    complex_safe: bool = False
    loses: bool = False
    noise: np.ndarray = field(default_factory=lambda: np.zeros(0))
    complex_noise: np.ndarray = field(default_factory=lambda: np.zeros(0))
    refused: list[tuple[float, str]] = field(default_factory=list)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """Return dout * out, flat, with x in the place of the leaf; NaN where forward raises an exception.

        A forward may refuse a point that a coarse step leads to, and take the finer ones.
        """
        args = self._args(x)
        try:
            out, _ = self.problem.forward(*args)
            found = self.problem.weighted(out)
            if found.shape != self.problem.weights:
                raise ValueError(f"out has {found.size} elements, and {self.problem.weights[0]} at the given arguments")
            return found
        except Exception as error:  # whatever the user's code raises
            if np.iscomplexobj(x):
                return np.full(self.problem.weights, complex(np.nan, np.nan))
            self._note(x, error)
            return np.full(self.problem.weights, np.nan)

    def _args(self, x: np.ndarray) -> list[Any]:
        """Return forward's arguments with x in the place of the leaf; copies if forward writes into them."""
        args, position = self.problem.args, self.leaf.position
        if not self.writes and not is_tree(args[position]):
            return [*args[:position], x, *args[position + 1 :]]
        numbers = itertools.count()
        memo: dict[int, Any] = {}

        def put(other: Any) -> Any:
            value = x if next(numbers) == self.leaf.number else other
            return copied(value, memo) if self.writes else value

        return [map_leaves(put, arg) for arg in args]

    def _note(self, x: np.ndarray, error: Exception) -> None:
        """Keep what was raised at the point that is nearest to the given arguments."""
        move = np.abs(x - self.leaf.x)
        distance = largest(move)
        if self.refused and self.refused[0][0] <= distance:
            return
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(move)), x.shape))
        place, part = self.leaf.place_of(at)
        element = f"{self.leaf.name}{list(place) if place else ''} {part}".rstrip()
        moved = f"{element} = {self.leaf.x[at]:.9g} is moved by {move[at]:.1e}"
        self.refused[:] = [(distance, f"forward raises {describe(error)} where {moved}")]

    def line(self, direction: np.ndarray) -> Line:
        """Return t -> dout * out at x + t * direction; t may be complex."""
        return lambda t: self.outputs(self.leaf.x + t * direction)

    def element_line(self, index: int) -> Line:
        """Return the same along one element. The array is moved in place, which costs less."""
        moved: dict[type, np.ndarray] = {}

        def line(t: Any) -> np.ndarray:
            kind = complex if isinstance(t, complex) else float
            if kind not in moved:
                moved[kind] = np.array(self.leaf.x, dtype=kind, order="C")
            flat = moved[kind].reshape(-1)
            centre = flat[index]
            flat[index] = centre + t
            try:
                return self.outputs(moved[kind])
            finally:
                flat[index] = centre

        return line

    def derivative(self, line: Line, scale: float, length: float = 1.0, real: bool = False) -> tuple[float, float]:
        """Return the derivative along a line and its error bar, by complex step where that is safe.

        scale   the step at which the function may begin to look different along the line
        length  that of the line's direction
        real    whether to use real differences even where a complex step is safe
        """
        return self.measure(line, scale, length, real)[:2]

    def measure(
        self,
        line: Line,
        scale: float,
        length: float = 1.0,
        real: bool = False,
        position: float = 0.0,
        good: float = GOOD,
    ) -> tuple[float, float, np.ndarray]:
        """Return the derivative along a line, its error bar, and which outputs move.

        position  the size of the element that moves, if it is one
        good      a relative error bar that is good enough
        """
        found = None if real or not self.complex_safe else self._complex_derivative(line, scale, length)
        if found and np.isfinite(found[0]) and not self.loses:
            return found
        differences = Differences(line, self.noise, position)
        value, error = extrapolate(differences, scale, good=FINE if found else good)
        if found and abs(value - found[0]) <= 2 * (error + found[1]):  # nothing is lost that differences can see
            return found[0], max(error, found[1]), found[2]
        return value, error, differences.moved

    def _complex_derivative(self, line: Line, scale: float, length: float) -> tuple[float, float, np.ndarray]:
        with np.errstate(all="ignore"):
            parts = complex_parts(line)
            value, moved = float(np.sum(parts)), parts != 0
            rounding = 16 * EPS * float(np.sum(np.abs(parts))) + UNDERFLOW
            error = rounding + 8 * norm(self.complex_noise[moved]) * length
            if error > 1e-6 * abs(value):
                # the derivative is small beside its parts: see what rounding does to it a few last places away
                nudges = [complex_step(shifted(line, k * EPS * scale)) for k in (-24, 8, 24)]
                error = min(error, rounding + 4 * max(abs(nudge - value) for nudge in nudges))
            return value, error, moved


def functions_of(problem: Problem, writes: bool, rng: np.random.Generator) -> list[Function]:
    """Return the function of each leaf, its noise measured, with complex steps if all leaves are safe for them."""
    found = []
    safe = problem.real
    for leaf in problem.leaves:
        function = Function(problem, leaf, writes)
        if leaf.x.size:
            function = _measured(function, safe, rng)
            safe = function.complex_safe
        found.append(function)
    return [replace(function, complex_safe=safe) for function in found]


def _measured(function: Function, try_complex: bool, rng: np.random.Generator) -> Function:
    """Find a function's noise and, if asked, whether it is safe for complex steps."""
    x, scale = function.leaf.x, function.leaf.scale
    # no element by more than its own size, and one that is 0 not at all: many a function has an edge there
    size = np.minimum(scale, np.abs(x)) if np.any(x) else np.full(x.shape, scale)
    direction = size * rng.standard_normal(x.shape)
    line = function.line(direction)
    last = 64 * EPS * float(np.max(np.abs(x) / np.where(size > 0, size, 1.0)))
    with np.errstate(all="ignore"):
        noise = noise_level(line, last)
    noise = np.where(np.isfinite(noise), noise, EPS * function.problem.magnitude)
    noise = np.where(function.problem.still, EPS * function.problem.sizes, noise)
    if not (try_complex and _is_analytic(function.problem, line, noise)):
        return replace(function, noise=noise)
    with np.errstate(all="ignore"):
        steps = [complex_parts(shifted(line, k * last)) for k in range(-4, 5)]
        complex_noise = fourth_differences(steps) / norm(direction)
    moved, seen = watched(x + 1j * TINY * direction)
    function.outputs(moved)
    return replace(
        function,
        complex_safe=True,
        loses=bool(seen),
        noise=noise,
        complex_noise=np.where(np.isfinite(complex_noise), complex_noise, 0.0),
    )


def _is_analytic(problem: Problem, line: Line, noise: np.ndarray) -> bool:
    """Try complex arithmetic along a line, and compare it with real differences."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            moved = line(1j * TINY)
            still = line(0.0)
    except Exception:  # whatever a forward that was not meant for complex numbers raises
        return False
    if moved.dtype.kind != "c" or not np.allclose(moved.real, still, rtol=1e-12, atol=1e-14, equal_nan=True):
        return False
    parts = moved.imag / TINY
    value = float(np.sum(parts))
    if not np.isfinite(value):
        return False
    real, error = extrapolate(Differences(line, noise), 1.0, good=1e-12)
    # abs, real or a comparison may have lost a term, however small: what differences can see must be there.
    # A wide error bar proves nothing: then differences, which are no worse, are used throughout
    rounding = 16 * EPS * float(np.sum(np.abs(parts))) + UNDERFLOW
    weight = sum(float(np.sum(np.abs(part))) for _, part in leaves(problem.dout))
    floor = 1e3 * EPS * (problem.magnitude + weight)  # of a function that is flat but for rounding
    close = abs(value - real) <= 2 * error + rounding
    return bool(close and error <= 1e-4 * max(abs(value), abs(real)) + floor)


def shifted(line: Line, offset: float) -> Line:
    return lambda t: line(t + offset)
