"""Which class a model is of: the one place that knows, besides the models themselves."""

from collections.abc import Callable
from pathlib import Path

from npgpt.config import GPTConfig
from npgpt.models.base import Model
from npgpt.models.gpt2 import GPT
from npgpt.models.gpt2_parameters import init_parameters
from npgpt.ops import Ops
from npgpt.support.files import read_json

# by the model_type of config.json: what opens a folder, from its name, a dtype and ops
OPENERS: dict[str, Callable[[str | Path, str, str | Ops], Model]] = {"gpt2": GPT.from_pretrained}


def new_model(config: GPTConfig, seed: int, dtype: str, ops: str | Ops, init: str = "gpt2") -> Model:
    """Return an untrained model of this configuration, with the initial weights that `init` names."""
    return GPT(config, dtype=dtype, ops=ops, params=init_parameters(config, seed, dtype, init))


def open_model(name: str | Path, dtype: str = "float32", ops: str | Ops = "fast") -> Model:
    """Open a trained model: a folder, or the name of a GPT-2 on the Hugging Face hub (with the `hub` extra).

    Raises FileNotFoundError or ValueError, naming the file, for what is not there or not a whole model.
    """
    path = Path(name) / "config.json"
    kind = str(read_json(path).get("model_type")) if path.is_file() else "gpt2"
    return OPENERS.get(kind, OPENERS["gpt2"])(name, dtype, ops)  # whose error names a kind that nobody opens
