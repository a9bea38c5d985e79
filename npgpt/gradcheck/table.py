"""The table of a report: its columns, and how rows of cells are laid out."""

from collections.abc import Iterable, Sequence


def header(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the titles of a report's columns, with those of the two values that are compared."""
    return ("argument", "shape", "verdict", "rel. error", "bar", "worst at", *labels, "ratio")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of cells in columns, left-aligned.

    >>> print(table(("name", "size"), [("x", "3"), ("weight", "12")]))
    name    size
    x       3
    weight  12
    """
    rows = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
