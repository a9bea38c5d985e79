"""What is checked: the planted bugs, the nasty functions, right pairs as a control, and three cases for their time.

A task is a kind and a name, so that it can be sent to a process, which then looks up the functions itself.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from benchmarks.pairs import Pair
from npgpt.cases import LAYERS, GPTCase
from npgpt.config import GPTConfig
from npgpt.ops import REFERENCE
from tests.gradcheck import bugs, nasty
from tests.gradcheck.blind import BLIND
from tests.gradcheck.example import Example

GPT = GPTConfig(vocab_size=65, n_positions=32, n_embd=44, n_layer=2, n_head=4)
LAYER, MODEL, LARGE = "layer norm", "GPT of 52,000 parameters", "linear of 204,800 weights"
CONTROLS = 24  # right pairs that every wrapper must pass


class Task(NamedTuple):
    """kind is "bug", "nasty", "right" or "timing"; group is the file of the suite."""

    kind: str
    group: str
    name: str


@cache
def examples() -> dict[tuple[str, str], Example]:
    """Return the whole suite by kind and name."""
    found = {("bug", e.name): e for e in bugs.BUGS} | {("nasty", e.name): e for e in nasty.NASTY}
    found |= {("bug", f"blind: {slip.name}"): slip.example for slip in BLIND}
    found |= {("nasty", f"blind: {name}"): replace(e, backward=e.right) for name, e in _blind_layers().items()}
    once = {(id(e.forward), id(e.right), id(e.args)): e for e in bugs.BUGS if e.right is not None}
    return found | {("right", e.name): e for e in once.values()}


def tasks(sample: float) -> list[Task]:
    """Return the bugs and the nasty functions, or an even sample of each."""
    planted = [Task("bug", _stem(file), e.name) for file in bugs.FILES for e in file.BUGS]
    correct = [Task("nasty", _stem(file), e.name) for file in nasty.FILES for e in file.NASTY]
    planted += [Task("bug", "blind", f"blind: {slip.name}") for slip in BLIND]
    correct += [Task("nasty", "blind", f"blind: {name}") for name in _blind_layers()]
    return [*_evenly(planted, round(sample * len(planted))), *_evenly(correct, round(sample * len(correct)))]


def set_of(task: Task) -> str:
    """Return which set a pair belongs to, by what was known when the checker was last changed."""
    if task.group == "blind":
        return "blind"
    aimed = {_stem(file) for file in (*bugs.AIMED, *nasty.AIMED)}
    return "aimed" if task.group in aimed else "first"


def _blind_layers() -> dict[str, Example]:
    return {slip.name.split(":")[0]: slip.example for slip in BLIND}


def controls() -> list[Task]:
    """Return right pairs that have a derivative, none of them large."""
    large = {e.name for e in bugs.big.BUGS}
    found = [(name, e) for (kind, name), e in examples().items() if kind == "right" and name not in large]
    return _evenly([Task("right", "", name) for name, e in found if not e.options.get("kink")], CONTROLS)


def timings() -> list[Task]:
    return [Task("timing", "", name) for name in (LAYER, MODEL, LARGE)]


def pair_of(task: Task) -> Pair:
    """Return the functions and arguments of a task."""
    if task.kind == "timing" and task.name in (LAYER, MODEL):
        layernorm = next(case for case in LAYERS if case.layer == "layernorm")
        case = layernorm if task.name == LAYER else GPTCase("for its time", GPT)
        return Pair(*case.pair(REFERENCE), case.args(np.random.default_rng(0)), {})
    kind = "nasty" if task.kind == "timing" else task.kind
    example = examples()[kind, task.name]
    backward: Callable | None = example.right if kind == "right" else example.backward
    assert backward is not None
    return Pair(example.forward, backward, example.args(), example.options.get("check", {}))


def _stem(module: object) -> str:
    return str(getattr(module, "__name__", "")).rpartition(".")[2]


def _evenly(found: list[Task], count: int) -> list[Task]:
    places = np.linspace(0, len(found) - 1, min(max(count, 1), len(found))).round().astype(int)
    return [found[i] for i in places]
