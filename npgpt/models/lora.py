"""Low-rank adapters for a whole model: what is trained of it when it is fine-tuned with LoRA.

The model runs on merged weights, with its plain forward and backward; the chain rule carries the gradients of the
merged weights on to the two thin matrices behind each of them.
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

    model    the one to adapt; its targeted weights are copied, and stay the base of every merge
    rank     r, at most the smaller side of each target
    alpha    what is added to a weight is alpha / rank * (lora_B @ lora_A).T; the default, rank, makes that factor 1
    targets  of TARGETS, or the last part of one, as c_attn
    seed     of lora_A; lora_B begins at zero, so that the adapted model begins as the model itself

    params are h.0.attn.c_attn.lora_A.weight (r, I), h.0.attn.c_attn.lora_B.weight (O, r), ..., in the model's dtype.
    Raises ValueError, with the value, for a rank, an alpha or a target that cannot be, TypeError for a rank of another
    type.
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
        self.rank = rank = operator.index(rank)  # of a NumPy integer a Python one, which json can write
        self.targets = find_targets(targets)
        shapes = adapter_shapes(model.config, rank, self.targets)
        self.alpha = float(rank if alpha is None else alpha)
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha={alpha!r} must be a number above 0")
        self.params = Parameters(shapes, np.zeros(sum(map(math.prod, shapes.values())), model.dtype))
        rng = np.random.default_rng(seed)
        for name, (_, n_in) in shapes.items():
            if name.endswith("lora_A.weight"):
                # uniform in +-1 / sqrt(I): Kaiming's with a = sqrt(5), as PyTorch's Linear and PEFT begin; the same
                # numbers in both dtypes
                self.params[name] = (2 * rng.random((rank, n_in), np.float32) - 1) / math.sqrt(n_in)
        # the base of every merge: a merge that is undone by subtracting would drift by a rounding a step
        self.base = {name: model.params[f"{name}.weight"].copy() for name in adapted(model.config, self.targets)}
        self._caches: dict[str, tuple] = {}

    def merge_into(self, model: Model) -> None:
        """Write base + alpha / rank * (lora_B @ lora_A).T over the targeted weights of the model, or of its copy."""
        for name, weight in self.base.items():
            merged, self._caches[name] = lora_forward(weight, *self._factors(self.params, name), self.alpha / self.rank)
            model.params[f"{name}.weight"] = merged

    def gradients(self, grads: Mapping[str, np.ndarray]) -> Parameters:
        """Return the gradients of params, from those of every parameter of the model as it was last merged.

        To be called before params change: the factors are not kept beside them. Raises ValueError before any merge.
        """
        if not self._caches:
            raise ValueError("there are gradients of a merged model only: call merge_into first")
        into = self.params.empty_like()
        for name, cache in self._caches.items():
            lora_backward(grads[f"{name}.weight"], cache, *self._factors(into, name))
        return into

    @staticmethod
    def _factors(params: Parameters, name: str) -> tuple[np.ndarray, np.ndarray]:
        return params[f"{name}.lora_A.weight"], params[f"{name}.lora_B.weight"]


def find_targets(names: Iterable[str]) -> tuple[str, ...]:
    """Return the targets that are named, each in full or by its last part, in the order of TARGETS.

    As PEFT matches them, c_proj is the projection of attention and that of the MLP. Raises ValueError for another name,
    with the nearest one, and for none at all.
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
    """Return {name: shape} of every lora_A and lora_B. Raises ValueError for a rank that cannot be."""
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    weights = parameter_shapes(config)
    shapes: Shapes = {}
    for name in adapted(config, targets):
        n_in, n_out = weights[f"{name}.weight"]
        if rank > min(n_in, n_out):
            raise ValueError(f"rank={rank} is more than {name}.weight {n_in} x {n_out} can have")
        shapes |= {f"{name}.lora_A.weight": (rank, n_in), f"{name}.lora_B.weight": (n_out, rank)}
    return shapes


def save_adapter(folder: str | Path, adapters: Adapters, base_name: str | Path) -> None:
    """Write the adapters into folder, as PEFT reads them, each file whole or not at all.

    base_name  where the model is that they adapt: a folder, or a name on the Hugging Face hub
    """
    config = AdapterConfig(adapters.rank, adapters.alpha, adapters.targets)
    write_adapter(Path(folder), config, adapters.params, str(base_name))


def load_adapter(folder: str | Path, model: Model) -> Adapters:
    """Read the adapters of a model from a folder that save_adapter or PEFT has written.

    The model is left as it is; `merge_into` adapts it. Raises FileNotFoundError for a file that is not there, and
    ValueError, naming the file, for adapters that are not whole, of another model, or of a kind npgpt does not compute.
    """
    path = Path(folder) / CONFIG
    config = read_adapter_config(path, model.config.n_layer)
    try:
        adapters = Adapters(model, config.rank, config.alpha, config.targets)
    except (ValueError, OverflowError) as error:  # the last for an integer that no float can hold
        raise ValueError(f"{path}: {error}") from None
    adapters.params |= read_adapter_tensors(Path(folder) / WEIGHTS, adapters.params.shapes)
    return adapters
