"""A generator's parameters: their names, shapes and initial values, and the operations that they cost.

encoder.*      GPT-2's names; without a head where the decoder has one of its own
bridge.*       the pooled features' way into the decoder's initial state
decoder.*      the decoder's own
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from npgpt.models.gpt2_parameters import block_matrices, init_parameters
from npgpt.models.gpt2_parameters import flops_per_token as gpt_flops
from npgpt.models.gpt2_parameters import parameter_shapes as gpt_shapes
from npgpt.models.seq_config import SeqConfig
from npgpt.models.seq_transformer import init_transformer, transformer_shapes
from npgpt.support.parameters import Parameters, Shapes, zeros

ENCODER = "encoder."
GATES = {"gru": 3, "lstm": 4}
STATES = {"gru": 1, "lstm": 2}  # the hidden state, and of an LSTM the cell


def encoder_shapes(config: SeqConfig) -> Shapes:
    """Return {name: shape} of the encoder, under a GPT's names."""
    shapes = gpt_shapes(config.encoder)
    if config.embedding == "own":
        shapes.pop("lm_head.weight", None)
    return shapes


def parameter_shapes(config: SeqConfig) -> Shapes:
    """Return {name: shape} for every parameter of a generator."""
    shapes: Shapes = {ENCODER + name: shape for name, shape in encoder_shapes(config).items()}
    if config.embedding == "own":
        shapes |= dict.fromkeys(("decoder.wte.weight", "decoder.head.weight"), (config.vocab_size, config.width))
    return shapes | (transformer_shapes(config) if config.decoder == "transformer" else recurrent_shapes(config))


def recurrent_shapes(config: SeqConfig) -> Shapes:
    """Return {name: shape} of a recurrent decoder and its bridge; weights of the layers as in PyTorch."""
    C, S, rows = config.width, config.encoder.n_embd, GATES[config.decoder] * config.width
    shapes: Shapes = {}
    if config.bridge != "attention":
        n = STATES[config.decoder] * config.n_layer * C
        shapes |= {"bridge.weight": (S, n), "bridge.bias": (n,)}
    for i in range(config.n_layer):
        h = f"decoder.h.{i}"
        shapes |= {f"{h}.norm.weight": (C,), f"{h}.w_ih": (rows, C), f"{h}.w_hh": (rows, C)}
        shapes |= {f"{h}.b_ih": (rows,), f"{h}.b_hh": (rows,)}
        if config.bridge == "attention":
            shapes |= {f"{h}.attn.norm.weight": (C,)}
            for name, n_in, n_out in ("c_q", C, C), ("c_kv", S, 2 * C), ("c_proj", C, C):
                shapes |= {f"{h}.attn.{name}.weight": (n_in, n_out), f"{h}.attn.{name}.bias": (n_out,)}
    return shapes | {"decoder.norm.weight": (C,)}


def embedding_names(config: SeqConfig) -> tuple[str, str]:
    """Return the names of what the decoder looks tokens up in, and of its head's weight (V, C)."""
    if config.embedding == "own":
        return "decoder.wte.weight", "decoder.head.weight"
    head = "wte.weight" if config.encoder.tie_word_embeddings else "lm_head.weight"
    return f"{ENCODER}wte.weight", ENCODER + head


def encoder_part(params: Parameters, config: SeqConfig) -> Parameters:
    """Return the encoder's parameters, or their gradients, under a GPT's names: views of the same buffer."""
    shapes = encoder_shapes(config)
    return Parameters(shapes, params.flat, {name: params.places[ENCODER + name].start for name in shapes})


def init_generator(
    config: SeqConfig, encoder: Mapping[str, np.ndarray] | None = None, seed: int = 0, dtype: str = "float32"
) -> Parameters:
    """Return a generator's initial parameters; the same seed gives the same numbers in both dtypes.

    encoder  a GPT's parameters, which are copied; None draws new ones. If the decoder has an embedding and a head of
             its own, and they have the encoder's width, they begin as copies of the encoder's

    A transformer decoder begins by init_transformer. In a recurrent one matrices are normal with standard deviation
    1 / sqrt(inputs), the recurrent ones orthogonal, gate by gate; biases are 0, but 1 for an LSTM's forget gate, so
    that it remembers at first; weights of norms are 1.

    Sources: Saxe et al., arXiv:1312.6120, for orthogonal weights; Jozefowicz et al., "An Empirical Exploration of
    Recurrent Network Architectures", ICML 2015, for the forget gate.
    """
    params = zeros(parameter_shapes(config), dtype)
    rng = np.random.default_rng(seed)
    known = init_parameters(config.encoder, seed, dtype) if encoder is None else encoder
    for name in encoder_shapes(config):
        params[ENCODER + name] = known[name]
    transformer = config.decoder == "transformer"
    for name, shape in params.shapes.items():
        if name.startswith(ENCODER) or (transformer and name not in embedding_names(config)):
            continue
        if len(shape) == 2:
            params[name] = initial_matrix(name, shape, config, known, rng)
        elif name.endswith("norm.weight"):
            params[name].fill(1)
    if transformer:
        init_transformer(params, config, known, rng)
    if config.decoder == "lstm":
        for i in range(config.n_layer):
            params[f"decoder.h.{i}.b_ih"][config.width : 2 * config.width] = 1
    return params


def initial_matrix(
    name: str, shape: tuple[int, ...], config: SeqConfig, encoder: Mapping[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Draw a matrix of the decoder, or copy it from the encoder (init_generator)."""
    n_out, n_in = shape
    if name in ("decoder.wte.weight", "decoder.head.weight"):
        if config.width != config.encoder.n_embd:
            return rng.standard_normal(shape, np.float32) * config.encoder.initializer_range
        own_head = name == "decoder.head.weight" and not config.encoder.tie_word_embeddings
        return encoder["lm_head.weight" if own_head else "wte.weight"]
    if name.endswith("w_hh"):
        squares = rng.standard_normal((n_out // n_in, n_in, n_in), np.float32).astype(np.float64)
        return np.linalg.qr(squares)[0].reshape(shape)
    inputs = n_in if name.endswith("w_ih") else n_out  # PyTorch's weights are (out, in), GPT-2's (in, out)
    return rng.standard_normal(shape, np.float32) / math.sqrt(inputs)


def decoder_matrices(config: SeqConfig) -> dict[str, int]:
    """Return {name: count} of the decoder's and the bridge's matrices beside embeddings and head, side by side."""
    several = {".attn.c_attn.weight": 3, ".crossattention.c_attn.weight": 2, ".attn.c_kv.weight": 2}
    tables = ("wte.weight", "wpe.weight", "head.weight")
    return {
        name: next((count for end, count in several.items() if name.endswith(end)), 1)
        for name, shape in parameter_shapes(config).items()
        if len(shape) == 2 and not name.startswith(ENCODER) and not name.endswith(tables)
    }


def matrices_of(config: SeqConfig) -> dict[str, int]:
    """Return {name: count} of the matrices that Muon may train: the blocks', and those of the decoder's layers."""
    return {ENCODER + name: n for name, n in block_matrices(config.encoder).items()} | decoder_matrices(config)


def flops_per_token(config: SeqConfig) -> float:
    """Return the operations of one token's forward pass, averaged over a row whose halves are prompt and completion.

    Two for each weight of a matrix product, and four for each channel of each position that attention reads. The
    encoder has no head.
    """
    source, C, half = config.encoder, config.width, max(1, config.n_positions // 2)
    shapes = parameter_shapes(config)
    matrices = sum(math.prod(shapes[name]) for name in decoder_matrices(config)) + C * config.vocab_size
    reading = gpt_flops(dataclasses.replace(source, n_positions=half)) - 2 * source.n_embd * source.vocab_size
    attended: float = (
        half * (config.n_layer if config.decoder == "transformer" else 1) if config.bridge == "attention" else 0
    )
    attended += (half + 1) / 2 * config.n_layer if config.decoder == "transformer" else 0
    return (reading + 2 * matrices + 4 * C * attended) / 2
