"""Compare a gradient with the numerical one: element by element, and along random directions."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .accuracy import LEAST, allowed_for, saturates
from .function import FINE, Function
from .numeric import EPS, GOOD, TINY, Differences, Line, complex_parts, one_sided, seen_nearby
from .progress import Clock, TimeUp
from .tree import ids_among

MAX_KINKS = 300  # at most so many suspect elements of an array are looked at from both sides
CLEARLY_WRONG = 16  # if none of so many is at a kink, the other suspects are wrong without a closer look
DIRECTIONS = 4
ROUNDING = 16  # last places of an output that may be lost before it is one
TRUST = 1e-10  # a relative difference so small is not held against a gradient where only differences tell of it
HIDDEN = 1e-3  # an uncertainty of so large a share of an element's gradient could hide a slip
ESCAPE = 0.05  # the bounds that are printed hold with a probability of 95%


class Comparison:
    """The gradient of one leaf beside the numerical one, and what was found so far.

    function    the function of the leaf
    analytic    (...) the gradient that backward returned, float64
    gradient_at what backward returns with other numbers in the leaf's place
    allowance   (...) how far rounding may put a right gradient from the exact one
    value       (...) the numerical gradient, NaN where an element was not looked at
    error       (...) its error bar
    floor       (...) what rounding of the outputs that an element moves may hide of its derivative
    wrong       (...) where the two differ by more than error and allowance
    kinks       (...) where the slopes of the two sides differ and the gradient lies between them
    gap         (...) how far apart those slopes are
    looked_at   (...) which elements were looked at one by one
    hunted      (...) which of them because a direction led there: they say nothing of the share of those at kinks
    unseen      (...) of which a complex step sees nothing, though they have a gradient by backward
    rough       (...) how far off a right gradient may be because forward is inexact
    inexact     whether forward is inexact; None as long as nobody asked
    directions  how many directions through all elements were tried
    mismatch    the largest difference along one, relative to the gradient along it
    blind       an error whose norm is below this share of the gradient's could have escaped the directions
    exhausted   whether a direction disagrees because of more kinks than were looked for
    notes       what there is to say about wrong elements
    clock       says how much time there is
    hurried     whether there was too little of it for all elements that were to be looked at
    time_up     whether there was too little even for a sample and the directions
    disagrees   whether a direction did
    """

    def __init__(
        self,
        function: Function,
        analytic: np.ndarray,
        allowance: np.ndarray,
        clock: Clock | None = None,
        gradient_at: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.function, self.analytic, self.allowance = function, analytic, allowance
        self.gradient_at = gradient_at
        self.clock, self.hurried, self.time_up = clock or Clock(False, None), False, False
        self.disagrees = False
        self.value, self.error, self.floor = (np.full(analytic.shape, np.nan) for _ in range(3))
        self.wrong, self.kinks, self.looked_at, self.hunted, self.unseen = (
            np.zeros(analytic.shape, dtype=bool) for _ in range(5)
        )
        self.gap = np.zeros(analytic.shape)
        self.rough: np.ndarray | float = 0.0
        self.inexact: bool | None = None
        self.directions, self.mismatch, self.blind = 0, 0.0, 0.0
        self.exhausted = False
        self.notes: list[str] = []

    @property
    def slack(self) -> np.ndarray:
        """Return by how much rounding may set analytic and numerical gradient apart, those elements' included that were
        not looked at.
        """
        problem, leaf = self.function.problem, self.function.leaf
        floor = np.where(np.isnan(self.floor), ROUNDING * EPS * problem.natural(leaf), self.floor)
        return self.allowance + floor + self.rough

    @property
    def small(self) -> np.ndarray:
        """Return which elements are small among large ones."""
        return self.function.leaf.small

    @property
    def hidden(self) -> np.ndarray:
        """Return the small elements whose gradient is not zero, and cannot be told from rounding."""
        a, n = np.abs(self.analytic), np.abs(self.value)
        with np.errstate(invalid="ignore"):
            agreed = np.abs(self.analytic - self.value) <= self.error + self.allowance
            unsure = self.error + np.where(agreed, self.allowance, self.slack)
            certain = (a > 10 * self.allowance) | (n > 10 * self.error)  # that it is not zero
            share = 100 * HIDDEN if self.function.problem.single else HIDDEN  # as float32's rounding is wider
            found = (self.small | self.unseen) & certain & (unsure > share * np.maximum(a, n))
        return found & self.counted & ~self.wrong

    @property
    def counted(self) -> np.ndarray:
        """Return the elements on which a verdict rests: those that were looked at and are not at a kink."""
        return self.looked_at & ~self.kinks

    @property
    def suspect(self) -> np.ndarray:
        """Return the elements that differ from the numerical gradient, those that were found to be wrong among them."""
        with np.errstate(invalid="ignore"):
            right = np.abs(self.analytic - self.value) <= self.error + self.slack
        return self.counted & ~right

    def check(self, indices: np.ndarray, whole: bool, rng: np.random.Generator) -> None:
        """Look at elements, and if there are others or there was no time for all, along directions through all.

        indices  the elements; the most important first, because there may not be time for all of them
        whole    whether they are all that there are
        """
        # with little time in ever larger parts, so that what looks wrong in one is settled before it is over
        parts = [indices] if self.clock.max_seconds is None else np.split(indices, 16 * 2 ** np.arange(30))
        try:
            for part in parts:
                self.check_elements(part)
                self.hurried = not self.looked_at.reshape(-1)[part].all()
                if self.hurried:
                    break
            if self.wrong.any():
                return
            if not (whole and self.looked_at.all()):
                self.check_directions(rng)
                if self.kinks.sum() > 1 and not (self.wrong.any() or self.exhausted):
                    self.check_together(rng)
            elif self.function.complex_safe or self.kinks.sum() > 1:
                self.check_together(rng)
        except TimeUp:
            self.time_up = True

    def check_elements(self, indices: np.ndarray) -> None:
        """Differentiate by the elements at these flat indices, and mark those that are wrong or at a kink."""
        value, flat = self.value.reshape(-1), self.analytic.reshape(-1)
        for index in self.clock.spend(indices, DIRECTIONS):
            self._measure(int(index))
            self.looked_at.flat[index] = True
        indices = indices[self.looked_at.reshape(-1)[indices]]
        suspects = indices[self._differ(indices)]
        if len(suspects) and self._allow_for_jumps(suspects):
            suspects = indices[self._differ(indices)]
        # the most different first; a NaN before all
        distance = np.abs(flat[suspects] - value[suspects])
        order = np.argsort(-np.where(np.isnan(distance), np.inf, distance), kind="stable")
        for count, index in enumerate(suspects[order]):
            if not np.isfinite(flat[index]):  # where the derivative is not finite either, it has overflowed
                self.wrong.reshape(-1)[index] = np.isfinite(value[index])
            elif count < MAX_KINKS and (count < CLEARLY_WRONG or self.kinks.any()):
                self._look_closer(int(index))
            else:
                self.wrong.reshape(-1)[index] = True

    def _differ(self, indices: np.ndarray) -> np.ndarray:
        """Return which of the elements differ by more than error bar and rounding; a NaN does."""
        a, n, error, slack = (x.flat[indices] for x in (self.analytic, self.value, self.error, self.slack))
        with np.errstate(invalid="ignore"):
            return ~(np.abs(a - n) <= error + slack)

    def _allow_for_jumps(self, suspects: np.ndarray) -> bool:
        """Find out, once, whether forward is inexact; if so, allow for it, and look at the suspects again."""
        first = int(suspects[0])
        if self.inexact is None and self.gradient_at and self._may_be_right(first):
            trifle = abs(self.analytic.flat[first] - self.value.flat[first]) <= 1e-4 * abs(self.value.flat[first])
            found = allowed_for(self.function, self.gradient_at, bool(trifle))
            self.inexact = found is not None
            if found:
                self.rough, self.function = found
                for index in suspects:
                    if self._differ(np.array([index])):
                        self._measure(int(index))
        return bool(self.inexact)

    def _may_be_right(self, index: int) -> bool:
        """Return whether an element that differs does so by little, or looks right from afar."""
        claimed, value, step = (float(x.flat[index]) for x in (self.analytic, self.value, self.function.leaf.steps))
        line, h = self.function.element_line(index), step / 32
        with np.errstate(all="ignore"):
            from_afar = float(np.sum(line(h) - line(-h))) / (2 * h)
        distance = abs(claimed - value)
        return distance <= 1e-4 * abs(value) or abs(claimed - from_afar) < 0.1 * distance

    def check_directions(self, rng: np.random.Generator) -> None:
        """Differentiate along random directions through all elements; if one disagrees, bisect to an element.

        Every element has its share in a Gaussian direction, so an error in one of a million shows if it is larger than
        the error bar. The precision of the derivative decides, not luck. Small elements among large ones would have no
        share worth the name, and get directions of their own.
        """
        leaf = self.function.leaf
        for step in (leaf.steps, *self._small_steps()):
            for _ in range(DIRECTIONS):
                mismatch, bar, size = self._check_direction(step * rng.standard_normal(leaf.x.shape))
                self.directions += 1
                if size > 0:
                    self.mismatch = max(self.mismatch, mismatch / size)
                    # |<d, v>| < bar happens by chance for each direction with probability bar / |d v| * sqrt(2 / pi)
                    blind = bar / size * math.sqrt(2 / math.pi) / ESCAPE ** (1 / DIRECTIONS)
                    self.blind = max(self.blind, blind)
                if self.wrong.any() or self.exhausted:
                    return

    def _small_steps(self) -> Iterator[np.ndarray]:
        """Yield the steps of small elements, those of like size together, where there are more than by chance."""
        leaf = self.function.leaf
        size = np.where(self.small, np.abs(leaf.x), np.nan)
        level = np.floor(np.log10(size / leaf.scale) / 2)  # each spans a factor of 100
        for one in np.unique(level[np.isfinite(level)]):
            if np.mean(level == one) > 0.02:
                yield np.where(level == one, size, 0.0)

    def check_together(self, rng: np.random.Generator) -> None:
        """Move many elements at once, by real differences: each may look right, and all together claim too much.

        So do two that tie for a maximum if each is given all of it. A complex step would not even notice the kink.
        """
        function, leaf = self.function, self.function.leaf
        mask = self.kinks if self.kinks.sum() > 1 else np.ones(leaf.x.shape, dtype=bool)
        for attempt in range(8 if self.kinks.any() else 2):
            # first all by the same: those that tie go on doing so, and along that direction there is no kink
            each = rng.standard_normal(leaf.x.shape) if attempt else np.ones(leaf.x.shape)
            v = np.where(mask, leaf.steps * each, 0.0)
            claimed, length = float(np.sum(self.analytic * v)), float(np.linalg.norm(v))
            line, allowed = function.line(v), 4 * float(np.linalg.norm(self.slack * v))
            value, error = function.derivative(line, 1.0, length, real=True)
            if abs(claimed - value) <= error + allowed:
                continue
            low, high, bar = self._slopes(line, 1.0, allowed)
            if math.isfinite(low) and not low - bar <= claimed <= high + bar:
                self.notes.append(f"together they claim a slope of {claimed:.6g}, not in {low:.6g} to {high:.6g}")
                self._blame(mask)
                return

    def _measure(self, index: int) -> None:
        self.value.flat[index], self.error.flat[index], self.floor.flat[index] = self._derivative(index)

    def _derivative(self, index: int, real: bool = False) -> tuple[float, float, float]:
        """Return the derivative by one element, its error bar, and what rounding may hide of it."""
        function, leaf = self.function, self.function.leaf
        line, good = function.element_line(index), FINE if real else GOOD
        size = abs(float(leaf.x.flat[index]))
        small = self.small.flat[index]
        value, error, moved = function.measure(line, size if small else leaf.scale, real=real, position=size, good=good)
        self.unseen.flat[index] |= function.loses and not moved.any()
        if small and not error <= 2 * GOOD * abs(value):
            # small among large ones: the function may bend over the element's own size, or over that of the others
            again = function.measure(line, leaf.scale, real=real, position=size, good=good)
            if again[1] < error and abs(again[0] - value) <= error + again[1]:
                value, error, moved = again
        scale = min(leaf.scale, size) if size and not small else leaf.scale
        return value, error, ROUNDING * EPS * float(np.sum(function.problem.sizes[moved])) / scale

    def _look_closer(self, index: int) -> None:
        """Decide on an element that looks wrong: by real differences too, and from both sides."""
        claimed, allowed = float(self.analytic.flat[index]), float(self.slack.flat[index])
        if self.function.complex_safe:
            value, error, floor = self._derivative(index, real=True)
            if math.isfinite(value) and self._is_doubtful(index, value, error):
                self.value.flat[index], self.error.flat[index], self.floor.flat[index] = value, error, floor
                allowed = float(self.slack.flat[index])
                if abs(claimed - value) <= error + allowed:
                    return
        low, high, bar = self._slopes(self.function.element_line(index), self.function.leaf.scale, allowed)
        if high - low > 4 * bar:
            if low - bar <= claimed <= high + bar:
                self.kinks.flat[index] = True
                self.gap.flat[index] = high - low
                return
            at = self.function.leaf.at(index)
            self.notes.append(f"at {at} the slopes of the two sides are {low:.6g} and {high:.6g}")
        value, error = float(self.value.flat[index]), float(self.error.flat[index])
        tiny = claimed == 0 and abs(value) <= LEAST * self.function.problem.natural(self.function.leaf)
        if tiny and self.gradient_at and saturates(self.function.leaf, self.gradient_at, index, value):
            self.floor.flat[index] = abs(value)
            return
        if not self.function.complex_safe or self.function.loses:
            step, distance = float(self.function.leaf.steps.flat[index]), abs(claimed - value)
            differences = Differences(self.function.element_line(index), self.function.noise)
            if distance <= TRUST * abs(value) or seen_nearby(differences, step, claimed, value, error):
                self.error.flat[index] = distance
                return
        if math.isfinite(value):
            self.wrong.flat[index] = True

    def _is_doubtful(self, index: int, value: float, error: float) -> bool:
        """Return whether a complex step may be wrong for an element, given the derivative by real differences."""
        step = float(self.value.flat[index])
        if abs(value - step) > 2 * error + 1e-12 * abs(value):  # complex arithmetic took another branch here
            return True
        with np.errstate(all="ignore"):
            parts = complex_parts(self.function.element_line(index), 1e5 * TINY)
        # a root at 0 grows with the step, and abs leaves nothing of it
        unseen = not np.any(parts)
        self.unseen.flat[index] = unseen
        return unseen or not abs(float(np.sum(parts)) - step) <= float(self.error.flat[index])

    def _slopes(self, line: Line, scale: float, allowed: float) -> tuple[float, float, float]:
        """Return the least and the greatest slope that may be claimed at a kink, and how far a claim may be off."""
        low, high, error = one_sided(line, scale, self.function.noise)
        return low, high, error + allowed + 1e-7 * max(abs(low), abs(high))

    def _check_direction(self, v: np.ndarray) -> tuple[float, float, float]:
        """Compare along v, and mark the element to which a mismatch comes down; return what `_mismatch` does.

        Elements at kinks are taken out of v, and the rest is tried again.
        """
        v[self.kinks] = 0.0
        while True:
            mismatch, bar, size = self._mismatch(v)
            if not (math.isfinite(mismatch) and mismatch > bar):
                return mismatch, bar, size
            self.disagrees = True
            index = self._bisect(v)
            self._hunt(np.array([index]))
            if self.wrong.flat[index]:
                return mismatch, bar, size
            if not self.kinks.flat[index]:
                self._look_closer(index)  # a complex step meets one side of a kink alone, and may agree with it
            if v.flat[index] == 0 or not self.kinks.flat[index]:
                self.notes.append("a direction disagrees, but no element by itself")
                self.wrong.flat[index] = True
                return mismatch, bar, size
            # where one is, those of the same value are, too: the zeros under a relu
            x = self.function.leaf.x.reshape(-1)
            self._hunt(np.flatnonzero(x == x[index])[:MAX_KINKS])
            v[self.kinks] = 0.0
            self.exhausted = int(self.hunted.sum()) > MAX_KINKS
            if self.wrong.any() or self.exhausted:
                return mismatch, bar, size

    def _hunt(self, indices: np.ndarray) -> None:
        """Look at elements to which a direction led."""
        new = indices[~self.looked_at.flat[indices]]
        self.hunted.flat[new] = True
        self.check_elements(new)

    def _mismatch(self, v: np.ndarray) -> tuple[float, float, float]:
        """Return how far <gradient, v> is from the derivative along v, the error bar, and the size of the terms."""
        value, error, moved = self.function.measure(self.function.line(v), 1.0, float(np.linalg.norm(v)))
        product = self.analytic * v
        hidden = ROUNDING * EPS * float(np.sum(self.function.problem.sizes[moved]))
        bar = error + 4 * float(np.linalg.norm((self.allowance + self.rough) * v)) + hidden
        return abs(float(np.sum(product)) - value), bar, float(np.linalg.norm(product))

    def _bisect(self, v: np.ndarray) -> int:
        """Return the flat index of an element that causes a mismatch along v, halving the elements each time."""
        indices = np.flatnonzero(v)
        while len(indices) > 1:
            halves = np.array_split(indices, 2)
            misses = []
            for half in halves:
                part = np.zeros_like(v)
                part.reshape(-1)[half] = v.reshape(-1)[half]
                value, _ = self.function.derivative(self.function.line(part), 1.0, float(np.linalg.norm(part)))
                misses.append(abs(float(np.sum(self.analytic * part)) - value))
            indices = halves[1] if misses[0] < misses[1] else halves[0]
        return int(indices[0])

    def _blame(self, mask: np.ndarray) -> None:
        """Mark which of the elements that together claim too much are wrong; all of them if none is by itself."""
        for index in np.flatnonzero(mask):
            value, error, _ = self._derivative(int(index), real=True)
            wrong = not abs(float(self.analytic.flat[index]) - value) <= error + float(self.slack.flat[index])
            self.wrong.flat[index] = wrong
            self.value.flat[index] = value
        if not self.wrong.any():
            self.wrong |= mask
        self.kinks[...] = False


def sample(shape: tuple[int, ...], args: Iterable[Any], count: int, rng: np.random.Generator) -> np.ndarray:
    """Return flat indices to look at in an array that is too large to look at all of it.

    One at random from each of `count` equal parts; some from the first and the last row; and some from the rows that
    ids among the arguments name, the repeated ones first.
    """
    size = math.prod(shape)
    edges = np.linspace(0, size, count + 1).astype(np.int64)
    chosen = list(rng.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)))
    row = size // shape[0] if shape else 1
    few = max(1, count // 8)
    for first in (0, size - row):
        chosen += list(first + rng.integers(0, row, few))
    for ids in ids_among(args) if shape else ():
        rows, counts = np.unique(ids, return_counts=True)
        inside = (rows >= 0) & (rows < shape[0])
        rows = rows[inside][np.argsort(-counts[inside], kind="stable")][:few]
        chosen += list(rows * row + rng.integers(0, row, len(rows)))
    return np.unique(np.array(chosen, dtype=np.int64))
