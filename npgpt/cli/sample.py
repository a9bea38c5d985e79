"""Write text with a trained model, token by token."""

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from npgpt.cli.options import announce_compiling

if TYPE_CHECKING:
    from npgpt.tokenizer import Tokenizer


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--prompt", help="the text to go on from (default: the beginning)")
    parser.add_argument("--max-new-tokens", type=int, default=500, metavar="N", help="(default: 500)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="X",
        help="0 takes the likeliest token (default: 0.8)",
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens alone")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw from the fewest tokens with probability P")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws (default: 0)")
    parser.add_argument("--last", action="store_true", help="the model of the last step, not the best one")


def run(args: argparse.Namespace) -> int:
    from npgpt.generation.engine import generate
    from npgpt.generation.opening import learned_examples, open_run
    from npgpt.generation.prompts import first_prompt

    announce_compiling()
    model, tokenizer = open_run(args.run, args.last)
    if args.prompt == "":
        raise ValueError("--prompt is empty: give at least one character, or leave it out")
    prompt = first_prompt(tokenizer, args.prompt, learned_examples(args.run))
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} must be at least 0")
    tokens = generate(
        model,
        prompt,
        args.max_new_tokens,
        args.temperature,
        args.top_k,
        args.top_p,
        args.seed,
        tokenizer.vocab_size,
    )
    print(args.prompt or "", end="", flush=True)
    print_text(tokenizer, tokens)
    return 0


def print_text(tokenizer: "Tokenizer", tokens: Iterable[int]) -> None:
    """Print tokens as they come, but not the end token, which is no text."""
    for piece in tokenizer.decode_stream(token for token in tokens if token != tokenizer.end_id):
        print(piece, end="", flush=True)
    print()
