"""Factors by which a wrong gradient is off: one for all, one for each index, or a function of an argument or output."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from .hints_finding import Finding
from .numeric import EPS

# --- factors


def factor(ratio: float, off: float, sizes: set[int], few: bool = False) -> str:
    """Name a factor: the sign, a small number, the size of an axis, one over it or its root, (n - 1) / n; or nothing.

    off    how far it may be off, relative
    few    whether it rests on one number: then only what is simple or the size of an axis is named

    >>> factor(1 / 7, 1e-12, {5, 7})
    '1/7 (7 is the size of an axis)'
    """
    if off > 1e-5:
        return ""
    near = max(8 * off, 16 * EPS)

    def among(numbers: Iterable[int]) -> str:
        for n in numbers:
            for value, text in _forms(n, few, n in sizes):
                if abs(abs(ratio) / value - 1) <= near:
                    where = f" ({n} is the size of an axis)" if n in sizes else ""
                    return f"{'-' if ratio < 0 else ''}{text}{where}"
        return ""

    if abs(ratio + 1) <= near:
        return "-1 (the sign)"
    if near > 1e-7:  # among so many names one is always near
        return ""
    for value, text in ((2.0, "2"), (0.5, "1/2")):
        if abs(abs(ratio) - value) <= near * value:
            return f"{'-' if ratio < 0 else ''}{text}"
    return among(sorted(sizes)) or ("" if few else among(range(2, 65)))


def _forms(n: int, few: bool, is_size: bool) -> Iterator[tuple[float, str]]:
    yield from ((float(n), f"{n}"), (1 / n, f"1/{n}"))
    if few:
        return
    yield from ((math.sqrt(n), f"sqrt({n})"), (n**-0.5, f"1/sqrt({n})"))
    if is_size and n > 3:
        yield from (((n - 1) / n, f"({n} - 1)/{n}"), (n / (n - 1), f"{n}/({n} - 1)"))
        yield from ((float(n * n), f"{n}^2"), (1 / (n * n), f"1/{n}^2"))


def _share(f: Finding, ratio: float, off: float) -> str:
    """Name the share of the rows that count: of ids those that are not negative, of a mask those that are true."""
    for name, array in f.integers:
        count = int(np.sum(array if array.dtype.kind == "b" else array >= 0))
        if 0 < count < array.size and abs(ratio * array.size / count - 1) <= max(8 * off, 16 * EPS):
            which = "true" if array.dtype.kind == "b" else "not negative"
            return f"{count}/{array.size} (of {array.size} in {name} {count} are {which})"
    return ""


def sizes_of(f: Finding) -> set[int]:
    """Return the sizes of all axes of arguments and outputs, and of the arrays themselves."""
    arrays = [f.analytic, *(array for _, array in (*f.arguments, *f.integers, *f.out))]
    products = {
        math.prod(part) for a in arrays for n in range(1, a.ndim + 1) for part in itertools.combinations(a.shape, n)
    }
    return {n for n in products if n > 2}


def ratio_of(f: Finding, where: np.ndarray) -> tuple[float, float] | None:
    """Return the one factor of the elements at `where`, and how far it may be off; None if they have no one factor."""
    a, n, bars = f.analytic[where], f.numeric[where], f.bars[where]
    size = float(np.linalg.norm(n))
    if not size > 0 or not np.linalg.norm(bars) <= 1e-2 * size:
        return None
    ratio = float(a @ n / (n @ n))
    off = float(np.linalg.norm(bars)) / size
    model = np.where(where, ratio * np.where(f.known, f.numeric, 0.0), f.analytic)
    return (ratio, off) if f.explained(model) else None


def times(f: Finding, where: np.ndarray) -> str:
    """Return by what factor the elements at `where` are off, as far as their numbers prove one; or nothing."""
    found = ratio_of(f, where)
    if found is None:
        return ""
    ratio, off = found
    count = int(np.sum(where & (np.abs(np.where(f.known, f.numeric, 0.0)) > BEYOND * f.bars)))
    name = factor(ratio, off, sizes_of(f), few=count < 2)
    name = name or _number(f, ratio, off)
    if count < 2:
        return f"may be {name}" if name else ""
    if name in ("2", "1/2"):
        return name
    return _share(f, ratio, off) or name or (f"{ratio:.9g}" if off < 1e-6 and count > 2 else "")


def _number(f: Finding, ratio: float, off: float) -> str:
    """Name a factor that is a power of an argument that is a single number, such as a temperature."""
    near = max(8 * off, 16 * EPS)
    numbers = [(name, abs(value.item())) for name, value in f.arguments if value.size == 1] if near < 1e-8 else []
    for name, v in numbers:
        for power, text in ((1, "{}"), (-1, "1/{}"), (2, "{}^2"), (-2, "1/{}^2")):
            if abs(v - 1) > 1e-3 and v > 0 and abs(abs(ratio) / v**power - 1) <= near:
                return f"{'-' if ratio < 0 else ''}{text.format(name)} ({ratio:.6g})"
    return ""


BEYOND = 100  # a number that counts as evidence is this many bars from zero


def one_factor(f: Finding) -> Iterator[str]:
    """Every element is the same number times what it should be: a = r n."""
    found = ratio_of(f, f.known)
    if found and len(f.dout) == 1 and f.dout[0][1].size == 1 and abs(found[0] * f.dout[0][1].item() - 1) < 1e-9:
        yield "it is not multiplied by dout"
        return
    text = times(f, f.known)
    if text.startswith("may be"):
        yield f"it {text} times what it should be"
    elif text:
        yield f"every element is {text} times what it should be"


def factor_by_index(f: Finding) -> Iterator[str]:
    """Along one axis each index has a factor of its own: a[i, j] = r[i] n[i, j]."""
    if not f.whole:
        return
    for axis in range(f.analytic.ndim):
        others = tuple(k for k in range(f.analytic.ndim) if k != axis)
        counts = (np.abs(f.numeric) > BEYOND * f.bars).sum(axis=others)
        if f.analytic.shape[axis] < 2 or not others or counts.max() < 2 or np.median(counts[counts > 0]) < 2:
            continue
        square = (f.numeric**2).sum(axis=others, keepdims=True)
        with np.errstate(all="ignore"):
            r = np.where(square > 0, (f.analytic * f.numeric).sum(axis=others, keepdims=True) / square, 1.0)
        wrong = np.flatnonzero(np.abs(np.ravel(r) - 1) > 1e-6)
        factors = np.ravel(r)[wrong]
        if not len(wrong) or not f.explained(r * f.numeric):
            continue
        named = _named(f, factors, wrong) if axis == 0 else ""
        if named or (len(wrong) > 1 and np.ptp(factors) > 1e-6 * np.max(np.abs(factors))):
            text = named or f", from {factors.min():.6g} to {factors.max():.6g}"
            yield f"each index of axis {axis} has a factor of its own{text}"
            return


def _named(f: Finding, r: np.ndarray, at: np.ndarray) -> str:
    """Name the factors of some indices of axis 0 if they are how often ids name each, or one over it."""
    for name, ids in f.integers:
        if ids.dtype.kind in "iu" and ids.size and ids.min() >= 0:
            counts = np.bincount(ids.ravel(), minlength=int(at.max()) + 1)[at].astype(float)
            if (counts > 1).any() and np.allclose(r * counts, 1, rtol=1e-9):
                return f": one over how often {name} names it"
            if (counts > 1).any() and np.allclose(r, counts, rtol=1e-9):
                return f": how often {name} names it"
    return ""


# What layers multiply dout with: the argument, an activation's derivative by its input or by its output.
FUNCTIONS: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = [
    ("{v}", lambda v: v),
    ("{v}^2", lambda v: v * v),
    ("(1 - {v})", lambda v: 1 - v),
    ("(1 - {v}^2)", lambda v: 1 - v * v),
    ("{v} (1 - {v})", lambda v: v * (1 - v)),
    ("exp({v})", np.exp),
    ("cos({v})", np.cos),
    ("|{v}|", np.abs),
    ("sqrt({v})", np.sqrt),
    ("sigmoid({v})", lambda v: 1 / (1 + np.exp(-v))),
    ("(1 - sigmoid({v}))", lambda v: 1 / (1 + np.exp(v))),
    ("sigmoid({v}) (1 - sigmoid({v}))", lambda v: np.exp(-np.abs(v)) / (1 + np.exp(-np.abs(v))) ** 2),
    ("(1 - tanh({v})^2)", lambda v: 1 - np.tanh(v) ** 2),
]


def factor_by_element(f: Finding) -> Iterator[str]:
    """Each element lacks, or has too many of, a factor that is a function of an argument or output: a = n g(v)."""
    if np.count_nonzero(f.known & (f.numeric != 0)) < 3:
        return
    claimed, right = (_as_product(f, side) for side in (f.analytic, f.numeric))
    if claimed and right:
        yield f"it is dout times {claimed}, and should be dout times {right}"
        return
    for text, function in FUNCTIONS:
        for name, value in f.candidates:
            with np.errstate(all="ignore"):
                g = function(value)
                models = (("missing", f.numeric / g), ("too many", f.numeric * g))
            for what, model in models:
                telling = f.wrong & f.known & (np.abs(model) > BEYOND * f.limit)
                varies = telling.sum() > 2 and np.ptp(g[telling]) > 1e-3 * np.max(np.abs(g[telling]))
                if varies and np.isfinite(model[f.known]).all() and f.explained(model):
                    yield f"the factor {text.format(v=name)} is {what}"
                    return


def product_with_dout(f: Finding) -> Iterator[str]:
    """It is dout times a function of an argument or output, whatever it should be: a = dout g(v)."""
    claimed = _as_product(f, f.analytic)
    if claimed:
        yield f"it is dout times {claimed}{other_axes(f, f.dout[0][1], claimed)}"


def other_axes(f: Finding, dout: np.ndarray, name: str) -> str:
    """Say along which axes of dout a factor should lie, if it lies along the wrong ones."""
    value = dict((*f.arguments, *f.out)).get(name, np.zeros(()))
    for axes in itertools.combinations(range(dout.ndim), value.ndim) if 0 < value.ndim < dout.ndim else ():
        if value.shape == tuple(dout.shape[k] for k in axes):
            turned = np.expand_dims(value, tuple(k for k in range(dout.ndim) if k not in axes))
            if dout.shape == f.numeric.shape and (np.abs(dout * turned - f.numeric) <= f.limit).all():
                return f" along the wrong axes: {name} should lie along axes {', '.join(map(str, axes))}"
    return ""


def _as_product(f: Finding, gradient: np.ndarray) -> str:
    for _, dout in f.dout:
        if dout.shape != f.analytic.shape or not f.whole or not f.sharp:
            continue
        for text, function in FUNCTIONS:
            for name, value in f.candidates:
                with np.errstate(all="ignore"):
                    near = np.abs(gradient - dout * function(value)) <= f.limit
                if near.all() and (np.abs(gradient) > BEYOND * f.limit).sum() > 2:
                    return text.format(v=name)
    return ""
