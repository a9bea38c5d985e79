"""What is dead: parameters that no output depends on, outputs that nothing moves, and gradients that are zero."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .check import own_generator
from .conduct import UNSEEDED
from .gradients import matched
from .numeric import EPS, largest
from .problem import argument_names, random_cotangent
from .report import ArgumentReport, Report, Unchecked
from .tree import convert, copied, is_floats, kind_of, leaf_at, leaves, map_leaves

DOUTS = 3  # a gradient that is zero for so many random douts is zero
SMALL, MOVES = 1e-4, (1e-4, 1.0, 100.0)  # in multiples of an array's spread
SHOWN = 8  # so many rows or elements are listed
LABELS = ("dead", "elements")


def find_dead(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    *args: Any,
    rng: np.random.Generator | None = None,
) -> Report:
    """Find arguments that no output depends on, outputs that no argument moves, and gradients that are exactly zero.

    forward   `out, cache = forward(*args)`, out an array, or a dict, tuple or list of them
    backward  `gradients = backward(dout, cache)`, as for check_backward; None counts as zero
    args      arrays, or dicts, tuples and lists of them; floats are converted to float64, all else is handed on
    rng       draws dout and moves; by default seeded with 0

    An element of an argument is dead if its gradient is zero for three random douts, and one of an output if it stays
    the same while all arguments move a little. The table counts them, and the notes name rows, columns and elements. To
    be dead is often right: an embedding that no id names, the padding of a mask. So the verdict is

    - "fail" only for what contradicts itself: the gradient is zero, and outputs move in proportion to the argument. It
      is detached, and never learns
    - "inconclusive" for an array that is dead as a whole
    - "pass" for all others, dead rows and elements among them

    All is "inconclusive" if two calls of forward differ, or if an output is NaN. The relative error of the table
    is the share of dead elements, and the index is that of the first.

    Raises ValueError if no argument or no output holds floats, or for a gradient of the wrong shape.
    """
    rng = own_generator(rng)
    names = argument_names(forward, len(args))
    subject = Subject(
        forward, backward, [map_leaves(lambda leaf: convert(leaf, np.float64), arg) for arg in args], names
    )
    subject.refuse_no_floats()
    arrays, outs, again = subject.arrays(), subject.outs({}), subject.outs({})
    gradients = subject.gradients(rng)
    obstacle = "" if _close(outs, again) else UNSEEDED
    if not obstacle and any(np.isnan(out).any() for out in outs.values()):
        obstacle = "an output is NaN at these arguments"
    if obstacle:
        every = {**arrays, **outs}
        rows = [_row(name, np.zeros(array.shape, bool), "inconclusive", obstacle) for name, array in every.items()]
        return Report(tuple(rows), not_checked=subject.unchecked(), labels=LABELS)
    arrays, outs = _with_elements(arrays), _with_elements(outs)
    found = [_argument(subject, name, gradients[name] == 0, outs, rng) for name in arrays]
    moved = [subject.outs({name: _moved(array, SMALL, rng) for name, array in arrays.items()}) for _ in range(2)]
    found += [_output(name, np.all([other[name] == out for other in moved], axis=0)) for name, out in outs.items()]
    notes = tuple(note for _, note in found if note)
    return Report(tuple(row for row, _ in found), notes=notes, not_checked=subject.unchecked(), labels=LABELS)


@dataclass(frozen=True, eq=False)
class Subject:
    """A pair of functions at its arguments."""

    forward: Callable
    backward: Callable
    args: list[Any]
    names: list[str]

    def refuse_no_floats(self) -> None:
        if not self.arrays():
            raise ValueError("no argument is an array of floats: there is nothing that could be dead")
        if not _with_elements(self.outs({})):
            raise ValueError("out holds no floats: there is nothing that an argument could move")

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of floats among the arguments, by their names."""
        pairs = zip(self.args, self.names, strict=True)
        return {name: leaf for arg, own in pairs for name, leaf in leaves(arg, own) if is_floats(leaf)}

    def outs(self, replaced: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs that are floats, in float64, with some arrays replaced."""
        out = self._run(replaced)[0]
        return {name: np.asarray(leaf, np.float64) for name, leaf in leaves(out, "out") if _is_float(leaf)}

    def gradients(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return how large the gradient of each array is for any of some random douts."""
        found = {name: np.zeros(array.shape) for name, array in self.arrays().items()}
        floats = [i for i, arg in enumerate(self.args) if any(is_floats(leaf) for _, leaf in leaves(arg))]
        for _ in range(DOUTS):
            out, cache = self._run({})
            with np.errstate(all="ignore"):
                given = self.backward(random_cotangent(out, rng), cache)
            for i, tree in zip(floats, matched(given, self.args, self.names, floats), strict=True):
                named = leaves(self.args[i], self.names[i])
                for (name, leaf), gradient in zip(named, leaf_at(self.args[i], tree), strict=True):
                    if is_floats(leaf) and gradient is not None:
                        if np.shape(gradient) != leaf.shape:
                            raise ValueError(f"the gradient of {name} is {np.shape(gradient)}, and {name} {leaf.shape}")
                        # not a maximum, which NaN would spoil: NaN is not zero
                        found[name] = np.where(np.asarray(gradient) == 0, found[name], 1.0)
        return found

    def unchecked(self) -> tuple[Unchecked, ...]:
        out = self._run({})[0]
        others = [(name, leaf) for name, leaf in leaves(out, "out") if not _is_float(leaf)]
        empty = [(name, array) for name, array in {**self.arrays(), **self.outs({})}.items() if not array.size]
        return (
            *(Unchecked(name, kind_of(leaf), "not watched, because it is not floats") for name, leaf in others),
            *(Unchecked(name, kind_of(array), "it has no elements") for name, array in empty),
        )

    def _run(self, replaced: dict[str, np.ndarray]) -> tuple[Any, Any]:
        args = []
        for arg, own in zip(self.args, self.names, strict=True):
            every = iter([copied(replaced.get(name, leaf)) for name, leaf in leaves(arg, own)])
            args.append(map_leaves(lambda _, every=every: next(every), arg))  # type: ignore[misc]
        with np.errstate(all="ignore"):
            result = self.forward(*args)
        if not (isinstance(result, tuple) and len(result) == 2):
            kind = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise TypeError(f"forward must return a pair, (out, cache), but returned {kind}")
        return result


def _argument(
    subject: Subject, name: str, dead: np.ndarray, outs: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[ArgumentReport, str]:
    """Return the row of one array, and a note on what is dead in it; dead is where its gradient is zero."""
    if dead.any() and _proportional(subject, name, dead, outs, rng):
        what = "its gradient" if dead.all() else f"the gradient of {which(dead)}"
        return _row(name, dead, "fail", f"{what} is zero, but outputs move in proportion: it is detached"), ""
    if not _moves(subject, name, outs, rng):
        return _row(name, np.ones_like(dead), "inconclusive", "no output depends on it"), ""
    if dead.all():
        reason = "its gradient is zero: what it feeds is off, or it is at a stationary point"
        return _row(name, dead, "inconclusive", reason), ""
    return _row(name, dead, "pass"), f"{name}: the gradient of {which(dead)} is zero" if dead.any() else ""


def _output(name: str, dead: np.ndarray) -> tuple[ArgumentReport, str]:
    if dead.size and dead.all():
        return _row(name, dead, "inconclusive", "no argument moves it"), ""
    return _row(name, dead, "pass"), f"{name}: no argument moves {which(dead)}" if dead.any() else ""


def _proportional(
    subject: Subject, name: str, dead: np.ndarray, outs: dict[str, np.ndarray], rng: np.random.Generator
) -> bool:
    """Return whether outputs move in proportion to what is said to have no gradient, to both sides alike."""
    array = subject.arrays()[name]
    direction = np.where(dead, _moved(array, 1.0, rng) - array, 0.0)

    def change(step: float) -> np.ndarray:
        moved = subject.outs({name: np.asarray(array + step * direction, array.dtype)})
        parts = []
        for key, out in outs.items():
            with np.errstate(all="ignore"):
                difference = moved[key] - out
                parts.append(np.where(np.abs(difference) <= 64 * EPS * np.abs(out), 0.0, difference).ravel())
        return np.nan_to_num(np.concatenate(parts), posinf=0.0, neginf=0.0)

    right, left, nearer = change(SMALL), -change(-SMALL), 4 * change(SMALL / 4)
    size = float(np.linalg.norm(right))
    return size > 0 and all(float(np.linalg.norm(right - other)) <= 0.1 * size for other in (left, nearer))


def _moves(subject: Subject, name: str, outs: dict[str, np.ndarray], rng: np.random.Generator) -> bool:
    """Return whether an output changes with an array by more than rounding does to what all arrays change."""
    arrays = subject.arrays()
    for move in MOVES:
        targets = {key: _moved(array, move, rng) for key, array in arrays.items()}
        try:
            alone, together = subject.outs({name: targets[name]}), subject.outs(targets)
        except Exception:  # whatever a forward may raise at arguments that it is not made for
            continue
        for key, out in outs.items():
            own, others = (_change(other[key], out) for other in (alone, together))
            # what never moves, such as the constant of a mask, may be of any size
            size = largest(out[(together[key] != out) & np.isfinite(out)])
            if own > 64 * EPS * max(others if np.isfinite(others) else 0.0, size):
                return True
    return False


def _change(one: np.ndarray, other: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        change = np.where(one == other, 0.0, np.abs(one - other))
    return largest(np.nan_to_num(change, nan=np.inf))


def _moved(array: np.ndarray, move: float, rng: np.random.Generator) -> np.ndarray:
    spread, size = float(np.std(array)) if array.size else 0.0, largest(array)
    scale = spread if spread > 1e-6 * size else size or 1.0
    return np.asarray(array + move * scale * rng.standard_normal(array.shape), array.dtype)


def _with_elements(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if array.size}


def which(dead: np.ndarray) -> str:
    """Return in words which elements are dead: rows and columns, and the elements besides.

    >>> which(np.array([[True, True], [True, False]]))
    'row 0 and element (1, 0)'
    """
    parts, rest = [], dead.copy()
    for axis in range(dead.ndim if dead.ndim > 1 else 0):
        others = tuple(k for k in range(dead.ndim) if k != axis)
        whole = dead.all(axis=others)
        if whole.any() and rest.any():
            word = ("row", "column")[axis] if dead.ndim == 2 else "index"
            places = _listed(word, [str(i) for i in np.flatnonzero(whole)])
            parts.append(places if dead.ndim == 2 else f"{places} of axis {axis}")
            rest &= ~np.expand_dims(whole, others)
    if rest.any():
        parts.append(_listed("element", [str(tuple(map(int, i))).replace(",)", ")") for i in np.argwhere(rest)]))
    return " and ".join(parts)


def _listed(word: str, items: list[str]) -> str:
    plural = {"index": "indices"}.get(word, word + "s")
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{word if len(items) == 1 else plural} {', '.join(items[:SHOWN])}{more}"


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | np.number | float) and np.asarray(leaf).dtype.kind == "f"


def _close(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.allclose(one[name], other[name], rtol=1e-6, atol=0, equal_nan=True) for name in one)


def _row(name: str, dead: np.ndarray, verdict: str, reason: str = "") -> ArgumentReport:
    count, size = int(dead.sum()), dead.size
    share = count / size if size else 0.0
    first = tuple(int(i) for i in np.argwhere(dead)[0]) if count else None
    return ArgumentReport(name, dead.shape, verdict, share, 0.0, first, count, size, reason, checked=size, size=size)
