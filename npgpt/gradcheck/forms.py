"""Real arrays in place of complex arrays and numbers: the check works on them, and the code it checks on the others.

A complex array of shape (...) is a real one of shape (..., 2), its real and imaginary parts side by side.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .tree import convert, is_complex, is_floats, leaves, map_leaves


def split(x: Any) -> np.ndarray:
    """Return complex numbers as pairs; real ones have an imaginary part of 0. Shares memory if x is contiguous."""
    x = np.asarray(x)
    if x.dtype.kind != "c":
        return np.stack([x, np.zeros_like(x)], axis=-1)
    x = np.asarray(x, order="C")
    return x.reshape(*x.shape, 1).view(x.real.dtype)


def joined(pairs: np.ndarray) -> np.ndarray:
    """Return pairs as complex numbers. Shares memory if pairs is contiguous; else the result is not, either.

    >>> joined(np.array([[1.0, 2.0]]))
    array([1.+2.j])
    """
    kind = np.result_type(pairs.dtype, np.complex64)
    if pairs.flags.c_contiguous:
        return pairs.view(kind)[..., 0]
    x = np.empty_like(pairs[..., 0], dtype=kind)
    np.copyto(x.real, pairs[..., 0])
    np.copyto(x.imag, pairs[..., 1])
    return x if pairs.flags.f_contiguous else np.stack([x, x], axis=-1)[..., 0]


def real_form(given: Any) -> np.ndarray:
    """Return an array or a number as the real array on which a check works."""
    return split(given) if is_complex(given) else np.asarray(given)


def as_given(x: Any, given: Any) -> Any:
    """Return a real array in the form of what was given: an array or a number, complex or real."""
    if not isinstance(x, np.ndarray | np.generic) or (isinstance(x, np.generic) and isinstance(given, np.generic)):
        return x
    if is_complex(given) and x.dtype.kind != "c":
        x = joined(np.asarray(x))
    if isinstance(given, np.ndarray):
        return x
    return x[()] if isinstance(given, np.generic) else x.item()


def output_form(leaf: Any) -> str:
    """Return "real" for an output that can be weighted, "complex" for one to be split first, "none" for another."""
    kind = np.asarray(leaf).dtype.kind
    return "complex" if kind == "c" else "real" if kind in "biuf" else "none"


def with_real_forms(
    forward: Callable[..., tuple[Any, Any]], given: Mapping[int, Any], forms: Sequence[str], conjugate: bool
) -> Callable[..., tuple[Any, Any]]:
    """Return forward as a function that takes and returns real arrays.

    given      by number among the leaves of all arguments, those that are complex or no arrays
    forms      those of the outputs
    conjugate  whether a complex output is conjugated first
    """
    if not given and set(forms) <= {"real"}:
        return forward

    def run(*args: Any) -> tuple[Any, Any]:
        numbers = itertools.count()
        out, cache = forward(*[_entering(arg, given, numbers) for arg in args])
        return leaving(out, forms, conjugate), cache

    return run


def in_single(forward: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Return forward as a function of floats in any precision, which it is given as float32."""

    def enter(leaf: Any) -> Any:
        if is_complex(leaf):
            raise TypeError("a complex step in float32 has none of its accuracy")
        return convert(leaf, np.float32) if is_floats(leaf) and leaf.dtype != np.float32 else leaf

    return lambda *args: forward(*[map_leaves(enter, arg) for arg in args])


def _entering(arg: Any, given: Mapping[int, Any], numbers: "itertools.count[int]") -> Any:
    """Return an argument with its leaves as they were given; itself if they are, because forward may write into it."""
    old = [leaf for _, leaf in leaves(arg)]
    new = [as_given(leaf, given.get(next(numbers), leaf)) for leaf in old]
    if all(a is b for a, b in zip(old, new, strict=True)):
        return arg
    values = iter(new)
    return map_leaves(lambda _: next(values), arg)


def leaving(out: Any, forms: Sequence[str], conjugate: bool = False) -> Any:
    """Return an output with complex arrays as pairs, and 0 in the place of what is no number."""
    names = iter(forms)

    def leave(leaf: Any) -> Any:
        form = next(names)
        if form == "complex":
            return split(np.conj(leaf) if conjugate else leaf)
        return leaf if form == "real" else 0

    return map_leaves(leave, out)


def cotangent(dout: Any, forms: Sequence[str]) -> Any:
    """Return dout as backward is to get it: complex for complex outputs, None for what is no number."""
    if set(forms) <= {"real"}:
        return dout
    names = iter(forms)

    def give(leaf: Any) -> Any:
        form = next(names)
        if form == "complex":
            return joined(leaf)[()]
        return leaf if form == "real" else None

    return map_leaves(give, dout)
