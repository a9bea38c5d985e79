"""How well a model predicts a dataset: all of it, or a sample."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from npgpt.config import TrainConfig
from npgpt.data.batch import Batch, Dataset
from npgpt.models.base import Model

LOGITS_PER_BATCH = 2**26  # 256 MB of float32, so that a vocabulary of 50,257 fits too
TOKENS_PER_BATCH = 8192


def mean_loss(model: Model, batches: Iterable[Batch], map: Callable[..., Iterable] = map) -> float:
    """Return the mean loss over the counted targets of all batches. Each target has the same weight.

    map  Python's own, or one like it that runs several calls at once and yields the results in order
    """

    def total(batch: Batch) -> np.ndarray:
        return np.array([model.loss(batch) * batch.n_targets, batch.n_targets])

    loss, count = sum(map(total, batches))
    return float(loss / count)


def whole_loss(model: Model, data: Dataset, map: Callable[..., Iterable] = map) -> float:
    """Return the mean cross-entropy in nats over every target of a dataset.

    A text is read in windows of n_positions, and each token attends to the earlier ones in its window. Raises
    ValueError for a text of fewer than two tokens, and for a loss that is not finite.
    """
    T, V = model.config.n_positions, model.config.vocab_size
    rows = max(1, min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // V) // T)
    loss = mean_loss(model, data.whole(rows), map)
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}: the model's weights are damaged, or training diverged")
    return loss


def estimate_loss(model: Model, data: Dataset, config: TrainConfig, map: Callable[..., Iterable] = map) -> float:
    """Return the mean loss over a sample of the dataset's batches. The same seed gives the same sample."""
    return mean_loss(model, data.sample(config), map)
