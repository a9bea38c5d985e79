"""Print tales of the world that npgpt comes with, or tasks made from them as JSON lines, or check a text against its
grammar. The same seed prints the same tales."""

import argparse
import itertools
import json
import sys

from npgpt.support.hints import nearest

# as in npgpt.data.tales, which takes NumPy: too slow for a page of help
LANGS = ("en", "zh")
TASKS = ("answer", "summary", "translate", "write")
WORDS = 3


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("n", nargs="?", type=int, metavar="N", help="how many (default: 1)")
    parser.add_argument("--lang", choices=LANGS, help="English or Chinese (default: en; of tasks, both)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(default: 0)")
    parser.add_argument("--part", type=int, default=0, metavar="P", help="other tales of the same seed (default: 0)")
    parser.add_argument(
        "--tasks",
        nargs="?",
        const=",".join(TASKS),
        metavar="TASK,...",
        help=f"examples for npgpt finetune: {','.join(TASKS)} (default: all of them in turn)",
    )
    parser.add_argument(
        "--excerpts",
        type=float,
        default=0.0,
        metavar="X",
        help="the share of them that is made of excerpts, to be learned first (default: 0)",
    )
    parser.add_argument(
        "--questions",
        type=int,
        default=0,
        metavar="K",
        help="up to K further questions about its tale follow each of them, the turns of a conversation (default: 0)",
    )
    parser.add_argument(
        "--words",
        type=int,
        metavar="K",
        help="an order to write with some words gives from 3 up to K, if its tale has so many (default: 3)",
    )
    parser.add_argument("--check", metavar="FILE", help="a text: say where it leaves the grammar; - is standard input")


def run(args: argparse.Namespace) -> int:
    n = 1 if args.n is None else args.n
    words = WORDS if args.words is None else args.words
    if args.check is not None:
        for name, value in ("N", args.n), ("--tasks", args.tasks), ("--words", args.words):
            if value is not None:
                raise ValueError(f"{name} {value} has no meaning with --check")
        return check(args.check, args.lang)
    for name, value, least in (
        ("N", n, 1),
        ("--seed", args.seed, 0),
        ("--part", args.part, 0),
        ("--questions", args.questions, 0),
        ("--words", words, WORDS),
    ):
        if value < least:
            raise ValueError(f"{name} {value} must be at least {least}")
    if not 0 <= args.excerpts <= 1:
        raise ValueError(f"--excerpts {args.excerpts} must be between 0 and 1")
    for name, value in ("--excerpts", args.excerpts), ("--questions", args.questions), ("--words", args.words):
        if value and args.tasks is None:
            raise ValueError(f"{name} {value} has no meaning without --tasks")
    if args.tasks is not None:
        from npgpt.data.tales.tasks import examples

        langs = (args.lang,) if args.lang else LANGS
        tasks = read_tasks(args.tasks)
        if args.words is not None and "write" not in tasks:
            raise ValueError(f"--words {args.words} has no meaning without the task write")
        found = examples(args.seed, tasks, langs, args.part, args.excerpts, args.questions, words)
        for example in itertools.islice(found, n):
            print(json.dumps(example.line(), ensure_ascii=False))
        return 0
    from npgpt.data.tales import texts

    for i, text in enumerate(itertools.islice(texts(args.seed, args.lang or "en", args.part), n)):
        print(f"\n{'-' * 40}\n\n{text}" if i else text)
    return 0


def read_tasks(flag: str) -> tuple[str, ...]:
    """Return the tasks that --tasks names. Raises ValueError for one that there is not."""
    tasks = tuple(flag.split(","))
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"--tasks {task!r} is unknown{nearest(task, TASKS)}")
    return tasks


def check(name: str, lang: str | None) -> int:
    """Say whether a file's text is a tale, and what happens in it; exit code 1 if it is not."""
    from npgpt.data import read_text
    from npgpt.data.tales import NotATaleError, language_of, nats, parse

    if not name:
        raise ValueError("--check is empty: give a file, or - for standard input")
    text = sys.stdin.read() if name == "-" else read_text(name)
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
