"""The generator: a GPT's features in, text out. generator_forward, generator_backward, and the class Seq2Seq.

An encoder, which is a GPT without its head, reads a prompt; a decoder reads its features and writes the completion.
Rows of tokens hold both (seq_pairs.py), so data, trainer and engine treat a generator as any model.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from npgpt.hub.seq import Fields, read_seq, write_seq
from npgpt.models.base import end_ids
from npgpt.models.checks import checked_batch, checked_ids, checked_starts, require_known
from npgpt.models.gpt2 import GPT, FeaturesCache, features_backward, features_forward
from npgpt.models.gpt2_inside import tap_names as gpt_tap_names
from npgpt.models.seq_config import Objective, SeqConfig
from npgpt.models.seq_loss import objective_backward, objective_forward
from npgpt.models.seq_pairs import Pairs, pairs_of, scattered
from npgpt.models.seq_parameters import (
    ENCODER,
    embedding_names,
    encoder_part,
    flops_per_token,
    init_generator,
    matrices_of,
    parameter_shapes,
)
from npgpt.models.seq_past import RowPast, SeqPast
from npgpt.models.seq_recurrent import RecurrentPast, recurrent_backward, recurrent_forward
from npgpt.models.seq_transformer import (
    TransformerPast,
    transformer_backward,
    transformer_forward,
    transformer_tap_names,
)
from npgpt.models.taps import NO_TAPS, Taps, TapsUnder
from npgpt.ops import Ops, get_ops
from npgpt.support.buffers import of_many_shapes
from npgpt.support.parameters import Parameters, Shapes

if TYPE_CHECKING:
    from npgpt.data.batch import Batch

Rng = np.random.Generator | None


class GeneratorCache(NamedTuple):
    """What the generator's backward needs."""

    params: Parameters
    config: SeqConfig
    ops: Ops
    features: FeaturesCache
    wte: tuple
    decoder: Any


def generator_forward(
    params: Parameters,
    pairs: Pairs,
    config: SeqConfig,
    ops: Ops,
    rng: Rng = None,
    taps: Taps = NO_TAPS,
    keep: bool = True,
    trained_blocks: int | None = None,
) -> tuple[np.ndarray, GeneratorCache]:
    """Run everything below the head: pairs -> the decoder's outputs (N, T, C).

    keep            keep what the encoder's backward needs, which is most of the memory
    trained_blocks  how many of the encoder's last blocks have gradients; None for all of it, 0 for nothing of it
    """
    keep, drop = keep and trained_blocks != 0, None if trained_blocks == 0 else rng
    seen = NO_TAPS if taps is NO_TAPS else TapsUnder(taps, ENCODER)
    encoder = encoder_part(params, config)
    source, features = features_forward(encoder, pairs.source, config.encoder, ops, drop, taps=seen, keep=keep)
    tokens, wte = ops.embedding_forward(pairs.target_in, params[embedding_names(config)[0]])
    lengths, steps = pairs.source_lengths, pairs.lengths
    x = taps("decoder.wte", tokens)
    y, decoder = decoder_forward(params, x, source, lengths, config, ops, rng, taps=taps, steps=steps)
    return y, GeneratorCache(params, config, ops, features, wte, decoder)


def decoder_forward(
    params: Parameters,
    x: np.ndarray,
    source: np.ndarray | None,
    lengths: np.ndarray | None,
    config: SeqConfig,
    ops: Ops,
    rng: Rng = None,
    past: Any = None,
    taps: Taps = NO_TAPS,
    steps: np.ndarray | None = None,
) -> tuple[np.ndarray, Any]:
    """Run the decoder below its head (recurrent_forward, transformer_forward): x (N, T, C) -> (N, T, C)."""
    if config.decoder == "transformer":
        return transformer_forward(params, x, source, lengths, config, ops, rng, past, taps)
    return recurrent_forward(params, x, source, lengths, config, ops, rng, past, taps, steps)


def generator_backward(dy: np.ndarray, cache: GeneratorCache, grads: Parameters, trained_blocks: int | None) -> None:
    """Put the gradients of every parameter below the head into grads; of those that are not trained, zeros.

    To be called after the backward of the head, whose share a tied embedding begins with, as in features_backward.
    """
    config, ops = cache.config, cache.ops
    backward: Any = transformer_backward if config.decoder == "transformer" else recurrent_backward
    dx, dsource = backward(dy, cache.decoder, grads)
    encoder = encoder_part(grads, config)
    if trained_blocks is None:
        if config.embedding == "own" and config.encoder.tie_word_embeddings:
            encoder["wte.weight"].fill(0)  # there is no head whose share it would begin with
        features_backward(dsource, cache.features, encoder)
    else:
        for grad in encoder.values():
            grad.fill(0)
        if trained_blocks:
            features_backward(dsource, cache.features, encoder, trained_blocks)
    name, _ = embedding_names(config)
    if config.embedding == "own":
        grads[name].fill(0)
    elif trained_blocks is not None:
        return
    ops.embedding_backward(dx, cache.wte, grads[name])


def tap_names(config: SeqConfig) -> list[str]:
    """Return the names of the values that taps can see and replace, in the order of the forward.

    encoder.*           those of a GPT (npgpt.models.gpt2_inside.tap_names), up to encoder.ln_f
    decoder.wte         (N, T, C)     the embeddings of what the decoder reads
    decoder.*           of a transformer those of seq_transformer.py, of a recurrent decoder:
    decoder.h.0.mid        (N, T, C)     the residual stream after a layer; decoder.h.0.out after its attention
    decoder.h.0.attn.probs (N, H, T, S)  the weights of its attention to the source; decoder.h.0.attn.out what it adds
    ln_f                (B, T, C)     what the head reads, at its place in the rows of ids; 0 in prompts
    logits              (B, T, V)
    """
    encoder = [ENCODER + name for name in gpt_tap_names(config.encoder) if name != "logits"]
    if config.decoder == "transformer":
        return [*encoder, "decoder.wte", *transformer_tap_names(config), "ln_f", "logits"]
    inside = ["mid", "attn.probs", "attn.out", "out"] if config.bridge == "attention" else ["mid", "out"]
    layers = [f"decoder.h.{i}.{name}" for i in range(config.n_layer) for name in inside]
    return [*encoder, "decoder.wte", *layers, "ln_f", "logits"]


class Seq2Seq:
    """A generator: a config, its parameters, and a table of ops.

    >>> model = Seq2Seq.of(gpt, decoder="gru", bridge="attention")
    >>> loss, grads = model.loss_and_grads(batch)

    The rows of ids hold examples `E p1 .. pn E c1 .. cm`, E the end token: the encoder reads `E p1 .. pn`, the decoder
    what follows. trained_blocks says how many of the encoder's last blocks have gradients: None for the whole encoder,
    0 for nothing of it; where it is a number, an embedding that is the encoder's has none either. objective is what
    the generator is trained for, and critic the GPT that compares what it writes with what was wanted, for the cosine.

    A method raises ValueError for ids of another shape or outside the vocabulary, TypeError for arrays that are not
    integers.
    """

    def __init__(
        self,
        config: SeqConfig,
        seed: int = 0,
        dtype: str = "float32",
        ops: str | Ops = "fast",
        params: Parameters | None = None,
    ) -> None:
        if not end_ids(config):
            raise ValueError("a generator's encoder needs an end token, which divides prompts from completions")
        self.config = config
        self.ops = get_ops(ops)
        self.params = init_generator(config, None, seed, dtype) if params is None else params
        self.trained_blocks: int | None = None
        self.objective = Objective()
        self.critic: GPT | None = None

    @classmethod
    def of(cls, encoder: GPT, seed: int = 0, **fields: Any) -> Self:
        """Return an untrained generator whose encoder begins as a copy of a GPT.

        fields  those of SeqConfig, without the encoder
        """
        config = SeqConfig(encoder.config, **fields)
        params = init_generator(config, encoder.params, seed, encoder.dtype.name)
        return cls(config, ops=encoder.ops, params=params)

    @property
    def dtype(self) -> np.dtype:
        """The precision of the parameters and of everything that is computed."""
        return self.params.flat.dtype

    @property
    def size(self) -> int:
        """The number of parameters."""
        return self.params.size

    @property
    def matrices(self) -> dict[str, int]:
        """{name: count} of the matrices that Muon trains."""
        return matrices_of(self.config)

    @property
    def flops_per_token(self) -> float:
        """The floating-point operations of one token's forward pass, averaged over a prompt and its completion."""
        return flops_per_token(self.config)

    def describe(self) -> str:
        """Return the shape in words, as `npgpt info` prints it."""
        config, encoder = self.config, self.config.encoder
        kind = {"gru": "GRU", "lstm": "LSTM", "transformer": "transformer"}[config.decoder]
        how = {"mean": "the mean of", "last": "the last of", "attention": "attention to"}[config.bridge]
        return (
            f"a generator: {kind} of {config.n_layer} layer{'s' * (config.n_layer > 1)} and {config.width} channels, "
            f"{how} the features of {encoder.n_layer} blocks of {encoder.n_embd} channels, context "
            f"{config.n_positions}, vocabulary {config.vocab_size:,}"
        )

    def tap_names(self) -> list[str]:
        """Return the names of the values that taps can see and replace (tap_names above)."""
        return tap_names(self.config)

    def new_past(self, batch_size: int = 1) -> SeqPast:
        """Return the past of `batch_size` rows before their first token."""
        return SeqPast(batch_size)

    def forward(
        self,
        ids: np.ndarray,
        past: SeqPast | None = None,
        taps: Taps | None = None,
        last: bool = False,
        starts: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the next token's unnormalised log-probabilities (B, T, V); in prompts, which have none, 0.

        past    from new_past; ids follow the tokens in it, and are added to it
        taps    see and replace the values that tap_names lists
        last    compute only the logits of the last position, (B, 1, V). Raises ValueError if it is in a prompt
        """
        if past is not None and starts is not None:
            raise ValueError("a past and starts cannot go together: a past is that of one text a row")
        if past is not None and len(past.rows) != len(ids):
            raise ValueError(f"{len(ids)} rows of ids cannot continue a past of {len(past.rows)}")
        if not isinstance(taps, Taps | None):
            raise TypeError(f"taps={taps!r} must be Taps, as in Taps({taps!r})")
        if taps is not None:
            taps.begin(self.tap_names())
        ids = checked_ids(ids, self.config.n_positions, 0 if past is None else past.length)
        require_known(ids, self.config.vocab_size)  # a prompt is read only at its end, when it would be too late
        starts = checked_starts(starts, ids.shape)
        taps = NO_TAPS if taps is None else taps
        if past is None:
            hidden, begun = self._hidden(ids, starts, taps)
        else:
            found = [self._continue(row, row_ids, taps) for row, row_ids in zip(past.rows, ids, strict=True)]
            hidden, begun = np.array(found), np.array([row.decoder is not None for row in past.rows])
            past.length += ids.shape[1]
        if last and not begun.all():
            raise ValueError("a generator writes after the end token of a prompt, and there is none yet: add it")
        hidden = taps("ln_f", hidden)[:, -1 if last else 0 :]
        return taps("logits", self.ops.linear_forward(hidden, self._head.T, None)[0])

    @property
    def _head(self) -> np.ndarray:
        return self.params[embedding_names(self.config)[1]]

    def _hidden(self, ids: np.ndarray, starts: np.ndarray | None, taps: Taps) -> tuple[np.ndarray, np.ndarray]:
        """Return the decoder's outputs in rows of ids (B, T, C), and whether each row's last position has one."""
        pairs = pairs_of(ids, end_ids(self.config), starts=starts)
        written = scattered(np.arange(pairs.target_in.shape[1]) < pairs.lengths[:, None], pairs, ids.shape)[:, -1]
        if not len(pairs.at):
            return np.zeros((*ids.shape, self.config.width), self.dtype), written
        y, _ = generator_forward(self.params, pairs, self.config, self.ops, taps=taps, keep=False)
        return scattered(y, pairs, ids.shape), written

    def _continue(self, row: RowPast, ids: np.ndarray, taps: Taps) -> np.ndarray:
        """Read ids (T,) into a row's past; return the decoder's outputs (T, C), 0 in the prompt."""
        config, ops, source = self.config, self.ops, None
        hidden = np.zeros((len(ids), config.width), self.dtype)
        first = 0
        if row.decoder is None:
            ending = np.isin(ids, end_ids(config))
            ending[: not row.prompt] = False  # the end token before a prompt begins it
            first = int(np.argmax(ending)) if ending.any() else len(ids)
            row.prompt += ids[:first].tolist()
            if first == len(ids):
                return hidden
            prompt, encoder = np.array([row.prompt]), encoder_part(self.params, config)
            seen = NO_TAPS if taps is NO_TAPS else TapsUnder(taps, ENCODER)
            source, _ = features_forward(encoder, prompt, config.encoder, ops, taps=seen, keep=False)
            row.decoder = TransformerPast() if config.decoder == "transformer" else RecurrentPast()
        tokens, _ = ops.embedding_forward(ids[None, first:], self.params[embedding_names(config)[0]])
        x = taps("decoder.wte", tokens)
        y, _ = decoder_forward(self.params, x, source, None, config, ops, past=row.decoder, taps=taps)
        hidden[first:] = y[0]
        return hidden

    def loss(self, batch: "Batch") -> float:
        """Return the objective's mean over the counted targets of a batch, without label smoothing."""
        with of_many_shapes():
            return self._loss(batch)

    def _loss(self, batch: "Batch") -> float:
        pairs = self._pairs(batch)
        if not len(pairs.at):
            return 0.0
        hidden, _ = generator_forward(self.params, pairs, self.config, self.ops, keep=False)
        return float(objective_forward(hidden, self._head, pairs, self.objective.evaluated, self._critic, self.ops)[0])

    def loss_and_grads(
        self, batch: "Batch", *, rng: Rng = None, dloss: float = 1.0, grads: Parameters | None = None
    ) -> tuple[float, Parameters]:
        """Return the objective's mean over the counted targets, and every parameter's gradient.

        rng    draws dropout masks; None switches dropout off
        dloss  the gradients are those of dloss * loss; for a part of a batch, its share of the counted targets
        grads  gradients to overwrite and return, instead of new ones
        """
        grads = self.params.empty_like() if grads is None else grads
        with of_many_shapes():
            return self._loss_and_grads(batch, rng, dloss, grads), grads

    def _loss_and_grads(self, batch: "Batch", rng: Rng, dloss: float, grads: Parameters) -> float:
        pairs = self._pairs(batch)
        if not len(pairs.at):
            grads.flat.fill(0)
            return 0.0
        blocks = self.trained_blocks
        hidden, cache = generator_forward(self.params, pairs, self.config, self.ops, rng, trained_blocks=blocks)
        loss, head = objective_forward(hidden, self._head, pairs, self.objective, self._critic, self.ops)
        dhead = grads[embedding_names(self.config)[1]]
        dhidden = objective_backward(dloss, head, self.ops, dhead)
        generator_backward(dhidden, cache, grads, blocks)
        return float(loss)

    @property
    def _critic(self) -> GPT | None:
        """Return who compares what is written with what was wanted: without a critic, an encoder that is constant."""
        if self.objective.kind == "ce" or self.critic is not None:
            return self.critic
        if self.trained_blocks != 0:
            raise ValueError(
                f"loss={self.objective.kind!r} needs a critic where the encoder is trained: set model.critic"
            )
        return GPT(self.config.encoder, ops=self.ops, params=encoder_part(self.params, self.config))

    def _pairs(self, batch: "Batch") -> Pairs:
        ids, targets, starts = checked_batch(batch, None, None, self.config.n_positions)
        return pairs_of(ids, end_ids(self.config), targets, starts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, generation_config.json and model.safetensors (npgpt.hub.seq)."""
        write_seq(Path(folder), dataclasses.asdict(self.config), self.params)

    def load_pretrained(self, folder: str | Path) -> Self:
        """Return the generator of a folder, in this one's precision and on its ops, for the same objective."""
        other = self.from_pretrained(folder, self.dtype.name, self.ops)
        other.trained_blocks, other.objective, other.critic = self.trained_blocks, self.objective, self.critic
        return other

    @classmethod
    def from_pretrained(cls, name: str | Path, dtype: str = "float32", ops: str | Ops = "fast") -> Self:
        """Read a generator from a folder of save_pretrained.

        Raises FileNotFoundError or ValueError, naming the file, if a file is missing or not a whole generator.
        """
        known = tuple(field.name for field in dataclasses.fields(SeqConfig))
        fields, tensors = read_seq(name, known, _shapes_of)
        config = SeqConfig.of(fields)
        params = Parameters(parameter_shapes(config), np.empty(sum(t.size for t in tensors.values()), dtype))
        params |= tensors
        return cls(config, dtype=dtype, ops=ops, params=params)


def _shapes_of(fields: Fields) -> Shapes:
    return parameter_shapes(SeqConfig.of(fields))
