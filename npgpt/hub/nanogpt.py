"""A model as nanoGPT has it: its names, its weights as (out, in), and the arguments of its GPTConfig.

Source: model.py of nanoGPT, github.com/karpathy/nanoGPT.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.tensors import save_tensors
from npgpt.support.files import write_json
from npgpt.support.notices import notice

ARGUMENTS = "model_args.json"
EPSILON = 1e-5  # which nanoGPT's layer norm always has


def require_expressible(config: GPTConfig, anyway: bool = False) -> None:
    """Raise ValueError for a model that nanoGPT cannot compute, or not until its model.py is changed.

    anyway  say how to change it, and go on
    """
    if not config.tie_word_embeddings:
        raise ValueError("the head is not tied to the embedding, and nanoGPT's always is")
    if config.n_inner not in (None, 4 * config.n_embd):
        raise ValueError(f"n_inner={config.n_inner}, and nanoGPT's is always 4 n_embd = {4 * config.n_embd}")
    if config.layer_norm_epsilon != EPSILON:
        raise ValueError(f"layer_norm_epsilon={config.layer_norm_epsilon}, and nanoGPT's is always {EPSILON}")
    if config.activation_function == "gelu_new":
        what = "this model has the tanh form of GELU (gelu_new), and nanoGPT's model.py computes the exact one: write "
        what += "nn.GELU(approximate='tanh') there"
        if not anyway:
            raise ValueError(f"{what}, and export with --anyway")
        notice(what)


def write_nanogpt(folder: Path, config: GPTConfig, params: Mapping[str, np.ndarray], anyway: bool = False) -> None:
    """Write model.safetensors and model_args.json, each whole or not at all. See require_expressible."""
    require_expressible(config, anyway)
    tensors = {f"transformer.{name}": theirs(name, array) for name, array in params.items()}
    tensors["lm_head.weight"] = params["wte.weight"]  # a state dict of nanoGPT has both
    save_tensors(folder / "model.safetensors", tensors)
    arguments: dict[str, Any] = {"block_size": config.n_positions, "vocab_size": config.vocab_size}
    arguments |= {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "dropout": config.resid_pdrop,
    }
    write_json(folder / ARGUMENTS, arguments | {"bias": config.bias})


def theirs(name: str, array: np.ndarray) -> np.ndarray:
    """Return a parameter as nanoGPT has it: the matrices of blocks as (out, in)."""
    return array.T if array.ndim == 2 and name.startswith("h.") else array
