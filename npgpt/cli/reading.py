"""How commands read text files: their flags."""

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from npgpt.cli.options import add_fields
from npgpt.config import TextConfig

if TYPE_CHECKING:
    from npgpt.data import Texts

TEXT_FILES = "text files, a folder of *.txt, a glob such as 'poems/**/*.txt', or - for standard input"


def add_text_flags(parser: argparse.ArgumentParser, *without: str) -> None:
    """Add a flag for each field of TextConfig but those in `without`. The result has only those that are given."""
    group = parser.add_argument_group("text files")
    add_fields(group, TextConfig, {"text_field": "text, for files named *.jsonl"}, without)


def text_config(args: argparse.Namespace) -> TextConfig:
    """Return how the flags say that text files are read."""
    names = {field.name for field in dataclasses.fields(TextConfig)}
    return TextConfig(**{name: value for name, value in vars(args).items() if name in names})


def reading_as_run(args: argparse.Namespace) -> argparse.Namespace:
    """Return arguments in which the text flags that are not given are those of the run in args.folder."""
    from npgpt.training.pretraining import reading_of

    return argparse.Namespace(**reading_of(args.folder, args.base) | vars(args))


def say_reading(given: argparse.Namespace, used: argparse.Namespace) -> None:
    """Give notice of how a text is read otherwise than the given flags and their defaults say."""
    from npgpt.support.notices import notice

    default, config = text_config(given), text_config(used)
    values = {name: value for name, value in vars(config).items() if value != getattr(default, name)}
    if values:
        flags = " ".join(f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in values.items())
        notice(f"{given.data} is read as the text of {given.run} was: {flags}")


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """Add --encoding alone, for files that are not running text."""
    add_text_flags(parser, "newline", "document_separator", "text_field")


def open_named(names: Sequence[str], args: argparse.Namespace, kind: str = "*.txt") -> "Texts":
    """Open the text files that names stand for, as the flags say; of folders, the files of a kind."""
    from npgpt.data import open_texts

    return open_texts(names, text_config(args), kind)
