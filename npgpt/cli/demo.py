"""Train a model on English and Chinese tales, then fine-tune it for each of four tasks: answering questions,
summarizing, translating, and writing to order. Then print how many of its completions are right. On two cores this
takes more than an hour, about a quarter of an hour per model. The commands that it runs are printed and can be run by
themselves. Running the demo again skips the models that are finished."""

import argparse
import itertools
import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from npgpt.cli.checks import require_at_least, require_given
from npgpt.cli.tales import read_tasks
from npgpt.config import LANGS, TASKS

if TYPE_CHECKING:
    from npgpt.data.tales import tasks
    from npgpt.data.tales.score import Score

EXAMPLES = (
    "npgpt demo",
    "npgpt demo --tasks translate --base-steps 3000 --tune-steps 4000 --out runs/short",
)
TUNE = ["--in-order", "--optimizer", "muon", "--weight-decay", "0.2", "--learning-rate", "2.5e-3"]
TUNE += ["--eval-every", "1000", "--save-every", "1000"]


class Part(NamedTuple):
    """A part of a course of training.

    share      the part's share of the steps
    task       its task, or several that take turns: "answer,summary"
    excerpts   the share of its examples that are made from excerpts of tales
    questions  up to this many further questions follow each example
    words      an order to write a tale gives up to this many words
    """

    share: float
    task: str
    excerpts: float
    questions: int = 0
    words: int = 3


# questions teach a model to look up what a tale says, which the other tasks then use
LOOK_UP = (Part(0.1, "answer", 1.0, 5), Part(0.15, "answer", 0.3, 5))
COURSES = {
    "answer": (*LOOK_UP, Part(0.75, "answer", 0.3, 5)),
    "summary": (*LOOK_UP, Part(0.15, "summary", 1.0), Part(0.6, "summary", 0.3)),
    "translate": (*LOOK_UP, Part(0.15, "translate", 1.0), Part(0.6, "translate", 0.3)),
    "write": (
        Part(0.2, "write", 1.0, words=8),
        Part(0.45, "write", 0.0, words=8),
        Part(0.35, "write", 0.0, words=4),
    ),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/demo", metavar="FOLDER", help="folder for all runs (default: runs/demo)")
    parser.add_argument(
        "--base-steps", type=int, default=9500, metavar="N", help="steps of the training (default: 9500)"
    )
    parser.add_argument(
        "--tune-steps", type=int, default=12000, metavar="N", help="steps of each fine-tuning (default: 12000)"
    )
    parser.add_argument(
        "--tasks",
        default=",".join(TASKS),
        metavar="TASK,...",
        help=f"tasks to fine-tune for (default: {','.join(TASKS)})",
    )
    parser.add_argument(
        "--tests", type=int, default=100, metavar="N", help="tests per task and language (default: 100)"
    )
    parser.add_argument(
        "--seed", type=int, default=1337, metavar="S", help="seed of the tales and the training (default: 1337)"
    )


def run(args: argparse.Namespace) -> int:
    from npgpt.support.lock import locked

    require_at_least(1, "--base-steps", args.base_steps)
    require_at_least(1, "--tune-steps", args.tune_steps)
    require_at_least(1, "--tests", args.tests)
    require_given("--out", args.out, "a folder, or leave it out")
    tasks = list(dict.fromkeys(read_tasks(args.tasks)))
    folder = Path(args.out)
    with locked(folder):
        train(folder, tasks, args)
    print_scores(folder, tasks, args.tests, args.seed)
    return 0


def train(folder: Path, tasks: list[str], args: argparse.Namespace) -> None:
    """Train the base, and fine-tune it for each task. What is finished already is left as it is."""
    from npgpt.support.files import remove_parts
    from npgpt.training.checkpoint import STATE

    base = folder / "base"
    remove_parts(folder, [f"{task}.jsonl" for task in tasks])
    call(["train", "--data", "tales"], base, args.base_steps, args.seed)
    for task in tasks:
        lines = folder / f"{task}.jsonl"
        if not (
            lines.exists() and (folder / task / STATE).exists()
        ):  # a file without its run may have been written for another number of steps
            write_course(lines, base, args.tune_steps, args.seed, COURSES[task])
        call(["finetune", str(base), "--data", str(lines), *TUNE], folder / task, args.tune_steps, args.seed)


def call(command: list[str], out: Path, steps: int, seed: int) -> None:
    """Run a training command of npgpt, or resume the run that it began. Raises SystemExit if it fails."""
    from npgpt.cli import main
    from npgpt.training.checkpoint import STATE

    if (out / STATE).exists():
        require_same(out, steps, seed)
        if is_whole(out):
            print(f"{out} is finished already\n")
            return
        command = [*command, "--resume"]
    command = [*command, "--max-steps", str(steps), "--seed", str(seed), "--out", str(out)]
    print(f"$ npgpt {shlex.join(command)}", flush=True)
    code = main(command)
    print()
    if code:
        raise SystemExit(code)


def require_same(out: Path, steps: int, seed: int) -> None:
    """Raise ValueError for a run that was begun with another number of steps or another seed."""
    from npgpt.training.run import read_saved

    train = read_saved(out)["train"]
    for name, value in ("max_steps", steps), ("seed", seed):
        if train.get(name) != value:
            raise ValueError(f"{out} was begun with {name}={train.get(name)}, not {value}: choose another --out")


def is_whole(out: Path) -> bool:
    """Say whether a run is finished."""
    path = out / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    try:
        return bool(lines) and json.loads(lines[-1])["whole"] in (True, False)
    except (ValueError, KeyError, TypeError, RecursionError):  # a line that was cut short, or another record
        return False


def write_course(
    path: Path, base: Path, steps: int, seed: int, course: tuple[Part, ...], langs: tuple[str, ...] = LANGS
) -> None:
    """Write the examples of a course, about as many as the steps will use, and then those for validation.

    Raises ValueError if no example fits into the base's context.
    """
    from npgpt.data.examples import MOST_TO_VALIDATE
    from npgpt.data.tales.corpus import LEARN
    from npgpt.data.tales.tasks import examples
    from npgpt.support.files import write_text
    from npgpt.training.recipes import FINETUNE

    lines: list[str] = []
    for number, part in enumerate(course):
        options = part.excerpts, part.questions, part.words
        found = examples(seed + number, tuple(part.task.split(",")), langs, LEARN, *options)
        groups, wanted = fitting(found, base), part.share * steps * FINETUNE["batch_size"]
        while wanted > 0:
            group, rows = next(groups)
            # the last part is written in whole groups: after its end, training would start over from the beginning
            enough = len(group) if part is course[-1] else math.ceil(len(group) * min(1.0, wanted / rows))
            lines += group[:enough]
            wanted -= rows
    learned = len(lines)
    while len(lines) < learned + MOST_TO_VALIDATE:
        lines += next(groups)[0]
    print(f"{path}: {len(lines):,} examples\n")
    write_text(path, "".join(lines))


def fitting(found: "Iterator[tasks.Example]", base: Path) -> Iterator[tuple[list[str], int]]:
    """Yield groups of lines for the examples that fit into a model's context, and the number of rows that they fill."""
    import numpy as np

    from npgpt.data.examples import Example, encode_examples
    from npgpt.data.packing import GROUP, best_fit
    from npgpt.hub.gpt2 import read_config
    from npgpt.tokenizer import Tokenizer

    tokenizer, n_positions = Tokenizer.from_pretrained(base), read_config(base / "config.json").n_positions
    while True:
        some = list(itertools.islice(found, GROUP))
        turns = [Example(made.prompt, made.completion, more=made.more) for made in some]
        sizes = np.array([len(ids) + 1 for ids in encode_examples(turns, tokenizer)[0]])
        fits = sizes <= n_positions
        if not fits.any():
            raise ValueError(f"{base}: examples of {some[0].task!r} do not fit into its context of {n_positions}")
        lines = [json.dumps(made.line(), ensure_ascii=False) + "\n" for made in itertools.compress(some, fits)]
        yield lines, best_fit(sizes[fits], n_positions)[2]


def print_scores(folder: Path, tasks: list[str], n: int, seed: int) -> None:
    """Print how many of n completions per task and language are right, on tales that no model was trained on."""
    print(f"{'task':<12}{'language':<10}{'right':>8}{'key facts':>11}    of {n} each, on tales not used in training")
    wrong = []
    for task in tasks:
        for lang, scores in scores_of(folder / task, task, n, seed).items():
            right, recall = sum(s.right for s in scores) / n, sum(s.recall for s in scores) / n
            facts = f"{recall:>11.0%}" if task == "summary" else " " * 11
            print(
                f"{task:<12}{lang + ('->zh' if lang == 'en' else '->en') if task == 'translate' else lang:<10}"
                f"{right:>8.0%}{facts}",
                flush=True,
            )
            wrong += [f"{task}, {lang}: {s.why}" for s in scores if not s.right][:1]
    if wrong:
        print("\none mistake per task and language:\n" + "\n".join(wrong))


def scores_of(run: Path, task: str, n: int, seed: int, langs: tuple[str, ...] = LANGS) -> "dict[str, list[Score]]":
    """Return the scores of n completions per language. A prompt that is too long for the model has no score."""
    from npgpt.data.tales.corpus import TEST
    from npgpt.data.tales.score import score
    from npgpt.data.tales.tasks import DRAWN, examples
    from npgpt.data.templates import AS_GIVEN
    from npgpt.generation.answers import answers
    from npgpt.generation.opening import learned, open_run

    model, tokenizer = open_run(str(run))
    template = learned(run).template or AS_GIVEN
    tests = list(itertools.islice(examples(seed, (task,), langs, TEST), n * len(langs)))
    fits = [test for test in tests if len(tokenizer.encode(test.prompt)) + 2 < model.config.n_positions]
    temperature, top_p = DRAWN.get(task, (0.0, None))
    found = answers(model, tokenizer, (test.prompt for test in fits), temperature, top_p, seed, template)
    scores: dict[str, list[Score]] = {lang: [] for lang in langs}
    for test, text in zip(fits, found, strict=True):
        scores[test.lang].append(score(test, text))
    return scores
