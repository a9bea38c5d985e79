"""A run's losses: the records of its steps and evaluations, and a picture of them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from npgpt.support.files import read_sealed_json
from npgpt.support.notices import notice

Record = dict[str, Any]

TRAINING, VALIDATION, FLOOR = "#82aacd", "#1f4e79", "#c0392b"
# the ticks of a logarithmic axis within a decade, the fewest first
TICKS = (1, 10), (1, 2, 5, 10), (1, 1.5, 2, 3, 5, 7, 10), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9, 10)
MOST_TICKS = 9
LARGEST = 1e100  # beyond it, matplotlib overflows


def read_metrics(path: str | Path) -> list[Record]:
    """Read a run's metrics.jsonl. A last line that was cut short is left out, and a notice says so.

    Raises FileNotFoundError, or ValueError naming the line for one that is broken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the folder of a run of npgpt train")
    records = []
    content = path.read_bytes()
    lines = content.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode("utf-8"))
            if not all(is_number(record.get(name, 0)) for name in ("loss", "val_loss")) or not is_step(record["step"]):
                raise ValueError
        except (ValueError, AttributeError, KeyError, RecursionError):
            if number == len(lines) and not content.endswith(b"\n"):
                notice(f"{path}:{number}: the last line was cut short, and is left out")
                break
            raise ValueError(f"{path}:{number}: not a line of metrics, with a step and finite losses") from None
        records.append(record)
    return records


def read_floor(folder: Path) -> float | None:
    """Read the loss that no model can get below from a run's train.json; None if the run does not know it."""
    path = folder / "train.json"
    data = read_sealed_json(path).get("data") if path.is_file() else None
    floor = data.get("floor") if isinstance(data, dict) else None
    if not (floor is None or is_number(floor)):
        raise ValueError(f"{path}: the floor is {floor!r}, not a finite number")
    return floor


def is_number(value: object) -> bool:
    """Say whether a value of a JSON file is a number that can be drawn, which NaN, infinity and 10**400 are not."""
    return isinstance(value, int | float) and type(value) is not bool and abs(value) < LARGEST


def is_step(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def draw(name: str | Path, records: Sequence[Record], floor: float | None = None) -> Any:
    """Return a matplotlib figure of a run's losses in nats per token; a floor is drawn too, on a logarithmic axis.

    Raises ValueError if there is no step in the records, or if matplotlib is missing.
    """
    steps = [(r["step"], r["loss"]) for r in records if "loss" in r]
    if not steps:
        raise ValueError(f"{name}: there is no step to draw yet")
    figure = new_figure()
    axes = figure.subplots()
    evaluations = [(r["step"], r["val_loss"]) for r in records if "val_loss" in r and "whole" not in r]
    dot = "o" if len(steps) == 1 else None  # a line of one point is invisible
    axes.plot(*zip(*steps, strict=True), marker=dot, ms=2, color=TRAINING, lw=0.8, label="training, each step")
    if evaluations:
        best = min(loss for _, loss in evaluations)
        label = f"validation, best {best:.3f}"
        axes.plot(*zip(*evaluations, strict=True), "o-", color=VALIDATION, ms=3.5, lw=1.4, label=label)
    if floor is not None:
        axes.axhline(floor, color=FLOOR, lw=1.2, ls="--", label=f"floor {floor:.3f}")
        _make_logarithmic(axes)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=name)
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.margins(x=0.02)
    axes.grid(alpha=0.3, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def as_png(figure: Any) -> bytes:
    """Return a figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers from low to high for the ticks of a logarithmic axis, as many as stay legible.

    >>> log_ticks(0.9, 7.7)
    [1.0, 1.5, 2.0, 3.0, 5.0, 7.0]
    """
    found: list[float] = []
    for digits in TICKS:
        every = sorted({float(f"{digit}e{power}") for power in range(-9, 9) for digit in digits})
        inside = [tick for tick in every if low <= tick <= high]
        if found and len(inside) > MOST_TICKS:
            break
        found = inside
    return found


def _make_logarithmic(axes: Any) -> None:
    """Put the losses on a logarithmic axis that is labelled with plain numbers."""
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, MaxNLocator, NullLocator

    axes.set_yscale("log")
    ticks = log_ticks(*axes.get_ylim())
    axes.yaxis.set_major_locator(FixedLocator(ticks) if len(ticks) > 2 else MaxNLocator(6))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%.4g"))
    axes.yaxis.set_minor_locator(NullLocator())


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)


def new_figure(size: tuple[float, float] = (7, 4)) -> Any:
    """Return an empty figure of a size in inches. Raises ValueError if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plot needs matplotlib: pip install 'npgpt[plot]'") from None

    class Picture(Figure):
        """A figure that a notebook shows even if pyplot was never imported."""

        def _repr_png_(self) -> bytes:
            return as_png(self)

    return Picture(figsize=size, dpi=150, layout="constrained")
