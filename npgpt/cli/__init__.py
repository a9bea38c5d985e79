"""The command `npgpt`: one file per subcommand, each with EXAMPLES, `add_flags(parser)` and `run(args)`.

The docstring of such a file is the description in the command's help. A user's mistake is reported in one line on
standard error, with exit code 2. NPGPT_TRACEBACK=1 shows where it was raised.

Imports of npgpt: every room; no room imports it.
"""

import importlib
import os
import sys

from npgpt import __version__
from npgpt.cli.parser import Parser
from npgpt.support.hints import nearest

COMMANDS = {
    "train": "train a GPT on tales or on text files",
    "sample": "generate text with a trained model",
    "finetune": "fine-tune a trained model on prompts and completions",
    "ask": "complete a prompt with a fine-tuned model",
    "eval": "measure how well a model predicts a text",
    "tales": "print tales or tasks made from them, or check a tale",
    "demo": "train on the tales, fine-tune for four tasks, print the scores",
    "data": "download public-domain texts to train on",
    "prepare": "tokenize text files once, to train on texts of any size",
    "tokenizer": "learn, use and inspect tokenizers",
    "gradcheck": "check backward passes against numerical derivatives",
    "plot": "draw a run's losses",
    "info": "show a model's parameters, memory and FLOPs",
}
MODULES = {"eval": "evaluate"}  # a module called eval would hide the built-in

TRAINING = ("train", "finetune", "demo")

# errors that a user can fix; any other error is a defect of npgpt, and keeps its traceback
USER_ERRORS = (ValueError, OSError, FloatingPointError, MemoryError)


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character must not end the command
        sys.stdout.reconfigure(errors="replace")
    parser = Parser(prog="npgpt", description="A small GPT that you can read, check and use.")
    parser.add_argument("--version", action="version", version=f"npgpt {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    commands = {}
    for name, help in COMMANDS.items():
        module = importlib.import_module(f"npgpt.cli.{MODULES.get(name, name)}")
        sub = subparsers.add_parser(name, help=help, description=module.__doc__, examples=module.EXAMPLES)
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
    except BrokenPipeError:  # as in `npgpt sample RUN | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141 if args.command in TRAINING else 0  # a training that was cut short has not succeeded
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        if os.environ.get("NPGPT_TRACEBACK"):
            raise
        print(f"{sub.prog}: error: {one_line(error)}", file=sys.stderr)
        return 2


def one_line(error: BaseException) -> str:
    """Return an error's message on one line. An error of the operating system begins with the file."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}"
    return " ".join(str(error).split()) or type(error).__name__
