"""Text that a command reads: from an argument, from a file, or from standard input."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from npgpt.cli.checks import require_given
from npgpt.cli.reading import add_encoding, text_config

if TYPE_CHECKING:
    from npgpt.config import TextConfig
    from npgpt.tokenizer.stream import TextFile

END_TOKEN = "name of the special token that ends a text (default: the one that the folder's files name)"
SPECIAL = "read special tokens in the text, such as <|endoftext|>, as tokens, not as plain text"


def add_text(parser: argparse.ArgumentParser) -> None:
    """Add TEXT, --file and --special."""
    parser.add_argument(
        "text",
        type=str,
        nargs="?",
        metavar="TEXT",
        help="text to encode (default: standard input; empty text has no ids)",
    )
    parser.add_argument("--file", metavar="FILE", help="encode the text in this file")
    parser.add_argument("--special", action="store_true", help=SPECIAL)
    add_encoding(parser)


def given_text(args: argparse.Namespace) -> str:
    """Return the text of TEXT, --file or standard input. Raises ValueError for both, and for TEXT that names a file."""
    if args.file is not None:
        require_given("--file", args.file, "a text file")
        if args.text is not None:
            raise ValueError(f"TEXT {args.text!r} and --file {args.file} cannot be combined: give one of them")
        from npgpt.tokenizer.stream import TextFile

        return read_all(TextFile(args.file, Path(args.file), as_it_is(text_config(args).encoding)))
    if args.text is None:
        return read_input("give it as an argument or with --file, or pipe it in", text_config(args).encoding)
    if names_a_file(args.text):
        raise ValueError(
            f"{args.text} is a file, and TEXT is the text itself: to encode what is in the file, give "
            f"--file {args.text}; to encode its name, pipe the name in"
        )
    return args.text


def names_a_file(text: str) -> bool:
    """Say whether a text is the path of a file that exists."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def read_input(instead: str, encoding: str = "utf-8") -> str:
    """Return the text on standard input, which may be empty, with its line ends.

    instead  what to do instead, in the error for a terminal or a closed standard input

    Raises ValueError also for what is no text, or not in its encoding.
    """
    from npgpt.data.text import spooled

    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError(f"nothing to read: {instead}")
    return read_all(spooled("-", as_it_is(encoding)))


def read_prompt(instead: str, encoding: str) -> str:
    """Return the prompt on standard input, without the line end that Enter or echo has added.

    instead  what to do instead, in the error

    Raises ValueError if there is nothing at all, not even a line end.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        print("type the prompt, then press Ctrl-D", file=sys.stderr)
        prompt = sys.stdin.read()
    else:
        prompt = read_input(instead, encoding)
    if not prompt:
        raise ValueError(f"there is no prompt: {instead}")
    return prompt.replace("\r\n", "\n").removesuffix("\n")


def read_all(file: "TextFile") -> str:
    """Return the text of a file, which may be empty. Raises FileNotFoundError or ValueError."""
    from npgpt.tokenizer.stream import read_parts

    return b"".join(read_parts(file)).decode("utf-8")


def as_it_is(encoding: str) -> "TextConfig":
    """Return that a text is read with its line ends, and not as documents."""
    from npgpt.tokenizer.stream import AS_IT_IS

    return dataclasses.replace(AS_IT_IS, encoding=encoding)
