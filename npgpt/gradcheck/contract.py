"""What a backward pass must keep to besides the right numbers."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .gradients import Backward
from .numeric import largest
from .problem import Leaf, Problem, describe, random_cotangent
from .state import arrays, same
from .tree import copy_tree, leaves, map_leaves

CLOSE = 1e-9  # far above rounding, far below any slip; float32 code and noisy code get their own


@dataclass(frozen=True)
class Contract:
    """What was found of the contract.

    broken  what backward does that breaks training, a sentence each
    notes   what it refuses to do, a sentence each
    """

    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Raised:
    """What forward or backward raised in the place of a gradient."""

    text: str


Gradients = list[np.ndarray] | _Raised


def check_contract(problem: Problem, backward: Backward, relative: float = 0.0) -> Contract:
    """Run forward and backward in ways in which a sound pair makes no difference.

    relative  by how much forward's outputs differ from call to call
    """
    trial = _Trial(problem, backward, max(1e-4 if problem.single else CLOSE, 100 * relative))
    found = [*_backward(trial), *_linear(trial), *_order(trial)]
    broken = [sentence for sentence in found if not isinstance(sentence, _Note)]
    return Contract(tuple(broken), tuple(sentence for sentence in found if isinstance(sentence, _Note)))


class _Note(str):
    """A sentence that does not make the check fail."""


@dataclass(frozen=True, eq=False)
class _Trial:
    """A pair of forward and backward that is tried out, and the relative difference by which equal gradients differ."""

    problem: Problem
    backward: Backward
    limit: float

    def forward(self) -> Any:
        """Return a fresh cache."""
        return self.problem.forward(*self.args())[1]

    def args(self) -> list[Any]:
        return self.problem.copies(self.problem.dtype)

    def run(self, dout: Any, cache: Any = None) -> Gradients:
        """Return copies of the gradients, from a fresh cache unless one is given; or what was raised."""
        try:
            found = arrays(self.backward(dout, self.forward() if cache is None else cache.value))
        except Exception as error:  # whatever the user's code raises
            return _Raised(describe(error))
        return [np.asarray(part, np.float64) if part.dtype == bool else part for part in found]

    def close(self, one: Gradients, other: Gradients) -> bool:
        return _close(one, other, self.problem, self.limit)


@dataclass(frozen=True, eq=False)
class _Cache:
    """A cache, which may be None."""

    value: Any


def _backward(trial: _Trial) -> Iterator[str]:
    problem = trial.problem
    args, dout = trial.args(), problem.given_dout()
    _, cache = problem.forward(*args)
    args_before, dout_before, cache_before = arrays(args), arrays(dout), arrays(cache)
    given = trial.backward(dout, cache)
    first = arrays(given)
    if not same(dout_before, arrays(dout)):
        yield "backward writes into dout"
    if not same(args_before, arrays(args)):
        yield "backward writes into the arguments of forward"
    elif not same(cache_before, arrays(cache)):
        yield "backward writes into the cache"
    second = trial.run(problem.given_dout(), _Cache(cache))
    if isinstance(second, _Raised):
        yield f"a second backward from the same cache raises {second.text}: it uses the cache up"
    elif not trial.close(first, second):
        yield "a second backward from the same cache gives another gradient: it adds up, or uses the cache up"
    trial.run(_times(0.5, problem.given_dout()), None if isinstance(second, _Raised) else _Cache(cache))
    if not same(first, arrays(given)):
        yield "a later backward changes the gradients that an earlier one has returned"
    fresh = trial.run(problem.given_dout())
    if isinstance(fresh, _Raised):
        yield f"backward raises {fresh.text} when forward and backward are run again: it keeps state"
    elif not trial.close(first, fresh):
        yield "backward gives another gradient when forward and backward are run again: it keeps state, or is random"


def _linear(trial: _Trial) -> Iterator[str]:
    problem = trial.problem
    one = problem.given_dout()
    right = trial.run(copy_tree(one))
    zero = trial.run(map_leaves(lambda leaf: np.zeros_like(leaf)[()], problem.given_dout()))
    if isinstance(zero, _Raised):
        yield f"backward raises {zero.text} for a dout of zeros"
    elif any(np.any(part != 0) for part in _without(zero, right)):
        yield "backward of a zero dout is not zero"
    drawn = iter([leaf for _, leaf in leaves(random_cotangent(problem.out, np.random.default_rng(1)))])
    other = map_leaves(lambda leaf: np.asarray(next(drawn), leaf.dtype)[()], one)
    others = iter([leaf for _, leaf in leaves(other)])
    both = map_leaves(lambda leaf: 2.0 * leaf - 0.7 * next(others), one)
    second, sums = (trial.run(copy_tree(dout)) for dout in (other, both))
    for found in (right, second, sums):
        if isinstance(found, _Raised):
            yield f"backward raises {found.text} for another dout"
            return
    if not trial.close(_combined(right, second), sums):
        yield "backward is not linear in dout"
    yield from _other_douts(trial, right)


def _other_douts(trial: _Trial, right: Gradients) -> Iterator[str]:
    """Hand on dout in other sizes and in another memory order."""
    one = trial.problem.given_dout()
    for factor, size in ((2.0**40, "large"), (2.0**-40, "small")):  # powers of two round nothing
        scaled = trial.run(_times(factor, one))
        if isinstance(scaled, _Raised):
            yield _Note(f"backward raises {scaled.text} for a {size} dout")
        elif not trial.close(right, [part / factor for part in scaled]):
            yield f"backward is not linear in dout: not for a {size} one"
    for order in (_strided, _fortran):
        found = trial.run(map_leaves(order, copy_tree(one)))
        if isinstance(found, _Raised):
            yield _Note(f"backward raises {found.text} for a dout that lies in memory in another way")
            break
        if not trial.close(found, right):
            yield "backward gives another gradient for a dout that lies in memory in another way"
            break


def _order(trial: _Trial) -> Iterator[str]:
    """Run another forward between a forward and its backward: state outside the cache is then of the wrong call."""
    problem = trial.problem
    alone = trial.run(problem.given_dout())
    cache = _Cache(trial.forward())
    if not _moved_forward(problem):
        yield _Note("forward raises wherever its arguments are moved: no other call was tried before backward")
    after = trial.run(problem.given_dout(), cache)
    if isinstance(after, _Raised):
        yield f"backward raises {after.text} if another forward was run in between: it keeps state outside the cache"
    elif not trial.close(alone, after):
        yield "backward depends on another forward that was run in between: it keeps state outside the cache"


def _moved_forward(problem: Problem) -> bool:
    """Run forward on other arguments, those that it accepts."""
    rng = np.random.default_rng(2)
    for step in (1e-3, 1e-5, 1e-7):

        def move(leaf: Leaf, step: float = step) -> np.ndarray:
            return np.array(leaf.x * (1 + step * rng.standard_normal(leaf.x.shape)), dtype=problem.dtype)

        with contextlib.suppress(Exception), np.errstate(all="ignore"):
            problem.forward(*problem.moved(move))
            return True
    return False


def _combined(one: Gradients, other: Gradients) -> Gradients:
    if isinstance(one, _Raised) or isinstance(other, _Raised) or [a.shape for a in one] != [a.shape for a in other]:
        return _Raised("gradients of another shape")
    return [2.0 * a - 0.7 * b for a, b in zip(one, other, strict=True)]


def _without(gradients: list[np.ndarray], others: Gradients) -> list[np.ndarray]:
    """Return gradients with 0 for each element that is not finite in others either: that is another slip."""
    if isinstance(others, _Raised) or [a.shape for a in gradients] != [b.shape for b in others]:
        return gradients
    return [np.where(np.isfinite(b), a, 0.0) for a, b in zip(gradients, others, strict=True)]


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


def _close(one: Gradients, other: Gradients, problem: Problem, limit: float) -> bool:
    """Return whether two sets of gradients agree but for rounding, each array by its largest element."""
    if isinstance(one, _Raised) or isinstance(other, _Raised) or len(one) != len(other):
        return False
    scales = [largest(a[np.isfinite(a)]) for a in one]
    # for an array that is zero but for rounding
    eps = float(np.finfo(problem.dtype).eps)
    floor = 45 * eps * max(scales, default=0.0) + 64 * eps * problem.magnitude / problem.smallest_scale
    for a, b, scale in zip(one, other, scales, strict=True):
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return False
        finite = np.isfinite(a)
        if not largest(a[finite] - b[finite]) <= limit * scale + floor:
            return False
    return True
