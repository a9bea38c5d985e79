"""GPT-2's parameters: their names, shapes and initial values, from a folder, and the operations that they cost."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.gpt2 import read_gpt2
from npgpt.hub.tensors import MappedFile
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


class Discarded(Parameters):
    """Where the gradients of constant weights go: it has no place for any, so each layer makes an array of its own."""

    def __init__(self) -> None:
        super().__init__({}, np.empty(0, np.float32))

    def __missing__(self, name: str) -> Any:
        return None


def zero_parameters(config: GPTConfig, dtype: str = "float32") -> Parameters:
    """Return the model's parameters, all zero."""
    return zeros(parameter_shapes(config), dtype)


def read_parameters(
    name: str | Path, dtype: str = "float32", mapped: bool = False
) -> tuple[GPTConfig, Parameters, MappedFile | None]:
    """Read the configuration and the parameters of a folder, or of a name on the Hugging Face hub.

    mapped  map the file where that is possible: then it is returned, too, and it is not verified yet
    """
    return read_gpt2(name, parameter_shapes, dtype, mapped)


def init_parameters(config: GPTConfig, seed: int = 0, dtype: str = "float32", init: str = "normal") -> Parameters:
    """Draw a model's initial parameters; the same seed gives the same numbers in both dtypes.

    init  "normal" for GPT-2's own; "copy", with which a small model learns sooner to repeat what it has read; "shift",
          with which it can tell the last few tokens apart from the start

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
    elif init == "shift":
        make_shifting(params, config)
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


# How far the scores of a head of make_shifting fall from the key it looks for to the next one: so most of its attention
# goes to that key, and gradients still reach others
SHARPNESS = 8.0


def make_shifting(params: Parameters, config: GPTConfig) -> None:
    """Let head h of the first block begin by attending to the token h + 1 places back.

    A share of the channels carries the position t as waves, sin(w t) and cos(w t), the others carry the token. A query
    reads the waves of t, and the key of position u is turned ahead to u + h + 1. The scores are then

        g^2 a^2 sum_w cos(w (t - u - h - 1)) / sqrt(D),        greatest at u = t - h - 1,

    where a is the amplitude of the waves after layer norm, and g is chosen for SHARPNESS. From random weights, a small
    model of characters spends much of a short training on finding the token before (docs/recipes.md has figures).

    Sources: the rotation is why Vaswani et al. chose waves, "Attention Is All You Need", arXiv:1706.03762, section 3.5;
    trained models have heads for the token before, Olsson et al., "In-context Learning and Induction Heads",
    arXiv:2209.11895.
    """
    C, H, T = config.n_embd, config.n_head, config.n_positions
    D = C // H
    n = min(D // 2, C // 4)  # waves; the tokens keep half of the channels at least
    if not n:
        return
    w = np.geomspace(math.pi / 2, math.pi / (2 * T), n)
    angles = np.arange(T)[:, None] * w
    sines, cosines = np.arange(C - 2 * n, C - n), np.arange(C - n, C)
    # tokens and positions have equal shares of what layer norm sees
    amplitude = config.initializer_range * math.sqrt((C - 2 * n) / n)
    params["wte.weight"][:, C - 2 * n :] = 0
    params["wpe.weight"].fill(0)
    params["wpe.weight"][:, sines] = amplitude * np.sin(angles)
    params["wpe.weight"][:, cosines] = amplitude * np.cos(angles)
    g = math.sqrt(SHARPNESS * math.sqrt(D) / (C / 2 / n * (1 - np.cos(w)).sum()))
    for h in range(H):
        query = params["h.0.attn.c_attn.weight"][:, h * D : (h + 1) * D]
        key = params["h.0.attn.c_attn.weight"][:, C + h * D : C + (h + 1) * D]
        even, odd = np.arange(0, 2 * n, 2), np.arange(1, 2 * n, 2)
        turn, aside = g * np.cos(w * (h + 1)), g * np.sin(w * (h + 1))
        query[sines, even] += g
        query[cosines, odd] += g
        # sin(w (u + h + 1)) and cos(w (u + h + 1)), of the waves of u
        key[sines, even] += turn
        key[cosines, even] += aside
        key[cosines, odd] += turn
        key[sines, odd] -= aside


def flops_per_token(config: GPTConfig) -> float:
    """Return the operations of one token's forward pass, averaged over a full context.

    Two for each weight of a matrix product; in attention two for each channel of each visible key, once for the scores
    and once for the values, and a token sees (T + 1) / 2 keys on average. All else is small.
    """
    C, T, V = config.n_embd, config.n_positions, config.vocab_size
    matrices = config.n_layer * (4 * C * C + 2 * C * config.mlp_width) + V * C
    attention = config.n_layer * 2 * C * (T + 1) / 2
    return 2 * (matrices + attention)
