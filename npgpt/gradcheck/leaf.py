"""An array that is checked: where it is, and over what its function may begin to look different."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .numeric import largest
from .tree import is_complex

SMALL = 1e-2  # the share of an array's scale below which an element is one of another kind, such as another unit
ALIKE = 1e-10  # numbers whose spread is a smaller share of them are equal: a gain's, or a bias's at the start


@dataclass(frozen=True, eq=False)
class Leaf:
    """An array or number that is checked, and where it is among the arguments.

    x         its numbers as an array of float64, complex ones as pairs of real and imaginary part
    given     the array or number itself
    optional  whether it is a constant if no gradient comes back for it
    """

    name: str
    position: int  # of its argument
    place: int  # among the leaves of its argument, those that are not floats included
    number: int  # among the leaves of all arguments
    x: np.ndarray
    given: Any
    optional: bool = False

    @property
    def is_complex(self) -> bool:
        return is_complex(self.given)

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.given)

    def at(self, index: int) -> str:
        """Return the place of an element of x, by its flat index, for messages: "(2, 3)", or "(2, 3) imag"."""
        place, part = self.place_of(np.unravel_index(index, self.x.shape))
        return f"{place} {part}".rstrip()

    def place_of(self, index: Sequence[Any]) -> tuple[tuple[int, ...], str]:
        """Return an index of x as one of what was given, and "real" or "imag" if that is complex."""
        place = tuple(int(i) for i in index)
        return (place[:-1], ("real", "imag")[place[-1]]) if self.is_complex else (place, "")

    @cached_property
    def scale(self) -> float:
        """Return a step over which a function of an element may begin to look different.

        It is the spread of the array's numbers, or their size if they are all alike. An offset they share says nothing.
        """
        size = largest(self.x)
        if not (np.isfinite(size) and size > 0):
            return 1.0
        spread = float(np.std(self.x)) if self.x.size > 1 else 0.0
        return spread if spread > ALIKE * size else size

    @cached_property
    def small(self) -> np.ndarray:
        """Return which elements are small among large ones."""
        size = np.abs(self.x)
        return (size > 0) & (size < SMALL * self.scale)

    @property
    def steps(self) -> np.ndarray:
        """Return the scale of each element: its own size if it is small among large ones."""
        return np.where(self.small, np.abs(self.x), self.scale)
