"""The report on a complex argument: by element, with the part that is worst, and what a wrong gradient suggests."""

from dataclasses import replace

import numpy as np

from .forms import joined
from .problem import Leaf
from .report import ArgumentReport

CLOSE = 1e-6  # relative, by norm: how well a pattern must explain the gradient to be named


def in_complex_terms(report: ArgumentReport, leaf: Leaf) -> ArgumentReport:
    """Return the report on the pairs of a complex argument as one on its elements."""
    index, part = (None, "") if report.index is None else leaf.place_of(report.index)
    difference = None if report.difference is None else np.hypot(report.difference[..., 0], report.difference[..., 1])
    return replace(report, shape=leaf.shape, index=index, part=part, difference=difference)


def complex_hint(analytic: np.ndarray, numeric: np.ndarray) -> str:
    """Return the pattern that explains a wrong complex gradient, or nothing.

    analytic, numeric  (..., 2) the whole gradient as pairs; NaN in numeric where it was not looked at

    >>> complex_hint(np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([[1.0, 2.0], [0.5, -3.0]]))
    'it is the complex conjugate of what it should be'
    """
    known = np.isfinite(numeric).all(axis=-1)
    a, n = (joined(np.ascontiguousarray(x[known])) for x in (analytic, numeric))
    if not np.isfinite(analytic).all() or not np.any(n):
        return ""
    for name, right in (("", n), (" the complex conjugate", n.conj())):
        factor = np.vdot(right, a) / np.vdot(right, right)
        if _explains(a, factor * right) and abs(factor) > CLOSE:
            if abs(factor - 1) < CLOSE and name:
                return f"it is{name} of what it should be"
            return f"it is {_written(factor)} times{name + ' of' if name else ''} what it should be"
    if np.any(n.imag) and _explains(a, n.real):
        return "the imaginary part is missing"
    if np.any(n.real) and _explains(a, 1j * n.imag):
        return "the real part is missing"
    return ""


def _explains(a: np.ndarray, model: np.ndarray) -> bool:
    return bool(np.linalg.norm(a - model) <= CLOSE * np.linalg.norm(a))


def _written(factor: complex) -> str:
    if abs(factor.imag) < CLOSE:
        return f"{factor.real:.6g}"
    return f"{factor.imag:.6g}i" if abs(factor.real) < CLOSE else f"({factor.real:.6g} {factor.imag:+.6g}i)"
