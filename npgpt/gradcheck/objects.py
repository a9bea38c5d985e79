"""What an object holds: its arrays and numbers, named by their paths, and a copy of it with others in their place."""

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from .state import GENERATORS

Path = tuple[tuple[str, Any], ...]  # steps: ("attribute", name) or ("item", key)
CODE = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
LEAVES = (np.ndarray, np.number, float, int, ModuleType)
# a property of such a name may hold the parameters a second time
PARAMETERS = ("params", "parameters", "weights", "trainable_weights", "trainable_params")


def walk(layer: Any) -> list[tuple[Path, Any]]:
    """Return (path, leaf) for each array, number and module that an object reaches, the nearest first.

    Attributes (with and without __slots__), dicts, lists and tuples are followed. An object that is reached in two ways
    is followed once; an array has a path for each holder.
    """
    objects: list[tuple[Path, Any]] = []
    found = list(_reached(layer, (), objects, set()))
    held = {id(leaf) for _, leaf in found if isinstance(leaf, np.ndarray)}
    for path, owner in objects:
        for name in PARAMETERS:
            if isinstance(getattr(type(owner), name, None), property):
                try:
                    value = getattr(owner, name)
                except Exception:  # whatever a property raises that is not ready
                    continue
                inside = _reached(value, (*path, ("attribute", name)), [], set())
                found += [(place, leaf) for place, leaf in inside if id(leaf) in held]
    return found


def generators_in(layer: Any) -> list[Any]:
    """Return the generators of random numbers that an object reaches."""
    objects: list[tuple[Path, Any]] = []
    deque(_reached(layer, (), objects, set()), maxlen=0)
    return [value for _, value in objects if isinstance(value, GENERATORS)]


def closed_over(layer: Any) -> dict[str, np.ndarray]:
    """Return the arrays of floats that an object's functions have from where they were defined: out of reach."""
    objects: list[tuple[Path, Any]] = []
    deque(_reached(layer, (), objects, set()), maxlen=0)
    found: dict[str, Any] = {}
    for _, value in objects:
        for function in (value, *vars(type(value)).values()):
            if isinstance(function, FunctionType):
                cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
                found |= {name: cell.cell_contents for name, cell in cells if cell != CellType()}  # not if it is empty
    return {name: held for name, held in found.items() if isinstance(held, np.ndarray) and held.dtype.kind in "fc"}


def _reached(start: Any, path: Path, objects: list[tuple[Path, Any]], seen: set[int]) -> Iterator[tuple[Path, Any]]:
    """Yield the leaves below a value, and note the objects on the way."""
    queue: deque[tuple[Path, Any, frozenset[int]]] = deque([(path, start, frozenset())])
    while queue:
        path, value, above = queue.popleft()
        if isinstance(value, LEAVES) and not (isinstance(value, np.ndarray) and value.dtype == object):
            yield path, value
            continue
        plain = isinstance(value, dict | list | tuple | deque)
        if id(value) in (above if plain else seen):  # a circle, or an object met before
            continue
        if not plain:
            seen.add(id(value))
            objects.append((path, value))
        queue.extend(((*path, step), part, above | {id(value)}) for step, part in _parts(value))


def _parts(value: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    if isinstance(value, CODE):
        return
    if isinstance(value, dict):
        yield from ((("item", key), part) for key, part in value.items())
    elif isinstance(value, list | tuple | deque):
        fields = getattr(value, "_fields", ())
        yield from ((("attribute", fields[i]) if fields else ("item", i), part) for i, part in enumerate(value))
    for name in attributes(value):
        yield ("attribute", name), getattr(value, name)


def attributes(value: Any) -> list[str]:
    """Return the names of what an object holds: in its __dict__ and its __slots__, and the arrays of its class."""
    names = list(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        names += [name for name, held in vars(kind).items() if isinstance(held, np.ndarray) and name not in names]
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            names.append(f"_{kind.__name__.lstrip('_')}{name}" if private else name)
    return [name for name in names if name not in ("__dict__", "__weakref__") and hasattr(value, name)]


def at(layer: Any, path: Path) -> Any:
    """Return what is at a path, None if nothing is."""
    for kind, name in path:
        try:
            layer = getattr(layer, name) if kind == "attribute" else layer[name]
        except Exception:  # a missing name or key, or whatever a property raises
            return None
    return layer


def text(path: Path) -> str:
    """Return a path as it is written in code.

    >>> text((("attribute", "layers"), ("item", 0), ("attribute", "W")))
    'layers[0].W'
    """
    return "".join(f".{name}" if kind == "attribute" else f"[{name!r}]" for kind, name in path).lstrip(".")


def duplicate(
    layer: Any,
    leaves: list[tuple[Path, Any]],
    values: Mapping[Path, Any] | None = None,
    dtype: Any = None,
    others: Mapping[int, Any] | None = None,
    put: Mapping[Path, Any] | None = None,
) -> Any:
    """Return a deep copy of an object with other values at some paths.

    leaves  what `walk` says of it
    dtype   that of all its floats; by default each keeps its own. An array with a new value takes the value's
    others  what takes the place of other objects, by the id of those
    put     what the copy is to hold at other paths, as it is

    Arrays that are shared stay shared, and so do those that share memory: whoever holds one sees the new value.
    Raises TypeError if the object cannot be copied.
    """
    values = values or {}
    memo = _arrays(leaves, values, dtype) | dict(others or {})
    memo |= {id(leaf): leaf for _, leaf in leaves if isinstance(leaf, ModuleType)}  # modules cannot be copied
    try:
        fresh = copy.deepcopy(layer, memo)
    except Exception as error:
        raise TypeError(f"the layer cannot be copied: {type(error).__name__}: {error}") from error
    for path, value in values.items():
        if not isinstance(at(layer, path), np.ndarray) or at(fresh, path) is at(layer, path):  # that is its class's
            _put(fresh, path, np.asarray(value)[()])
    for path, value in (put or {}).items():
        _put(fresh, path, value)
    return fresh


def _arrays(leaves: list[tuple[Path, Any]], values: Mapping[Path, Any], dtype: Any) -> dict[int, Any]:
    """Return the arrays of a copy, by the id of those they stand for."""
    new = {id(leaf): np.asarray(values[path]) for path, leaf in leaves if path in values}
    old = {id(leaf): leaf for _, leaf in leaves if isinstance(leaf, np.ndarray)}
    old = {key: array for key, array in old.items() if array.dtype.kind in "fc" or key in new}
    kinds: dict[int, Any] = {}  # by the array that owns the memory
    for key, array in old.items():
        root = _root(array)
        kind = np.result_type(dtype, np.complex64) if dtype and root.dtype.kind == "c" else dtype or root.dtype
        kind = new[key].dtype if key in new else kind
        kinds[id(root)] = np.promote_types(kinds.get(id(root), kind), kind)
    roots = {id(root): root.astype(kinds[id(root)]) for root in map(_root, old.values())}
    fresh = {key: _like(array, _root(array), roots[id(_root(array))]) for key, array in old.items()}
    for key in new.keys() & fresh.keys():
        fresh[key][...] = new[key]
    return fresh


def _put(layer: Any, path: Path, value: Any) -> None:
    kind, name = path[-1]
    holder = at(layer, path[:-1])
    if kind == "attribute":
        object.__setattr__(holder, name, value)  # also if it is frozen
    else:
        holder[name] = value


def _root(array: np.ndarray) -> np.ndarray:
    """Return the array whose memory another one looks at; the array itself if that would be hard to follow."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    plain = type(root) is type(array) is np.ndarray and root.dtype == array.dtype
    return root if plain and (root.flags.c_contiguous or root.flags.f_contiguous) else array


def _like(array: np.ndarray, root: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Return the view of fresh that array is of root."""
    if array is root:
        return fresh
    start = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    old, new = root.itemsize, fresh.itemsize
    strides = tuple(stride // old * new for stride in array.strides)
    return np.ndarray(array.shape, fresh.dtype, fresh.ravel(order="K"), start // old * new, strides)
