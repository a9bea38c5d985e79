"""The slots of a decoder: which text is in each, and what is read next."""

from itertools import count

import numpy as np

from npgpt.generation.decoder import ROWS, PlainDecoder
from npgpt.generation.requests import Request, Text
from npgpt.models.base import Decoder

SHARED = 16  # tokens: for fewer it is not worth the wait until another text has read them


class Slots:
    """Puts texts into the slots of a decoder, and reads what is unread of them.

    texts  what each slot holds: the first `decoder.lengths[slot]` ids of a text's window. The text may have ended. This
           is so after every line, so that an interrupt leaves nothing that is wrong
    lent   slots that a search has
    """

    def __init__(self, decoder: Decoder, slots: int, n_positions: int) -> None:
        self.decoder, self._n_positions = decoder, n_positions
        self.texts: list[Text | None] = [None] * slots
        self.lent: set[int] = set()
        self._left = [0] * slots  # when each slot was left
        self._clock = count(1)
        # The plain decoder would read a copy again, in parts of other sizes, which may round in another way
        self._shares = not isinstance(decoder, PlainDecoder)
        self._rows = np.empty((2, ROWS + slots), np.int64)  # a slot and an id
        self._wanted = np.empty(slots, np.int64)
        self._before = np.empty(slots, np.int64)

    def leave(self, text: Text) -> None:
        """Note that a text has ended."""
        self._left[text.slot] = next(self._clock)

    def free(self) -> list[int]:
        """Return the slots that no text is being written in, those that were left first at the front."""
        free = [slot for slot, text in enumerate(self.texts) if text is None or text.request.done]
        return sorted({*free} - self.lent, key=self._left.__getitem__)

    def place(self, text: Text, running: list[Request]) -> None:
        """Give a text a free slot: the one that holds most of it, or the one that was left first.

        If a text that is being written has more in common with it, it follows that one.
        """
        free = self.free()
        best, common = free[0], 0
        leader, more = None, SHARED - 1
        if self._shares:
            for slot in free:
                other = self.texts[slot]
                if other is not None:
                    n = common_length(other.window[: self.decoder.lengths[slot]], text.window)
                    best, common = (slot, n) if n > common else (best, common)
            for request in running:
                for other in request.texts:
                    n = common_length(other.window, text.window)
                    leader, more = (other, n) if n > more else (leader, more)
        self.decoder.lengths[best] = common  # first: what a slot holds is right after every line
        text.slot, self.texts[best] = best, text
        if leader is not None and more > common:
            text.follows = leader, leader.start, more

    def _followed_length(self, text: Text) -> int | None:
        """Return how many tokens the slot of a text holds after those that it shares are copied; None if it waits."""
        other, start, common = text.follows or (text, 0, 0)
        there = self.texts[other.slot] is other and other.start == start
        held = min(common, int(self.decoder.lengths[other.slot])) if there else 0
        if there and held < common and not other.request.done:
            return None
        text.follows = None
        if held > self.decoder.lengths[text.slot]:
            self.decoder.copy(other.slot, text.slot, held)
        return int(self.decoder.lengths[text.slot])

    def gather(self, running: list[Request]) -> tuple[list[Text], int]:
        """Write the rows of the next call of the decoder; return the texts that get logits, and the number of rows.

        A part of a prompt ends where its slot holds a multiple of ROWS tokens, so that a text is read in the same parts
        whatever the others are: products of other shapes may round in another way.
        """
        texts: list[Text] = []
        rows, room = 0, ROWS
        lengths = self.decoder.lengths.tolist()
        for request in running:
            for text in request.texts:
                length = lengths[text.slot] if text.follows is None else self._followed_length(text)
                if length is None or text.logits is not None:
                    continue  # it waits for another text
                if text.n - text.start > self._n_positions:
                    length = self.make_room(text)
                unread = text.n - text.start - length
                if unread == 0:  # a step was interrupted after it had read this token: it is read again
                    length, unread = length - 1, 1
                    self.decoder.lengths[text.slot] = length
                size = min(unread, ROWS - length % ROWS)
                if size > 1:
                    if size > room:
                        continue
                    room -= size
                begin = text.start + length
                self._rows[0, rows : rows + size] = text.slot
                self._rows[1, rows : rows + size] = text.ids[begin : begin + size]
                rows += size
                if size == unread:
                    self._wanted[len(texts)] = rows - 1
                    texts.append(text)
        return texts, rows

    def make_room(self, text: Text) -> int:
        """Drop the oldest tokens of a full context, and return how many the slot holds now: none."""
        self.decoder.lengths[text.slot] = 0
        text.start += dropped(text.request.sampling.context, self._n_positions)
        return 0

    def read(self, rows: int, wanted: int) -> np.ndarray:
        """Return the logits of the rows that `gather` wrote. What interrupts it leaves the slots as they were."""
        self._before[:] = self.decoder.lengths
        try:
            return self.decoder.read(self._rows[0, :rows], self._rows[1, :rows], self._wanted[:wanted])
        except BaseException:
            self.decoder.lengths[:] = self._before
            raise


def dropped(context: str, n_positions: int) -> int:
    """Return how many of the oldest tokens a full context leaves out."""
    return max(1, n_positions // 4) if context == "block" else 1


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many ids at the beginning of a and b are the same, without the last of b, which must be read."""
    n = min(len(a), len(b) - 1)
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n
