"""Where a gradient is wrong: rows, steps, triangles, what a mask or ids name, or one side of a threshold."""

import math
from collections.abc import Iterator

import numpy as np

from .hints_factors import BEYOND, times
from .hints_finding import Finding

CHANCE = 0.02  # a place is named if elements that are wrong by chance would lie there with at most this probability


def not_finite(f: Finding) -> Iterator[str]:
    """NaN or infinity: everywhere, or where an argument or output has some value."""
    bad = ~np.isfinite(f.analytic)
    if not bad.any():
        return
    for name, value in () if bad.all() else f.candidates:
        for text, side in (("= 0", value == 0), ("< 0", value < 0), ("<= 0", value <= 0)):
            if np.array_equal(bad, np.broadcast_to(side, bad.shape)):
                yield f"the gradient is not finite where {name} {text}"
                return
    for axis in range(f.x.ndim):
        if np.array_equal(bad, np.broadcast_to((f.x == 0).any(axis=axis, keepdims=True), bad.shape)) and not bad.all():
            yield f"the gradient is not finite where {f.name} has a 0 along axis {axis}"
            return
    yield "the gradient is not finite"


def zero(f: Finding) -> Iterator[str]:
    """All of it is zero, or all of it should be."""
    if not np.any(f.analytic):
        yield "the gradient is zero where it should not be"
    elif f.whole and not np.any(np.abs(f.numeric) > f.limit):
        yield "the gradient should be zero"


def one_element(f: Finding) -> Iterator[str]:
    """Name the one element that is wrong, of those that were looked at, and how."""
    if f.wrong.sum() == 1 and _could(f).sum() > 1 and not (any(_areas(f)) if f.whole else _repeats(f)):
        lost = "" if f.whole else next(lost_elements(f), "")
        at = tuple(int(i) for i in np.argwhere(f.wrong)[0])
        what = _what(f)
        yield lost or f"one element is wrong, at {at}" + (f": {what}" if what else "")


def other_mask(f: Finding) -> Iterator[str]:
    """What is wrong is either zero or should be, and both happens: another mask than forward's."""
    a, n = f.analytic[f.wrong & f.known], f.numeric[f.wrong & f.known]
    limit = f.limit[f.wrong & f.known]
    lost, extra = (a == 0) & (np.abs(n) > limit), (a != 0) & (np.abs(n) <= limit)
    right = _could(f) & ~f.wrong
    if not (f.whole and lost.any() and extra.any() and (lost | extra).all()):
        return
    if f.wrong.all() and min(lost.sum(), extra.sum()) > 1:
        yield "it is zero where it should not be, and not zero where it should be: a mask is inverted"
    elif right.sum() > 1:
        yield "some elements are zero and should not be, others should be zero: another mask or index than forward's"


def lost_elements(f: Finding) -> Iterator[str]:
    """All that is wrong is zero and should not be: whole indices of an axis, or some elements.

    Where only some elements were looked at, the zeros beside one that is wrong are all that there is to see.
    """
    lost = f.known & f.wrong & (f.analytic == 0)
    if not lost.any():
        return
    alone = not (f.wrong & ~lost).any()
    for axis in range(f.analytic.ndim):
        where = _lost_along(f, lost, axis, alone)
        if where:
            yield f"lost: {where} {'is' if where.startswith('index ') else 'are'} zero and should not be"
            return
    if alone and f.whole:
        yield f"lost: {int(lost.sum())} elements are zero and should not be"
    rest = f.wrong & f.known & ~lost
    factor = times(f, rest) if f.whole and min(lost.sum(), rest.sum()) > 2 else ""
    if factor:
        yield (
            f"lost: {int(lost.sum())} elements are zero and should not be, and the others are {factor} times what they "
            "should be"
        )


def _lost_along(f: Finding, lost: np.ndarray, axis: int, alone: bool) -> str:
    """Name the indices of an axis at which all is zero, if they hold all that is lost."""
    others = _others(f, axis)
    zeros, here = ~np.any(f.analytic, axis=others), np.any(lost, axis=others)
    gone = zeros & ~np.all(f.known & ~f.wrong, axis=others) & (here if f.whole else True)
    named = _by_ids(f, gone) if f.whole and axis == 0 else ""
    if not gone.any() or (lost & ~spread(gone, axis, f.wrong.shape)).any() or not (alone or named):
        return ""
    if f.whole and f.analytic.ndim == 1 and not named and not _pattern(gone):
        return ""
    if gone.all() or (not f.whole and gone.sum() > gone.size // 2):
        gone = here
    return named or indices(gone, axis)


def named_places(f: Finding) -> Iterator[str]:
    """Name a place that an argument tells, and what is wrong there."""
    if f.whole:
        yield from _placed(f, _areas(f))
    elif _repeats(f):
        yield f"wrong only {_repeats(f)}"


def places(f: Finding) -> Iterator[str]:
    """Name a place by its indices, and what is wrong there."""
    yield from _placed(f, iter([_slices(f)]))
    what = _what(f)
    if what and f.wrong.sum() > 1 and (_could(f) & ~f.wrong).any():
        yield f"the wrong elements are {what.replace('it should', 'they should')}"


def _placed(f: Finding, found: Iterator[str]) -> Iterator[str]:
    if f.whole and (_could(f) & ~f.wrong).any():
        for place in found:
            if place:
                what = _what(f)
                yield f"wrong only {place}" + (f": {what}" if what else "")
                return


def _areas(f: Finding) -> Iterator[str]:
    yield from (
        _by_ids_alone(f),
        _repeats(f),
        _picked(f),
        _triangle(f.wrong),
        _border(f.wrong),
        _by_mask(f),
        _by_value(f),
    )


def _could(f: Finding) -> np.ndarray:
    """Return which elements could be wrong: what is zero on both sides says nothing."""
    return f.wrong | (
        f.known & ((np.abs(np.where(f.known, f.numeric, 0.0)) > f.limit) | (np.abs(f.analytic) > f.limit))
    )


def _what(f: Finding) -> str:
    """Say what is wrong with the wrong elements: lost, not zero where they should be, dout itself, or a factor."""
    w = f.wrong & f.known
    if not w.any():
        return ""
    if not np.any(f.analytic[w]):
        return "lost (zero)"
    if np.all((np.abs(f.numeric[w]) <= 2 * f.bars[w]) & (np.abs(f.analytic[w]) > BEYOND * f.bars[w])):
        return "not zero, as it should be"
    for name, dout in f.dout:
        if dout.shape == w.shape and np.array_equal(f.analytic[w], dout[w]):
            return f"{name} as it came"
    found = times(f, w)
    return found and f"{found} times what it should be"


# --- places that arguments tell


def _by_value(f: Finding) -> str:
    """Name the side of a threshold on an argument or output on which the elements are that are wrong."""
    values = [
        (n, v) for n, v in (*f.arguments, *f.integers, *f.out) if v.shape == f.wrong.shape and v.dtype.kind != "b"
    ]
    values.sort(key=lambda pair: pair[0] != f.name)
    for name, value in values:
        if _is(value == 0, f, rare=True):
            return f"where {name} = 0"
        for text, side in (("< 0", value < 0), ("> 0", value > 0)):
            if _is(side, f):
                return f"where {name} {text}"
    for name, value in values:
        for text, size in ((name, value), (f"|{name}|", np.abs(value))):
            for sign, than in ((1, "<"), (-1, ">")):
                inside = float(np.max(sign * size[f.wrong])) if f.wrong.any() else 0.0
                apart = sign * size > inside
                if apart.any() and _is(~apart, f, tries=4 * len(values)):
                    edge = (float(np.min(sign * size[apart])) + inside) * sign / 2
                    return f"where {text} {than} {edge:.2g}"
    return ""


def _is(side: np.ndarray, f: Finding, rare: bool = False, tries: int = 1) -> bool:
    """Return whether an area is where it is wrong: all that is wrong lies there, and all there that could be is.

    rare   whether the area is so special that chance need not be feared
    tries  how many areas are tried
    """
    could = _could(f)
    inside = side & could
    if (f.wrong & ~side).any() or not inside.any() or not (could & ~side).any() or (inside & ~f.wrong).any():
        return False
    return rare or tries / math.comb(int(could.sum()), int(inside.sum())) <= CHANCE


def _by_mask(f: Finding) -> str:
    """Name where an argument of booleans is true or false."""
    for name, mask in f.integers:
        if mask.dtype.kind != "b" or mask.size < 2:
            continue
        for shape in (mask.shape, mask.shape + (1,) * (f.wrong.ndim - mask.ndim)):
            try:
                spread_ = np.broadcast_to(mask.reshape(shape), f.wrong.shape)
            except ValueError:
                continue
            for text, side in (("is false", ~spread_), ("is true", spread_)):
                if _is(side, f, rare=True):
                    return f"where {name} {text}"
    return ""


def _rows(f: Finding) -> np.ndarray:
    return np.asarray(f.wrong.reshape(f.wrong.shape[0], -1).any(axis=1)) if f.wrong.size else np.zeros(0, dtype=bool)


def _repeats(f: Finding) -> str:
    """Name the rows that several ids name, if some of what should be added up there is not."""
    for name, ids in f.integers if f.wrong.ndim else ():
        if ids.dtype.kind not in "iu" or not ids.size or ids.min() < -len(f.wrong) or ids.max() >= len(f.wrong):
            continue
        counts = np.bincount(ids.ravel() % len(f.wrong), minlength=len(f.wrong))
        rows = _rows(f)
        if not rows.any() or (rows & (counts < 2)).any():
            continue
        place = f"in rows that several of {name} name: add up repeats, as np.add.at does"
        if f.parts and _dropped(f):
            return place
        lookup = any(array.shape[: ids.ndim] == ids.shape for _, array in f.out)
        if not f.parts and lookup and (np.abs(f.numeric) > f.limit)[f.wrong].all() and not _what(f):
            return f"{place}?"
    return ""


def _dropped(f: Finding) -> bool:
    """Return whether the wrong elements lack what comes through some of several outputs, and all else is right."""
    p = f.parts
    if p is None or (p.wrong & (~p.real | p.claimed)).any():
        return False
    several = (p.real.sum(axis=0) > 1).reshape(f.wrong.shape)
    return bool(several[f.wrong].all() and p.claimed[:, f.wrong.ravel()].any())


def _by_ids(f: Finding, rows: np.ndarray) -> str:
    """Return which ids name these indices of axis 0, if ids tell them from the others."""
    for name, ids in f.integers:
        if ids.dtype.kind not in "iu" or not ids.size or ids.max() >= len(rows):
            continue
        named = np.isin(np.arange(len(rows)), ids)
        for text, those in (("names", named), ("does not name", ~named)):
            if those.sum() > 1 and not those.all() and np.array_equal(rows, those):
                return f"the rows that {name} {text}"
    return ""


def _by_ids_alone(f: Finding) -> str:
    """Name the rows whose id is negative, or that ids name, or name not."""
    if not f.wrong.ndim:
        return ""
    rows = _rows(f)
    for name, ids in f.integers:
        if ids.shape == rows.shape and ids.dtype.kind == "i" and (ids < 0).any() and np.array_equal(rows, ids < 0):
            return f"where {name} is negative: rows to be ignored"
    found = _by_ids(f, rows)
    return found and f"in {found}"


def _picked(f: Finding) -> str:
    """Name the one element of each row that ids pick along the last axis, as the targets of a loss."""
    for name, ids in f.integers:
        fits = f.wrong.ndim and ids.dtype.kind in "iu" and ids.shape == f.wrong.shape[:-1] and ids.size > 1
        if fits and _is(np.arange(f.wrong.shape[-1]) == ids[..., None], f):
            return f"at the element of each row that {name} picks"
    return ""


# --- places by index


def _others(f: Finding, axis: int) -> tuple[int, ...]:
    return tuple(k for k in range(f.analytic.ndim) if k != axis)


def spread(along: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return marks along one axis for a whole array."""
    return np.broadcast_to(along.reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape)


def _triangle(wrong: np.ndarray) -> str:
    """Name a triangle of the last two axes, or what lies on or off their diagonal."""
    if wrong.ndim < 2 or wrong.shape[-1] != wrong.shape[-2] or wrong.shape[-1] < 3:
        return ""
    n = wrong.shape[-1]
    areas = {
        "on the diagonal": np.eye(n, dtype=bool),
        "off the diagonal": ~np.eye(n, dtype=bool),
        "below the diagonal": np.tri(n, k=-1, dtype=bool),
        "above the diagonal": ~np.tri(n, dtype=bool),
        "on and below the diagonal": np.tri(n, dtype=bool),
        "on and above the diagonal": ~np.tri(n, k=-1, dtype=bool),
    }
    for name, area in areas.items():
        if np.array_equal(wrong, np.broadcast_to(area, wrong.shape)):
            return name
    return ""


def _slices(f: Finding) -> str:
    """Name the indices of one axis at which everything is wrong that can be."""
    found: list[tuple[int, str]] = []
    for axis in range(f.wrong.ndim):
        at = np.asarray(f.wrong.any(axis=_others(f, axis)))
        if _telling(f, at, axis):
            found.append((int(at.sum()), f"at {indices(at, axis)}"))
    return min(found)[1] if found else ""


def _telling(f: Finding, at: np.ndarray, axis: int) -> bool:
    """Return whether some indices of an axis hold most of what is wrong there, and chance would rarely lie so."""
    could = _could(f)
    live = np.asarray(could.any(axis=_others(f, axis)))
    if not at.any() or not (live & ~at).any():
        return False
    inside = could & spread(at, axis, f.wrong.shape)
    wrong, full, whole = int(f.wrong.sum()), int(inside.sum()), int(could.sum())
    if f.wrong.ndim == 1:
        return _pattern(at)
    ways = math.comb(int(live.sum()), int(at.sum())) * math.comb(full, wrong)
    return ways / math.comb(whole, wrong) <= (CHANCE if wrong == full else CHANCE / 20)


def _border(wrong: np.ndarray) -> str:
    """Name the border of the last two axes."""
    if wrong.ndim < 2 or min(wrong.shape[-2:]) < 3:
        return ""
    inside = np.zeros(wrong.shape, dtype=bool)
    inside[..., 1:-1, 1:-1] = True
    return "at the border of the last two axes" if np.array_equal(wrong, ~inside) else ""


def _pattern(at: np.ndarray) -> bool:
    """Return whether the indices of a vector are more than scattered ones: a run that fills or is a good part of it."""
    places = np.flatnonzero(at)
    steps = np.diff(places)
    ends = len(places) > 1 and (places[0] == 0 or places[-1] == len(at) - 1)
    return len(places) > 1 and bool((steps == steps[0]).all()) and (len(places) > 2 or ends) and len(at) > 4


def indices(at: np.ndarray, axis: int) -> str:
    """Name the indices of an axis that are marked.

    >>> indices(np.array([True, True, False]), 0)
    'indices 0 to 1 of axis 0 (the first 2 of 3)'
    """
    places, size = np.flatnonzero(at), len(at)
    first, last = int(places[0]), int(places[-1])
    if len(places) == 1:
        which = "the first" if first == 0 else "the last" if first == size - 1 else "one"
        return f"index {first} of axis {axis} ({which} of {size})"
    steps, rest = np.diff(places), np.flatnonzero(~at)
    if (steps == 1).all():
        if first == 0:
            return f"indices 0 to {last} of axis {axis} (the first {last + 1} of {size})"
        return f"indices {first} to {last} of axis {axis}" + (f" (the last {size - first})" if last == size - 1 else "")
    if (steps == steps[0]).all() and len(places) > 2:
        return (
            f"indices {first}, {places[1]}, ... of axis {axis} (every {'second' if steps[0] == 2 else f'{steps[0]}th'})"
        )
    if len(rest) and (np.diff(rest) == 1).all():
        run = f"{rest[0]} to {rest[-1]}" if len(rest) > 1 else f"{rest[0]}"
        return f"all indices of axis {axis} but {run}"
    some = ", ".join(map(str, places[:4]))
    return f"indices {some}{', ...' if len(places) > 4 else ''} of axis {axis}"
