"""Teach a smaller GPT what a trained one knows. The student begins with some of the teacher's blocks, with its
tokenizer, vocabulary and context, and learns from the text and from the teacher at once, by the loss of DistilBERT.
Settings that are not given are those by which the teacher learned. Writes a run folder of the student alone."""

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from npgpt.cli.opening import RUN
from npgpt.cli.options import DEFAULTS, METAVARS, add_fields, announce_compiling
from npgpt.cli.reading import TEXT_FILES, add_text_flags
from npgpt.cli.running import train_with_progress
from npgpt.config import TrainConfig

if TYPE_CHECKING:
    from npgpt.training.distilling import Distilling

EXAMPLES = (
    "npgpt distill runs/poems --out runs/small-poems",
    "npgpt distill runs/poems --n-layer 1 --n-embd 64 --data plays.txt --cache-logits 16 --out runs/small-plays",
)
# fields of TrainConfig that have no effect here
NOT_HERE = ("tokenizer", "pretrain", "end_token")
OF_THE_TEACHER = "the teacher's own"
HELPS = {"init": "have all weights of the student be new, and of this kind (train --help names them)"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("teacher", metavar="TEACHER", help=RUN)
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="FILE",
        help=f"{TEXT_FILES}, a folder written by npgpt prepare, or tales (default: what the teacher learned)",
    )
    parser.add_argument(
        "--out", metavar="STUDENT", help="run folder to write (default: runs/1, or the next free number)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from where it stopped")
    group = parser.add_argument_group("student")
    for name, help in {
        "n_layer": "number of blocks, at most the teacher's (default: half of them)",
        "n_embd": "width of the student; with another width than the teacher's, all of its weights are new (default: "
        "the teacher's)",
        "n_head": "number of attention heads; must divide n_embd (default: the teacher's, or heads of the same width)",
    }.items():
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=int, default=argparse.SUPPRESS, metavar=METAVARS.get(name, "N"), help=help)
    number: dict[str, Any] = {"type": float, "default": argparse.SUPPRESS, "metavar": "X"}
    group.add_argument("--dropout", **number, help="dropout of the student (default: the teacher's)")
    group = parser.add_argument_group("lesson")
    for name, help in {
        "temperature": "what both models' logits are divided by, where they are compared (default: 1)",
        "ce": "weight of the cross-entropy with the text (default: 0.3)",
        "kl": "weight of the divergence from the teacher, times the square of the temperature (default: 0.7)",
        "cosine": "weight of 1 - the cosine of both models' last hidden states (default: 0.1)",
    }.items():
        group.add_argument(f"--{name}", **number, help=help)
    group.add_argument(
        "--cache-logits",
        type=int,
        metavar="K",
        default=argparse.SUPPRESS,
        help="ask the teacher for its K likeliest tokens everywhere before the training, and keep them in STUDENT, in "
        "place of asking it at every step: for a text that is read several times (then --cosine is 0)",
    )
    add_text_flags(parser)
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    own = dict.fromkeys((name for name in fields if name not in ("minutes", "threads", "ops")), OF_THE_TEACHER)
    own |= {"minutes": "none", "init": "the teacher's weights, where the widths are equal"}
    add_fields(parser.add_argument_group("training"), TrainConfig, DEFAULTS | own, NOT_HERE, HELPS)


def run(args: argparse.Namespace) -> int:
    flags = {k: v for k, v in vars(args).items() if k not in ("command", "teacher", "resume") and v is not None}
    from npgpt.training.distilling import plan_distilling, start_distilling

    plan = plan_distilling(args.teacher, flags, args.resume)
    plan = dataclasses.replace(plan, began=plan.began - min(1.0, time.process_time()))
    announce_compiling(plan.config.ops)
    distilling = start_distilling(plan)
    run, model = distilling.run, distilling.model
    print(
        f"{run.folder}: {model.student.size:,} parameters, taught by {model.teacher.size:,}; {distilling.begins}; "
        f"{run.trainer.train_data.size:,} tokens to train on, {run.trainer.val_data.size:,} for validation",
        flush=True,
    )
    if plan.top is not None:
        ask(distilling, plan.top)
    loss = train_with_progress(run, f"npgpt distill {plan.teacher} --resume --out {run.folder}")
    from npgpt.cli.train import show

    show(run, loss)
    print(f"\ngenerate more with: npgpt sample {run.folder}")
    return 0


def ask(distilling: "Distilling", k: int) -> None:
    """Have the teacher say what it thinks, unless it has done so, with a progress bar."""
    from tqdm import tqdm

    from npgpt.training.memory import in_bytes

    size = distilling.to_ask(k)
    if not size:
        print(f"{distilling.file} has what the teacher thinks", flush=True)
        return
    assert distilling.taught is not None
    print(f"what the teacher thinks, its {k} likeliest tokens, takes {in_bytes(size)} in {distilling.file}", flush=True)
    with tqdm(desc="asking the teacher", total=distilling.taught.n_rows, unit="row", leave=False, disable=None) as bar:
        distilling.ask(k, lambda done: bar.update(done - bar.n))
