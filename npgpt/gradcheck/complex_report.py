"""The report on a complex argument: by element, with the part that is worst, and what a wrong gradient suggests."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .forms import joined
from .gradients import Backward
from .leaf import Leaf
from .problem import Problem
from .report import ArgumentReport
from .tree import map_leaves

CLOSE = 1e-6  # relative, by norm: how well a pattern must explain the gradient to be named


def in_complex_terms(report: ArgumentReport, leaf: Leaf) -> ArgumentReport:
    """Return the report on the pairs of a complex argument as one on its elements."""
    index, part = (None, "") if report.index is None else leaf.place_of(report.index)
    difference = None if report.difference is None else np.hypot(report.difference[..., 0], report.difference[..., 1])
    places = [leaf.place_of(element.index) for element in report.wrong]
    wrong = tuple(replace(e, index=at, part=of) for e, (at, of) in zip(report.wrong, places, strict=True))
    return replace(report, shape=leaf.shape, index=index, part=part, wrong=wrong, difference=difference)


def complex_hint(analytic: np.ndarray, numeric: np.ndarray, wrong: np.ndarray) -> str:
    """Return the pattern that explains a wrong complex gradient, or nothing.

    analytic, numeric  (..., 2) the whole gradient as pairs; NaN in numeric where it was not looked at
    wrong              (..., 2) where the two differ

    >>> right = np.array([[1.0, 2.0], [0.5, -3.0]])
    >>> complex_hint(right * [1, -1], right, np.array([[False, True], [False, True]]))
    'it is the complex conjugate of what it should be'
    """
    if not np.isfinite(analytic).all():
        return "the gradient is not finite"
    known = np.isfinite(numeric).all(axis=-1)
    bad = np.asarray(wrong.any(axis=-1))
    where = "" if bad[known].all() or not bad.any() else "at the wrong elements "
    for mask in (known, known & bad):
        a, n = (joined(np.ascontiguousarray(x[mask])) for x in (analytic, numeric))
        found = _pattern(a, n)
        if found:
            return found if mask is known else where + found
    return ""


def _pattern(a: np.ndarray, n: np.ndarray) -> str:
    """Return how a comes from n, both flat and complex, or nothing."""
    if a.size < 2 or not (np.any(a) and np.any(n)):  # one number is always some multiple of another
        return ""
    if np.any(n.imag) and _explains(a, n.real, n):
        return "the imaginary part is missing"
    if np.any(n.real) and _explains(a, 1j * n.imag, n):
        return "the real part is missing"
    for name, right in (("", n), ("the complex conjugate of ", n.conj())):
        factor = complex(np.vdot(right, a) / np.vdot(right, right))
        if _explains(a, factor * right, n):
            times = "" if abs(factor - 1) < CLOSE else f"{_written(factor)} times "
            return f"it is {times}{name}what it should be"
    return ""


def convention_hint(
    problem: Problem, backward: Backward, dout: Any, found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> str:
    """Return that all gradients are right in the other convention for complex numbers, if they are, or nothing.

    found  for each leaf the numerical gradient, how far a right one may be from it, and where it was looked at
    """
    flip = np.array([1.0, -1.0])  # conjugates pairs
    forms = iter(problem.forms)
    other = map_leaves(lambda leaf: leaf * flip if next(forms) == "complex" else leaf, dout)
    for leaf, g, (numeric, bar, known) in zip(
        problem.leaves, backward.tried(problem.copies(problem.dtype), other), found, strict=True
    ):
        g = g * flip if leaf.is_complex else g
        if not (np.abs(g - numeric) <= bar)[known].all():
            return ""
    rest = "PyTorch's" if problem.conjugate else "that of JAX and autograd"
    return f"it is right in the other convention, {rest}: conjugate={not problem.conjugate}"


def _explains(a: np.ndarray, model: np.ndarray, n: np.ndarray) -> bool:
    """Return whether the model explains a, and far better than the right n does."""
    return bool(np.linalg.norm(a - model) <= min(CLOSE * np.linalg.norm(a), 1e-3 * np.linalg.norm(a - n)))


def _written(factor: complex) -> str:
    if abs(factor.imag) < CLOSE:
        return f"{factor.real:.6g}"
    return f"{factor.imag:.6g}i" if abs(factor.real) < CLOSE else f"({factor.real:.6g} {factor.imag:+.6g}i)"
