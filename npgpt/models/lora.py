"""Low-rank adapters for a whole model: the parameters that LoRA trains.

The model runs on merged weights, with its plain forward and backward. The chain rule carries the gradient of each
merged weight on to the two thin matrices that were merged into it.
"""

import dataclasses
import hashlib
import math
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.peft import CONFIG, Adapter, AdapterConfig, read_adapter, write_adapter
from npgpt.layers import lora_backward, lora_forward
from npgpt.models.base import Model
from npgpt.models.gpt2 import GPT
from npgpt.models.gpt2_parameters import MATRICES_IN_A_BLOCK, parameter_shapes, zero_parameters
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


def save_adapter(folder: str | Path, adapters: Adapters, base_name: str | Path, base_sha256: str | None = None) -> None:
    """Write the adapters into folder in PEFT's format. Each file is written whole or not at all.

    base_name    the model that they adapt: a folder, or a name on the Hugging Face hub
    base_sha256  the checksum of its parameters (checksum_of), by which a base that has changed is noticed
    """
    config = AdapterConfig(adapters.rank, adapters.alpha, adapters.targets)
    write_adapter(Path(folder), config, adapters.params, str(base_name), base_sha256)


def checksum_of(model: Model) -> str:
    """Return the SHA-256 of a model's parameters in their precision."""
    return hashlib.sha256(np.ascontiguousarray(model.params.flat).data).hexdigest()


def require_gpt(model: Model, folder: Path) -> GPT:
    """Return the base of the adapter of a folder. Raises ValueError for weights of 8 bits."""
    if not isinstance(model, GPT):
        raise ValueError(f"{folder} cannot be merged into {model.describe()}: give the run that they were made from")
    return model


def read_for(folder: Path, model: Model) -> Adapter:
    """Read an adapter of a model. Raises what read_adapter raises, and ValueError for a model that is no GPT."""
    config = require_gpt(model, folder).config

    def shapes_of(vocab_size: int | None) -> Shapes:
        size = config.vocab_size if vocab_size is None else vocab_size
        return parameter_shapes(
            dataclasses.replace(config, vocab_size=size, bias=True, tie_word_embeddings=False, eos_token_id=None)
        )

    return read_adapter(folder, config.n_layer, config.tie_word_embeddings, shapes_of)


def merged(folder: str | Path, model: GPT) -> GPT:
    """Return a model with the adapter of a folder merged into it: the same object, whose parameters change, or another
    one, where the adapter needs more of them: a head of its own, biases, or rows of the vocabulary.

    The model must not be mapped. Raises what load_adapter raises, and ValueError if the model is not the one that the
    adapter was trained on, as far as its file says.
    """
    folder = Path(folder)
    adapter = read_for(folder, model)
    model.params.require_packed()
    stored = next(iter(adapter.low_rank.values())).first.dtype if adapter.low_rank else None
    if adapter.sha256 is not None and stored == model.dtype and adapter.sha256 != checksum_of(model):
        raise ValueError(
            f"{folder}: its base has changed since the adapter was trained, or is another one: give the right one with "
            "--base RUN"
        )
    model = with_room_for(adapter, model, folder)
    params = model.params
    for name, array in adapter.replaced.items():
        params[name] = array
    for name, low in adapter.low_rank.items():
        first, second = (matrix.astype(model.dtype, copy=False) for matrix in (low.first, low.second))
        params[name] = lora_forward(params[name], first, second, low.alpha / low.rank)[0]
    for name, array in adapter.added.items():
        params[name] += array.astype(model.dtype)
    if adapter.rows is not None:
        for name in ("wte.weight", "lm_head.weight") if adapter.apart else ("wte.weight",):
            if name in params:
                params[name][list(adapter.rows[0])] = adapter.rows[1]
    if not np.isfinite(params.flat).all():
        raise ValueError(f"{folder}: merged into its base, a weight is not finite")
    return model


def with_room_for(adapter: Adapter, model: GPT, folder: Path) -> GPT:
    """Return a model that has all parameters that an adapter changes, with the adapter's own base weights in it.

    Raises ValueError for embedding and head that would have different vocabularies.
    """
    before = model.config
    biases = [name for name in (*adapter.replaced, *adapter.added) if name.endswith(".bias")]
    arrays = {**model.params, **adapter.base}
    if before.tie_word_embeddings and "lm_head.weight" in adapter.base:
        head = arrays.pop("lm_head.weight")
        if not np.array_equal(head, adapter.base.get("wte.weight", head)):
            raise ValueError(f"{folder}: its wte.weight and lm_head.weight differ, and its base ties them")
        arrays["wte.weight"] = head
    if adapter.apart:
        arrays["lm_head.weight"] = arrays["wte.weight"]
    whole = arrays | adapter.replaced
    heads = [whole[name] for name in ("wte.weight", "lm_head.weight") if name in whole]
    if len({array.shape for array in heads}) > 1:
        sizes = " and ".join(f"{len(array):,}" for array in heads)
        raise ValueError(f"{folder}: its embedding and its head have {sizes} tokens: an adapter must bring both")
    config = dataclasses.replace(
        before,
        vocab_size=len(heads[0]),
        bias=before.bias or bool(biases),
        tie_word_embeddings=before.tie_word_embeddings and not adapter.apart,
    )
    if config != before:
        return GPT(config, ops=model.ops, params=_copied(arrays, config, model.dtype.name))
    for name in ("wte.weight", "lm_head.weight") if adapter.base else ():
        if name in arrays:
            model.params[name] = arrays[name]
    return model


def _copied(arrays: Mapping[str, np.ndarray], config: GPTConfig, dtype: str) -> Parameters:
    params = zero_parameters(config, dtype)
    for name, array in arrays.items():
        if array.shape == params[name].shape:  # otherwise the adapter replaces it
            params[name] = array
    return params


def load_adapter(folder: str | Path, model: Model) -> Adapters:
    """Read the adapters of a model, to train them further, from a folder that save_adapter or PEFT has written.

    The model stays as it is; `merge_into` adapts it. Raises FileNotFoundError for a missing file, and ValueError,
    naming the file, for adapters that are incomplete, of another model, of a kind that npgpt does not compute, or of
    more than one rank, alpha or choice of layers for all blocks, which can be merged only.
    """
    path = Path(folder) / CONFIG
    found = read_for(Path(folder), model)
    names = {name.removesuffix(".weight") for name in found.low_rank}
    targets = tuple(target for target in TARGETS if any(name.endswith(f".{target}") for name in names))
    sizes = {(low.rank, low.alpha) for low in found.low_rank.values()}
    whole = found.base or found.replaced or found.added or found.rows is not None
    if whole or len(sizes) != 1 or names != {*adapted(model.config, targets)}:
        raise ValueError(
            f"{path}: only adapters of one rank and alpha, of the same layers of every block, can be trained further; "
            "this one can be merged into its base"
        )
    ((rank, alpha),) = sizes
    try:
        adapters = Adapters(model, rank, alpha, targets)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for name, low in found.low_rank.items():
        place = adapters.params, name.removesuffix(".weight")
        for into, value in zip(adapters._factors(*place), (low.first, low.second), strict=True):
            into[...] = value
    return adapters
