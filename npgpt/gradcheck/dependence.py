"""What must not depend on what: an output on later inputs, a sample on the others of its batch."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .check import own_generator
from .conduct import UNSEEDED
from .moves import GRADIENT, OWN, Change, Result, Subject, Targets, agree, reached
from .numeric import largest
from .report import ArgumentReport, Report, Unchecked, without_numbers

MOVES = (1e-3, 1.0, 1e3, 1e6)
DRAWS = 3  # of each move
PLACES = 16  # at most so many places in time are looked at
UNFIT = "{} is infinite or NaN there, or rounding hides what it does"
NOTHING = Change(0.0, 0.0, None, math.nan, math.nan, 0.0)
LABELS = ("found", "expected")


def check_causality(
    forward: Callable,
    *args: Any,
    backward: Callable[[Any, Any], Any] | None = None,
    inputs: int | str | Sequence[int | str] = 0,
    time_axis: int = 1,
    out_axis: int | None = None,
    moves: Sequence[float] = MOVES,
    dtype: Any = np.float64,
    rng: np.random.Generator | None = None,
) -> Report:
    """Check that no output depends on an input that comes later.

    forward    `out = forward(*args)`, or with a backward `out, cache = forward(*args)`; out is an array, or a dict,
               tuple or list of them
    backward   `gradients = backward(dout, cache)`, as for check_backward. A dout up to t must then give later inputs
               no gradient, and no gradient of it may change with them
    args       arrays, or dicts, tuples and lists of them; what else there is is handed on
    inputs     the arguments that have a time axis, by position or name; by default the first
    time_axis  that axis, in all arrays of the inputs; out_axis is that of the outputs, by default the same
    moves      how far later inputs are moved, in multiples of the spread of their array. Besides, they get other
               values of the same array, which is all that ids and masks get
    dtype      float arguments are converted to it
    rng        draws moves and dout; by default seeded with 0

    Moves of many sizes are tried, because a mask of -30 leaks 1e-13 at inputs of order one, and one of -1e4 nothing
    at all until scores are as large. The report names the first output t that depends on a later input, and the first
    such input s. A change counts if it is beyond rounding, which is measured by moving inputs in their last places.
    The verdict is "inconclusive" if there is one place in time only, if nothing changes at all, if no output depends
    on earlier inputs either, if two calls of forward differ, or if no move leaves the outputs finite.

    Raises ValueError for inputs without that axis, or of different sizes along it.
    """
    rng = own_generator(rng)
    subject = Subject.pose(forward, backward, args, inputs, (time_axis, out_axis), moves, dtype, rng)
    if subject.length < 2:
        return _nothing(subject, f"there is {subject.length} place in time: nothing comes later")
    every = np.arange(subject.length)
    begins = every[1:]
    if begins.size > PLACES:
        inner = rng.choice(begins[1:-1], PLACES - 2, replace=False)
        begins = np.unique([begins[0], *inner, begins[-1]])
    search = Search(subject, tuple(moves), rng, ("output", "input"))
    for begin in begins:
        search.look(every[begin:], every[:begin])
    middle = subject.length // 2
    if not (search.random or search.failures or search.depends(every[:middle], every[middle:])):
        return search.report(none="no output depends on an earlier input either: nothing here mixes places in time")
    looked_at = f"{begins.size} of {subject.length - 1} places in time were looked at"
    return search.report(notes=() if begins.size == subject.length - 1 else (looked_at,))


def check_batch_independence(
    forward: Callable,
    *args: Any,
    backward: Callable[[Any, Any], Any] | None = None,
    inputs: int | str | Sequence[int | str] = 0,
    axis: int = 0,
    out_axis: int | None = None,
    moves: Sequence[float] = MOVES,
    dtype: Any = np.float64,
    rng: np.random.Generator | None = None,
) -> Report:
    """Check that the output and the gradient of a sample do not depend on the other samples of its batch.

    axis  of the samples, in all arrays of the inputs; out_axis is that of the outputs, by default the same

    The other arguments, errors and verdicts are those of check_causality. With a backward, a dout at some samples must
    give the others no gradient, and all its gradients, the parameters' too, must stay the same if the others move.
    Halves of the batch are moved, such that each sample moves while each other one is watched.
    """
    rng = own_generator(rng)
    subject = Subject.pose(forward, backward, args, inputs, (axis, out_axis), moves, dtype, rng)
    if subject.length < 2:
        return _nothing(subject, f"there is {subject.length} sample: it has no others to depend on")
    search = Search(subject, tuple(moves), rng, ("sample", "sample"))
    every = np.arange(subject.length)
    for bit in range((subject.length - 1).bit_length()):  # two different numbers differ in a bit
        side = (every >> bit & 1).astype(bool)
        search.look(every[side], every[~side])
        search.look(every[~side], every[side])
    return search.report()


@dataclass(frozen=True, eq=False)
class Step:
    """One move of the inputs, from those of subject to targets."""

    move: float
    draw: int
    targets: Targets
    subject: Subject
    rng: np.random.Generator

    def changes(self, moved: np.ndarray, watched: np.ndarray) -> dict[str, Change]:
        base = self.subject.results(self.subject.args, watched)
        return self.subject.changes(self.targets, moved, watched, base, self.rng)


@dataclass(eq=False)
class Search:
    """What was found so far: the worst change of each result, the first wrong one, and what could not be judged.

    words     of an output and an input, for the reasons
    worst     the largest change of each result, as a share of what is allowed
    failures  the first change that is too large, and a sentence about it
    alive     the results that change at all
    tried     the moves that the inputs allow; unjudged says of some of them why they say nothing
    rounding  the largest change of each result that was rounding
    varying   where each result is not constant, and sizes how large it is there, at the inputs and at the far ones
    far       the subject with all its inputs moved, for the large moves
    """

    subject: Subject
    moves: tuple[float, ...]
    rng: np.random.Generator
    words: tuple[str, str]
    base: list[Result] = field(default_factory=list)
    random: bool = False
    worst: dict[str, Change] = field(default_factory=dict)
    failures: dict[str, tuple[Change, str]] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    tried: set[float] = field(default_factory=set)
    unjudged: dict[float, str] = field(default_factory=dict)
    rounding: dict[str, float] = field(default_factory=dict)
    varying: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: dict[tuple[float, int], dict[str, float]] = field(default_factory=dict)
    far: dict[tuple[float, int], Subject] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base, again = (self._results(np.arange(self.subject.length)) for _ in range(2))
        self.random = not all(map(agree, self.base, again))
        self.varying = self._varying()
        self.sizes[OWN, 0] = self._sizes(self.base)

    def look(self, moved: np.ndarray, watched: np.ndarray) -> None:
        """Move the inputs at some places, and watch the results at others."""
        if self.random:
            return
        named = {result.name: result for result in self.base}
        for name, change in reached(self._results(watched), moved).items():
            if self._note(name, change):
                self._fail(named[name], moved, watched, None)
        for step, changes in self._steps(moved, watched):
            for result in self.base:
                name, change = result.name, self._beyond_rounding(changes[result.name], result, step)
                if self._note(name, change):
                    self._fail(result, moved, watched, step)
                if not change.judged:
                    self.unjudged.setdefault(step.move, UNFIT.format(name))

    def depends(self, moved: np.ndarray, watched: np.ndarray) -> bool:
        """Return whether an output depends on what is moved."""
        changes = (change for _, found in self._steps(moved, watched) for change in found.values())
        return any(change.wrong for change in changes if not change.gradient)

    def _results(self, watched: np.ndarray) -> list[Result]:
        return self.subject.results(self.subject.args, watched)

    def _steps(self, moved: np.ndarray, watched: np.ndarray) -> Iterator[tuple["Step", dict[str, Change]]]:
        for draw, move in itertools.product(range(DRAWS), (OWN, *self.moves)):
            targets = self.subject.targets(move, self.rng)
            if not targets:
                continue
            self.tried.add(move)
            try:
                step = Step(move, draw, targets, self._at(move, draw), self.rng)
                changes = step.changes(moved, watched)
            except Exception as error:  # whatever a forward may raise at inputs that it is not made for
                self.unjudged.setdefault(move, f"{type(error).__name__}: {error}")
            else:
                yield step, changes

    def _at(self, move: float, draw: int) -> Subject:
        """Return the subject with all inputs moved, if the move is a large one: a score is a product of two."""
        if move <= 1:
            return self.subject
        if (move, draw) not in self.far:
            every = np.arange(self.subject.length)
            args = self.subject.moved(self.subject.targets(move, self.rng), every)
            subject = replace(self.subject, args=args)
            results = subject.results(args, every)
            self.sizes[move, draw] = self._sizes(results)
            self.far[move, draw] = subject
            for near, far in zip(self.base, results, strict=True):
                if not np.array_equal(np.isfinite(near.array), np.isfinite(far.array)):
                    self.unjudged.setdefault(move, UNFIT.format(near.name))
        return self.far[move, draw]

    def _beyond_rounding(self, change: Change, result: Result, step: "Step") -> Change:
        """Allow a change what rounding may be, where the change itself does not show it.

        By a large move a masked score leaks in earnest. By a small one rounding is as large as by any other. And a
        change as large as another that was rounding is rounding, too.
        """
        name = result.name
        if change.shape is not None:
            return change
        if step.move > 1:
            allowed = max(1e-9, 64 * result.unit) * self.sizes[step.move, step.draw][name]
        else:
            share = min(step.move, 1.0) if step.move != OWN else 1.0
            allowed = max(64 * result.unit * change.scale / share, 4 * self.rounding.get(name, 0.0))
            allowed = max(allowed, 1e-3 * result.unit * self.sizes[OWN, 0][name])
        change = replace(change, allowed=max(change.allowed, allowed))
        if step.move <= 1 and change.judged and not change.wrong:
            self.rounding[name] = max(change.size, self.rounding.get(name, 0.0))
        return change

    def _varying(self) -> dict[str, np.ndarray]:
        """Return where each result is not a constant, such as that of a mask, which may be of any size."""
        every = np.arange(self.subject.length)
        found = {result.name: np.full(result.array.shape, result.gradient) for result in self.base}
        for move in (OWN, OWN, 1.0):
            try:
                after = self.subject.results(self.subject.moved(self.subject.targets(move, self.rng), every), every)
                for old, new in zip(self.base, after, strict=True):
                    found[old.name] |= old.array != new.array
            except Exception:  # at inputs that forward is not made for, or with another shape
                continue
        return found

    def _sizes(self, results: list[Result]) -> dict[str, float]:
        return {r.name: largest(r.array[self.varying[r.name] & np.isfinite(r.array)]) for r in results}

    def _note(self, name: str, change: Change) -> bool:
        """Keep the worst change of a result; return whether it is the first that is too large."""
        if change.alive:
            self.alive.add(name)
        if name not in self.worst or change.relative > self.worst[name].relative:
            self.worst[name] = change
        return change.wrong and name not in self.failures

    def _fail(self, result: Result, moved: np.ndarray, watched: np.ndarray, step: "Step | None") -> None:
        """Find the first output and the first input of a change that is too large, each as small a part as shows it."""

        def change(moved: np.ndarray, watched: np.ndarray) -> Change:
            try:
                if step is None:
                    return reached(self._results(watched), moved)[result.name]
                return self._beyond_rounding(step.changes(moved, watched)[result.name], result, step)
            except Exception:  # at inputs of which only some have moved
                return NOTHING

        t = _first(watched, lambda part: change(moved, part).wrong)
        s = _first(moved, lambda part: change(part, np.array([t])).wrong)
        alone, together = change(np.array([s]), np.array([t])), change(moved, watched)
        found = alone if alone.wrong else together  # it may take several places to show it
        one, other = f"{self.words[0]} {t}", f"{self.words[1]} {s}"
        if step is None:
            reason = f"a dout at {one} alone gives {other} a gradient of {found.size:.1e}"
        elif found.shape is not None:
            reason = f"its shape becomes {found.shape} if {other} {_how(step.move)}"
        else:
            what = f"the gradient of {one}" if found.gradient else one
            reason = f"{what} depends on {other}: it changes by {found.size:.1e} if that {_how(step.move)}"
        self.failures[result.name] = found, reason

    def report(self, notes: Sequence[str] = (), none: str = "") -> Report:
        """Return the report; with `none`, a reason for which nothing was tested, it is inconclusive."""
        obstacle = self._obstacle()
        unchecked = [*self.subject.unchecked, *self._without_gradient()]
        rows = []
        for result in self.base:
            worst = self.worst.get(result.name)
            if result.name in self.failures:
                rows.append(_row(result, "fail", *self.failures[result.name]))
            elif result.gradient and not result.array.any():
                unchecked.append(Unchecked(result.name, "float64", "it is zero throughout"))
            elif obstacle:
                rows.append(_row(result, "inconclusive", worst, obstacle))
            elif not result.gradient and result.name not in self.alive:
                rows.append(_row(result, "inconclusive", worst, "no move of the inputs changes it"))
            elif none:
                rows.append(_row(result, "inconclusive", worst, none))
            else:
                rows.append(_row(result, "pass", worst, ""))
        if not self.subject.outputs:
            rows.append(
                without_numbers("out", (), "inconclusive", "no output has the axis along which it would be watched")
            )
        if self.subject.backward is not None and not any(row.name.startswith(GRADIENT) for row in rows):
            rows.append(without_numbers("gradients", (), "inconclusive", "all gradients are zero or None"))
        passed = {} if obstacle else self.unjudged
        skipped = (f"not judged where an input {_how(move)}: {passed[move]}" for move in sorted(passed))
        return Report(tuple(rows), notes=(*notes, *skipped), not_checked=tuple(unchecked), labels=LABELS)

    def _without_gradient(self) -> list[Unchecked]:
        if self.subject.backward is None:
            return []
        given = {result.name for result in self.base}
        names = [GRADIENT + name for name in self.subject.float_names()]
        return [Unchecked(name, "NoneType", "backward returned None") for name in names if name not in given]

    def _obstacle(self) -> str:
        """Return why nothing can be said at all, or nothing."""
        if self.random:
            return UNSEEDED
        for result in self.base:
            if np.isnan(result.array).any():
                return f"{result.name} is NaN at these arguments"
        if not self.tried:
            return "the inputs cannot be moved: all values of an array are the same"
        if self.tried == set(self.unjudged):
            return "no move leaves anything to judge: " + next(iter(self.unjudged.values()))
        return ""


def _first(places: np.ndarray, shows: Callable[[np.ndarray], bool]) -> int:
    """Return the last of the fewest leading places that show something: the first that matters."""
    low, high = 0, places.size - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(places[: middle + 1]) else (middle + 1, high)
    return int(places[low])


def _how(move: float) -> str:
    if move == OWN:
        return "takes other values of its array"
    return f"moves{', as all inputs have,' if move > 1 else ''} by {move:g} times the spread of its array"


def _row(result: Result, verdict: str, change: Change | None, reason: str) -> ArgumentReport:
    size, shape = result.array.size, result.array.shape
    if change is None:
        return ArgumentReport(result.name, shape, verdict, math.nan, 0.0, None, math.nan, math.nan, reason, size=size)
    numbers = *change.relative, change.index, change.found, change.expected
    return ArgumentReport(result.name, shape, verdict, *numbers, reason, checked=size, size=size)


def _nothing(subject: Subject, reason: str) -> Report:
    names = sorted(subject.outputs) or ["out"]
    return Report(
        tuple(without_numbers(name, (), "inconclusive", reason) for name in names),
        not_checked=subject.unchecked,
        labels=LABELS,
    )
