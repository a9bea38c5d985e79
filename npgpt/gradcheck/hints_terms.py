"""Terms that are missing or too many: another gradient, a multiple of dout, what a mean or a variance gives."""

import itertools
from collections.abc import Iterator

import numpy as np

from .hints_factors import factor, other_axes, sizes_of
from .hints_finding import Finding, fit

# --- terms: the difference of the two gradients


def copies(f: Finding) -> Iterator[str]:
    """It is another argument's gradient, or dout, alone or times an argument, as it came or summed."""
    for name, other in () if f.whole else f.sampled:
        if other.shape == f.analytic.shape and f.fits_sample(f.analytic, other):
            yield f"it is the gradient of {name}: the two are swapped, or one is returned twice"
            return
    if f.whole and f.analytic.size > 1:
        yield from _another(f)
        if f.wrong[np.abs(f.numeric) > f.limit].all():
            yield from _dout(f)


def _another(f: Finding) -> Iterator[str]:
    for name, other in f.others:
        for turned, text in ((other, ""), (other.T, ", transposed")):
            if turned.shape == f.analytic.shape and np.any(other) and f.explained(turned, f.limit):
                yield f"it is the gradient of {name}{text}: the two are swapped, or one is returned twice"
                return


def _dout(f: Finding) -> Iterator[str]:
    for name, dout in f.dout:
        for times, product in _products(f, dout):
            for axes, value in _sums(product):
                if dout.size > 1 and value.shape == f.analytic.shape and f.explained(value):
                    where = f", summed over {axes}" if axes else other_axes(f, dout, times.removeprefix(" times "))
                    yield f"it is {name}{times}{where if axes or times else ': handed on as it came'}"
                    return


def matrix_product(f: Finding) -> Iterator[str]:
    """It is dout @ w where it should be dout @ w.T, or the other way round: told by the numbers that were looked at."""
    for (name, dout), (called, w) in itertools.product(f.dout, f.arguments):
        square = w.ndim == 2 and dout.ndim > 1 and w.shape == (dout.shape[-1],) * 2 and dout.shape == f.analytic.shape
        for one, other, t, should in ((w, w.T, "", ".T"), (w.T, w, ".T", "")) if square else ():
            if f.explained(dout @ one, f.limit) and f.fits_sample(dout @ other, f.numeric):
                yield f"it is {name} @ {called}{t}, and should be {name} @ {called}{should}: transposed"
                return


def _products(f: Finding, dout: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield dout, and dout times each argument or output."""
    yield "", dout
    for name, value in (*f.arguments, *f.out):
        spread = fit(value, dout.shape)
        if spread is not None and value.size > 1:
            yield f" times {name}", dout * spread


def _sums(dout: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield dout and its sums over each choice of axes, with their names."""
    yield "", dout
    for count in range(1, dout.ndim):
        for axes in itertools.combinations(range(dout.ndim), count):
            text = f"axis {axes[0]}" if count == 1 else f"axes {', '.join(map(str, axes))}"
            yield text, dout.sum(axis=axes)


def multiples(f: Finding) -> Iterator[str]:
    """The difference is a multiple of dout, of an argument, or of another gradient: a - n = k v."""
    if not f.whole or np.count_nonzero(f.wrong) < 3:
        return
    for kind, arrays in (("dout", f.dout), ("argument", f.arguments), ("gradient", f.others), ("out", f.out)):
        for name, value in arrays:
            v = fit(value, f.analytic.shape)
            if v is None or value.size < 2 or value.ndim < f.analytic.ndim or np.ptp(value) == 0:
                continue
            k = float(np.sum(f.difference * v) / np.sum(v * v))
            if k and f.explained_difference(k * v):
                yield _multiple(f, kind, name, k)
                return


def _multiple(f: Finding, kind: str, name: str, k: float) -> str:
    """Say that k times an array is missing or too many."""
    called = f"the gradient of {name}" if kind == "gradient" else name
    if kind == "argument" and len(f.dout) == 1 and f.dout[0][1].size == 1:  # a loss: k is a coefficient of it
        k, called = k / f.dout[0][1].item(), f"{name} times {f.dout[0][0]}"
        size = f"{abs(k):.6g}"
    else:
        size = factor(abs(k), 1e-12, sizes_of(f)) or f"{abs(k):.6g}"
    many = f"{called} is" if abs(abs(k) - 1) < 1e-9 else f"{size} times {called} is"
    path = ": a skip connection, or another path that hands it on" if kind == "dout" else ""
    return f"{many} {'missing' if k < 0 else 'too many'}{path}"


def constant_terms(f: Finding) -> Iterator[str]:
    """The difference is the same number everywhere, or along one axis: a[i, j] - n[i, j] = c[i]."""
    if not f.whole or f.analytic.size < 3:
        return
    everywhere = float(np.median(f.difference))
    if f.explained_difference(np.full(f.analytic.shape, everywhere)):
        yield f"the same number, {abs(everywhere):.6g}, is {'missing' if everywhere < 0 else 'too many'} everywhere"
        return
    for axis in range(f.analytic.ndim):
        middle = np.median(f.difference, axis=axis, keepdims=True) + 0 * f.difference
        if f.analytic.shape[axis] > 1 and f.explained_difference(middle):
            yield f"a term is missing or too many that is constant along axis {axis}: a mean or sum over that axis?"
            return


def terms_along_axis(f: Finding) -> Iterator[str]:
    """Along an axis the difference is a multiple of an argument or output, or the sum of such a term and a constant.

    a[i, j] - n[i, j] = c[i] + k[i] v[i, j]: what goes through a mean, and through a variance or a norm.
    """
    if not f.whole:
        return
    shape = f.analytic.shape
    for constant in (False, True):
        for name, value in _directions(f):
            for axis in range(f.analytic.ndim):
                if shape[axis] < (4 if constant else 3):
                    continue
                if _along(f, value, axis, constant):
                    more = "one that is constant and one that is" if constant else "one that is"
                    s = "terms are" if constant else "a term is"
                    yield (
                        f"{s} missing or wrong along axis {axis}: {more} a multiple of {name}, as what goes through a "
                        "variance, norm or softmax is"
                    )
                    return


def _directions(f: Finding) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what a term through a norm or softmax is a multiple of: an argument or output, centred too, or its exp."""
    for name, value in f.candidates:
        if value.shape == f.analytic.shape:
            yield name, value
    for name, value in f.candidates:
        if dict(f.out).get(name) is not None:
            with np.errstate(over="ignore"):
                yield f"exp({name})", np.exp(value)
    for name, value in f.candidates:
        for axis in range(value.ndim):
            yield f"{name} less its mean", value - value.mean(axis=axis, keepdims=True)


def _along(f: Finding, value: np.ndarray, axis: int, constant: bool) -> bool:
    """Return whether along an axis the difference is a multiple of the value, and a constant besides if asked."""
    d, v = f.difference, value
    if not np.isfinite(v).all():
        return False
    rest = np.zeros_like(d)
    if constant:
        rest = d.mean(axis=axis, keepdims=True) + rest
        v = v - v.mean(axis=axis, keepdims=True)
    square = (v * v).sum(axis=axis, keepdims=True)
    with np.errstate(all="ignore"):
        k = np.where(square > 0, ((d - rest) * v).sum(axis=axis, keepdims=True) / square, 0.0)
    return f.explained_difference(k * v + rest)


def digits(f: Finding) -> Iterator[str]:
    """The wrong elements are numbers of less precision than the code computes in."""
    wrong, right = f.analytic[f.wrong & f.known], f.numeric[f.wrong & f.known]
    for kind in (np.float16,) if f.single else (np.float16, np.float32):
        close = (
            30 * np.finfo(kind).eps * np.max(np.abs(right), initial=0.0)
        )  # some tens of roundings; 2 and 3 are short
        with np.errstate(over="ignore"):
            few = len(np.unique(np.abs(wrong))) <= 2
            if not few and (wrong == wrong.astype(kind)).all() and (np.abs(wrong - right) <= close).all():
                yield f"the wrong elements are numbers of {np.dtype(kind)}: rounded on the way"
                return


def clipped(f: Finding) -> Iterator[str]:
    """The wrong elements are all as large as the largest, and should be larger."""
    top = np.max(np.abs(f.analytic), initial=0.0)
    a, n = f.analytic[f.wrong & f.known], f.numeric[f.wrong & f.known]
    if len(a) > 1 and top > 0 and np.ptp(n) > 0 and ((np.abs(a) == top) & (n * np.sign(a) > top)).all():
        yield f"no element is larger than {top:.6g}, and the wrong ones should be: clipped"
