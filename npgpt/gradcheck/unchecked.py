"""What a check does not look at, and why."""

import enum
import types
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .problem import Problem
from .report import Unchecked
from .tree import is_complex, is_floats, is_number, kind_of, leaf_at, leaves, same_structure

LISTED = 3  # of more leaves that are alike, the first and the last are named

# what holds no numbers that an output could depend on smoothly
WITHOUT_FLOATS = (
    *(type(None), type(...), str, bytes, slice, range, type, enum.Enum, np.dtype, np.ufunc),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType),
    *(np.random.Generator, np.random.RandomState, np.random.BitGenerator),
)


def unchecked(
    problem: Problem, trees: Mapping[int, Any], asked_for: bool, excused: Mapping[str, str]
) -> tuple[Unchecked, ...]:
    """Return the arguments and outputs that are not looked at.

    trees      what backward returned, by the argument's position
    excused    why no gradient is due, by the name of what needs none
    asked_for  whether the user named the arguments to check
    """
    checked = {leaf.number: leaf for leaf in problem.leaves}
    found: list[Unchecked] = []
    number = 0
    for position, arg in enumerate(problem.args):
        returned = trees.get(position)
        returned = returned if same_structure(arg, returned) else None
        named = leaves(arg, problem.names[position])
        group = []
        for (name, leaf), gradient in zip(named, leaf_at(arg, returned), strict=True):
            if number not in checked:
                left_out = asked_for and position not in problem.chosen
                due = is_floats(leaf) or is_complex(leaf) or is_number(leaf)
                why = (excused[name], False) if due and name in excused else _why(leaf, gradient, left_out)
                group.append(Unchecked(name, kind_of(leaf), *why))
            elif checked[number].x.size == 0:
                group.append(Unchecked(name, kind_of(leaf), "it has no elements", False))
            number += 1
        found += _grouped(group)
    return (*found, *_grouped([_output(name, leaf) for name, leaf in problem.others]))


def _output(name: str, leaf: Any) -> Unchecked:
    empty = np.asarray(leaf).dtype.kind in "fc"
    return Unchecked(name, kind_of(leaf), *(("it has no elements", False) if empty else _why(leaf)))


def _why(leaf: Any, gradient: Any = None, left_out: bool = False) -> tuple[str, bool]:
    """Return why a leaf is not looked at, and whether it could have had a gradient."""
    if is_floats(leaf) or is_complex(leaf) or is_number(leaf):
        return "left out by wrt" if left_out else "no gradient came back for it", True
    if isinstance(leaf, WITHOUT_FLOATS):
        return "it holds no floats", False
    if isinstance(leaf, np.ndarray | np.generic | int):
        kind = np.asarray(leaf).dtype.kind
        if kind in "iub":
            if _is_gradient(gradient, leaf):
                return "a gradient came back for it; make it floats to have that checked", True
            return f"{'booleans' if kind == 'b' else 'integers'} have no gradient", False
        if kind not in "OV":
            return "it holds no floats", False
    return "what it holds is not looked at", True


def _is_gradient(gradient: Any, leaf: Any) -> bool:
    """Return whether something came back for an integer that is neither zero nor the integer itself."""
    array = np.asarray(gradient)
    return array.dtype.kind in "fiuc" and bool(np.any(array)) and not np.array_equal(array, leaf)


def _grouped(found: Sequence[Unchecked]) -> Iterator[Unchecked]:
    """Yield all of them, but one for many that are alike: a list of 1000 ids makes one line."""
    alike = defaultdict(list)
    for one in found:
        alike[one.kind, one.reason, one.differentiable].append(one.name)
    for (kind, reason, differentiable), names in alike.items():
        shown = names if len(names) <= LISTED else [f"{names[0]} to {names[-1]}, {len(names)} in all"]
        for name in shown:
            yield Unchecked(name, kind, reason, differentiable)
