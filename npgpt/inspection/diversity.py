"""A picture of what rules of sampling do: how good the texts are against how varied they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from npgpt.inspection.losses import FLOOR, VALIDATION, new_figure

GAP = 0.042  # between labels, as a share of the axis


def draw(
    points: Mapping[str, tuple[float, float]], title: str, xlabel: str, ylabel: str, real: tuple[float, float] | None
) -> Any:
    """Return a matplotlib figure with a point for each rule, and its name beside it.

    points  {rule: (diversity, quality)}
    real    the same of real text

    Raises ValueError if matplotlib is missing.
    """
    figure = new_figure((8, 5))
    axes = figure.subplots()
    names = dict(points) | ({} if real is None else {"real text": real})
    for name, place in names.items():
        axes.plot(*place, "D" if name == "real text" else "o", color=FLOOR if name == "real text" else VALIDATION, ms=5)
    low, high = (pick(y for _, y in names.values()) for pick in (min, max))
    left, right = (pick(x for x, _ in names.values()) for pick in (min, max))
    height, width = high - low or 1.0, right - left or 1.0
    axes.set(xlim=(left - 0.04 * width, right + 0.42 * width), ylim=(low - 0.06 * height, high + 0.06 * height))
    for half in (True, False):  # labels stand in a column beside the points of each half
        chosen = sorted((y, x, name) for name, (x, y) in names.items() if (x < left + width / 2) == half)
        column = max((x for _, x, _ in chosen), default=0) + 0.06 * width
        ys = apart([y for y, _, _ in chosen], GAP * 1.12 * height, low, high)
        for (y, x, name), text_y in zip(chosen, ys, strict=True):
            axes.annotate(
                name, (x, y), (column, text_y), fontsize=8, va="center",
                arrowprops={"arrowstyle": "-", "color": "0.75", "lw": 0.6, "shrinkB": 3, "relpos": (0, 0.5)},
            )  # fmt: skip
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending places so that each is at least a gap above the one before, within bounds if they have room.

    >>> apart([1.0, 1.0, 5.0], gap=1.0, low=0.0, high=5.0)
    [1.0, 2.0, 5.0]
    """
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + gap) if found else place)
    over = max(0.0, found[-1] - high) if found else 0.0
    for i in range(len(found) - 1, -1, -1):  # those that would stand above the highest push the others down
        found[i] = min(found[i], (found[i + 1] - gap) if i + 1 < len(found) else found[i] - over)
    return found
