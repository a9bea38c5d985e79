"""Whether a run fits into memory, answered before it fills the machine."""

import dataclasses
import math
from collections.abc import Collection

import numpy as np

from npgpt.config import GPTConfig, TrainConfig
from npgpt.models.base import Model
from npgpt.models.lora import TARGETS, adapter_shapes
from npgpt.models.registry import floats_per_token, shapes_of_model
from npgpt.optim.muon import room_for
from npgpt.support.machine import available_memory
from npgpt.support.parameters import Shapes
from npgpt.training.evaluation import rows_of
from npgpt.training.loop import trained_names
from npgpt.training.threads import Split, settle, work_of

HEAP = 1.15  # what the process has for each byte of its arrays: freed memory is not all reused, or returned at once


def memory_to_train(
    config: GPTConfig, train: TrainConfig, lora: int | None = None, split: Split | None = None
) -> tuple[int, int]:
    """Return the bytes that a run needs at its peak: for weights, gradients and averages, and for its batches.

    lora   the rank of the adapters, if the run trains adapters
    split  how threads share a step; None chooses it for this machine
    """
    size, T, teams = config.n_parameters, config.n_positions, train.ops == "fast"
    split = split or split_for(config, train)
    rows, rows_evaluated = -(-train.batch_size // split.groups), max(train.batch_size, rows_of(config))
    to_learn, to_evaluate = floats_per_token(config, train.ops, rows * T, rows_evaluated * T)
    # a team adds up the gradients of several batches where they are
    gradients = split.groups * (2 if train.gradient_accumulation_steps > 1 and not teams else 1)
    bytes_each = np.dtype(train.dtype).itemsize
    weights = size * (1 + gradients) + floats_of_training(config, train, lora)
    if train.optimizer == "muon" and lora is None:
        weights += floats_of_muon(config, train, split.threads, bytes_each)
    learned = split.groups * rows * to_learn
    evaluating = split.threads if teams else split.groups  # threads, each with rows of its own
    evaluated = evaluating * rows_evaluated * to_evaluate
    return bytes_each * weights, int(HEAP * bytes_each * T * (learned + evaluated))


def weights_to_train(model: Model, train: TrainConfig, groups: int = 1) -> int:
    """Return the bytes of any model's weights, the gradients of so many groups, and what the optimizer keeps."""
    averages = n_averages(model.params.shapes, model.matrices, train)
    return model.dtype.itemsize * ((1 + groups) * model.size + averages)


def require_memory_for_weights(model: Model, train: TrainConfig, split: Split) -> None:
    """Raise MemoryError for a run of any model whose weights, gradients and averages do not fit, whatever its batches
    need, as require_memory does. The process has the weights already.
    """
    free, needed = available_memory(), weights_to_train(model, train, split.groups)
    if free is not None and needed > free + model.params.flat.nbytes:
        raise MemoryError(
            f"this run needs at least {in_bytes(needed)} for {model.size:,} parameters, their gradients and what the "
            f"optimizer keeps, and {in_bytes(free)} are free: choose a smaller model, or fewer --threads"
        )


def split_for(config: GPTConfig, train: TrainConfig) -> Split:
    """Return how the threads of this machine share a step of a new run."""
    return settle(work_of(shapes_of_model(config), train.batch_size, train.ops == "fast"), train.threads)


def floats_of_training(config: GPTConfig, train: TrainConfig, lora: int | None = None) -> int:
    """Return how many numbers a run keeps besides the model and its gradients: averages, and what adapters need."""
    model, mean = shapes_of_model(config), int(train.average > 0)
    if lora is None:
        return n_averages(model.params.shapes, model.matrices, train) + mean * config.n_parameters
    shapes = adapter_shapes(config, lora, TARGETS)
    adapters = sum(map(math.prod, shapes.values()))
    unmerged = sum(model.params[name].size for name in model.matrices)
    return unmerged + (2 + mean) * adapters + n_averages(shapes, (), train)


def n_averages(shapes: Shapes, matrices: Collection[str], train: TrainConfig) -> int:
    """Return how many numbers the optimizer keeps: for each number that it trains two, or one in Muon's matrices."""
    once = matrices if train.optimizer == "muon" else ()
    trained = trained_names(shapes, train.trainable)
    return sum(math.prod(shapes[name]) * (1 if name in once else 2) for name in trained)


def floats_of_muon(config: GPTConfig, train: TrainConfig, threads: int, itemsize: int) -> int:
    """Return how many numbers Muon works in: each thread that has a matrix has room for its largest."""
    model = shapes_of_model(config)
    trained = trained_names(model.params.shapes, train.trainable)
    rooms: list[int] = []
    for name, count in model.matrices.items():
        if name in trained:
            m, n = model.params.shapes[name]
            rooms += count * [room_for(m, n // count, itemsize)]
    return sum(sorted(rooms, reverse=True)[:threads])


def fitting_batch_size(config: GPTConfig, train: TrainConfig, free: int, lora: int | None = None) -> int | None:
    """Return the largest batch size that fits into `free` bytes, of those made by halving; None if none does."""
    sizes = (train.batch_size >> n for n in range(train.batch_size.bit_length()))
    runs = ((size, dataclasses.replace(train, batch_size=size)) for size in sizes)
    return next((size for size, run in runs if sum(memory_to_train(config, run, lora)) <= free), None)


def require_room_for_weights(config: GPTConfig, train: TrainConfig) -> None:
    """Raise MemoryError if a run cannot fit whatever its batch size, as require_memory does.

    config  may be smaller than the run's will be
    """
    free, run = available_memory(), dataclasses.replace(train, batch_size=1)
    weights, _ = memory_to_train(config, run)
    if free is not None and weights > free:
        raise MemoryError(
            f"this run needs at least {in_bytes(weights)} for {config.n_parameters:,} parameters, their gradients and "
            f"what the optimizer keeps, and {in_bytes(free)} are free: choose a smaller model"
        )


def require_memory(
    config: GPTConfig, train: TrainConfig, lora: int | None = None, made: int = 0, split: Split | None = None
) -> None:
    """Raise MemoryError for a run that needs more memory than this process can still get, if the system says how much.

    The message has both numbers, and the largest batch size that would fit.

    made   bytes of the run's that the process has already
    split  how threads share a step; None chooses it for this machine
    """
    free = available_memory()
    if free is None:
        return
    free += made
    weights, batches = memory_to_train(config, train, lora, split)
    if weights + batches <= free:
        return
    size = fitting_batch_size(config, train, free, lora)
    advice = f"--batch-size {size} would fit" if size else "choose a smaller model or context"
    raise MemoryError(
        f"this run needs about {in_bytes(weights + batches)}, and {in_bytes(free)} are free; {in_bytes(weights)} are "
        f"for {config.n_parameters:,} parameters, {in_bytes(batches)} for batches of {train.batch_size} sequences: "
        f"{advice}"
    )


def in_bytes(number: float) -> str:
    """Return a number of bytes in the largest unit of which there is at least one.

    >>> in_bytes(12_345_678)
    '12.3 MB'
    """
    units = ["kB", "MB", "GB", "TB", "PB", "EB", "ZB"]
    number /= 1000
    while number >= 999.95 and len(units) > 1:
        number /= 1000
        del units[0]
    return f"{number:,.1f} {units[0]}"
