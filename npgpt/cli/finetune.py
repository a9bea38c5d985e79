"""Teach a trained model tasks, from JSON lines with a prompt and the completion that it should learn to give. The loss
is that of the completions alone; a tenth of the lines, at most 1,000, is kept to validate. Writes a run folder;
`npgpt ask` uses it."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from npgpt.cli.options import add_fields, announce_compiling
from npgpt.cli.running import train_with_progress
from npgpt.config import TrainConfig
from npgpt.training.recipes import FINETUNE

if TYPE_CHECKING:
    from npgpt.training.finetuning import Tuning

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
    how = {name: getattr(args, name) for name in ("skip_long", "in_order", "lora", "lora_alpha")}
    from npgpt.training.finetuning import plan_finetuning, start_finetuning

    plan = plan_finetuning(args.run, args.data or [], args.out, how, given, args.resume)
    announce_compiling(plan.config.ops)
    tuning = start_finetuning(plan)
    folder, skipped = plan.folder, plan.source.skipped
    left_out = f" ({skipped:,} too long, left out)" if skipped else ""
    if plan.how["in_order"] and tuning.times < 1:
        share = f"the first {tuning.times:.0%} are seen once"
    else:
        share = f"each is seen {tuning.times:.1f} times"
    print(
        f"{folder}: {tuning.n_trained:,} parameters to train, {tuning.n_examples:,} examples to train on, "
        f"{len(tuning.val_examples):,} to validate{left_out}; {share}",
        flush=True,
    )
    if train_with_progress(tuning.run) is None:
        base = tuning.run.settings["finetune"]["base"]
        print(f"stopped; go on with: npgpt finetune {base} --resume --out {folder}")
        return 130
    show(tuning)
    print(f"\nuse it with: npgpt ask {folder}")
    return 0


def show(tuning: "Tuning") -> None:
    """Print what the best model answers to an example that it was not trained on."""
    from npgpt.generation.prompts import answers

    example = tuning.val_examples[0]
    (found,) = answers(tuning.run.best(), tuning.run.tokenizer, [example.prompt])
    print(f"\nan example that it has not learned:\n\n{example.prompt}[{found}]")
    if found.strip() != example.completion.strip():
        print(f"\nexpected:\n{example.completion}")
