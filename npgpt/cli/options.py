"""Flags made from the config dataclasses, --config files, and the notice before a compilation."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from npgpt.cli.parser import shortened
from npgpt.config import PRESETS, GPTConfig, TextConfig, TrainConfig
from npgpt.support.fields import field_types, split_fields
from npgpt.support.hints import former
from npgpt.training.recipes import DEFAULT_PRESET, TALES, TALES_IN_TWO

# how help calls the value of a flag, as other commands do
METAVARS: dict[Any, str] = {int: "N", float: "X", str: "NAME", "document_separator": "TEXT", "end_token": "TOKEN"}
METAVARS |= {"trainable": "NAMES", "n_head": "H", "n_embd": "C", "n_positions": "T", "vocab_size": "V"}
ALIASES = {"learning_rate": ("--lr",)}
# what help shows as the default of a field whose value depends on others
END = "the tokenizer's, if it has one"
DEFAULTS = {
    "vocab_size": "the tokenizer's",
    "n_inner": "4 * n_embd",
    "bos_token_id": END,
    "eos_token_id": END,
    "end_token": END,
    "final_eval_tokens": "262144, fewer for a model above 2 million parameters",
    "minutes": "3 for your own text",
}
# keys of a --config file that are not fields of a config
COMMAND_KEYS = ("data", "out", "preset", "recipe", "dropout", "from", "vocab")


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every field of TrainConfig and GPTConfig. A flag that is not given is missing from the result."""
    defaults = shown_defaults()
    add_fields(parser.add_argument_group("training"), TrainConfig, defaults | DEFAULTS)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--dropout",
        type=float,
        default=argparse.SUPPRESS,
        metavar="X",
        help="sets embd_pdrop, resid_pdrop and attn_pdrop",
    )
    add_fields(group, GPTConfig, defaults | DEFAULTS)


def shown_defaults() -> dict[str, str]:
    """Return what help shows as the default of each setting: for one's own text and, where they differ, for tales."""
    fields = (*dataclasses.fields(TrainConfig), *dataclasses.fields(GPTConfig))
    plain = {field.name: field.default for field in fields} | PRESETS[DEFAULT_PRESET]
    shown = {}
    for name, own in plain.items():
        own, one, two = (in_words(values.get(name, own)) for values in ({}, TALES, TALES_IN_TWO))
        shown[name] = f"{own}, or the preset's" if name in PRESETS[DEFAULT_PRESET] else f"{own}"
        shown[name] += f"; tales: {one}" if one != own else ""
        shown[name] += f"; tales in both languages: {two}" if two != one else ""
    return shown


def in_words(value: Any) -> str:
    """Return what help shows for a default."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return {"*": "all", None: "none"}.get(value, str(value))


def add_fields(
    group: Any,
    config: type,
    defaults: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
    helps: Mapping[str, str] | None = None,
) -> None:
    """Add a flag for each field of a config class; help shows `defaults` and `helps` in place of the fields' own."""
    types = field_types(config)
    for field in dataclasses.fields(config):
        if field.name in without:
            continue
        type_, _ = types[field.name]
        default = (defaults or {}).get(field.name, in_words(field.default))
        about = (helps or {}).get(field.name, field.metadata["help"])
        flag: dict[str, Any] = {
            "help": f"{about} (default: {default})",
            "default": argparse.SUPPRESS,
        }
        if type_ is bool:
            flag["action"] = argparse.BooleanOptionalAction
        elif field.metadata["choices"]:
            flag |= {"choices": field.metadata["choices"], "type": partial(of_today, field.name)}
        else:
            flag |= {"type": None if type_ is str else type_, "metavar": METAVARS.get(field.name, METAVARS[type_])}
        group.add_argument(f"--{field.name.replace('_', '-')}", *ALIASES.get(field.name, ()), **flag)


def of_today(name: str, word: str) -> str:
    """Return the word of a flag. Raises ArgumentTypeError for one of an earlier version."""
    if said := former(name, word):
        raise argparse.ArgumentTypeError(f"{word!r}{said}")
    return word


def announce_compiling(ops: str = "fast") -> None:
    """Print a notice on stderr if the ops must be compiled first: once per machine and version, if code can be kept."""
    if ops != "fast":
        return
    from npgpt import kernels
    from npgpt.support.jit import cache_folder, is_compiled

    package = Path(kernels.__file__).parent
    if not is_compiled(package):
        which = "only this start" if cache_folder(package) else "no folder can keep them, so every start"
        print(f"compiling the fast ops for this machine: {which} takes up to half a minute longer", file=sys.stderr)


def read_toml(path: str) -> dict[str, Any]:
    """Read a --config file: the names of flags, written with _ or -, and their values.

    Raises FileNotFoundError, or ValueError that names the file if it is not TOML or has an unknown key.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = parse_toml(file.read_text(encoding="utf-8-sig"))
        values = {key.replace("-", "_"): value for key, value in content.items()}
        twice = [key for key in content if "-" in key and key.replace("-", "_") in content]
        if twice:
            raise ValueError(f"{twice[0]} and {twice[0].replace('-', '_')} are the same key")
        split_fields(values, TrainConfig, GPTConfig, TextConfig, also=COMMAND_KEYS)
        empty = [key for key, value in values.items() if value in ("", []) or value == [""]]
        if empty:
            raise ValueError(f"{empty[0]} is empty: give a value, or leave it out")
        require_types(values)
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors too
        raise ValueError(f"{path}: {shortened(str(error))}") from None
    return values


def parse_toml(text: str) -> dict[str, Any]:
    """Return the content of a TOML file. Raises ValueError in words that do not speak of Python."""
    import tomllib  # here, because a page of help does not need it

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    except ValueError:
        raise ValueError("a number has too many digits") from None


def require_types(values: dict[str, Any]) -> None:
    """Raise ValueError for a key of the command with a value of another type. A single `data` becomes a list."""
    dropout = values.get("dropout", 0.0)
    if isinstance(dropout, bool) or not isinstance(dropout, int | float):
        raise ValueError(f"dropout={dropout!r} must be of type float")
    for key in ("out", "preset", "recipe", "from", "vocab"):
        if not isinstance(values.get(key, ""), str):
            raise ValueError(f"{key}={values[key]!r} must be a string")
    if isinstance(values.get("data"), str):
        values["data"] = [values["data"]]
    data = values.get("data", [])
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise ValueError(f"data={data!r} must be a string or a list of strings")
