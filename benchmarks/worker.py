"""Checks in a process of their own, so that one that hangs, or asks for all memory, ends alone."""

import contextlib
import logging
import multiprocessing
import os
import resource
import sys
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.pairs import Pair
from benchmarks.peers import PEERS, Answer
from benchmarks.suite import Task, pair_of

MEMORY = 8 * 2**30  # bytes that a check may ask for
START = 120.0  # seconds that a worker may take for its imports and its first check


def _serve(connection: Connection, peer: str) -> None:
    """Answer tasks until there are no more. The first is the warm-up."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - warnings of the examples, and JAX's tracebacks
    warnings.simplefilter("ignore")
    logging.disable()
    check = PEERS[peer].check
    first = True
    while (task := connection.recv()) is not None:
        pair: Pair = pair_of(task)
        start = time.perf_counter()
        try:
            answer = check(pair)
        except MemoryError:
            answer = Answer("not finished", "out of memory")
        except Exception as error:  # not one that the peer's function has taken for a verdict
            answer = Answer("not applicable", f"{type(error).__name__}: {error}")
        connection.send((answer, time.perf_counter() - start))
        if first:
            _limit_memory()
            first = False


def _limit_memory() -> None:
    """Allow MEMORY beyond what the imports have reserved; only Linux tells."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


class Worker:
    """Run one peer's checks, one after the other, and start anew after one that took too long."""

    def __init__(self, peer: str, warm_up: Task) -> None:
        self.peer, self.warm_up = peer, warm_up
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.peer), daemon=True)
        self.process.start()
        theirs.close()
        self.connection.send(self.warm_up)
        if not self.connection.poll(START):
            self.close()
            raise TimeoutError(f"the first check of {self.peer} took more than {START:.0f} s")
        self.connection.recv()

    def run(self, task: Task, limit: float) -> tuple[Answer, float]:
        """Return the answer and the seconds of the check alone."""
        if not self.process.is_alive():
            self._start()
        self.connection.send(task)
        if self.connection.poll(limit):
            with contextlib.suppress(EOFError, ConnectionError):
                answer, seconds = self.connection.recv()
                return answer, seconds
            self.close()
            return Answer("not finished", "the process ended, for want of memory most likely"), limit
        self.close()
        return Answer("not finished", f"more than {limit:g} s"), limit

    def close(self) -> None:
        """End the process, hung or not."""
        self.process.kill()
        self.process.join()
        self.connection.close()
