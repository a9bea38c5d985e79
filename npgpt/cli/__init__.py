"""The command `npgpt`: one file per subcommand, each with EXAMPLES, `add_flags(parser)` and `run(args)`.

The docstring of such a file is the description in the command's help. A user's mistake is reported in one line on
standard error, with exit code 2. NPGPT_TRACEBACK=1 shows where it was raised.

Imports of npgpt: every room; no room imports it.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from npgpt import __version__
from npgpt.cli import console
from npgpt.cli.parser import Parser

COMMANDS = {
    "train": "train a GPT on tales or on text files",
    "sample": "generate text with a trained model",
    "finetune": "fine-tune a trained model on prompts and completions",
    "train-generator": "train a decoder that writes from a trained model's features",
    "ask": "complete a prompt with a fine-tuned model",
    "distill": "teach a smaller GPT what a trained one knows",
    "eval": "measure how well a model predicts a text",
    "score": "say how likely each line of a file is, token by token",
    "features": "turn each line of a file into a vector",
    "similar": "compare two texts, or find the lines of a file that are nearest to one",
    "export": "write a trained model in another form, such as weights of 8 bits",
    "tales": "print tales or tasks made from them, or check a tale",
    "demo": "train on the tales, fine-tune for four tasks, print the scores",
    "data": "download public-domain texts to train on",
    "prepare": "tokenize text files once, to train on texts of any size",
    "tokenizer": "learn, use and inspect tokenizers",
    "gradcheck": "check backward passes against numerical derivatives",
    "plot": "draw a run's losses",
    "info": "show a model's parameters, memory and FLOPs",
    "profile": "show where the time of a training step goes",
}
# a module called eval would hide the built-in, and a name cannot have a hyphen
MODULES = {"eval": "evaluate", "train-generator": "train_generator"}

# errors that a user can fix; any other error is a defect of npgpt, and keeps its traceback
USER_ERRORS = (ValueError, OSError, FloatingPointError, MemoryError)


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code.

    1 is a check that failed, 2 an error, 128 and a signal's number what the signal ended. 141 is a command whose output
    was closed before it had finished, as in `npgpt sample RUN | head`.
    """
    argv = sys.argv[1:] if argv is None else argv
    with console.open_streams(), console.interrupted_by_signals() as received:
        code = 0
        try:
            code = run(argv)
            sys.stdout.flush()  # here, where an error can still be reported
        except BrokenPipeError:
            return code or 141
        except USER_ERRORS as error:
            if os.environ.get("NPGPT_TRACEBACK"):
                raise
            prog = " ".join(["npgpt", *(name for name in argv[:1] if name in COMMANDS)])
            print(f"{prog}: error: {one_line(error)}", file=sys.stderr)
            return max(code, 2)  # a signal has a higher one
        except BaseException as error:
            if not (received or isinstance(error, KeyboardInterrupt)):
                raise
            print("interrupted", file=sys.stderr)
            return 128 + (received or [signal.SIGINT])[0]
        return code


def run(argv: list[str]) -> int:
    """Run a command line and return its exit code."""
    console.require_output()
    try:
        command, args = parse(argv)
        return command(args)
    except SystemExit as stop:  # the way out of argparse, and of a training that was stopped
        return int(stop.code or 0)


def parse(argv: list[str]) -> tuple[Callable[[argparse.Namespace], int], argparse.Namespace]:
    """Return the command that a command line names, and its arguments."""
    parser = Parser(prog="npgpt", description="A small GPT that you can read, check and use.")
    parser.add_argument("--version", action="version", version=f"npgpt {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    named = next((word for word in argv if not word.startswith("-")), None)
    for name, help in COMMANDS.items():
        if name == named:  # those of all commands would take most of a short command's time
            module = module_of(name)
            sub = subparsers.add_parser(name, help=help, description=module.__doc__, examples=module.EXAMPLES)
            module.add_flags(sub)
        else:
            subparsers.add_parser(name, help=help)
    args = parser.parse_args(argv)
    return module_of(args.command).run, args


def module_of(command: str) -> Any:
    """Return the module of a command."""
    return importlib.import_module(f"npgpt.cli.{MODULES.get(command, command)}")


def one_line(error: BaseException) -> str:
    """Return an error's message on one line. An error of the operating system begins with the file."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory: {str(error) or 'choose smaller sizes, or close other programs'}"
    return " ".join(str(error).split()) or type(error).__name__
