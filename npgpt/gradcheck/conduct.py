"""What forward does besides returning its output: it may draw random numbers, update statistics, or be noisy."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .function import Function
from .numeric import largest
from .outputs import weighted
from .problem import Problem, describe
from .progress import TimeUp
from .state import Change, arrays, changes, generators, global_generators, held_by, same, snapshot, some
from .tree import fresh, is_floats, leaves, map_leaves

CALLS = 8  # of a forward whose outputs differ; noise goes one way in all of them once in 20,000 times
NOISE = 1e-6  # outputs that differ by more of the largest belong to another function, not to one with noise
NOISE_SINGLE = 1e-4  # the same where forward computes in float32
UNSEEDED = "two calls of forward differ: seed what is random in it"
SINGLE = "forward takes float32 alone: its derivatives were taken in float32, and the error bars are that wide"
WRITES = "forward writes into its arguments"


@dataclass(frozen=True, eq=False)
class Conduct:
    """What was seen of forward.

    broken    what it does that breaks training, a sentence each
    notes     what else it does, a sentence each
    obstacle  why it has no derivative, so that no gradient of it is wrong; or nothing
    writes    whether it changes its arguments, so that each call must be given copies
    noise     the standard error of each of `dout * out` from call to call; none if calls agree
    relative  how far two outputs differ, relative to the largest
    """

    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    obstacle: str = ""
    writes: bool = False
    noise: np.ndarray | None = None
    relative: float = 0.0


@dataclass(frozen=True, eq=False)
class Call:
    """One call of forward.

    args     the arguments that it was given, as they are now
    out      its output as it was then; `alive` is the output itself
    values   dout * out, flat
    inside   what it changed among its arguments
    written  the names of the arrays among them whose memory it wrote into
    outside  what it changed elsewhere
    held     what forward held before the call
    """

    args: list[Any]
    out: list[np.ndarray]
    alive: Any
    values: np.ndarray
    inside: list[Change]
    written: set[str]
    outside: list[Change]
    held: dict[str, Any]


class Watch:
    """A forward under observation."""

    def __init__(self, problem: Problem, first: Call | None = None) -> None:
        """Run forward once, unless a call of it is given."""
        self.problem = problem
        self.first = self.call(self.fresh()) if first is None else first

    def fresh(self) -> list[Any]:
        """Return copies of the arguments in the dtype that forward takes."""
        return self.problem.copies(self.problem.takes)

    def call(self, args: list[Any]) -> Call:
        among, elsewhere, objects = self._among(args), self._elsewhere(), dict(self._named(args))
        out, _ = self.problem.forward(*args)
        copies, values = arrays(out), weighted(out, self.problem.dout)
        inside, outside = changes(among, self._among(args)), changes(elsewhere, self._elsewhere())
        written = {change.name for change in changes(among, snapshot(objects))}
        return Call(args, copies, out, values, inside, written, outside, elsewhere)

    def conduct(self) -> Conduct:
        """Run forward on equal arguments, and on those that it has changed."""
        first = self.first
        try:
            again = self.call(self.fresh())
        except Exception as error:  # whatever the user's code raises
            return refused_again(error)
        notes = [SINGLE] if self.problem.takes == np.float32 else []
        notes += [f"forward draws from {some(drawn)}, an argument"] if (drawn := _random(first.inside)) else []
        if any(np.may_share_memory(a, b) for a in _floats(first.alive) for b in _floats(again.alive)):
            notes.append("forward returns the same array each time: a later call changes an earlier output")
        found = self._state(Conduct(notes=tuple(notes), writes=bool(first.inside)))
        drawn, kept = _random(first.outside), _kept(first.outside)
        calls = [first, again]
        if drawn or not same(first.out, again.out):
            calls += [self.call(self.fresh()) for _ in range(CALLS - 2)]
        if not all(same(first.out, call.out) for call in calls):
            return self._differing(found, calls)
        notes = [f"forward draws from {some(drawn)}, and its output does not change"] if drawn else []
        notes += [f"forward keeps state that does not change its output: {some(kept)}"] if kept else []
        return replace(found, notes=(*found.notes, *notes))

    def later(self, conduct: Conduct) -> str:
        """Return why forward is no longer the function that it was at first; or nothing."""
        try:
            last = self.call(self.fresh())
        except TimeUp:  # then this remains open
            return ""
        except Exception as error:  # whatever the user's code raises
            return f"forward raises {describe(error)} after many calls: it keeps state"
        if distance([self.first.out, last.out]) <= max(1e-5 if self.problem.single else 1e-12, 10 * conduct.relative):
            return ""
        kept = _kept(changes(self.first.held, self._elsewhere()))
        return f"after many calls forward gives another output: it keeps {some(kept) if kept else 'state'}"

    def _state(self, found: Conduct) -> Conduct:
        """Add what there is to say about arguments that forward has changed."""
        problem, first = self.problem, self.first
        kept = _kept(first.inside)
        if not kept:
            return found
        checked = {leaf.name for leaf in problem.leaves}
        whole = {name for name, arg in zip(problem.names, first.args, strict=False) if isinstance(arg, np.ndarray)}
        # ids and masks, but not a counter
        data = {n for n, v in self._named(first.args) if isinstance(v, np.ndarray) and not is_floats(v) and v.size > 1}
        if first.written & data or any(change.name in checked for change in kept):
            return replace(found, broken=(WRITES,))
        try:
            used = not same(self.first.out, self.call(self._as_left({change.name for change in kept})).out)
        except Exception as error:  # whatever the user's code raises
            text = f"forward raises {describe(error)} when it is called again with what it has left: {some(kept)}"
            return replace(found, obstacle=text)
        if not used:
            return replace(
                found, notes=(*found.notes, f"forward updates {some(kept)}; its output does not depend on that")
            )
        if any(change.name in whole for change in kept):
            return replace(found, broken=(WRITES,))
        return replace(found, obstacle=f"forward keeps state that changes its output: {some(kept)}")

    def _as_left(self, changed: set[str]) -> list[Any]:
        """Return the arguments as the first call has left them, what is checked and generators as they were.

        Arrays of floats that it has changed are moved further.
        """
        problem = self.problem
        original = self.fresh()
        before, after = (generators(self._alive(args)) for args in (original, self.first.args))
        left = fresh(self.first.args, {id(value): before[name] for name, value in after.items() if name in before})
        checked = {leaf.name for leaf in problem.leaves}
        kept = {name: leaf for name, leaf in self._named(original) if name in checked}

        def put(pair: tuple[str, Any]) -> Any:
            name, leaf = pair
            return 1.5 * leaf + 0.1 if name in changed and is_floats(leaf) else kept.get(name, leaf)

        named = iter([put(pair) for pair in self._named(left)])
        return [map_leaves(lambda leaf: next(named), arg) for arg in left]

    def _differing(self, found: Conduct, calls: list[Call]) -> Conduct:
        """Tell noise, with its size, from a forward that is random or keeps state."""
        relative = distance([call.out for call in calls])
        # a generator among the arguments differs only if it could not be copied
        drawn, kept = _random(self.first.outside + self.first.inside), _kept(self.first.outside)
        if relative <= (NOISE_SINGLE if self.problem.single else NOISE):
            values = np.array([call.values for call in calls])
            steps = np.diff(np.sum(values, axis=1))
            if not (np.all(steps > 0) or np.all(steps < 0)):  # else it drifts: it counts, or keeps an average
                text = (
                    f"outputs of forward differ from call to call by up to {relative:.0e}; the error bars allow for it"
                )
                return replace(found, notes=(*found.notes, text), noise=_noise(values), relative=relative)
        reason = UNSEEDED
        if drawn:
            reason = f"{UNSEEDED}; it draws from {some(drawn)}"
        elif kept:
            reason = f"two calls of forward differ: it keeps {some(kept)}"
        return replace(found, obstacle=reason, relative=relative)

    def _named(self, args: list[Any]) -> list[tuple[str, Any]]:
        """Return the leaves of the arguments with their names."""
        return [pair for name, arg in zip(self.problem.names, args, strict=False) for pair in leaves(arg, name)]

    def _alive(self, args: list[Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, arg in zip(self.problem.names, args, strict=False):
            found |= held_by(arg, name)
        return found

    def _among(self, args: list[Any]) -> dict[str, Any]:
        return snapshot(self._alive(args))

    def _elsewhere(self) -> dict[str, Any]:
        return snapshot(held_by(self.problem.source, "forward")) | global_generators()


def refused_again(error: Exception) -> Conduct:
    """Return what there is to say of a forward that can be called only so many times."""
    sentence = f"forward raises {describe(error)} when it is called again"
    return Conduct((sentence,), obstacle=sentence)


def with_state(problem: Problem, call: Call) -> Problem:
    """Return the problem with those leaves optional that forward updates, for they may be running statistics.

    Backward may leave out an argument that holds a setting such as "train".
    """
    updated = {change.name for change in call.inside}
    settings = {i for i, arg in enumerate(problem.args) if any(isinstance(leaf, str) for _, leaf in leaves(arg))}
    found = [replace(leaf, optional=leaf.optional or leaf.name in updated) for leaf in problem.leaves]
    due = {leaf.position for leaf in found if not leaf.optional} - settings
    return replace(problem, leaves=found, required=[i for i in problem.required if i in due])


def widened(function: Function, measured: np.ndarray | None, known: np.ndarray | None) -> Function:
    """Return a function whose outputs have at least these standard errors.

    Where only the user knows of an error, a complex step would not show it: then differences are used.
    """
    for noise in (measured, known):
        if noise is not None:
            function = replace(function, noise=np.maximum(function.noise, noise))
    return function if known is None else replace(function, complex_safe=False)


def known_noise(relative: float, values: np.ndarray) -> np.ndarray | None:
    """Return standard errors of outputs that may be off by so much of their size, all to the same side."""
    size = np.abs(values)
    return relative * size * (np.sum(size) / max(np.linalg.norm(size), 1e-300)) if relative else None


def _noise(values: np.ndarray) -> np.ndarray:
    """Return the standard error of each output from those of several calls, and of their sum at least what it shows."""
    each = np.std(values, axis=0)
    whole = np.ptp(np.sum(values, axis=1)) / 2
    return each * max(1.0, whole / max(np.linalg.norm(each), 1e-300))


def _floats(tree: Any) -> list[np.ndarray]:
    return [leaf for _, leaf in leaves(tree) if isinstance(leaf, np.ndarray) and is_floats(leaf) and leaf.size]


def _random(found: list[Change]) -> list[Change]:
    return [change for change in found if change.random]


def _kept(found: list[Change]) -> list[Change]:
    return [change for change in found if not change.random]


def distance(outs: list[list[np.ndarray]]) -> float:
    """Return how far outputs of equal arguments differ, each array relative to its largest element."""
    worst = 0.0
    for parts in zip(*outs, strict=True):
        if len({part.shape for part in parts}) > 1:
            return math.inf
        stack = np.array(parts, dtype=np.result_type(*parts, np.float64))  # booleans cannot be subtracted
        with np.errstate(all="ignore"):
            spread = np.ptp(stack, axis=0) if stack.dtype.kind == "f" else np.abs(stack[1:] - stack[:-1])
        size, far = largest(stack[np.isfinite(stack)]), largest(spread[np.isfinite(spread)])
        if not same([np.isfinite(parts[0])], [np.isfinite(parts[-1])]):
            return math.inf
        worst = max(worst, far / size if far else 0.0)
    return worst
