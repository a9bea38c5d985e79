"""Report on texts that a model samples: how much they repeat, beside real text, and how many tales are right."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from npgpt.cli.checks import require_at_least
from npgpt.cli.running import evaluation_bar

if TYPE_CHECKING:
    from npgpt.generation.settings import Sampling
    from npgpt.models.base import Model
    from npgpt.tokenizer import Tokenizer

# the settings of npgpt.Sampling that are flags here, and what help says
FLAGS = {
    "max_new_tokens": "most tokens of a text (default: 500, or as many as the context holds if the run has learned "
    "texts that end)",
    "temperature": "how random the draws are (default: 0.8)",
    "top_k": "draw from the K likeliest tokens only",
    "top_p": "draw from the fewest tokens whose total probability is at least P",
    "min_p": "draw from tokens at least P times as likely as the likeliest",
    "typical_p": "draw from tokens whose surprise is nearest to the expected, to a total probability of P",
    "epsilon_cutoff": "draw from tokens at least as likely as P",
    "eta_cutoff": "like --epsilon-cutoff, but less strict where many tokens are possible",
    "top_n_sigma": "draw from tokens whose logit is at most X standard deviations below the largest",
    "mirostat_tau": "keep the mean surprise of a text near X nats",
    "repetition_penalty": "divide the logits of tokens that were there before; above 1 against repetition",
    "presence_penalty": "subtract X from the logits of tokens that were there before",
    "frequency_penalty": "subtract X from a token's logit for each time that it was there before",
    "dry_multiplier": "penalty for prolonging a repeated sequence (DRY); 0.8 is usual",
    "no_repeat_ngram_size": "never write the same N tokens twice",
    "seed": "seed of the draws (default: 0)",
}
METAVARS = {"top_k": "K", "seed": "S"} | dict.fromkeys(("top_p", "min_p", "typical_p", "epsilon_cutoff"), "P")
TEMPERATURE, TOKENS = 0.8, 500  # as npgpt sample has them


def add_samples_flags(parser: argparse.ArgumentParser) -> None:
    """Add --samples and the flags of sampling that it goes with. One not given is missing from the result."""
    from npgpt.generation.settings import COUNTS

    group = parser.add_argument_group("samples")
    group.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="sample N texts, and print how much they repeat, beside the text of --data if that is given; for a run on "
        "tales, how many are right, too",
    )
    for name, help in FLAGS.items():
        kind, letter = (int, "N") if name in COUNTS else (float, "X")
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=kind, default=argparse.SUPPRESS, metavar=METAVARS.get(name, letter), help=help)


def check_samples_flags(args: argparse.Namespace) -> None:
    """Raise ValueError for flags of sampling without --samples, and for settings that are not possible."""
    given = [name for name in FLAGS if name in args]
    if given and args.samples is None:
        raise ValueError(f"--{given[0].replace('_', '-')} has no effect without --samples: add --samples 200")
    require_at_least(1, "--samples", args.samples)
    if args.samples is not None:
        sampling_of(args, ends=False)


def sampling_of(args: argparse.Namespace, ends: bool) -> "Sampling":
    """Return how the texts are sampled.

    ends  whether the run has learned texts that end
    """
    from npgpt.generation.settings import settings_of

    defaults: dict[str, Any] = {"temperature": TEMPERATURE, "max_new_tokens": None if ends else TOKENS}
    return settings_of(defaults | {name: getattr(args, name) for name in FLAGS if name in args})


def report_samples(
    model: "Model", tokenizer: "Tokenizer", args: argparse.Namespace, source: Callable[[int], list[str]]
) -> None:
    """Sample texts, and print their figures.

    source  returns real texts, about as many as it is asked for, or a single long one; nothing if there are none
    """
    from npgpt.generation.opening import learned, learned_documents, learned_examples
    from npgpt.generation.prompts import first_prompt
    from npgpt.generation.samples import sample

    examples, documents = learned_examples(args.run), learned_documents(args.run)
    prompt = first_prompt(tokenizer, None, examples, learned_documents=documents)
    sampling = sampling_of(args, examples)
    done = 0
    with evaluation_bar("sampling") as show:

        def progress(tokens: int) -> None:
            nonlocal done
            done += tokens
            show(done, None)

        texts = [one.text for one in sample(model, tokenizer, prompt, args.samples, sampling, progress)]
    real = pieces_of(args.data, source(len(texts)), texts)
    print(f"{len(texts)} texts sampled: {in_words(sampling)}")
    print_figures([("samples", texts)] + ([("real", real)] if real else []))
    names = learned(args.run).get("files") or []
    report_tales(texts, names)


def in_words(sampling: "Sampling") -> str:
    """Return the settings that differ from those of npgpt.Sampling, the temperature among them in any case."""
    from npgpt.generation.settings import Sampling

    plain = Sampling()
    values = {name: getattr(sampling, name) for name in FLAGS}
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
