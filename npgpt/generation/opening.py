"""Opening a run to generate text with: its model, its tokenizer, and the kind of text that it has learned."""

from pathlib import Path
from typing import Any

from npgpt.generation.prompts import Learned
from npgpt.models.base import Model
from npgpt.models.registry import open_model, verify
from npgpt.support.files import read_sealed_json
from npgpt.tokenizer import Tokenizer
from npgpt.training.checkpoint import load_last, say_if_unevaluated
from npgpt.training.run import open_tokenizer


def open_run(
    name: str, last: bool = False, end_token: str | None = None, verified: bool = True
) -> tuple[Model, Tokenizer]:
    """Open the best or the last model of a run, and its tokenizer.

    end_token  the name of the token that ends a text (default: the one that the folder names)
    verified   compare the weights with their checksum. Who does not, to show a first token sooner, calls
               npgpt.models.registry.verify later, before what the model wrote is taken for a result
    """
    model = load_last(Path(name)) if last else open_model(name, mapped=True)
    if verified:
        verify(model)
    tokenizer = open_tokenizer(name, model, end_token)
    if not last:
        say_if_unevaluated(Path(name))
    return model, tokenizer


def learned(name: str) -> Learned:
    """Return what a model has learned of where texts begin and end; of one from another library, documents."""
    if not (Path(name) / "train.json").is_file():
        return Learned(examples=False, documents=True)
    return Learned.of(learned_from(name))


def learned_from(name: str) -> dict[str, Any]:
    """Return what train.json says of a run's data; nothing if there is no train.json."""
    path = Path(name) / "train.json"
    data = read_sealed_json(path).get("data") if path.is_file() else None
    return data if isinstance(data, dict) else {}
