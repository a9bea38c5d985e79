"""How fast a model writes on one core."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

SECONDS, TOKENS = 0.25, 8  # a measurement takes so long, and at least so many tokens
READ = 64  # tokens that the text has before its speed is measured, where the context has room for twice as many
FAST_SHARE = 0.1


def tokens_per_second(model: Any, clock: Callable[[], float] = time.perf_counter) -> float | None:
    """Return how many tokens of one text a model's decoder computes in a second on one core, one after another; None
    for a model that has no compiled decoder.

    A tenth of the calls are faster: so other programs, which only ever slow a call down, hardly count.
    """
    decoder = model.decoder(1, READ, threads=1) if hasattr(model, "decoder") else None
    if decoder is None:
        return None
    T = model.config.n_positions
    start = min(READ, T // 2)
    slot, one, first = np.zeros(start, np.int64), np.zeros(1, np.int64), np.zeros(start, np.int64)
    if start:
        decoder.read(slot, first, one)
    decoder.read(one, one, one)  # compiles, and takes the memory
    took: list[float] = []
    end = clock() + SECONDS
    while len(took) < TOKENS or clock() < end:
        if decoder.lengths[0] == T:
            decoder.lengths[0] = start
        began = clock()
        decoder.read(one, one, one)
        took.append(clock() - began)
    return float(1 / np.quantile(took, FAST_SHARE))
