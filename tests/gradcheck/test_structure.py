"""The room's own rules, read from its code: no circle of imports, and nobody sets another's state."""

import ast
import dataclasses
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

import npgpt.gradcheck
from npgpt.gradcheck.contract import Contract
from npgpt.gradcheck.function import functions_of
from npgpt.gradcheck.problem import Problem

ROOM = Path(npgpt.gradcheck.__file__).parent
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOM.glob("*.py"))}
PREFIX = "npgpt.gradcheck."


def imported(tree):
    """Return the files of the room that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {f"{alias.name}.__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = PREFIX + node.module if node.level and node.module else node.module or PREFIX.rstrip(".")
            names |= {f"{module}.__init__"} | {f"{module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix(PREFIX).split(".")[0] for name in names if name.startswith(PREFIX)}
    return inside & set(TREES)


def test_no_two_files_import_each_other():
    imports = {name: imported(tree) for name, tree in TREES.items()}
    assert imports["check"] >= {"contract", "problem", "verdict"}  # the imports are seen at all
    checks = {"accumulation", "adapters", "check", "dependence", "hessian", "jvp", "layer"}
    assert imports["pytest_plugin"] == checks | {"__init__"}
    list(TopologicalSorter(imports).static_order())  # raises CycleError, which names the circle


def test_only_an_object_itself_sets_its_attributes():
    found = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
                owner = ast.unparse(node.value)
                if owner != "self":
                    found.append(f"{name}.py:{node.lineno}: {owner}.{node.attr}")
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("npgpt")):
                found += [f"{name}.py imports {a.name}" for a in node.names if a.name.startswith("_")]
    assert found == []


def test_what_a_check_has_found_out_is_not_changed_later():
    rng = np.random.default_rng(0)
    problem = Problem.pose(lambda x: (x * x, x), (np.ones(3),), None, None, rng, np.dtype(np.float64))
    (function,) = functions_of(problem, False, rng)
    assert function.complex_safe
    for thing, field in (
        (problem, "single"),
        (problem.leaves[0], "x"),
        (function, "noise"),
        (function, "writes"),
        (Contract(), "broken"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, None)
