"""Parameters: named views into one flat buffer, so that optimizer, reduction and checkpoint work on one array."""

import math
import re
from collections.abc import Collection, Mapping, MutableMapping
from fnmatch import fnmatchcase
from itertools import accumulate

import numpy as np

from npgpt.support.hints import nearest

Shapes = dict[str, tuple[int, ...]]


class Parameters(dict[str, np.ndarray]):
    """{name: array}, every array a view into the one-dimensional buffer `flat`.

    The matrices come first in the buffer, in `flat[:n_decayed]`, because only they have weight decay. `places` holds
    each array's slice of the buffer. Assigning to a name copies into its view, so views and buffer always agree.

    starts  where in the buffer each array begins, if the buffer is laid out otherwise, as that of a mapped file is. It
            may hold other things, too. Such parameters cannot be trained

    Raises ValueError for a buffer without room for the arrays, and for arrays that overlap.
    """

    def __init__(self, shapes: Shapes, flat: np.ndarray, starts: Mapping[str, int] | None = None) -> None:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        self.size = sum(sizes.values())
        self.n_matrices = sum(sizes[name] for name in shapes if len(shapes[name]) >= 2)  # elements of all matrices
        self.packed = starts is None
        if starts is None and flat.shape != (self.size,):
            raise ValueError(f"the shapes need a buffer of {self.size} elements, got {flat.shape}")
        starts = packed_starts(shapes, sizes) if starts is None else starts
        self.places = {name: slice(starts[name], starts[name] + size) for name, size in sizes.items()}
        end = 0
        for name, place in sorted(self.places.items(), key=lambda item: (item[1].start, item[1].stop)):
            if not end <= place.start <= place.stop <= len(flat):
                raise ValueError(f"{name} is at {place.start}..{place.stop} of {len(flat)}, where it has no room")
            end = place.stop
        super().__init__((name, flat[place].reshape(shapes[name])) for name, place in self.places.items())
        self.flat = flat
        self._starts: dict[tuple[str, ...], np.ndarray] = {}
        self.shapes = shapes

    @property
    def n_decayed(self) -> int:
        """How much of the buffer, from its begin on, is matrices. Raises ValueError if they do not come first."""
        self.require_packed()
        return self.n_matrices

    def require_packed(self) -> None:
        """Raise ValueError if the buffer is that of a mapped file."""
        if not self.packed:
            raise ValueError("weights that are mapped from a file cannot be trained: open the model without mapped")

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        self[name][...] = value

    update = MutableMapping.update

    def __ior__(self, other: Mapping[str, np.ndarray]) -> "Parameters":  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple:
        # otherwise copy.deepcopy and pickle would separate the views from the buffer
        starts = None if self.packed else {name: place.start for name, place in self.places.items()}
        return Parameters, (self.shapes, self.flat, starts)

    def starts(self, names: tuple[str, ...]) -> np.ndarray:
        """Return where in the buffer each of these begins, -1 for a name that is not there. Not to be changed."""
        if names not in self._starts:
            self._starts[names] = np.array([self.places[n].start if n in self.places else -1 for n in names], np.int64)
        return self._starts[names]

    def empty_like(self) -> "Parameters":
        """Return parameters of the same names and shapes in a new, uninitialised buffer."""
        return Parameters(self.shapes, np.empty(self.size, self.flat.dtype))


def packed_starts(shapes: Shapes, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return where each array begins in a buffer of matrices, one after another, and then vectors."""
    names = sorted(shapes, key=lambda name: len(shapes[name]) < 2)  # a stable order
    return dict(zip(names, accumulate((sizes[name] for name in names), initial=0), strict=False))


def zeros(shapes: Shapes, dtype: str | np.dtype) -> Parameters:
    """Return parameters of these names and shapes, all zero. Raises MemoryError for more than a machine can address."""
    size = sum(map(math.prod, shapes.values()))
    if size > np.iinfo(np.intp).max // 16:  # NumPy's own error does not mention memory
        raise MemoryError(f"{size:,} parameters")
    return Parameters(shapes, np.zeros(size, dtype))


def select(names: Collection[str], patterns: str) -> set[str]:
    """Return the names that match one of the patterns, which are separated by commas.

    `*`, `?` and `[...]` match as in file names. Raises ValueError for a pattern that matches none of the names.

    Example: select(["wte.weight", "ln_f.weight", "ln_f.bias"], "ln_f.*") is {"ln_f.weight", "ln_f.bias"}.
    """
    found: set[str] = set()
    for pattern in patterns.split(","):
        fitting = {name for name in names if fnmatchcase(name, pattern.strip())}
        if not fitting:
            known = dict.fromkeys(re.sub(r"\bh\.\d+\.", "h.*.", name) for name in names)
            raise ValueError(f"no parameter matches {pattern.strip()!r}{nearest(pattern.strip(), known)}")
        found |= fitting
    return found
