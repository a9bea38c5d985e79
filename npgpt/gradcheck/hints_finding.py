"""What a check has found of one wrong gradient: all that a hint may rest on."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .numeric import EPS, largest

Arrays = Sequence[tuple[str, np.ndarray]]

SHARP = 1e-4  # bars wider than this share of what is wrong let too many patterns explain it
MOST_SHARP = 0.7  # the share of wrong elements whose bars must be small
SAMPLE = 16  # so many different numbers in their places prove what holds for all of an array
BARS = 8  # how many of its bars a number may be off where a pattern with a fitted factor explains it


@dataclass(frozen=True, eq=False)
class Paths:
    """Two gradients taken apart by the outputs through which they come.

    analytic, numeric  (outputs, elements) the part of each element that comes through each output, dout included
    bars               (outputs, elements) how far the two may be apart by rounding
    outputs            the name and shape of each array among the outputs, in order
    shape              that of the argument
    """

    analytic: np.ndarray
    numeric: np.ndarray
    bars: np.ndarray
    outputs: Sequence[tuple[str, tuple[int, ...]]]
    shape: tuple[int, ...]

    @cached_property
    def wrong(self) -> np.ndarray:
        return np.abs(self.analytic - self.numeric) > self.bars

    @cached_property
    def sharp(self) -> bool:
        """Return whether most bars are so small beside what is wrong that a pattern in it can be told."""
        narrow = self.bars[self.wrong] <= SHARP * np.abs(self.analytic - self.numeric)[self.wrong]
        return bool(self.wrong.any() and narrow.mean() > MOST_SHARP)

    @cached_property
    def claimed(self) -> np.ndarray:
        """Return through which outputs backward lets each element count."""
        return np.abs(self.analytic) > self.bars

    @cached_property
    def real(self) -> np.ndarray:
        """Return through which outputs each element does count."""
        return np.abs(self.numeric) > self.bars

    def axes(self) -> Iterator[tuple[str, int, np.ndarray]]:
        """Yield each axis of each output: its name, its size, and the index along it of each output, else -1."""
        for (name, shape), (_, rows) in zip(self.outputs, self.arrays(), strict=True):
            for axis, along in enumerate(np.indices(shape).reshape(len(shape), -1) if shape else ()):
                index = np.full(len(self.analytic), -1)
                index[rows] = along
                yield f"axis {axis} of {name}", shape[axis], index

    def arrays(self) -> Iterator[tuple[str, slice]]:
        """Yield each output array's name and its rows."""
        start = 0
        for name, shape in self.outputs:
            yield name, slice(start, start + math.prod(shape))
            start += math.prod(shape)

    def place(self, row: int) -> str:
        """Return the name of one output, such as out[1, 2]."""
        for name, shape in self.outputs:
            if row < math.prod(shape):
                return at(name, np.unravel_index(row, shape))
            row -= math.prod(shape)
        raise IndexError(row)


def at(name: str, index: tuple) -> str:
    return f"{name}[{', '.join(str(int(i)) for i in index)}]" if index else name


@dataclass(frozen=True, eq=False)
class Finding:
    """One wrong gradient, and what there is to explain it.

    analytic, numeric  (...) the whole gradient; NaN in numeric where it was not looked at, or at a kink
    bars               (...) how far rounding and the numerical derivative may put the two apart
    wrong              (...) where they differ by more
    arguments          the arguments of forward that hold floats
    integers           those that hold integers or booleans: ids, masks
    out, dout          the outputs, and the cotangent
    others             the numerical gradients of the other arguments, where they were looked at as a whole
    sampled            those of which a part was looked at, NaN in the rest
    right              the names of the arguments whose gradients pass
    single             whether the code computes in float32
    paths              returns the gradient taken apart by outputs, None if that cannot be done
    """

    name: str
    analytic: np.ndarray
    numeric: np.ndarray
    bars: np.ndarray
    wrong: np.ndarray
    arguments: Arrays = ()
    integers: Arrays = ()
    out: Arrays = ()
    dout: Arrays = ()
    others: Arrays = ()
    sampled: Arrays = ()
    right: Sequence[str] = ()
    single: bool = False
    paths: Callable[[], Paths | None] = lambda: None

    @cached_property
    def known(self) -> np.ndarray:
        return np.isfinite(self.numeric) & np.isfinite(self.analytic)

    @cached_property
    def parts(self) -> Paths | None:
        found = self.paths()
        return found if found and found.sharp else None

    @property
    def whole(self) -> bool:
        return bool(self.known.all())

    @cached_property
    def difference(self) -> np.ndarray:
        return np.where(self.known, self.analytic - self.numeric, 0.0)

    @cached_property
    def x(self) -> np.ndarray:
        """Return the argument itself."""
        return dict(self.arguments).get(self.name, np.full(self.analytic.shape, np.nan))

    @cached_property
    def sharp(self) -> bool:
        """Return whether most bars are so small beside what is wrong that a pattern in it can be told."""
        wrong = self.wrong & self.known
        narrow = self.bars[wrong] <= SHARP * np.abs(self.difference[wrong])
        return bool(wrong.any() and narrow.mean() > MOST_SHARP)

    @cached_property
    def limit(self) -> np.ndarray:
        """Return how far a number may be from the pattern that explains it."""
        return BARS * self.bars + 64 * EPS * np.abs(np.where(self.known, self.analytic, 0.0))

    def explained(self, model: np.ndarray, limit: np.ndarray | float = 0.0) -> bool:
        """Return whether a model gives the wrong gradient to within its bars, and those of the model's own numbers."""
        with np.errstate(all="ignore"):
            near = np.abs(np.where(self.known, self.analytic - model, 0.0)) <= self.limit + limit
        return self.sharp and bool(near.all())

    def explained_difference(self, model: np.ndarray) -> bool:
        """Return whether a model gives the difference of the two gradients to within their bars."""
        with np.errstate(all="ignore"):
            near = np.abs(np.where(self.known, self.difference - model, 0.0)) <= self.limit
        return self.sharp and bool(near.all())

    def fits_sample(self, gradient: np.ndarray, numeric: np.ndarray) -> bool:
        """Return whether a gradient has the numbers that were looked at, if enough of them differ to prove it."""
        at = np.isfinite(numeric)
        numbers = numeric[at & (numeric != 0)]
        limit = 2 * float(np.max(self.limit[self.known], initial=0.0))
        return (
            self.sharp
            and len(np.unique(numbers)) >= SAMPLE
            and float(np.median(np.abs(numbers))) > limit / SHARP
            and bool((np.abs(gradient - numeric)[at] <= limit).all())
        )

    @cached_property
    def candidates(self) -> Arrays:
        """Return the arguments and outputs that fit the gradient element by element."""
        found = []
        for name, value in (*self.arguments, *self.out):
            fitted = fit(value, self.analytic.shape)
            if fitted is not None and value.size > 1 and largest(value) > 0:
                found.append((name, fitted))
        return found


def fit(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return an array spread over a shape as NumPy broadcasts it, None if that does not go."""
    try:
        return np.broadcast_to(value, shape)
    except ValueError:
        return None
