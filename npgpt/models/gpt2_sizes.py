"""How large a GPT is on disk and in memory, with weights of 32 and of 8 bits."""

import dataclasses
import math
from typing import NamedTuple

from npgpt.config import GPTConfig
from npgpt.models.gpt2_int8 import int8_shapes, quantized_names
from npgpt.models.gpt2_parameters import parameter_shapes
from npgpt.ops import get_ops

FLOAT = 4  # bytes


class Sizes(NamedTuple):
    """Bytes: of the numbers in a model's file, and of the memory for one text of a full context."""

    disk: int
    memory: int


def gpt_sizes(config: GPTConfig) -> dict[str, Sizes]:
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
    step = get_ops("fast").step  # None where there are no compiled decoders, and so no copy in another order
    panel = 1 if step is None else step.decode.PANEL
    copied = sum(
        math.prod(shape) if axis else shape[0] * -(-shape[1] // panel) * panel
        for shape, axis in ((shapes[name], axis) for name, axis in rounded.items())
    )
    stored = FLOAT * dataclasses.replace(config, bias=True).n_parameters  # a folder of GPT-2 has biases, if all are 0
    return {"float32": Sizes(stored, whole + cache), "int8": Sizes(disk, disk + copied + cache)}
