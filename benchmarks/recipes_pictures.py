"""The pictures of docs/recipes.md: loss against time, where overfitting begins, and the law beside the runs."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import recipes
from npgpt.training import law


def draw(folder: Path) -> None:
    """Write the three pictures into a folder."""
    import matplotlib

    matplotlib.use("agg")
    rows, texts = recipes.runs(), recipes.corpora()
    for name, picture in (("time", against_time), ("overfitting", overfitting), ("law", beside_law)):
        figure = picture(rows, texts)
        figure.savefig(folder / f"recipes-{name}.png", dpi=90)


def panels(n: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * n, 3.8), layout="constrained")
    axes = figure.subplots(1, n, squeeze=False)[0]
    for one in axes:
        one.grid(alpha=0.25, which="both")
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def against_time(rows: list[dict[str, Any]], texts: dict[str, Any]) -> Any:
    """Loss against seconds on two cores, a line for each size, and the best of all at each time."""
    names = ["shakespeare", "tang"]
    figure, axes = panels(len(names))
    for name, one in zip(names, axes, strict=True):
        here = [row for row in rows if row["corpus"] == name]
        sizes = _several(row["block_parameters"] for row in here)
        for shade, size in zip(np.linspace(0, 1, len(sizes)), sizes, strict=True):
            points = sorted((row["seconds"], row["loss"]) for row in here if row["block_parameters"] == size)
            one.plot(*zip(*points, strict=True), "o-", color=_blue(shade), label=f"{size / 1e6:.2g}M", ms=4)
        best = sorted((row["seconds"], row["loss"]) for row in here)
        one.plot(*zip(*best, strict=True), ".", color="grey", ms=4)
        edge = [(s, v) for i, (s, v) in enumerate(best) if all(v < w for _, w in best[:i])]
        one.plot(*zip(*edge, strict=True), color="#e07b39", lw=5, alpha=0.35, zorder=0, label="the best so far")
        one.set(xscale="log", title=texts[name]["title"], xlabel="seconds on two cores")
        _plain_ticks(one)
        one.legend(frameon=False, fontsize=8, title="parameters of the blocks", title_fontsize=8)
    axes[0].set_ylabel("validation loss, nats a token")
    return figure


def overfitting(rows: list[dict[str, Any]], texts: dict[str, Any]) -> Any:
    """Validation and training loss against passes over the text, for three lengths of Shakespeare."""
    names = ["shakespeare20k", "shakespeare200k", "shakespeare"]
    figure, axes = panels(len(names))
    for name, one in zip(names, axes, strict=True):
        here = [row for row in rows if row["corpus"] == name]
        sizes = _several(row["block_parameters"] for row in here)
        for shade, size in zip(np.linspace(0, 1, len(sizes)), sizes, strict=True):
            of = sorted(
                (row["tokens_seen"] / row["unique_tokens"], row["loss"], row["train_loss"])
                for row in here
                if row["block_parameters"] == size
            )
            passes, loss, train = zip(*of, strict=True)
            one.plot(passes, loss, "o-", color=_blue(shade), ms=4, label=f"{size / 1e6:.2g}M")
            one.plot(passes, train, ":", color=_blue(shade))
        one.set(xscale="log", title=texts[name]["title"], xlabel="passes over the text")
        _plain_ticks(one)
        one.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("loss, nats a character (dotted: training)")
    return figure


def beside_law(rows: list[dict[str, Any]], texts: dict[str, Any]) -> Any:
    """Measured against expected loss, under a law that was fitted without the text."""
    figure, (one,) = panels(1)
    families: dict[str, list[Any]] = {}
    for name, off in recipes.left_out(rows).items():
        measured = np.array([row["loss"] for row in rows if row["corpus"] == name])
        families.setdefault(texts[name]["family"], []).append((measured / np.exp(off), measured))
    for mark, (family, found) in zip("osD^vPX", families.items(), strict=False):
        expected, measured = np.concatenate([np.array(pair) for pair in found], axis=1)
        one.plot(expected, measured, mark, ms=4, alpha=0.7, label=family)
    line = np.array(one.get_xlim())
    one.plot(line, line, color="grey", lw=1)
    one.fill_between(line, line * np.exp(-law.OFF_OUTSIDE), line * np.exp(law.OFF_OUTSIDE), color="grey", alpha=0.15)
    one.set(xlabel="expected by a law that has not seen the text", ylabel="measured, nats a token")
    one.set(xscale="log", yscale="log")
    one.legend(frameon=False, fontsize=8)
    return figure


def _plain_ticks(one: Any) -> None:
    low, high = one.get_xlim()
    one.set_xticks([n for n in (0.1, 0.3, 1, 3, 10, 30, 100, 300) if low <= n <= high])
    one.xaxis.set_major_formatter("{x:g}")
    one.xaxis.set_minor_formatter("")


def _several(keys: Iterable[Any]) -> list[Any]:
    """Return the keys that come more than once, sorted: lines need two points."""
    return sorted(key for key, n in Counter(keys).items() if n > 1)


def _blue(shade: float) -> tuple[float, float, float]:
    """Return a colour from a light blue at 0 to a dark one at 1."""
    return (0.6 * (1 - shade), 0.78 - 0.6 * shade, 0.92 - 0.45 * shade)
