"""Low-rank adapters as a PEFT folder: adapter_config.json and adapter_model.safetensors."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt.hub.folders import find_folder
from npgpt.hub.peft_config import (
    CONFIG,
    AdapterConfig,
    Layer,
    adapted_layers,
    read_adapter_config,
    read_base_name,
    saved_parameters,
)
from npgpt.hub.tensors import read_tensors, require_config, require_shapes, save_tensors
from npgpt.support.files import write_json
from npgpt.support.parameters import Shapes

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Adapter",
    "AdapterConfig",
    "LowRank",
    "find_base",
    "first_with",
    "folders_of",
    "is_adapter",
    "read_adapter",
    "read_adapter_config",
    "require_one",
    "write_adapter",
]  # fmt: skip

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model.transformer."  # PEFT's model around GPT2LMHeadModel
BASE = "npgpt_base_sha256"  # in the metadata: of which weights the adapter is
TOKENS = "wte.token_adapter.trainable_tokens_delta"  # whole rows, in spite of the name


class LowRank(NamedTuple):
    """alpha / rank * (second @ first).T is added to a weight (I, O): first (rank, I), second (O, rank)."""

    first: np.ndarray
    second: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.first)


class Adapter(NamedTuple):
    """What an adapter changes, under the names of the model's parameters, in the order in which it does so.

    base      weights to begin with in place of the model's: PEFT saves embeddings that have more rows than before
    replaced  whole parameters
    low_rank  to be added to weights
    added     to be added to biases
    rows      of the token embedding: their ids, and what they become
    apart     whether embedding and head, if they were one, are two from now on
    sha256    the checksum of the base that it was trained on; None if nobody has recorded one
    """

    base: dict[str, np.ndarray]
    replaced: dict[str, np.ndarray]
    low_rank: dict[str, LowRank]
    added: dict[str, np.ndarray]
    rows: tuple[tuple[int, ...], np.ndarray] | None
    apart: bool
    sha256: str | None

    @property
    def size(self) -> int:
        """The number of parameters in it."""
        whole = (*self.base.values(), *self.replaced.values(), *self.added.values())
        thin = sum(one.first.size + one.second.size for one in self.low_rank.values())
        return thin + sum(array.size for array in whole) + (0 if self.rows is None else self.rows[1].size)

    def describe(self) -> list[tuple[str, str]]:
        """Return what there is to say of it, each in words."""
        ranks = sorted({one.rank for one in self.low_rank.values()})
        alphas = sorted({float(one.alpha) for one in self.low_rank.values()})
        layers = dict.fromkeys(re.sub(r"^h\.\d+\.|\.weight$", "", name) for name in self.low_rank)
        whole = dict.fromkeys(re.sub(r"^h\.\d+\.", "h.*.", name) for name in (*self.base, *self.replaced))
        found = [
            ("rank", ", ".join(map(str, ranks))),
            ("alpha", ", ".join(f"{alpha:g}" for alpha in alphas)),
            ("targets", ", ".join(layers)),
            ("whole parameters", ", ".join(whole)),
            ("tokens", "" if self.rows is None else f"{len(self.rows[0]):,} rows of wte.weight"),
            ("parameters", f"{self.size:,}"),
        ]
        return [(what, text) for what, text in found if text]


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds an adapter, and no whole model."""
    return (folder / CONFIG).is_file() and not (
        (folder / "config.json").is_file() and any(folder.glob("model*.safetensors*"))
    )


def require_one(folder: Path) -> None:
    """Raise ValueError for a folder of several adapters, with their names."""
    if not ((folder / CONFIG).is_file() or (folder / "config.json").is_file()):
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        if inside:
            raise ValueError(f"{folder} holds adapters in its folders {', '.join(inside)}: give one of them")


def find_base(folder: Path, base: str | Path | None = None, within: tuple[Path, ...] = ()) -> Path:
    """Return the folder of an adapter's base: the given one, or the one that its adapter_config.json names.

    A relative folder is one of the working directory, as in PEFT. `within` are the adapters that have this one as their
    base. Raises FileNotFoundError or ValueError, with the way out, for a base that is not there.
    """
    seen = (*within, folder.resolve())
    if base is not None:
        found = find_folder(base)
    else:
        name = read_base_name(folder / CONFIG)
        if name is None:
            raise ValueError(f"{folder / CONFIG} does not say what its base is: give it with --base RUN")
        try:
            found = find_folder(name)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder} is an adapter of {error}; give its base with --base RUN") from None
    if found.resolve() in seen:
        raise ValueError(f"{folder} is an adapter of itself: give its base with --base RUN")
    return found


def folders_of(folder: Path, base: str | Path | None = None) -> list[Path]:
    """Return the folders in which what a model needs besides its weights may be, the nearest first.

    Of a whole model it is its own. Of an adapter they are its own, the run that it is a part of, as npgpt writes it,
    and its base. Raises what find_base raises, and ValueError for a base that is given to what is no adapter.
    """
    found: list[Path] = []
    while is_adapter(folder):
        run = folder.resolve().parent
        found += [folder, *([run] if folder.resolve().name == "adapter" and (run / "train.json").is_file() else [])]
        folder, base = find_base(folder, base, tuple(one.resolve() for one in found[:-1])), None
    if base is not None:
        raise ValueError(f"--base {base} is for an adapter, and {folder} is a whole model: leave it out")
    return [*found, folder]


def first_with(folders: list[Path], *names: str) -> Path:
    """Return the first of these folders that has a file of one of these names; without one, the last."""
    return next((folder for folder in folders if any((folder / name).is_file() for name in names)), folders[-1])


def write_adapter(
    folder: Path, config: AdapterConfig, params: Mapping[str, np.ndarray], base_name: str, base_sha256: str | None
) -> None:
    """Write an adapter into folder in PEFT's format. Each file is written whole or not at all."""
    name, _, revision = (base_name, "", "") if Path(base_name).exists() else base_name.partition("@")
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        **({"revision": revision} if revision else {}),
        "r": config.rank,
        "lora_alpha": int(config.alpha) if float(config.alpha).is_integer() else config.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(config.targets),  # PEFT adapts every layer whose name ends in a dot and one of these
        "fan_in_fan_out": True,  # weights are (in, out)
        "bias": "none",
        "inference_mode": True,
    }
    tensors = {f"{PREFIX}{name}": array for name, array in params.items()}
    metadata = {} if base_sha256 is None else {BASE: base_sha256}
    save_tensors(folder / WEIGHTS, tensors, config.recorded(), **metadata)
    write_json(folder / CONFIG, content)


def read_adapter(folder: Path, n_layer: int, tied: bool, shapes_of: Callable[[int | None], Shapes]) -> Adapter:
    """Read an adapter of a GPT-2 with n_layer blocks from a folder that npgpt or PEFT has written.

    tied       whether embedding and head of the model are one
    shapes_of  from the size of a vocabulary, or None for the model's own, to the shapes of all parameters that such a
               model can have: with biases, and with a head of its own

    Raises FileNotFoundError or ValueError, naming the file, for what is not there, not whole, not of this model, or not
    computed by npgpt.
    """
    config = read_adapter_config(folder / CONFIG)
    path = folder / WEIGHTS
    tensors, metadata = read_tensors(path)
    require_config(path, metadata, config.recorded(), folder / CONFIG)
    within = [name.removeprefix("base_model.model.") for name in tensors]
    prefix = "" if any(name.startswith("h.") for name in within) else "transformer."
    try:
        layers = adapted_layers(config, n_layer, prefix)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from None
    tensors = _without_copies({_own_name(name): tensor for name, tensor in tensors.items()})
    return _checked(folder, config, layers, tensors, tied, shapes_of)._replace(sha256=metadata.get(BASE))


def _checked(
    folder: Path,
    config: AdapterConfig,
    layers: list[Layer],
    tensors: dict[str, np.ndarray],
    tied: bool,
    shapes_of: Callable[[int | None], Shapes],
) -> Adapter:
    """Return the adapter that a configuration and its tensors are. Raises ValueError unless they fit together."""
    vocabulary = _vocabulary(tensors, shapes_of(None))
    shapes = shapes_of(vocabulary)
    replaced = saved_parameters(shapes, config, layers)
    base = {name for name in ("wte.weight", "lm_head.weight") if name in tensors} - replaced
    if not (layers or replaced or config.tokens):
        raise ValueError(f"{folder / CONFIG}: target_modules={_shown(config.targets)} names no layer of this model")
    _require_tokens(config, shapes, folder / CONFIG)
    expected = {name: shapes[name] for name in (*replaced, *base)}
    for layer in layers:
        expected |= _shapes_of_layer(layer, shapes, config.lora_bias)
    if config.tokens:
        expected[TOKENS] = (len(config.tokens), shapes["wte.weight"][1])
    _require_numbers(tensors, expected, folder / WEIGHTS)
    alone = {layer.name for layer in layers} | {name.removesuffix(".weight") for name in replaced}
    return Adapter(
        base={name: tensors[name] for name in sorted(base)},
        replaced={name: tensors[name] for name in sorted(replaced)},
        low_rank={f"{layer.name}.weight": _low_rank(layer, tensors) for layer in layers},
        added=_added(layers, tensors) if config.lora_bias else {},
        rows=(config.tokens, tensors[TOKENS]) if config.tokens else None,
        apart=tied and not alone.isdisjoint(("wte", "lm_head")),
        sha256=None,
    )


def _require_tokens(config: AdapterConfig, shapes: Shapes, path: Path) -> None:
    if max(config.tokens, default=0) >= shapes["wte.weight"][0]:
        raise ValueError(f"{path}: trainable_token_indices has {max(config.tokens)}, which is no token")


def _require_numbers(tensors: Mapping[str, np.ndarray], expected: Shapes, path: Path) -> None:
    require_shapes(tensors, expected, path, f"{CONFIG} and this model", of=PREFIX)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"{path}: {name} has a number that is not finite")


def _shown(value: object) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 100 else f"{text[:100]} ..."


def _own_name(name: str) -> str:
    """Return npgpt's name of a tensor. An adapter of GPT2Model, which has no head, has no `transformer.` in it."""
    name = name.removeprefix("base_model.model.").removeprefix("transformer.")
    return name.replace(".base_layer.", ".")


def _without_copies(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors without what PEFT writes besides for a saved embedding that has more rows than its base's.

    Beside wte.weight, which is what was learned, it writes the same as wte.modules_to_save.weight, and what was there
    before as wte.original_module.weight; the same for lm_head.
    """
    besides = set()
    for module in ("wte", "lm_head"):
        own, same = tensors.get(f"{module}.weight"), tensors.get(f"{module}.modules_to_save.weight")
        if own is not None and same is not None and np.array_equal(own, same):
            besides |= {f"{module}.modules_to_save.weight", f"{module}.original_module.weight"}
    return {name: tensor for name, tensor in tensors.items() if name not in besides}


def _vocabulary(tensors: Mapping[str, np.ndarray], shapes: Shapes) -> int | None:
    """Return how many rows a whole embedding or head in an adapter has; None if there is none in it."""
    rows = {tensors[name].shape[0] for name in ("wte.weight", "lm_head.weight") if np.ndim(tensors.get(name, 0)) == 2}
    return max(rows | {shapes["wte.weight"][0]}) if rows else None  # it may have grown


def _shapes_of_layer(layer: Layer, shapes: Shapes, bias: bool) -> Shapes:
    n_in, n_out = shapes[f"{layer.name}.weight"]
    if layer.name in ("wte", "wpe"):
        return {
            f"{layer.name}.lora_embedding_A": (layer.rank, n_in),
            f"{layer.name}.lora_embedding_B": (n_out, layer.rank),
        }
    if layer.name == "lm_head":  # whose weight is (out, in)
        n_in, n_out = n_out, n_in
    found: Shapes = {
        f"{layer.name}.lora_A.weight": (layer.rank, n_in),
        f"{layer.name}.lora_B.weight": (n_out, layer.rank),
    }
    return found | ({f"{layer.name}.lora_B.bias": (n_out,)} if bias else {})


def _low_rank(layer: Layer, tensors: Mapping[str, np.ndarray]) -> LowRank:
    names = "lora_embedding_A", "lora_embedding_B"
    if layer.name not in ("wte", "wpe"):
        names = "lora_A.weight", "lora_B.weight"
    first, second = (tensors[f"{layer.name}.{name}"] for name in names)
    # the head's weight is that of PyTorch's Linear, (O, I), so its change is that of a Conv1D transposed
    return LowRank(second.T, first.T, layer.alpha) if layer.name == "lm_head" else LowRank(first, second, layer.alpha)


def _added(layers: list[Layer], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    scaled = {layer.name: np.float64(layer.alpha / layer.rank) for layer in layers}
    return {f"{name}.bias": scale * tensors[f"{name}.lora_B.bias"] for name, scale in scaled.items()}
