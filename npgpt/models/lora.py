"""Low-rank adapters for a whole model: the parameters that LoRA trains.

The model runs on merged weights, with its plain forward and backward. The chain rule carries the gradient of each
merged weight on to the two thin matrices that were merged into it.
"""

import math
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.peft import CONFIG, WEIGHTS, AdapterConfig, read_adapter_config, read_adapter_tensors, write_adapter
from npgpt.layers import lora_backward, lora_forward
from npgpt.models.base import Model
from npgpt.models.gpt2_parameters import MATRICES_IN_A_BLOCK, parameter_shapes
from npgpt.support.hints import nearest
from npgpt.support.parameters import Parameters, Shapes

TARGETS = tuple(MATRICES_IN_A_BLOCK)


class Adapters:
    """A low-rank adapter for each of the chosen weights of each block.

    >>> adapters = Adapters(model, rank=8)
    >>> adapters.merge_into(model)
    >>> loss, grads = model.loss_and_grads(ids, targets)
    >>> AdamW(adapters.params).step(adapters.gradients(grads), lr=1e-3)
    >>> adapters.merge_into(model)

    model    the model to adapt; its targeted weights are copied, as the base of every merge
    rank     r, at most the smaller side of each target
    alpha    alpha / rank * (lora_B @ lora_A).T is added to a weight; the default, rank, makes the factor 1
    targets  names in TARGETS, or the last part of one, such as c_attn
    seed     seed of lora_A; lora_B starts at zero, so the adapted model starts out equal to the model

    params are h.0.attn.c_attn.lora_A.weight (r, I), h.0.attn.c_attn.lora_B.weight (O, r), ..., in the model's dtype.
    Raises ValueError, with the value, for a rank, an alpha or a target that is not possible, and TypeError for a rank
    that is not an integer.
    """

    def __init__(
        self,
        model: Model,
        rank: int,
        alpha: float | None = None,
        targets: Iterable[str] = TARGETS,
        seed: int = 0,
    ) -> None:
        if not isinstance(model.config, GPTConfig):
            raise ValueError(f"adapters are for the layers of a GPT, which {model.describe()} does not have")
        self.rank = rank = operator.index(rank)  # a Python integer, which json can write, also for a NumPy one
        self.targets = find_targets(targets)
        shapes = adapter_shapes(model.config, rank, self.targets)
        self.alpha = float(rank if alpha is None else alpha)
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha={alpha!r} must be a number above 0")
        self.params = Parameters(shapes, np.zeros(sum(map(math.prod, shapes.values())), model.dtype))
        rng = np.random.default_rng(seed)
        for name, (_, n_in) in shapes.items():
            if name.endswith("lora_A.weight"):
                # uniform in +-1 / sqrt(I), Kaiming's with a = sqrt(5), as in PyTorch's Linear and PEFT; the numbers
                # are the same in both dtypes
                self.params[name] = (2 * rng.random((rank, n_in), np.float32) - 1) / math.sqrt(n_in)
        # the base of every merge: undoing a merge by subtraction would drift by one rounding per step
        self.base = {name: model.params[f"{name}.weight"].copy() for name in adapted(model.config, self.targets)}
        self._caches: dict[str, tuple] = {}

    def merge_into(self, model: Model) -> None:
        """Set the targeted weights of the model, or of a copy of it, to base + alpha / rank * (lora_B @ lora_A).T."""
        for name, weight in self.base.items():
            merged, self._caches[name] = lora_forward(weight, *self._factors(self.params, name), self.alpha / self.rank)
            model.params[f"{name}.weight"] = merged

    def gradients(self, grads: Mapping[str, np.ndarray]) -> Parameters:
        """Return the gradients of params, given those of every parameter of the model as it was last merged.

        Call it before params change, because the factors are not copied. Raises ValueError before any merge.
        """
        if not self._caches:
            raise ValueError("only a merged model has gradients of the adapters: call merge_into first")
        into = self.params.empty_like()
        for name, cache in self._caches.items():
            lora_backward(grads[f"{name}.weight"], cache, *self._factors(into, name))
        return into

    @staticmethod
    def _factors(params: Parameters, name: str) -> tuple[np.ndarray, np.ndarray]:
        return params[f"{name}.lora_A.weight"], params[f"{name}.lora_B.weight"]


def find_targets(names: Iterable[str]) -> tuple[str, ...]:
    """Return the named targets, each given in full or by its last part, in the order of TARGETS.

    As in PEFT, c_proj names the projections of both attention and MLP. Raises ValueError for an unknown name, with the
    nearest one, and for no names.
    """
    if isinstance(names, str):
        names = (names,)
    short = [target.split(".")[-1] for target in TARGETS]
    chosen = set()
    for name in names:
        found = {target for target in TARGETS if target == name or target.endswith(f".{name}")}
        if not found:
            raise ValueError(f"unknown target {name!r}{nearest(name, dict.fromkeys((*TARGETS, *short)))}")
        chosen |= found
    if not chosen:
        raise ValueError(f"there is no target: choose some of {', '.join(TARGETS)}")
    return tuple(target for target in TARGETS if target in chosen)


def adapted(config: GPTConfig, targets: Iterable[str]) -> list[str]:
    """Return h.0.attn.c_attn, ...: the targeted layers of every block."""
    return [f"h.{i}.{target}" for i in range(config.n_layer) for target in targets]


def adapter_shapes(config: GPTConfig, rank: int, targets: Iterable[str]) -> Shapes:
    """Return {name: shape} of every lora_A and lora_B. Raises ValueError for a rank that is not possible."""
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    weights = parameter_shapes(config)
    shapes: Shapes = {}
    for name in adapted(config, targets):
        n_in, n_out = weights[f"{name}.weight"]
        if rank > min(n_in, n_out):
            raise ValueError(f"rank={rank} is more than {name}.weight of {n_in} x {n_out} can have")
        shapes |= {f"{name}.lora_A.weight": (rank, n_in), f"{name}.lora_B.weight": (n_out, rank)}
    return shapes


def save_adapter(folder: str | Path, adapters: Adapters, base_name: str | Path) -> None:
    """Write the adapters into folder in PEFT's format. Each file is written whole or not at all.

    base_name  the model that they adapt: a folder, or a name on the Hugging Face hub
    """
    config = AdapterConfig(adapters.rank, adapters.alpha, adapters.targets)
    write_adapter(Path(folder), config, adapters.params, str(base_name))


def load_adapter(folder: str | Path, model: Model) -> Adapters:
    """Read the adapters of a model from a folder that save_adapter or PEFT has written.

    The model stays as it is; `merge_into` adapts it. Raises FileNotFoundError for a missing file, and ValueError,
    naming the file, for adapters that are incomplete, of another model, or of a kind that npgpt does not support.
    """
    path = Path(folder) / CONFIG
    config = read_adapter_config(path, model.config.n_layer)
    try:
        adapters = Adapters(model, config.rank, config.alpha, config.targets)
    except (ValueError, OverflowError) as error:  # OverflowError: an integer that is too large for a float
        raise ValueError(f"{path}: {error}") from None
    adapters.params |= read_adapter_tensors(Path(folder) / WEIGHTS, config, adapters.params.shapes)
    return adapters
