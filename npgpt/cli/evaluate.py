"""Measure how well a model predicts a text: the mean loss in nats per token, the perplexity, and the bits per byte,
over the whole file. Bits per byte can be compared between tokenizers. With --data tales, the text is 1,000 tales that
no run trains on, and the loss that no model can get below is printed, too."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from npgpt.cli.checks import require_given
from npgpt.cli.options import announce_compiling

if TYPE_CHECKING:
    from npgpt.models.base import Model
    from npgpt.tokenizer import Tokenizer

EXAMPLES = (
    "npgpt eval runs/poems --data unseen.txt",
    "npgpt eval runs/tales --data tales:en",
)
SEED = 1337  # of the tales


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument(
        "--data", required=True, metavar="FILE", help="a UTF-8 text file, or tales, tales:en or tales:zh"
    )
    parser.add_argument("--last", action="store_true", help="use the model of the last step, not the best one")


def run(args: argparse.Namespace) -> int:
    from npgpt.data.splitting import ContextError
    from npgpt.data.tales.corpus import langs_of
    from npgpt.generation.opening import open_run

    require_given("--data", args.data, "a file, or tales")
    langs = langs_of(args.data)
    announce_compiling()
    model, tokenizer = open_run(args.run, args.last)
    if langs:
        try:
            print_loss_of_tales(model, tokenizer, langs)
        except ContextError as error:
            raise ValueError(f"{error}{other_tales(args.run, args.data)}") from None
    else:
        print_loss_of_text(model, tokenizer, args.data)
    return 0


def other_tales(run: str, data: str) -> str:
    """Return the end of an error message: which tales the run was trained on, if they are others than `data`."""
    from npgpt.data.tales.corpus import langs_of
    from npgpt.training.run import read_saved

    try:
        names = read_saved(Path(run))["data"]["files"]
    except (FileNotFoundError, ValueError):  # a model without a run
        return ""
    same = len(names) != 1 or langs_of(names[0]) in (None, langs_of(data))
    return "" if same else f"; {run} was trained on {names[0]}: evaluate it with --data {names[0]}"


def print_loss_of_text(model: "Model", tokenizer: "Tokenizer", file: str) -> None:
    """Print the loss on a file. Raises ValueError if the tokenizer or the model cannot read it."""
    from npgpt.data import Text, read_text
    from npgpt.training.evaluation import whole_loss

    text = read_text(file)
    try:
        ids = tokenizer.encode(text)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    # the first token is not predicted, so its bytes are not counted
    loss = whole_loss(model, Text(ids, model.config.n_positions))
    print_loss(loss, len(ids) - 1, len(tokenizer.decode_bytes(ids[1:])))


def print_loss_of_tales(model: "Model", tokenizer: "Tokenizer", langs: tuple[str, ...]) -> None:
    """Print the loss on tales that no run trains on or validates with, each computed by itself, and the floor."""
    from npgpt.data.tales.corpus import TEST, VALIDATION_TALES, TalesCorpus
    from npgpt.training.evaluation import whole_loss

    corpus = TalesCorpus(langs, SEED)
    floor = corpus.floor(VALIDATION_TALES, TEST)
    packed = corpus.packed(tokenizer, VALIDATION_TALES, TEST, model.config.n_positions)
    loss, predicted = whole_loss(model, packed), packed.size
    print_loss(loss, predicted, floor.n_bytes)
    lowest = floor.nats / predicted
    print(f"floor       {lowest:.4f} nats per token; the model is {100 * (loss / lowest - 1):.1f}% above it")


def print_loss(loss: float, predicted: int, predicted_bytes: int) -> None:
    print(f"loss        {loss:.4f} nats per token")
    print(f"perplexity  {math.exp(loss):.4g}" if loss < 700 else "perplexity  inf")
    print(f"bits/byte   {loss * predicted / math.log(2) / predicted_bytes:.4f}")
    print(f"tokens      {predicted:,} ({predicted_bytes:,} bytes)")
