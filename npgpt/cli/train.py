"""Train a GPT on the tales that come with npgpt, or on text files. The first 90% of each file is for training, the rest
for validation. On your own text, the settings that are not given suit --minutes (3), the machine and the text, unless
--preset, --max-steps or --recipe nanogpt asks for the defaults below; those for tales follow where they differ, and
train a small model in minutes. Writes a run folder, which `npgpt sample` and Hugging Face's transformers open."""

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING

from npgpt.cli.minutes import print_choice, print_outcome
from npgpt.cli.options import add_config_flags, announce_compiling, read_toml
from npgpt.cli.reading import TEXT_FILES, add_text_flags
from npgpt.cli.running import train_with_progress
from npgpt.config import PRESETS
from npgpt.training.recipes import RECIPES, recipe_of

if TYPE_CHECKING:
    from npgpt.training.run import Run

EXAMPLES = (
    "npgpt train --data poems.txt --minutes 10 --out runs/poems",
    "npgpt train --resume --out runs/poems --minutes 10",
    "npgpt train --data tales:zh --max-steps 5000 --out runs/tales-zh",
    "npgpt train --from runs/poems --data plays.txt --vocab text --out runs/plays",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="FILE",
        help=f"{TEXT_FILES}, a folder written by npgpt prepare, or the tales that come with npgpt: tales:en, tales:zh, "
        "or tales for both languages (default: tales:en)",
    )
    parser.add_argument(
        "--from",
        metavar="RUN_OR_NAME",
        help="go on from the weights of a trained model, a folder or a name on the Hugging Face hub, with its "
        "tokenizer and its sizes; only --n-positions and dropout may differ. The learning rate is lower by default",
    )
    parser.add_argument(
        "--vocab",
        metavar="WHAT",
        help="with --from: tokens to add to its vocabulary; text for the characters of the text that it lacks, or a "
        "file with a token in each line",
    )
    parser.add_argument("--out", metavar="RUN", help="run folder to write (default: runs/1, or the next free number)")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"sizes of the model: {', '.join(PRESETS)}; nano and micro also choose the tokenizers bpe:512 and "
        "bpe:1024; on tales, its context is longer if they need it (default: tiny; tales have sizes of their own)",
    )
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="minutes chooses the settings that suit --minutes, this machine and the text; nanogpt has the defaults "
        "below (default: minutes for your own text, unless --preset or --max-steps is given)",
    )
    parser.add_argument(
        "--config", metavar="FILE.toml", help="TOML file of settings, named like the flags; a flag overrides it"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out from where it stopped; with --minutes, for so many more minutes",
    )
    add_text_flags(parser)
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    flags = {k: v for k, v in vars(args).items() if k not in ("command", "config", "resume") and v is not None}
    file = read_toml(args.config) if args.config else {}
    from npgpt.training.pretraining import plan_training, start_training

    if recipe := recipe_of({**file, **flags}, args.resume):
        flags["recipe"] = recipe
    plan = plan_training(flags, file, args.resume)
    # minutes count from the start of the program, which has read its modules by now
    plan = dataclasses.replace(plan, began=plan.began - min(1.0, time.process_time()))
    announce_compiling(plan.config.ops)
    run = start_training(plan)
    if run.choice is not None:
        print_choice(run, plan.named)
    data, config = run.trainer, run.config
    frozen = "" if data.n_trained == run.model.size else f" ({data.n_trained:,} of them trained)"
    print(
        f"{run.folder}: {run.model.size:,} parameters{frozen}, {run.tokenizer.vocab_size:,} tokens in the vocabulary, "
        f"{data.train_data.size:,} to train on, {data.val_data.size:,} for validation",
        flush=True,
    )
    if config.warmup_steps >= config.max_steps:
        print(f"the warm-up of {config.warmup_steps} steps is longer than the run: the learning rate stays low")
    loss = train_with_progress(run, f"npgpt train --resume --out {run.folder}")
    if run.choice is not None:
        print_outcome(run, loss)
    show(run, loss)
    print(f"\ngenerate more with: npgpt sample {run.folder}")
    return 0


def show(run: "Run", loss: float) -> None:
    """Print what the best model can do: a report on the tales that it writes, or a sample of its text."""
    from npgpt.data.source import TalesSource

    if isinstance(run.source, TalesSource):
        from npgpt.cli.tales_report import report

        report(run.best(), run.tokenizer, run.source, loss, run.config.seed)
    elif run.config.sample_tokens:
        print_sample(run)


def print_sample(run: "Run") -> None:
    """Print a sample of the best model: a new document or, if it has learned none, what follows a line end.

    If the text has no line end either, the sample begins with its first token.
    """
    from npgpt.cli.sampling import print_pieces
    from npgpt.generation.answers import continue_text
    from npgpt.generation.prompts import Learned, first_prompt

    first = int(run.trainer.train_data.first().ids[0, 0])
    learned = Learned.of(run.settings["data"])
    tokens = continue_text(
        run.best(),
        run.tokenizer,
        first_prompt(run.tokenizer, None, learned, first),
        run.config.sample_tokens,
        temperature=0.8,
        seed=run.config.seed,
    )
    print("\na sample:")
    print_pieces(run.tokenizer.decode_stream(tokens))
