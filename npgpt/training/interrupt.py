"""Signals ask a run to stop after the current step, with its state saved: Ctrl-C, SIGTERM, and SIGHUP."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# SIGTERM comes from `kill`, a cluster or a system that shuts down, SIGHUP from a terminal that is closed
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def stop_on_interrupt(on_first: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Give a list that is empty until the first signal. A second Ctrl-C raises KeyboardInterrupt at once.

    >>> with stop_on_interrupt() as stopped:
    ...     records = list(run.records(lambda: bool(stopped)))

    on_first  called at the first signal, to say that the run is about to stop

    An ignored signal stays ignored, as SIGHUP under nohup. Only the main thread can handle signals. In another thread,
    and where the handler is not Python's, nothing is changed: a KeyboardInterrupt then ends the run at once, and its
    last saved state stays.
    """
    stopped: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: old for number, old in before.items() if old not in (None, signal.SIG_IGN)}

    def handle(number: int, frame: object) -> None:
        stopped.append(number)
        if number == signal.SIGINT:  # others may come twice without anybody's impatience, from a shell and the system
            signal.signal(number, before[number])
        if len(stopped) == 1:
            on_first()

    if threading.current_thread() is not threading.main_thread():
        before = {}
    for number in before:
        signal.signal(number, handle)
    try:
        yield stopped
    finally:
        for number, old in before.items():
            signal.signal(number, old)
