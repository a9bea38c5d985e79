"""How many steps a run with a limit on its time will have, from the clock.

pace = Pace(seconds=180, began=time.monotonic(), closing=0.5, evaluating=30, guess=2000)
trainer.pace = pace
"""

import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise

# The last tenth of the time tells how long a step takes, in some fifty parts of at least one step each, and at least
# five. The slowest part is left out, so that a pause of the machine does not look like a slow machine.
SHARE, PARTS, FEWEST = 0.1, 50, 5


class Pace:
    """A number of steps, estimated anew after each: a rate that is constant until the last steps allows that.

    seconds     of the run, from `began` to the end of the command
    began       what the clock said when the command began, or earlier by what a resumed run has used before
    closing     seconds between the last evaluation and the end of the command
    evaluating  how many steps take as long as the last evaluation
    guess       the number of steps before any was timed
    most        the largest number of steps; None sets no limit
    used        the seconds that are over
    """

    def __init__(
        self,
        seconds: float,
        began: float,
        closing: float,
        evaluating: float,
        guess: int,
        most: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.began, self.closing, self.evaluating = seconds, began, closing, evaluating
        self.guess, self.most, self.clock = guess, most, clock
        self.first: int | None = None  # the number of steps before this process took any
        self.marks: deque[tuple[float, int]] = deque()  # a time, and the number of steps by then
        self.each = 0.0  # what step_seconds returned for them

    @property
    def used(self) -> float:
        return self.clock() - self.began

    def __call__(self, done: int) -> int:
        """Return how many steps the run will have, when `done` are taken: no less than these, and at least one."""
        now = self.clock()
        if self.first is None:
            self.first = done
        if done <= self.first + 1:  # the first step compiles what was not measured
            self.marks = deque([(now, done)])
            return max(self.guess, done + 1)
        if now - self.marks[-1][0] >= SHARE / PARTS * self.seconds or len(self.marks) == 1:
            self.marks.append((now, done))
            while len(self.marks) > FEWEST + 1 and now - self.marks[1][0] > SHARE * self.seconds:
                self.marks.popleft()
            self.each = self.step_seconds()
        left = self.began + self.seconds - self.closing - now
        steps = done + max(0, round(left / self.each - self.evaluating))
        return steps if self.most is None else min(steps, self.most)

    def step_seconds(self) -> float:
        """Return how long a step takes, with its share of the evaluations."""
        parts = sorted(((t1 - t0) / (n1 - n0), n1 - n0) for (t0, n0), (t1, n1) in pairwise(self.marks))
        kept = parts[:-1] if len(parts) > 2 else parts
        return max(1e-9, sum(each * n for each, n in kept) / sum(n for _, n in kept))
