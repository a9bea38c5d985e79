"""A generator's past: the prompt until its end token, and then what its decoder keeps."""

import copy
from typing import Any


class RowPast:
    """The past of one row: the prompt's ids, which the encoder reads at its end, and the decoder's past after it."""

    def __init__(self) -> None:
        self.prompt: list[int] = []
        self.decoder: Any = None  # made at the end token, when the prompt is encoded

    def fork(self) -> "RowPast":
        """Return another past of the same tokens."""
        other = RowPast()
        other.prompt = self.prompt.copy()
        other.decoder = None if self.decoder is None else self.decoder.fork()
        return other


class SeqPast:
    """The past of several rows of one length, each of which may be in its prompt or beyond it."""

    def __init__(self, batch_size: int = 1) -> None:
        self.length = 0
        self.rows = [RowPast() for _ in range(batch_size)]

    def fork(self) -> "SeqPast":
        """Return another past of the same tokens."""
        other = copy.copy(self)
        other.rows = [row.fork() for row in self.rows]
        return other
