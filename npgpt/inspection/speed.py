"""How large a model is on disk and in memory, and how fast it writes on one core, with weights of 32 and of 8 bits.

sizes = sizes_to_sample(config)                        # {"float32": Sizes, "int8": Sizes}
tokens_per_second(model)                               # of the decoder alone, one text on one core
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from npgpt.config import GPTConfig
from npgpt.kernels.streams import PANEL
from npgpt.models.gpt2_int8 import int8_shapes, quantized_names
from npgpt.models.gpt2_parameters import parameter_shapes

SECONDS, TOKENS = 0.25, 8  # a measurement takes so long, and at least so many tokens
READ = 64  # tokens that the text has before its speed is measured, where the context has room for twice as many
FAST_SHARE = 0.1
FLOAT = 4  # bytes


class Sizes(NamedTuple):
    """Bytes: of the numbers in a model's file, and of the memory for one text of a full context."""

    disk: int
    memory: int


def sizes_to_sample(config: GPTConfig) -> dict[str, Sizes]:
    """Return {kind of weights: Sizes}, from shapes alone.

    Memory is that of the weights and of the cache, whose keys and values are float32 in both kinds. Decoders read
    weights of 8 bits from a copy in another order (Int8GPT.decoder), padded to whole panels, which counts, too.
    """
    cache = FLOAT * 2 * config.n_layer * config.n_positions * config.n_embd
    whole = FLOAT * config.n_parameters
    shapes, rounded = parameter_shapes(config), quantized_names(config)
    small = sum(math.prod(shapes[name]) for name in rounded)
    rest = sum(math.prod(shape) for name, shape in int8_shapes(config).items() if name not in rounded)
    disk = small + FLOAT * rest
    copied = sum(
        math.prod(shape) if axis else shape[0] * -(-shape[1] // PANEL) * PANEL
        for shape, axis in ((shapes[name], axis) for name, axis in rounded.items())
    )
    stored = FLOAT * dataclasses.replace(config, bias=True).n_parameters  # a folder of GPT-2 has biases, if all are 0
    return {"float32": Sizes(stored, whole + cache), "int8": Sizes(disk, disk + copied + cache)}


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
