"""What commands that train have in common: the progress bar, Ctrl-C, and the settings kept for --resume."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgpt.config import GPTConfig, TrainConfig, split_fields

if TYPE_CHECKING:
    import numpy as np

    from npgpt.data.packing import Packed
    from npgpt.model import GPT


def train_with_progress(
    model: "GPT",
    train_data: "np.ndarray | Packed",
    val_data: "np.ndarray | Packed",
    config: TrainConfig,
    folder: Path,
    resume: bool,
    settings: dict[str, Any],
    **options: Any,
) -> float | None:
    """Train under a progress bar, with more options for npgpt.train.train.

    Return the loss on all validation data, or None if Ctrl-C ended the run early.
    """
    from tqdm import tqdm

    from npgpt.train import train

    loss, bar, whole, nobody_reads = 0.0, None, None, False
    with stop_on_interrupt() as stopped:
        records = train(model, train_data, val_data, config, folder, resume, lambda: bool(stopped), **options)
        for record in records:
            step = record["step"]
            if bar is None:
                if resume:  # the run has been found whole; from here on it is one with these settings
                    write_saved(folder, settings)
                bar = tqdm(initial=step - 1, total=config.max_steps, unit="step", disable=None)
            if record.get("whole"):
                whole = record["val_loss"]
            if "val_loss" not in record:
                loss = record["loss"]
                bar.set_postfix_str(f"loss {loss:.3f}, {record['tokens_per_s']:,.0f} tokens/s", refresh=False)
                bar.update()
                continue
            if whole is not None:
                bar.close()
                line = f"validation loss {record['val_loss']:.4f} nats a token on all validation data (step {step})"
            else:
                line = f"step {step:>6}  loss {loss:.4f}  validation {record['val_loss']:.4f}"
            try:
                tqdm.write(line)
                sys.stdout.flush()
            except BrokenPipeError:  # as of `npgpt train | head`: stop, with the state saved
                stopped.append(0)
                nobody_reads = True
                discard_output()
    if bar is not None:
        bar.close()
    if nobody_reads:
        raise BrokenPipeError
    return whole


def discard_output() -> None:
    """Send what is still to be printed nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def stop_on_interrupt() -> Iterator[list[int]]:
    """Give a list that is empty until Ctrl-C: the step in hand is finished and saved. A second one interrupts."""
    stopped: list[int] = []

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stopped.append(number)
        print("\nfinishing this step ...", file=sys.stderr)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def next_free(parent: Path) -> Path:
    """Return parent/1, or the next number after the largest in parent."""
    taken = [int(p.name) for p in parent.glob("*") if p.name.isdecimal()] if parent.is_dir() else []
    return parent / str(max(taken, default=0) + 1)


def write_saved(folder: Path, settings: dict[str, Any]) -> None:
    """Write train.json, from which --resume knows the run."""
    from npgpt import __version__
    from npgpt.files import write_json

    write_json(folder / "train.json", {"npgpt_version": __version__, **settings})


def read_saved(folder: Path) -> dict[str, Any]:
    """Read train.json. Raises FileNotFoundError or ValueError where --resume cannot go on from it."""
    from npgpt.files import read_json

    path = folder / "train.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no train.json")
    saved = read_json(path)
    for part, config in (("model", GPTConfig), ("train", TrainConfig), ("data", None)):
        if not isinstance(saved.get(part), dict):
            raise ValueError(f"{path}: {part!r} is missing")
        if config:
            try:
                split_fields(saved[part], config)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
    saved["train"].setdefault("optimizer", "adamw")  # which older runs do not say
    files = saved["data"].get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ValueError(f"{path}: data.files={files!r} must be a list of strings")
    return saved
