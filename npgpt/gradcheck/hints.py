"""Name the slip that the pattern of a wrong gradient suggests."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .tree import ids_among

CLOSE = 1e-5  # relative, by norm: how well a pattern must explain the gradient to be named


def shape_hint(analytic: np.ndarray, shape: tuple[int, ...]) -> str:
    """Return what a gradient of a wrong shape suggests, or nothing."""
    if analytic.ndim == len(shape) and analytic.shape == shape[::-1] and analytic.ndim > 1:
        return "it has the transposed shape"
    if analytic.ndim > len(shape) and (not shape or analytic.shape[analytic.ndim - len(shape) :] == shape):
        axes = tuple(range(analytic.ndim - len(shape)))
        return f"sum it over the leading {'axis' if len(axes) == 1 else 'axes'} {', '.join(map(str, axes))}"
    if analytic.size == math.prod(shape):
        return "it has the right number of elements in another shape"
    return ""


def hint(analytic: np.ndarray, numeric: np.ndarray, wrong: np.ndarray, args: Sequence[Any]) -> str:
    """Return the first pattern that explains a wrong gradient, or nothing.

    analytic, numeric  (...) the whole gradient, or NaN in numeric where it was not looked at
    wrong              (...) where the two differ
    args               the arguments of forward, among which ids may be
    """
    return next(_patterns(analytic, numeric, wrong, args), "")


def _patterns(analytic: np.ndarray, numeric: np.ndarray, wrong: np.ndarray, args: Sequence[Any]) -> Iterator[str]:
    known = np.isfinite(numeric)
    if not np.isfinite(analytic).all():
        yield "the gradient is not finite"
        return
    a, n = analytic[known], numeric[known]
    if not np.any(a):
        yield "the gradient is zero where it should not be"
        return
    if not np.any(np.abs(n) > 1e-12 * np.abs(a).max()):
        yield "the gradient should be zero"
        return
    ratio = _ratio(a, n)
    if _explains(a, ratio * n, n):
        yield f"every element is {_factor(ratio, analytic.shape)} times what it should be"
        return
    if known.all():
        yield from _arrangement(analytic, numeric)
        yield from _constant_along(analytic, numeric)
    yield from _repeats(wrong, known, args)
    yield from _places(wrong, known)
    if wrong.any():
        a, n = analytic[wrong & known], numeric[wrong & known]
        ratio = _ratio(a, n) if a.size > 1 and np.any(n) else 1.0
        if _explains(a, ratio * n, n) and abs(ratio - 1) > CLOSE:
            yield f"the wrong elements are {_factor(ratio, analytic.shape)} times what they should be"


def _ratio(a: np.ndarray, n: np.ndarray) -> float:
    """Return the factor that brings n closest to a."""
    return float(a @ n / (n @ n))


def _explains(a: np.ndarray, model: np.ndarray, n: np.ndarray) -> bool:
    """Return whether the model explains a. The closer a is to the right n, the better the model must fit."""
    limit = CLOSE * min(1.0, float(np.linalg.norm(a - n)) / max(float(np.linalg.norm(n)), 1e-300) * 100)
    return float(np.linalg.norm(a - model)) <= max(limit, 1e-9) * float(np.linalg.norm(a))


def _factor(ratio: float, shape: tuple[int, ...]) -> str:
    """Name a factor: the sign, the size of an axis, a small number, one over it or its root; else by its digits.

    >>> _factor(1 / 7, (5, 7))
    '1/7 (7 is the size of an axis, or of the array)'
    """
    if abs(ratio + 1) < CLOSE:
        return "-1 (the sign)"
    sizes = {n for n in (*shape, math.prod(shape)) if n > 2}
    forms = [(lambda n: n, "{}"), (lambda n: 1 / n, "1/{}"), (math.sqrt, "sqrt({})"), (lambda n: n**-0.5, "1/sqrt({})")]
    for form, text in forms:
        for n in sorted(sizes | set(range(2, 65))):
            if abs(abs(ratio) / form(n) - 1) < 1e-9:
                where = f" ({n} is the size of an axis, or of the array)" if n in sizes else ""
                return f"{'-' if ratio < 0 else ''}{text.format(n)}{where}"
    return f"{ratio:.9g}"


def _arrangement(analytic: np.ndarray, numeric: np.ndarray) -> Iterator[str]:
    if numeric.ndim >= 2:
        turned = numeric.swapaxes(-1, -2)
        for name, other in (("transposed", turned), ("transposed and reshaped", turned.reshape(numeric.shape))):
            if other.shape == analytic.shape and _explains(analytic, other, numeric):
                yield f"it is {name}: the right numbers in the wrong places"
                return
    for axis in range(numeric.ndim):
        if _explains(analytic, np.flip(numeric, axis), numeric):
            yield f"it is reversed along axis {axis}"
            return
    a, n = np.sort(analytic, axis=None), np.sort(numeric, axis=None)
    if a.size > 2 and _explains(a, n, n) and not _explains(analytic, numeric, numeric):
        yield "the right numbers in the wrong places"


def _constant_along(analytic: np.ndarray, numeric: np.ndarray) -> Iterator[str]:
    difference = analytic - numeric
    size = float(np.linalg.norm(difference))
    for axis in range(difference.ndim):
        if difference.shape[axis] > 1 and size > 0:
            spread = float(np.linalg.norm(difference - difference.mean(axis=axis, keepdims=True)))
            if spread <= 1e-6 * size:
                yield f"a term is missing or too many that is constant along axis {axis}: a mean or sum over that axis?"
                return


def _repeats(wrong: np.ndarray, known: np.ndarray, args: Sequence[Any]) -> Iterator[str]:
    for ids in ids_among(args) if wrong.ndim else ():
        rows, counts = np.unique(ids, return_counts=True)
        if rows[0] < 0 or rows[-1] >= wrong.shape[0] or not (counts > 1).any():
            continue
        bad: np.ndarray = wrong.reshape(wrong.shape[0], -1).max(axis=1)
        if bad.any() and not bad[~np.isin(np.arange(len(bad)), rows[counts > 1])].any():
            yield "only rows that several ids name are wrong: add up repeats, as np.add.at does"
            return


def _places(wrong: np.ndarray, known: np.ndarray) -> Iterator[str]:
    if not wrong.any() or wrong[known].all():
        return
    if wrong.ndim >= 2 and wrong.shape[-1] == wrong.shape[-2] and wrong.shape[-1] > 1:
        eye = np.broadcast_to(np.eye(wrong.shape[-1], dtype=bool), wrong.shape)
        if not (wrong & eye).any():
            yield "only the diagonal is right"
            return
        if not (wrong & ~eye).any():
            yield "only the diagonal is wrong"
            return
    where = np.argwhere(wrong)
    if len(where) == 1:
        yield f"one element is wrong, at {tuple(int(i) for i in where[0])}"
        return
    for axis in range(wrong.ndim):
        places = np.unique(where[:, axis])
        if wrong.shape[axis] > 1 and len(places) == 1:
            last = wrong.shape[axis] - 1
            name = {0: "the first", last: "the last"}.get(int(places[0]), "one")
            yield f"all wrong elements are at index {places[0]} of axis {axis} ({name} of {wrong.shape[axis]})"
            return
