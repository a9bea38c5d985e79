"""Show a model's sizes, its parameters by group, the memory that it needs, and its FLOPs per token. With --preset, of a
model that does not exist yet; nothing is allocated for it."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from npgpt.cli.options import DEFAULTS, add_fields
from npgpt.config import PRESETS, GPTConfig, TrainConfig, preset

if TYPE_CHECKING:
    from npgpt.models.base import Model

EXAMPLES = (
    "npgpt info runs/poems",
    "npgpt info openai-community/gpt2 --batch-size 4",
    "npgpt info --preset small --vocab-size 4096 --batch-size 32",
)
FIELDS = tuple(field.name for field in dataclasses.fields(GPTConfig))


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="a run folder, or the name of a GPT-2 on the Hugging Face hub"
    )
    parser.add_argument("--preset", metavar="NAME", help=f"a model yet to be trained: {', '.join(PRESETS)}")
    parser.add_argument(
        "--batch-size", type=int, metavar="B", help="sequences per batch of the training (default: the run's, or 12)"
    )
    group = parser.add_argument_group("model, changes the preset")
    add_fields(group, GPTConfig, dict.fromkeys(FIELDS, "the preset's") | DEFAULTS | {"vocab_size": "50257"})


def run(args: argparse.Namespace) -> int:
    from npgpt.models.registry import shapes_of_model

    if (args.run is None) == (args.preset is None):
        raise ValueError("give either a run folder or --preset NAME")
    changes = {name: value for name, value in vars(args).items() if name in FIELDS}
    if args.run is not None and changes:
        flag = f"--{next(iter(changes)).replace('_', '-')}"
        raise ValueError(f"{flag} changes a preset, and {args.run} is a model that exists: leave it out")
    if args.preset is not None:
        model, train = shapes_of_model(preset(args.preset, **changes)), TrainConfig()
    else:
        model, train = opened(args.run)
    if args.batch_size is not None:
        train = dataclasses.replace(train, batch_size=args.batch_size)
    print(f"{args.run or args.preset}: {model.describe()}")
    print_parameters(model)
    print_memory(model, train)
    forward = model.flops_per_token
    print("\nfloating-point operations per token, at full context")
    print(f"  {'to sample':<20}{scaled(forward, FLOPS):>17}  the forward pass")
    print(
        f"  {'to train':<20}{scaled(3 * forward, FLOPS):>17}  the forward pass, and twice as much for the backward pass"
    )
    return 0


def opened(name: str) -> "tuple[Model, TrainConfig]":
    """Open a model in the precision of its file, and return the settings of its training; the defaults if unknown."""
    from npgpt.hub.gpt2 import find_folder
    from npgpt.models.registry import open_model
    from npgpt.support.files import read_json
    from npgpt.training.run import read_saved

    folder = find_folder(name)
    content = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    stored = content.get("dtype", content.get("torch_dtype"))
    dtype = "float64" if stored == "float64" else "float32"  # in which all narrower types are opened
    model = open_model(folder, dtype, "reference")
    saved = read_saved(folder)["train"] if (folder / "train.json").is_file() else {}
    return model, TrainConfig(**saved | {"dtype": dtype})


def print_parameters(model: "Model") -> None:
    from npgpt.inspection.sizes import count_parameters

    print("\nparameters")
    for group, count in count_parameters(model.params).items():
        print(f"  {group:<20}{count:>14,}  {count / model.size:6.1%}")
    print(f"  {'total':<20}{model.size:>14,}")


def print_memory(model: "Model", train: TrainConfig) -> None:
    """Print what a model needs, and what is free. Only the shapes of a GPT say what a batch needs."""
    from npgpt.support.machine import available_memory
    from npgpt.training.memory import memory_to_train
    from npgpt.training.workers import n_threads

    weights = model.size * model.dtype.itemsize
    rows = [("to sample", weights, "the weights")]
    if isinstance(model.config, GPTConfig):
        learned, batches = memory_to_train(model.config, train)
        shape, threads = f"{train.batch_size} x {model.config.n_positions} tokens", n_threads(train.threads)
        rows += [
            ("to train", learned, "the weights, the gradients of each worker, and AdamW's two averages"),
            ("and for batches", batches, f"{shape} on {threads} threads, and evaluations"),
        ]
    else:
        rows += [("to train", 4 * weights, "the weights, the gradients and AdamW's two averages")]
    free = available_memory()
    rows += [] if free is None else [("free here", free, "")]
    print(f"\nmemory in {model.dtype}")
    for name, size, what in rows:
        print(f"  {name:<20}{scaled(size, BYTES):>17}  {what}".rstrip())


BYTES = ("kB", "MB", "GB")
FLOPS = ("thousand", "million", "billion")


def scaled(number: float, units: tuple[str, str, str]) -> str:
    """Return a number in the largest of three units in which it is at least 1; each is a thousand of the one before."""
    power = 2 if number >= 1e9 else 1 if number >= 1e6 else 0
    return f"{number / 1000 ** (power + 1):,.2f} {units[power]}"
