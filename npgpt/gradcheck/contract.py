"""What a backward pass must keep to besides the right numbers."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .gradients import Backward
from .numeric import EPS, largest
from .problem import Problem, random_cotangent
from .tree import copy_tree, leaves, map_leaves

CLOSE = 1e-9  # far above rounding, far below any slip; float32 code gets its own
UNSEEDED = "two calls of forward differ: seed what is random in it"


@dataclass(frozen=True)
class Contract:
    """What was found of the contract.

    broken         what forward and backward do not keep to, a sentence each
    deterministic  whether two calls of forward agree; if not, it has no derivative, and no gradient of it is wrong
    writes         whether forward writes into its arguments, so that the numerical gradient must give it copies
    """

    broken: tuple[str, ...] = ()
    deterministic: bool = True
    writes: bool = False


def check_contract(problem: Problem, backward: Backward) -> Contract:
    """Run forward and backward in ways in which a sound pair makes no difference."""
    writes, deterministic = _forward(problem)
    broken = ["forward writes into its arguments"] if writes else []
    for check in (_backward, _linear, _order):
        broken += check(problem, backward)
    return Contract(tuple(broken), deterministic, writes)


def _forward(problem: Problem) -> tuple[bool, bool]:
    """Return whether forward writes into its arguments, and whether two calls of it agree."""
    args = problem.copies()
    before = _snapshot(args)
    out, _ = problem.forward(*args)
    writes = not _same(before, _snapshot(args))
    again, _ = problem.forward(*problem.copies())
    return writes, _same(_snapshot(out), _snapshot(again))


def _backward(problem: Problem, backward: Backward) -> Iterator[str]:
    args = problem.copies()
    _, cache = problem.forward(*args)
    dout = copy_tree(problem.dout)
    args_before, dout_before, cache_before = _snapshot(args), _snapshot(dout), _snapshot(cache)
    given = backward(dout, cache)
    first = _snapshot(given)
    if not _same(dout_before, _snapshot(dout)):
        yield "backward writes into dout"
    if not _same(args_before, _snapshot(args)):
        yield "backward writes into the arguments of forward"
    elif not _same(cache_before, _snapshot(cache)):
        yield "backward writes into the cache"
    second = _snapshot(backward(copy_tree(problem.dout), cache))
    if not _close(first, second, problem):
        yield "a second backward from the same cache gives another gradient: it adds up, or uses the cache up"
    backward(_times(0.5, problem.dout), cache)
    if not _same(first, _snapshot(given)):
        yield "a later backward changes the gradients that an earlier one has returned"
    fresh = _snapshot(backward(copy_tree(problem.dout), problem.forward(*problem.copies())[1]))
    if not _close(first, fresh, problem):
        yield "backward gives another gradient when forward and backward are run again: it keeps state, or is random"


def _linear(problem: Problem, backward: Backward) -> Iterator[str]:
    def run(dout: Any) -> list[np.ndarray]:
        return _snapshot(backward(dout, problem.forward(*problem.copies())[1]))

    zero = run(map_leaves(lambda leaf: np.zeros_like(leaf)[()], problem.dout))
    if any(np.any(part != 0) for part in zero):
        yield "backward of a zero dout is not zero"
    one, other = problem.dout, random_cotangent(problem.out, np.random.default_rng(1))
    others = iter([leaf for _, leaf in leaves(other)])
    both = map_leaves(lambda leaf: 2.0 * leaf - 0.7 * next(others), one)
    right = run(copy_tree(one))
    parts = zip(right, run(copy_tree(other)), strict=True)
    expected = [2.0 * a - 0.7 * b for a, b in parts]
    if not _close(expected, run(both), problem):
        yield "backward is not linear in dout"
    for factor, size in ((2.0**40, "large"), (2.0**-40, "small")):  # powers of two round nothing
        scaled = [part / factor for part in run(_times(factor, one))]
        if not _close(right, scaled, problem):
            yield f"backward is not linear in dout: not for a {size} one"
    for order in (_strided, _fortran):
        if not _close(run(map_leaves(order, copy_tree(one))), right, problem):
            yield "backward gives another gradient for a dout that lies in memory in another way"
            break


def _order(problem: Problem, backward: Backward) -> Iterator[str]:
    """Run another forward between a forward and its backward: state outside the cache is then of the wrong call."""
    _, cache = problem.forward(*problem.copies())
    alone = _snapshot(backward(copy_tree(problem.dout), cache))
    _, cache = problem.forward(*problem.copies())
    rng = np.random.default_rng(2)
    with np.errstate(all="ignore"):
        args = problem.moved(lambda leaf: np.array(leaf.x * (1 + 1e-3 * rng.standard_normal(leaf.x.shape))))
        with contextlib.suppress(Exception):  # it may refuse them
            problem.forward(*args)
    after = _snapshot(backward(copy_tree(problem.dout), cache))
    if not _close(alone, after, problem):
        yield "backward depends on another forward that was run in between: it keeps state outside the cache"


def _times(factor: float, tree: Any) -> Any:
    return map_leaves(lambda leaf: factor * leaf, tree)


def _strided(leaf: Any) -> Any:
    if not isinstance(leaf, np.ndarray) or leaf.ndim == 0:
        return leaf
    wide = np.zeros((*leaf.shape[:-1], 2 * leaf.shape[-1]), leaf.dtype)
    wide[..., ::2] = leaf
    return wide[..., ::2]


def _fortran(leaf: Any) -> Any:
    return np.asfortranarray(leaf) if isinstance(leaf, np.ndarray) and leaf.ndim > 1 else leaf


def _snapshot(tree: Any) -> list[np.ndarray]:
    """Return copies of all arrays in a tree, those in the attributes of objects included."""
    return [np.array(array) for array in _arrays(tree, set())]


def _arrays(value: Any, seen: set[int]) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        if value.dtype != object:
            yield value
    elif isinstance(value, np.number | float | complex | int | bool):
        yield np.asarray(value)
    elif isinstance(value, dict | tuple | list) or hasattr(value, "__dict__"):
        if id(value) in seen or isinstance(value, type) or callable(value):
            return
        seen.add(id(value))
        for part in _parts(value):
            yield from _arrays(part, seen)


def _parts(value: Any) -> Iterable[Any]:
    """Return what a sequence, a dict or an object holds."""
    if isinstance(value, tuple | list):
        return value
    return (value if isinstance(value, dict) else vars(value)).values()


def _same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(_equal(a, b) for a, b in pairs)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc" and b.dtype.kind in "fc"))


def _close(one: list[np.ndarray], other: list[np.ndarray], problem: Problem) -> bool:
    """Return whether two sets of gradients agree but for rounding, each array by its largest element."""
    limit = 1e-4 if problem.single else CLOSE
    if len(one) != len(other):
        return False
    scales = [largest(a) for a in one]
    # for an array that is zero but for rounding
    floor = 1e-14 * max(scales, default=0.0) + 64 * EPS * problem.magnitude / problem.smallest_scale
    for a, b, scale in zip(one, other, scales, strict=True):
        if a.shape != b.shape:
            return False
        if a.size and not (np.max(np.abs(a - b)) <= limit * scale + floor or _equal(a, b)):
            return False
    return True
