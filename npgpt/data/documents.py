"""The documents of a text, packed into rows of the model's context, so that none is read together with another.

A document of the tokens x1..xn and the end token E begins after an E, as an example does; see packing.py:

    ids      E  x1 x2 .. xn
    targets  x1 x2 .. xn E

A document that is longer than the context is cut into windows, of which the first begins so.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from npgpt.data.batch import IGNORED, Batch
from npgpt.data.packing import Rows, best_fit, owners

BLOCK = 1 << 22  # ids searched at once


@dataclass(frozen=True, eq=False)
class Documents(Rows):
    """Rows of documents, made when they are drawn, so that memory does not grow with the text.

    ids          (N,), the text, in which an end token follows each document; may be mapped from a file
    n_positions  T, the length of a row
    end_id       the end token
    begins       where in ids the targets of each window begin, row after row
    sizes        how many targets each window has
    firsts       (R + 1,), the first window of each row, and the number of windows
    """

    ids: np.ndarray
    n_positions: int
    end_id: int
    begins: np.ndarray
    sizes: np.ndarray
    firsts: np.ndarray

    @property
    def size(self) -> int:
        """The number of targets to learn."""
        return int(self.sizes.sum())

    @property
    def n_rows(self) -> int:
        return len(self.firsts) - 1

    def rows(self, which: slice | np.ndarray) -> Batch:
        numbers = np.arange(self.n_rows)[which]
        shape = (len(numbers), self.n_positions)
        ids, targets = np.full(shape, self.end_id, np.int64), np.full(shape, IGNORED, np.int64)
        starts = np.tile(np.arange(self.n_positions), (len(numbers), 1))
        for row, number in enumerate(numbers):
            place = 0
            for k in range(self.firsts[number], self.firsts[number + 1]):
                begin, size = self.begins[k], self.sizes[k]
                window = self.ids[begin : begin + size]
                ids[row, place] = self.ids[begin - 1] if begin else self.end_id
                ids[row, place + 1 : place + size] = window[:-1]
                targets[row, place : place + size] = window
                starts[row, place : place + size] = place
                place += size
        return Batch(ids, targets, starts)


def pack_documents(ids: np.ndarray, n_positions: int, end_id: int) -> Documents:
    """Pack the documents of a text, of which empty ones are left out.

    Example: with the end token 9, n_positions=4 and ids 1 2 9 3 4 5 6 7 9, the windows are 1 2 9, 3 4 5 6 and 7 9, as
    targets, and the rows are [1 2 9], [3 4 5 6] and [7 9], in random order.

    Raises ValueError if there is no end token, or no document that is not empty.
    """
    ends = np.concatenate([start + 1 + np.flatnonzero(part == end_id) for start, part in blocks(ids)])
    if not len(ends):
        raise ValueError("there is no document, because the text has no end token")
    if ends[-1] < len(ids):
        ends = np.append(ends, len(ids))
    begins = np.append(0, ends[:-1])
    full = (ends - begins > 1) | (ids[begins] != end_id)
    begins, lengths = begins[full], (ends - begins)[full]
    if not len(begins):
        raise ValueError("all documents are empty")
    of, number = owners(-(-lengths // n_positions))  # for each window: its document, and which of its windows it is
    begins = begins[of] + number * n_positions
    sizes = np.minimum(lengths[of] - number * n_positions, n_positions)
    short = sizes < n_positions
    row = np.empty(len(sizes), np.int64)
    row[short], _, n_short = best_fit(sizes[short], n_positions)
    row[~short] = n_short + np.arange(np.count_nonzero(~short))
    n_rows = n_short + np.count_nonzero(~short)
    row = np.random.default_rng(0).permutation(n_rows)[row]
    order = np.argsort(row, kind="stable")
    firsts = np.searchsorted(row[order], np.arange(n_rows + 1))
    return Documents(ids, n_positions, end_id, begins[order], sizes[order], firsts)


def blocks(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield where each part of the ids begins, and the part."""
    for start in range(0, len(ids), BLOCK):
        yield start, ids[start : start + BLOCK]
