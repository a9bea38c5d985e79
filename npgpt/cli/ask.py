"""Complete a prompt with a fine-tuned model. The prompt is given with --prompt, read from standard input, read from
each line of a file of JSON lines, or made from a tale. Each token of the completion is the likeliest one, unless
--temperature or --task write asks for a random draw."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from npgpt.cli.checks import require_at_least
from npgpt.cli.options import announce_compiling
from npgpt.cli.reading import add_encoding, open_named, text_config
from npgpt.cli.texts import END_TOKEN, SPECIAL, read_prompt
from npgpt.config import LANGS, TASKS

if TYPE_CHECKING:
    from npgpt.models.base import Model
    from npgpt.tokenizer import Tokenizer

NO_PROMPT = "give --prompt TEXT, pipe it in, or name a file of prompts with --data"
EXAMPLES = (
    'npgpt ask runs/tasks --prompt "Question: Who lost the kite? Answer:"',
    "npgpt ask runs/demo/translate --task translate --lang zh --seed 3",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder of npgpt finetune")
    parser.add_argument(
        "--prompt",
        type=str,
        metavar="TEXT",
        help="the prompt, which may be empty (default: standard input, without the line end that ends it)",
    )
    parser.add_argument("--special", action="store_true", help=SPECIAL)
    parser.add_argument("--end-token", metavar="TOKEN", help=END_TOKEN)
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="file of JSON lines with one prompt or a list of prompts per line; each is printed with its completions",
    )
    parser.add_argument(
        "--task", choices=TASKS, help="make an example of this task from a tale, complete it, and judge the completion"
    )
    parser.add_argument("--lang", choices=LANGS, help="language of that example (default: en)")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="most tokens to generate (default: as many as fit into the context)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="how random the draws are; 0 always takes the likeliest token (default: 0, but 0.8 for --task write, "
        "with --top-p 0.9)",
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens only")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the fewest tokens whose total probability is at least P"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the draws and of the tale (default: 0)"
    )
    add_encoding(parser)


def run(args: argparse.Namespace) -> int:
    given = [name for name in ("prompt", "data", "task") if getattr(args, name) is not None]
    if len(given) > 1:
        raise ValueError(f"--{given[0]} and --{given[1]} cannot be combined: give one of them")
    if args.lang is not None and args.task is None:
        raise ValueError(f"--lang {args.lang} has no effect without --task: add --task, or leave --lang out")
    if args.special and args.task is not None:
        raise ValueError("--special has no effect with --task: a tale's prompt has no special tokens; leave it out")
    require_at_least(0, "--seed", args.seed)
    from npgpt.generation.opening import open_run
    from npgpt.generation.prompts import answer_tokens

    announce_compiling()
    model, tokenizer = open_run(args.run, end_token=args.end_token)
    tokenizer.require_end_id()
    if args.data is not None:
        return complete_lines(model, tokenizer, args)
    if args.task is not None:
        return complete_example(model, tokenizer, args)
    prompt = read_prompt(NO_PROMPT, text_config(args).encoding) if args.prompt is None else args.prompt
    complete(tokenizer, answer_tokens(model, tokenizer, prompt, *settings(args), args.seed, special=args.special))
    return 0


def settings(args: argparse.Namespace) -> tuple[int | None, float, int | None, float | None]:
    """Return max_new_tokens, temperature, top_k and top_p: as given, or as they suit the task."""
    from npgpt.data.tales.tasks import DRAWN

    temperature, top_p = DRAWN.get(args.task, (0.0, None))
    if args.temperature is not None:
        temperature, top_p = args.temperature, None
    return args.max_new_tokens, temperature, args.top_k, top_p if args.top_p is None else args.top_p


def complete(tokenizer: "Tokenizer", tokens: Iterator[int]) -> str:
    """Print a completion while it is generated, and return it."""
    pieces = []
    for piece in tokenizer.decode_stream(tokens):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces)


def complete_lines(model: "Model", tokenizer: "Tokenizer", args: argparse.Namespace) -> int:
    """Print each line with the model's completions, and on stderr how many of them equal those in the file.

    In a conversation, the model reads its own earlier completions before the next prompt.
    """
    import numpy as np

    from npgpt.data.examples import read_examples
    from npgpt.generation.prompts import answer_tokens

    rng = np.random.default_rng(args.seed)
    same = with_completion = 0
    texts = open_named([args.data], args, "*.jsonl")
    for example in read_examples(texts.files, completions=False):
        turns: list[tuple[str, str]] = []
        for prompt, completion in example.turns():
            try:
                tokens = list(answer_tokens(model, tokenizer, prompt, *settings(args), rng, turns, args.special))
            except ValueError as error:
                shorter = "; --max-new-tokens N shortens the model's own answers" if turns else ""
                raise ValueError(f"{example.where}: {error}{shorter}") from None
            turns.append((prompt, tokenizer.decode(tokens)))
            with_completion += bool(completion)
            same += bool(completion) and turns[-1][1].strip() == completion.strip()
        prompts, found = map(list, zip(*turns, strict=True))
        line = (
            {"prompt": prompts, "completion": found} if example.more else {"prompt": prompts[0], "completion": found[0]}
        )
        print(json.dumps(line, ensure_ascii=False), flush=True)
    if with_completion:
        print(f"{same} of {with_completion} completions equal those in the file, word for word", file=sys.stderr)
    return 0


def complete_example(model: "Model", tokenizer: "Tokenizer", args: argparse.Namespace) -> int:
    """Make an example of a task, complete it, and judge the completion."""
    from npgpt.data.tales.corpus import TEST
    from npgpt.data.tales.score import score
    from npgpt.data.tales.tasks import examples
    from npgpt.generation.prompts import answer_tokens

    example = next(examples(args.seed, (args.task,), (args.lang or "en",), part=TEST))
    tokens = answer_tokens(model, tokenizer, example.prompt, *settings(args), args.seed)
    print(example.prompt, end="", flush=True)
    judged = score(example, complete(tokenizer, tokens))
    print("\nright" if judged.right else f"\nwrong: {judged.why}")
    return 0
