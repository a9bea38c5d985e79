"""Arrays and numbers for which no gradient came back: which of them may do without one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .conduct import Call, distance
from .leaf import Leaf
from .problem import Problem
from .report import ArgumentReport, without_numbers
from .state import arrays
from .tree import is_number

PARTS = 16  # of more leaves than that, those of one part are taken for alike: forward may be slow
UPDATED = "forward updates it"
STILL = "the output does not move with it"


@dataclass(frozen=True, eq=False)
class Missing:
    """What is to be said of leaves without a gradient.

    problem  the problem with those of them optional that may do without
    excused  why no gradient is due, by name
    rows     the verdicts on arrays of which nothing is known: they move the output, and backward says nothing of them
    """

    problem: Problem
    excused: dict[str, str]
    rows: tuple[ArgumentReport, ...]

    def without_rows(self, problem: Problem) -> Problem:
        """Return a problem without the leaves that have got their verdict."""
        judged = {row.name for row in self.rows}
        return replace(problem, leaves=[leaf for leaf in problem.leaves if leaf.name not in judged])


def find_missing(
    problem: Problem, call: Call, trees: Mapping[int, Any], gradients: list[Any], asked_for: bool
) -> Missing:
    """Sort the leaves for which no gradient came back by whether the output moves with them.

    call       the first call of forward
    trees      what backward returned, by position; it may leave out an argument that holds settings
    gradients  the gradient of each leaf, or None
    asked_for  whether the user named the arguments to check: then each of their arrays is due a gradient
    """
    excused = dict.fromkeys([change.name for change in call.inside], UPDATED)
    missing = [
        leaf for leaf, g in zip(problem.leaves, gradients, strict=True) if g is None and leaf.name not in excused
    ]
    missing = [leaf for leaf in missing if is_number(leaf.given) or not asked_for]
    moving = {leaf.number for leaf in _movers(problem, call, missing, -(-len(missing) // PARTS))}
    excused |= {leaf.name: STILL for leaf in missing if leaf.number not in moving}
    silent = [leaf for leaf in missing if leaf.number in moving and not (leaf.optional or leaf.position in trees)]
    due = ", ".join(repr(problem.names[i]) for i in problem.required)
    reason = f"the output moves with it, but no gradient came back for it; wrt=[{due}] leaves it out"
    rows = tuple(without_numbers(leaf.name, leaf.shape, "inconclusive", reason) for leaf in silent)
    found = [replace(leaf, optional=leaf.optional or leaf.name in excused) for leaf in problem.leaves]
    return Missing(replace(problem, leaves=found), excused, rows)


def _movers(problem: Problem, call: Call, found: list[Leaf], least: int) -> list[Leaf]:
    """Return those with which the output moves, by halves: of many settings most do nothing."""
    if not found or not _moves(problem, call, found):
        return []
    if len(found) <= least:
        return found
    middle = len(found) // 2
    return _movers(problem, call, found[:middle], least) + _movers(problem, call, found[middle:], least)


def _moves(problem: Problem, call: Call, found: list[Leaf]) -> bool:
    rng = np.random.default_rng(6)
    noise = distance([arrays(problem.out), call.out])
    for size in (1.0, 2.0**-10):

        def move(leaf: Leaf, size: float = size) -> np.ndarray:
            return np.asarray(leaf.x + size * leaf.steps * rng.standard_normal(leaf.x.shape))

        try:
            out = arrays(problem.forward(*replace(problem, leaves=found).moved(move))[0])
        except Exception:  # so forward does read them
            return True
        if len(out) != len(call.out) or distance([call.out, out]) > 10 * noise:
            return True
    return False
