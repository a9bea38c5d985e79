"""GPT-2's parameters: their names, shapes and initial values, and the operations that they cost."""

import math

import numpy as np

from npgpt.config import GPTConfig
from npgpt.support.parameters import Parameters, Shapes, zeros

# the linear layers of a block, and the number of matrices in each: c_attn makes queries, keys and values
MATRICES_IN_A_BLOCK = {"attn.c_attn": 3, "attn.c_proj": 1, "mlp.c_fc": 1, "mlp.c_proj": 1}


def parameter_shapes(config: GPTConfig) -> Shapes:
    """Return {name: shape} for every parameter of the model, names and layouts as in GPT-2 on the Hugging Face hub."""
    C, F = config.n_embd, config.mlp_width
    shapes: Shapes = {"wte.weight": (config.vocab_size, C), "wpe.weight": (config.n_positions, C)}
    for i in range(config.n_layer):
        h = f"h.{i}"
        shapes |= {
            f"{h}.ln_1.weight": (C,),
            f"{h}.ln_1.bias": (C,),
            f"{h}.attn.c_attn.weight": (C, 3 * C),
            f"{h}.attn.c_attn.bias": (3 * C,),
            f"{h}.attn.c_proj.weight": (C, C),
            f"{h}.attn.c_proj.bias": (C,),
            f"{h}.ln_2.weight": (C,),
            f"{h}.ln_2.bias": (C,),
            f"{h}.mlp.c_fc.weight": (C, F),
            f"{h}.mlp.c_fc.bias": (F,),
            f"{h}.mlp.c_proj.weight": (F, C),
            f"{h}.mlp.c_proj.bias": (C,),
        }
    shapes |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, C)
    if not config.bias:
        shapes = {name: shape for name, shape in shapes.items() if not name.endswith(".bias")}
    return shapes


def block_matrices(config: GPTConfig) -> dict[str, int]:
    """Return {name: count} of the blocks' weights: how many matrices each is, side by side."""
    return {
        f"h.{i}.{layer}.weight": count for i in range(config.n_layer) for layer, count in MATRICES_IN_A_BLOCK.items()
    }


def weight_and_bias(params: Parameters, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a layer's weight and bias, or the places of their gradients; the bias is None where the model has none."""
    return params[f"{name}.weight"], params.get(f"{name}.bias")


def zero_parameters(config: GPTConfig, dtype: str = "float32") -> Parameters:
    """Return the model's parameters, all zero."""
    return zeros(parameter_shapes(config), dtype)


def init_parameters(config: GPTConfig, seed: int = 0, dtype: str = "float32", init: str = "gpt2") -> Parameters:
    """Draw a model's initial parameters; the same seed gives the same numbers in both dtypes.

    init  "gpt2" for GPT-2's own, or "copy", with which a small model learns sooner to repeat what it has read

    Matrices are normal with standard deviation initializer_range, those that write to the residual stream
    with 1 / sqrt(2 n_layer) of it; biases are 0, layer norm weights 1.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), section 2.3.
    """
    params = zero_parameters(config, dtype)
    rng = np.random.default_rng(seed)
    for name, shape in params.shapes.items():
        if len(shape) == 2:
            std = config.initializer_range
            if name.endswith("c_proj.weight"):
                std /= math.sqrt(2 * config.n_layer)
            params[name] = std * rng.standard_normal(shape, np.float32)
        elif name.endswith("weight"):
            params[name].fill(1)
    if init == "copy":
        make_copying(params, config, rng)
    return params


def make_copying(params: Parameters, config: GPTConfig, rng: np.random.Generator) -> None:
    """Let attention begin by copying part of what it reads, and let the position embeddings begin as waves.

    In each block, the weight of the values is `Q.T` of an orthogonal matrix Q, and that of the output is 0.3 Q. So a
    head adds about a third of the embeddings that it attends to to the residual stream. The model's head begins as the
    token embedding, so these tokens become likelier to be repeated. Sines and cosines let a query find a key at a
    distance with one rotation. From random weights, a small model needs most of a short training to learn all this.

    Sources: Trockman & Kolter, "Mimetic Initialization of Self-Attention Layers", arXiv:2305.09828; Vaswani et al.,
    "Attention Is All You Need", arXiv:1706.03762, section 3.5.
    """
    C = config.n_embd
    if not config.tie_word_embeddings:
        params["lm_head.weight"] = params["wte.weight"]
    for i in range(config.n_layer):
        orthogonal = np.linalg.qr(rng.standard_normal((C, C)))[0]
        params[f"h.{i}.attn.c_attn.weight"][:, 2 * C :] = orthogonal.T
        params[f"h.{i}.attn.c_proj.weight"] = 0.3 * orthogonal
    angles = np.arange(config.n_positions)[:, None] / 10_000 ** (np.arange(0, C, 2) / C)
    waves = np.concatenate((np.sin(angles), np.cos(angles)), axis=1)[:, :C]
    params["wpe.weight"] = config.initializer_range * waves


def flops_per_token(config: GPTConfig) -> float:
    """Return the operations of one token's forward pass, averaged over a full context.

    Two for each weight of a matrix product; in attention two for each channel of each visible key, once for the scores
    and once for the values, and a token sees (T + 1) / 2 keys on average. All else is small.
    """
    C, T, V = config.n_embd, config.n_positions, config.vocab_size
    matrices = config.n_layer * (4 * C * C + 2 * C * config.mlp_width) + V * C
    attention = config.n_layer * 2 * C * (T + 1) / 2
    return 2 * (matrices + attention)
