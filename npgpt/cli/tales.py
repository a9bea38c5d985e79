"""Print tales, which a grammar generates, or tasks made from them as JSON lines, or check a text against the grammar.
The same seed prints the same tales."""

import argparse
import itertools
import json

from npgpt.cli.checks import require_at_least, require_given
from npgpt.cli.console import keep_going
from npgpt.cli.texts import read_input
from npgpt.config import FEWEST_WORDS, LANGS, TASKS
from npgpt.support.hints import nearest

EXAMPLES = (
    "npgpt tales 3 --lang zh",
    "npgpt tales 500 --tasks answer,summary --questions 2 > tasks.jsonl",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("n", nargs="?", type=int, metavar="N", help="number of tales or tasks (default: 1)")
    parser.add_argument("--lang", choices=LANGS, help="language, English or Chinese (default: en; for tasks, both)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the tales (default: 0)")
    parser.add_argument(
        "--part",
        type=int,
        default=0,
        metavar="P",
        help="which tales of the seed: each part, 0, 1, 2, ..., has others; npgpt train uses parts 0 and 1 of its seed "
        "(default: 0)",
    )
    parser.add_argument(
        "--tasks",
        nargs="?",
        const=",".join(TASKS),
        metavar="TASK,...",
        help=f"print examples for npgpt finetune of these tasks in turn: {','.join(TASKS)} (without a value: all)",
    )
    parser.add_argument(
        "--excerpts",
        type=float,
        default=0.0,
        metavar="X",
        help="share of the examples, from 0 to 1, that are made from a part of a tale instead of a whole one; they are "
        "easier to learn first (default: 0)",
    )
    parser.add_argument(
        "--questions",
        type=int,
        default=0,
        metavar="K",
        help="let up to K more questions about the same tale follow each example, which becomes a conversation "
        "(default: 0)",
    )
    parser.add_argument(
        "--words",
        type=int,
        metavar="K",
        help=f"in the task write, the most words that an order may ask the tale to use; it asks for at least "
        f"{FEWEST_WORDS} (default: {FEWEST_WORDS})",
    )
    parser.add_argument(
        "--check", metavar="FILE", help="say where this text leaves the grammar, if it does; - is standard input"
    )


def run(args: argparse.Namespace) -> int:
    if args.check is not None:
        for name, value in ("N", args.n), ("--tasks", args.tasks), ("--words", args.words):
            if value is not None:
                raise ValueError(f"{name} {value} has no effect with --check: leave it out")
        return check(args.check, args.lang)
    require_at_least(1, "N", args.n)
    require_at_least(0, "--seed", args.seed)
    require_at_least(0, "--part", args.part)
    require_task_flags(args)
    if args.tasks is None:
        print_tales(args)
    else:
        print_tasks(args)
    return 0


def require_task_flags(args: argparse.Namespace) -> None:
    """Raise ValueError for flags of tasks that are out of range, or given without --tasks."""
    require_at_least(0, "--questions", args.questions)
    require_at_least(FEWEST_WORDS, "--words", args.words)
    if not 0 <= args.excerpts <= 1:
        raise ValueError(f"--excerpts {args.excerpts} must be between 0 and 1")
    for name, value in ("--excerpts", args.excerpts), ("--questions", args.questions), ("--words", args.words):
        if value and args.tasks is None:
            raise ValueError(f"{name} {value} has no effect without --tasks: add --tasks, or leave it out")


def print_tasks(args: argparse.Namespace) -> None:
    """Print examples of the tasks as JSON lines."""
    from npgpt.data.tales.tasks import examples

    tasks = read_tasks(args.tasks)
    if args.words is not None and "write" not in tasks:
        raise ValueError(f"--words {args.words} has no effect without the task write: leave it out")
    langs = (args.lang,) if args.lang else LANGS
    words = FEWEST_WORDS if args.words is None else args.words
    found = examples(args.seed, tasks, langs, args.part, args.excerpts, args.questions, words)
    for example in itertools.islice(found, args.n or 1):
        print(json.dumps(example.line(), ensure_ascii=False))


def print_tales(args: argparse.Namespace) -> None:
    """Print tales, with a line between them."""
    from npgpt.data.tales import texts

    for i, text in enumerate(itertools.islice(texts(args.seed, args.lang or "en", args.part), args.n or 1)):
        print(f"\n{'-' * 40}\n\n{text}" if i else text)


def read_tasks(flag: str) -> tuple[str, ...]:
    """Return the tasks that --tasks names. Raises ValueError for an unknown one."""
    tasks = tuple(flag.split(","))
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"--tasks {task!r} is unknown{nearest(task, TASKS)}")
    return tasks


def check(name: str, lang: str | None) -> int:
    """Print what happens in a tale and return 0, or print why a text is not a tale and return 1."""
    from npgpt.data import read_text
    from npgpt.data.tales import NotATaleError, language_of, nats, parse

    require_given("--check", name, "a file, or - for standard input")
    keep_going()
    try:
        text = read_input("pipe the tale in, or give its file") if name == "-" else read_text(name)
    except ValueError as error:
        if "--encoding" not in str(error):
            raise
        raise ValueError(f"{str(error).partition('; ')[0]}; save it as UTF-8") from None  # there is no such flag here
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").strip()
    lang = lang or language_of(text)
    try:
        tale = parse(text, lang)
    except NotATaleError as error:
        print(f"not a tale: {error}")
        return 1
    print(f"a tale of the kind {tale.plot!r}, -log p = {nats(tale, lang):.2f} nats")
    for node in tale.nodes:
        drawn = {var: next(iter(vars(getattr(tale.words[var], lang)).values())) for var in node.scene.draws}
        print(f"  {node.scene.name:<16}", ", ".join(f"{var}={word}" for var, word in drawn.items()))
    return 0
