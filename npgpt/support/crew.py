"""Threads that wait for work and do it at the same time.

concurrent.futures does not promise the latter: its pool may give two calls to one thread, one after the other. Calls
that wait for each other, as the members of a team do, would then wait forever.
"""

import contextvars
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from threading import Lock, Thread
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

    def __enter__(self) -> "Crew":
        # daemons, so that a crew that nobody has dismissed does not keep the program from ending
        self._threads = [Thread(target=self._serve, args=(i,), daemon=True) for i in range(self.n - 1)]
        for thread in self._threads:
            thread.start()
        return self

    def dismiss(self) -> None:
        """Let the threads end, and do not wait for it."""
        for inbox in self._inboxes:
            inbox.put(None)

    def __exit__(self, *error: object) -> None:
        self.dismiss()
        for thread in self._threads:
            thread.join()

    def run(
        self,
        function: Callable[[Any], Result],
        items: Iterable[Any],
        abort: Callable[[], None] = lambda: None,
    ) -> list[Result]:
        """Call the function for up to n items at once, the first of them in this thread.

        When it returns, or raises what one of the calls or a Ctrl-C has raised, all of them have ended.

        abort  called if a call fails, or was never made: calls that wait for it must then end, too
        """
        first, *others = items
        if len(others) >= self.n:
            raise ValueError(f"{len(others) + 1} items are more than the {self.n} threads of the crew")
        # each call runs in a copy of this thread's context, where NumPy keeps its settings for overflow
        tasks = [Task(contextvars.copy_context(), function, item, abort) for item in others]
        sent: list[None] = []
        try:
            # by one call into C, at whose end alone a signal may raise: `sent` is as long as there are tasks on the way
            sent.extend(map(SimpleQueue.put, self._inboxes, tasks))
            result = function(first)
        except BaseException:
            abort()
            raise
        finally:
            wait_for(tasks[: len(sent)])
        for task in tasks:
            if task.error is not None:
                raise task.error
        return [result, *(task.result for task in tasks)]

    def _serve(self, i: int) -> None:
        while (task := self._inboxes[i].get()) is not None:
            task.run()
            del task  # its arrays are not to live as long as the next wait


class Task:
    """A call of a function for an item, on a thread of the crew."""

    def __init__(
        self,
        context: contextvars.Context,
        function: Callable[[Any], Any],
        item: Any,
        abort: Callable[[], None],
    ) -> None:
        self.context, self.function, self.item, self.abort = context, function, item, abort
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended, self.running = False, Lock()
        self.running.acquire()

    def run(self) -> None:
        try:
            self.result = self.context.run(self.function, self.item)
        except BaseException as error:  # for the caller
            self.error = error
            self.abort()
        self.ended = True
        self.running.release()


def wait_for(tasks: Sequence[Task]) -> None:
    """Return when all tasks have ended. What a signal raises meanwhile, such as KeyboardInterrupt, is raised then."""
    interrupt: BaseException | None = None
    while True:
        try:
            for task in tasks:
                while not task.ended:  # a signal may also raise once the lock has been acquired
                    task.running.acquire()
            break
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
