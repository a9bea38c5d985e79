"""How well a model predicts a dataset: all of it, or a sample."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from npgpt.config import TrainConfig
from npgpt.data.batch import Batch, Dataset
from npgpt.models.base import Model

LOGITS_PER_BATCH = 2**26  # 256 MB of float32, so that a vocabulary of 50,257 fits too
TOKENS_PER_BATCH = 8192
# of the last evaluation: the most tokens, and the most products of tokens and parameters, which take two cores about
# a quarter of a minute; but not so few tokens that the loss would say nothing
MOST_TOKENS, MOST_PRODUCTS, FEWEST_TOKENS = 2**18, 2**39, 2**13


class Evaluation(NamedTuple):
    """How well a model predicts a dataset.

    loss    mean cross-entropy in nats per token
    stderr  its standard error; 0 if the loss is over all of the data, None if a sample was too small to tell
    tokens  how many tokens were predicted
    whole   whether these were all
    """

    loss: float
    stderr: float | None
    tokens: int
    whole: bool

    def __str__(self) -> str:
        """Return the loss as it is printed.

        >>> str(Evaluation(1.5, 0.01234, 1000, False))
        '1.5000 ± 0.0123'
        """
        return f"{self.loss:.4f}" + (f" ± {self.stderr:.4f}" if self.stderr else "")


def mean_loss(model: Model, batches: Iterable[Batch], map: Callable[..., Iterable] = map) -> float:
    """Return the mean loss over the counted targets of all batches. Each target has the same weight.

    map  Python's own, or one like it that runs several calls at once and yields the results in order
    """

    def total(batch: Batch) -> np.ndarray:
        return np.array([model.loss(batch) * batch.n_targets, batch.n_targets])

    loss, count = sum(map(total, batches))
    return float(loss / count)


def evaluate(
    model: Model,
    data: Dataset,
    most: int = 0,
    map: Callable[..., Iterable] = map,
    progress: Callable[[int, int], object] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Return the mean cross-entropy over every target of a dataset, or over about `most` of them if it has more.

    most         0 for no limit. The rows of a sample are spread evenly over the data, so that it has something of each
                 part, and the same ones are read each time
    map          Python's own, or one like it that runs several calls at once and yields the results in order
    progress     called with the number of tokens that have been predicted so far, and of all that will be
    should_stop  called before each batch; if it returns True, the evaluation ends and None is returned

    A text is read in windows of n_positions, and each token attends to the earlier ones in its window. Raises
    ValueError for a text of fewer than two tokens, and for a loss that is not finite.
    """
    rows, size = rows_of(model.config), data.size
    whole = not 0 < most < size
    batches = data.whole(rows) if whole else data.spread(rows, most / size)

    def total(batch: Batch) -> tuple[float, int]:
        return model.loss(batch) * batch.n_targets, batch.n_targets

    found: list[tuple[float, int]] = []
    loss, done = 0.0, 0
    results = iter(map(total, batches))
    while not should_stop():
        result = next(results, None)
        if result is None:
            break
        found.append(result)
        loss, done = loss + result[0], done + result[1]
        progress(done, size if whole else most)
    else:
        return None
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}: the model's weights are damaged, or training diverged")
    losses, counts = np.array(found).T
    stderr = 0.0 if whole else standard_error(losses, counts, size)
    return Evaluation(loss / done, stderr, done, whole)


def affordable_tokens(n_parameters: int) -> int:
    """Return how many tokens an evaluation reads unless the user says so: 2^18, or fewer for a model above 2 million
    parameters. The number does not depend on the machine, so the same run has the same loss everywhere."""
    return max(FEWEST_TOKENS, min(MOST_TOKENS, MOST_PRODUCTS // n_parameters))


def rows_of(config: Any) -> int:
    """Return how many rows of a full context are evaluated at once."""
    return max(1, min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // config.vocab_size) // config.n_positions)


def standard_error(losses: np.ndarray, counts: np.ndarray, size: int) -> float | None:
    """Return the standard error of a mean loss, from how much the groups that it was computed from differ.

    losses, counts  (G,): of each group, the sum of its losses and the number of its tokens
    size            the number of tokens that the groups were drawn from, without replacement

    None for fewer than two groups. Source: Cochran, "Sampling Techniques", chapter 6, the variance of a ratio.
    """
    groups, total = len(counts), counts.sum()
    if groups < 2:
        return None
    residuals = losses - losses.sum() / total * counts
    variance = (residuals**2).sum() * groups / (groups - 1) * max(0.0, 1 - total / size)
    return float(np.sqrt(variance) / total)


def whole_loss(model: Model, data: Dataset, map: Callable[..., Iterable] = map) -> float:
    """Return the mean cross-entropy in nats over every target of a dataset, as `evaluate` does."""
    evaluation = evaluate(model, data, map=map)
    assert evaluation is not None  # nothing stops it
    return evaluation.loss


def estimate_loss(model: Model, data: Dataset, config: TrainConfig, map: Callable[..., Iterable] = map) -> float:
    """Return the mean loss over a sample of the dataset's batches. The same seed gives the same sample."""
    return mean_loss(model, data.sample(config), map)
