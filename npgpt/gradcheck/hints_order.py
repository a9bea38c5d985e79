"""Right numbers in wrong places: transposed, reversed, shifted, exchanged, or shuffled."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from .hints_finding import Finding

WIDE = 1e-3  # bars beyond this share of the largest number could make slices alike that are not
PLACES = "the right numbers in the wrong places"


def arrangement(f: Finding) -> Iterator[str]:
    """The gradient is the right one in another order, or is right when it is made symmetric."""
    if not f.whole or not f.sharp or f.analytic.size < 3:
        return
    yield from _transposed(f)
    if f.analytic.ndim >= 2 and f.analytic.shape[-1] == f.analytic.shape[-2]:
        turned = (f.analytic + f.analytic.swapaxes(-1, -2)) / 2
        if (np.abs(turned - f.numeric) <= f.limit + f.limit.swapaxes(-1, -2)).all():
            yield "made symmetric, (g + g.T) / 2, it is right"
            return
        yield from _one_triangle(f)
        for share, text in ((0.5, "made symmetric, (g + g.T) / 2"), (1.0, "g + g.T")):
            if _moved(f, lambda g, share=share: share * (g + g.swapaxes(-1, -2))):  # type: ignore[misc]
                yield f"it is {text}, and should be g: its transpose is mixed in"
                return
    for axis in range(f.analytic.ndim):
        order = _order(f, axis)
        if order:
            yield f"{order} along axis {axis}: {PLACES}"
            return
    for count in range(2, min(f.analytic.ndim, 4) + 1):
        for axes in itertools.combinations(range(f.analytic.ndim), count):
            if _moved(f, lambda g, axes=axes: np.flip(g, axes)):  # type: ignore[misc]
                yield f"reversed along axes {', '.join(map(str, axes))}: {PLACES}"
                return
    a, n = np.argsort(f.analytic, axis=None), np.argsort(f.numeric, axis=None)
    limit = f.limit.ravel()[a] + f.limit.ravel()[n]
    if np.all(np.abs(f.analytic.ravel()[a] - f.numeric.ravel()[n]) <= limit):
        yield PLACES


def arrangement_by_sample(f: Finding) -> Iterator[str]:
    """As arrangement, of an array of which a sample was looked at: moved back, the gradient has those numbers."""
    ndim = f.analytic.ndim
    if f.whole:
        return
    for one, other in itertools.combinations(range(ndim), 2) if ndim <= 4 else ():
        if f.analytic.shape[one] == f.analytic.shape[other] and f.fits_sample(
            f.analytic.swapaxes(one, other), f.numeric
        ):
            yield f"it is transposed{'' if ndim == 2 else f' in axes {one}, {other}'}: {PLACES}"
            return
    for axis in range(ndim):
        if f.fits_sample(np.flip(f.analytic, axis), f.numeric):
            yield f"reversed along axis {axis}: {PLACES}"
            return
        for step in (1, -1):
            if _without_end(f, np.roll(f.analytic, -step, axis), axis, -step):
                yield f"shifted by {step} along axis {axis}: {PLACES}"
                return


def _without_end(f: Finding, gradient: np.ndarray, axis: int, end: int) -> bool:
    """Return whether a gradient that was rolled has the right numbers, but for what went over the end."""
    numeric = np.moveaxis(f.numeric.copy(), axis, 0)
    numeric[-1 if end < 0 else 0] = np.nan
    return f.fits_sample(gradient, np.moveaxis(numeric, 0, axis))


def _moved(f: Finding, move: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Return whether a move of the right numbers gives the wrong gradient."""
    turned = move(f.numeric)
    return turned.shape == f.analytic.shape and f.explained(turned, move(f.limit))


def _transposed(f: Finding) -> Iterator[str]:
    ndim, shape = f.analytic.ndim, f.analytic.shape
    for axes in itertools.permutations(range(ndim)) if 2 <= ndim <= 4 else ():
        swapped = [k for k in range(ndim) if axes[k] != k]
        which = "" if ndim == 2 else f" in axes {', '.join(map(str, swapped))}"
        if swapped and _moved(f, lambda g, axes=axes: g.transpose(axes)):  # type: ignore[misc]
            yield f"it is transposed{which}: {PLACES}"
            return
        if len(swapped) == 2 and _moved(f, lambda g, axes=axes: g.transpose(axes).reshape(shape)):  # type: ignore[misc]
            yield f"it is transposed and reshaped{which}: {PLACES}"
            return


def _one_triangle(f: Finding) -> Iterator[str]:
    """Forward reads one triangle of a symmetric argument alone, and made symmetric both gradients are the same."""
    a, n = (g + g.swapaxes(-1, -2) for g in (f.analytic, f.numeric))
    if f.x.shape == a.shape and np.allclose(f.x, f.x.swapaxes(-1, -2)) and (np.abs(a - n) <= 4 * f.limit).all():
        for name, part in (("lower", np.triu(f.numeric, 1)), ("upper", np.tril(f.numeric, -1))):
            if not part.any():
                yield f"forward reads the {name} triangle of {f.name} alone: symmetric=[{f.name!r}] says that it may"


def _order(f: Finding, axis: int) -> str:
    """Return in which order the slices along an axis stand, if each is a right one; or nothing."""
    size = f.analytic.shape[axis]
    if not 2 <= size <= 1000:
        return ""
    a, n, limit = (np.moveaxis(g, axis, 0).reshape(size, -1) for g in (f.analytic, f.numeric, f.limit))
    zero = np.all(np.abs(a) <= limit, axis=1)
    if np.max(limit) > WIDE * np.max(np.abs(n)) or zero.all():
        return ""
    same = np.array([[np.all(np.abs(a[i] - n[j]) <= limit[i] + limit[j]) for j in range(size)] for i in range(size)])
    alike = [j for j in range(size) if all(same[:, j])]
    if alike and not _shifted(same, zero):
        return f"each index has what index {alike[0]} should have"
    return _shifted(same, zero) or _permuted(same)


def _shifted(same: np.ndarray, zero: np.ndarray) -> str:
    """Name a shift that loses what goes over the end."""
    size = len(same)
    for step in (s for k in range(1, size // 2 + 1) for s in (k, -k)):
        inside = [0 <= i - step < size for i in range(size)]
        if sum(inside) > 1 and all(same[i, i - step] if inside[i] else zero[i] for i in range(size)):
            return f"shifted by {step}"
    return ""


def _permuted(same: np.ndarray) -> str:
    """Name an order in which every slice is there: same[i, j] says that slice i is what slice j should be."""
    size = len(same)
    if not (same.any(axis=1).all() and same.any(axis=0).all()):
        return ""
    if all(same[i, size - 1 - i] for i in range(size)):
        return "reversed"
    for step in range(1, size):
        if all(same[i, (i - step) % size] for i in range(size)):
            back = step - size if step > size // 2 else step
            return "the two halves are swapped" if 2 * step == size else f"rolled by {back}"
    return _exchanged(same) or "in another order"


def _exchanged(same: np.ndarray) -> str:
    """Name two runs of indices that have changed places, or nothing."""
    moved = [i for i in range(len(same)) if not same[i, i]]
    one, other = moved[: len(moved) // 2], moved[len(moved) // 2 :]
    runs = [run for run in (one, other) if run and run[-1] - run[0] + 1 == len(run)]
    if (
        len(one) != len(other)
        or len(runs) < 2
        or not all(same[i, j] and same[j, i] for i, j in zip(*runs, strict=True))
    ):
        return ""
    names = [f"index {run[0]}" if len(run) == 1 else f"indices {run[0]} to {run[-1]}" for run in runs]
    return f"{names[0]} and {names[1]} are swapped"
