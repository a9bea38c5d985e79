"""Draw a run's losses, step by step, into a PNG; of a run on tales also the floor that no loss can get below. Needs the
`plot` extra."""

import argparse
import json
from pathlib import Path
from typing import Any


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--out", metavar="FILE.png", help="(default: loss.png in the run folder)")


def run(args: argparse.Namespace) -> int:
    from npgpt.support.files import read_json

    folder = Path(args.run)
    out = folder / "loss.png" if args.out is None else Path(args.out)
    if args.out == "" or out.is_dir():
        raise ValueError(f"--out {args.out}: give a file")
    records = read_metrics(folder / "metrics.jsonl")
    train = folder / "train.json"
    data = read_json(train).get("data") if train.is_file() else None
    floor = data.get("floor") if isinstance(data, dict) else None
    if not (floor is None or is_number(floor)):
        raise ValueError(f"{train}: the floor is {floor!r}, not a number")
    draw(records, floor, out)
    print(out)
    return 0


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a run's metrics. Raises FileNotFoundError, or ValueError naming the line for one that is broken."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the folder of a run of npgpt train")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            if (
                not all(is_number(record.get(name, 0)) for name in ("loss", "val_loss"))
                or type(record["step"]) is not int
            ):
                raise ValueError
        except (ValueError, AttributeError, KeyError):
            raise ValueError(f"{path}:{number}: not a line of metrics") from None
        records.append(record)
    if not any("loss" in record for record in records):
        raise ValueError(f"{path}: there is no step in it yet")
    return records


def is_number(value: object) -> bool:
    return type(value) in (int, float)


def draw(records: list[dict[str, Any]], floor: float | None, out: Path) -> None:
    """Draw the losses, and the floor if there is one, in nats a token."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plot needs matplotlib: pip install 'npgpt[plot]'") from None
    steps = [record for record in records if "loss" in record]
    evaluations = [record for record in records if "val_loss" in record and not record.get("whole")]
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot([r["step"] for r in steps], [r["loss"] for r in steps], color="#9bb8d3", lw=0.8, label="training, a step")
    axes.plot([r["step"] for r in evaluations], [r["val_loss"] for r in evaluations], "o-", color="#1f4e79", ms=3)
    axes.lines[-1].set_label("validation")
    if floor is not None:
        axes.axhline(floor, color="#c0392b", lw=1, ls="--", label=f"the floor, {floor:.3f}")
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss, nats a token")
    axes.grid(alpha=0.3, which="both", lw=0.4)
    axes.legend(frameon=False)
    figure.savefig(out)
