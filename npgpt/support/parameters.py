"""Parameters: named views into one flat buffer, so that optimizer, reduction and checkpoint see one array."""

import math
from collections.abc import Mapping, MutableMapping

import numpy as np

Shapes = dict[str, tuple[int, ...]]


class Parameters(dict[str, np.ndarray]):
    """{name: array}, every array a view into the one-dimensional buffer `flat`.

    The matrices come first in the buffer, `flat[:n_decayed]`, because weight decay is for them alone;
    `places` says which slice of it each array is.
    Assigning to a name copies into its view, so the views and the buffer can never come apart.
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
        self.shapes = shapes
        self.n_decayed = sum(math.prod(shapes[name]) for name in matrices)

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        self[name][...] = value

    update = MutableMapping.update

    def __ior__(self, other: Mapping[str, np.ndarray]) -> "Parameters":  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple:
        # copy.deepcopy and pickle would take the views apart from the buffer
        return Parameters, (self.shapes, self.flat)

    def empty_like(self) -> "Parameters":
        """Return parameters of the same names and shapes over a new buffer that is not filled."""
        return Parameters(self.shapes, np.empty_like(self.flat))


def zeros(shapes: Shapes, dtype: str | np.dtype) -> Parameters:
    """Return parameters of these names and shapes, all zero. Raises MemoryError for more than can be addressed."""
    size = sum(map(math.prod, shapes.values()))
    if size > np.iinfo(np.intp).max // 16:  # NumPy's own words for it do not speak of memory
        raise MemoryError(f"{size:,} parameters")
    return Parameters(shapes, np.zeros(size, dtype))
