"""Opening a run to generate text with: its model, its tokenizer, and the kind of text that it has learned."""

from pathlib import Path
from typing import Any

from npgpt.data.templates import FOR_GENERATORS
from npgpt.generation.prompts import Learned
from npgpt.hub.peft import first_with, folders_of, is_adapter
from npgpt.models.base import Model
from npgpt.models.registry import holds_generator, open_model, verify
from npgpt.support.files import read_sealed_json
from npgpt.tokenizer import Tokenizer
from npgpt.training.checkpoint import load_last, say_if_unevaluated
from npgpt.training.run import open_tokenizer


def open_run(
    name: str | Path,
    last: bool = False,
    end_token: str | None = None,
    verified: bool = True,
    base: str | Path | None = None,
) -> tuple[Model, Tokenizer]:
    """Open the best or the last model of a run, and its tokenizer.

    end_token  the name of the token that ends a text (default: the one that the folder names)
    verified   compare the weights with their checksum. Who does not, to show a first token sooner, calls
               npgpt.models.registry.verify later, before what the model wrote is taken for a result
    base       if the folder is an adapter: what it adapts (npgpt.models.registry.open_model)
    """
    folder = Path(name)
    if is_adapter(folder):
        if last:
            raise ValueError(
                f"{name} is an adapter, which has no model of a last step: give the run that it is part of"
            )
        model = open_model(folder, base=base)
        return model, open_tokenizer(folder, model, end_token, base)
    model = load_last(folder) if last else open_model(folder, mapped=True, base=base)
    if verified:
        verify(model)
    tokenizer = open_tokenizer(name, model, end_token)
    if not last:
        say_if_unevaluated(folder)
    return model, tokenizer


def learned(name: str | Path, base: str | Path | None = None) -> Learned:
    """Return what a model has learned of where texts begin and end; of one from another library, documents.

    A generator without a train.json has learned prompts and completions as they are.
    """
    folders = folders_of(Path(name), base)
    if not (first_with(folders, "train.json") / "train.json").is_file():
        if holds_generator(folders[-1]):
            return Learned(examples=True, documents=False, template=FOR_GENERATORS)
        return Learned(examples=False, documents=True)
    return Learned.of(learned_from(name, base))


def learned_from(name: str | Path, base: str | Path | None = None) -> dict[str, Any]:
    """Return what train.json says of a run's data; nothing if there is no train.json.

    That of an adapter is in the run that it is a part of, or in its base.
    """
    path = first_with(folders_of(Path(name), base), "train.json") / "train.json"
    data = read_sealed_json(path).get("data") if path.is_file() else None
    return data if isinstance(data, dict) else {}
