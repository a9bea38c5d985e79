"""The flags of npgpt.Sampling, one for each field, and of the engine: what sample, ask and eval have in common."""

import argparse
import dataclasses
import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from npgpt.cli.checks import require_at_least
from npgpt.cli.parser import given
from npgpt.generation.settings import CONTEXTS, COUNTS, ORDER, Sampling

DEFAULTS = {"max_new_tokens": 500, "temperature": 0.8}  # of npgpt sample, and of the samples of npgpt eval
WHERE_FROM = (
    "A setting that is not given is that of the folder's generation_config.json; if that has none, it is the default "
    "shown here."
)
# {heading: {field of Sampling: help}}
FLAGS = {
    "length": {
        "max_new_tokens": "most tokens to write",
        "min_new_tokens": "write at least so many tokens before an end token",
        "context": "when the context is full: block forgets its oldest quarter, slide its oldest token, which is slow, "
        "and stop ends the text",
    },
    "which tokens can be drawn": {
        "temperature": "how random the draws are; 0 always takes the likeliest token",
        "top_k": "the K likeliest",
        "top_p": "the fewest whose total probability is at least P",
        "min_p": "those at least P times as likely as the likeliest",
        "typical_p": "those whose surprise is nearest to what is expected, to a total probability of P",
        "epsilon_cutoff": "those at least as likely as P",
        "eta_cutoff": "like --epsilon-cutoff, but less strict where many tokens are possible",
        "top_n_sigma": "those whose logit is at most X standard deviations below the largest",
        "mirostat_tau": "keep the text's mean surprise near X nats (mirostat 2)",
        "mirostat_eta": "how fast mirostat learns",
        "seed": "seed of the draws",
        "order": "the rules that change logits, in the order in which they work",
    },
    "repetition": {
        "repetition_penalty": "divides the logits of tokens that were there before; above 1 against repetition",
        "presence_penalty": "subtracted from the logits of tokens that were there before",
        "frequency_penalty": "subtracted from a token's logit for each time that it was there before",
        "penalty_window": "all of these rules count the last N tokens only",
        "penalize_prompt": "whether they count the prompt's tokens",
        "dry_multiplier": "penalty for the token that would prolong a repeated sequence (DRY); 0.8 is usual",
        "dry_base": "how fast that penalty grows with the sequence's length",
        "dry_allowed_length": "the longest repeated sequence without that penalty",
        "dry_breakers": "a text that ends such a sequence; may be given several times",
        "no_repeat_ngram_size": "never write the same N tokens twice; 0 allows it",
    },
    "steering": {
        "logit_bias": "add X to the logit of the token with this id; -inf forbids it; may be given several times",
        "banned": "never write this; may be given several times",
        "prefix": "begin what is written with this",
        "negative_prompt": "steer away from what would follow this prompt; needs --guidance-scale",
        "guidance_scale": "how strongly to steer away from the negative prompt; above 1 does so",
    },
    "ends": {
        "stop": "end before this text, which is not shown (\\n stands for a line end); may be given several times",
        "stop_regex": "end before the first match of this regular expression",
        "stop_ids": "ids of the tokens that end a text (default: the end tokens of model and tokenizer)",
    },
    "constraint (needs llguidance: pip install 'npgpt[constrain]')": {
        "regex": "write only what matches this regular expression as a whole",
        "json_schema": "write only JSON that is valid by the schema in this file",
        "choices": "write one of these texts",
    },
    "what is told": {
        "logprobs": "tell the N likeliest tokens at each place, in JSON lines",
    },
}


REPEATS = ("repetition_penalty", "presence_penalty", "frequency_penalty", "dry_multiplier", "no_repeat_ngram_size")
# {setting: the rules whose work it changes, one of which must be asked for}
NEEDED = {
    "mirostat_eta": ("mirostat_tau",),
    "penalty_window": REPEATS,
    "penalize_prompt": REPEATS,
    "dry_base": ("dry_multiplier",),
    "dry_allowed_length": ("dry_multiplier",),
    "dry_breakers": ("dry_multiplier",),
}


def line_ends(text: str) -> str:
    r"""Return a text in which \n has become a line end. Raises ArgumentTypeError for an empty one."""
    return given(text).replace("\\n", "\n")


def bias(text: str) -> tuple[int, float]:
    """Read ID=X. Raises ArgumentTypeError for anything else."""
    name, _, value = text.partition("=")
    try:
        return int(name), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ID=X, such as 50256=-inf") from None


def ids(text: str) -> tuple[int, ...]:
    """Read ID,ID,... Raises ArgumentTypeError for anything else."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of ids, such as 0,50256") from None


def names(text: str) -> tuple[str, ...]:
    """Read NAME,NAME,..."""
    return tuple(given(text).split(","))


# how a field's flag is read, if it is neither a whole number nor a number
READ: dict[str, dict[str, Any]] = {
    "context": {"choices": CONTEXTS},
    "order": {"type": names, "metavar": "RULE,..."},
    "penalize_prompt": {"action": argparse.BooleanOptionalAction},
    "dry_breakers": {"type": line_ends, "action": "append", "metavar": "TEXT"},
    "logit_bias": {"type": bias, "action": "append", "metavar": "ID=X"},
    "banned": {"type": line_ends, "action": "append", "metavar": "TEXT"},
    "prefix": {"type": line_ends, "metavar": "TEXT"},
    "negative_prompt": {"type": str, "metavar": "TEXT"},
    "stop": {"type": line_ends, "action": "append", "metavar": "TEXT"},
    "stop_regex": {"metavar": "REGEX"},
    "stop_ids": {"type": ids, "metavar": "ID,..."},
    "regex": {"metavar": "REGEX"},
    "json_schema": {"metavar": "FILE"},
    "choices": {"type": str, "nargs": "+", "action": "extend", "metavar": "TEXT"},
}
METAVARS = {"top_k": "K", "top_p": "P", "min_p": "P", "typical_p": "P", "epsilon_cutoff": "P", "eta_cutoff": "P"}
METAVARS["seed"] = "S"


def add_sampling_flags(
    parser: argparse.ArgumentParser,
    defaults: Mapping[str, Any],
    helps: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
) -> None:
    """Add a flag for every field of Sampling, but for those in `without`. One not given is missing from the result.

    defaults  what the command uses where it differs from Sampling
    helps     what help says of a field, its default included, in place of the words here
    """
    own = {field.name: field.default for field in dataclasses.fields(Sampling)} | dict(defaults)
    about: str | None = WHERE_FROM
    for heading, fields in FLAGS.items():
        shown = {name: help + in_words(own[name]) for name, help in fields.items() if name not in without}
        group = parser.add_argument_group(heading, about) if shown else parser
        about = None
        for name, help in (shown | {name: help for name, help in (helps or {}).items() if name in shown}).items():
            number = {"type": int if name in COUNTS else float, "metavar": "N" if name in COUNTS else "X"}
            options = READ.get(name, number)
            if name in METAVARS:
                options = options | {"metavar": METAVARS[name]}
            group.add_argument(flag(name), default=argparse.SUPPRESS, help=help, **options)


def flag(name: str) -> str:
    """Return how the flag of a field is written."""
    return f"--{name.replace('_', '-')}"


def in_words(default: Any) -> str:
    """Return what help says of a default; nothing if the setting is off."""
    if default is None or default in ((), ""):
        return ""
    if isinstance(default, tuple):
        default = ", ".join(default) if default == ORDER else " ".join(text.replace("\n", "\\n") for text in default)
    elif isinstance(default, bool):
        default = "on" if default else "off"
    elif isinstance(default, float):
        default = f"{default:g}"
    return f" (default: {default})"


def sampling_of(args: argparse.Namespace, defaults: Mapping[str, Any], unused: Collection[str] = ()) -> Sampling:
    """Return how a text is to be written: as the flags say, or else the folder's file, or else the command.

    unused  settings that the file may have and that have no effect here

    Raises what Sampling raises, ValueError for a flag that has no effect, and FileNotFoundError or ValueError for a
    schema that cannot be read.
    """
    from npgpt.generation.defaults import defaults_of
    from npgpt.support.notices import notice

    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Sampling) if field.name in args}
    if "logit_bias" in given:
        given["logit_bias"] = biases(given["logit_bias"])
    if "json_schema" in given:
        given["json_schema"] = read_schema(given["json_schema"])
    own = {name: value for name, value in defaults_of(args.folder, args.base).items() if name not in given}
    left = {name: own.pop(name) for name in [*own] if name in unused}
    for values, what in ((left, ", which has no effect here, where nothing is drawn"), (own, "; flags override it")):
        if values:
            said = ", ".join(f"{name}={value!r}" for name, value in values.items())
            notice(f"{args.run}/generation_config.json sets {said}{what}")
    try:
        sampling = Sampling(**{**defaults, **own, **given})
    except (ValueError, TypeError) as error:
        raise ValueError(with_flags(str(error))) from None
    require_effect(given, sampling)
    return sampling


def with_flags(message: str) -> str:
    """Return an error of Sampling with flags in place of fields; what it quotes stays.

    >>> with_flags("top_p=0.0 must be a number above 0 and at most 1")
    '--top-p=0.0 must be a number above 0 and at most 1'
    """
    fields = "|".join(field.name for field in dataclasses.fields(Sampling))
    quoted = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|"""
    return re.sub(rf"{quoted}\b({fields})\b", lambda match: flag(match[1]) if match[1] else match[0], message)


def require_effect(given: Iterable[str], sampling: Sampling) -> None:
    """Raise ValueError for a flag that says how a rule works which is not asked for."""
    plain = Sampling()
    for name in given:
        rules = NEEDED.get(name, ())
        if rules and all(getattr(sampling, rule) == getattr(plain, rule) for rule in rules):
            raise ValueError(f"{flag(name)} has no effect without {' or '.join(map(flag, rules))}: add it")


def biases(pairs: list[tuple[int, float]]) -> dict[int, float]:
    """Return {id: bias}. Raises ValueError for an id with two."""
    found = dict(pairs)
    for i in found:
        if [other for other, _ in pairs].count(i) > 1:
            raise ValueError(f"--logit-bias has the id {i} twice")
    return found


def read_schema(name: str) -> str:
    """Return the JSON of a file. Raises FileNotFoundError, or ValueError that names it."""
    from npgpt.support.files import read_json

    if name == "-":
        raise ValueError("--json-schema -: give a file; standard input is for prompts")
    return json.dumps(read_json(Path(name)), ensure_ascii=False)


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add how the engine runs: weights, threads, a deadline, and when the checksum is compared."""
    group = parser.add_argument_group("engine")
    group.add_argument("--weights", choices=("int8",), help="round the weights to 8 bits: faster, and a little worse")
    group.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads to compute with (default: 0; as many as pay)"
    )
    group.add_argument(
        "--deadline", type=float, metavar="SECONDS", help="end the texts where they are after so many seconds"
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="compare the model's file with its checksum before the text; otherwise it is compared after it",
    )


def check_engine_flags(args: argparse.Namespace) -> None:
    """Raise ValueError for a value that is not possible."""
    require_at_least(0, "--threads", args.threads)
    if args.deadline is not None and not 0 < args.deadline < float("inf"):
        raise ValueError(f"--deadline={args.deadline} must be seconds above 0")


def print_pieces(texts: Iterable[str], begin: str = "") -> str:
    """Print pieces of a text as they come and a line end after them, also after an interrupt; return the text.

    begin  what is printed before it
    """
    found = []
    try:
        print(begin, end="", flush=True)
        for piece in texts:
            print(piece, end="", flush=True)
            found.append(piece)
    finally:
        print(flush=True)
    return "".join(found)


def say_reasons(
    reasons: Iterable[str], args: argparse.Namespace, sampling: Sampling, ends: bool, told: bool = False
) -> int:
    """Say on standard error which texts were cut off where a reader could not know; return the exit code.

    reasons  why each ended, or a Counter of that
    ends     whether the model has learned where a text ends
    told     whether the output itself says why each text ended
    """
    more = "; --max-new-tokens N allows more"
    full = "because the context is full"
    limit = full if sampling.max_new_tokens is None else f"after {sampling.max_new_tokens} tokens{more}"
    says = {
        "unfinished": f"before it matched what it must match{'' if args.deadline else more}",
        "deadline": f"after --deadline {args.deadline} seconds",
        "context": full,
        "length": limit if ends and "max_new_tokens" not in args else "",
    }
    counts = Counter(reasons)
    for reason, count in counts.items():
        if says.get(reason) and (reason == "unfinished" or not told):
            which = "the text was" if counts.total() == 1 else f"{count} of {counts.total()} texts were"
            print(f"{which} cut off {says[reason]}", file=sys.stderr)
    return 1 if "unfinished" in counts else 0
