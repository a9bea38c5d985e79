"""A report as a page of HTML, and as a picture."""

import base64
import io
from html import escape
from typing import Any

import numpy as np

from .table import header

STYLE = """body { font: 15px/1.5 system-ui, sans-serif; margin: 2em; color: #222; max-width: 70em }
table { border-collapse: collapse } th, td { text-align: left; padding: .3em 1em .3em 0; border-bottom: 1px solid #ddd }
td { font-family: ui-monospace, monospace } .pass { color: #176d2c } .fail { color: #b3261e }
.inconclusive { color: #8a5a00 } img { max-width: 100% }
.unchecked { border-left: 4px solid #8a5a00; padding-left: 1em } .unchecked h2 { font-size: 1em }"""


def page(report: Any) -> str:
    """Return a page that stands by itself; with matplotlib installed, with pictures of the gradients that failed."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header(report.labels))
    rows = "".join(
        f'<tr class="{argument.verdict}">' + "".join(f"<td>{escape(cell)}</td>" for cell in argument.row()) + "</tr>"
        for argument in report.arguments
    )
    remarks = "".join(f"<p>{escape(remark)}</p>" for remark in report.remarks() if remark != report.unseen())
    pictures = "".join(_picture(report, a.name) for a in report.arguments if a.verdict == "fail" and _has_picture(a))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>gradient check: {report.verdict}</title>'
        f'<style>{STYLE}</style><h1 class="{report.verdict}">Gradient check: {report.verdict}</h1>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{remarks}{_unchecked(report)}{pictures}</html>\n"
    )


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
    two = len(chosen.shape) == 2
    axes.set_xlabel("axis 1" if two else "last axis")
    axes.set_ylabel("axis 0" if two else "all other axes")
    return fig


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
