"""What a layer keeps from one call to the next: a counter or an average may make its next output another one."""

import copy
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np

from .objects import Path, at, duplicate, generators_in, text, walk
from .parameters import distance, run_backward, run_forward
from .problem import describe
from .state import changes, snapshot, some
from .tree import copy_tree, map_leaves

CALLS = 4  # of a layer in a row
ALIKE = 1e-12  # a relative difference of outputs that is rounding


def kept_by(layer: Any, inputs: tuple, buffers: Iterable[str] = ()) -> str:
    """Return what a layer keeps that changes its next outputs, though what it draws is the same; or nothing.

    Each call of a check is given a fresh copy of the layer, so such a check sees its first output alone.

    buffers  names of what may change, such as the memory of a recurrent layer
    """
    start, trial = (duplicate(layer, walk(layer)) for _ in range(2))
    first, again = _output(trial, inputs), _output(duplicate(start, walk(start)), inputs)
    zero = map_leaves(np.zeros_like, first)
    limit = 10 * distance(first, again) + ALIKE * distance(first, zero)
    rng = np.random.default_rng(0)
    dout = map_leaves(lambda leaf: rng.standard_normal(np.shape(leaf)), first)
    try:
        for _ in range(CALLS - 1):
            run_backward(trial, copy_tree(dout), inputs)
            found = _changed(start, trial)

            def differs(paths: list[Path], trial: Any = trial, found: list[Path] = found) -> bool:
                old = {path: copy.deepcopy(at(start, path)) for path in found if path not in paths}
                return not distance(first, _output(_earlier(trial, start, old), inputs)) <= limit

            if differs(found):
                return _sentence(start, trial, _culprits(found, differs), buffers)
            _output(trial, inputs)
    except Exception as error:  # whatever the user's code raises
        return f"the layer raises {describe(error)} when it is called again"
    return ""


def _output(layer: Any, inputs: tuple) -> Any:
    return copy_tree(run_forward(layer, copy_tree(list(inputs))))


def _earlier(layer: Any, start: Any, old: dict[Path, Any]) -> Any:
    """Return a copy of a layer with its first generators, and at some paths with what was there at first."""
    pairs = zip(generators_in(layer), copy.deepcopy(generators_in(start)), strict=False)
    return duplicate(layer, walk(layer), others={id(one): first for one, first in pairs}, put=old)


def _changed(start: Any, layer: Any) -> list[Path]:
    """Return the paths at which a layer holds something else than at first."""
    return [path for path, leaf in _held(layer) if changes({"": at(start, path)}, {"": leaf})]


def _held(layer: Any) -> list[tuple[Path, Any]]:
    held = [(path, leaf) for path, leaf in walk(layer) if not isinstance(leaf, ModuleType) and path]
    return [(path, leaf) for path, leaf in held if not isinstance(at(layer, path[:-1]), tuple)]


def _culprits(found: list[Path], differs: Callable[[list[Path]], bool]) -> list[Path]:
    """Return those without which the output is the first again, by halves: of many caches none matters."""
    if len(found) < 2 or not differs(found):
        return found if found and differs(found) else []
    middle = len(found) // 2
    return _culprits(found[:middle], differs) + _culprits(found[middle:], differs)


def _sentence(start: Any, layer: Any, culprits: list[Path], buffers: Iterable[str]) -> str:
    names = {path: f"self.{text(path)}" for path in culprits}
    if culprits and all(any(f".{name}".endswith(f".{buffer}") for buffer in buffers) for name in names.values()):
        return ""
    before = {name: at(start, path) for path, name in names.items() if at(start, path) is not None}
    seen = changes(snapshot(before), snapshot({name: at(layer, path) for path, name in names.items()}))
    return f"the layer keeps state that changes its next output{': ' if seen else ''}{some(seen)}"
