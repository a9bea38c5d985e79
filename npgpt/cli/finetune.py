"""Fine-tune a trained model on JSON lines, each with a prompt and the completion that the model should learn. The loss
covers the completions only. A tenth of the lines, at most 1,000, is kept for validation. Writes a run folder, which
`npgpt ask` uses."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from npgpt.cli.opening import add_run
from npgpt.cli.options import DEFAULTS, add_fields, announce_compiling
from npgpt.cli.reading import add_encoding
from npgpt.cli.running import train_with_progress
from npgpt.config import TrainConfig
from npgpt.training.recipes import FINETUNE

if TYPE_CHECKING:
    from npgpt.training.finetuning import Tuning, TuningPlan

EXAMPLES = (
    "npgpt finetune runs/poems --data tasks.jsonl --out runs/tasks",
    "npgpt finetune runs/poems --data 问答.jsonl --lora 8 --learning-rate 2e-3",
)
HELPS = {"seed": "seed of the validation lines, the batches, dropout, and the first weights of adapters"}
OF_THE_MODEL = (
    "init",
    "minutes",
    "tokenizer",
    "pretrain",
    "windows",
    "pack",
    "sample_tokens",
)  # fields of TrainConfig that have no effect here


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_run(parser, base=False)
    add_examples_flags(parser)
    parser.add_argument(
        "--lora",
        type=int,
        metavar="R",
        help="train only low-rank adapters of rank R; the run folder holds the model with the adapters merged in, and "
        "the adapters in PEFT's format in its folder adapter/",
    )
    parser.add_argument("--lora-alpha", type=float, metavar="X", help="scale the adapters by X / R (default: X = R)")
    add_encoding(parser)
    group = parser.add_argument_group("training")
    add_fields(
        group, TrainConfig, DEFAULTS | {name: str(value) for name, value in FINETUNE.items()}, OF_THE_MODEL, HELPS
    )


def add_examples_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a command that trains on prompts and completions: which ones, and where the run is."""
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="FILE",
        help='files of lines such as {"prompt": "...", "completion": "..."}; in a conversation both are lists; '
        "chat messages, instructions and other kinds are recognised from the first line; a folder of *.jsonl, a glob, "
        "or - for standard input",
    )
    parser.add_argument(
        "--template",
        metavar="FILE",
        help="text file that says how examples are read, with {prompt} and {completion}, and {system} and {input} in "
        "{[ ]}, a part that is left out where they are empty (default: as the lines have it)",
    )
    parser.add_argument("--out", metavar="FOLDER", help="new run folder (default: runs/1, or the next free number)")
    parser.add_argument("--skip-long", action="store_true", help="leave out lines that are too long for the context")
    parser.add_argument(
        "--in-order",
        action="store_true",
        help="train on the lines from the first to the last, then again from the first, for files that begin with easy "
        "lines; the last lines are kept for validation (default: random order)",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from where it stopped")


def run(args: argparse.Namespace) -> int:
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    given = {name: value for name, value in vars(args).items() if name in fields}
    how = {name: getattr(args, name) for name in ("skip_long", "in_order", "lora", "lora_alpha", "template")}
    how["encoding"] = getattr(args, "encoding", None)
    from npgpt.training.finetuning import plan_finetuning, start_finetuning

    plan = plan_finetuning(args.run, args.data or [], args.out, how, given, args.resume)
    announce_compiling(plan.config.ops)
    tuning = start_finetuning(plan)
    print_tuning(plan, tuning)
    base = tuning.run.settings["finetune"]["base"]
    train_with_progress(tuning.run, f"npgpt finetune {base} --resume --out {plan.folder}")
    show(tuning)
    print(f"\nuse it with: npgpt ask {plan.folder}")
    return 0


def print_tuning(plan: "TuningPlan", tuning: "Tuning") -> None:
    """Print how many parameters will be trained, on how many examples, and how often each is used."""
    folder, skipped = plan.folder, plan.source.skipped
    left_out = f" ({skipped:,} too long, left out)" if skipped else ""
    if plan.how["in_order"] and tuning.times < 1:
        share = f"the first {tuning.times:.0%} are used once"
    else:
        share = f"each is used {tuning.times:.1f} times"
    print(
        f"{folder}: {tuning.n_trained:,} parameters to train, {tuning.n_examples:,} examples to train on, "
        f"{len(tuning.val_examples):,} for validation{left_out}; {share}",
        flush=True,
    )


def show(tuning: "Tuning") -> None:
    """Print the best model's completion of an example that it was not trained on."""
    from npgpt.generation.answers import answers

    example = tuning.val_examples[0]
    template = tuning.run.source.template
    (found,) = answers(
        tuning.run.best(),
        tuning.run.tokenizer,
        [example.prompt],
        template=template,
        of=[(example.system, example.input)],
    )
    shown = template.shown(example.prompt, example.system, example.input)
    print(f"\nan example that it was not trained on:\n\n{shown}[{found}]")
    if found.strip() != example.completion.strip():
        print(f"\nexpected:\n{example.completion}")
