"""The arrays and numbers that an object holds, and where by their names the gradient of each is kept."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .objects import PARAMETERS, Path, at, text, walk

GRADIENTS = ("grads", "grad", "gradients", "gradient")
VALUES = ("data", "value", "values", "val", "array", "tensor", "param")  # what an object with a `grad` calls its array
BEFORE = ("d", "g", "grad", "grads", "gradient", "gradients", "dl_d", "dloss_d", "nabla")
AFTER = ("grad", "grads", "gradient", "gradients", "bar")
BUFFERS = ("running_", "moving_")


@dataclass(frozen=True, eq=False)
class Held:
    """An array or a number that an object holds.

    places     the paths at which it is; a number has one, a shared array may have several
    value      what is there
    gradients  the paths at which its gradient is; the gradient is their sum
    empty      paths that are meant for its gradient and hold none
    read       a function from the object to the gradient, where the user has given one
    """

    name: str
    places: tuple[Path, ...]
    value: Any
    gradients: tuple[Path, ...]
    empty: tuple[Path, ...]
    read: Callable[[Any], Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.value)

    @property
    def is_float(self) -> bool:
        return np.asarray(self.value).dtype.kind in "fc"

    @property
    def is_buffer(self) -> bool:
        return str(self.places[0][-1][1]).startswith(BUFFERS)

    @property
    def is_declared(self) -> bool:
        """Return whether it is in something that is named for parameters."""
        return any(name in PARAMETERS for path in self.places for _, name in path[:-1])

    @property
    def kind(self) -> str:
        """Return its dtype, or the type of a plain number."""
        return str(getattr(self.value, "dtype", type(self.value).__name__))

    def goes_by(self, name: str) -> bool:
        """Return whether a user may call it by this name: that of the report, any of its paths, or its last step."""
        return name == self.name or any(name in (text(path), path[-1][1]) for path in self.places)

    def gradient(self, layer: Any) -> Any:
        """Return its gradient in an object of the same kind, None if there is none."""
        if self.read is not None:
            return number(self.read(layer))
        parts = {id(part): part for path in self.gradients if (part := number(at(layer, path))) is not None}
        return sum(list(parts.values())[1:], start=next(iter(parts.values()))) if parts else None


def held_by(layer: Any) -> list[Held]:
    """Return what could be a parameter: arrays and numbers that are floats, and integers that have a gradient."""
    places: dict[Any, list[Path]] = {}
    values: dict[Any, Any] = {}
    for path, leaf in walk(layer):
        if number(leaf) is not None and not isinstance(leaf, bool) and path:
            key = id(leaf) if isinstance(leaf, np.ndarray) else path
            places.setdefault(key, []).append(path)
            values[key] = leaf
    found = []
    names = _names(places)
    for key, value in values.items():
        gradients, empty = _gradients(layer, places[key])
        one = Held(names[key], tuple(places[key]), value, gradients, empty)
        fits = bool(gradients) and np.shape(one.gradient(layer)) == one.shape
        if one.is_float or fits or (isinstance(value, np.ndarray) and one.is_declared):
            found.append(one)
    return found


def number(value: Any) -> Any:
    """Return an array or number as it is, nested lists of numbers as an array, and None for everything else."""
    if value is None or callable(value) or isinstance(value, str | dict | bool):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return None
    if array.dtype.kind not in "fciu":
        return None
    return array if isinstance(value, list | tuple) else value


def _names(places: dict[Any, list[Path]]) -> dict[Any, str]:
    """Return the shortest name of each array: `W` for an attribute and for `params["W"]`, else its path."""

    def short(path: Path) -> str:
        (_, first), (kind, last) = path[0], path[-1]
        return last if len(path) == 2 and kind == "item" and isinstance(last, str) and first == "params" else text(path)

    names = {key: min(map(short, paths), key=len) for key, paths in places.items()}
    taken = list(names.values())
    return {key: text(places[key][0]) if taken.count(name) > 1 else name for key, name in names.items()}


def _gradients(layer: Any, places: list[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the paths at which the gradient of an array is, and those that are meant for it and are empty.

    What an object keeps of the whole counts, and not what is kept of it further inside. Where two objects, neither
    inside the other, keep a gradient of one array, each has its share of it.
    """
    found = [(_common(place, path), path) for place in places for path in gradient_paths(layer, place)]
    filled = [(owner, path) for owner, path in found if number(at(layer, path)) is not None]
    outer = [
        (owner, path)
        for owner, path in filled
        if not any(other != owner and owner[: len(other)] == other for other, _ in filled)
    ]
    chosen: list[Path] = []
    for owner in dict.fromkeys(owner for owner, _ in outer):
        paths = [path for other, path in outer if other == owner]
        kept = max(paths, key=len)[len(owner)]  # `grads` before `dW`
        chosen += [path for path in paths if path[len(owner)] == kept]
    return tuple(dict.fromkeys(chosen)), () if chosen else tuple(dict.fromkeys(path for _, path in found))


def _common(one: Path, other: Path) -> Path:
    count = next((i for i, steps in enumerate(zip(one, other, strict=False)) if steps[0] != steps[1]), len(one))
    return one[:count]


def gradient_paths(layer: Any, path: Path) -> Iterator[Path]:
    """Yield the paths that by their names are for the gradient of the array at a path; some may hold nothing.

    `dW` for `W`, `grads[0]` for `params[0]`, `fc.dweights["w"]` for `fc.weights["w"]`, `W.grad` for `W.data`
    """
    last = len(path) - 1
    for i in reversed(range(len(path))):
        for twin in _beside(layer, path[: i + 1], VALUES if i == last else PARAMETERS):
            if i == last:
                yield twin
            elif _fits(at(layer, twin), at(layer, path[: i + 1])):
                yield from _inside(layer, (*twin, *path[i + 1 :]))
    *owner, (kind, name) = path
    if kind == "attribute":  # an owner that keeps its arrays as attributes, and their gradients in a dict
        for twin in _beside(layer, (*owner, ("attribute", PARAMETERS[0])), PARAMETERS):
            if isinstance(at(layer, twin), dict):
                yield from (p for p in _inside(layer, (*twin, ("item", name))) if at(layer, p) is not None)
    elif isinstance(name, str) and len(path) > 1:  # and the other way round
        yield from _beside(layer, (*path[:-2], ("attribute", name)))


def _fits(gradients: Any, parameters: Any) -> bool:
    """Return whether one container may hold the gradients of another: a list has no more of them."""
    if isinstance(gradients, list | tuple):
        return isinstance(parameters, list | tuple) and len(gradients) <= len(parameters)
    return gradients is not None


def _inside(layer: Any, path: Path) -> Iterator[Path]:
    """Yield a path into a container of gradients, or one whose last key is the gradient's name."""
    others = [other for other in _beside(layer, path) if at(layer, other) is not None]
    yield from [path] if at(layer, path) is not None or not others else others


def _beside(layer: Any, path: Path, general: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the paths with the same owner whose name is that of a gradient, `dW` for `W`.

    general  names for which `grads` will do
    """
    *owner, (kind, name) = path
    holder = at(layer, tuple(owner))
    if not isinstance(name, str) or holder is None:
        return
    if kind == "attribute":
        names = [other for other in dir(holder) if not other.startswith("__")]
    else:
        names = [key for key in holder if isinstance(key, str)] if isinstance(holder, dict) else []
    case = [other.lower() for other in names].count(name.lower()) > 1  # there is a `w` and a `W`
    for other in names:
        named = _is_gradient(other, name) and (not case or name.strip("_") in other)
        if named or (name.strip("_") in general and other.strip("_") in GRADIENTS):
            place = (*owner, (kind, other))
            if not callable(at(layer, place)):
                yield place


@lru_cache(maxsize=10_000)
def _is_gradient(other: str, name: str) -> bool:
    """Return whether one name is that of another's gradient, case and underscores aside."""
    other, name = (re.sub("^_[^_]+__|_", "", word).lower() for word in (other, name))  # `_Linear__W` is `__W`
    stems = {name, name.removesuffix("s")} - {""}
    before = {word.replace("_", "") + stem for stem in stems for word in BEFORE}
    return other != name and other in before | {stem + word for stem in stems for word in AFTER}
