"""Pairs: rows of tokens as a generator reads them, the prompts apart from the completions, and back.

A row holds examples `E p1 .. pn E c1 .. cm`, one after another, where E is the end token. Everything before the second
E of an example is its prompt, which the encoder reads; from there on the decoder reads, and predicts the next tokens:

    source     E  p1 .. pn
    target_in  E  c1 .. cm
    targets    c1 c2 .. E
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IGNORED = -100  # as in npgpt.data.batch, which models do not import


class Pairs(NamedTuple):
    """The N examples of some rows (B, T_rows), padded at their ends to S and T tokens.

    source          (N, S) int64: what the encoder reads
    source_lengths  (N,)
    target_in       (N, T) int64: what the decoder reads, from the second end token on
    targets         (N, T) int64: what should follow each; IGNORED in the padding
    lengths         (N,)
    at              (N,): where in the flattened rows the second end token of each example is
    """

    source: np.ndarray
    source_lengths: np.ndarray
    target_in: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray
    at: np.ndarray


def pairs_of(
    ids: np.ndarray,
    ends: Sequence[int],
    targets: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> Pairs:
    """Return the examples of rows, in their order.

    ids, targets, starts  (B, T) as in a Batch. With targets, only examples that have something to learn are returned,
                          each up to its last counted target. Without, all that have a completion
    ends                  the end tokens; the first of them after an example's first position ends its prompt

    Example: ids 0 5 6 0 7 8 with the end token 0 give the source 0 5 6 and target_in 0 7 8.

    Raises ValueError for a counted target in a prompt, which a generator cannot learn.
    """
    B, T = ids.shape
    place = np.arange(B * T)
    first = place - np.tile(np.arange(T), B)  # where each position's example begins in the flattened rows
    if starts is not None:
        first = first + starts.reshape(-1)
    flat = ids.reshape(-1)
    ending = np.flatnonzero(np.isin(flat, ends) & (place > first))
    begin, which = np.unique(first[ending], return_index=True)  # the first such end token of each example
    at = ending[which]
    sizes = np.bincount(first, minlength=B * T)
    stop = begin + sizes[begin]
    goals = None
    if targets is not None:
        goals = targets.reshape(-1)
        begin, at, stop = learned(goals, first, begin, at)
    lengths, source_lengths = stop - at, at - begin
    source, _ = gathered(flat, begin, source_lengths, longest(source_lengths))
    target_in, inside = gathered(flat, at, lengths, longest(lengths))
    wanted = np.full(target_in.shape, IGNORED, np.int64)
    if goals is not None:
        wanted[inside] = gathered(goals, at, lengths, target_in.shape[1])[0][inside]
    return Pairs(source, source_lengths, target_in, wanted, lengths, at)


def learned(
    goals: np.ndarray, first: np.ndarray, begin: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `begin`, `at` and the end of each example with counted targets, of which it has the last.

    goals, first  the targets of all positions, and where the example of each begins
    begin, at     where examples begin, and where their prompts end

    Raises ValueError for a counted target in a prompt.
    """
    counted = np.flatnonzero(goals != IGNORED)
    last = np.zeros(len(goals), np.int64)
    last[first[counted]] = counted  # of several values for one place, NumPy assigns the last
    boundary = np.full(len(goals), len(goals))
    boundary[begin] = at
    if (early := counted[counted < boundary[first[counted]]]).size:
        raise ValueError(
            f"the target {goals[early[0]]} is in a prompt, which a generator reads and does not write: give examples "
            "of a prompt, the end token, and a completion"
        )
    kept = last[begin] >= at
    return begin[kept], at[kept], last[begin[kept]] + 1


def longest(lengths: np.ndarray) -> int:
    """Return the largest of some lengths; 1 of none."""
    return int(lengths.max(initial=1))


def gathered(flat: np.ndarray, begin: np.ndarray, lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of an array that begin there, padded with zeros to (N, size), and where they are no padding."""
    steps = np.arange(size)
    inside = steps < lengths[:, None]
    where = np.where(inside, begin[:, None] + steps, 0)
    return np.where(inside, flat[where], 0).astype(np.int64), inside


def scattered(values: np.ndarray, pairs: Pairs, shape: tuple[int, int]) -> np.ndarray:
    """Return values (N, T, ...) of the decoder's positions at their places in rows of the shape (B, T_rows); else 0."""
    steps = np.arange(values.shape[1])
    inside = steps < pairs.lengths[:, None]
    rows = np.zeros((shape[0] * shape[1], *values.shape[2:]), values.dtype)
    rows[(pairs.at[:, None] + steps)[inside]] = values[inside]
    return rows.reshape(*shape, *values.shape[2:])
