"""Low-rank adapters as a PEFT folder: adapter_config.json and adapter_model.safetensors."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.files import read_json, write_json
from npgpt.lora import Adapters
from npgpt.model import GPT
from npgpt.parameters import Shapes
from npgpt.pretrained import read_tensors, save_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model.transformer."  # PEFT's model around GPT2LMHeadModel

# what PEFT may ask for, and the values under which it computes what npgpt computes
SUPPORTED: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others begin by changing the base weights
}
# what changes nothing: where the base is, who wrote the file, dropout in training, sizes of what is switched off; and
# PEFT transposes a Conv1D's weight whatever fan_in_fan_out says
IGNORED = {
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


def save_adapter(folder: str | Path, adapters: Adapters, base_name: str | Path) -> None:
    """Write the adapters into folder, as PEFT reads them, each file whole or not at all.

    base_name  where the model is that they adapt: a folder, or a name on the Hugging Face hub
    """
    folder = Path(folder)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base_name),
        "r": adapters.rank,
        "lora_alpha": int(adapters.alpha) if adapters.alpha.is_integer() else adapters.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(adapters.targets),  # PEFT takes a layer whose name ends in one of these, after a dot
        "fan_in_fan_out": True,  # weights are (in, out)
        "bias": "none",
        "inference_mode": True,
    }
    save_tensors(folder / WEIGHTS, {f"{PREFIX}{name}": array for name, array in adapters.params.items()})
    write_json(folder / CONFIG, config)


def load_adapter(folder: str | Path, model: GPT) -> Adapters:
    """Read the adapters of a model from a folder that save_adapter or PEFT has written.

    The model is left as it is; `merge_into` adapts it. Raises FileNotFoundError for a file that is not there, and
    ValueError, naming the file, for adapters that are not whole, of another model, or of a kind npgpt does not compute.
    """
    path = Path(folder) / CONFIG
    config = read_adapter_config(path)
    try:
        targets = _in_every_block(config["target_modules"], model.config.n_layer)
        adapters = Adapters(model, config["r"], config["lora_alpha"], targets)
    except (ValueError, OverflowError) as error:  # the last for an integer that no float can hold
        raise ValueError(f"{path}: {error}") from None
    path = Path(folder) / WEIGHTS
    tensors = {_own_name(name): tensor for name, tensor in read_tensors(path)[0].items()}
    _check_tensors(tensors, adapters.params.shapes, path)
    adapters.params |= tensors
    return adapters


def read_adapter_config(path: Path) -> dict[str, Any]:
    """Read PEFT's adapter_config.json.

    Raises FileNotFoundError, or ValueError, with the key and its value, for what npgpt does not compute. A key that is
    not known, as newer versions may add, must be empty or false: what it does otherwise nobody here can say.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not an adapter: it has no {path.name}")
    content = read_json(path)
    for key in ("peft_type", "r", "lora_alpha", "target_modules"):
        if key not in content:
            raise ValueError(f"{path}: {key} is missing")
    for key, value in content.items():
        if key in SUPPORTED:
            if not any(value is known or (isinstance(known, str) and value == known) for known in SUPPORTED[key]):
                known = " or ".join(repr(known) for known in SUPPORTED[key])
                raise ValueError(f"{path}: {key}={value!r} is not supported, only {known}")
        elif key not in {"r", "lora_alpha", "target_modules"} | IGNORED and value:
            raise ValueError(f"{path}: {key}={value!r} is not supported")
    r, alpha, targets = content["r"], content["lora_alpha"], content["target_modules"]
    if type(r) is not int:
        raise ValueError(f"{path}: r={r!r} must be an integer")
    if type(alpha) not in (int, float):
        raise ValueError(f"{path}: lora_alpha={alpha!r} must be a number")
    if not (isinstance(targets, list) and all(isinstance(target, str) for target in targets)):
        raise ValueError(f"{path}: target_modules={targets!r} must be a list of names; a pattern is not supported")
    return content


def _in_every_block(names: list[str], n_layer: int) -> list[str]:
    """Return the names, with one for a layer that is named in every block, as PEFT writes "all-linear" of few."""
    blocks: dict[str, set[int]] = {}
    others = []
    for name in names:
        if match := re.fullmatch(r"(?:transformer\.)?h\.(\d+)\.(.+)", name):
            blocks.setdefault(match[2], set()).add(int(match[1]))
        else:
            others.append(name)
    for layer, numbers in blocks.items():
        if numbers != set(range(n_layer)):
            raise ValueError(f"target_modules has {layer} of some blocks, {sorted(numbers)}, not of all {n_layer}")
    return others + list(blocks)


def _own_name(name: str) -> str:
    """Return npgpt's name of a tensor; an adapter of GPT2Model, which has no head, names no transformer."""
    return name.removeprefix("base_model.model.").removeprefix("transformer.")


def _check_tensors(tensors: dict[str, np.ndarray], shapes: Shapes, path: Path) -> None:
    for name in shapes:
        if name not in tensors:
            raise ValueError(f"{path}: the tensor {PREFIX}{name} is missing")
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ValueError(f"{path}: the tensor {name} does not belong to the adapter of {CONFIG} and this model")
        if tensor.dtype.kind != "f":
            raise ValueError(f"{path}: {name} has the dtype {tensor.dtype}, expected floats")
        if tensor.shape != shapes[name]:
            raise ValueError(f"{path}: {name} has the shape {tensor.shape}, expected {shapes[name]}")
