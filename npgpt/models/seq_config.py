"""The configuration of a generator: a GPT's features in, text out; and what it is trained for."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from npgpt.config import GPTConfig, divisor
from npgpt.hub.seq import MODEL_TYPE as MODEL_TYPE
from npgpt.support.hints import nearest

DECODERS = ("gru", "lstm", "transformer")
BRIDGES = ("mean", "last", "attention")
EMBEDDINGS = ("own", "encoder")
LOSSES = ("ce", "cosine", "ce+cosine")


@dataclasses.dataclass(frozen=True)
class SeqConfig:
    """The sizes of a generator. Raises ValueError, with the field and its value, for what is not possible.

    encoder    the GPT whose features are read
    decoder    what writes: gru, lstm or transformer
    bridge     what the decoder gets of the features: their mean or the last as its initial state, or all by attention
    n_layer    layers of the decoder
    n_embd     the decoder's width; None for the encoder's
    n_head     heads of the decoder's attention; None for the encoder's, or the next number that divides the width
    embedding  the tokens' embedding and the head: the decoder's own, or the encoder's, which has its width
    pdrop      dropout probability in the decoder
    """

    encoder: GPTConfig
    decoder: str = "gru"
    bridge: str = "attention"
    n_layer: int = 2
    n_embd: int | None = None
    n_head: int | None = None
    embedding: str = "own"
    pdrop: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in ("decoder", DECODERS), ("bridge", BRIDGES), ("embedding", EMBEDDINGS):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown{nearest(str(value), choices)}")
        for name in ("n_layer", "n_embd", "n_head"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name}={value!r} must be an integer of at least 1")
        if not isinstance(self.pdrop, int | float) or not 0 <= self.pdrop < 1:
            raise ValueError(f"pdrop={self.pdrop!r} must be in [0, 1)")
        if self.width % self.heads:
            raise ValueError(f"n_head={self.n_head} does not divide n_embd={self.width}")
        if self.embedding == "encoder" and self.width != self.encoder.n_embd:
            raise ValueError(
                f"embedding='encoder' has {self.encoder.n_embd} channels, and n_embd={self.width}: leave one out"
            )

    @property
    def width(self) -> int:
        """The decoder's width."""
        return self.n_embd or self.encoder.n_embd

    @property
    def heads(self) -> int:
        """The heads of the decoder's attention."""
        return self.n_head or divisor(self.encoder.n_head, self.width)

    @property
    def vocab_size(self) -> int:
        return self.encoder.vocab_size

    @property
    def n_positions(self) -> int:
        """The longest row: a prompt and its completion."""
        return self.encoder.n_positions

    @property
    def bos_token_id(self) -> int | None:
        return self.encoder.bos_token_id

    @property
    def eos_token_id(self) -> int | tuple[int, ...] | None:
        return self.encoder.eos_token_id

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "SeqConfig":
        """Return the configuration that dataclasses.asdict made fields of."""
        return cls(**{**fields, "encoder": GPTConfig(**fields["encoder"])})


class Objective(NamedTuple):
    """What a generator is trained for: `ce + weight * (1 - cosine)`, or one of the two.

    kind             one of LOSSES
    weight           of the cosine, for "ce+cosine"
    label_smoothing  of the cross-entropy, while training
    tau              the temperature of the softmax whose expected embeddings the cosine reads
    final_tau        that of evaluations, while tau changes; None for tau
    """

    kind: str = "ce"
    weight: float = 1.0
    label_smoothing: float = 0.0
    tau: float = 1.0
    final_tau: float | None = None

    @property
    def evaluated(self) -> "Objective":
        """What evaluations measure: the same without label smoothing, at the final temperature."""
        return self._replace(label_smoothing=0.0, tau=self.tau if self.final_tau is None else self.final_tau)
