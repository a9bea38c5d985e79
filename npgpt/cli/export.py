"""Write a trained model as a folder of another form. With --weights int8, its weights are rounded to integers of 8 bits
with a scale for each output: a quarter of the size, and faster to sample. Such a folder opens in npgpt's sample, ask,
eval and info; it cannot be trained, and no other library opens it."""

import argparse
import functools
import shutil
from collections.abc import Iterable
from pathlib import Path

from npgpt.cli.checks import out_folder
from npgpt.cli.reading import add_base_flag
from npgpt.support.files import begun, write_atomically

EXAMPLES = (
    "npgpt export runs/poems --weights int8 --out runs/poems-int8",
    "npgpt export runs/tang --last --weights int8 --out 唐诗-int8",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of a GPT-2 on the Hugging Face hub")
    add_base_flag(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to write; it must not hold a model yet")
    parser.add_argument(
        "--weights", choices=("int8",), required=True, help="the kind of weights to write: int8, integers of 8 bits"
    )
    parser.add_argument("--last", action="store_true", help="use the model of the last step, not the best one")


def run(args: argparse.Namespace) -> int:
    from npgpt.generation.opening import open_run
    from npgpt.hub.folders import find_folder
    from npgpt.models.registry import with_weights
    from npgpt.support.lock import locked
    from npgpt.training.checkpoint import FILES, refuse_existing
    from npgpt.training.memory import in_bytes

    out = out_folder(args.out)
    refuse_existing(out, resume=False)
    source = find_folder(args.run)
    model, _ = open_run(source, args.last, base=args.base)
    made = with_weights(model, args.weights)
    if made is model:
        raise ValueError(f"{args.run} has such weights already: copy the folder")
    with locked(out), begun(out, FILES):
        refuse_existing(out, resume=False)
        copy_files(source, out, ("train.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"))
        made.save_pretrained(out)
        copy_files(source, out, ("generation_config.json",))  # in which there may be a user's defaults
    sizes = (in_bytes((folder / "model.safetensors").stat().st_size) for folder in (source, out))
    print(f"{out}: {' -> '.join(sizes)}; see what it costs with: npgpt eval {out} --data FILE")
    return 0


def copy_files(source: Path, out: Path, names: Iterable[str]) -> None:
    """Copy files, where they are there: train.json says what a prompt begins with, and which run a model is of."""
    for name in names:
        if (source / name).is_file():
            write_atomically(out / name, functools.partial(shutil.copyfile, source / name))
