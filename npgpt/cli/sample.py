"""Write text with a trained model, token by token."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npgpt.model import GPT
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
    from npgpt.sampling import generate

    model, tokenizer = open_run(args.run, args.last)
    begin = [tokenizer.end_id] if tokenizer.end_id is not None and learned_examples(args.run) else []
    if args.prompt is None:
        prompt = begin or default_prompt(tokenizer, 0)
    elif not args.prompt:
        raise ValueError("--prompt is empty: give at least one character, or leave it out")
    else:
        prompt = begin + [int(i) for i in tokenizer.encode(args.prompt)]
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


def open_run(name: str, last: bool = False) -> tuple["GPT", "Tokenizer"]:
    """Open the best or the last model of a run, and its tokenizer."""
    from npgpt.cli.options import announce_compiling
    from npgpt.model import GPT
    from npgpt.tokenizer import Tokenizer

    announce_compiling()
    if last:
        from npgpt.checkpoint import load_last

        model = load_last(Path(name))
    else:
        model = GPT.from_pretrained(name)
    tokenizer = Tokenizer.from_pretrained(name)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"{name}: the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}"
        )
    return model, tokenizer


def learned_examples(name: str) -> bool:
    """Say whether a run has learned texts that begin and end with the end token, as tales do, and no running text."""
    from npgpt.files import read_json

    path = Path(name) / "train.json"
    data = read_json(path).get("data") if path.is_file() else None
    return isinstance(data, dict) and data.get("examples") is True


def default_prompt(tokenizer: "Tokenizer", first: int) -> list[int]:
    """Return a new line, after which a text begins, or the token `first` where the vocabulary has none."""
    try:
        return [int(i) for i in tokenizer.encode("\n")]
    except ValueError:
        return [first]


def print_text(tokenizer: "Tokenizer", tokens: Iterable[int]) -> None:
    """Print tokens as they come, but not the end token, which is no text."""
    for piece in tokenizer.decode_stream(token for token in tokens if token != tokenizer.end_id):
        print(piece, end="", flush=True)
    print()
