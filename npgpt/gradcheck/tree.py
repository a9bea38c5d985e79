"""Nested dicts, tuples and lists of arrays, seen as a flat list of leaves with names; and what a leaf is."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, leaf) in a fixed order; a leaf is whatever is not a dict, tuple or list.

    >>> list(leaves({"w": 1, "b": (2, 3)}, "params"))
    [("params['w']", 1), ("params['b'][0]", 2), ("params['b'][1]", 3)]
    """
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{name}[{key!r}]")
    elif isinstance(tree, tuple | list):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{name}[{i}]")
    else:
        yield name, tree


def map_leaves(f: Callable[[Any], Any], tree: Any) -> Any:
    """Return the same structure with f of every leaf, called in the order of `leaves`."""
    if isinstance(tree, dict):
        return type(tree)((key, map_leaves(f, value)) for key, value in tree.items())
    if isinstance(tree, tuple | list):
        values = [map_leaves(f, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return f(tree)


def is_tree(value: Any) -> bool:
    """Return whether value has leaves inside it."""
    return isinstance(value, dict | tuple | list)


def same_structure(one: Any, other: Any) -> bool:
    """Return whether two trees have their leaves at the same places; None may stand for a whole branch of `other`."""
    if other is None:
        return True
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same_structure(one[k], other[k]) for k in one)
        )
    if isinstance(one, tuple | list):
        if not isinstance(other, tuple | list) or len(one) != len(other):
            return False
        return all(same_structure(a, b) for a, b in zip(one, other, strict=True))
    return not is_tree(other)


def leaf_at(structure: Any, other: Any) -> Iterator[Any]:
    """Yield the leaves of `other` in the order of the leaves of `structure`; a None branch gives None for each."""
    if isinstance(structure, dict):
        for key, value in structure.items():
            yield from leaf_at(value, None if other is None else other[key])
    elif isinstance(structure, tuple | list):
        for i, value in enumerate(structure):
            yield from leaf_at(value, None if other is None else other[i])
    else:
        yield other


def is_floats(leaf: Any) -> bool:
    """Return whether a leaf is an array (or NumPy number) of floats: what can be differentiated."""
    return isinstance(leaf, np.ndarray | np.floating) and np.issubdtype(leaf.dtype, np.floating)


def convert(leaf: Any, dtype: Any) -> Any:
    """Return floats as a fresh array of dtype; ids, masks, numbers, None and everything else as they are."""
    return np.array(leaf, dtype=dtype, order="K") if is_floats(leaf) else leaf


def copied(leaf: Any) -> Any:
    """Return a copy of an array, and anything else as it is."""
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def copy_tree(tree: Any) -> Any:
    """Return the same structure with a copy of each array."""
    return map_leaves(copied, tree)


def ids_among(args: Iterable[Any]) -> Iterator[np.ndarray]:
    """Yield the arguments that are arrays of integers and not empty: they may name rows of another argument."""
    return (arg for arg in args if isinstance(arg, np.ndarray) and arg.dtype.kind in "iu" and arg.size)
