"""What a check found, argument by argument, to print or to read by program."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ArgumentReport:
    """The verdict on the gradient of one argument, with its worst element.

    relative_error  |analytic - numeric| / max(|analytic|, |numeric|), by Euclidean norm over the argument;
                    0 where both are zero within the rounding error of the difference
    index           the element where the two differ most, with its two values
    reason          why, unless the verdict is "pass"
    """

    name: str
    shape: tuple[int, ...]
    verdict: str
    relative_error: float
    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    reason: str = ""

    def row(self) -> tuple[str, ...]:
        """Return the cells of its line in the table."""
        at = "-" if self.index is None else str(self.index).replace(",)", ")")
        return (
            self.name,
            "x".join(map(str, self.shape)) or "scalar",
            self.verdict,
            f"{self.relative_error:.1e}",
            at,
            f"{self.analytic:.9g}",
            f"{self.numeric:.9g}",
        )


HEADER = ("argument", "shape", "verdict", "rel. error", "worst at", "analytic", "numeric")


@dataclass(frozen=True)
class Report:
    """The verdicts on all arguments. True only if every one passed; `str` is the table."""

    arguments: tuple[ArgumentReport, ...]
    tolerance: float

    @property
    def verdict(self) -> str:
        """Return "fail" if any argument fails, else "inconclusive" if any is, else "pass"."""
        verdicts = {argument.verdict for argument in self.arguments}
        return next((v for v in ("fail", "inconclusive") if v in verdicts), "pass")

    @property
    def relative_error(self) -> float:
        """Return the largest relative error of an argument."""
        return max(argument.relative_error for argument in self.arguments)

    def __bool__(self) -> bool:
        return self.verdict == "pass"

    def __str__(self) -> str:
        lines = [table(HEADER, [argument.row() for argument in self.arguments])]
        lines += [f"{a.name}: {a.verdict}: {a.reason}" for a in self.arguments if a.reason]
        lines.append(f"{self.verdict} (relative error at most {self.tolerance:g} allowed)")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        arguments = [asdict(argument) for argument in self.arguments]
        return {"verdict": self.verdict, "tolerance": self.tolerance, "arguments": arguments}

    def to_json(self) -> str:
        """Return the report as JSON; numbers that are not finite are null."""
        return json.dumps(_finite(self.to_dict()))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of cells in columns, left-aligned."""
    rows = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and value - value != 0:  # infinity or NaN, for which JSON has no word
        return None
    return value
