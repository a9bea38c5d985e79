"""The command `npgpt`: one file a subcommand, each with `add_flags(parser)` and `run(args)`.

A user's mistake is one line on standard error and exit code 2. NPGPT_TRACEBACK=1 shows where it was raised.

Imports of npgpt: every room; no room imports it.
"""

import argparse
import importlib
import os
import sys
from typing import NoReturn

from npgpt import __version__
from npgpt.support.hints import nearest

COMMANDS = {
    "train": "train a GPT on tales, or on text files",
    "sample": "write text with a trained model",
    "finetune": "teach a trained model tasks, from prompts and completions",
    "ask": "complete a prompt with a fine-tuned model",
    "eval": "measure how well a model predicts a text",
    "tales": "print tales, or tasks made from them, or check one",
    "demo": "train and fine-tune on the tales, and score it",
    "data": "download public-domain texts to train on",
    "prepare": "tokenize text files once, for training with constant memory",
    "tokenizer": "learn, use and look at a tokenizer",
    "gradcheck": "check backward passes against finite differences",
    "plot": "draw a run's losses",
    "info": "show a model's parameters, memory and FLOPs",
}
MODULES = {"eval": "evaluate"}  # a module cannot be called eval without hiding the built-in

TRAINING = ("train", "finetune", "demo")

# what a user can mend; anything else is a defect of npgpt, and its traceback is wanted
USER_ERRORS = (ValueError, OSError, FloatingPointError, MemoryError)


class Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if hasattr(sys.stdout, "reconfigure"):  # text that the terminal cannot show must not end the command
        sys.stdout.reconfigure(errors="replace")
    parser = Parser(
        prog="npgpt",
        description="A small GPT that you can read, check and use.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"npgpt {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    commands = {}
    for name, help in COMMANDS.items():
        module = importlib.import_module(f"npgpt.cli.{MODULES.get(name, name)}")
        sub = subparsers.add_parser(name, help=help, description=module.__doc__, allow_abbrev=False)
        module.add_flags(sub)
        commands[name] = (sub, module.run)
    args, unknown = parser.parse_known_args(argv)
    sub, run = commands[args.command]
    if unknown:
        flag = unknown[0].partition("=")[0]
        flags = [option for action in sub._actions for option in action.option_strings]
        hint = nearest(flag, flags) if flag.startswith("-") else ""
        sub.error(f"unknown argument {flag!r}{hint}")
    try:
        return run(args)
    except BrokenPipeError:  # `npgpt sample RUN | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141 if args.command in TRAINING else 0  # but a training that was cut short is no success
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        if os.environ.get("NPGPT_TRACEBACK"):
            raise
        print(f"{sub.prog}: error: {one_line(error)}", file=sys.stderr)
        return 2


def one_line(error: BaseException) -> str:
    """Return the error's message on one line; the operating system's with the file first."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}"
    return " ".join(str(error).split()) or type(error).__name__
