"""Teach a trained model tasks, from JSON lines with a prompt and the completion that it should learn to give. The loss
is that of the completions alone; a tenth of the lines is kept to validate. Writes a run folder; `npgpt ask` uses it."""

import argparse
import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgpt.cli.options import add_fields, announce_compiling
from npgpt.cli.running import next_free, read_saved, train_with_progress, write_saved
from npgpt.config import FINETUNE, TrainConfig

if TYPE_CHECKING:
    from npgpt.data.examples import Example, ExamplesSource
    from npgpt.model import GPT
    from npgpt.tokenizer import Tokenizer

OF_THE_MODEL = ("init", "tokenizer", "sample_tokens")  # fields of TrainConfig that have no meaning here


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the run folder of the model to begin with")
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="FILE",
        help='lines such as {"prompt": "...", "completion": "..."}',
    )
    parser.add_argument("--out", metavar="FOLDER", help="the new run folder (default: runs/1, or the next number free)")
    parser.add_argument("--skip-long", action="store_true", help="leave out lines that the context is too short for")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    group = parser.add_argument_group("training")
    add_fields(group, TrainConfig, {name: str(value) for name, value in FINETUNE.items()}, OF_THE_MODEL)


def run(args: argparse.Namespace) -> int:
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    given = {name: value for name, value in vars(args).items() if name in fields}
    if args.out == "":
        raise ValueError("--out is empty: give a folder, or leave it out")
    if args.resume and args.out is None:
        raise ValueError("--resume needs --out FOLDER, the folder of the run to go on with")
    if not (args.data or args.resume):
        raise ValueError("--data is missing: give a file of JSON lines with prompt and completion")
    folder = Path(args.out) if args.out else next_free(Path("runs"))
    saved = read_saved(folder) if args.resume else {}
    config = TrainConfig(**FINETUNE | saved.get("train", {}) | given)
    from npgpt.data.examples import ExamplesSource

    source = ExamplesSource(args.data or saved["data"]["files"])
    announce_compiling(config.ops)
    model, tokenizer, base = open_base(args.run, config)
    if args.skip_long or saved.get("finetune", {}).get("skip_long"):
        source.skip_long(tokenizer, model.config.n_positions)
    settings = {
        "data": source.settings() | {"tokenizer": tokenizer.fingerprint()},
        "finetune": {"base": str(Path(args.run).resolve()), "base_sha256": base, "skip_long": args.skip_long},
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(config),
    }
    if args.resume:
        require_same(folder, saved, settings)
    return tune(model, tokenizer, source, config, folder, args.resume, settings)


def open_base(name: str, config: TrainConfig) -> tuple["GPT", "Tokenizer", str]:
    """Return the model of a run folder, its tokenizer, and a SHA-256 of its weights."""
    from npgpt.model import GPT
    from npgpt.tokenizer import Tokenizer

    model, tokenizer = GPT.from_pretrained(name, config.dtype, config.ops), Tokenizer.from_pretrained(name)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"{name}: the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}"
        )
    tokenizer.require_end_id()
    return model, tokenizer, hashlib.sha256(model.params.flat.tobytes()).hexdigest()


def require_same(folder: Path, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise ValueError for a change that would make it another run."""
    if not isinstance(saved.get("finetune"), dict):
        raise ValueError(f"{folder} is no run of npgpt finetune: go on with npgpt train --resume --out {folder}")
    for part, name, what in (
        ("data", "sha256", "the examples are not those that it was trained on"),
        ("data", "tokenizer", "the model's tokenizer is not the one that it was trained with"),
        ("finetune", "base_sha256", "the model to begin with is not the one that it began with"),
        ("train", "dtype", "dtype cannot change with --resume"),
    ):
        if saved[part].get(name) != settings[part][name]:
            raise ValueError(f"{folder}: {what}; start a new run")


def tune(
    model: "GPT",
    tokenizer: "Tokenizer",
    source: "ExamplesSource",
    config: TrainConfig,
    folder: Path,
    resume: bool,
    settings: dict[str, Any],
) -> int:
    """Train the model on the examples, and show what it has learned."""
    from npgpt.checkpoint import refuse_existing, remove_unstarted
    from npgpt.data.examples import pack_examples

    train_part, val_part = source.split(config.seed)
    n_positions = model.config.n_positions
    train_data, val_data = (pack_examples(part, tokenizer, n_positions) for part in (train_part, val_part))
    if not resume:
        refuse_existing(folder)
    left_out = f" ({source.skipped:,} too long, left out)" if source.skipped else ""
    rows, a_step = len(train_data.ids), config.batch_size * config.gradient_accumulation_steps
    print(
        f"{folder}: {model.params.flat.size:,} parameters, {len(train_part):,} examples to train on, {len(val_part):,} "
        f"to validate{left_out}; each is seen {config.max_steps * a_step / rows:.1f} times",
        flush=True,
    )
    try:
        if not resume:
            tokenizer.save_pretrained(folder)
            write_saved(folder, settings)
        loss = train_with_progress(model, train_data, val_data, config, folder, resume, settings)
    except BaseException:
        if not resume:
            remove_unstarted(folder)
        raise
    if loss is None:
        base = settings["finetune"]["base"]
        print(f"stopped; go on with: npgpt finetune {base} --resume --out {folder}")
        return 130
    show(folder, tokenizer, val_part, config)
    print(f"\nuse it with: npgpt ask {folder}")
    return 0


def show(folder: Path, tokenizer: "Tokenizer", examples: "list[Example]", config: TrainConfig) -> None:
    """Print what the best model answers to an example that it was not trained on."""
    from npgpt.answering import answers
    from npgpt.model import GPT

    model = GPT.from_pretrained(folder, config.dtype, config.ops)
    example = examples[0]
    (found,) = answers(model, tokenizer, [example.prompt])
    print(f"\nan example that it has not learned:\n\n{example.prompt}[{found}]")
    if found.strip() != example.completion.strip():
        print(f"\nexpected:\n{example.completion}")
