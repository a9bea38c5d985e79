"""Train a model on the tales in English and Chinese, fine-tune it to answer questions, sum up, translate and write to
order, and print how well it does each: half an hour on two cores. It shows the commands that it runs; they work by
themselves, and what is there already is not done again."""

import argparse
import itertools
import json
import shlex
from pathlib import Path

TUNE = ["--learning-rate", "2.5e-3", "--eval-every", "1000", "--save-every", "1000"]
MIX = ("answer", "translate", "summary", "translate", "write")  # a translation is the hardest to learn


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/demo", metavar="FOLDER", help="for both runs (default: runs/demo)")
    parser.add_argument("--base-steps", type=int, default=9200, metavar="N", help="of training (default: 9200)")
    parser.add_argument("--tune-steps", type=int, default=9200, metavar="N", help="of fine-tuning (default: 9200)")
    parser.add_argument("--tests", type=int, default=100, metavar="N", help="of each task and language (default: 100)")
    parser.add_argument("--seed", type=int, default=1337, metavar="S", help="(default: 1337)")


def run(args: argparse.Namespace) -> int:
    for name in ("base_steps", "tune_steps", "tests"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1")
    if not args.out:
        raise ValueError("--out is empty: give a folder, or leave it out")
    folder = Path(args.out)
    base, tuned, lines = folder / "base", folder / "tuned", folder / "tasks.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    call(["train", "--data", "tales"], base, args.base_steps, args.seed)
    if not lines.exists():
        write_tasks(lines, min(80_000, 11 * args.tune_steps), args.seed)  # a step takes about 11 of them
    call(["finetune", str(base), "--data", str(lines), *TUNE], tuned, args.tune_steps, args.seed)
    print_scores(tuned, args.tests, args.seed)
    return 0


def call(command: list[str], out: Path, steps: int, seed: int) -> None:
    """Run a command of npgpt that trains, or go on with the run that it has begun. Raises SystemExit if it fails."""
    from npgpt.checkpoint import STATE
    from npgpt.cli import main

    if (out / STATE).exists():
        require_same(out, steps, seed)
        if is_whole(out):
            print(f"{out} is there already\n")
            return
        command = [*command, "--resume"]
    command = [*command, "--max-steps", str(steps), "--seed", str(seed), "--out", str(out)]
    print(f"$ npgpt {shlex.join(command)}", flush=True)
    code = main(command)
    print()
    if code:
        raise SystemExit(code)


def require_same(out: Path, steps: int, seed: int) -> None:
    """Raise ValueError if a run is there that was begun with another number of steps or another seed."""
    from npgpt.cli.running import read_saved

    train = read_saved(out)["train"]
    for name, value in ("max_steps", steps), ("seed", seed):
        if train.get(name) != value:
            raise ValueError(f"{out} was begun with {name}={train.get(name)}, not {value}: choose another --out")


def is_whole(out: Path) -> bool:
    """Say whether a run has come to its end."""
    path = out / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return bool(lines) and '"whole": true' in lines[-1]


def write_tasks(path: Path, n: int, seed: int) -> None:
    """Write n examples, of the tasks and languages in turn."""
    from npgpt.data.tales.corpus import LEARN
    from npgpt.data.tales.tasks import examples
    from npgpt.files import write_text

    print(f"{path}: {n:,} examples\n")
    found = itertools.islice(examples(seed, MIX, part=LEARN), n)
    write_text(path, "".join(json.dumps(example.line(), ensure_ascii=False) + "\n" for example in found))


def print_scores(run: Path, n: int, seed: int) -> None:
    """Print how many of n completions of each task and language are right, on tales that the model has not seen."""
    from npgpt.answering import answers
    from npgpt.data.tales import LANGS
    from npgpt.data.tales.corpus import TEST
    from npgpt.data.tales.score import score
    from npgpt.data.tales.tasks import TASKS, examples
    from npgpt.model import GPT
    from npgpt.tokenizer import Tokenizer

    model, tokenizer = GPT.from_pretrained(run), Tokenizer.from_pretrained(run)
    tests = list(itertools.islice(examples(seed, part=TEST), n * len(TASKS) * len(LANGS)))
    fits = [test for test in tests if len(tokenizer.encode(test.prompt)) + 2 < model.config.n_positions]
    found = answers(model, tokenizer, [test.prompt for test in fits])
    scores = {id(test): score(test, text) for test, text in zip(fits, found, strict=True)}
    print(f"{'task':<12}{'language':<10}{'right':>8}{'key facts':>11}    of {n} each, on tales it has not seen")
    wrong = []
    for task in TASKS:
        for lang in LANGS:
            mine = [test for test in tests if (test.task, test.lang) == (task, lang)]
            its = [scores[id(test)] for test in mine if id(test) in scores]
            right, recall = sum(s.right for s in its) / n, sum(s.recall for s in its) / n
            facts = f"{recall:>11.0%}" if task == "summary" else " " * 11
            print(
                f"{task:<12}{lang + ('->zh' if lang == 'en' else '->en') if task == 'translate' else lang:<10}"
                f"{right:>8.0%}{facts}"
            )
            wrong += [f"{task}, {lang}: {s.why}" for s in its if not s.right][:1]
    if wrong:
        print("\none mistake of each kind:\n" + "\n".join(wrong))
