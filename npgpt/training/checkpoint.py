"""Run folders: the best model as a Hugging Face GPT-2 folder, and the files that a run needs to continue.

config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json
training_state.safetensors   the last parameters, their mean if they are averaged, the optimizer's averages, the step
train.json                   the settings and the data of the run
metrics.jsonl                a line per step, and a line per evaluation
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.hub.tensors import CHECKSUM, read_metadata, read_tensors, require_config, require_run, save_tensors
from npgpt.models.base import Model
from npgpt.models.registry import fields_of, open_model
from npgpt.optim import Mean, Optimizer
from npgpt.support.files import begin, finish, is_cut_short, naming, remove_files, remove_parts, write_atomically
from npgpt.support.notices import notice

STATE = "training_state.safetensors"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "train.json",
    "metrics.jsonl",
    STATE,
)


def refuse_existing(folder: Path, resume: bool = True) -> None:
    """Raise ValueError if folder already holds a file that a run would overwrite.

    resume  whether the command has a --resume that could continue the run

    A run that was killed before it saved its first training state is none: begin_run removes its files.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder")
    if is_cut_short(folder, STATE):
        return
    for name in FILES:
        if (folder / name).exists():
            what, way = f"a run ({name})", "continue it with --resume, or " if resume else ""
            if resume and not (folder / "train.json").exists():
                what, way = f"{name} without a train.json that --resume could continue", ""
            raise ValueError(f"{folder} already holds {what}: {way}choose another --out")


def begin_run(folder: Path) -> None:
    """Make a folder, whose lock is held, ready for the first file of a new run. The first state ends the beginning."""
    remove_unstarted(folder)
    begin(folder)


def remove_unstarted(folder: Path) -> None:
    """Remove the files of a run that ended before it saved its first training state."""
    if is_cut_short(folder, STATE):
        remove_files(folder, FILES)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files that a killed process has left in a run folder, whose lock is held."""
    remove_parts(folder, FILES)
    remove_parts(folder / "adapter", ("adapter_config.json", "adapter_model.safetensors"))
    for path in folder.glob(".tmp??????"):  # the names of the writer that earlier versions used
        if path.is_file() and begins_as_ours(path):
            path.unlink(missing_ok=True)


def begins_as_ours(path: Path) -> bool:
    """Say whether a file begins with the metadata of npgpt's tensor files, whether or not it is whole."""
    with path.open("rb") as file:
        return CHECKSUM.encode() in file.read(4096)


def save_state(
    folder: Path, model: Model, optimizer: Optimizer, progress: dict[str, Any], mean: Mean | None = None
) -> None:
    """Write the training state: model, optimizer and mean by parameter name, and progress as JSON."""
    tensors: dict[str, np.ndarray] = {}
    for prefix, views in _buffers(model, optimizer, mean).items():
        tensors |= {f"{prefix}{name}": view for name, view in views.items()}
    progress = progress | {"optimizer_steps": optimizer.steps} | ({"averaged": mean.count} if mean else {})
    save_tensors(folder / STATE, tensors, _config(model), progress=json.dumps(progress))
    finish(folder)


def load_state(
    folder: str | Path, model: Model, optimizer: Optimizer | None = None, mean: Mean | None = None
) -> dict[str, Any]:
    """Read the training state into model, optimizer and mean, and return the progress.

    Raises FileNotFoundError, or ValueError for a state that is damaged or of another model or run.
    """
    folder = Path(folder)
    path = folder / STATE
    tensors, metadata = read_tensors(path)
    progress = _progress(path, metadata)
    require_config(path, metadata, _config(model), folder / "config.json")
    require_run(path)
    averaged = progress.pop("averaged", 0)
    if mean is not None:
        mean.count = averaged
    for prefix, views in _buffers(model, optimizer, mean).items():
        for name, view in views.items():
            tensor = tensors.get(prefix + name)
            if tensor is None or tensor.shape != view.shape or tensor.dtype != view.dtype:
                raise ValueError(f"{path}: {prefix}{name} is missing, or not {view.shape} of {view.dtype}")
            view[...] = tensor
    if optimizer is not None:
        optimizer.steps = progress["optimizer_steps"]
    return progress


def _progress(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Read how far the run had come. Raises ValueError for numbers that are not possible."""
    try:
        progress = json.loads(metadata["progress"])
        counts = [progress[name] for name in ("step", "best_step", "optimizer_steps")]
        counts += [progress.get(name, 0) for name in ("averaged", "best_averaged", "waited")]
        best = progress["best_val_loss"]
    except (KeyError, TypeError, ValueError, RecursionError):
        counts, best = [None], None
    if not all(type(count) is int and count >= 0 for count in counts) or not (
        best is None or (type(best) is float and math.isfinite(best))
    ):
        raise ValueError(f"{path}: the file is damaged: it does not say at which step the run stopped")
    return progress


def read_progress(folder: str | Path) -> dict[str, Any]:
    """Return how far a run had come when its state was saved: its step, its best one and more.

    Raises FileNotFoundError or ValueError for a state that is missing or damaged.
    """
    path = Path(folder) / STATE
    return _progress(path, read_metadata(path))


def load_last(folder: str | Path, dtype: str = "float32") -> Model:
    """Return the model of the last saved step; model.safetensors holds the best."""
    folder = Path(folder)
    model = open_model(folder, dtype)
    tensors, metadata = read_tensors(folder / STATE)
    _progress(folder / STATE, metadata)
    require_config(folder / STATE, metadata, _config(model), folder / "config.json")
    require_run(folder / STATE)
    for name, view in model.params.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != view.shape or tensor.dtype.kind != "f":
            raise ValueError(f"{folder / STATE}: {name} is missing, or not {view.shape}")
        view[...] = tensor
    return model


def say_if_unevaluated(folder: Path) -> None:
    """Report a run that has no best model yet: model.safetensors is as it was before training.

    A state that is damaged is no harm to the model, and is reported.
    """
    if not (folder / STATE).is_file():
        return
    try:
        progress = _progress(folder / STATE, read_metadata(folder / STATE))
    except ValueError as error:
        notice(f"{error}; the run cannot be resumed")
        return
    if progress["best_val_loss"] is None:
        last = f"; the option last uses that of step {progress['step']}" if progress["step"] else ""
        notice(f"{folder}: no evaluation yet, so this is the model as it was before the training{last}")


def append_metrics(folder: Path, record: dict[str, Any]) -> None:
    """Add a line to metrics.jsonl."""
    path = folder / "metrics.jsonl"
    with naming(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def cut_metrics(folder: Path, step: int) -> None:
    """Remove what a resumed run writes again: the lines after step, and the last evaluation.

    A line that was cut short while it was written is removed, too.
    """
    path = folder / "metrics.jsonl"
    content = path.read_bytes() if path.exists() else b""
    kept = b"".join(line + b"\n" for line in content.splitlines() if _is_before(line, step))
    if kept != content:
        write_atomically(path, lambda part: part.write_bytes(kept))


def _is_before(line: bytes, step: int) -> bool:
    try:
        record = json.loads(line)
        return record["step"] <= step and "whole" not in record
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _config(model: Model) -> dict[str, Any]:
    """Return what a training state says of its model's configuration; nothing for a kind that the registry lacks.

    The end tokens are left out: they are no part of the computation, and generation_config.json may name more of them.
    """
    config = fields_of(model.config)
    return {name: value for name, value in config.items() if not name.endswith(("bos_token_id", "eos_token_id"))}


def _buffers(model: Model, optimizer: Optimizer | None, mean: Mean | None) -> dict[str, Mapping[str, np.ndarray]]:
    """Return what a training state holds: the model, the adapters if they are trained, averages, and the mean."""
    buffers: dict[str, Mapping[str, np.ndarray]] = {"": model.params}
    if optimizer is not None:
        if optimizer.params is not model.params:
            buffers["adapter."] = optimizer.params
        buffers |= optimizer.state
    if mean is not None and mean.count:
        buffers["mean."] = mean.values
    return buffers
