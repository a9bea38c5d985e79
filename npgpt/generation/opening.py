"""Opening a run to generate text with: its model, its tokenizer, and the kind of text that it has learned."""

from pathlib import Path

from npgpt.models.base import Model
from npgpt.models.registry import open_model
from npgpt.support.files import read_sealed_json
from npgpt.tokenizer import Tokenizer
from npgpt.training.checkpoint import load_last, say_if_unevaluated
from npgpt.training.run import require_whole


def open_run(name: str, last: bool = False) -> tuple[Model, Tokenizer]:
    """Open the best or the last model of a run, and its tokenizer."""
    model = load_last(Path(name)) if last else open_model(name)
    tokenizer = Tokenizer.from_pretrained(name)
    require_whole(name, tokenizer, model)
    if not last:
        say_if_unevaluated(Path(name))
    return model, tokenizer


def learned_examples(name: str) -> bool:
    """Say whether a run has learned texts that begin and end with the end token, as tales do, not running text."""
    path = Path(name) / "train.json"
    data = read_sealed_json(path).get("data") if path.is_file() else None
    return isinstance(data, dict) and data.get("examples") is True
