"""Which class a model is of: the one place outside the models themselves that knows."""

from pathlib import Path

from npgpt.config import GPTConfig
from npgpt.models.base import Model
from npgpt.models.gpt2 import GPT
from npgpt.models.gpt2_parameters import init_parameters
from npgpt.ops import Ops


def new_model(config: GPTConfig, seed: int, dtype: str, ops: str | Ops, init: str = "gpt2") -> GPT:
    """Return an untrained model of this configuration, with the initial weights that `init` names."""
    return GPT(config, dtype=dtype, ops=ops, params=init_parameters(config, seed, dtype, init))


def open_model(name: str | Path, dtype: str = "float32", ops: str | Ops = "fast") -> Model:
    """Open a trained model: a folder, or a name on the Hugging Face hub (with the `hub` extra)."""
    return GPT.from_pretrained(name, dtype, ops)
