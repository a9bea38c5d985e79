"""One forward with its arguments: what is differentiated, and its outputs along a line through any of them."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from npgpt.gradcheck.numeric import EPS, Line, complex_step, fourth_differences, noise_level, richardson
from npgpt.gradcheck.tree import convert, copied, is_floats, leaf_at, leaves, map_leaves


@dataclass
class Leaf:
    """An array of floats that is checked: where it is among the arguments, and how to move it."""

    name: str
    position: int  # of its argument
    number: int  # among the leaves of all arguments
    x: np.ndarray  # float64
    noise: float = 0.0  # the standard error of sum(dout * out) when it moves a little
    complex_noise: float = 0.0  # that of a complex step's derivative, along a direction of length 1

    @cached_property
    def scale(self) -> np.ndarray:
        """Return for each element a step over which a function of it may begin to look different.

        How far the array's numbers spread, or, where they are all alike, their size. A large offset says nothing of it.
        """
        spread = float(np.std(self.x)) if self.x.size > 1 else 0.0
        if not (np.isfinite(spread) and spread > 1e-300):
            size = float(np.max(np.abs(self.x), initial=0.0))
            spread = size if np.isfinite(size) and size > 0 else 1.0
        return np.full(self.x.shape, spread)


class Problem:
    """The function `sum(dout * out)` of the leaves that are checked."""

    def __init__(
        self,
        forward: Callable[..., tuple[Any, Any]],
        args: Sequence[Any],
        names: Sequence[str],
        wrt: Sequence[int | str] | None,
        rng: np.random.Generator,
    ) -> None:
        self.forward = forward
        self.args = [map_leaves(lambda leaf: convert(leaf, np.float64), arg) for arg in args]
        self.names = list(names)
        self.chosen = _chosen(self.args, wrt, self.names)
        result = forward(*self.copies())
        if not (isinstance(result, tuple) and len(result) == 2):
            kind = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise TypeError(f"forward must return a pair, (out, cache), but returned {kind}")
        self.out = result[0]
        if not any(np.asarray(leaf).dtype.kind == "f" for _, leaf in leaves(self.out)):
            raise ValueError("out holds no floats: there is nothing to differentiate")
        self.dout = self.cotangent(rng)
        self.leaves = [
            Leaf(name, position, number, leaf)
            for number, (position, name, leaf) in enumerate(self._all_leaves())
            if position in self.chosen and is_floats(leaf)
        ]
        self.writes = False  # whether forward writes into its arguments; then every call gets copies
        weighted = self._weighted(self.out)
        self.magnitude = float(np.sum(np.abs(weighted)))
        self.single = any(np.asarray(leaf).dtype == np.float32 for _, leaf in leaves(self.out))
        self.complex_safe = False

    def cotangent(self, rng: np.random.Generator) -> Any:
        """Return a random dout in the structure of out."""
        return map_leaves(lambda leaf: _cotangent(leaf, rng), self.out)

    def natural(self, leaf: Leaf) -> float:
        """Return the size that a gradient would have if the function doubled over the leaf's scale."""
        return self.magnitude / float(leaf.scale.flat[0]) if leaf.x.size else 0.0

    @property
    def precise(self) -> bool:
        """Return whether the forward's own noise is that of float64."""
        noise = max((leaf.noise for leaf in self.leaves), default=0.0)
        return not self.single and noise <= 1e-11 * (self.magnitude + self.largest_dout)

    @property
    def largest_dout(self) -> float:
        return max((float(np.max(np.abs(part), initial=0.0)) for _, part in leaves(self.dout)), default=0.0)

    @property
    def smallest_scale(self) -> float:
        """Return the least of the leaves' scales."""
        return min((float(leaf.scale.flat[0]) for leaf in self.leaves if leaf.x.size), default=1.0)

    def _all_leaves(self) -> list[tuple[int, str, Any]]:
        return [(i, name, leaf) for i, arg in enumerate(self.args) for name, leaf in leaves(arg, self.names[i])]

    def copies(self, dtype: Any = None) -> list[Any]:
        """Return fresh arguments; with dtype, the floats among them converted."""

        def copy(leaf: Any) -> Any:
            return convert(leaf, dtype) if dtype is not None and is_floats(leaf) else copied(leaf)

        return [map_leaves(copy, arg) for arg in self.args]

    def outputs(self, leaf: Leaf, x: np.ndarray) -> np.ndarray:
        """Return dout * out, flat, with x in the place of one leaf."""
        numbers = iter(range(10**9))

        def put(other: Any) -> Any:
            if next(numbers) == leaf.number:
                return x.copy() if self.writes else x
            return copied(other) if self.writes else other

        return self._weighted(self.forward(*(map_leaves(put, arg) for arg in self.args))[0])

    def _weighted(self, out: Any) -> np.ndarray:
        # a weight times an output that is not finite would be NaN even where the difference is exact
        parts = [
            np.ravel(np.asarray(weight) * np.asarray(part))
            for (_, part), weight in zip(leaves(out), leaf_at(self.out, self.dout), strict=True)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def line(self, leaf: Leaf, direction: np.ndarray) -> Line:
        """Return t -> dout * out at x + t * direction; t may be complex."""
        return lambda t: self.outputs(leaf, leaf.x + t * direction)

    def element_line(self, leaf: Leaf, index: int) -> Line:
        """Return the same along one element; its array is moved in place, which costs less."""
        moved: dict[type, np.ndarray] = {}

        def line(t: Any) -> np.ndarray:
            kind = complex if isinstance(t, complex) else float
            if kind not in moved:
                moved[kind] = np.array(leaf.x, dtype=kind, order="C")
            flat = moved[kind].reshape(-1)
            centre = flat[index]
            flat[index] = centre + t
            try:
                return self.outputs(leaf, moved[kind])
            finally:
                flat[index] = centre

        return line

    def derivative(
        self, line: Line, scale: float, leaf: Leaf, length: float = 1.0, real: bool = False
    ) -> tuple[float, float]:
        """Return the derivative along a line and its error bar, by complex step where that is safe.

        length is that of the line's direction.
        """
        if self.complex_safe and not real:
            with np.errstate(all="ignore"):
                value = complex_step(line)
                error = 16 * EPS * (abs(value) + self.magnitude / max(scale, 1.0))
                if error > 1e-6 * abs(value):
                    # beside the function it is small: see what rounding really does to it, a few last places away
                    last = EPS * max(scale, float(np.max(np.abs(leaf.x))))
                    nudges = [complex_step(_shifted(line, k * last)) for k in (-24, 8, 24)]
                    error = min(error, 16 * EPS * abs(value) + 4 * max(abs(nudge - value) for nudge in nudges))
                error += 8 * leaf.complex_noise * length
            if np.isfinite(value):
                return value, error
        return richardson(line, scale, leaf.noise)

    def prepare(self, rng: np.random.Generator) -> None:
        """Find each leaf's noise, and whether the forward is analytic and takes complex numbers."""
        safe = bool(self.leaves)
        for leaf in self.leaves:
            if leaf.x.size == 0:
                continue
            # no element by more than its own size, and one that is 0 not at all: many a function has an edge there
            size = np.minimum(leaf.scale, np.abs(leaf.x)) if np.any(leaf.x) else leaf.scale
            direction = size * rng.standard_normal(leaf.x.shape)
            line = self.line(leaf, direction)
            last = 64 * EPS * float(np.max(np.abs(leaf.x) / np.where(size > 0, size, 1.0)))
            with np.errstate(all="ignore"):
                found = noise_level(line, last)
            leaf.noise = found if np.isfinite(found) else EPS * self.magnitude
            safe = safe and self._agrees(leaf, line)
            if safe:
                with np.errstate(all="ignore"):
                    steps = [complex_step(_shifted(line, k * last)) for k in range(-4, 5)]
                found = float(fourth_differences(steps) / np.linalg.norm(direction))
                leaf.complex_noise = found if np.isfinite(found) else 0.0
        self.complex_safe = safe

    def _agrees(self, leaf: Leaf, line: Line) -> bool:
        """Try complex arithmetic along a line, and hold it against real differences."""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
                moved = line(1j * 1e-25)
                still = line(0.0)
        except Exception:  # whatever a forward that was not meant for complex numbers raises
            return False
        if moved.dtype.kind != "c" or not np.allclose(moved.real, still, rtol=1e-12, atol=1e-14, equal_nan=True):
            return False
        value = float(np.sum(moved.imag)) / 1e-25
        if not np.isfinite(value):
            return False
        real, error = richardson(line, 1.0, leaf.noise)
        # a wide error bar proves nothing: then differences are no worse and are taken
        weight = sum(float(np.sum(np.abs(part))) for _, part in leaves(self.dout))
        floor = 1e3 * EPS * (self.magnitude + weight)  # of a function that is flat but for rounding
        close = abs(value - real) <= 4 * error + 1e-9 * abs(value) + floor
        return bool(close and error <= 1e-4 * max(abs(value), abs(real)) + floor)


def _shifted(line: Line, offset: float) -> Line:
    return lambda t: line(t + offset)


def _cotangent(out: Any, rng: np.random.Generator) -> Any:
    """Return a random dout for one output, in its dtype; zero for an output that is not floats.

    Normal numbers, because under ones many gradients are zero whatever the code says: softmax's, and layer norm's.
    """
    array = np.asarray(out)
    dout = rng.standard_normal(array.shape)
    if array.dtype.kind != "f":
        return np.zeros(array.shape)[()]
    return np.asarray(dout, array.dtype)[()]


def argument_names(forward: Callable, count: int) -> list[str]:
    """Return the names of forward's arguments, `args[i]` where it does not tell."""
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # some built-in callables have no signature
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    return [names[i] if i < len(names) else f"args[{i}]" for i in range(count)]


def _chosen(args: list, wrt: Sequence[int | str] | None, names: Sequence[str]) -> list[int]:
    floats = [i for i, arg in enumerate(args) if any(is_floats(leaf) for _, leaf in leaves(arg))]
    if wrt is None:
        if not floats:
            raise ValueError("no argument is an array of floats: there is nothing to differentiate")
        return floats
    chosen = []
    for key in [wrt] if isinstance(wrt, int | str) else wrt:
        position = names.index(key) if key in names else key
        if position not in floats:
            known = ", ".join(f"{i} ({names[i]})" for i in floats)
            raise ValueError(f"wrt={key!r} is not an array of floats; those are: {known}")
        chosen.append(int(position))
    if not chosen:
        raise ValueError("wrt is empty: there is nothing to check")
    return chosen
