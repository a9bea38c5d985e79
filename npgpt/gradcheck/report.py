"""What a check found, argument by argument, for people and programs to read."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .html import figure, page
from .table import header, table


def index_in_words(index: tuple[int, ...]) -> str:
    """Return an index as it is written between brackets: (3), (1, 2), and () for a number."""
    return str(index).replace(",)", ")")


def quotient(analytic: float, numeric: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float64(analytic) / np.float64(numeric))


@dataclass(frozen=True)
class Element:
    """An element of a gradient with its two values; of a complex one, the part that they are of."""

    index: tuple[int, ...]
    analytic: float
    numeric: float
    part: str = ""

    def row(self) -> tuple[str, ...]:
        """Return the cells of its line in a table: where it is, the two values, and their ratio."""
        at = f"{index_in_words(self.index)} {self.part}".rstrip()
        return at, f"{self.analytic:.9g}", f"{self.numeric:.9g}", f"{quotient(self.analytic, self.numeric):.6g}"


@dataclass(frozen=True)
class ArgumentReport:
    """The verdict on the gradient of one argument, with its worst element.

    relative_error  |analytic - numeric| / max(|analytic|, |numeric|), by Euclidean norm over what was looked at;
                    0 where both are zero within the error bar
    error_bar       how far the numerical gradient itself may be off, on the same scale
    index           the element where the two differ most, with its two values
    reason          why, unless the verdict is "pass"
    hint            the slip that the pattern of a wrong gradient suggests
    checked, size   how many elements were looked at one by one, of how many
    kinks           how many of them were set aside, because the slopes of the two sides differ there
    escape          what could have escaped, if not every element was looked at
    method          "complex step" or "differences"
    part            "real" or "imag", the part of the worst element in which a complex gradient differs most
    wrong           the wrong elements, at most ten of them, the most different first
    difference      |analytic - numeric| over the array, NaN where it was not looked at; None if nothing was compared
    """

    name: str
    shape: tuple[int, ...]
    verdict: str
    relative_error: float
    error_bar: float
    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    reason: str = ""
    hint: str = ""
    checked: int = 0
    size: int = 0
    kinks: int = 0
    escape: str = ""
    method: str = ""
    part: str = ""
    wrong: tuple[Element, ...] = ()
    difference: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def ratio(self) -> float:
        """Return analytic / numeric at the worst element."""
        return quotient(self.analytic, self.numeric)

    def row(self) -> tuple[str, ...]:
        """Return the cells of its line in the table."""
        cells = (self.name, "x".join(map(str, self.shape)) or "scalar", self.verdict)
        if self.index is None:  # nothing was compared
            return (*cells, *"------")
        worst = Element(self.index, self.analytic, self.numeric, self.part)
        return (*cells, f"{self.relative_error:.1e}", f"{self.error_bar:.0e}", *worst.row())

    def remarks(self) -> list[str]:
        """Return the lines below the table: hint, reason, kinks, and what could have escaped."""
        found = []
        if self.hint:
            found.append(f"hint: {self.hint}")
        if self.reason:
            found.append(f"{self.verdict}: {self.reason}")
        if self.kinks:
            found.append(f"{self.kinks} of {self.checked} elements set aside: they are at a kink")
        if self.escape:
            found.append(self.escape)
        return [f"{self.name}: {remark}" for remark in found]

    def to_dict(self) -> dict[str, Any]:
        names = [name for name in self.__dataclass_fields__ if name not in ("wrong", "difference")]
        wrong = [asdict(e) | {"ratio": quotient(e.analytic, e.numeric)} for e in self.wrong]
        return {name: getattr(self, name) for name in names} | {"ratio": self.ratio, "wrong": wrong}


def without_numbers(
    name: str, shape: tuple[int, ...], verdict: str, reason: str, suggestion: str = ""
) -> ArgumentReport:
    """Return the report on something of which no two numbers were compared."""
    error = {"pass": 0.0, "fail": math.inf}.get(verdict, math.nan)
    return ArgumentReport(name, shape, verdict, error, 0.0, None, math.nan, math.nan, reason, suggestion)


@dataclass(frozen=True)
class Unchecked:
    """An argument or output that was not looked at: its name, what it is (a dtype or a type), and why.

    differentiable  whether it could have had a gradient; integers, strings and None could not
    """

    name: str
    kind: str
    reason: str
    differentiable: bool = True

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}): {self.reason}"


@dataclass(frozen=True)
class Report:
    """The verdicts on all arguments and on the contract. True only if all passed; `str` is the table.

    contract        what forward or backward does not keep to, a sentence each; with any of them the check fails
    notes           what there is to know besides, a sentence each, such as the size of a forward's own noise
    not_checked     the arguments and outputs that were not looked at
    strict          whether anything differentiable in not_checked makes a pass inconclusive
    labels          the headings of the two values that are compared
    taylor          a second opinion: how fast the remainder of a Taylor expansion falls; "" if it was not tried
    taylor_verdict  what that says of the gradients; the report's verdict does not depend on it
    tolerance       the largest relative error that passes; None if the error bars decide
    """

    arguments: tuple[ArgumentReport, ...]
    contract: tuple[str, ...] = ()
    taylor: str = ""
    taylor_verdict: str = "pass"
    tolerance: float | None = None
    notes: tuple[str, ...] = ()
    not_checked: tuple[Unchecked, ...] = ()
    strict: bool = False
    labels: tuple[str, str] = ("analytic", "numeric")

    @property
    def verdict(self) -> str:
        """Return "fail" if anything fails, else "inconclusive" if anything is, else "pass"."""
        verdicts = {argument.verdict for argument in self.arguments}
        if self.contract or "fail" in verdicts:
            return "fail"
        return "inconclusive" if verdicts != {"pass"} or self.missed() else "pass"

    @property
    def relative_error(self) -> float:
        """Return the largest relative error of an argument."""
        return max(argument.relative_error for argument in self.arguments)

    @property
    def error_bar(self) -> float:
        """Return the widest error bar of an argument."""
        return max(argument.error_bar for argument in self.arguments)

    def missed(self) -> list[str]:
        """Return the names of what a strict check must look at, and did not."""
        return [unchecked.name for unchecked in self.not_checked if self.strict and unchecked.differentiable]

    def __bool__(self) -> bool:
        return self.verdict == "pass"

    def __str__(self) -> str:
        lines = [table(header(self.labels), [argument.row() for argument in self.arguments]), *self.remarks()]
        allowed = "" if self.tolerance is None else f" (relative error at most {self.tolerance:g} allowed)"
        return "\n".join([*lines, f"{self.verdict}{allowed}"])

    def in_short(self) -> str:
        """Return the slips in one line, each hint before its reason, because a narrow terminal cuts the line's end.

        >>> report.in_short()
        "weight: it is transposed (6 of 9 elements are wrong)"
        """
        found = [
            f"{a.name}: {a.hint} ({a.reason})" if a.hint else f"{a.name}: {a.reason}"
            for a in self.arguments
            if a.verdict == self.verdict != "pass"
        ]
        found += self.contract
        if self.verdict == "inconclusive" and self.strict:
            found += [f"not checked: {unchecked}" for unchecked in self.not_checked]
        if len(found) > 4:
            found[3:] = [f"and {len(found) - 3} more"]
        return "; ".join(([] if self.verdict == "fail" else [self.verdict]) + found)

    def remarks(self) -> list[str]:
        """Return the lines below the table: the hints of all arguments first."""
        found = [remark for a in self.arguments for remark in a.remarks()[: bool(a.hint)]]  # an argument's is its first
        found += [remark for a in self.arguments for remark in a.remarks()[bool(a.hint) :]]
        found += [f"contract: {sentence}" for sentence in self.contract]
        found += [f"note: {sentence}" for sentence in self.notes]
        if self.not_checked:
            found.append(self.unseen())
        if self.missed():
            found.append(f"strict: inconclusive, because these were not looked at: {', '.join(self.missed())}")
        if self.taylor and (self.taylor_verdict != "pass" or self.verdict != "pass"):
            found.append(f"Taylor test: {self.taylor_verdict}: {self.taylor}")
        return found

    def unseen(self) -> str:
        """Return the line that names what was not looked at."""
        return "not checked: " + "; ".join(map(str, self.not_checked))

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "tolerance": self.tolerance,
            "contract": list(self.contract),
            "notes": list(self.notes),
            "not_checked": [asdict(unchecked) for unchecked in self.not_checked],
            "strict": self.strict,
            "labels": list(self.labels),
            "taylor": {"verdict": self.taylor_verdict, "text": self.taylor},
            "arguments": [argument.to_dict() for argument in self.arguments],
        }

    def to_json(self) -> str:
        """Return the report as JSON; numbers that are not finite are null."""
        return json.dumps(_finite(self.to_dict()))

    def to_html(self) -> str:
        """Return the report as a page of HTML that stands by itself, with a picture of each wrong gradient."""
        return page(self)

    def plot(self, argument: str | None = None) -> Any:
        """Return a matplotlib figure of |analytic - numeric| over the array, which shows a wrong stripe or corner.

        argument  its name; by default the one that is most wrong. Needs the extra `plot`
        """
        return figure(self, argument)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no word for infinity and NaN
        return None
    return value
