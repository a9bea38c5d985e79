"""Ctrl-C and a notebook's stop button: they ask a run to stop after the current step, with its state saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_on_interrupt(on_first: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Give a list that is empty until the first interrupt. A second interrupt raises KeyboardInterrupt at once.

    >>> with stop_on_interrupt() as stopped:
    ...     records = list(run.records(lambda: bool(stopped)))

    on_first  called at the first interrupt, to say that the run is about to stop

    Only the main thread can handle signals. In any other thread, and where the handler is not Python's, nothing is
    changed: a KeyboardInterrupt then ends the run at once, and its last saved state stays.
    """
    stopped: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stopped.append(number)
        on_first()

    if threading.current_thread() is not threading.main_thread() or before is None:
        yield stopped
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
