"""How well a model predicts a text, or packed examples: over all of it, or over a few batches."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from npgpt.data.packing import IGNORED, Packed
from npgpt.model import GPT

Batch = tuple[np.ndarray, ...]
LOGITS_PER_BATCH = 2**26  # 256 MB of float32, so that a vocabulary of 50,257 fits too
TOKENS_PER_BATCH = 8192


def random_batch(
    ids: np.ndarray, batch_size: int, n_positions: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw batch_size windows of n_positions tokens, and for each token the one that follows it.

    ids      (N,), N > n_positions; every window is as likely as every other
    returns  ids and targets, both (B, T) int64
    """
    starts = rng.integers(0, len(ids) - n_positions, batch_size)
    where = starts[:, None] + np.arange(n_positions)
    return ids[where].astype(np.int64), ids[where + 1].astype(np.int64)


def windows(ids: np.ndarray, n_positions: int, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut a text into windows that follow one another, so that every token but the first is predicted once.

    Yields ids and targets (B, T) with B at most rows; the last window may be shorter than n_positions.
    """
    full = (len(ids) - 1) // n_positions
    inputs = ids[: full * n_positions].reshape(full, n_positions)
    targets = ids[1 : full * n_positions + 1].reshape(full, n_positions)
    for start in range(0, full, rows):  # copied a batch at a time: ids may be a file of any size
        yield inputs[start : start + rows].astype(np.int64), targets[start : start + rows].astype(np.int64)
    rest = ids[full * n_positions :].astype(np.int64)
    if len(rest) > 1:
        yield rest[None, :-1], rest[None, 1:]


def rows(packed: Packed, n: int, stop: int | None = None) -> Iterator[Batch]:
    """Yield the rows of packed examples up to `stop`, n at a time."""
    stop = len(packed.ids) if stop is None else min(stop, len(packed.ids))
    for start in range(0, stop, n):
        yield packed.batch(slice(start, min(start + n, stop)))


def mean_loss(model: GPT, batches: Iterable[Batch], map: Callable[..., Iterable] = map) -> float:
    """Return the mean loss over the counted targets of all batches: each weighs the same, whatever its batch."""

    def total(batch: Batch) -> np.ndarray:
        count = np.count_nonzero(batch[1] != IGNORED)
        return np.array([model.loss(*batch) * count, count])

    loss, count = sum(map(total, batches))
    return float(loss / count)


def whole_loss(model: GPT, data: np.ndarray | Packed, map: Callable[..., Iterable] = map) -> float:
    """Return the mean cross-entropy in nats over every token of a text but the first, or every target of examples.

    The text is read in windows of n_positions; each token sees those before it in its window. map calls a function for
    every item, in order: Python's own, or one that does several at once.
    Raises ValueError for a text of fewer than two tokens.
    """
    if not isinstance(data, Packed) and len(data) < 2:
        raise ValueError(f"a text of {len(data)} tokens has none to predict: it takes at least 2")
    T, V = model.config.n_positions, model.config.vocab_size
    n = max(1, min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // V) // T)
    loss = mean_loss(model, rows(data, n) if isinstance(data, Packed) else windows(data, T, n), map)
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}: the model's weights are damaged, or training went astray")
    return loss


def estimate_loss(
    model: GPT, data: np.ndarray | Packed, batch_size: int, batches: int, seed: int, map: Callable[..., Iterable] = map
) -> float:
    """Return the mean loss over so many batches, the same ones for the same seed, so that estimates compare.

    Of a text they are random windows, of packed examples the first rows.
    """
    if isinstance(data, Packed):
        return mean_loss(model, rows(data, batch_size, batch_size * batches), map)
    ids = data
    T = min(model.config.n_positions, len(ids) - 1)
    rng = np.random.default_rng(seed)
    drawn = (random_batch(ids, batch_size, T, rng) for _ in range(batches))
    return sum(map(lambda batch: model.loss(*batch), drawn)) / batches
