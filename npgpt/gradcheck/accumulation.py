"""Gradient accumulation: a batch in parts must give what the whole batch gives."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .check import own_generator
from .conduct import UNSEEDED
from .moves import agree
from .numeric import EPS, largest
from .report import ArgumentReport, Report, without_numbers
from .tree import convert, copy_tree, is_floats, leaves, map_leaves

SURE = 20  # a difference beyond so many times the measured rounding is no rounding
LABELS = ("found", "expected")


def check_accumulation(
    whole: Callable | tuple[Callable, Callable],
    accumulated: Callable[[Any, list[Any]], Any],
    params: Any,
    batch: Any,
    *,
    axis: int = 0,
    parts: int | Sequence[int] | None = None,
    masked: int = -100,
    dtype: Any = np.float64,
    rng: np.random.Generator | None = None,
) -> Report:
    """Check that a loss and its gradients, accumulated over the parts of a batch, are those of the whole batch.

    whole        `loss, grads = whole(params, batch)`, or a pair: `loss, cache = forward(params, batch)` and
                 `grads = backward(1.0, cache)`
    accumulated  `loss, grads = accumulated(params, parts)`, your own loop over a list of batches, with your own weights
    params       arrays, or dicts, tuples and lists of them
    batch        the same; all arrays in it are split along the axis, numbers and None are handed on
    parts        into how many equal parts the batch is split, or their sizes; by default every possible number of
                 equal parts is tried, with one among them
    masked       the integer that marks a masked target. It only says whether parts differ in how many they have
    dtype        floats are converted to it

    The usual slip is the mean of the parts' means, which weights a target by how many others its part has. It is right
    where all parts have the same number. So the batch is also split with its most masked samples first, and once
    shuffled. The verdict is "inconclusive" if the plain mean of `whole` over the parts is right all the same and no
    array has more masked elements (the integer `masked`, False, or a zero among floats) in one part than in another. It
    is also "inconclusive" for a batch of one sample, for two calls that differ, and for results that are zero, infinite
    or NaN.

    Raises ValueError for arrays of different sizes along the axis, or results of different structure.
    """
    rng = own_generator(rng)
    if isinstance(whole, tuple):
        whole = _from_pair(*whole)
    params, batch = (map_leaves(lambda leaf: convert(leaf, dtype), tree) for tree in (params, batch))
    length = _length(batch, axis)
    trial = Trial(whole, accumulated, params, axis, masked)
    results = trial.whole_of(batch)
    if length < 2:
        return _nothing(results, f"there is {length} sample: it has no parts")
    if not all(map(agree, results, trial.whole_of(batch))):
        return _nothing(results, UNSEEDED)
    rows, tested = trial.worst(batch, length, parts, rng)
    passed = all(row.verdict == "pass" for row in rows)
    if passed and not any(result.array.any() for result in results):
        return _nothing(results, "loss and gradients are zero")
    if passed and not tested:
        return _nothing(results, "the plain mean of the parts is right too: mask more targets in one than in another")
    return Report(rows, labels=LABELS)


@dataclass(frozen=True)
class Result:
    """One array of a result, in float64, and the rounding of a number near 1 in its own precision."""

    name: str
    array: np.ndarray
    unit: float


@dataclass(frozen=True, eq=False)
class Trial:
    """The two functions that are compared."""

    whole: Callable
    accumulated: Callable
    params: Any
    axis: int
    masked: int

    def whole_of(self, batch: Any, params: Any = None) -> list[Result]:
        with np.errstate(all="ignore"):
            return _results(self.whole(copy_tree(self.params if params is None else params), copy_tree(batch)))

    def worst(
        self, batch: Any, length: int, parts: int | Sequence[int] | None, rng: np.random.Generator
    ) -> tuple[tuple[ArgumentReport, ...], bool]:
        """Return the worst row of each array over all splits, and whether any split could tell a mean of means."""
        worst: dict[str, ArgumentReport] = {}
        tested = False
        for order in (np.arange(length), self.uneven(batch, length), rng.permutation(length)):
            shuffled = _taken(batch, order, self.axis)
            for sizes in _splits(length, parts):
                pieces = [_taken(shuffled, np.arange(end - size, end), self.axis) for size, end in _ends(sizes)]
                rows, plain = self.compare(shuffled, pieces, rng)
                tested = tested or not plain or self.unequal(pieces)
                for row in rows:
                    if row.name not in worst or _rank(row) > _rank(worst[row.name]):
                        worst[row.name] = row
        return tuple(worst.values()), tested

    def compare(self, batch: Any, pieces: list[Any], rng: np.random.Generator) -> tuple[list[ArgumentReport], bool]:
        """Return a row for each array of the results, and whether the plain mean over the parts is right as well."""
        wanted, each = self.whole_of(batch), [self.whole_of(piece) for piece in pieces]
        with np.errstate(all="ignore"):
            given = _results(self.accumulated(copy_tree(self.params), [copy_tree(piece) for piece in pieces]))
        if [result.name for result in wanted] != [result.name for result in given]:
            names = [", ".join(result.name for result in results) for results in (given, wanted)]
            raise ValueError(f"accumulated returns {names[0]}, but the whole {names[1]}")
        noise = [0.0] * len(wanted)
        for _ in range(3):
            moved = self.whole_of(_jiggled(batch, rng), _jiggled(self.params, rng))
            noise = [max(n, _distance(a.array, b.array)) for n, a, b in zip(noise, wanted, moved, strict=True)]
        rows, plain = [], True
        for want, got, level, *parts in zip(wanted, given, noise, *each, strict=True):
            row, right = _compare(want, got, level, [part.array for part in parts])
            rows.append(row)
            plain = plain and right
        return rows, plain

    def masked_in(self, batch: Any) -> tuple[int, ...]:
        """Return how many elements of each array are masked."""

        def count(array: np.ndarray) -> int:
            return int(np.sum(array == self.masked if array.dtype.kind in "iu" else array == 0))

        return tuple(count(leaf) for _, leaf in leaves(batch) if _splits_up(leaf))

    def unequal(self, pieces: list[Any]) -> bool:
        """Return whether an array has more masked elements in one part than in another."""
        return len(set(map(self.masked_in, pieces))) > 1

    def uneven(self, batch: Any, length: int) -> np.ndarray:
        """Return the order in which samples with many masked elements come first."""
        counts = [sum(self.masked_in(_taken(batch, np.array([i]), self.axis))) for i in range(length)]
        return np.argsort(counts)[::-1]


def _compare(want: Result, got: Result, noise: float, parts: list[np.ndarray]) -> tuple[ArgumentReport, bool]:
    """Return the row of one array of the results, and whether the plain mean of the parts is right as well."""
    name, shape, count = want.name, want.array.shape, len(parts)
    if any(array.shape != shape for array in (got.array, *parts)):
        shapes = ", ".join(str(array.shape) for array in (want.array, got.array, *parts))
        return without_numbers(
            name, shape, "fail", f"its shapes in the whole, accumulated and in {count} parts: {shapes}"
        ), False
    if not np.isfinite(want.array).all():
        return without_numbers(name, shape, "inconclusive", "it is infinite or NaN for the whole batch"), True
    scale = max(largest(array) for array in (want.array, *parts) if np.isfinite(array).all())
    allowed = 256 * max(want.unit, got.unit) * scale + SURE * noise
    with np.errstate(all="ignore"):
        total = np.sum(parts, axis=0)
        difference = np.abs(got.array - want.array)
    plain = _distance(want.array, total / count) <= allowed
    if want.array.size == 0:
        return without_numbers(name, shape, "pass", ""), plain
    difference = np.where(np.isfinite(difference), difference, np.inf)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(difference)), shape))
    wrong = bool(difference[at] > allowed)
    row = ArgumentReport(
        name,
        shape,
        "fail" if wrong else "pass",
        float(difference[at]) / scale if scale else 0.0,
        allowed / scale if scale else 0.0,
        at,
        float(got.array[at]),
        float(want.array[at]),
        f"in {count} parts it is not that of the whole batch" if wrong else "",
        _hint(got.array, total, parts, allowed) if wrong and count > 1 else "",
        checked=want.array.size,
        size=want.array.size,
    )
    return row, plain


def _hint(got: np.ndarray, total: np.ndarray, parts: list[np.ndarray], allowed: float) -> str:
    """Return what the accumulated result is instead, if it is one of the usual things."""
    guesses = {
        "it is the mean of the parts' own: weight each by its number of unmasked targets": total / len(parts),
        "it is the sum of the parts' own": total,
        "it is that of the last part alone": parts[-1],
        "it is that of the last part, over the number of parts": parts[-1] / len(parts),
        "it is that of the first part alone": parts[0],
        "it is the sum of the parts' own without the last": total - parts[-1],
    }
    return next((text for text, guess in guesses.items() if _distance(got, guess) <= allowed), "")


def _from_pair(forward: Callable, backward: Callable) -> Callable:
    def whole(params: Any, batch: Any) -> tuple[Any, Any]:
        loss, cache = forward(params, batch)
        return loss, backward(np.ones_like(loss)[()], cache)

    return whole


def _results(result: Any) -> list[Result]:
    if not (isinstance(result, tuple) and len(result) == 2):
        kind = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise TypeError(f"a pair (loss, grads) must be returned, and not {kind}")
    found = []
    for name, leaf in (*leaves(result[0], "loss"), *leaves(result[1], "grads")):
        if leaf is not None:
            array = np.asarray(leaf)
            unit = float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else EPS
            found.append(Result(name, array.astype(np.float64), unit))
    return found


def _jiggled(tree: Any, rng: np.random.Generator) -> Any:
    """Return the same with its floats changed in their last places, as rounding could change them."""

    def jiggle(leaf: Any) -> Any:
        if not is_floats(leaf):
            return leaf
        error = 4 * float(np.finfo(leaf.dtype).eps) * rng.uniform(-1, 1, leaf.shape)
        return np.asarray(leaf * (1 + error), leaf.dtype)[()]

    return map_leaves(jiggle, tree)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        difference = one - other
    return largest(difference) if np.isfinite(difference).all() else math.inf


def _splits_up(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.ndim > 0


def _length(batch: Any, axis: int) -> int:
    """Return the size that all arrays of the batch have along the axis."""
    sizes = {}
    for name, leaf in leaves(batch, "batch"):
        if _splits_up(leaf):
            if not -leaf.ndim <= axis < leaf.ndim:
                raise ValueError(f"{name} has the shape {leaf.shape}, and so no axis {axis}")
            sizes[name] = leaf.shape[axis]
    if not sizes:
        raise ValueError("the batch holds no arrays: there is nothing to split")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the sizes along axis {axis} differ: " + ", ".join(f"{k} {v}" for k, v in sizes.items()))
    return next(iter(sizes.values()))


def _taken(batch: Any, places: np.ndarray, axis: int) -> Any:
    return map_leaves(lambda leaf: np.take(leaf, places, axis=axis) if _splits_up(leaf) else leaf, batch)


def _splits(length: int, parts: int | Sequence[int] | None) -> Iterator[list[int]]:
    """Yield the sizes of the parts, one list for each way to split a batch of that length."""
    if parts is None:
        counts = [n for n in range(1, length + 1) if length % n == 0]
    elif isinstance(parts, int):
        counts = [parts]
        if parts < 1 or length % parts:
            raise ValueError(f"a batch of {length} cannot be split into parts={parts} equal ones; give their sizes")
    else:
        sizes = [int(size) for size in parts]
        if sum(sizes) != length or min(sizes) < 1:
            raise ValueError(f"parts={sizes} do not add up to the batch of {length}")
        yield sizes
        return
    for count in counts:
        yield [length // count] * count


def _ends(sizes: list[int]) -> Iterator[tuple[int, int]]:
    return zip(sizes, np.cumsum(sizes).tolist(), strict=True)


def _rank(row: ArgumentReport) -> tuple[int, float]:
    """Return what makes one row worse than another."""
    return ("pass", "inconclusive", "fail").index(row.verdict), row.relative_error


def _nothing(results: list[Result], reason: str) -> Report:
    rows = tuple(without_numbers(result.name, result.array.shape, "inconclusive", reason) for result in results)
    return Report(rows, labels=LABELS)
