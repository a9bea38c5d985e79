"""The parser of all commands: an error is one line, and a page of help ends with examples."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from npgpt.support.hints import nearest

HEADING = "examples:\n"


class HelpFormatter(argparse.HelpFormatter):
    """Wraps every text except the examples, which keep their lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(HEADING) else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser without abbreviated flags, whose error is one line.

    examples  command lines that the page of help ends with
    """

    def __init__(self, *, examples: Sequence[str] = (), **options: Any) -> None:
        epilog = HEADING + "".join(f"  {example}\n" for example in examples) if examples else None
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, epilog=epilog, **options)
        self.register("type", int, whole_number)
        self.register("type", None, given)  # for what is not text, which is of type str

    def add_subparsers(self, **options: Any) -> Any:
        """Add the commands or actions, which look at their own arguments themselves."""
        action = super().add_subparsers(**options)
        action.type = str
        return action

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, and refuse what is unknown with a hint. An action refuses it itself, since it knows its own flags."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            flags = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown argument {flag!r}{nearest(flag, flags) if flag.startswith('-') else ''}")
        return found, []

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {shortened(message)} (see {self.prog} --help)\n")


def shortened(message: str) -> str:
    """Return a message with its words, some of which are a user's values, cut at 50 characters."""
    return re.sub(r"([^\s']{50})[^\s']+", r"\1...", message)


def whole_number(text: str) -> int:
    """Return the number of a flag. Raises ArgumentTypeError for one that would overflow somewhere."""
    if (len(text) > 20 and text.lstrip("+-").isdecimal()) or abs(int(text)) >= 2**63:  # int takes 4,300 digits at most
        raise argparse.ArgumentTypeError(f"{text[:20]}... is too large")
    return int(text)


def given(text: str) -> str:
    """Return the value of a flag. Raises ArgumentTypeError for an empty one, which as a path would be this folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def add_actions(parser: argparse.ArgumentParser) -> Any:
    """Add the actions of a command such as `npgpt tokenizer encode`: args.action is the name of the one given."""
    return parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))


def add_action(actions: Any, name: str, help: str, *examples: str) -> argparse.ArgumentParser:
    """Add one of the actions. Its help, made a sentence, describes it on its own page of help."""
    return actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", examples=examples)
