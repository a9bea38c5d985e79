"""How check_jvp moves an argument: element by element, or along directions through all of them and a few alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .elements import sample
from .forms import as_given, joined
from .leaf import Leaf
from .report import ArgumentReport

FEW = 64  # an array of at most so many elements is moved along each of them
DIRECTIONS = 4  # a larger one is moved along so many random directions,
SAMPLED = 12  # and along some single elements, one from each of so many equal parts and some of its edges


@dataclass(frozen=True, eq=False)
class Elements:
    """Every element of a leaf is moved by itself: the leaf is its own coordinates."""

    leaf: Leaf

    @property
    def start(self) -> Any:
        return self.leaf.given

    def point(self, t: Any) -> Any:
        """Return the leaf at the coordinates t."""
        return t

    def directions(self, dtype: np.dtype) -> Iterator[np.ndarray]:
        """Yield the direction in which each coordinate moves the leaf."""
        for i in range(self.leaf.x.size):
            yield _unit(self.leaf, i, dtype)

    def gradient(self, slopes: list[float]) -> Any:
        """Return the derivatives by the coordinates, in the form of start."""
        pairs = np.reshape(np.array(slopes, np.float64), self.leaf.x.shape)
        return joined(pairs)[()] if self.leaf.is_complex else pairs

    def renamed(self, rows: Iterator[ArgumentReport]) -> list[ArgumentReport]:
        """Return what the report says of the leaf, from the rows of its coordinates."""
        return [next(rows)]


@dataclass(frozen=True, eq=False)
class Directions:
    """A leaf is moved along a few directions, and some of its elements alone: its coordinates are a pair of arrays.

    The first is the place along the directions, and its numbers are so large that their last digits move the leaf by
    its own, and so far apart that a step of 1 is one over which a function may look different. The second are the
    elements themselves, and for all zeros together a number with which they are moved.

    along   (directions, *shape of the leaf) of floats
    origin  (directions) the place of the leaf
    single  the flat indices of elements that are moved alone
    zeros   (*shape of the leaf) the direction of its zeros, not empty if it has others, too
    """

    leaf: Leaf
    along: np.ndarray
    origin: np.ndarray
    single: np.ndarray
    zeros: np.ndarray | None

    @classmethod
    def through(cls, leaf: Leaf, args: Iterable[Any], rng: np.random.Generator, dtype: np.dtype) -> "Directions":
        """Draw directions that move no element by more than its own size; many a function has an edge at 0."""
        x = leaf.x
        size = np.minimum(np.abs(x), leaf.scale)
        zero = size == 0
        size = np.full(x.shape, leaf.scale) if zero.all() else size
        along = np.array([size * rng.standard_normal(x.shape) for _ in range(DIRECTIONS)])
        zeros = np.where(zero, rng.standard_normal(x.shape), 0.0) if zero.any() and not zero.all() else None
        with np.errstate(all="ignore"):
            largest = float(np.max(np.abs(x)[~zero] / size[~zero], initial=2.0))
        origin = largest + np.linspace(-1.5, 1.5, DIRECTIONS)
        single = sample(x.shape, args, SAMPLED, rng)

        def rounded(part: np.ndarray) -> np.ndarray:
            """Round to dtype, so that the derivative in float64 is taken at the same place, along the same line."""
            return np.asarray(np.asarray(part, dtype), np.float64)

        return cls(leaf, rounded(along), rounded(origin), single, None if zeros is None else rounded(zeros))

    @property
    def start(self) -> Any:
        alone = self.leaf.x.flat[self.single]
        return self.origin, alone if self.zeros is None else np.append(alone, 0.0)

    def point(self, t: tuple[np.ndarray, np.ndarray]) -> Any:
        """Return the leaf at the coordinates t, in the form in which it was given, and in the precision of t."""
        place, alone = t
        kind = np.result_type(place, alone)
        x = np.array(self.leaf.x, dtype=np.result_type(kind, np.float64), order="K")
        x.flat[self.single] = alone[: len(self.single)]
        if self.zeros is not None:
            x += alone[-1] * self.zeros
        x += np.tensordot(place - self.origin, self.along, 1)
        return as_given(np.asarray(x, kind), self.leaf.given)

    def directions(self, dtype: np.dtype) -> Iterator[np.ndarray]:
        """Yield the direction in which each coordinate moves the leaf."""
        yield from self.along.astype(dtype)
        for index in self.single:
            yield _unit(self.leaf, int(index), dtype)
        if self.zeros is not None:
            yield self.zeros.astype(dtype)

    def gradient(self, slopes: list[float]) -> Any:
        """Return the derivatives by the coordinates, in the form of start."""
        return np.array(slopes[:DIRECTIONS]), np.array(slopes[DIRECTIONS:])

    def renamed(self, rows: Iterator[ArgumentReport]) -> list[ArgumentReport]:
        """Return what the report says of the leaf, from the rows of its coordinates.

        There are no hints, which read patterns: neighbouring coordinates have nothing to do with each other.
        """
        name, size, count = self.leaf.name, np.size(self.leaf.given), len(self.single)
        through, alone = next(rows), next(rows)
        hint = ""
        if alone.verdict == "fail" and alone.index:
            at = alone.index[0]
            place = self.leaf.at(int(self.single[at])) if at < count else "all zeros together"
            hint = f"the worst, number {at}, is {place}"
        return [
            replace(
                through, name=f"{name}, {DIRECTIONS} directions", hint="", escape=f"moved with all {size} elements"
            ),
            replace(alone, name=f"{name}, {count} elements", hint=hint, escape=f"moved alone, {count} of {size}"),
        ]


Path = Elements | Directions


def path_of(leaf: Leaf, args: Iterable[Any], mode: str, rng: np.random.Generator, dtype: np.dtype) -> Path:
    """Return how a leaf is moved; mode is that of check_backward."""
    if mode == "elements" or (mode == "auto" and leaf.x.size <= FEW) or not leaf.x.size:
        return Elements(leaf)
    return Directions.through(leaf, args, rng, dtype)


def _unit(leaf: Leaf, index: int, dtype: np.dtype) -> np.ndarray:
    direction = np.zeros(leaf.x.shape, dtype)
    direction.flat[index] = 1
    return direction
