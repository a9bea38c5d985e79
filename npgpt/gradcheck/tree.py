"""Dicts, tuples, lists and dataclasses of arrays, seen as a flat list of leaves with names; and what a leaf is."""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, leaf) in a fixed order; a leaf is whatever is not a dict, tuple, list or dataclass.

    >>> list(leaves({"w": 1, "b": (2, 3)}, "params"))
    [("params['w']", 1), ("params['b'][0]", 2), ("params['b'][1]", 3)]
    """
    if not is_tree(tree):
        yield name, tree
        return
    fields = is_dataclass(tree) or hasattr(tree, "_fields")
    for key, value in branches(tree).items():
        yield from leaves(value, f"{name}.{key}" if fields else f"{name}[{key!r}]")


def map_leaves(f: Callable[[Any], Any], tree: Any) -> Any:
    """Return the same structure with f of every leaf, called in the order of `leaves`."""
    if not is_tree(tree):
        return f(tree)
    mapped = {key: map_leaves(f, value) for key, value in branches(tree).items()}
    if isinstance(tree, dict):
        new = copy.copy(tree)  # a defaultdict is not made from pairs
        for key, value in mapped.items():
            new[key] = value
        return new
    if isinstance(tree, tuple | list):
        return type(tree)(*mapped.values()) if hasattr(tree, "_fields") else type(tree)(mapped.values())
    return dataclasses.replace(tree, **mapped)


def is_tree(value: Any) -> bool:
    """Return whether value has leaves inside it."""
    return isinstance(value, dict | tuple | list) or is_dataclass(value)


def is_dataclass(value: Any) -> bool:
    """Return whether value can be made again from its fields: a dataclass whose __init__ sets exactly those."""
    own = vars(type(value))
    if "__dataclass_fields__" not in own or not own["__dataclass_params__"].init:
        return False
    fields = dataclasses.fields(value)  # without those that only __init__ sees
    return len(fields) == len(own["__dataclass_fields__"]) and all(field.init for field in fields)


def branches(tree: Any) -> dict[Any, Any]:
    """Return what a tree holds, by key, position or field."""
    if isinstance(tree, dict):
        return dict(tree)
    if isinstance(tree, tuple | list):
        return dict(zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True))
    return {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}


def same_structure(one: Any, other: Any) -> bool:
    """Return whether each leaf of `other` is at the place of one of `one`; None may stand for a branch of `other`.

    A key or field may be missing in `other`, and a dict may stand for a dataclass.
    """
    if not is_tree(one) or other is None:
        return not is_tree(other)
    found = _beside(one, other)
    return found is not None and all(same_structure(*pair) for pair in zip(branches(one).values(), found, strict=True))


def leaf_at(structure: Any, other: Any) -> Iterator[Any]:
    """Yield the leaves of `other` in the order of the leaves of `structure`, None for each that it does not have."""
    if not is_tree(structure):
        yield other
        return
    for part, found in zip(branches(structure).values(), _beside(structure, other) or (), strict=True):
        yield from leaf_at(part, found)


def _beside(one: Any, other: Any) -> list[Any] | None:
    """Return the branches of `other` in the order of those of `one`; None if it has others."""
    mine = branches(one)
    if other is None:
        return [None] * len(mine)
    if isinstance(one, tuple | list):
        return list(other) if isinstance(other, tuple | list) and len(other) == len(mine) else None
    if not (isinstance(other, dict) or (is_dataclass(one) and is_dataclass(other))):
        return None
    theirs = branches(other)
    return [theirs.get(key) for key in mine] if theirs.keys() <= mine.keys() else None


def is_floats(leaf: Any) -> bool:
    """Return whether a leaf is an array (or NumPy number) of floats: what can be differentiated."""
    return isinstance(leaf, np.ndarray | np.floating) and np.issubdtype(leaf.dtype, np.floating)


def is_complex(leaf: Any) -> bool:
    """Return whether a leaf is an array of complex numbers, or such a number."""
    return isinstance(leaf, complex) or (isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind == "c")


def is_number(leaf: Any) -> bool:
    """Return whether a leaf is a float or a complex number of Python or NumPy, and no array."""
    return isinstance(leaf, float | complex | np.inexact)


def convert(leaf: Any, dtype: Any) -> Any:
    """Return floats as a fresh array or NumPy number of dtype, complex ones in its precision.

    Ids, masks, Python's numbers, None and everything else are returned as they are.
    """
    if not isinstance(leaf, np.ndarray | np.generic) or leaf.dtype.kind not in "fc":
        return leaf
    array = np.array(leaf, dtype=np.result_type(dtype, np.complex64) if is_complex(leaf) else dtype, order="K")
    return array if isinstance(leaf, np.ndarray) else array[()]


def copied(leaf: Any, memo: dict[int, Any] | None = None) -> Any:
    """Return a copy of an array, or of an object that holds state, such as a generator; anything else as it is.

    memo  that of copy.deepcopy: what was copied before stays one object
    """
    if isinstance(leaf, np.ndarray) and leaf.dtype != object:
        return leaf.copy()
    if not _holds_state(leaf):
        return leaf
    try:
        return copy.deepcopy(leaf, memo)
    except Exception:  # a lock, a file: whatever cannot be copied is shared
        return leaf


def _holds_state(leaf: Any) -> bool:
    if isinstance(leaf, np.generic | float | int | complex | str | bytes | type(None) | type):
        return False
    # a bare object is a mark that is compared by identity
    return (
        not inspect.isroutine(leaf)
        and not inspect.ismodule(leaf)
        and getattr(leaf, "__dict__", None) != {}
        and (type(leaf) is not object)
    )


def copy_tree(tree: Any, memo: dict[int, Any] | None = None) -> Any:
    """Return the same structure with a copy of each array, and of each object that holds state."""
    return map_leaves(lambda leaf: copied(leaf, memo), tree)


def fresh(args: Iterable[Any], memo: dict[int, Any] | None = None) -> list[Any]:
    """Return copies of arguments; a generator that is in two of them is one in the copies as well."""
    memo = {} if memo is None else memo
    return [copy_tree(arg, memo) for arg in args]


def ids_among(args: Iterable[Any]) -> Iterator[np.ndarray]:
    """Yield the arguments that are arrays of integers and not empty: they may name rows of another argument."""
    return (arg for arg in args if isinstance(arg, np.ndarray) and arg.dtype.kind in "iu" and arg.size)


def kind_of(leaf: Any) -> str:
    """Return the dtype of an array, and the type of anything else, as reports name it."""
    if leaf is None:
        return "None"
    return str(leaf.dtype) if isinstance(leaf, np.ndarray | np.generic) else type(leaf).__name__
