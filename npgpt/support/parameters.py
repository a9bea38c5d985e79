"""Parameters: named views into one flat buffer, so that optimizer, reduction and checkpoint work on one array."""

import math
import re
from collections.abc import Collection, Mapping, MutableMapping
from fnmatch import fnmatchcase

import numpy as np

from npgpt.support.hints import nearest

Shapes = dict[str, tuple[int, ...]]


class Parameters(dict[str, np.ndarray]):
    """{name: array}, every array a view into the one-dimensional buffer `flat`.

    The matrices come first in the buffer, in `flat[:n_decayed]`, because only they have weight decay. `places` holds
    each array's slice of the buffer. Assigning to a name copies into its view, so views and buffer always agree.
    """

    def __init__(self, shapes: Shapes, flat: np.ndarray) -> None:
        size = sum(map(math.prod, shapes.values()))
        if flat.shape != (size,):
            raise ValueError(f"the shapes need a buffer of {size} elements, got {flat.shape}")
        matrices = [name for name in shapes if len(shapes[name]) >= 2]
        vectors = [name for name in shapes if len(shapes[name]) < 2]
        views, start = {}, 0
        self.places: dict[str, slice] = {}
        for name in matrices + vectors:
            stop = start + math.prod(shapes[name])
            self.places[name] = slice(start, stop)
            views[name] = flat[start:stop].reshape(shapes[name])
            start = stop
        super().__init__((name, views[name]) for name in shapes)
        self.flat = flat
        self._starts: dict[tuple[str, ...], np.ndarray] = {}
        self.shapes = shapes
        self.n_decayed = sum(math.prod(shapes[name]) for name in matrices)

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        self[name][...] = value

    update = MutableMapping.update

    def __ior__(self, other: Mapping[str, np.ndarray]) -> "Parameters":  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple:
        # otherwise copy.deepcopy and pickle would separate the views from the buffer
        return Parameters, (self.shapes, self.flat)

    def starts(self, names: tuple[str, ...]) -> np.ndarray:
        """Return where in the buffer each of these begins, -1 for a name that is not there. Not to be changed."""
        if names not in self._starts:
            self._starts[names] = np.array([self.places[n].start if n in self.places else -1 for n in names], np.int64)
        return self._starts[names]

    def empty_like(self) -> "Parameters":
        """Return parameters of the same names and shapes in a new, uninitialised buffer."""
        return Parameters(self.shapes, np.empty_like(self.flat))


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
