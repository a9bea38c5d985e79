"""The flags of searches, with which npgpt sample finds a text in another way than drawing one token after another."""

import argparse
import functools
from typing import TYPE_CHECKING, Any

from npgpt.cli.checks import require_at_least
from npgpt.cli.sampling import flag

if TYPE_CHECKING:
    from npgpt.generation.engine import Generator
    from npgpt.generation.requests import Completion
    from npgpt.generation.settings import Sampling
    from npgpt.models.base import Model

BEAMS = ("num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping")
STOPPING = {"true": True, "false": False, "never": "never"}


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting of a search. One not given is missing from the result."""
    group = parser.add_argument_group("search", "One of --num-beams, --penalty-alpha, --best-of and --draft.")
    flags: tuple[tuple[str, Any, str, str], ...] = (
        ("num_beams", int, "N", "beam search: follow N texts at once; --num-samples of the best are printed"),
        ("num_beam_groups", int, "N", "groups of beams, each away from those before it"),
        ("diversity_penalty", float, "X", "what a token costs that an earlier group has at the same place"),
        ("length_penalty", float, "X", "divide a text's log-probability by its length to this power; 1 if not given"),
        ("penalty_alpha", float, "X", "contrastive search among the --top-k likeliest: what likeness costs, 0 to 1"),
        ("best_of", int, "N", "draw N texts, and print the one with the highest mean log-probability"),
        ("draft", None, "RUN", "let a smaller model of the same vocabulary draft tokens: same distribution, sooner"),
    )
    for name, kind, metavar, about in flags:
        group.add_argument(flag(name), type=kind, default=argparse.SUPPRESS, metavar=metavar, help=about)
    group.add_argument(
        "--early-stopping",
        choices=STOPPING,
        default=argparse.SUPPRESS,
        help="when beam search ends; false if not given",
    )


def search_of(args: argparse.Namespace) -> str | None:
    """Return the flag of the search that is asked for. Raises ValueError for two, and for flags without theirs."""
    given = [name for name in ("num_beams", "penalty_alpha", "best_of", "draft") if name in args]
    if len(given) > 1:
        raise ValueError(f"{flag(given[0])} and {flag(given[1])} cannot be combined")
    for name in BEAMS[1:]:
        if name in args and "num_beams" not in args and not (name == "length_penalty" and "best_of" in args):
            raise ValueError(f"{flag(name)} has no effect without --num-beams: add it")
    if not given:
        return None
    if args.interactive:
        raise ValueError(f"{flag(given[0])} and --interactive cannot be combined")
    if given[0] == "num_beams":
        require_at_least(1, "--num-beams", args.num_beams)
        if args.num_samples > args.num_beams:
            more = f"--num-samples {args.num_samples} is more than --num-beams {args.num_beams}"
            raise ValueError(f"{more}, which are all that are found")
    elif args.num_samples > 1:
        raise ValueError(f"{flag(given[0])} gives one text: leave --num-samples out")
    require_at_least(1, "--best-of", getattr(args, "best_of", None))
    if given[0] == "best_of" and args.deadline is not None:
        raise ValueError("--best-of and --deadline cannot be combined")
    return given[0]


def slots_of(args: argparse.Namespace, search: str, sampling: "Sampling") -> int:
    """Return how many texts a search follows at once."""
    if search == "num_beams":
        return int(args.num_beams)
    return sampling.top_k or 1 if search == "penalty_alpha" else min(8, args.best_of) if search == "best_of" else 1


def searched(
    generator: "Generator",
    ids: list[int],
    sampling: "Sampling",
    search: str,
    args: argparse.Namespace,
    deadline: float | None,
) -> list["Completion"]:
    """Return the texts that a search finds before a deadline, seconds from now, the best first."""
    from npgpt.generation.search import Beams, beam_search, best_of, contrastive_search, speculative

    if search == "num_beams":
        values: dict[str, Any] = {name: getattr(args, name) for name in BEAMS if name in args}
        if "early_stopping" in values:
            values["early_stopping"] = STOPPING[values["early_stopping"]]
        return list(beam_search(generator, ids, Beams(n=args.num_samples, **values), sampling, deadline))
    if search == "penalty_alpha":
        return [contrastive_search(generator, ids, args.penalty_alpha, sampling, deadline)]
    if search == "best_of":
        return [best_of(generator.complete([ids], sampling, n=args.best_of), getattr(args, "length_penalty", 1.0))]
    return [speculative(generator, small_model(args.draft), ids, sampling, deadline=deadline)]


@functools.cache
def small_model(name: str) -> "Model":
    """Open the model that drafts."""
    from npgpt.generation.opening import open_run

    return open_run(name)[0]


def without_draws(defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the command's defaults without that of the temperature, for a search that draws nothing."""
    return {name: value for name, value in defaults.items() if name != "temperature"}
