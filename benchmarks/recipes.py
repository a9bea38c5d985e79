"""Recipes: the runs behind the law of npgpt/training/law.py, its fit, what each part of the recipe is worth, pictures.

recipes fit         print the constants of the law, fitted to the stored runs, and how far it is off texts left out
recipes ablations   print what each part of the recipe is worth, from the stored runs
recipes run         train one model as a text and settings say, and print the line to store
recipes pictures    draw the pictures of docs/recipes.md
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.training import law
from npgpt.training.law import Constants, Traits

FOLDER = Path(__file__).parent / "recipes"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
# the t distribution's 97.5% point, by the number of seeds less one
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
# where the fit begins, as logarithms, and how strongly it is drawn there: a factor of two costs as much as 3.5% of loss
START = np.log(Constants(e=0.5, k=7, a=0.04, alpha=0.4, b=0.2, beta=0.4, r=5, o=0.001, gamma=0.8))
PULL, OFFSET = 0.05, 1.0
Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    what.add_parser("fit", help="fit the law to the stored runs")
    what.add_parser("ablations", help="what each part of the recipe is worth")
    one = what.add_parser("run", help="train one model, and print the line to store")
    one.add_argument("text", help="a text file, or tales:en")
    one.add_argument("settings", nargs="?", default="{}", help="""settings of npgpt train as JSON: {"n_layer": 2}""")
    what.add_parser("pictures", help="draw the pictures of docs/recipes.md").add_argument(
        "--out", type=Path, default=PICTURES, metavar="FOLDER", help="where to (default: docs/pictures)"
    )


def run(options: argparse.Namespace) -> int:
    if options.what == "fit":
        print(report(runs()))
    elif options.what == "ablations":
        print(table(read("ablations")))
    elif options.what == "run":
        try:
            print(json.dumps(trained(options.text, json.loads(options.settings))))
        except (OSError, TypeError, ValueError) as error:  # json's errors are ValueErrors
            print(f"recipes run: error: {error}", file=sys.stderr)
            return 2
    else:
        from benchmarks.recipes_pictures import draw

        draw(options.out)
    return 0


def read(name: str) -> list[Row]:
    """Return the lines of a file of stored results."""
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def corpora() -> dict[str, Row]:
    """Return what was counted in each text, by its name."""
    return {row["corpus"]: row for row in read("corpora")}


def runs() -> list[Row]:
    """Return the runs that the law is fitted to, those without dropout, each with its text's traits."""
    texts = corpora()
    rows = [row for row in read("runs") if row["dropout"] == 0]
    return [row | {"traits": Traits(**texts[row["corpus"]]["traits"])} for row in rows]


def columns(rows: Iterable[Row]) -> tuple[Traits, np.ndarray, np.ndarray, np.ndarray]:
    """Return traits, block parameters, tokens seen and losses of runs, each as an array."""
    rows = list(rows)
    traits = Traits(*(np.array(column, float) for column in zip(*(row["traits"] for row in rows), strict=True)))
    numbers = (np.array([row[key] for row in rows], float) for key in ("block_parameters", "tokens_seen", "loss"))
    return traits, *numbers  # type: ignore[return-value]


def residuals(rows: Iterable[Row], constants: Constants) -> np.ndarray:
    """Return log(measured / expected) of each run."""
    traits, n_parameters, tokens_seen, loss = columns(rows)
    return np.log(loss / law.loss_by(constants, traits, n_parameters, tokens_seen))


def fit(rows: Sequence[Row]) -> Constants:
    """Return the constants with the least squares of the residuals, beside an offset for each text.

    What the traits cannot say of a text is the same for all its runs, so without the offsets a text's few runs would
    bend the slopes. An offset costs OFFSET of itself. The constants are fitted as logarithms, drawn weakly to START.
    """
    names = [row["corpus"] for row in rows]
    known = sorted(set(names))
    which = np.array([known.index(name) for name in names])
    traits, n_parameters, tokens_seen, loss = columns(rows)

    def off(point: np.ndarray) -> np.ndarray:
        logs, offsets = np.split(point, [len(START)])
        expected = law.loss_by(Constants(*np.exp(logs)), traits, n_parameters, tokens_seen)
        return np.concatenate([np.log(loss / expected) - offsets[which], OFFSET * offsets, PULL * (logs - START)])

    found = least_squares(off, np.append(START, np.zeros(len(known))))
    return Constants(*(float(f"{value:.4g}") for value in np.exp(found[: len(START)])))


def least_squares(off: Callable[[np.ndarray], np.ndarray], start: np.ndarray, rounds: int = 300) -> np.ndarray:
    """Return the point near `start` with the least sum of squares of off(point).

    Source: Marquardt, "An algorithm for least-squares estimation of nonlinear parameters", 1963.
    """
    point, damping = start, 1e-2
    values = off(point)
    for _ in range(rounds):
        slopes = np.stack([(off(point + h) - values) / 1e-5 for h in 1e-5 * np.eye(len(point))], axis=1)
        square = slopes.T @ slopes
        for _ in range(20):
            other = point - np.linalg.solve(square + damping * np.diag(square.diagonal() + 1e-9), slopes.T @ values)
            found = off(other)
            if found @ found < values @ values:
                break
            damping *= 4
        else:
            break
        gain = 1 - (found @ found) / (values @ values)
        point, values, damping = other, found, max(damping / 10, 1e-9)
        if gain < 1e-10:
            break
    return point


def left_out(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Return each text's residuals under a law that was fitted without it, nor any cut or other tokens of it."""
    families = corpora()
    found = {}
    for family in sorted({text["family"] for text in families.values()}):
        inside = [row for row in rows if families[row["corpus"]]["family"] == family]
        others = [row for row in rows if families[row["corpus"]]["family"] != family]
        if inside:
            constants = fit(others)
            for name in sorted({row["corpus"] for row in inside}):
                found[name] = residuals([row for row in inside if row["corpus"] == name], constants)
    return found


def report(rows: Sequence[Row]) -> str:
    """Return the constants as law.py has them, and for each text how far the law is off it, fitted with and without."""
    constants, outside = fit(rows), left_out(rows)
    lines = [f"{len(rows)} runs on {len(outside)} texts", "", f"FITTED = Constants({_arguments(constants)})"]
    lines += [f"OFF_OUTSIDE = {spread(outside):.4f}", "", "text               runs   off it   off it where left out"]
    for name, off in outside.items():
        inside = residuals([row for row in rows if row["corpus"] == name], constants)
        lines.append(f"{name:18} {len(off):4} {_rms(inside):8.1%} {_rms(off):8.1%}, mean {off.mean():+.1%}")
    everything = np.concatenate(list(outside.values()))
    constant = np.log([row["loss"] for row in rows])
    lines += ["", f"all: {_rms(everything):.1%} where left out; a constant guess is off by {constant.std():.0%}"]
    share = np.mean(np.abs(everything) <= spread(outside))
    return "\n".join([*lines, f"{share:.0%} of the runs on texts left out are within the range"])


def spread(outside: dict[str, np.ndarray]) -> float:
    """Return how far log(measured / expected) may be off for 80 of 100 runs, texts left out; each counts the same."""
    off = np.abs(np.concatenate(list(outside.values())))
    weights = np.concatenate([np.full(len(off), 1 / len(off)) for off in outside.values()])
    order = np.argsort(off)
    total = np.cumsum(weights[order])
    return float(off[order][np.searchsorted(total, 0.8 * total[-1])])


def _rms(off: np.ndarray) -> float:
    return float(np.sqrt(np.mean(off**2)))


def _arguments(constants: Constants) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in constants._asdict().items())


def table(rows: Sequence[Row]) -> str:
    """Return as Markdown what each change of the recipe costs: the mean over seeds, and a 95% interval of it.

    Each row says what its loss is compared with, in the same set, with the same seed.
    """
    lines = ["| runs | change | compared with | seeds | loss | more by |", "| --- | --- | --- | --- | --- | --- |"]
    of = {(row["set"], row["change"], row["seed"]): row["loss"] for row in rows}
    for group, change, against in dict.fromkeys((row["set"], row["change"], row["against"]) for row in rows):
        seeds = [seed for *names, seed in of if names == [group, change]]
        losses = np.array([of[group, change, seed] for seed in seeds])
        before = np.array([of[group, against, seed] for seed in seeds])
        more = "0" if change == against else interval(losses - before)
        lines.append(f"| {group} | {change} | {against} | {len(seeds)} | {losses.mean():.4f} | {more} |")
    return "\n".join(lines)


def interval(values: np.ndarray) -> str:
    """Return a mean with its 95% interval by Student's t.

    >>> interval(np.array([0.1, 0.2, 0.3]))
    '+0.2000 ± 0.2484'
    """
    n = len(values)
    about = f" ± {T_975[n - 1] * values.std(ddof=1) / math.sqrt(n):.4f}" if n > 1 else ""
    return f"{values.mean():+.4f}{about}"


def trained(text: str, settings: Row) -> Row:
    """Train one model with the settings, as fields of GPTConfig and TrainConfig, and return the line to store."""
    from npgpt.training.pretraining import plan_training, start_training

    with tempfile.TemporaryDirectory() as folder:
        plan = plan_training({"data": [text], "out": f"{folder}/run", "final_eval_tokens": 0, **settings})
        started, run = time.perf_counter(), start_training(plan)
        for _ in run.records():
            pass
        model, config, train = run.model, run.model.config, run.trainer.config
        steps = run.trainer.progress["step"]  # fewer than max_steps where patience ran out
        tokens = train.batch_size * config.n_positions * train.gradient_accumulation_steps * steps
        return {
            "corpus": Path(text).stem,
            **settings,
            "unique_tokens": run.trainer.train_data.size,
            "vocab_size": config.vocab_size,
            "tokens_seen": tokens,
            "parameters": model.size,
            "block_parameters": 12 * config.n_layer * config.n_embd**2,
            "steps": steps,
            "seed": train.seed,
            "loss": run.whole,
            "seconds": round(time.perf_counter() - started, 1),
        }
