"""A report as a page of HTML, and as a picture."""

import base64
import io
import math
from html import escape
from typing import Any

import numpy as np

from .table import header

STYLE = """body { font: 15px/1.5 system-ui, sans-serif; margin: 2em; color: #222; max-width: 70em }
table { border-collapse: collapse } th, td { text-align: left; padding: .3em 1em .3em 0; border-bottom: 1px solid #ddd }
td { font-family: ui-monospace, monospace; white-space: nowrap } .pass { color: #176d2c } .fail { color: #b3261e }
.inconclusive { color: #8a5a00 } img { max-width: 100% } h2 { font-size: 1.1em; margin-top: 2em }
.hint { background: #fff4d6; border-left: 4px solid #d99a00; padding: .5em 1em; font-weight: 600 }
.unchecked { border-left: 4px solid #8a5a00; padding-left: 1em } .unchecked h2 { font-size: 1em }"""


def page(report: Any) -> str:
    """Return a page that stands by itself; with matplotlib installed, with pictures of the gradients that failed."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header(report.labels))
    rows = "".join(
        f'<tr class="{argument.verdict}">' + "".join(f"<td>{escape(cell)}</td>" for cell in argument.row()) + "</tr>"
        for argument in report.arguments
    )
    hints = [f"{a.name}: hint: {a.hint}" for a in report.arguments if a.hint]
    remarks = "".join(
        f'<p class="hint">{escape(remark)}</p>' if remark in hints else f"<p>{escape(remark)}</p>"
        for remark in report.remarks()
        if remark != report.unseen()
    )
    failed = "".join(_failed(report, a) for a in report.arguments if a.verdict == "fail")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>gradient check: {report.verdict}</title>'
        f'<style>{STYLE}</style><h1 class="{report.verdict}">Gradient check: {report.verdict}</h1>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{remarks}{_unchecked(report)}{failed}</html>\n"
    )


def _failed(report: Any, argument: Any) -> str:
    """Return the wrong elements of an argument as a table, and its picture."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in ("wrong at", *report.labels, "ratio"))
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in element.row()) for element in argument.wrong)
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    title = f"<h2>{escape(argument.name)}: the worst elements</h2>"
    table = f"{title}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return (table if rows else "") + (_picture(report, argument.name) if _has_picture(argument) else "")


def _unchecked(report: Any) -> str:
    if not report.not_checked:
        return ""
    rows = "".join(f"<li>{escape(str(unchecked))}</li>" for unchecked in report.not_checked)
    return f'<div class="unchecked"><h2>Not checked</h2><ul>{rows}</ul></div>'


def figure(report: Any, argument: str | None = None) -> Any:
    """Return a matplotlib figure of |analytic - numeric| of one argument, as a matrix."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    named = {a.name: a for a in report.arguments if _has_picture(a)}
    if not named or (argument is not None and argument not in named):
        raise ValueError(f"there is no picture of {argument!r}; known are {', '.join(named) or 'none'}")
    chosen = named[argument] if argument else max(named.values(), key=lambda a: a.relative_error)
    matrix = np.array(chosen.difference).reshape(-1, chosen.shape[-1])
    fig = Figure(figsize=(7, 4), layout="constrained")
    axes = fig.add_subplot()
    positive = matrix[np.isfinite(matrix) & (matrix > 0)]
    top = float(positive.max()) if positive.size else 1.0
    bottom = max(float(positive.min()), top * 1e-8) if positive.size else 0.1
    shown = np.where(np.isfinite(matrix), np.maximum(matrix, bottom), np.nan)
    norm = LogNorm(bottom, top) if bottom < top else None
    image = axes.imshow(shown, aspect="auto", interpolation="nearest", cmap="magma", norm=norm)
    fig.colorbar(image, label="|analytic - numeric|")
    shape = " x ".join(map(str, chosen.shape)) or "scalar"
    axes.set_title(f"{chosen.name} ({shape}): {chosen.verdict}" + (f"\n{chosen.hint}" if chosen.hint else ""))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))  # indices
    _label(axes, chosen.shape)
    return fig


def _label(axes: Any, shape: tuple[int, ...]) -> None:
    """Name the axes of a picture, a row of which is an index of all axes but the last."""
    last, others = len(shape) - 1, shape[:-1]
    axes.set_xlabel(f"axis {last}")
    axes.set_ylabel("" if last == 0 else "axis 0" if last == 1 else f"axes 0 to {last - 1}")

    def place(row: float, _: object) -> str:
        inside = 0 <= round(row) < math.prod(others)
        return str(tuple(map(int, np.unravel_index(round(row), others)))) if inside else ""

    if last > 1:
        axes.yaxis.set_major_formatter(place)


def _has_picture(argument: Any) -> bool:
    return argument.difference is not None and argument.difference.size > 1


def _picture(report: Any, name: str) -> str:
    try:
        fig = figure(report, name)
    except ImportError:
        return ""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{escape(name)}" src="data:image/png;base64,{data}"></p>'
