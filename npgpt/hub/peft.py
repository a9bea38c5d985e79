"""Low-rank adapters as a PEFT folder: adapter_config.json and adapter_model.safetensors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.hub.tensors import read_tensors, require_config, require_shapes, save_tensors
from npgpt.support.files import read_json, write_json
from npgpt.support.parameters import Shapes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model.transformer."  # PEFT's model around GPT2LMHeadModel

# keys of PEFT that change what is computed, and the values that npgpt supports
SUPPORTED: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others begin by changing the base weights
}
READ = ("r", "lora_alpha", "target_modules")
# keys that change nothing: where the base is, what wrote the file, dropout in training, settings of features that are
# off. PEFT transposes a Conv1D's weight whatever fan_in_fan_out says
WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
}


class AdapterConfig(NamedTuple):
    """An adapter without its tensors: alpha / rank times the product of two matrices is added to each weight."""

    rank: int
    alpha: float  # may be an integer in a file
    targets: tuple[str, ...]


def write_adapter(folder: Path, config: AdapterConfig, params: Mapping[str, np.ndarray], base_name: str) -> None:
    """Write an adapter into folder in PEFT's format. Each file is written whole or not at all."""
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if float(config.alpha).is_integer() else config.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(config.targets),  # PEFT adapts every layer whose name ends in a dot and one of these
        "fan_in_fan_out": True,  # weights are (in, out)
        "bias": "none",
        "inference_mode": True,
    }
    tensors = {f"{PREFIX}{name}": array for name, array in params.items()}
    save_tensors(folder / WEIGHTS, tensors, config._asdict())
    write_json(folder / CONFIG, content)


def read_adapter_tensors(path: Path, config: AdapterConfig, shapes: Shapes) -> dict[str, np.ndarray]:
    """Read an adapter's tensors under npgpt's names.

    Raises ValueError unless they are floats of these shapes, and for another config than npgpt has saved them with.
    """
    tensors, metadata = read_tensors(path)
    require_config(path, metadata, config._asdict(), path.with_name(CONFIG))
    tensors = {_own_name(name): tensor for name, tensor in tensors.items()}
    require_shapes(tensors, shapes, path, f"{CONFIG} and this model", of=PREFIX)
    return tensors


def read_adapter_config(path: Path, n_layer: int) -> AdapterConfig:
    """Read PEFT's adapter_config.json, for a model of n_layer blocks.

    Raises FileNotFoundError, or ValueError, with the key and its value, for what npgpt does not support. A key that
    npgpt does not know, which a newer version may have added, must be empty or false: its effect is unknown.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not an adapter: it has no {path.name}")
    content = read_json(path)
    for key in ("peft_type", *READ):
        if key not in content:
            raise ValueError(f"{path}: {key} is missing")
    for key, value in content.items():
        _require_supported(key, value, path)
    r, alpha, targets = (content[key] for key in READ)
    if type(r) is not int:
        raise ValueError(f"{path}: r={r!r} must be an integer")
    if type(alpha) not in (int, float):
        raise ValueError(f"{path}: lora_alpha={alpha!r} must be a number")
    if not (isinstance(targets, list) and all(isinstance(target, str) for target in targets)):
        raise ValueError(f"{path}: target_modules={targets!r} must be a list of names; a pattern is not supported")
    try:
        return AdapterConfig(r, alpha, tuple(_in_every_block(targets, n_layer)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _require_supported(key: str, value: Any, path: Path) -> None:
    if key in SUPPORTED:
        if not any(value is known or (isinstance(known, str) and value == known) for known in SUPPORTED[key]):
            known = " or ".join(repr(known) for known in SUPPORTED[key])
            raise ValueError(f"{path}: {key}={value!r} is not supported, only {known}")
    elif value and key not in WITHOUT_EFFECT and key not in READ:
        raise ValueError(f"{path}: {key}={value!r} is not supported")


def _in_every_block(names: list[str], n_layer: int) -> list[str]:
    """Replace the names of one layer in every block, which PEFT may write for "all-linear", by that layer's name.

    Example: ["h.0.attn.c_attn", "h.1.attn.c_attn"] gives ["attn.c_attn"] for a model of two blocks.
    """
    blocks: dict[str, set[int]] = {}
    others = []
    for name in names:
        if match := re.fullmatch(r"(?:transformer\.)?h\.(\d+)\.(.+)", name):
            blocks.setdefault(match[2], set()).add(int(match[1]))
        else:
            others.append(name)
    for layer, numbers in blocks.items():
        if numbers != set(range(n_layer)):
            raise ValueError(f"target_modules has {layer} of blocks {sorted(numbers)} only, not of all {n_layer}")
    return others + list(blocks)


def _own_name(name: str) -> str:
    """Return npgpt's name of a tensor. An adapter of GPT2Model, which has no head, has no `transformer.` in it."""
    return name.removeprefix("base_model.model.").removeprefix("transformer.")
