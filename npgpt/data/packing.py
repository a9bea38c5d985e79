"""Packing: examples of different lengths, placed one after another in rows of the model's context, and never cut.

An example of the tokens x1..xn takes n + 1 positions. It begins and ends with the end token E, so that a model given
only E begins a new text:

    ids      E  x1 x2 .. xn
    targets  x1 x2 .. xn E

The tokens of prompts are not targets, because the model does not have to write the questions.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from npgpt.config import TrainConfig
from npgpt.data.batch import IGNORED, Batch, drawn_once, spread

GROUP = 500  # examples in order are packed in groups of this size


class Rows:
    """What is drawn from in whole rows: a Dataset of anything with n_rows and rows."""

    in_order: bool = False

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        raise NotImplementedError

    def rows(self, which: slice | np.ndarray) -> Batch:
        """Return some rows as the model takes them, int64."""
        raise NotImplementedError

    def draw(self, step: int, config: TrainConfig) -> list[Batch]:
        """Return the rows of a step: all rows are drawn once before any is drawn again."""
        B, n = config.batch_size, config.gradient_accumulation_steps
        return [draw_rows(self, B, B * (n * step + i), config.seed) for i in range(n)]

    def sample(self, config: TrainConfig) -> Iterator[Batch]:
        """Yield the first rows."""
        B, stop = config.batch_size, min(self.n_rows, config.batch_size * config.eval_batches)
        return (self.rows(slice(start, min(start + B, stop))) for start in range(0, stop, B))

    def whole(self, rows: int) -> Iterator[Batch]:
        """Yield all rows in their order."""
        return (self.rows(slice(start, start + rows)) for start in range(0, self.n_rows, rows))

    def spread(self, rows: int, share: float) -> Iterator[Batch]:
        """Yield some of the rows, spread evenly over all."""
        return map(self.rows, spread(self.n_rows, rows, share))

    def first(self) -> Batch:
        """Return the first row."""
        return self.rows(slice(1))


class Arrays(NamedTuple):
    """The arrays of Packed."""

    ids: np.ndarray
    targets: np.ndarray
    starts: np.ndarray
    in_order: bool = False


class Packed(Arrays, Rows):
    """Rows of examples, each array (R, T) of the smallest signed integers that hold it.

    ids       the tokens; the end token after the last example of a row
    targets   the token that follows each; -100 if it is not to be learned, in a prompt or after the last example
    starts    where in its row each position's own example begins; after the last example each position is its own start
    in_order  whether rows are drawn in their order, not at random

    Examples that were packed all at once are in rows of random order, so the first rows are a sample of all.
    """

    __slots__ = ()

    @property
    def size(self) -> int:
        """The number of targets to learn."""
        return int(np.count_nonzero(self.targets != IGNORED))

    @property
    def n_rows(self) -> int:
        return len(self.ids)

    def rows(self, which: slice | np.ndarray) -> Batch:
        return Batch(*(part[which].astype(np.int64) for part in (self.ids, self.targets, self.starts)))


def too_long(examples: Sequence[np.ndarray], n_positions: int) -> np.ndarray:
    """Return the numbers, from 0, of the examples that do not fit into n_positions with their end token."""
    return np.flatnonzero(np.fromiter(map(len, examples), np.int64, len(examples)) >= n_positions)


def pack(
    examples: Sequence[np.ndarray], n_positions: int, end_id: int, prompts: Sequence[np.ndarray] | None = None
) -> Packed:
    """Pack examples into few rows of n_positions: best fit, the longest first.

    examples  the ids of each, one-dimensional, without end tokens
    prompts   one bool per token of each example: whether it belongs to a prompt; None if all tokens are to be learned

    Raises ValueError for an example that is too long, with its number from 0 (too_long finds them all), for prompts of
    other lengths, and if there are no examples.
    """
    if not len(examples):
        raise ValueError("there is no example to pack")
    lengths = np.fromiter(map(len, examples), np.int64, len(examples))
    long = too_long(examples, n_positions)
    if long.size:
        number = long[0]
        raise ValueError(
            f"example {number} has {lengths[number]} tokens, and with its end token does not fit into "
            f"n_positions={n_positions}"
        )
    tokens = np.concatenate(examples)
    if tokens.size and (tokens.dtype.kind not in "iu" or tokens.min() < 0):
        raise ValueError("an example is not an array of ids, which are integers of at least 0")
    asked = np.zeros(len(tokens), bool) if prompts is None else np.concatenate(prompts)
    if prompts is not None and (asked.dtype != bool or [*map(len, prompts)] != lengths.tolist()):
        raise ValueError("prompts must have one bool per token of each example")

    row, offset, n_rows = best_fit(lengths + 1, n_positions)
    shape = (n_rows, n_positions)
    dtype = np.int16 if max(end_id, tokens.max(initial=0)) < 2**15 else np.int32
    ids = np.full(shape, end_id, dtype)
    targets = np.full(shape, IGNORED, dtype)
    starts = np.empty(shape, np.int16 if n_positions <= 2**15 else np.int32)
    starts[:] = np.arange(n_positions)

    first = row * n_positions + offset  # where each example begins, in rows laid end to end
    of, within = owners(lengths)  # for each token: its example, and its place in it
    where = first[of] + within
    ids.ravel()[where + 1] = tokens
    targets.ravel()[where] = np.where(asked, IGNORED, tokens)
    targets.ravel()[first + lengths] = end_id
    of, within = owners(lengths + 1)
    starts.ravel()[first[of] + within] = offset[of]
    return Packed(ids, targets, starts)


def pack_in_order(
    examples: Sequence[np.ndarray], n_positions: int, end_id: int, prompts: Sequence[np.ndarray]
) -> Packed:
    """Pack examples that are to be learned in their order, one group after another."""
    groups = [slice(start, start + GROUP) for start in range(0, len(examples), GROUP)]
    parts = [pack(examples[group], n_positions, end_id, prompts[group]) for group in groups]
    ids, targets, starts = (np.concatenate(part) for part in zip(*(part[:3] for part in parts), strict=True))
    return Packed(ids, targets, starts, in_order=True)


def owners(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for things of these lengths laid end to end, the thing and the place in it of each part.

    Example: lengths 2, 1 give (0, 0, 1) and (0, 1, 0).
    """
    of = np.repeat(np.arange(len(lengths)), lengths)
    return of, np.arange(len(of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def best_fit(sizes: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return for each size its row and its place in it, and the number of rows, each with the same room.

    The largest goes first, into the fullest row that still has room for it: at most 11/9 of the fewest rows possible,
    and 6 more (Johnson et al., 1974). The rows are numbered at random, always in the same way.
    """
    row, offset = np.empty(len(sizes), np.int64), np.empty(len(sizes), np.int64)
    rows_with: list[list[int]] = [[] for _ in range(room + 1)]  # by what room they have left
    there, n_rows = 0, 0  # bit r of `there` says whether rows_with[r] has any
    for i in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[i])
        fitting = there >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1  # the lowest bit that is set
            row[i] = rows_with[left].pop()
            if not rows_with[left]:
                there ^= 1 << left
        else:
            left, row[i] = room, n_rows
            n_rows += 1
        offset[i] = room - left
        rows_with[left - size].append(int(row[i]))
        there |= 1 << (left - size)
    return np.random.default_rng(0).permutation(n_rows)[row], offset, n_rows


def draw_rows(packed: Rows, n: int, before: int, seed: int) -> Batch:
    """Return the n rows that follow the first `before` ones when rows are drawn without replacement.

    After all have been drawn, they are shuffled again. Rows in order are drawn in their order, and then again from the
    first. The result depends on the arguments only.
    """
    n_rows = packed.n_rows
    if packed.in_order:
        return packed.rows(np.arange(before, before + n) % n_rows)
    return packed.rows(drawn_once(before, n, n_rows, lambda epoch: epoch_order(n_rows, seed, epoch)))


@functools.lru_cache(maxsize=2)
def epoch_order(n_rows: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(n_rows)
    order.flags.writeable = False
    return order
