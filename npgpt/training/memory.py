"""Whether a run fits into memory, answered before it fills the machine."""

import dataclasses

import numpy as np

from npgpt.config import GPTConfig, TrainConfig
from npgpt.models.registry import floats_per_token
from npgpt.support.machine import available_memory
from npgpt.training.evaluation import rows_of
from npgpt.training.workers import n_threads, n_workers

HEAP = 1.15  # what the process has for each byte of its arrays: freed memory is not all reused, or returned at once


def memory_to_train(config: GPTConfig, train: TrainConfig) -> tuple[int, int]:
    """Return the bytes that a run needs at its peak: for weights, gradients and averages, and for its batches.

    A run that trains adapters has a copy of the weights instead of two averages, which is less.
    """
    size, T = config.n_parameters, config.n_positions
    to_learn, to_evaluate = floats_per_token(config, train.ops)
    n = n_workers(size, train.batch_size, T, n_threads(train.threads))
    gradients = n * (2 if train.gradient_accumulation_steps > 1 else 1)
    weights = size * (1 + gradients + 2)
    learned = -(-train.batch_size // n) * to_learn
    evaluated = max(train.batch_size, rows_of(config)) * to_evaluate
    bytes_each = np.dtype(train.dtype).itemsize
    return bytes_each * weights, int(HEAP * bytes_each * n * T * (learned + evaluated))


def require_memory(config: GPTConfig, train: TrainConfig, at_least: bool = False) -> None:
    """Raise MemoryError for a run that needs more memory than this process can still get, if the system says how much.

    The message has both numbers, and the largest batch size that would fit.

    at_least  the configuration is smaller than the run's will be, so no batch size is recommended
    """
    free = available_memory()
    weights, batches = memory_to_train(config, train)
    if free is None or weights + batches <= free:
        return
    smaller = (train.batch_size >> n for n in range(1, train.batch_size.bit_length()))
    fits = (n for n in smaller if sum(memory_to_train(config, dataclasses.replace(train, batch_size=n))) <= free)
    size = None if at_least else next(fits, None)
    advice = f"--batch-size {size} would fit" if size else "choose a smaller model, context or --batch-size"
    raise MemoryError(
        f"this run needs {'at least' if at_least else 'about'} {in_bytes(weights + batches)}, and {in_bytes(free)} are "
        f"free; {in_bytes(weights)} are for {config.n_parameters:,} parameters, {in_bytes(batches)} for batches of "
        f"{train.batch_size} sequences: {advice}"
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
