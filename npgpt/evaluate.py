"""How well a model predicts a text: over all of it, or over a few batches."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from npgpt.model import GPT

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


def whole_loss(model: GPT, ids: np.ndarray, map: Callable[..., Iterable] = map) -> float:
    """Return the mean cross-entropy in nats over every token of ids but the first.

    The text is read in windows of n_positions; each token sees those before it in its window. map calls a function for
    every item, in order: Python's own, or one that does several at once.
    Raises ValueError for fewer than two tokens.
    """
    if len(ids) < 2:
        raise ValueError(f"a text of {len(ids)} tokens has none to predict: it takes at least 2")
    T, V = model.config.n_positions, model.config.vocab_size
    tokens = min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // V)
    batches = windows(ids, T, max(1, tokens // T))
    total = sum(map(lambda batch: model.loss(*batch) * batch[1].size, batches))
    if not math.isfinite(total):
        raise ValueError(f"the loss is {total}: the model's weights are damaged, or training went astray")
    return total / (len(ids) - 1)


def estimate_loss(
    model: GPT, ids: np.ndarray, batch_size: int, batches: int, seed: int, map: Callable[..., Iterable] = map
) -> float:
    """Return the mean loss over random batches; the same seed takes the same windows, so that estimates compare."""
    T = min(model.config.n_positions, len(ids) - 1)
    rng = np.random.default_rng(seed)
    drawn = (random_batch(ids, batch_size, T, rng) for _ in range(batches))
    return sum(map(lambda batch: model.loss(*batch), drawn)) / batches
