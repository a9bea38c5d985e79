"""Show where the time of a training step goes: by op, with the rate of its products or of what it moves in memory, as a
share of what the machine was measured to reach. The model of a run, or of a preset, takes steps on random tokens, and
its files do not change."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgpt.cli.checks import out_file, require_at_least
from npgpt.cli.options import DEFAULTS, add_fields, announce_compiling
from npgpt.config import CHARACTERS, PRESETS, GPTConfig, TrainConfig, usual_preset

if TYPE_CHECKING:
    from npgpt.inspection.peaks import Peaks
    from npgpt.inspection.profile import Profile, Row
    from npgpt.models.base import Model
    from npgpt.training.threads import Split

EXAMPLES = (
    "npgpt profile runs/poems",
    "npgpt profile tiny --batch-size 48 --threads 1",
    "npgpt profile small --batch-size 8 --vocab-size 4096 --json profile.json",
)
OF_THE_MODEL = tuple(field.name for field in dataclasses.fields(GPTConfig))
OF_TRAINING = ("batch_size", "gradient_accumulation_steps", "optimizer", "threads", "dtype", "ops", "compute")
# what the columns are headed with and hold, and how
COLUMNS = {
    "ms": ("ms", "{:,.3f}"),
    "share": ("share", "{:.1%}"),
    "gflop_per_s": ("GFLOP/s", "{:,.1f}"),
    "share_of_products": ("of peak", "{:.0%}"),
    "gb_per_s": ("GB/s", "{:,.1f}"),
    "share_of_copies": ("of copies", "{:.0%}"),
}
NOTES = """\
Times are means over the threads and over the faster half of the steps; rates are those of all threads together.
Attention's products are counted for the keys that a token may see. A share of copies above 100% came from the caches.
Python and waiting: no compiled code ran, but Python under the interpreter's lock, or the thread slept.
"""
ONE_BY_ONE = """\
Python called each op: the MLP's products include its activation, the head its loss, and all of them waiting for the
interpreter's lock. What Python computes itself, such as the additions to the residual stream, is in its own row.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="RUN_OR_PRESET", help=f"a run folder, or the sizes of a model: {', '.join(PRESETS)}"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="steps to measure (default: as many as fit into three seconds)"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write all figures to a file; - prints them instead of the table"
    )
    group = parser.add_argument_group("training")
    without = tuple(field.name for field in dataclasses.fields(TrainConfig) if field.name not in OF_TRAINING)
    defaults = {field.name: f"the run's, or {field.default}" for field in dataclasses.fields(TrainConfig)}
    add_fields(group, TrainConfig, defaults, without)
    group = parser.add_argument_group("model, changes the preset")
    vocabulary = f"the preset's, 50257 for those of GPT-2, else {CHARACTERS}"
    add_fields(group, GPTConfig, dict.fromkeys(OF_THE_MODEL, "the preset's") | DEFAULTS | {"vocab_size": vocabulary})


def run(args: argparse.Namespace) -> int:
    require_at_least(1, "--steps", args.steps)
    out = out_file(args.json, "--json") if args.json not in (None, "-") else None
    model, train, split = opened(args)
    announce_compiling(train.ops)
    from npgpt.inspection.peaks import load, measured_peaks
    from npgpt.inspection.profile import profile
    from npgpt.support.files import write_atomically

    before = load()
    found = profile(model, train, args.steps, split)
    peaks = measured_peaks(found.split.threads, model.dtype)
    figures = as_figures(args.name, model, train, found, peaks) | {"load": before}
    text = json.dumps(figures, indent=2) + "\n"
    if out is not None:
        write_atomically(out, lambda part: part.write_text(text, "utf-8"))
    print(text if args.json == "-" else in_words(figures), end="")
    return 0


def opened(args: argparse.Namespace) -> "tuple[Model, TrainConfig, Split | None]":
    """Return the model that RUN_OR_PRESET names, how to train it, and how the run's threads share a step."""
    from npgpt.models.registry import new_model, open_model, refuse_generator, require_trainable
    from npgpt.support.hints import nearest
    from npgpt.support.notices import notice
    from npgpt.training import run as runs
    from npgpt.training.compute import require_compute, set_compute
    from npgpt.training.memory import require_memory
    from npgpt.training.recipes import recipe_for

    given = {name: value for name, value in vars(args).items() if name in OF_TRAINING}
    changes = {name: value for name, value in vars(args).items() if name in OF_THE_MODEL}
    folder = Path(args.name)
    if args.name in PRESETS:
        train, config = TrainConfig(**given), usual_preset(args.name, **changes)[0]
        require_memory(config, train)
        require_compute(train)
        model = new_model(config, train.seed, train.dtype, train.ops)
        set_compute(model, train)
        return model, train, None
    if not folder.exists():
        raise ValueError(f"{args.name} is neither a run folder nor a preset{nearest(args.name, PRESETS)}")
    if changes:
        flag = f"--{next(iter(changes)).replace('_', '-')}"
        raise ValueError(f"{flag} changes a preset, and {args.name} is a model that exists: leave it out")
    saved = runs.read_saved(folder)
    train = TrainConfig(**saved["train"] | given)
    if train.pack or "finetune" in saved or recipe_for(saved["data"]["files"]):
        notice("the run's own rows hold several texts each; those of the profile hold one, so attention has more to do")
    if saved.get("finetune", {}).get("lora"):
        notice("the run trained adapters; the profile is that of training all weights")
    model = open_model(folder, train.dtype, train.ops)
    require_trainable(model, folder)
    refuse_generator(model, args.name, "only the ops of a GPT are known")
    if not isinstance(model.config, GPTConfig):
        raise ValueError(f"{args.name} is a {type(model).__name__}, and only the ops of a GPT are known")
    require_memory(model.config, train, made=model.params.flat.nbytes)
    require_compute(train)
    set_compute(model, train)
    return model, train, runs.saved_split(saved, train, given, model)


def as_figures(name: str, model: "Model", train: TrainConfig, found: "Profile", peaks: "Peaks") -> dict[str, Any]:
    """Return all that is shown, as what JSON can hold. Rates are of all threads together."""
    from npgpt.inspection.peaks import blas, processor
    from npgpt.support.machine import cores

    return {
        "name": name,
        "model": model.describe(),
        "config": dataclasses.asdict(model.config),
        "train": {field: getattr(train, field) for field in OF_TRAINING},
        "processor": processor(),
        "cores": cores(),
        "blas": blas(),
        "threads": found.split.threads,
        "groups": found.split.groups,
        "members": found.split.members,
        "compiled": found.compiled,
        "expected": expected(model, train, found),
        "peak_gflop_per_s": peaks.flops / 1e9,
        "peak_gb_per_s": peaks.bytes / 1e9,
        "steps": found.steps,
        "ms_per_step": 1e3 * found.seconds,
        "steps_per_s": 1 / found.seconds,
        "tokens_per_s": found.tokens / found.seconds,
        "ops": [as_row(row, found, peaks, model.dtype.itemsize) for row in found.rows],
    }


def expected(model: "Model", train: TrainConfig, found: "Profile") -> list[dict[str, Any]]:
    """Return how long a step should take as it is split, on one thread, and on all, by training/threads.py.

    The list is empty where the split does not follow from such times.
    """
    from npgpt.support.machine import cores
    from npgpt.training.threads import choose, n_threads, seconds, work_of

    if not found.compiled:
        return []
    work, room = work_of(model, train.batch_size, True), cores(environ={})
    others = (choose(work, n, given=True) for n in (1, n_threads(train.threads)))
    return [
        {"groups": split.groups, "members": split.members, "ms": 1e3 * seconds(work, split, room)}
        for split in dict.fromkeys([found.split, *others])
    ]


def as_row(row: "Row", found: "Profile", peaks: "Peaks", itemsize: int) -> dict[str, Any]:
    """Return the figures of an op; rates that mean nothing for it are None."""
    flops, moved = row.cost.flops / row.seconds, row.cost.numbers * itemsize / row.seconds
    return {
        "op": row.op,
        "pass": row.direction,
        "ms": 1e3 * row.seconds,
        "share": row.seconds / found.seconds,
        "gflop_per_s": flops / 1e9 or None,
        "share_of_products": flops / peaks.flops or None,
        "gb_per_s": moved / 1e9 or None,
        "share_of_copies": moved / peaks.bytes or None,
    }


def in_words(figures: dict[str, Any]) -> str:
    """Return the figures as a page of text."""
    from npgpt.training.threads import Split

    train, rows = figures["train"], figures["ops"]
    busy = "" if figures["load"] is None else f" with a load of {figures['load']:.1f} before"
    total = {"ms": figures["ms_per_step"], "share": sum(row["share"] for row in rows)}
    lines = [
        f"{figures['name']}: {figures['model']}",
        f"batches of {train['batch_size']} x {figures['config']['n_positions']} random tokens, {train['optimizer']}, "
        f"{train['dtype']}{', products in bf16' if train['compute'] == 'bf16' else ''}",
        f"{figures['processor']}, {figures['cores']} cores{busy}; {figures['blas']}",
        f"{Split(figures['groups'], figures['members'])}, measured at "
        f"{figures['peak_gflop_per_s']:,.0f} GFLOP/s in products and {figures['peak_gb_per_s']:,.1f} GB/s in copies",
        *as_expected(figures["expected"]),
        "",
        line("", *(title for title, _ in COLUMNS.values())),
        *(line("  backward" if row["pass"] == "backward" else row["op"], *cells(row)) for row in rows),
        line("a step", *cells(total)),
        "",
        f"{figures['steps_per_s']:,.3g} steps and {figures['tokens_per_s']:,.0f} tokens per second, "
        f"measured in {figures['steps']} steps",
        "",
    ]
    return "\n".join(lines) + NOTES + ("" if figures["compiled"] else ONE_BY_ONE)


def as_expected(ways: list[dict[str, Any]]) -> list[str]:
    """Return a line about how long a step should take, the way it is split first; none where nothing is expected."""
    from npgpt.training.threads import Split

    times = [f"{way['ms']:,.1f} ms with {Split(way['groups'], way['members'])}" for way in ways]
    return [f"expected for a step in float32: {', '.join(times)}"] if times else []


def cells(figures: dict[str, Any]) -> list[str]:
    """Return the columns of a row; one is empty where there is no figure, or where it means nothing."""
    found = ((figures.get(name), form) for name, (_, form) in COLUMNS.items())
    return ["" if value is None else form.format(value) for value, form in found]


def line(name: str, *columns: str) -> str:
    return f"{name:<34}{''.join(f'{column:>11}' for column in columns)}".rstrip()
