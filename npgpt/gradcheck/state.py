"""What forward holds on to between calls: the generators that it draws from, running statistics, counters."""

import functools
import inspect
import io
import itertools
import logging
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

DEPTH = 5  # of containers, objects and functions inside one another
MOST = 10_000  # things looked at
GENERATORS = (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
# what holds numbers of its own that are not the user's: a logger counts its levels, a file its lines
FOREIGN = (
    type,
    ModuleType,
    FunctionType,
    logging.Logger,
    logging.Handler,
    io.IOBase,
    threading.Thread,
    threading.local,
)
PLAIN = (np.ndarray, np.generic, float, int, complex, str, bytes)


@dataclass(frozen=True)
class Change:
    """One thing that a call of forward has changed: its name, how, and whether it is a generator of random numbers."""

    name: str
    how: str
    random: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.how})" if self.how else self.name


def held_by(value: Any, name: str) -> dict[str, Any]:
    """Return, by name, each array, number, text and generator that can be reached from a value.

    A function holds the variables of its closure and those of its module that it names, a method its object.
    """
    return dict(itertools.islice(_reachable(value, name, set(), DEPTH), MOST))


def global_generators() -> dict[str, Any]:
    """Return the state of the generators that belong to nobody."""
    numpy_state, python_state = np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002 (it is watched)
    return {
        "NumPy's global generator (np.random)": _Taken(_frozen(numpy_state)),
        "Python's global generator (random)": _Taken(python_state),
    }


def snapshot(held: dict[str, Any]) -> dict[str, Any]:
    """Return the things with copies of the arrays, and the states of the generators."""
    return {name: _taken(value) for name, value in held.items()}


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Return what differs between two snapshots."""
    found = []
    for name, value in after.items():
        if name not in before:
            found.append(Change(name, "new"))
        elif not _equal(before[name], value):
            found.append(Change(name, _difference(before[name], value), isinstance(value, _Taken)))
    return found


def generators(held: dict[str, Any]) -> dict[str, Any]:
    """Return those of the things that are generators."""
    return {name: value for name, value in held.items() if isinstance(value, GENERATORS)}


def arrays(tree: Any) -> list[np.ndarray]:
    """Return copies of all arrays and numbers in a tree, those in the attributes of objects included."""
    return [np.array(array) for array in _arrays_in(tree, set())]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(equal(a, b) for a, b in pairs)


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc" and b.dtype.kind in "fc"))


def some(found: Iterable[Change], most: int = 3) -> str:
    """Return a list of changes in words, the first of them."""
    words = [str(change) for change in found]
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class _Taken:
    """The state of a generator."""

    state: Any


def _reachable(value: Any, name: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (*GENERATORS, *PLAIN)):
        yield name, value
    elif depth and id(value) not in seen and (inspect.isfunction(value) or not isinstance(value, FOREIGN)):
        seen.add(id(value))
        for part_name, part in _parts(value, name):
            yield from _reachable(part, part_name, seen, depth - 1)


def _parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield what a container, a function or an object holds."""
    if isinstance(value, dict):
        for key, part in list(value.items()):
            yield f"{name}[{key!r}]", part
    elif hasattr(value, "_fields"):
        yield from ((f"{name}.{field}", getattr(value, field)) for field in value._fields)
    elif isinstance(value, list | tuple | deque):
        for i, part in enumerate(list(value)):
            yield f"{name}[{i}]", part
    elif inspect.isfunction(value):
        yield from _variables(value)
    elif isinstance(getattr(value, "__self__", None), GENERATORS):
        yield name, value.__self__  # as that of rng.random
    elif inspect.ismethod(value):
        yield "self", value.__self__
        yield from _variables(value.__func__)
    elif callable(getattr(value, "__wrapped__", None)):
        yield name, value.__wrapped__  # a compiled or cached function: what it is made of is not the user's
    elif isinstance(value, functools.partial):
        yield name, value.func
        yield from _parts(value.args, name)
        yield from _parts(value.keywords, name)
    else:
        for key, part in _attributes(value).items():
            yield f"{name}.{key}", part


def _variables(function: Callable) -> Iterator[tuple[str, Any]]:
    """Yield the variables outside of a function that it names."""
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name in code.co_names:
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _taken(value: Any) -> Any:
    if isinstance(value, np.random.Generator):
        return _Taken(_frozen(value.bit_generator.state))
    if isinstance(value, np.random.BitGenerator):
        return _Taken(_frozen(value.state))
    if isinstance(value, np.random.RandomState):
        return _Taken(_frozen(value.get_state(legacy=False)))
    if isinstance(value, random.Random):
        return _Taken(value.getstate())
    return value.copy() if isinstance(value, np.ndarray) else value


def _frozen(state: Any) -> Any:
    """Return a generator's state as something that == compares."""
    if isinstance(state, dict):
        return tuple((key, _frozen(value)) for key, value in state.items())
    if isinstance(state, tuple):
        return tuple(map(_frozen, state))
    return state.tobytes() if isinstance(state, np.ndarray) else state


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray) and not isinstance(b, np.ndarray):
        return type(a) is type(b) and bool(a == b or (a != a and b != b))
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype == object or b.dtype == object:
        return a.shape == b.shape
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def _difference(a: Any, b: Any) -> str:
    """Return how two values differ, in words."""
    if isinstance(b, _Taken):
        return ""
    numbers = all(np.asarray(value).dtype.kind in "biufc" for value in (a, b))
    if not numbers or np.shape(a) != np.shape(b):
        return "changed"
    if np.ndim(a) == 0:
        return f"from {a:.6g} to {b:.6g}"
    with np.errstate(all="ignore"):
        return f"by up to {np.max(np.abs(np.asarray(b, complex) - a)):.2g}"


def _arrays_in(value: Any, seen: set[int]) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        if value.dtype != object:
            yield value
    elif isinstance(value, np.number | float | complex | int | bool):
        yield np.asarray(value)
    elif isinstance(value, dict | tuple | list | deque) or _attributes(value):
        if id(value) in seen or callable(value) or isinstance(value, (*FOREIGN, *GENERATORS)):
            return
        seen.add(id(value))
        for part in _members(value):
            yield from _arrays_in(part, seen)


def _members(value: Any) -> Iterable[Any]:
    """Return what a sequence, a dict or an object holds."""
    if isinstance(value, tuple | list | deque):
        return value
    return (value if isinstance(value, dict) else _attributes(value)).values()


def _attributes(value: Any) -> dict[str, Any]:
    """Return what an object holds by name, in its __dict__ and in its __slots__."""
    held = getattr(value, "__dict__", None)
    found = dict(held) if isinstance(held, dict) else {}
    for kind in type(value).__mro__:
        foreign = kind.__module__.partition(".")[0] in sys.stdlib_module_names  # a path keeps its text there when asked
        slots = () if foreign else vars(kind).get("__slots__", ())
        names = [slots] if isinstance(slots, str) else list(slots)
        found |= {name: getattr(value, name) for name in names if name != "__dict__" and hasattr(value, name)}
    return found
