"""Show a model's sizes, its parameters by group, the memory that it needs, its FLOPs per token, and how large and how
fast it is with weights of 32 and of 8 bits: the speed is measured on one core. With --preset, it does so for a model
that does not exist yet; with --no-speed, nothing is allocated for it."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from npgpt.cli.opening import add_run, find_run
from npgpt.cli.options import DEFAULTS, add_fields, announce_compiling
from npgpt.config import CHARACTERS, PRESETS, GPTConfig, TrainConfig, usual_preset

if TYPE_CHECKING:
    from pathlib import Path

    from npgpt.models.base import Model
    from npgpt.training.threads import Split

EXAMPLES = (
    "npgpt info runs/poems",
    "npgpt info openai-community/gpt2 --batch-size 4",
    "npgpt info --preset nano",
    "npgpt info --preset small --vocab-size 4096 --batch-size 32",
)
MOST_MEASURED = 200_000_000  # parameters of a model whose speed is measured
FIELDS = tuple(field.name for field in dataclasses.fields(GPTConfig))


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_run(parser, optional=True)
    parser.add_argument("--preset", metavar="NAME", help=f"a model yet to be trained: {', '.join(PRESETS)}")
    parser.add_argument(
        "--batch-size", type=int, metavar="B", help="sequences per batch of the training (default: the run's, or 12)"
    )
    parser.add_argument("--no-speed", action="store_true", help="measure no speed, which takes a second")
    group = parser.add_argument_group("model, changes the preset")
    vocabulary = f"the preset's, 50257 for those of GPT-2, else {CHARACTERS}"
    add_fields(group, GPTConfig, dict.fromkeys(FIELDS, "the preset's") | DEFAULTS | {"vocab_size": vocabulary})


def run(args: argparse.Namespace) -> int:
    from npgpt.hub.peft import is_adapter
    from npgpt.models.registry import shapes_of_model

    if args.base is not None and args.run is None:
        raise ValueError(f"--base {args.base} has no effect without RUN: leave it out")
    if (args.run is None) == (args.preset is None):
        raise ValueError("give either a run folder or --preset NAME")
    changes = {name: value for name, value in vars(args).items() if name in FIELDS}
    if args.run is not None and changes:
        flag = f"--{next(iter(changes)).replace('_', '-')}"
        raise ValueError(f"{flag} changes a preset, and {args.run} is a model that exists: leave it out")
    if args.preset is not None:
        config, whose = usual_preset(args.preset, **changes)
        model, train, lora, split = shapes_of_model(config), TrainConfig(), None, None
    else:
        model, train, lora, split = opened(find_run(args), args.base)
    if args.batch_size is not None:
        train, split = dataclasses.replace(train, batch_size=args.batch_size), None
    print(f"{args.run or args.preset}: {model.describe()}")
    if args.run is not None:
        print(f"tokenizer: {tokenizer_of(args.folder, args.base, model)}")
    else:
        print(f"vocabulary: {config.vocab_size:,} tokens, {whose}; --vocab-size N shows the model with another")
    if args.run is not None and is_adapter(args.folder):
        print_adapter(args.folder, args.base)
    print_parameters(model)
    print_memory(model, train, lora, split)
    forward = model.flops_per_token
    print("\nfloating-point operations per token, at full context")
    for name, operations, what in (
        ("to sample", forward, "the forward pass"),
        ("to train", 3 * forward, "the forward pass, and twice as much for the backward pass"),
    ):
        print(f"  {name:<20}{operations / 1e6:>9,.2f} million  {what}")
    print_sizes(model, args)
    return 0


def print_sizes(model: "Model", args: argparse.Namespace) -> None:
    """Print how large a model is on disk and in memory, and how fast it writes, with weights of 32 and of 8 bits."""
    from npgpt.inspection.speed import tokens_per_second
    from npgpt.models.registry import new_model, open_model, sizes_to_sample, with_weights
    from npgpt.training.memory import in_bytes

    if not isinstance(model.config, GPTConfig):
        return  # whose sizes are known from shapes
    sizes, config = sizes_to_sample(model.config), model.config
    why, speeds = not_measured(model, sum(size.memory for size in sizes.values()), args.no_speed), {}
    if not why:
        announce_compiling()
        made: Any = (
            new_model(config, 0, "float32", "fast")
            if args.run is None
            else open_model(args.folder, "float32", "fast", mapped=True, base=args.base)
        )
        kinds: dict[str, Callable[[], Any]] = {"int8": lambda: with_weights(made, "int8")}
        if made is not kinds["int8"]():
            kinds = {"float32": lambda: made} | kinds
        speeds = {kind: tokens_per_second(make()) for kind, make in kinds.items()}
    print(f"\nto sample {'on disk':>20}{'in memory':>13}{'on one core':>22}")
    for kind, size in sizes.items():
        speed = speeds.get(kind)
        shown = f"{significant(speed):>13} tokens/s" if speed else f"{'-':>22}"
        print(f"  {kind:<14}{in_bytes(size.disk):>14}{in_bytes(size.memory):>13}{shown}")
    print("  in memory: the weights and the cache of a whole context; speed: of the model alone, one text")
    if why:
        print(f"  speed is not measured: {why}")


def not_measured(model: "Model", memory: int, unwanted: bool) -> str:
    """Return why a model's speed is not measured, "" if it is.

    memory  bytes that measuring would take
    """
    from npgpt.support.machine import available_memory
    from npgpt.training.memory import in_bytes

    free = available_memory()
    if unwanted:
        return "--no-speed"
    if model.size > MOST_MEASURED:
        return f"the model has more than {MOST_MEASURED // 10**6} million parameters"
    if free is not None and memory > free:
        return f"it would take {in_bytes(memory)}, and {in_bytes(free)} are free"
    return ""


def significant(number: float) -> str:
    """Return a number with three significant digits.

    >>> significant(12_345.6)
    '12,300'
    """
    return f"{float(f'{number:.3g}'):,g}" if number < 1e6 else f"{float(f'{number:.3g}'):,.0f}"


def opened(folder: "Path", base: str | None) -> "tuple[Model, TrainConfig, int | None, Split | None]":
    """Open a model in the precision of its file; return the settings of its training, the rank of its adapters, and how
    its threads share a step.

    The settings that are not known are the defaults.
    """
    from npgpt.hub.peft import folders_of
    from npgpt.models.registry import open_model, verify
    from npgpt.support.files import read_json
    from npgpt.training.finetuning import read_finetune
    from npgpt.training.run import read_saved, saved_split

    source = folders_of(folder, base)[-1]
    content = read_json(source / "config.json") if (source / "config.json").is_file() else {}
    stored = content.get("dtype", content.get("torch_dtype"))
    dtype = "float64" if stored == "float64" else "float32"  # in which all narrower types are opened
    model = open_model(folder, dtype, "reference", mapped=True, base=base)
    verify(model)
    saved = read_saved(folder) if (folder / "train.json").is_file() else {}
    train = TrainConfig(**saved.get("train", {}) | {"dtype": dtype})
    lora = read_finetune(folder, saved)["lora"] if "finetune" in saved else None
    return model, train, lora, saved_split(saved or None, train, (), model)


def print_adapter(folder: "Path", base: str | None) -> None:
    """Print what an adapter is of, and how large it is."""
    from npgpt.hub.peft import find_base
    from npgpt.models.lora import read_for
    from npgpt.models.registry import open_model

    source = find_base(folder, base)
    adapter = read_for(folder, open_model(source, ops="reference", mapped=True))
    print(f"\nadapter, merged into {source}")
    for what, text in adapter.describe():
        print(f"  {what:<20}{text}")


def tokenizer_of(folder: "Path", base: str | None, model: "Model") -> str:
    """Return in words what the tokenizer of a folder is, or why npgpt cannot use it."""
    from npgpt.hub.peft import first_with, folders_of
    from npgpt.tokenizer import Tokenizer
    from npgpt.training.run import say_beyond

    try:
        found = first_with(folders_of(folder, base), "tokenizer.json", "vocab.json")
        tokenizer = Tokenizer.from_pretrained(found).below(model.config.vocab_size)
    except (FileNotFoundError, ValueError) as error:
        return f"none that npgpt can use: {error}"
    beyond = f"; {say_beyond(tokenizer)}" if tokenizer.beyond else ""
    end = f", a text ends with {tokenizer.end_token}" if tokenizer.end_token else ""
    return f"{tokenizer.files}, {tokenizer.vocab_size:,} tokens{end}{beyond}"


def print_parameters(model: "Model") -> None:
    from npgpt.inspection.sizes import count_parameters

    print("\nparameters")
    for group, count in count_parameters({**model.params, **getattr(model, "weights", {})}).items():
        print(f"  {group:<20}{count:>14,}  {count / model.size:6.1%}")
    print(f"  {'total':<20}{model.size:>14,}")


# what each optimizer keeps of all that is trained
KEPT = {
    "adamw": "AdamW's two averages",
    "muon": "Muon's average of the blocks' matrices, what it works in, and AdamW's two of the rest",
}


def print_memory(model: "Model", train: TrainConfig, lora: int | None, split: "Split | None") -> None:
    """Print what a model needs, and what is free. Only the shapes of a GPT say what a batch needs, and weights of 8
    bits are not trained.

    split  how the threads of a run share its steps; None chooses it for this machine
    """
    from npgpt.models.registry import is_trainable
    from npgpt.support.machine import available_memory
    from npgpt.training.memory import fitting_batch_size, in_bytes, memory_to_train, weights_to_train
    from npgpt.training.threads import settle, work_of

    weights = getattr(model, "nbytes", model.size * model.dtype.itemsize)  # some have other weights than floats
    free, advice = available_memory(), ""
    rows = [("to sample", weights, "the weights")]
    kept = KEPT[train.optimizer]
    if is_trainable(model) and isinstance(model.config, GPTConfig):
        split = split or settle(work_of(model, train.batch_size, train.ops == "fast"), train.threads)
        learned, batches = memory_to_train(model.config, train, lora, split)
        shape = f"{train.batch_size} x {model.config.n_positions} tokens"
        what = kept if lora is None else f"adapters of rank {lora} with {kept}"
        rows += [
            ("to train", learned, f"the weights, the gradients of each group, and {what}"),
            ("and for batches", batches, f"{shape} on {split}, and evaluations"),
        ]
        if free is not None and learned + batches > free:
            size = fitting_batch_size(model.config, train, free, lora)
            advice = f"--batch-size {size} would" if size else "choose a smaller model or context"
    elif is_trainable(model):
        rows += [("to train", weights_to_train(model, train), f"the weights, the gradients and {kept}")]
    rows += [] if free is None else [("free here", free, "")]
    print(f"\nmemory in {model.dtype}")
    for name, size, what in rows:
        print(f"  {name:<20}{in_bytes(size):>17}  {what}".rstrip())
    if advice:
        print(f"  does not fit: {advice}")
