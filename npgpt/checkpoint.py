"""Run folders: the best model as a Hugging Face GPT-2 folder, and beside it what a run needs to go on.

config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json
training_state.safetensors   the last parameters, AdamW's averages, and the step
train.json                   how and on what the run trains
metrics.jsonl                a line a step, and a line an evaluation
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.files import write_text
from npgpt.model import GPT
from npgpt.optim import AdamW
from npgpt.parameters import Parameters
from npgpt.pretrained import load_model, read_tensors, save_tensors

STATE = "training_state.safetensors"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "train.json", "metrics.jsonl", STATE)


def refuse_existing(folder: Path) -> None:
    """Raise ValueError if folder already holds a file that a run would write over."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder")
    for name in FILES:
        if (folder / name).exists():
            raise ValueError(f"{folder} already holds a run ({name}): go on with --resume, or choose another --out")


def save_state(folder: Path, model: GPT, optimizer: AdamW, progress: dict[str, Any]) -> None:
    """Write the training state: model and optimizer by parameter name, and progress as JSON."""
    tensors: dict[str, np.ndarray] = {}
    for prefix, flat in _buffers(model, optimizer).items():
        views = Parameters(model.params.shapes, flat)
        tensors |= {f"{prefix}{name}": view for name, view in views.items()}
    progress = progress | {"optimizer_steps": optimizer.steps}
    save_tensors(folder / STATE, tensors, progress=json.dumps(progress))


def load_state(folder: Path, model: GPT, optimizer: AdamW | None = None) -> dict[str, Any]:
    """Read the training state into model and optimizer, and return the progress.

    Raises FileNotFoundError, or ValueError for a state that is damaged or of another model.
    """
    path = folder / STATE
    tensors, metadata = read_tensors(path)
    for prefix, flat in _buffers(model, optimizer).items():
        for name, view in Parameters(model.params.shapes, flat).items():
            tensor = tensors.get(prefix + name)
            if tensor is None or tensor.shape != view.shape or tensor.dtype != view.dtype:
                raise ValueError(f"{path}: {prefix}{name} is missing, or not {view.shape} of {view.dtype}")
            view[...] = tensor
    try:
        progress = json.loads(metadata["progress"])
        steps = int(progress["optimizer_steps"])
        progress = {
            "step": int(progress["step"]),
            "best_step": int(progress["best_step"]),
        } | progress
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: it does not say at which step the run stopped") from None
    if optimizer is not None:
        optimizer.steps = steps
    return progress


def load_last(folder: Path, dtype: str = "float32") -> GPT:
    """Return the model of the last saved step; `GPT.from_pretrained` returns the best."""
    state_dtype = read_tensors(folder / STATE)[0]["wte.weight"].dtype.name
    model = load_model(folder, state_dtype, "fast")
    load_state(folder, model)
    return GPT(model.config, params=Parameters(model.params.shapes, model.params.flat.astype(dtype)))


def append_metrics(folder: Path, record: dict[str, Any]) -> None:
    """Add a line to metrics.jsonl."""
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def cut_metrics(folder: Path, step: int) -> None:
    """Drop the lines after step, and a line that is not whole: the run goes on from there and writes them anew."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if _step(line) <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _buffers(model: GPT, optimizer: AdamW | None) -> dict[str, np.ndarray]:
    if optimizer is None:
        return {"": model.params.flat}
    return {
        "": model.params.flat,
        "exp_avg.": optimizer.exp_avg,
        "exp_avg_sq.": optimizer.exp_avg_sq,
    }
