"""The GPT: gpt_forward, gpt_backward (its mirror image), and a thin class over them. Its block is in gpt2_block.py.

The one forward serves training, generation and inspection: `past` keeps the keys and values of earlier tokens, and
`taps` see or replace values by their names. The cache that a forward returns with either has no backward.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.gpt2 import write_gpt2
from npgpt.hub.tensors import MappedFile
from npgpt.models.checks import checked_batch, checked_input, checked_starts, rounds
from npgpt.models.gpt2_block import BlockCache, Starts, add, block_backward, block_forward
from npgpt.models.gpt2_decoder import GPTDecoder, reader_of
from npgpt.models.gpt2_inside import tap_names
from npgpt.models.gpt2_parameters import (
    Discarded,
    block_matrices,
    flops_per_token,
    init_parameters,
    parameter_shapes,
    read_parameters,
    weight_and_bias,
)
from npgpt.models.gpt2_step import Step
from npgpt.models.kv_cache import KVCache
from npgpt.models.taps import NO_TAPS, Taps
from npgpt.ops import REFERENCE, Ops, bf16_ops, get_ops
from npgpt.support.parameters import Parameters

if TYPE_CHECKING:
    from npgpt.data.batch import Batch

Rng = np.random.Generator | None


class FeaturesCache(NamedTuple):
    """What the backward of everything below the head needs; blocks holds the cache of each block.

    wte is None if the embeddings were given.
    """

    config: GPTConfig
    ops: Ops
    starts: Starts
    wte: tuple | None
    wpe: tuple
    drop: Any
    blocks: list[BlockCache]
    ln_f: tuple


def features_forward(
    params: Parameters,
    ids: np.ndarray | None,
    config: GPTConfig,
    ops: Ops = REFERENCE,
    rng: Rng = None,
    starts: Starts = None,
    past: KVCache | None = None,
    taps: Taps = NO_TAPS,
    keep: bool = True,
    inputs_embeds: np.ndarray | None = None,
) -> tuple[np.ndarray, FeaturesCache]:
    """Run everything below the head: ids (B, T) -> hidden (B, T, C), after the final layer norm.

    starts  (B, T), where a row holds several texts: where each position's own text begins. Positions count from there,
            and nothing before it is seen: each text is computed as if it were alone
    past    the keys and values of the tokens before ids, to which those of ids are added; gpt_forward counts them
    taps    see or replace what tap_names lists
    keep    keep what the backward needs, which is most of the memory of a forward
    inputs_embeds  (B, T, C), in the dtype of params: read in the place of the embeddings of ids, which are None then
    """
    if ids is not None:
        tokens, wte = ops.embedding_forward(ids, params["wte.weight"])
    elif inputs_embeds is not None:
        tokens, wte = inputs_embeds.copy(), None  # add computes in the memory of tokens
    else:
        raise ValueError("give either ids or inputs_embeds")
    first = 0 if past is None else past.length
    where = np.arange(first, first + tokens.shape[1]) - (0 if starts is None else starts)
    positions, wpe = ops.embedding_forward(where, params["wpe.weight"])
    x = add(taps("wte", tokens), taps("wpe", positions))
    x, drop = ops.dropout_forward(x, config.embd_pdrop, rng)
    blocks = []
    for i in range(config.n_layer):
        x, block = block_forward(x, params, f"h.{i}", config, ops, rng, starts, past, taps)
        if keep and past is None and taps is NO_TAPS:  # only then is there a backward that needs it
            blocks.append(block)
        del block  # if it is not kept, its memory is free for the next one
    hidden, ln_f = ops.layernorm_forward(x, *weight_and_bias(params, "ln_f"), config.layer_norm_epsilon)
    return taps("ln_f", hidden), FeaturesCache(config, ops, starts, wte, wpe, drop, blocks, ln_f)


def features_backward(
    dhidden: np.ndarray, cache: FeaturesCache, grads: Parameters, blocks: int | None = None
) -> np.ndarray | None:
    """Put the gradients of every parameter below the head into grads, and return that of inputs_embeds, if given.

    To be called after the backward of the head: the gradient of a tied embedding begins with the head's share, which
    must be in its place in grads; here the lookup's share is added to it.

    blocks  put only the gradients of ln_f and the last so many blocks into grads, and leave the rest of it as it is: 0
            for a model whose weights are constant
    """
    ops, config = cache.ops, cache.config
    if blocks is not None and not 0 <= blocks <= config.n_layer:
        raise ValueError(f"blocks={blocks} is not in 0..{config.n_layer}")
    trained = 0 if blocks is None else config.n_layer - blocks  # the first block whose gradients go into grads
    lowest = trained if cache.wte is not None else 0
    if lowest == config.n_layer:
        return None
    discarded = Discarded()
    dx, *_ = ops.layernorm_backward(dhidden, cache.ln_f, *weight_and_bias(discarded if blocks == 0 else grads, "ln_f"))
    for i in reversed(range(lowest, config.n_layer)):
        dx = block_backward(dx, cache.blocks[i], grads if i >= trained else discarded)
    if blocks is not None and cache.wte is not None:
        return None
    dx = ops.dropout_backward(dx, cache.drop)
    if blocks is None:
        # x = tokens + positions: positions that are the same in all rows were broadcast, so their gradient is summed
        grads["wpe.weight"].fill(0)
        ops.embedding_backward(dx.sum(axis=0) if cache.starts is None else dx, cache.wpe, grads["wpe.weight"])
        if not config.tie_word_embeddings:
            grads["wte.weight"].fill(0)
    if cache.wte is None:
        return dx
    ops.embedding_backward(dx, cache.wte, grads["wte.weight"])
    return None


def head_name(config: GPTConfig) -> str:
    """Return the name of the head's weight (V, C): the token embedding, where they are tied."""
    return "wte.weight" if config.tie_word_embeddings else "lm_head.weight"


def gpt_forward(
    params: Parameters,
    ids: np.ndarray | None,
    config: GPTConfig,
    ops: Ops = REFERENCE,
    rng: Rng = None,
    starts: Starts = None,
    past: KVCache | None = None,
    taps: Taps = NO_TAPS,
    last: bool = False,
    inputs_embeds: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple]:
    """Run the model: ids (B, T) -> logits (B, T, V), or with `last` (B, 1, V).

    rng draws the dropout masks; None switches dropout off. The other arguments are those of features_forward.
    """
    hidden, features = features_forward(params, ids, config, ops, rng, starts, past, taps, inputs_embeds=inputs_embeds)
    T = hidden.shape[1]
    if last:
        hidden = hidden[:, -1:]
    logits, head = ops.linear_forward(hidden, params[head_name(config)].T, None)
    logits = taps("logits", logits)
    if past is not None:
        past.length += T
    return logits, (params, config, ops, features, head)


def gpt_backward(dlogits: np.ndarray, cache: tuple, grads: Parameters | None = None) -> Parameters:
    """Return the gradients of every parameter, the mirror of params: same names and shapes, in one buffer."""
    params, config, ops, features, head = cache
    grads = params.empty_like() if grads is None else grads
    dhidden, dhead_t, _ = ops.linear_backward(dlogits, head)
    # logits = hidden @ head.T
    grads[head_name(config)] = dhead_t.T
    features_backward(dhidden, features, grads)
    return grads


def loss_forward(
    params: Parameters,
    ids: np.ndarray,
    targets: np.ndarray,
    config: GPTConfig,
    ops: Ops = REFERENCE,
    rng: Rng = None,
    starts: Starts = None,
    keep: bool = True,
) -> tuple[np.ndarray, tuple]:
    """Run the model up to its loss: ids and targets (B, T) -> a scalar, in nats. The logits are not kept.

    keep  keep what the backward needs
    """
    hidden, features = features_forward(params, ids, config, ops, rng, starts, keep=keep)
    loss, head = ops.linear_cross_entropy_forward(hidden, params[head_name(config)], targets)
    return loss, (params, config, ops, features, head)


def loss_backward(dloss: np.ndarray | float, cache: tuple, grads: Parameters | None = None) -> Parameters:
    """Return the gradients of every parameter, as gpt_backward does."""
    params, config, ops, features, head = cache
    grads = params.empty_like() if grads is None else grads
    dhidden, _ = ops.linear_cross_entropy_backward(dloss, head, grads[head_name(config)])
    features_backward(dhidden, features, grads)
    return grads


class GPT:
    """A GPT-2: a config, its parameters, and a table of ops.

    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=64, n_embd=128, n_layer=4, n_head=4), seed=0)
    >>> loss, grads = model.loss_and_grads(ids, targets)

    ids and targets are integers of shape (B, T), T at most n_positions. A row may hold several texts, one after
    another: then starts (B, T) says for each position where in its row its own text begins, and each text is computed
    as if it were alone. A method raises ValueError for ids of another shape or outside the vocabulary and for a start
    that is not a position up to its own, TypeError for arrays that are not integers.
    """

    def __init__(
        self,
        config: GPTConfig,
        seed: int = 0,
        dtype: str = "float32",
        ops: str | Ops = "fast",
        params: Parameters | None = None,
    ) -> None:
        self.config = config
        self.ops = get_ops(ops)
        self.params = init_parameters(config, seed, dtype) if params is None else params
        self.file: MappedFile | None = None  # where the parameters are mapped from
        self.compute = "float32"  # or "bf16": then loss_and_grads rounds the operands of the large products

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
        """{name: count} of the blocks' matrices, which Muon trains; c_attn is three side by side."""
        return block_matrices(self.config)

    @property
    def flops_per_token(self) -> float:
        """The floating-point operations of one token's forward pass, averaged over a full context."""
        return flops_per_token(self.config)

    def describe(self) -> str:
        """Return the shape in words, as `npgpt info` prints it."""
        config = self.config
        head = "tied head" if config.tie_word_embeddings else "untied head"
        sizes = f"{config.n_layer} blocks, {config.n_head} heads, {config.n_embd} channels"
        return f"{sizes}, context {config.n_positions}, vocabulary {config.vocab_size:,}, {head}"

    def tap_names(self) -> list[str]:
        """Return the names of the values that taps can see and replace (npgpt.models.gpt2_inside.tap_names)."""
        return tap_names(self.config)

    def forward(
        self,
        ids: np.ndarray | None = None,
        past: KVCache | None = None,
        taps: Taps | None = None,
        last: bool = False,
        starts: Starts = None,
        inputs_embeds: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the next token's unnormalised log-probabilities at every position, (B, T, V).

        past    from new_past; ids follow the tokens in it, and are added to it
        taps    see and replace the values that tap_names lists: `taps=Taps("h.*.attn.probs")`
        last    compute only the logits of the last position, (B, 1, V)
        inputs_embeds  (B, T, C), in the place of ids: what the blocks read instead of the tokens' embeddings. Positions
                are added to it
        """
        if past is not None and starts is not None:
            raise ValueError("a past and starts cannot go together: a past is that of one text a row")
        if not isinstance(taps, Taps | None):
            raise TypeError(f"taps={taps!r} must be Taps, as in Taps({taps!r})")
        if taps is not None:
            taps.begin(self.tap_names())
        before = 0 if past is None else past.length
        ids, inputs_embeds, shape = checked_input(ids, inputs_embeds, self.config, self.dtype, before)
        if past is not None and past.keys.shape[1] != shape[0]:
            raise ValueError(f"{shape[0]} rows of ids cannot continue a past of {past.keys.shape[1]}")
        starts = checked_starts(starts, shape)
        taps = NO_TAPS if taps is None else taps
        return gpt_forward(self.params, ids, self.config, self.ops, None, starts, past, taps, last, inputs_embeds)[0]

    def new_past(self, batch_size: int = 1) -> KVCache:
        """Return the past of `batch_size` sequences before their first token."""
        return KVCache(self.config, self.dtype, batch_size)

    def logits(self, ids: np.ndarray, starts: Starts = None) -> np.ndarray:
        """Return the next token's unnormalised log-probabilities at every position, (B, T, V)."""
        return self.forward(ids, starts=starts)

    def features(
        self, ids: np.ndarray | None = None, starts: Starts = None, inputs_embeds: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the hidden states after the final layer norm, (B, T, C). inputs_embeds is that of `forward`."""
        ids, inputs_embeds, shape = checked_input(ids, inputs_embeds, self.config, self.dtype)
        starts = checked_starts(starts, shape)
        hidden, _ = features_forward(
            self.params, ids, self.config, self.ops, starts=starts, keep=False, inputs_embeds=inputs_embeds
        )
        return hidden

    def loss(self, ids: "np.ndarray | Batch", targets: np.ndarray | None = None, starts: Starts = None) -> float:
        """Return the mean cross-entropy in nats over the targets that are not -100. ids may be a Batch."""
        ids, targets, starts = checked_batch(ids, targets, starts, self.config.n_positions)
        if self.ops.step is not None:
            return Step(self.config, self.params, self.ops.step)(ids, targets, starts)
        return float(loss_forward(self.params, ids, targets, self.config, self.ops, starts=starts, keep=False)[0])

    def loss_and_grads(
        self,
        ids: "np.ndarray | Batch",
        targets: np.ndarray | None = None,
        rng: Rng = None,
        dloss: float = 1.0,
        grads: Parameters | None = None,
        starts: Starts = None,
    ) -> tuple[float, Parameters]:
        """Return the mean cross-entropy in nats over the targets that are not -100, and every parameter's gradient.

        ids    (B, T), or a Batch, which holds targets and starts, too
        rng    draws dropout masks; None switches dropout off
        dloss  the gradients are those of dloss * loss; for a part of a batch, its share of the counted targets
        grads  gradients to overwrite and return, instead of new ones
        """
        ids, targets, starts = checked_batch(ids, targets, starts, self.config.n_positions)
        like = self.params.packed and (grads is None or grads.shapes is self.params.shapes)
        if self.ops.step is not None and like:
            grads = self.params.empty_like() if grads is None else grads
            step = Step(self.config, self.params, self.ops.step, bf16=rounds(self.compute, self.dtype))
            return step(ids, targets, starts, grads, rng, dloss), grads
        ops = bf16_ops(self.ops) if rounds(self.compute, self.dtype) else self.ops
        loss, cache = loss_forward(self.params, ids, targets, self.config, ops, rng, starts)
        return float(loss), loss_backward(dloss, cache, grads)

    def team(self, members: int) -> Step | None:
        """Return what lets so many threads compute a batch together; None where there is no compiled step."""
        bf16 = rounds(self.compute, self.dtype)
        return None if self.ops.step is None else Step(self.config, self.params, self.ops.step, members, bf16)

    def decoder(self, slots: int, rows: int, weights: str | None = None, threads: int = 0) -> GPTDecoder | None:
        """Return what continues texts fast (npgpt.models.base.Decoder); None where there is no compiled step.

        Nor has a model whose own `forward` computes something else.
        """
        if self.ops.step is None or type(self).forward is not GPT.forward or weights is not None:
            return None
        return GPTDecoder(self.config, self.params, self.params, None, self.ops.step.decode, slots, rows, threads)

    def reader(self, slots: int, rows: int, length: int, layer: int, threads: int = 0) -> GPTDecoder | None:
        """Return what reads texts fast for their hidden states (npgpt.models.base.Model); None as of `decoder`."""
        if self.ops.step is None or type(self).forward is not GPT.forward:
            return None
        return reader_of(
            self.config, self.params, self.params, None, self.ops.step.decode, slots, rows, length, layer, threads
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, generation_config.json and model.safetensors, as `transformers` reads them."""
        write_gpt2(Path(folder), self.config, self.params, parameter_shapes)

    def load_pretrained(self, folder: str | Path) -> "GPT":
        """Return the model of a folder, in this one's precision and on its ops."""
        return GPT.from_pretrained(folder, self.dtype.name, self.ops)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, dtype: str = "float32", ops: str | Ops = "fast", mapped: bool = False
    ) -> "GPT":
        """Read a GPT-2 from a folder, or by its name on the Hugging Face hub (with the `hub` extra).

        mapped  do not read the weights but map their file, so that the model is open at once and there is one copy of
                them. For a model that is not trained. A file that is damaged is then found by `verify`

        Raises FileNotFoundError or ValueError, naming the file, if a file is missing or not a whole GPT-2.
        """
        config, params, file = read_parameters(name, dtype, mapped)
        model = cls(config, dtype=dtype, ops=ops, params=params)
        model.file = file
        return model

    def verify(self) -> None:
        """Compare weights that are mapped from a file with its checksum; those that were read have been compared.

        Raises ValueError, naming the file, if it was damaged or changed after it was written. A file without a
        checksum, of another library, cannot be verified.
        """
        if self.file is not None:
            self.file.verify()
