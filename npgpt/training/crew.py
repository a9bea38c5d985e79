"""Threads that wait for work and do it at the same time.

concurrent.futures does not promise the latter: its pool may give two calls to one thread, one after the other. Calls
that wait for each other, as the members of a team do, would then wait forever.
"""

import contextvars
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


class Crew:
    """The calling thread and n - 1 others.

    >>> with Crew(3) as crew:
    ...     crew.run(abs, [-1, -2, -3])
    [1, 2, 3]
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._inboxes: list[SimpleQueue] = [SimpleQueue() for _ in range(n - 1)]
        self._done: SimpleQueue = SimpleQueue()

    def __enter__(self) -> "Crew":
        # daemons, so that a crew that nobody has dismissed does not keep the program from ending
        self._threads = [Thread(target=self._serve, args=(i,), daemon=True) for i in range(self.n - 1)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        for inbox in self._inboxes:
            inbox.put(None)
        for thread in self._threads:
            thread.join()

    def run(self, function: Callable[[Any], Result], items: Iterable[Any]) -> list[Result]:
        """Call the function for up to n items at once, the first of them in this thread.

        When it returns, or raises what one of the calls has raised, all of them have ended.
        """
        first, *others = items
        if len(others) >= self.n:
            raise ValueError(f"{len(others) + 1} items are more than the {self.n} threads of the crew")
        for inbox, item in zip(self._inboxes, others, strict=False):
            # each call runs in a copy of this thread's context, where NumPy keeps its settings for overflow
            inbox.put((contextvars.copy_context(), function, item))
        try:
            result = function(first)
        finally:
            ended = sorted((self._done.get() for _ in others), key=lambda answer: answer[0])
        for _, _, error in ended:
            if error is not None:
                raise error
        return [result, *(answer for _, answer, _ in ended)]

    def _serve(self, i: int) -> None:
        while (task := self._inboxes[i].get()) is not None:
            context, function, item = task
            answer: tuple[int, Any, BaseException | None]
            try:
                answer = i, context.run(function, item), None
            except BaseException as error:  # for the caller
                answer = i, None, error
            self._done.put(answer)
            del task, context, function, item, answer  # their arrays are not to live as long as the next wait
