"""Report on texts that a model samples: how much they repeat, beside real text, and how many tales are right."""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from npgpt.cli.checks import require_at_least
from npgpt.cli.running import evaluation_bar
from npgpt.cli.sampling import DEFAULTS, add_sampling_flags, flag, sampling_of
from npgpt.generation.settings import ORDER, Sampling

if TYPE_CHECKING:
    from npgpt.models.base import Model
    from npgpt.tokenizer import Tokenizer

HELP = {
    "max_new_tokens": "most tokens of a text (default: 500, or as many as the context holds if the run has learned "
    "texts that end)"
}
# The first token of a sample is drawn without rules, so what a whole text must begin with, match or end at is no flag
WITHOUT = (
    "min_new_tokens", "prefix", "guidance_scale", "negative_prompt", "stop", "stop_regex", "regex", "json_schema",
    "choices", "logprobs",
)  # fmt: skip
CUTS = {"top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma"}


def add_samples_flags(parser: argparse.ArgumentParser) -> None:
    """Add --samples and the flags of sampling that it goes with. One not given is missing from the result."""
    group = parser.add_argument_group("samples")
    group.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="sample N texts by the settings below, and print how much they repeat, beside the text of --data if that "
        "is given; for a run on tales, how many are right, too",
    )
    add_sampling_flags(parser, DEFAULTS, HELP, WITHOUT)


def check_samples_flags(args: argparse.Namespace) -> None:
    """Raise ValueError for a number that is not possible, and for flags of sampling without --samples."""
    given = [field.name for field in dataclasses.fields(Sampling) if field.name in args]
    if given and args.samples is None:
        raise ValueError(f"{flag(given[0])} has no effect without --samples: add --samples 200")
    require_at_least(1, "--samples", args.samples)


def samples_settings(args: argparse.Namespace) -> Sampling | None:
    """Return how the texts are sampled; None if none are asked for. Raises what sampling_of raises."""
    from npgpt.generation.opening import learned

    if args.samples is None:
        return None
    return sampling_of(args, DEFAULTS | ({"max_new_tokens": None} if learned(args.folder, args.base).examples else {}))


def report_samples(
    model: "Model",
    tokenizer: "Tokenizer",
    args: argparse.Namespace,
    sampling: Sampling,
    source: Callable[[int], list[str]],
) -> None:
    """Sample texts, and print their figures.

    source  returns real texts, about as many as it is asked for, or a single long one; nothing if there are none
    """
    from npgpt.generation.opening import learned, learned_from
    from npgpt.generation.prompts import first_prompt
    from npgpt.generation.samples import sample

    prompt = first_prompt(tokenizer, None, learned(args.folder, args.base))
    done = 0
    with evaluation_bar("sampling") as show:

        def progress(tokens: int) -> None:
            nonlocal done
            done += tokens
            show(done, None)

        found = sample(model, tokenizer, prompt, args.samples, sampling, progress)
    texts = [one.text for one in found]
    real = pieces_of(args.data, source(len(texts)), texts)
    print(f"{len(texts)} text{'s' * (len(texts) > 1)} sampled: {in_words(sampling)}")
    print_figures([("samples", texts)] + ([("real", real)] if real else []))
    report_tales(texts, learned_from(args.folder, args.base).get("files") or [])
    cut = sum(not one.ended for one in found)
    if cut and learned(args.folder, args.base).examples:
        print(f"{'cut off before their end':<24}{100 * cut / len(texts):>9.1f}%")


def in_words(sampling: Sampling) -> str:
    """Return the settings that differ from those of npgpt.Sampling, the temperature among them in any case.

    At temperature 0, those that choose among several likely tokens have no effect, and are left out.
    """
    left = {"max_new_tokens", "temperature"}
    if sampling.temperature == 0 and sampling.order == ORDER:
        left |= CUTS
    names = [field.name for field in dataclasses.fields(Sampling) if field.name not in left]
    values = {name: getattr(sampling, name) for name in ("max_new_tokens", "temperature", *names)}
    plain = Sampling()
    found = {n: v for n, v in values.items() if v is not None and (n == "temperature" or v != getattr(plain, n))}
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in found.items())


def report_tales(texts: Sequence[str], names: Sequence[str]) -> None:
    """Print how many of the samples of a run on tales are right."""
    from npgpt.cli.tales_report import what_is_wrong
    from npgpt.data.tales.corpus import langs_of

    langs = langs_of(names[0]) if len(names) == 1 else None
    if langs:
        right = sum(not what_is_wrong(text, langs) for text in texts)
        print(f"{'right tales':<24}{100 * right / len(texts):>9.1f}%")


def print_figures(columns: "Sequence[tuple[str, Sequence[str]]]") -> None:
    """Print the figures of texts, a column for each kind of text."""
    from npgpt.generation.repetition import repetition

    found = [repetition(texts) for _, texts in columns]
    print(" " * 24 + "".join(f"{name:>10}" for name, _ in columns))
    for name, show in ROWS.items():
        print(f"{name:<24}" + "".join(f"{show(one):>10}" for one in found))


def number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def share(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}%"


ROWS = {
    "words": lambda one: f"{one.words:,}",
    "distinct-1": lambda one: number(one.distinct[0]),
    "distinct-2": lambda one: number(one.distinct[1]),
    "distinct-3": lambda one: number(one.distinct[2]),
    "self-BLEU": lambda one: number(one.self_bleu),
    "repeated 4-grams": lambda one: share(one.repeated),
    "texts with a loop": lambda one: share(one.loops),
    "words before a loop": lambda one: f"{one.loop_free:.1f}",
}


def pieces_of(name: str | None, source: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return as many real texts as there are samples; of a single long one, pieces of as many words as each sample."""
    from npgpt.generation.repetition import words_of

    if len(source) != 1:
        return list(source[: len(texts)])
    words = words_of(source[0])
    sizes = [len(words_of(text)) for text in texts]
    if sum(sizes) > len(words):
        from npgpt.support.notices import notice

        notice(f"{name} has {len(words):,} words, and the samples {sum(sizes):,}: pieces of it overlap")
    found, n = [], len(sizes)
    for i, size in enumerate(sizes):
        start = max(0, len(words) - size) * i // max(1, n - 1)
        found.append(" ".join(words[start : start + size]))
    return found
