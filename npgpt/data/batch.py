"""Batches, which training steps and evaluations read, and how they are drawn from a text.

batch.ids      6 17 42 42
batch.targets 17 42 42  9     the token that follows each
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from npgpt.config import TrainConfig

IGNORED = -100  # a target that the loss ignores, as in PyTorch


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens and the tokens that should follow them: integers (B, T).

    ids      the tokens
    targets  for each token, the one that should follow; IGNORED if nothing is to be learned there
    starts   where in its row each position's own text begins; None if each row is one text
    teacher  what a teacher thinks comes next, (B, T, K) of TOP in data/teaching.py; None if nobody has asked it
    """

    ids: np.ndarray
    targets: np.ndarray
    starts: np.ndarray | None = None
    teacher: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    @property
    def n_targets(self) -> int:
        """The number of targets that are not ignored."""
        return int(np.count_nonzero(self.targets != IGNORED))

    @property
    def n_tokens(self) -> int:
        """The number of positions that belong to a text. Each row's last text ends with a target that counts."""
        return int((self.targets.shape[1] - np.argmax(self.targets[:, ::-1] != IGNORED, axis=1)).sum())

    def part(self, i: int, n: int) -> "Batch":
        """Return the i-th of n parts of the rows. Their sizes differ by at most one row."""
        start, stop = (len(self) * k // n for k in (i, i + 1))
        arrays = (getattr(self, field.name) for field in dataclasses.fields(self))  # of a later field, too
        parts: Any = (None if array is None else array[start:stop] for array in arrays)
        return type(self)(*parts)


class Dataset(Protocol):
    """What can be trained on or validated with: a Text, or Packed examples."""

    @property
    def size(self) -> int:
        """The number of tokens to learn."""

    def draw(self, step: int, config: TrainConfig) -> list[Batch]:
        """Return the batches of a training step, one per gradient that is accumulated.

        They depend on the step and the seed only, so a resumed run gets the same batches as one that never stopped.
        """

    def sample(self, config: TrainConfig) -> Iterator[Batch]:
        """Yield some batches for validation. The same seed gives the same ones, so that estimates can be compared."""

    def whole(self, rows: int) -> Iterator[Batch]:
        """Yield all data in batches of at most `rows` rows, with every target once."""

    def spread(self, rows: int, share: float) -> Iterator[Batch]:
        """Yield a share of the data, spread evenly over all of it, in batches of at most `rows` rows."""

    def first(self) -> Batch:
        """Return the first row."""


@dataclass(frozen=True, eq=False)
class Text:
    """A running text. Training uses random or shuffled windows of it, validation consecutive ones.

    ids          (N,), one-dimensional; may be mapped from a file
    n_positions  T, the length of a window
    """

    ids: np.ndarray
    n_positions: int

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(self.ids)

    def has(self, token: int | None) -> bool:
        """Say whether a token is among the first sixteen million."""
        return bool((self.ids[: 1 << 24] == token).any())

    def draw(self, step: int, config: TrainConfig) -> list[Batch]:
        """Return random windows, all equally likely; or, if they are to be shuffled, each once in an epoch."""
        B, n = config.batch_size, config.gradient_accumulation_steps
        if config.windows == "shuffled":
            return [self.shuffled(B * (n * step + i), B, config.seed) for i in range(n)]
        rng = np.random.default_rng((config.seed, step))
        return [random_batch(self.ids, B, self.n_positions, rng) for _ in range(n)]

    def shuffled(self, before: int, n: int, seed: int) -> Batch:
        """Return the n windows that follow the first `before` ones when windows are drawn without replacement.

        In each epoch the text is cut into windows at another place. The result depends on the arguments only.
        """
        N, T = len(self.ids), self.n_positions
        starts = drawn_once(before, n, n_windows(N, T), lambda epoch: epoch_starts(N, T, seed, epoch))
        return batch_at(self.ids, T, starts)

    def sample(self, config: TrainConfig) -> Iterator[Batch]:
        """Yield random windows, which are shorter if the text is."""
        rng = np.random.default_rng(config.seed)
        T = min(self.n_positions, len(self.ids) - 1)
        return (random_batch(self.ids, config.batch_size, T, rng) for _ in range(config.eval_batches))

    def whole(self, rows: int) -> Iterator[Batch]:
        """Yield consecutive windows. Raises ValueError for a text of fewer than two tokens."""
        if len(self.ids) < 2:
            raise ValueError(f"a text of {len(self.ids)} tokens has none to predict: give at least 2")
        return windows(self.ids, self.n_positions, rows)

    def spread(self, rows: int, share: float) -> Iterator[Batch]:
        """Yield some of the windows of `whole`."""
        T = min(self.n_positions, len(self.ids) - 1)
        for which in spread((len(self.ids) - 1) // T, rows, share):
            where = T * which[:, None] + np.arange(T)
            yield Batch(self.ids[where].astype(np.int64), self.ids[where + 1].astype(np.int64))

    def first(self) -> Batch:
        """Return the first window."""
        window = self.ids[None, : self.n_positions + 1].astype(np.int64)
        return Batch(window[:, :-1], window[:, 1:])


def random_batch(ids: np.ndarray, batch_size: int, n_positions: int, rng: np.random.Generator) -> Batch:
    """Draw batch_size windows of n_positions tokens, and for each token the one that follows it.

    ids  (N,), N > n_positions; all windows are equally likely
    """
    return batch_at(ids, n_positions, rng.integers(0, len(ids) - n_positions, batch_size))


def batch_at(ids: np.ndarray, n_positions: int, starts: np.ndarray) -> Batch:
    """Return the windows of n_positions tokens that start there, and for each token the one that follows it."""
    where = starts[:, None] + np.arange(n_positions)
    return Batch(ids[where].astype(np.int64), ids[where + 1].astype(np.int64))


def n_windows(n_tokens: int, n_positions: int) -> int:
    """Return how many windows an epoch has: as many as fit wherever the first begins, and at least one."""
    return max(1, n_tokens // n_positions - 1)


@functools.lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def epoch_starts(n_tokens: int, n_positions: int, seed: int, epoch: int) -> np.ndarray:
    """Return where the windows of an epoch begin, int64: end to end from a random offset on, in random order.

        starts = offset + n_positions * permutation

    So each token is the target of one window, but for fewer than 2 n_positions at the two ends of the text, which the
    offset shares out anew in each epoch. Needs n_tokens > n_positions.

    >>> np.sort(epoch_starts(n_tokens=20, n_positions=4, seed=1, epoch=0))
    array([ 1,  5,  9, 13])
    """
    rng, n = np.random.default_rng((seed, epoch)), n_windows(n_tokens, n_positions)
    offset = rng.integers(n_tokens - n * n_positions)
    starts = rng.permutation(n)
    starts *= n_positions
    starts += offset
    starts.flags.writeable = False
    return starts


def drawn_once(before: int, n: int, per_epoch: int, order: Callable[[int], np.ndarray]) -> np.ndarray:
    """Return the n things that follow the first `before` ones when each epoch draws the things of order(epoch) once.

    per_epoch  how many an epoch has

    Example: with the orders [7, 9], [9, 7], ... the 3 things after the first one are 9, 9, 7.
    """
    epoch, place = np.divmod(np.arange(before, before + n), per_epoch)
    return np.concatenate([order(e)[place[epoch == e]] for e in range(int(epoch[0]), int(epoch[-1]) + 1)])


def windows(ids: np.ndarray, n_positions: int, rows: int) -> Iterator[Batch]:
    """Cut a text into consecutive windows, so that every token except the first is predicted once.

    Yields batches of at most `rows` rows; the last window may be shorter than n_positions.

    >>> [(batch.ids.tolist(), batch.targets.tolist()) for batch in windows(np.arange(6), 2, rows=2)]
    [([[0, 1], [2, 3]], [[1, 2], [3, 4]]), ([[4]], [[5]])]
    """
    full = (len(ids) - 1) // n_positions
    inputs = ids[: full * n_positions].reshape(full, n_positions)
    targets = ids[1 : full * n_positions + 1].reshape(full, n_positions)
    for start in range(0, full, rows):  # one batch is copied at a time: ids may be a file of any size
        part = slice(start, start + rows)
        yield Batch(inputs[part].astype(np.int64), targets[part].astype(np.int64))
    rest = ids[full * n_positions :].astype(np.int64)
    if len(rest) > 1:
        yield Batch(rest[None, :-1], rest[None, 1:])


SPREAD_GROUPS = 32  # the fewest groups from which to tell how much they differ


def spread(n: int, rows: int, share: float) -> Iterator[np.ndarray]:
    """Yield a share of the numbers below n in groups of at most `rows`, each group spread evenly over all n.

    >>> [group.tolist() for group in spread(200, 100, 0.2)][:3]
    [[0, 160], [5, 165], [10, 170]]
    """
    k = max(1, int(n * share))
    which = np.arange(k) * n // k
    groups = min(k, max(SPREAD_GROUPS, -(-k // rows)))
    return (which[start::groups] for start in range(groups))
