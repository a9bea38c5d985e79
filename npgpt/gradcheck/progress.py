"""The clock of a check: a line on a terminal that says how long it will take, and the time that it may take."""

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from time import perf_counter as now
from typing import Any

PATIENCE = 2.0  # seconds before the line appears
EVERY = 0.2  # seconds between two lines
FIXED = 100  # as many elements' time as four directions, a bisection and a closer look may take
USUAL_CALLS = 2  # calls of forward for an element, until they have been counted


class TimeUp(BaseException):
    """There is no time left. It is no Exception, because a check outlives those that a forward raises."""


class Clock:
    """Counts calls of forward and elements, tells how long the rest will take, and raises TimeUp in time.

        with Clock(progress, max_seconds) as clock:
            forward = clock.watch(forward)
            clock.plan([900])                   # the elements of each argument
            clock.turn(0)
            for index in clock.spend(indices):  # ends early if there is no time for all of them
                ...

    progress     whether to show the line; None if standard error is a terminal. It is erased at the end
    max_seconds  the time for the whole, or None
    """

    def __init__(self, progress: bool | None, max_seconds: float | None) -> None:
        self.shows = (sys.stderr is not None and sys.stderr.isatty()) if progress is None else progress
        self.max_seconds = max_seconds
        self.share = math.inf if max_seconds is None else max_seconds  # of the argument whose turn it is
        self.end = self.deadline = now() + self.share
        self.next_line = now() + PATIENCE
        self.width = 0  # of the line that is shown
        self.calls, self.seconds = 0, 0.0  # of forward
        self.planned: list[int] = []
        self.done, self.spent, self.spent_calls = 0, 0.0, 0  # elements, and what they have cost

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, *_: object) -> None:
        self._write("")

    def watch(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return forward, made to look at the clock before each call."""
        if not self.shows and self.max_seconds is None:
            return forward

        @wraps(forward, updated=())
        def watched(*args: Any) -> Any:
            began = now()
            if began > self.deadline:
                raise TimeUp
            if self.shows and began > self.next_line:
                self.next_line = began + EVERY
                self._write(self.line())
            result = forward(*args)
            self.calls += 1
            self.seconds += now() - began
            return result

        return watched

    def plan(self, sizes: list[int]) -> None:
        """Say how many elements are to be looked at in each argument."""
        self.planned = sizes

    def turn(self, argument: int) -> "Clock":
        """Give an argument its share of the time that is left, by its size and those of the arguments after it."""
        weights = [size + FIXED for size in self.planned[argument:]]
        self.share = (self.end - now()) * weights[0] / sum(weights)
        self.deadline = now() + self.share
        return self

    def finish(self) -> None:
        """Give all the time that is left to what comes after the arguments."""
        self.deadline = self.end

    def spend(self, indices: Iterable[Any], least: int) -> Iterator[Any]:
        """Yield indices, the first in any case, as long as there is time enough for what comes after them.

        That is as much as FIXED elements take, or half of the argument's time, but not less than `least` elements take.
        """
        began = now()
        for count, index in enumerate(indices):
            before, calls = now(), self.calls
            each = (before - began) / max(count, 1)
            if count and self.deadline - before < max(min(FIXED * each, self.share / 2), (least + 1) * each):
                return
            yield index
            self.done += 1
            self.spent += now() - before
            self.spent_calls += self.calls - calls

    def line(self) -> str:
        """Return the line that is shown: "about 3 min: 900 elements x 2 calls of 100 ms", and later the time left."""
        call = self.seconds / max(self.calls, 1)
        if not self.planned:
            return f"{self.calls} calls of {in_words(call)}"
        total = sum(self.planned)
        each, calls = USUAL_CALLS * call, USUAL_CALLS
        if self.done:
            each, calls = self.spent / self.done, max(round(self.spent_calls / self.done), 1)
        left = min((total - self.done) * each, self.end - now())
        what = f"{total:,} elements x {calls} call{'s' * (calls > 1)} of {in_words(call)}"
        time = f"about {in_words(max(left, 1.0))}"
        return f"{time} left: {self.done:,} of {what}" if self.done else f"{time}: {what}"

    def _write(self, line: str) -> None:
        """Put a line in the place of the one that is shown; a line that is wrapped could not be taken back."""
        if not (line or self.width):
            return
        line = line[: shutil.get_terminal_size().columns - 1]
        blank = " " * (self.width - len(line))
        sys.stderr.write(f"\r{line}{blank}" if line else f"\r{blank}\r")
        sys.stderr.flush()
        self.width = len(line)


def in_words(seconds: float) -> str:
    """Return a time as a person would say it: 100 ms, 12 s, 3 min, 2.5 h."""
    if seconds < 1:
        return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
