"""A GPT whose matrices are integers of 8 bits with a scale for each output: for reading and writing text, not training.

It is made from a GPT, and takes a quarter of its memory. Norms, biases and positions stay floats.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.gpt2_int8 import SCALE, read_int8, write_int8
from npgpt.layers.int8 import dequantize, quantize
from npgpt.models.base import Decoder
from npgpt.models.gpt2 import GPT
from npgpt.models.gpt2_decoder import GPTDecoder, reader_of
from npgpt.models.gpt2_parameters import block_matrices, flops_per_token, parameter_shapes
from npgpt.models.kv_cache import KVCache
from npgpt.models.taps import Taps
from npgpt.ops import Ops, get_ops
from npgpt.support.parameters import Parameters, Shapes

if TYPE_CHECKING:
    from npgpt.data.batch import Batch


def quantized_names(config: GPTConfig) -> dict[str, int]:
    """Return {name: axis} of the matrices that become integers: along which axis the weights of one output lie.

    They are all that take part in a product, and the token embedding, whose rows have a scale each.
    """
    heads = ("wte.weight",) if config.tie_word_embeddings else ("wte.weight", "lm_head.weight")
    return dict.fromkeys(heads, 1) | dict.fromkeys(block_matrices(config), 0)


def int8_shapes(config: GPTConfig) -> Shapes:
    """Return {name: shape} of everything in the file of such a model."""
    shapes = parameter_shapes(config)
    return shapes | {f"{name}{SCALE}": (shapes[name][1 - axis],) for name, axis in quantized_names(config).items()}


class Floats(Mapping[str, np.ndarray]):
    """The parameters as floats, each of which is computed from its integers when it is asked for.

    flat  of the dtype of the floats
    """

    packed = False

    def __init__(self, params: Parameters, weights: Parameters, scales: Parameters, axes: Mapping[str, int]) -> None:
        self.params, self.weights, self.scales, self.axes = params, weights, scales, axes
        self.flat = params.flat
        self.size = params.size + weights.size

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.axes:
            return dequantize(self.weights[name], self.scales[name], self.axes[name])
        return self.params[name]

    def __iter__(self) -> Iterator[str]:
        yield from (*self.weights, *self.params)

    def __len__(self) -> int:
        return len(self.weights) + len(self.params)


class Int8GPT:
    """A GPT with weights of 8 bits, made from another: `Int8GPT.of(model)`.

    params   the parameters that are floats
    weights  {name: int8}, in the shapes of the GPT's; scales {name: (outputs,)} (npgpt.layers.int8.quantize)

    It has the methods of a GPT for reading and writing text. `decoder` computes straight from the integers; the others
    make floats of one matrix after another, so they are exact about the same weights, and slower.
    """

    def __init__(
        self, config: GPTConfig, params: Parameters, weights: Parameters, scales: Parameters, ops: str | Ops = "fast"
    ) -> None:
        self.config, self.params, self.weights, self.scales = config, params, weights, scales
        self.ops = get_ops(ops)
        self.matrices: dict[str, int] = {}
        self._panels: Parameters | None = None  # the weights as decoders read them

    @classmethod
    def of(cls, model: GPT) -> "Int8GPT":
        """Return a model of the same configuration, precision of floats and ops, with weights rounded to 8 bits.

        Raises ValueError, with the name, for a matrix with a weight that is not finite.
        """
        made = cls.empty(model.config, model.dtype.name, model.ops)
        for name in made.params:
            made.params[name] = model.params[name]
        for name, axis in quantized_names(model.config).items():
            try:
                made.weights[name], made.scales[name] = quantize(model.params[name], axis)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return made

    @classmethod
    def empty(cls, config: GPTConfig, dtype: str = "float32", ops: str | Ops = "fast") -> "Int8GPT":
        """Return a model whose parameters are uninitialised memory."""
        shapes, axes = parameter_shapes(config), quantized_names(config)
        scales: Shapes = {name: (shapes[name][1 - axis],) for name, axis in axes.items()}
        weights = {name: shapes[name] for name in axes}
        params = {name: shape for name, shape in shapes.items() if name not in axes}
        return cls(config, memory(params, dtype), memory(weights, "int8"), memory(scales, dtype), ops)

    @property
    def dtype(self) -> np.dtype:
        """The precision of the floats, and of everything that is computed."""
        return self.params.flat.dtype

    @property
    def size(self) -> int:
        """The number of parameters, without scales."""
        return self.params.size + self.weights.size

    @property
    def nbytes(self) -> int:
        """The memory of all parameters, in bytes."""
        return self.params.flat.nbytes + self.weights.flat.nbytes + self.scales.flat.nbytes

    @property
    def flops_per_token(self) -> float:
        """The floating-point operations of one token's forward pass, averaged over a full context."""
        return flops_per_token(self.config)

    @property
    def floats(self) -> Floats:
        """{name: array} of all parameters as floats."""
        return Floats(self.params, self.weights, self.scales, quantized_names(self.config))

    def as_gpt(self) -> GPT:
        """Return a GPT that computes with the floats; it cannot be trained."""
        ops = copy.copy(self.ops)
        ops.step = None  # which is for parameters in one buffer
        return GPT(self.config, ops=ops, params=cast("Parameters", self.floats))

    def describe(self) -> str:
        """Return the shape in words, as `npgpt info` prints it."""
        return f"{self.as_gpt().describe()}, weights of 8 bits"

    def tap_names(self) -> list[str]:
        """Return the names of the values that taps can see and replace."""
        return self.as_gpt().tap_names()

    def forward(
        self, ids: np.ndarray, past: KVCache | None = None, taps: Taps | None = None, last: bool = False
    ) -> np.ndarray:
        """Return the next token's unnormalised log-probabilities at every position, (B, T, V), as GPT.forward does."""
        return self.as_gpt().forward(ids, past, taps, last)

    def new_past(self, batch_size: int = 1) -> KVCache:
        """Return the past of `batch_size` sequences before their first token."""
        return KVCache(self.config, self.dtype, batch_size)

    def loss(self, batch: "Batch") -> float:
        """Return the mean cross-entropy in nats over the targets of a batch that are not -100."""
        return self.as_gpt().loss(batch)

    def loss_and_grads(self, batch: "Batch", **options: Any) -> NoReturn:
        """Raise ValueError: a step of training is smaller than what weights of 8 bits can differ by."""
        raise ValueError("weights of 8 bits cannot be trained: train the model that they were made from")

    def decoder(self, slots: int, rows: int, weights: str | None = None, threads: int = 0) -> Decoder | None:
        """Return the compiled decoder, which computes from the integers; None where there is none.

        All decoders of a model share one more copy of the integers, in the order in which they read them.
        """
        if self.ops.step is None:
            return None
        kernel = self.ops.step.decode
        return GPTDecoder(self.config, self.params, self._in_panels(kernel), self.scales, kernel, slots, rows, threads)

    def reader(self, slots: int, rows: int, length: int, layer: int, threads: int = 0) -> Decoder | None:
        """Return what reads texts fast for their hidden states (npgpt.models.base.Model); None where there is none."""
        if self.ops.step is None:
            return None
        kernel = self.ops.step.decode
        panels = self._in_panels(kernel)
        return reader_of(self.config, self.params, panels, self.scales, kernel, slots, rows, length, layer, threads)

    def _in_panels(self, kernel: Any) -> Parameters:
        """Return the integers in the order in which decoders read them."""
        if self._panels is None:
            blocks = block_matrices(self.config)
            arrays = {name: kernel.panels(q) if name in blocks else q for name, q in self.weights.items()}
            self._panels = memory({name: q.shape for name, q in arrays.items()}, "int8")
            self._panels |= arrays
        return self._panels

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, generation_config.json and model.safetensors, which only npgpt opens."""
        write_int8(Path(folder), self.config, self.params, self.weights, self.scales)

    def load_pretrained(self, folder: str | Path) -> "Int8GPT":
        """Return the model of a folder, in this one's precision and on its ops."""
        return Int8GPT.from_pretrained(folder, self.dtype.name, self.ops)

    @classmethod
    def from_pretrained(cls, name: str | Path, dtype: str = "float32", ops: str | Ops = "fast") -> "Int8GPT":
        """Read a folder of save_pretrained.

        Raises FileNotFoundError or ValueError, naming the file, if a file is missing or not whole.
        """
        config, tensors = read_int8(name, int8_shapes)
        made = cls.empty(config, dtype, ops)
        made.params |= {name: tensors[name] for name in made.params}
        made.weights |= {name: tensors[name] for name in made.weights}
        made.scales |= {name: tensors[f"{name}{SCALE}"] for name in made.scales}
        return made


def memory(shapes: Shapes, dtype: str) -> Parameters:
    """Return parameters of these names and shapes in uninitialised memory."""
    return Parameters(shapes, np.empty(sum(map(math.prod, shapes.values())), dtype))
