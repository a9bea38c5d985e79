"""The protocol of a model: what training, checkpoints, generation and the command line need from one.

GPT in gpt2.py is one such model. Another needs no change elsewhere: tests/test_protocol.py trains a table of bigrams.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from npgpt.models.taps import Taps
from npgpt.support.parameters import Parameters

if TYPE_CHECKING:
    from npgpt.data.batch import Batch

Rng = np.random.Generator | None


class Past(Protocol):
    """What a model keeps of the tokens that it has read, such as keys and values, to continue from them.

    A past may have a method `fork()`, which returns another of the same tokens that goes on by itself.
    """

    @property
    def length(self) -> int:
        """The number of tokens read so far."""


def end_ids(config: Any) -> tuple[int, ...]:
    """Return the ids of the tokens that end a text, by a model's configuration: none, one or several."""
    ids = config.eos_token_id
    return () if ids is None else tuple(ids) if isinstance(ids, list | tuple) else (ids,)


def set_end(model: "Model", i: int) -> None:
    """Make a token the only one that ends a model's texts, unless it is one of those already."""
    if i not in end_ids(model.config):
        config = copy.copy(model.config)
        object.__setattr__(config, "eos_token_id", i)  # a configuration is frozen, and this copy is nobody else's
        model.__dict__["config"] = config


class Team(Protocol):
    """What a model may return from `team(members)`, so that several threads compute a batch of it together."""

    def begin(self, batches: "Sequence[Batch]", drop: bool) -> None:
        """Prepare for batches, before the members start; drop says whether there will be dropout."""

    def accumulate_grads(
        self,
        member: int,
        batches: "Sequence[Batch]",
        total: int,
        grads: Parameters,
        rng: Rng,
        laps: np.ndarray | None = None,
    ) -> float:
        """Write the gradients of the batches' summed loss divided by `total` into grads; return a member's share of it.

        All members call this at once, for the same batches, each with its own number and generator.
        """

    def abort(self) -> None:
        """Let all members go on who wait for others, because one of them has failed."""

    def add_up(self, gradients: np.ndarray, start: int, stop: int) -> float:
        """Add the rows of gradients (groups, size) into the first, from start to stop; return its sum of squares."""


class Decoder(Protocol):
    """What continues several texts at once, each in a slot of memory that is allocated once.

    A model may return one of its own from `decoder(slots, rows, weights, threads)`; generation/decoder.py has one for
    every model. Each text is computed as if it were alone: bit for bit the same, whatever the other slots hold.

    lengths  (slots,) int64: the tokens in each slot so far. To forget the last tokens of a slot, decrease its length
    rows     the most tokens that one call can read
    """

    lengths: np.ndarray
    rows: int

    def read(self, slots: np.ndarray, ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Append ids[i] to slot slots[i], for each i; return the logits (len(wanted), V) after the rows in `wanted`.

        slots, ids, wanted  int64. Tokens of one slot follow one another in their order. The result is memory that the
                            next call overwrites

        Raises ValueError for ids outside the vocabulary, and for a slot with more than n_positions tokens.
        """

    def hidden(self) -> np.ndarray:
        """Return the last hidden states (len(wanted), C) of the rows that the last call of `read` wanted.

        They are what the head makes its logits from: of a GPT, what follows the final layer norm (the tap "ln_f"). The
        result is memory that the next call overwrites. Raises ValueError if the model has no such states.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a slot hold the first `length` tokens of another, without computing them."""


class Model(Protocol):
    """A causal language model over flat parameters.

    params    {name: array}, views into one buffer; `params.flat.dtype` is the precision of everything
    matrices  {name: count}: the parameters that Muon may train, each `count` matrices side by side; may be empty

    A model may have the methods `team(members)` and `decoder(slots, rows, weights, threads)`, which return a Team and a
    Decoder, or None if it cannot; and `reader(slots, rows, length, layer, threads)`, which returns a Decoder whose
    `hidden` are the states of a layer, numbered as in npgpt.features, of texts of at most `length` tokens.
    """

    params: Parameters

    @property
    def config(self) -> Any:
        """The configuration, of a class of the model's own; it has vocab_size, n_positions and eos_token_id."""

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def size(self) -> int:
        """The number of parameters."""

    @property
    def flops_per_token(self) -> float:
        """The floating-point operations of one token's forward pass, averaged over a full context."""

    def describe(self) -> str:
        """Return the model's shape in words."""

    def tap_names(self) -> list[str]:
        """Return the names of the values that taps can see and replace; may be empty."""

    @property
    def matrices(self) -> Mapping[str, int]: ...

    def forward(self, ids: np.ndarray, past: Any = None, taps: Taps | None = None, last: bool = False) -> np.ndarray:
        """Return logits (B, T, V) for ids (B, T); with `last`, only those of the last position, (B, 1, V).

        past  from new_past; ids follow the tokens in it, and are added to it
        taps  see and replace values by their names
        """

    def new_past(self, batch_size: int = 1) -> Past:
        """Return the past of `batch_size` sequences before their first token."""

    def loss(self, batch: "Batch", /) -> float:
        """Return the mean cross-entropy in nats over the counted targets of a batch."""

    def loss_and_grads(
        self, batch: "Batch", /, *, rng: Rng = None, dloss: float = 1.0, grads: Parameters | None = None
    ) -> tuple[float, Parameters]:
        """Return the loss, and the gradient of dloss * loss for every parameter, written into grads if it is given.

        rng  draws dropout masks; None switches dropout off
        """

    def save_pretrained(self, folder: Path) -> None:
        """Write the model into a folder, each file whole or not at all."""

    def load_pretrained(self, folder: Path) -> Self:
        """Return another model of this kind and precision, read from a folder of save_pretrained."""
