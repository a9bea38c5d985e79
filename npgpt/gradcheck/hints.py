"""Name the slip that explains a wrong gradient: the most specific of those that do, within the error bars."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from .complex_report import complex_hint
from .elements import Comparison
from .gradients import Backward
from .hints_factors import factor_by_element, factor_by_index, one_factor, product_with_dout
from .hints_finding import Finding, Paths
from .hints_order import arrangement, arrangement_by_sample
from .hints_paths import (
    MOST,
    axes_that_go_together,
    begins,
    claimed_paths,
    factor_by_output,
    factor_elsewhere,
    in_part,
    lost_outputs,
    own_path,
    shuffled_paths,
    taken_apart,
    transposed_map,
    wrong_paths,
)
from .hints_paths import factor_by_element as factor_of_paths
from .hints_places import lost_elements, named_places, not_finite, one_element, other_mask, places, zero
from .hints_terms import clipped, constant_terms, copies, digits, matrix_product, multiples, terms_along_axis
from .problem import Problem
from .progress import TimeUp
from .tree import leaves

# The first pattern that explains the numbers is shown: what has fewer other explanations stands before.
PATTERNS = (
    *(not_finite, zero, one_element, clipped, digits, one_factor, constant_terms, copies),
    *(arrangement, arrangement_by_sample, matrix_product, multiples, factor_by_element, other_mask, named_places),
    *(lost_outputs, factor_elsewhere, transposed_map, lost_elements),
    *(factor_by_index, factor_by_output, terms_along_axis, axes_that_go_together),
    *(factor_of_paths, product_with_dout, own_path, shuffled_paths, wrong_paths, places, begins),
)


def hint(f: Finding) -> str:
    """Return the slip that explains a wrong gradient, or nothing."""
    with np.errstate(all="ignore"):  # an output may be infinite, a factor divide by zero: what follows explains nothing
        return next(_patterns(f), "")


def _patterns(f: Finding) -> Iterator[str]:
    for pattern in PATTERNS:
        yield from pattern(f)
    yield from in_part(f, hint)
    if f.right:
        those, they = ("is the gradient", "it does") if len(f.right) == 1 else ("are the gradients", "they do")
        yield f"right {those} of {', '.join(f.right)}: look at what {f.name} goes through and {they} not"


def hints(problem: Problem, backward: Backward, dout: Any, found: list[Comparison | None], apart: bool) -> list[str]:
    """Return for each gradient the slip that its numbers suggest; nothing for one that is right, or has no pattern.

    dout   as backward got it
    found  the comparison of each leaf; None for a gradient that could not be compared
    apart  whether there is time to take gradients apart by outputs
    """
    outputs = [(name, np.shape(leaf)) for name, leaf in leaves(problem.out, "out")]
    can = apart and problem.real and 1 < sum(math.prod(shape) for _, shape in outputs) <= MOST
    compared = [c for c in found if c is not None and not c.function.leaf.is_complex]

    @cache
    def claimed() -> list[np.ndarray]:
        return claimed_paths(problem, backward, dout, [c is not None for c in found])

    def paths(f: Finding, i: int, c: Comparison) -> Paths | None:
        if f.analytic.size > MOST or not f.whole:
            return None
        try:
            with np.errstate(all="ignore"):
                return taken_apart(c.function, claimed()[i], f, outputs)
        except (Exception, TimeUp):  # a backward may refuse a dout of zeros: then a hint with less to go on
            return None

    def of(i: int, c: Comparison) -> str:
        if c.function.leaf.is_complex:
            return complex_hint(c.analytic, np.where(c.kinks, np.nan, c.value), c.wrong)
        f = _finding(problem, c, dout, compared)
        return hint(replace(f, paths=partial(paths, f, i, c)) if can else f)

    return [of(i, c) if c is not None and _says_something(c) else "" for i, c in enumerate(found)]


def _says_something(c: Comparison) -> bool:
    return bool(c.wrong.any()) and not c.time_up


def _finding(problem: Problem, c: Comparison, dout: Any, compared: list[Comparison]) -> Finding:
    pairs = zip(problem.args, problem.names, strict=False)
    every = [(name, np.asarray(leaf)) for arg, start in pairs for name, leaf in leaves(arg, start)]
    outputs = [(name, np.asarray(leaf)) for name, leaf in leaves(problem.out, "out")]
    others = [other for other in compared if other is not c]
    bars = [np.where(np.isfinite(part), part, 0.0) for part in (c.error, c.allowance)]
    return Finding(
        c.function.leaf.name,
        c.analytic,
        np.where(c.kinks, np.nan, c.value),
        bars[0] + bars[1],
        c.wrong,
        arguments=[(name, array) for name, array in every if array.dtype.kind == "f"],
        integers=[(name, array) for name, array in every if array.ndim and array.dtype.kind in "iub"],
        out=[(name, array) for name, array in outputs if array.dtype.kind == "f"],
        dout=[(name, np.asarray(leaf, dtype=np.float64)) for name, leaf in leaves(dout, "dout")],
        others=[(o.function.leaf.name, o.value) for o in others if np.isfinite(o.value).all()],
        sampled=[(o.function.leaf.name, o.value) for o in others if not np.isfinite(o.value).all()],
        right=[o.function.leaf.name for o in others if not o.wrong.any()],
        single=problem.single,
    )
