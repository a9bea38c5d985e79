"""Complete a prompt with a fine-tuned model: one that is given, all of standard input, each line of a file of JSON
lines, or an example made from a tale. Takes the likeliest completion unless a temperature is given."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from npgpt.cli.tales import LANGS, TASKS

if TYPE_CHECKING:
    from npgpt.model import GPT
    from npgpt.tokenizer import Tokenizer


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder of npgpt finetune")
    parser.add_argument(
        "--prompt", metavar="TEXT", help="what to complete (default: standard input, without its last line end)"
    )
    parser.add_argument("--data", metavar="FILE", help="JSON lines with a prompt each; prints them with completions")
    parser.add_argument(
        "--task", choices=TASKS, help="an example of this task, made from a tale; judges the completion"
    )
    parser.add_argument("--lang", choices=LANGS, help="of that example (default: en)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="(default: as many as the context holds)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="X", help="0 takes the likeliest token (default: 0)"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens alone")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw from the fewest tokens with probability P")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws, and the tale (default: 0)")


def run(args: argparse.Namespace) -> int:
    given = [name for name in ("prompt", "data", "task") if getattr(args, name) is not None]
    if len(given) > 1:
        raise ValueError(f"--{given[0]} and --{given[1]}: give one of them")
    if args.lang is not None and args.task is None:
        raise ValueError(f"--lang {args.lang} has no meaning without --task")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} must be at least 0")
    from npgpt.cli.sample import open_run

    model, tokenizer = open_run(args.run)
    tokenizer.require_end_id()
    if args.data is not None:
        return complete_lines(model, tokenizer, args)
    if args.task is not None:
        return complete_example(model, tokenizer, args)
    prompt = args.prompt
    if prompt is None:
        if sys.stdin.isatty():
            print("type the prompt, and end it with Ctrl-D", file=sys.stderr)
        prompt = sys.stdin.read().removesuffix("\n")  # the one that Enter, or echo, has added
    complete(model, tokenizer, prompt, args)
    return 0


def complete(model: "GPT", tokenizer: "Tokenizer", prompt: str, args: argparse.Namespace) -> str:
    """Print a completion as it comes, and return it."""
    from npgpt.answering import answer_tokens

    settings = (args.max_new_tokens, args.temperature, args.top_k, args.top_p, args.seed)
    pieces = []
    for piece in tokenizer.decode_stream(answer_tokens(model, tokenizer, prompt, *settings)):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces)


def complete_lines(model: "GPT", tokenizer: "Tokenizer", args: argparse.Namespace) -> int:
    """Print each line with the model's completion, and to stderr how many are those that the file has."""
    from npgpt.answering import answer_tokens
    from npgpt.data.examples import read_examples

    settings = (args.max_new_tokens, args.temperature, args.top_k, args.top_p, args.seed)
    same = with_completion = 0
    for example in read_examples([args.data], completions=False):
        try:
            found = tokenizer.decode(list(answer_tokens(model, tokenizer, example.prompt, *settings)))
        except ValueError as error:
            raise ValueError(f"{example.where}: {error}") from None
        print(json.dumps({"prompt": example.prompt, "completion": found}, ensure_ascii=False), flush=True)
        with_completion += bool(example.completion)
        same += bool(example.completion) and found.strip() == example.completion.strip()
    if with_completion:
        print(f"{same} of {with_completion} completions are those of the file, word for word", file=sys.stderr)
    return 0


def complete_example(model: "GPT", tokenizer: "Tokenizer", args: argparse.Namespace) -> int:
    """Make an example of a task, complete it, and judge the completion."""
    from npgpt.data.tales.corpus import TEST
    from npgpt.data.tales.score import score
    from npgpt.data.tales.tasks import examples

    example = next(examples(args.seed, (args.task,), (args.lang or "en",), part=TEST))
    print(example.prompt, end="", flush=True)
    judged = score(example, complete(model, tokenizer, example.prompt, args))
    print("\nright" if judged.right else f"\nwrong: {judged.why}")
    return 0
