"""A generator's past: the prompt until its end token, and then what its decoder keeps."""

from typing import Any


class RowPast:
    """The past of one row: the prompt's ids, which the encoder reads at its end, and the decoder's past after it."""

    def __init__(self) -> None:
        self.prompt: list[int] = []
        self.decoder: Any = None  # made at the end token, when the prompt is encoded


class SeqPast:
    """The past of several rows of one length, each of which may be in its prompt or beyond it."""

    def __init__(self, batch_size: int = 1) -> None:
        self.length = 0
        self.rows = [RowPast() for _ in range(batch_size)]
