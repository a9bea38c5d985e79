"""Generate text with a trained model, and print each token as soon as it is drawn."""

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from npgpt.cli.checks import require_at_least, require_given
from npgpt.cli.options import announce_compiling
from npgpt.cli.texts import END_TOKEN, SPECIAL

if TYPE_CHECKING:
    from npgpt.tokenizer import Tokenizer

EXAMPLES = (
    'npgpt sample runs/poems --prompt "Shall I compare thee" --max-new-tokens 200',
    "npgpt sample runs/tang --prompt 床前明月光 --temperature 0.5 --top-k 40",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--prompt", help="text to continue (default: start a new text)")
    parser.add_argument("--special", action="store_true", help=SPECIAL)
    parser.add_argument("--end-token", metavar="TOKEN", help=END_TOKEN)
    parser.add_argument(
        "--max-new-tokens", type=int, default=500, metavar="N", help="most tokens to generate (default: 500)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="X",
        help="how random the draws are; 0 always takes the likeliest token (default: 0.8)",
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens only")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the fewest tokens whose total probability is at least P"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the draws (default: 0)")
    parser.add_argument("--last", action="store_true", help="use the model of the last step, not the best one")


def run(args: argparse.Namespace) -> int:
    from npgpt.generation.opening import learned_documents, learned_examples, open_run
    from npgpt.generation.prompts import continue_text, first_prompt

    announce_compiling()
    model, tokenizer = open_run(args.run, args.last, args.end_token)
    require_given("--prompt", args.prompt, "at least one character, or leave it out")
    if args.special and args.prompt is None:
        raise ValueError("--special has no effect without --prompt: add it, or leave --special out")
    examples, documents = learned_examples(args.run), learned_documents(args.run)
    prompt = first_prompt(tokenizer, args.prompt, examples, special=args.special, learned_documents=documents)
    require_at_least(0, "--seed", args.seed)
    tokens = continue_text(
        model, tokenizer, prompt, args.max_new_tokens, args.temperature, args.top_k, args.top_p, args.seed
    )
    print(args.prompt or "", end="", flush=True)
    print_text(tokenizer, tokens)
    return 0


def print_text(tokenizer: "Tokenizer", tokens: Iterable[int]) -> None:
    """Print tokens as they come."""
    for piece in tokenizer.decode_stream(tokens):
        print(piece, end="", flush=True)
    print()
