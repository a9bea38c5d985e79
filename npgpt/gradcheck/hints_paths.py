"""A wrong gradient taken apart by outputs: which of them count for which element, and how much.

backward is linear in dout. So with one element of dout at a time it gives the part of the gradient that comes through
that output, and differences of that output give the part that is right. Where in this table of outputs and elements the
two differ says what a sum over the outputs hides.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, pairwise, product
from typing import Any

import numpy as np

from .function import Function
from .gradients import Backward
from .hints_factors import BEYOND, FUNCTIONS
from .hints_finding import BARS, Finding, Paths, at, fit
from .hints_places import indices
from .numeric import EPS, TINY
from .problem import Problem
from .tree import leaves, map_leaves

MOST = 400  # outputs, or elements of an argument, that are still taken apart

# --- taking a gradient apart


def claimed_paths(problem: Problem, backward: Backward, dout: Any, fit: list[bool]) -> list[np.ndarray]:
    """Return for each leaf the part (outputs, elements) of its gradient that comes through each output.

    fit  whether the gradient of each leaf can be compared; the others are left out
    """
    rows: list[list[np.ndarray]] = [[] for _ in problem.leaves]
    for k in range(sum(np.size(leaf) for _, leaf in leaves(dout))):
        gradients = backward.gradients(problem.copies(problem.dtype), _alone(dout, k))
        for row, gradient, fits in zip(rows, gradients, fit, strict=True):
            if fits:
                row.append(np.asarray(gradient, dtype=np.float64).ravel())
    return [np.array(row) for row in rows]


def _alone(dout: Any, k: int) -> Any:
    """Return dout with all but its k-th number set to zero."""
    numbers = count()

    def pick(leaf: Any) -> Any:
        kept = np.array([next(numbers) == k for _ in range(np.size(leaf))], dtype=bool).reshape(np.shape(leaf))
        return np.where(kept, leaf, 0).astype(np.asarray(leaf).dtype)[()]

    return map_leaves(pick, dout)


def real_paths(function: Function) -> tuple[np.ndarray, np.ndarray]:
    """Return the part (outputs, elements) of the numerical gradient that comes through each output, and its bars."""
    columns, bars = [], []
    for index in range(function.leaf.x.size):
        line = function.element_line(index)
        if function.complex_safe:
            column = np.imag(line(1j * TINY)) / TINY
            bar = 64 * EPS * np.abs(column)
        else:
            h = 2.0**-8 * function.leaf.scale
            ladder = [(line(h / s) - line(-h / s)) / (2 * h / s) for s in (1, 2, 4, 8)]
            for order in (1, 2, 3):  # Richardson's extrapolation
                before = ladder[-1]
                ladder = [b + (b - a) / (4.0**order - 1) for a, b in pairwise(ladder)]
            column = ladder[-1]
            bar = 4 * np.abs(column - before) + 1e-10 * np.max(np.abs(column), initial=0.0)
        columns.append(column)
        bars.append(bar)
    return np.array(columns).T, np.array(bars).T


def taken_apart(function: Function, claimed: np.ndarray, f: Finding, outputs: Any) -> Paths | None:
    """Return a gradient taken apart, or None if the parts do not add up to it."""
    real, bars = real_paths(function)
    # rounding of an element goes with the largest of its own parts
    largest_part = np.maximum(np.max(np.abs(real), axis=0, initial=0.0), np.max(np.abs(claimed), axis=0, initial=0.0))
    bars = BARS * (bars + f.bars.ravel()) + 1e-12 * largest_part
    if not (np.isfinite(real).all() and np.isfinite(claimed).all()):
        return None
    many = 4 * bars.sum(axis=0)
    for parts, whole in ((claimed, f.analytic), (real, f.numeric)):
        if not (np.abs(parts.sum(axis=0) - whole.ravel()) <= many).all():
            return None
    return Paths(claimed, real, bars, outputs, f.analytic.shape)


# --- what it shows

Pattern = Callable[[Finding], Iterator[str]]


def on_paths(pattern: Callable[[Finding, Paths], Iterator[str]]) -> Pattern:
    """Make a pattern of one that needs the gradient taken apart: it finds nothing where that cannot be done."""
    return lambda f: pattern(f, f.parts) if f.parts else iter(())


@on_paths
def transposed_map(f: Finding, p: Paths) -> Iterator[str]:
    """As a matrix from dout to the gradient it is the transposed one: the forward's own map, or with A for A.T."""
    if p.analytic.shape[0] != p.analytic.shape[1] or not f.dout:
        return
    with np.errstate(all="ignore"):
        dout = np.concatenate([np.ravel(d) for _, d in f.dout])[:, None]
        g, j, bars = p.analytic / dout, p.numeric / dout, p.bars / np.abs(dout)
        if (np.abs(g - j.T) <= bars + bars.T).all():
            yield (
                "dout is multiplied with the transposed matrix: a matrix, an order, a shift or a rotation is applied "
                "as in forward, and not the other way round"
            )


@on_paths
def lost_outputs(f: Finding, p: Paths) -> Iterator[str]:
    """What comes through some of the outputs is missing or wrong, and the rest is right."""
    bad = np.asarray(p.wrong.any(axis=1))
    good = ~bad & np.asarray(p.real.any(axis=1))
    if not (good.any() and bad.any()):
        return
    gone = not p.claimed[bad].any()
    yield from _arrays(p, bad, good, "missing" if gone else "wrong")
    lost_elements = not f.analytic[f.wrong].any() and p.claimed.any()  # then a place among them says more
    if gone and not lost_elements:
        yield from _lost_indices(p, bad, good)
        if bad.sum() < good.sum():
            rows = list(dict.fromkeys(_row(p, bad, int(k)) for k in np.flatnonzero(bad)))
            more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
            yield f"what comes through {', '.join(rows[:4])}{more} is missing"


def _arrays(p: Paths, bad: np.ndarray, good: np.ndarray, what: str) -> Iterator[str]:
    """Name the outputs, of several, through which all is right, and the others."""
    found = [(name, bad[rows].any(), good[rows].any()) for name, rows in p.arrays()]
    wrong = [name for name, is_bad, _ in found if is_bad]
    right = [name for name, is_bad, is_good in found if is_good and not is_bad]
    if right:
        yield f"what comes through {', '.join(wrong)} is {what}, and through {', '.join(right)} right"


def _lost_indices(p: Paths, bad: np.ndarray, good: np.ndarray) -> Iterator[str]:
    """Name the indices of an axis through which nothing comes, or those through which alone anything does."""
    for name, size, index in p.axes():
        lost = np.array([bad[index == k].any() for k in range(size)])
        kept = np.array([good[index == k].any() for k in range(size)]) & ~lost
        if lost.any() and kept.any() and not p.claimed[np.isin(index, np.flatnonzero(lost))].any():
            axis, of = int(name.split()[1]), name.split(" of ")[1]
            if kept.sum() < lost.sum():
                yield f"it holds only what comes through {indices(kept, axis)} of {of}"
            else:
                yield f"what comes through {indices(lost, axis)} of {of} is missing"
            return


def _row(p: Paths, bad: np.ndarray, k: int) -> str:
    """Return the name of an output; of its row, if all of that is bad."""
    for (_, shape), (_, rows) in zip(p.outputs, p.arrays(), strict=True):
        if len(shape) > 1 and rows.start <= k < rows.stop:
            leading = np.unravel_index(k - rows.start, shape)[:-1]
            if bad[rows].reshape(shape)[leading].all():
                return p.place(k).rsplit(",", 1)[0] + "]"
    return p.place(k)


def _by_row(p: Paths, turned: bool) -> np.ndarray | None:
    """Return r with analytic[k] = r[k] numeric[k] for each output (or, turned, element), if more than one proves it."""
    g, j, bars, real = (m.T if turned else m for m in (p.analytic, p.numeric, p.bars, p.real))
    used = real.sum(axis=1)
    if used.max() < 2 or np.median(used[used > 0]) < 2:
        return None
    with np.errstate(all="ignore"):
        r = np.where(used > 0, (g * j).sum(axis=1) / (j * j).sum(axis=1), 1.0)[:, None]
    if not (np.abs(g - r * j) <= bars * (1 + np.abs(r))).all() or not np.any(r):
        return None
    return np.asarray(r[:, 0])


@on_paths
def factor_by_output(f: Finding, p: Paths) -> Iterator[str]:
    """Every part that comes through one output is off by one factor: dout was not multiplied with something."""
    r = _by_row(p, turned=False)
    if r is None:
        return
    for name, value in (*f.arguments, *f.out):
        if len(p.outputs) == 1 and value.size > 1 and _fits(value, p.outputs[0][1]):
            v = np.broadcast_to(value, p.outputs[0][1]).ravel()
            for text, function in FUNCTIONS:
                with np.errstate(all="ignore"):
                    g = function(v)
                    for what, product_ in (("not multiplied by", r * g), ("multiplied needlessly by", r / g)):
                        if np.allclose(product_[p.real.any(axis=1)], 1, rtol=1e-8):
                            yield f"dout is {what} {text.format(v=name)} first"
                            return
    values = np.unique(np.round(r[p.real.any(axis=1)], 9))
    if len(values) > 2:
        yield "all that comes through an output is off by one factor, another for each output: one on dout is wrong"
    elif len(values) == 2 and np.any(values == 1):
        (k,) = values[values != 1]
        first = p.place(int(np.flatnonzero(np.abs(r - 1) > 1e-6)[0]))
        yield f"what comes through some outputs, such as {first}, is {k:.6g} times what it should be"


@on_paths
def factor_by_element(f: Finding, p: Paths) -> Iterator[str]:
    """Every part of one element is off by one factor, through whichever output it comes."""
    r = _by_row(p, turned=True)
    if r is not None and len(np.unique(np.round(r[p.real.any(axis=0)], 9))) > 2:
        yield (
            f"each element is off by a factor of its own, whatever dout is: what forward does first with {f.name} has "
            "another derivative"
        )


@on_paths
def factor_elsewhere(f: Finding, p: Paths) -> Iterator[str]:
    """A factor is taken at the element and not at the output: a mean or sum stands between the two."""
    if len(p.outputs) != 1:
        return
    for name, value in f.arguments:
        if value.size > 1 and np.ptp(value) > 0 and _fits(value, p.shape) and _fits(value, p.outputs[0][1]):
            inner, outer = np.broadcast_to(value, p.shape).ravel(), np.broadcast_to(value, p.outputs[0][1]).ravel()
            with np.errstate(all="ignore"):
                model = p.numeric * inner[None, :] / outer[:, None]
            if (np.abs(p.analytic - model) <= 2 * p.bars).all():
                yield f"{name} is multiplied in at the end: dout is to be multiplied by it first"
                return


def _fits(value: np.ndarray, shape: tuple[int, ...]) -> bool:
    return value.ndim <= len(shape) and fit(value, shape) is not None


# --- which outputs count for which elements


def _pairs(p: Paths) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yield an axis of the argument, one of an output of the same size, and where (outputs, elements) they agree."""
    inside = np.indices(p.shape).reshape(len(p.shape), math.prod(p.shape))  # also of a single number
    for axis, (name, size, index) in product(range(len(p.shape)), p.axes()):
        if p.shape[axis] == size > 1:
            yield axis, name, (index[:, None] == inside[axis]) | (index < 0)[:, None]


@on_paths
def axes_that_go_together(f: Finding, p: Paths) -> Iterator[str]:
    """Elements count only for outputs at their own index of an axis, and should not; or the other way round."""
    claimed, real = [], []
    for axis, name, same in _pairs(p):
        if p.claimed.any() and not (p.claimed & ~same).any():
            claimed.append((axis, name))
        if p.real.any() and not (p.real & ~same).any():
            real.append((axis, name))
    more, less = [c for c in claimed if c not in real], [r for r in real if r not in claimed]
    if more and less:
        (axis, wrong), (right_axis, right) = more[0], less[0]
        if axis == right_axis:
            yield f"axis {axis} goes with {wrong}, and should with {right}: transposed, or summed over the wrong axis"
        elif wrong != right:
            yield f"it is summed over {right}, and should be over {wrong}"
        else:
            yield f"axis {axis} goes with {wrong}, and axis {right_axis} should: transposed?"
    elif more:
        axis, name = more[0]
        yield (f"each element gets dout of its own index of axis {axis} alone, but other outputs depend on it, too")
    elif less:
        axis, name = less[0]
        yield f"indices of axis {axis} are mixed, which do not depend on each other: a sum over the wrong axis?"


@on_paths
def own_path(f: Finding, p: Paths) -> Iterator[str]:
    """Wrong is only what goes from each element to the same place of an output."""
    start = 0
    for name, shape in p.outputs:
        size = int(np.prod(shape))
        own = np.zeros(p.wrong.shape, dtype=bool)
        if shape == p.shape and size > 2:
            own[start : start + size] = np.eye(size, dtype=bool)
            if not (p.wrong & ~own).any() and (p.real & ~own).any() and (p.wrong & own).sum() > size // 2:
                what = "missing" if not (p.claimed & own).any() else "wrong"
                yield f"the path from each element to the same place of {name} is {what}, and the others are right"
                return
        start += size


@on_paths
def shuffled_paths(f: Finding, p: Paths) -> Iterator[str]:
    """But for dout, the numbers are the right ones in wrong places."""
    with np.errstate(all="ignore"):
        dout = np.concatenate([np.ravel(d) for _, d in f.dout])[:, None] if f.dout else np.zeros((1, 1))
        g, j, bars = (
            np.ravel(m / np.abs(dout)) for m in (p.analytic * np.sign(dout), p.numeric * np.sign(dout), p.bars)
        )
    to, of = np.argsort(g), np.argsort(j)
    wrong = np.abs(g - j) > bars
    distinct = len(np.unique(np.round(j[wrong], 6)))
    if np.isfinite(bars).all() and distinct > 2 and (np.abs(g[to] - j[of]) <= bars[to] + bars[of]).all():
        yield "but for dout, the right numbers are in the wrong places: an order, an offset or a flip is wrong"


@on_paths
def wrong_paths(f: Finding, p: Paths) -> Iterator[str]:
    """Elements get dout from outputs that do not depend on them, or none from some that do."""
    clear = BEYOND * p.bars  # what is nearly zero on one side may be so on the other, too
    extra, missing = ~p.real & (np.abs(p.analytic) > clear), ~p.claimed & (np.abs(p.numeric) > clear)
    only = not (p.wrong & (np.abs(p.analytic) > clear)).any()
    if extra.any() and missing.any():
        yield f"it takes dout from the wrong outputs ({_pair(f, p, extra)}): an index, order, axis or offset is wrong"
    elif extra.any():
        pair = _pair(f, p, extra)
        yield (
            f"it takes dout from outputs that do not depend on the element ({pair}): a mask, limit or index is wrong, "
            "or a term that cancels it is missing"
        )
    elif missing.any() and only:
        yield f"it takes no dout from some outputs that depend on the element ({_pair(f, p, missing)}): a path is lost"


def _pair(f: Finding, p: Paths, where: np.ndarray) -> str:
    output, element = (int(i) for i in np.argwhere(where)[0])
    return f"such as {p.place(output)} for {at(f.name, np.unravel_index(element, p.shape))}"


def in_part(f: Finding, hint: Callable[[Finding], str]) -> Iterator[str]:
    """Look at what comes through the first or last index of an axis alone: in a sequence that is a single step."""
    p = f.parts
    if p is None:
        return
    for name, size, index in p.axes():
        for k in (0, size - 1) if size > 1 else ():
            rows = index == k
            analytic, numeric, bars = (m[rows].sum(axis=0).reshape(p.shape) for m in (p.analytic, p.numeric, p.bars))
            wrong = np.asarray(p.wrong[rows].any(axis=0)).reshape(p.shape)
            part = replace(f, analytic=analytic, numeric=numeric, bars=bars / BARS, wrong=wrong, paths=lambda: None)
            found = hint(replace(part, out=(), dout=(), others=(), right=())) if wrong.sum() > 1 else ""
            if found:
                yield f"in what comes through index {k} of {name}: {found}"
                return


@on_paths
def begins(f: Finding, p: Paths) -> Iterator[str]:
    """Along an axis on which outputs depend on earlier elements, say from which index on it is wrong."""
    beside = {name for _, name, same in _pairs(p) if not (p.real & ~same).any()}
    for name, size, index in p.axes():
        bad = np.array([p.wrong[index == k].any() for k in range(size)])
        turns = np.flatnonzero(np.diff(bad.astype(int)))
        if size > 2 and len(turns) == 1 and name not in beside:
            k = int(turns[0])
            first, then = ("right", "wrong") if bad[-1] else ("wrong", "right")
            if bad[-1] or p.real[index > k].any():
                yield f"what comes through {name} is {first} up to index {k}, and {then} from index {k + 1} on"
                return
