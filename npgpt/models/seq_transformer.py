"""The transformer decoder of a generator: transformer_forward, and transformer_backward, its mirror image.

Blocks of GPT-2 that attend to the source's features between their attention and their MLP. Where the features are
pooled to one vector, a linear layer of it is added to every position instead, and the blocks have no cross-attention.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from npgpt.config import GPTConfig
from npgpt.models.gpt2_block import BlockCache, block_backward, block_forward
from npgpt.models.gpt2_cross import Source, cross_names
from npgpt.models.gpt2_inside import IN_A_BLOCK
from npgpt.models.gpt2_parameters import parameter_shapes, weight_and_bias
from npgpt.models.kv_cache import KVCache
from npgpt.models.seq_config import SeqConfig
from npgpt.models.taps import NO_TAPS, Taps, TapsUnder
from npgpt.ops import Ops
from npgpt.support.parameters import Parameters, Shapes

Rng = np.random.Generator | None
DECODER = "decoder."


class TransformerPast:
    """What a decoder keeps: keys and values of earlier tokens, and of the source; or else the vector that is added."""

    def __init__(self) -> None:
        self.own: KVCache | None = None
        self.source: Source | None = None
        self.vector: np.ndarray | None = None

    def fork(self) -> "TransformerPast":
        """Return another past of the same tokens. They share what is of the source, which does not change."""
        other = copy.copy(self)
        other.own = None if self.own is None else self.own.fork()
        return other


class TransformerCache(NamedTuple):
    """What the decoder's backward needs."""

    config: SeqConfig
    ops: Ops
    bridge: tuple
    wpe: tuple
    drop: Any
    blocks: list[BlockCache]
    ln_f: tuple
    source: Source | None


@functools.lru_cache(maxsize=8)
def decoder_config(config: SeqConfig) -> GPTConfig:
    """Return the configuration of the GPT whose blocks the decoder has."""
    return dataclasses.replace(
        config.encoder,
        n_layer=config.n_layer,
        n_embd=config.width,
        n_head=config.heads,
        n_inner=None,
        bias=True,
        tie_word_embeddings=True,
        resid_pdrop=config.pdrop,
        embd_pdrop=config.pdrop,
        attn_pdrop=config.pdrop,
    )


def transformer_shapes(config: SeqConfig) -> Shapes:
    """Return {name: shape} of a transformer decoder and its bridge, names and layouts as in transformers' GPT-2.

    decoder.h.0.crossattention.q_attn.weight  (C, C)
    decoder.h.0.crossattention.c_attn.weight  (E, 2C), E the encoder's width
    bridge.weight                             (E, C), for pooled features
    """
    C, E = config.width, config.encoder.n_embd
    shapes = parameter_shapes(decoder_config(config))
    del shapes["wte.weight"]
    bridge: Shapes = {}
    if config.bridge == "attention":
        for i in range(config.n_layer):
            h = f"h.{i}"
            shapes |= {f"{h}.ln_cross_attn.weight": (C,), f"{h}.ln_cross_attn.bias": (C,)}
            for name, n_in, n_out in ("q_attn", C, C), ("c_attn", E, 2 * C), ("c_proj", C, C):
                name = f"{h}.crossattention.{name}"
                shapes |= {f"{name}.weight": (n_in, n_out), f"{name}.bias": (n_out,)}
    else:
        bridge = {"bridge.weight": (E, C), "bridge.bias": (C,)}
    return bridge | {DECODER + name: shape for name, shape in shapes.items()}


def init_transformer(
    params: Parameters, config: SeqConfig, encoder: Mapping[str, np.ndarray], rng: np.random.Generator
) -> None:
    """Put the initial values of the decoder and its bridge into a generator's parameters.

    encoder  a GPT's parameters. Where its sizes are those of the decoder, the decoder's blocks begin as copies of its
             blocks, evenly chosen, so that only what reads the source has to be learned from nothing

    Other matrices are normal with standard deviation 1 / sqrt(inputs), those that write to the residual stream with
    1 / sqrt(3 n_layer) of it; biases are 0, and weights of norms are 1.

    Source: Rothe, Narayan, Severyn, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks",
    arXiv:1907.12461, for decoders that begin as encoders.
    """
    for name, shape in transformer_shapes(config).items():
        like = encoder.get(_origin(name.removeprefix(DECODER), config))
        if like is not None and like.shape == shape and config.heads == config.encoder.n_head:
            params[name] = like
        elif len(shape) == 2:
            std = config.encoder.initializer_range if name.endswith("wpe.weight") else 1 / math.sqrt(shape[0])
            std /= math.sqrt(3 * config.n_layer) if name.endswith("c_proj.weight") else 1
            params[name] = std * rng.standard_normal(shape, np.float32)
        else:
            params[name].fill(name.endswith(".weight"))


def _origin(name: str, config: SeqConfig) -> str:
    """Return the encoder's name of what a parameter of the decoder begins as: its block 1 of 2 as block 2 of 4."""
    if not name.startswith("h."):
        return name
    _, i, rest = name.split(".", 2)
    return f"h.{int(i) * config.encoder.n_layer // config.n_layer}.{rest}"


def decoder_part(params: Parameters, config: SeqConfig) -> Parameters:
    """Return the decoder's parameters, or their gradients, under a GPT's names: views of the same buffer."""
    shapes = _decoder_shapes(config)
    return Parameters(shapes, params.flat, {name: params.places[DECODER + name].start for name in shapes})


@functools.lru_cache(maxsize=8)
def _decoder_shapes(config: SeqConfig) -> Shapes:
    """Return {name: shape} of the decoder without its bridge, under a GPT's names."""
    shapes = transformer_shapes(config).items()
    return {name.removeprefix(DECODER): shape for name, shape in shapes if name.startswith(DECODER)}


def transformer_tap_names(config: SeqConfig) -> list[str]:
    """Return the names of the values that taps can see and replace, in the order of the forward.

    decoder.wpe                          (T, C)        the embeddings of positions
    decoder.h.0.*                                      as in a GPT (npgpt.models.gpt2_inside.tap_names)
    decoder.h.0.ln_cross_attn            (N, T, C)     what cross-attention reads; it stands between mid and ln_2
    decoder.h.0.crossattention.probs     (N, H, T, S)  the weights of each head over the source
    decoder.h.0.crossattention.out       (N, T, C)     what it adds to the residual stream
    """
    names = ["wpe"]
    for i in range(config.n_layer):
        inside = [f"h.{i}.{name}" for name in IN_A_BLOCK]
        if config.bridge == "attention":
            place = inside.index(f"h.{i}.mid") + 1
            inside[place:place] = cross_names(f"h.{i}")
        names += inside
    return [DECODER + name for name in names]


def transformer_forward(
    params: Parameters,
    x: np.ndarray,
    source: np.ndarray | None,
    lengths: np.ndarray | None,
    config: SeqConfig,
    ops: Ops,
    rng: Rng = None,
    past: TransformerPast | None = None,
    taps: Taps = NO_TAPS,
) -> tuple[np.ndarray, TransformerCache]:
    """Run the decoder below its head: embeddings x (N, T, C) and features (N, S, E) -> (N, T, C), after its last norm.

    source, lengths  the features, and how many of the S positions each of the N sources has; not read again once the
                     past has begun
    rng              draws dropout masks; None switches dropout off
    past             keeps the keys and values of earlier tokens, to which those of x are added
    taps             see or replace what transformer_tap_names lists. With taps or a past the cache has no backward
    """
    decoder, gpt = decoder_part(params, config), decoder_config(config)
    seen = NO_TAPS if taps is NO_TAPS else TapsUnder(taps, DECODER)
    read, vector, bridge = bridge_forward(params, source, lengths, config, ops, past)
    first = 0
    if past is not None:
        past.own = past.own or KVCache(gpt, x.dtype, len(x))
        first = past.own.length
    positions, wpe = ops.embedding_forward(np.arange(first, first + x.shape[1]), decoder["wpe.weight"])
    x = x + seen("wpe", positions)
    if vector is not None:
        x += vector[:, None]
    x, drop = ops.dropout_forward(x, gpt.embd_pdrop, rng)
    blocks = []
    for i in range(gpt.n_layer):
        own = None if past is None else past.own
        x, block = block_forward(x, decoder, f"h.{i}", gpt, ops, rng, None, own, seen, read)
        blocks.append(block)
    y, ln_f = ops.layernorm_forward(x, *weight_and_bias(decoder, "ln_f"), gpt.layer_norm_epsilon)
    if past is not None and past.own is not None:
        past.own.length += x.shape[1]
    return y, TransformerCache(config, ops, bridge, wpe, drop, blocks, ln_f, read)


def transformer_backward(dy: np.ndarray, cache: TransformerCache, grads: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of x and of the features; those of the decoder's parameters go into grads."""
    config, ops = cache.config, cache.ops
    decoder = decoder_part(grads, config)
    dsource = None if cache.source is None else np.zeros_like(cache.source.features)
    dx, *_ = ops.layernorm_backward(dy, cache.ln_f, *weight_and_bias(decoder, "ln_f"))
    for block in reversed(cache.blocks):
        dx = block_backward(dx, block, decoder, dsource)
    dx = ops.dropout_backward(dx, cache.drop)
    # x = x + positions + vector: the positions are those of all rows, and the vector that of all positions
    decoder["wpe.weight"].fill(0)
    ops.embedding_backward(dx.sum(axis=0), cache.wpe, decoder["wpe.weight"])
    if dsource is None:
        pool, linear = cache.bridge
        dpooled, *_ = ops.linear_backward(dx.sum(axis=1), linear, *weight_and_bias(grads, "bridge"))
        dsource = ops.pool_backward(dpooled, pool)
    return dx, dsource


def bridge_forward(
    params: Parameters,
    source: np.ndarray | None,
    lengths: np.ndarray | None,
    config: SeqConfig,
    ops: Ops,
    past: TransformerPast | None,
) -> tuple[Source | None, np.ndarray | None, tuple]:
    """Return what the blocks attend to, or else the vector (N, C) that is added to every position, and its cache."""
    if past is not None and past.own is not None:
        return past.source, past.vector, ()
    if source is None:
        raise ValueError("a decoder without a past needs a source")
    if config.bridge == "attention":
        read = Source(source, lengths, None if past is None else {})
        if past is not None:
            past.source = read
        return read, None, ()
    pooled, pool = ops.pool_forward(source, config.bridge, lengths)
    vector, linear = ops.linear_forward(pooled, *weight_and_bias(params, "bridge"))
    if past is not None:
        past.vector = vector
    return None, vector, (pool, linear)
