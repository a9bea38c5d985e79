"""Train a generator on JSON lines, each with a prompt and a completion: an encoder, which is a trained GPT without its
head, reads the prompt, and a new decoder (GRU, LSTM or Transformer) writes the completion. Writes a run folder, which
`npgpt ask`, `sample`, `eval` and `score` use."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from npgpt.cli.finetune import add_examples_flags, print_tuning, show
from npgpt.cli.opening import add_run
from npgpt.cli.options import DEFAULTS, add_fields, announce_compiling
from npgpt.cli.reading import add_encoding
from npgpt.cli.running import train_with_progress
from npgpt.config import TrainConfig
from npgpt.training.recipes import GENERATOR

if TYPE_CHECKING:
    from npgpt.support.parameters import Parameters

EXAMPLES = (
    "npgpt train-generator runs/poems --data tasks.jsonl --decoder gru --out runs/gru",
    "npgpt train-generator runs/poems --data 问答.jsonl --decoder lstm --bridge mean --encoder frozen",
    "npgpt train-generator runs/poems --data tasks.jsonl --loss ce+cosine:0.5 --loss-temperature 2:0.5",
)
HELPS = {"seed": "seed of the decoder's first weights, the validation lines, the batches and dropout"}
# fields of TrainConfig that have no effect here, or that other flags set
NOT_HERE = ("init", "minutes", "tokenizer", "pretrain", "windows", "pack", "sample_tokens", "trainable", "compute")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_run(parser, base=False)
    add_examples_flags(parser)
    add_encoding(parser)
    group = parser.add_argument_group("generator")
    group.add_argument("--decoder", metavar="NAME", help="what writes: gru, lstm or transformer (default: gru)")
    group.add_argument(
        "--bridge",
        metavar="NAME",
        help="what the decoder gets of the encoder's features: their mean or the last one as its first state, or "
        "attention to all of them (default: attention)",
    )
    group.add_argument(
        "--encoder",
        metavar="WHICH",
        help="what of the encoder is trained, too: frozen for nothing, whole, or last:N for its last N blocks "
        "(default: whole)",
    )
    group.add_argument("--n-layer", type=int, metavar="N", help="the decoder's layers (default: 2)")
    group.add_argument("--n-embd", type=int, metavar="C", help="the decoder's width (default: the encoder's)")
    group.add_argument("--n-head", type=int, metavar="H", help="heads of its attention (default: the encoder's)")
    group.add_argument(
        "--embedding",
        metavar="WHOSE",
        help="own, which begins as a copy if the widths are equal, or encoder, which uses the encoder's embedding and "
        "head (default: own)",
    )
    group.add_argument("--dropout", type=float, dest="pdrop", metavar="X", help="dropout in the decoder (default: 0)")
    group.add_argument(
        "--loss",
        metavar="LOSS",
        help="ce, the cross-entropy; cosine, 1 - the cosine of the features of what is written and of what is wanted, "
        "as RUN has them; or ce+cosine:WEIGHT, a weight of 1 if it is left out (default: ce)",
    )
    group.add_argument(
        "--loss-temperature",
        metavar="T0:T1",
        help="temperature of the softmax whose expected embeddings stand for what is written in the cosine, from the "
        "first step to the last (default: 1)",
    )
    group.add_argument(
        "--label-smoothing", type=float, metavar="X", help="share of the targets that all tokens get (default: 0)"
    )
    group = parser.add_argument_group("training")
    shown = DEFAULTS | {name: str(value) for name, value in GENERATOR.items()}
    add_fields(group, TrainConfig, shown, NOT_HERE, HELPS)


def run(args: argparse.Namespace) -> int:
    fields = {field.name for field in dataclasses.fields(TrainConfig)} - set(NOT_HERE)
    given = {name: value for name, value in vars(args).items() if name in fields}
    from npgpt.training.generators import HOW, SIZES, plan_generator, start_generator

    how = {name: getattr(args, name) for name in (*SIZES, *HOW, "skip_long", "in_order", "template")}
    how["encoding"] = getattr(args, "encoding", None)
    plan = plan_generator(args.run, args.data or [], args.out, how, given, args.resume)
    announce_compiling(plan.config.ops)
    tuning = start_generator(plan)
    print(f"{plan.folder}: {tuning.run.model.describe()}")
    print_sizes(tuning.run.model.params, plan.how["encoder"])
    print_tuning(plan, tuning)
    base = tuning.run.settings["generator"]["base"]
    train_with_progress(tuning.run, f"npgpt train-generator {base} --resume --out {plan.folder}")
    show(tuning)
    print(f"\nuse it with: npgpt ask {plan.folder}")
    return 0


def print_sizes(params: "Parameters", encoder: str) -> None:
    """Print how many parameters the parts have, and what of the encoder is trained."""
    from npgpt.inspection.sizes import count_parameters

    counts = count_parameters(params)
    trained = {"frozen": "not trained", "whole": "trained"}.get(
        encoder, f"trained: its {encoder.replace(':', ' ')} blocks"
    )
    parts = [f"{name} {count:,}" + f" ({trained})" * (name == "encoder") for name, count in counts.items()]
    print(f"parameters: {', '.join(parts)}")
