"""From what a comparison found to the verdict on one argument."""

import math
from dataclasses import dataclass

import numpy as np

from .elements import ESCAPE, Comparison
from .numeric import norm
from .report import ArgumentReport, Element

WIDE = 1e-4  # a relative error bar beyond which a wrong gradient could hide in it
WIDE_SINGLE = 1e-2  # the same where the derivatives had to be taken in float32
MOST_NAMED = 10  # so many wrong elements of an array are listed
MANY_KINKS = 0.1  # the share of a gradient that may be open because of kinks


@dataclass(frozen=True)
class Errors:
    """How far a gradient is from the numerical one, and how far that may be off, relative to the larger of the two.

    zero  whether both are zero but for rounding, so that a relative error means nothing
    """

    relative: float
    bar: float
    zero: bool


def judge(comparison: Comparison, tolerance: float | None) -> ArgumentReport:
    """Return the report on a gradient that was compared with a numerical one."""
    leaf = comparison.function.leaf
    if leaf.x.size == 0:
        return ArgumentReport(leaf.name, leaf.x.shape, "pass", 0.0, 0.0, None, math.nan, math.nan)
    errors = _errors(comparison)
    verdict, reason = _verdict(comparison, errors, tolerance)
    if errors.zero and verdict == "pass":
        errors = Errors(0.0, 0.0, True)
    worst = _worst(comparison)
    return ArgumentReport(
        leaf.name,
        leaf.x.shape,
        verdict,
        errors.relative,
        errors.bar,
        worst,
        float(comparison.analytic[worst]),
        float(comparison.value[worst]),
        reason,
        checked=int(comparison.looked_at.sum()),
        size=leaf.x.size,
        kinks=int(comparison.kinks.sum()),
        escape=_escape(comparison) if verdict == "pass" else "",
        method="complex step" if comparison.function.complex_safe else "differences",
        wrong=_wrong(comparison) if verdict == "fail" else (),
        difference=np.abs(comparison.analytic - comparison.value),
    )


def _errors(comparison: Comparison) -> Errors:
    counted = comparison.counted
    a, n = comparison.analytic[counted], comparison.value[counted]
    with np.errstate(all="ignore"):
        size = float(max(np.linalg.norm(a), np.linalg.norm(n)))
        error = float(np.linalg.norm(a - n))
        bar = float(np.linalg.norm((comparison.error + comparison.rough)[counted]))
        unsure = float(np.linalg.norm((comparison.error + comparison.slack)[counted]))
        certain = float(np.linalg.norm(a)) > 10 * float(np.linalg.norm(comparison.allowance[counted]))
    # beside the function itself a gradient of this size would show, were it not zero
    natural = comparison.function.problem.natural(comparison.function.leaf)
    zero = size <= unsure and unsure <= 1e-6 * natural and not certain
    if not math.isfinite(size):  # a NaN in the gradient is no small error
        return Errors(math.inf, bar / norm(n) if np.any(n) else 0.0, False)
    if not size > 0:
        return Errors(0.0, 0.0, zero)
    return Errors(max(error / size, comparison.mismatch), bar / size, zero)


def _verdict(comparison: Comparison, errors: Errors, tolerance: float | None) -> tuple[str, str]:
    """Return the verdict and, unless it is "pass", the reason."""
    wrong, looked_at = int(comparison.wrong.sum()), int(comparison.looked_at.sum())
    if wrong and (tolerance is None or not errors.relative <= tolerance):
        notes = "".join(f"; {note}" for note in comparison.notes[:2])
        return "fail", f"{wrong} of {looked_at} elements are wrong{_undecided(comparison, wrong)}{notes}"
    doubt = _doubt(comparison)
    if doubt:
        return "inconclusive", doubt
    if errors.zero:
        return "pass", ""
    if tolerance is not None:
        return _verdict_within(tolerance, errors)
    single = comparison.function.problem.takes == np.float32
    if not errors.bar <= (WIDE_SINGLE if single else WIDE):
        return "inconclusive", "noise: the numerical derivative is too uncertain"
    return "pass", ""


def _doubt(comparison: Comparison) -> str:
    """Return why what was looked at proves nothing, whatever the errors are; or nothing."""
    kinks, looked_at = int(comparison.kinks.sum()), int(comparison.looked_at.sum())
    if comparison.time_up:
        return _time_up(comparison)
    if not np.isfinite(comparison.value[comparison.counted]).all():
        refused = comparison.function.refused
        return refused[0][1] if refused else "overflow: the forward is infinite or NaN near these arguments"
    if _open(comparison) > MANY_KINKS or comparison.exhausted:
        return f"kinks: {kinks} of {looked_at} elements"
    hidden = np.flatnonzero(comparison.hidden)
    if hidden.size:
        named = ", ".join(comparison.function.leaf.at(int(i)) for i in hidden[:4])
        more = ", ..." if hidden.size > 4 else ""
        return f"{hidden.size} of {looked_at} elements cannot be told from rounding: {named}{more}"
    return ""


def _open(comparison: Comparison) -> float:
    """Return the share of a gradient that kinks leave open, by elements or by square, whichever is less.

    An element that is at a kink of one of its outputs is known but for that output's share. Those that a direction led
    to say nothing of the share.
    """
    drawn = comparison.looked_at & ~comparison.hunted
    gap = np.where(comparison.kinks, comparison.gap, 0.0)[drawn]
    with np.errstate(invalid="ignore"):
        size = np.fmax(np.fmax(np.abs(comparison.analytic), np.abs(comparison.value))[drawn], gap)
    whole = norm(size[np.isfinite(size)])
    by_square = (norm(gap) / whole) ** 2 if whole > 0 else 0.0
    return min(by_square, float(np.mean(gap > 0)) if gap.size else 0.0)


def _undecided(comparison: Comparison, wrong: int) -> str:
    suspects = int(comparison.suspect.sum()) - wrong
    return f", and {suspects:,} more may be" if comparison.time_up and suspects else ""


def _time_up(comparison: Comparison) -> str:
    """Say how far the check came before its time was over, and what it had seen."""
    looked_at, suspects = int(comparison.looked_at.sum()), int(comparison.suspect.sum())
    few = f"{looked_at:,} of {comparison.looked_at.size:,} elements and {comparison.directions} directions"
    found = f"; {suspects:,} of the elements may be wrong" if suspects else ""
    if comparison.disagrees:
        found += "; along a direction the gradient differs from the numerical one"
    return f"time: max_seconds={comparison.clock.max_seconds:g} was enough for {few}{found}"


def _verdict_within(tolerance: float, errors: Errors) -> tuple[str, str]:
    if errors.relative > tolerance:
        surely = errors.relative - errors.bar > tolerance
        return "fail" if surely else "inconclusive", f"relative error {errors.relative:.1e}"
    if errors.bar > tolerance:
        return "inconclusive", "noise: the error bar is wider than the tolerance"
    return "pass", ""


def _distance(comparison: Comparison) -> np.ndarray:
    with np.errstate(all="ignore"):
        distance = np.abs(comparison.analytic - comparison.value)
    return np.where(np.isnan(distance), np.inf, distance)  # a NaN on either side is as far as can be


def _wrong(comparison: Comparison) -> tuple[Element, ...]:
    """Return the wrong elements that differ most."""
    distance = np.where(comparison.wrong, _distance(comparison), -1.0)
    order = np.argsort(-distance, axis=None, kind="stable")[: min(MOST_NAMED, int(comparison.wrong.sum()))]
    places = [tuple(int(i) for i in np.unravel_index(flat, distance.shape)) for flat in order]
    return tuple(Element(at, float(comparison.analytic[at]), float(comparison.value[at])) for at in places)


def _worst(comparison: Comparison) -> tuple[int, ...]:
    """Return the index of the element where the two differ most, among the wrong ones if there are any."""
    distance = _distance(comparison)
    candidates = comparison.wrong if comparison.wrong.any() else comparison.counted
    distance = np.where(candidates, distance, -1.0)
    flat = int(np.argmax(distance >= (1 - 1e-9) * distance.max()))  # the first, if several differ by as much
    return tuple(int(i) for i in np.unravel_index(flat, distance.shape))


def _escape(comparison: Comparison) -> str:
    """Say what could have escaped where not every element was looked at."""
    looked_at, size = int(comparison.looked_at.sum()), comparison.looked_at.size
    if looked_at == size:
        return ""
    # if a share s of the elements were wrong, none of n random ones would be with probability (1 - s)^n
    share = 1 - ESCAPE ** (1 / max(looked_at, 1))
    limit = f"max_seconds={comparison.clock.max_seconds:g}: " if comparison.hurried else ""
    return (
        f"{limit}{looked_at:,} of {size:,} elements looked at, and {comparison.directions} directions through all: "
        f"at 95%, at most {share:.1%} of the elements are wrong, and together by at most {comparison.blind:.0e} of the "
        "gradient's norm"
    )
