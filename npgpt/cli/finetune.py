"""Teach a trained model tasks, from JSON lines with a prompt and the completion that it should learn to give. The loss
is that of the completions alone; a tenth of the lines, at most 1,000, is kept to validate. Writes a run folder;
`npgpt ask` uses it."""

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
        help='lines such as {"prompt": "...", "completion": "..."}; for several turns both are lists',
    )
    parser.add_argument("--out", metavar="FOLDER", help="the new run folder (default: runs/1, or the next number free)")
    parser.add_argument("--skip-long", action="store_true", help="leave out lines that the context is too short for")
    parser.add_argument(
        "--in-order",
        action="store_true",
        help="learn the first lines first, as in a course whose last lines are kept to validate, and begin again after "
        "the last; else they come in any order",
    )
    parser.add_argument(
        "--lora",
        type=int,
        metavar="R",
        help="train low-rank adapters of rank R alone; they are merged into the model that is written, and also lie in "
        "its folder adapter/, as PEFT reads them",
    )
    parser.add_argument("--lora-alpha", type=float, metavar="X", help="their scale is X / R (default: X = R)")
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
    if args.lora_alpha is not None and args.lora is None and not args.resume:
        raise ValueError(f"--lora-alpha {args.lora_alpha} has no meaning without --lora R")
    folder = Path(args.out) if args.out else next_free(Path("runs"))
    saved = read_saved(folder) if args.resume else {}
    before = read_finetune(folder, saved) if args.resume else {}
    config = TrainConfig(**FINETUNE | saved.get("train", {}) | given)
    from npgpt.data.examples import ExamplesSource

    source = ExamplesSource(args.data or saved["data"]["files"])
    announce_compiling(config.ops)
    model, tokenizer, base = open_base(args.run, config)
    how = {
        "base": str(Path(args.run).resolve()),
        "base_sha256": base,
        "skip_long": args.skip_long or before.get("skip_long", False),
        "in_order": args.in_order or before.get("in_order", False),
        "lora": before.get("lora") if args.lora is None else args.lora,
        "lora_alpha": before.get("lora_alpha") if args.lora_alpha is None else args.lora_alpha,
    }
    if how["skip_long"]:
        source.skip_long(tokenizer, model.config.n_positions)
    settings = {
        "data": source.settings() | {"tokenizer": tokenizer.fingerprint()},
        "finetune": how,
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(config),
    }
    if args.resume:
        require_same(folder, saved, settings)
    return tune(model, tokenizer, source, config, folder, args.resume, settings)


def read_finetune(folder: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """Return what train.json says of the fine-tuning. Raises ValueError for a run of another kind."""
    before = saved.get("finetune")
    if not isinstance(before, dict):
        raise ValueError(f"{folder} is no run of npgpt finetune: go on with npgpt train --resume --out {folder}")
    before.setdefault("in_order", False)  # which older runs do not say
    for name, types in ("lora", (int,)), ("lora_alpha", (int, float)), ("skip_long", (bool,)), ("in_order", (bool,)):
        value = before.get(name)
        if value is not None and type(value) not in types:
            raise ValueError(f"{folder / 'train.json'}: finetune.{name} is {value!r}")
    if not saved["data"]["files"]:
        raise ValueError(f"{folder / 'train.json'}: data.files is empty")
    return before


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
    for part, name, what in (
        ("data", "sha256", "the examples are not those that it was trained on"),
        ("data", "tokenizer", "the model's tokenizer is not the one that it was trained with"),
        ("finetune", "base_sha256", "the model to begin with is not the one that it began with"),
        ("finetune", "lora", "--lora cannot change with --resume"),
        ("finetune", "lora_alpha", "--lora-alpha cannot change with --resume"),
        ("finetune", "in_order", "--in-order cannot be added with --resume"),
        ("train", "dtype", "--dtype cannot change with --resume"),
        ("train", "optimizer", "--optimizer cannot change with --resume"),
        ("train", "seed", "--seed cannot change with --resume: it says what is drawn, and what validates"),
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
    from npgpt.adapters import save_adapter
    from npgpt.checkpoint import refuse_existing, remove_unstarted
    from npgpt.data.examples import pack_examples
    from npgpt.lora import Adapters

    how, options, trained = settings["finetune"], {}, model.params.flat.size
    train_part, val_part = source.split(config.seed, how["in_order"])
    n_positions = model.config.n_positions
    train_data = pack_examples(train_part, tokenizer, n_positions, how["in_order"])
    val_data = pack_examples(val_part, tokenizer, n_positions)
    if not resume:
        refuse_existing(folder)
    if how["lora"] is not None:
        adapters = Adapters(model, how["lora"], how["lora_alpha"], seed=config.seed)
        options = {
            "adapters": adapters,
            "on_best": lambda: save_adapter(folder / "adapter", adapters, how["base"]),
        }
        trained = adapters.params.flat.size
    left_out = f" ({source.skipped:,} too long, left out)" if source.skipped else ""
    rows, a_step = len(train_data.ids), config.batch_size * config.gradient_accumulation_steps
    seen = config.max_steps * a_step / rows
    share = f"the first {seen:.0%} are seen once" if how["in_order"] and seen < 1 else f"each is seen {seen:.1f} times"
    print(
        f"{folder}: {trained:,} parameters to train, {len(train_part):,} examples to train on, {len(val_part):,} "
        f"to validate{left_out}; {share}",
        flush=True,
    )
    try:
        if not resume:
            tokenizer.save_pretrained(folder)
            write_saved(folder, settings)
        loss = train_with_progress(model, train_data, val_data, config, folder, resume, settings, **options)
    except BaseException:
        if not resume:
            remove_unstarted(folder)
        raise
    if loss is None:
        print(f"stopped; go on with: npgpt finetune {how['base']} --resume --out {folder}")
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
