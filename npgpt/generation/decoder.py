"""The decoder for every model: texts in slots, each with a past of its own.

A GPT has a faster one, of the same interface (`npgpt.models.base.Decoder`).
"""

import numpy as np

from npgpt.models.base import Decoder, Model, Past
from npgpt.models.registry import with_weights
from npgpt.models.taps import Taps
from npgpt.support.machine import cores
from npgpt.training.blas import blas_threads

ROWS = 128  # tokens in one call: prompts are read in parts of this size, which bounds the memory


def new_decoder(model: Model, slots: int, rows: int = ROWS, weights: str | None = None, threads: int = 0) -> Decoder:
    """Return the model's own decoder, or the plain one if it has none.

    slots    texts at once
    rows     tokens in one call
    weights  None for the model's own, "int8" for weights of 8 bits
    threads  0 for as many as pay; of more than there are cores, only those are used, since they would wait for one
             another's turns. The bits are the same

    Raises ValueError for weights that the model cannot have.
    """
    model = with_weights(model, weights)
    make = getattr(model, "decoder", None)
    decoder = make(slots, rows, weights, min(threads, cores(environ={}))) if make else None
    return PlainDecoder(model, slots, rows) if decoder is None else decoder


class PlainDecoder:
    """A decoder from a model's forward and its past: one call for each text."""

    def __init__(self, model: Model, slots: int, rows: int = ROWS) -> None:
        self.model, self.rows = model, rows
        self.lengths = np.zeros(slots, np.int64)
        self._ids: list[list[int]] = [[] for _ in range(slots)]
        self._pasts: list[Past] = [model.new_past() for _ in range(slots)]
        names: list[str] = getattr(model, "tap_names", list)()  # a model that only writes needs none
        self._taps = Taps("ln_f") if "ln_f" in names else None
        self._hidden: list[np.ndarray] = []  # of the rows that the last call wanted

    def read(self, slots: np.ndarray, ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Append tokens to slots, and return the logits after the wanted rows (npgpt.models.base.Decoder)."""
        if len(ids) > self.rows:
            raise ValueError(f"{len(ids)} tokens are more than the {self.rows} that one call reads")
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for slot in dict.fromkeys(slots.tolist()):
            rows = np.flatnonzero(slots == slot)
            here = [int(row) for row in rows if row in wanted]
            logits = self._append(slot, ids[rows], last=here == [rows[-1]])
            hidden = self._taps["ln_f"][0] if self._taps else logits
            for row in here:
                back = int(np.searchsorted(rows, row)) - len(rows)  # from the end: what was read again comes first
                found[row] = logits[back], hidden[back]
        self._hidden = [found[int(row)][1] for row in wanted]
        return np.array([found[int(row)][0] for row in wanted]).reshape(len(wanted), self.model.config.vocab_size)

    def hidden(self) -> np.ndarray:
        """Return the last hidden states of the rows that the last call of `read` wanted."""
        if self._taps is None:
            raise ValueError(f"{self.model.describe()} has no value 'ln_f', the hidden states that its head reads")
        return np.array(self._hidden)

    def _append(self, slot: int, ids: np.ndarray, last: bool) -> np.ndarray:
        """Read tokens into a slot; return the logits after each of them, or after the last, (T or 1, V)."""
        length, past = int(self.lengths[slot]), self._pasts[slot]
        kept = self._ids[slot][:length]
        if past.length != length:  # some were forgotten: a past of unknown kind cannot forget, so all are read again
            past = self._pasts[slot] = self.model.new_past()
            unread = [*kept, *ids.tolist()]
        else:
            unread = ids.tolist()
        with blas_threads(self.model, len(unread)):
            logits = self.model.forward(np.array([unread]), past, self._taps, last)[0]
        self._ids[slot] = [*kept, *ids.tolist()]
        self.lengths[slot] = len(self._ids[slot])
        return logits

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a slot hold the first `length` tokens of another.

        They are read again with the next ones, unless they are all of its past and it can fork.
        """
        fork = getattr(self._pasts[source], "fork", self.model.new_past)
        self._ids[target], self._pasts[target] = self._ids[source][:length], fork()
        self.lengths[target] = length
