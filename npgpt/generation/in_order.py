"""Texts in the order in which they were asked for, while those after them are being written."""

import time
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from npgpt.generation.engine import Generator
from npgpt.generation.requests import Request
from npgpt.generation.settings import Sampling

SLOTS = 8  # texts that are written at once
AHEAD = 4 * SLOTS  # texts that have been handed to the engine: those at once, and some for when they end


def in_order(
    generator: Generator,
    texts: Iterable[tuple[Iterable[int], np.random.Generator | None]],
    sampling: Sampling,
    deadline: float | None = None,
) -> Iterator[Request]:
    """Yield a request for each text, which `pieces` shows or `finished` awaits. At the end, cancel what is not done.

    texts     the ids of each prompt, and the generator of its draws; None for one with sampling.seed
    deadline  seconds from now, after which every text ends

    Raises what Generator.submit raises.
    """
    until = None if deadline is None else time.monotonic() + deadline
    pending: deque[Request] = deque()
    try:
        for ids, rng in texts:
            left = None if until is None else max(1e-9, until - time.monotonic())
            pending.append(generator.submit(ids, sampling, left, rng))
            if len(pending) == AHEAD:
                yield pending[0]
                pending.popleft().cancel()
        while pending:
            yield pending[0]
            pending.popleft().cancel()
    finally:
        for request in pending:
            request.cancel()


def pieces(generator: Generator, request: Request) -> Iterator[str]:
    """Yield a text as it comes, and write the others beside it. Raises the error that ended it."""
    shown = 0
    while True:
        while shown < len(request.pieces):
            shown += 1
            yield request.pieces[shown - 1]
        if request.error is not None:
            raise request.error
        if request.done:
            return
        generator.step()


def finished(generator: Generator, request: Request) -> Request:
    """Write a text to its end, and the others beside it. Raises the error that ended it."""
    for _ in pieces(generator, request):
        pass
    return request
