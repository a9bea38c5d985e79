"""A function whose inputs are moved at some places along an axis, while its results are watched at others."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .gradients import matched
from .numeric import EPS, largest
from .problem import argument_names, random_cotangent
from .report import Unchecked
from .tree import convert, copied, copy_tree, is_floats, kind_of, leaf_at, leaves, map_leaves

GRADIENT = "gradient of "  # and the name of an array: the name of its gradient
OWN = 0.0  # the move that gives each element another value of the same array: within the domain, and right for ids
SURE = 20  # a change beyond so many times the measured rounding is no rounding
WIGGLE = 1e7  # roundings of the largest change
LITTLE = 1e-3  # a share of a move that changes rounding, and hardly what depends on the move

Targets = dict[int, np.ndarray]  # what the input leaves are moved to, by their number among all leaves


@dataclass(frozen=True)
class Change:
    """The largest change of one result, and how much of it rounding explains.

    index         where it is, in the whole array
    found         the value there, and the one that it should have been
    scale         how far the result changes anywhere
    judged        whether the result is finite, and rounding small enough to say anything
    alive         whether anything in it changes by more than rounding
    shape         the result's shape if it has changed, else None
    """

    size: float
    allowed: float
    index: tuple[int, ...] | None
    found: float
    expected: float
    scale: float
    judged: bool = True
    alive: bool = True
    shape: tuple[int, ...] | None = None
    gradient: bool = False

    @property
    def wrong(self) -> bool:
        return self.size > self.allowed

    @property
    def relative(self) -> tuple[float, float]:
        """Return size and allowed as shares of scale."""
        if not np.isfinite(self.size):
            return self.size, 0.0
        return (self.size / self.scale, self.allowed / self.scale) if self.scale else (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Result:
    """One output, or the gradient of one array, in float64.

    axis   along which it may be watched; None for a parameter's gradient, which is watched as a whole
    unit   the rounding of a number near 1 in the precision that it was computed in
    """

    name: str
    array: np.ndarray
    axis: int | None
    unit: float
    gradient: bool = False

    def at(self, places: np.ndarray) -> np.ndarray:
        return self.array if self.axis is None else np.take(self.array, places, axis=self.axis)


@dataclass(frozen=True, eq=False)
class Subject:
    """A forward, its backward if there is one, and the arguments at which both are looked at.

    inputs    the positions of the arguments that are moved
    axis      along which they are, and along which the outputs are watched
    length    the size of both
    outputs   the names of the leaves of out that have this axis in this length
    dout      a random cotangent of out; None without a backward
    unit      the rounding of a number near 1 in the precision of the arguments
    """

    forward: Callable
    backward: Callable | None
    args: list[Any]
    names: list[str]
    inputs: list[int]
    axis: int
    out_axis: int
    length: int
    outputs: frozenset[str] = frozenset()
    dout: Any = None
    unchecked: tuple[Unchecked, ...] = ()
    unit: float = EPS

    @classmethod
    def pose(
        cls,
        forward: Callable,
        backward: Callable | None,
        args: Sequence[Any],
        inputs: int | str | Sequence[int | str],
        axes: tuple[int, int | None],
        moves: Sequence[float],
        dtype: Any,
        rng: np.random.Generator,
    ) -> "Subject":
        """Find the inputs and their length, and run forward once."""
        if np.dtype(dtype).name not in ("float64", "float32"):
            raise ValueError(f"dtype={np.dtype(dtype).name} is not float64 or float32")
        if not all(np.isfinite(move) and move > 0 for move in moves):
            raise ValueError(f"moves={list(moves)} must be positive")
        names = argument_names(forward, len(args))
        args = [map_leaves(lambda leaf: convert(leaf, dtype), arg) for arg in args]
        positions = [_position(key, names) for key in ([inputs] if isinstance(inputs, int | str) else inputs)]
        if not positions:
            raise ValueError("inputs is empty: there is nothing to move")
        axis = axes[0]
        length, unchecked = _length(args, names, positions, axis)
        out_axis = axis if axes[1] is None else axes[1]
        subject = cls(
            forward, backward, args, names, positions, axis, out_axis, length, unit=float(np.finfo(dtype).eps)
        )
        out, _ = subject.run(args)
        outputs = {name for name, leaf in leaves(out, "out") if _has_axis(leaf, out_axis, length)}
        reason = f"not watched, because it is no array of numbers of size {length} along axis {out_axis}"
        others = [Unchecked(name, kind_of(leaf), reason) for name, leaf in leaves(out, "out") if name not in outputs]
        dout = None if backward is None else random_cotangent(out, rng)
        return replace(subject, outputs=frozenset(outputs), dout=dout, unchecked=(*unchecked, *others))

    def run(self, args: list[Any]) -> tuple[Any, Any]:
        """Return out and cache of fresh copies of the arguments."""
        with np.errstate(all="ignore"):
            result = self.forward(*map(copy_tree, args))
        if self.backward is None:
            return result, None
        if not (isinstance(result, tuple) and len(result) == 2):
            kind = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise TypeError(f"with a backward, forward must return a pair, (out, cache), but returned {kind}")
        return result

    def results(self, args: list[Any], watched: np.ndarray) -> list[Result]:
        """Return the outputs, and with a backward the gradients for a dout that is zero but where it is watched."""
        out, cache = self.run(args)
        found = [
            _result(name, leaf, self.out_axis, self.unit) for name, leaf in leaves(out, "out") if name in self.outputs
        ]
        if self.backward is None:
            return found
        with np.errstate(all="ignore"):
            given = self.backward(self._dout_at(watched), cache)
        floats = [i for i, arg in enumerate(args) if any(is_floats(leaf) for _, leaf in leaves(arg))]
        for i, tree in zip(floats, matched(given, args, self.names, floats), strict=True):
            for (name, leaf), gradient in zip(leaves(args[i], self.names[i]), leaf_at(args[i], tree), strict=True):
                if is_floats(leaf) and gradient is not None:
                    if np.shape(gradient) != leaf.shape:
                        raise ValueError(f"the gradient of {name} is {np.shape(gradient)}, and {name} {leaf.shape}")
                    axis = self.axis if i in self.inputs else None
                    found.append(_result(GRADIENT + name, gradient, axis, self.unit, True))
        return found

    def float_names(self) -> list[str]:
        """Return the names of all arrays of floats among the arguments."""
        pairs = zip(self.args, self.names, strict=True)
        return [name for arg, own in pairs for name, leaf in leaves(arg, own) if is_floats(leaf)]

    def _dout_at(self, watched: np.ndarray) -> Any:
        def mask(leaf: Any) -> Any:
            dout = np.zeros_like(leaf)
            if not _has_axis(leaf, self.out_axis, self.length):
                return dout[()]
            at = (slice(None),) * (self.out_axis % leaf.ndim) + (watched,)
            dout[at] = leaf[at]
            return dout

        return map_leaves(mask, self.dout)

    # --- moves

    def targets(self, move: float, rng: np.random.Generator) -> Targets:
        """Return what the input leaves would be if all of each were moved; leaves that cannot be are left out."""
        found = {}
        for number, leaf in self._input_leaves():
            target = _other_values(leaf, rng) if move == OWN else _moved(leaf, move, rng)
            if target is not None:
                found[number] = target
        return found

    def moved(self, targets: Targets, places: np.ndarray) -> list[Any]:
        """Return the arguments, with the input leaves at some places moved to their targets."""
        numbers = itertools.count()

        def put(leaf: Any) -> Any:
            target = targets.get(next(numbers))
            if target is None:
                return copied(leaf)
            array = np.array(leaf)
            at = (slice(None),) * (self.axis % array.ndim) + (places,)
            array[at] = target[at]
            return array

        return [map_leaves(put, arg) for arg in self.args]

    def nearby(self, targets: Targets, share: float, rng: np.random.Generator) -> Targets:
        """Return what lies a share of the move from the inputs, but for a random thousandth of it."""
        own = dict(self._input_leaves())

        def between(number: int, target: np.ndarray) -> np.ndarray:
            if target.dtype.kind != "f":
                return target if share else own[number]
            shares = share + LITTLE * rng.uniform(-1, 1, target.shape)
            with np.errstate(invalid="ignore"):
                return np.asarray(own[number] + np.nan_to_num(shares * (target - own[number])), target.dtype)

        return {number: between(number, target) for number, target in targets.items()}

    def _input_leaves(self) -> list[tuple[int, np.ndarray]]:
        every = [(i, leaf) for i, arg in enumerate(self.args) for _, leaf in leaves(arg)]
        return [(n, leaf) for n, (i, leaf) in enumerate(every) if i in self.inputs and _can_move(leaf)]

    def changes(
        self, targets: Targets, moved: np.ndarray, watched: np.ndarray, base: list[Result], rng: np.random.Generator
    ) -> dict[str, Change]:
        """Return how each result changes where it is watched, if the inputs move.

        Rounding explains some last places of a number, and of the largest change anywhere: a sum that contains what
        has moved is rounded by as much. Where that is not enough, the inputs are moved a little less or more: a true
        dependence hardly changes, and rounding is another.
        """
        after = self.results(self.moved(targets, moved), watched)
        found = {old.name: _change(old, new, watched) for old, new in zip(base, after, strict=True)}
        if not any(change.wrong and change.shape is None for change in found.values()):
            return found
        noise, units = dict.fromkeys(found, 0.0), {result.name: result.unit for result in base}
        for share, results in [(0.0, base), (1.0, after)] * 4:
            near = self.results(self.moved(self.nearby(targets, share, rng), moved), watched)
            for one, other in zip(results, near, strict=True):
                noise[one.name] = max(noise[one.name], _distance(one, other, watched))
        return {name: _with_noise(change, SURE * noise[name], units[name]) for name, change in found.items()}


def reached(base: list[Result], moved: np.ndarray) -> dict[str, Change]:
    """Return, for the gradient of each input, how far it is from zero at the moved places."""
    found = {}
    for result in base:
        if result.gradient and result.axis is not None:
            nothing = replace(result, array=np.zeros_like(result.array))
            found[result.name] = _change(nothing, result, moved)
    return found


def _change(old: Result, new: Result, places: np.ndarray) -> Change:
    if old.array.shape != new.array.shape:
        return Change(np.inf, 0.0, None, np.nan, np.nan, np.inf, shape=new.array.shape, gradient=old.gradient)
    with np.errstate(all="ignore"):
        anywhere = np.abs(new.array - old.array)
        # infinities that have stayed what they are have not changed
        anywhere[(new.array == old.array) | (np.isnan(new.array) & np.isnan(old.array))] = 0.0
        scale = largest(anywhere[np.isfinite(anywhere)])
        change = anywhere if old.axis is None else np.take(anywhere, places, axis=old.axis)
        if old.gradient:  # of which all is watched
            scale = max(scale, largest(old.array), largest(new.array))
        allowed = new.unit * (8 * np.abs(np.nan_to_num(old.at(places), posinf=0.0, neginf=0.0)) + 64 * scale)
        judged = bool(np.isfinite(change).all())
        alive = bool((anywhere > 64 * new.unit * np.abs(np.nan_to_num(old.array, posinf=0.0, neginf=0.0))).any())
        excess = np.where(np.isfinite(change), change - allowed, -np.inf)
    if not excess.size or not np.isfinite(excess).any():
        return Change(0.0, 0.0, None, np.nan, np.nan, scale, judged, alive, gradient=old.gradient)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
    index = at if old.axis is None else tuple(int(places[i]) if k == old.axis else i for k, i in enumerate(at))
    values = float(new.array[index]), float(old.array[index])
    return Change(float(change[at]), float(allowed[at]), index, *values, scale, judged, alive, gradient=old.gradient)


def agree(one: Any, other: Any) -> bool:
    """Return whether two results, each an `array` and the `unit` of its rounding, are those of one run.

    A sum may have been taken in another order.
    """
    a, b = one.array, other.array
    if a.shape != b.shape:
        return False
    limit = 1e4 * one.unit * largest(a[np.isfinite(a)])
    return bool(np.allclose(a, b, rtol=0.0, atol=limit, equal_nan=True))


def _distance(one: Result, other: Result, places: np.ndarray) -> float:
    if one.array.shape != other.array.shape:
        return 0.0
    with np.errstate(all="ignore"):
        return largest(np.nan_to_num(one.at(places) - other.at(places), posinf=0.0, neginf=0.0))


def _with_noise(change: Change, noise: float, unit: float) -> Change:
    found = replace(change, allowed=change.allowed + noise)
    # rounding beyond half of the digits may be a true change that wiggles
    return found if found.wrong else replace(found, judged=found.judged and noise <= WIGGLE * unit * found.scale)


def _result(name: str, leaf: Any, axis: int | None, unit: float, gradient: bool = False) -> Result:
    array = np.asarray(leaf)
    unit = max(float(np.finfo(array.dtype).eps), unit) if array.dtype.kind in "fc" else unit
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    axis = axis if axis is None or axis >= 0 else axis + np.ndim(leaf)
    return Result(name, array.astype(np.float64), axis, unit, gradient)


def _can_move(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fiub"


def _has_axis(leaf: Any, axis: int, length: int) -> bool:
    array = np.asarray(leaf)
    return array.dtype.kind in "fciub" and -array.ndim <= axis < array.ndim and array.shape[axis] == length


def _position(key: int | str, names: list[str]) -> int:
    position = names.index(key) if key in names else key
    if not (isinstance(position, int) and 0 <= position < len(names)):
        raise ValueError(f"inputs={key!r} is not an argument; those are: {', '.join(names)}")
    return position


def _length(args: list[Any], names: list[str], positions: list[int], axis: int) -> tuple[int, tuple[Unchecked, ...]]:
    """Return the size that all input leaves have along the axis, and those that are not arrays."""
    sizes: dict[str, int] = {}
    unchecked = []
    for i in positions:
        for name, leaf in leaves(args[i], names[i]):
            if not _can_move(leaf):
                unchecked.append(Unchecked(name, kind_of(leaf), "not moved, because it is no array of numbers"))
            elif not -leaf.ndim <= axis < leaf.ndim:
                raise ValueError(f"{name} has the shape {leaf.shape}, and so no axis {axis}")
            else:
                sizes[name] = leaf.shape[axis]
    if not sizes:
        raise ValueError(
            f"no array of numbers is in {', '.join(names[i] for i in positions)}: there is nothing to move"
        )
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the sizes along axis {axis} differ: " + ", ".join(f"{k} {v}" for k, v in sizes.items()))
    return next(iter(sizes.values())), tuple(unchecked)


def _moved(leaf: np.ndarray, move: float, rng: np.random.Generator) -> np.ndarray | None:
    if leaf.dtype.kind != "f":
        return None
    finite = leaf[np.isfinite(leaf)].astype(np.float64)
    spread, size = float(np.std(finite)) if finite.size else 0.0, largest(finite)
    scale = spread if spread > 1e-6 * size else size or 1.0  # numbers that are all alike have no spread but rounding
    return np.asarray(leaf + move * scale * rng.standard_normal(leaf.shape), leaf.dtype)


def _other_values(leaf: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Return each element replaced by another value of the array; None if it has only one."""
    values, own = np.unique(leaf, return_inverse=True)
    if values.size < 2:
        return None
    step = rng.integers(1, values.size, leaf.shape)
    return values[(own.reshape(leaf.shape) + step) % values.size]
