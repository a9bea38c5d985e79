"""What backward returns: matched to the arguments, and whether it can be compared with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .hints import shape_hint
from .problem import Leaf, Problem
from .tree import copied, is_tree, leaf_at, map_leaves, same_structure


@dataclass(frozen=True, eq=False)
class Backward:
    """The backward that is checked, its results sorted by the arguments that are."""

    problem: Problem
    function: Callable[[Any, Any], Any]

    def __call__(self, dout: Any, cache: Any) -> list[Any]:
        """Return one tree for each checked argument."""
        problem = self.problem
        return matched(self.function(dout, cache), problem.args, problem.names, problem.chosen)

    def gradients(self, args: list[Any], dout: Any) -> list[Any]:
        """Run forward and backward, and return one gradient for each checked leaf."""
        problem = self.problem
        own = map_leaves(lambda leaf: np.array(leaf)[()], dout)  # because backward may write into it
        trees = self(own, problem.forward(*args)[1])
        by_position = {
            position: list(leaf_at(problem.args[position], tree))
            for position, tree in zip(problem.chosen, trees, strict=True)
        }
        # copies, because a backward may return the same array each time
        return [copied(by_position[leaf.position][leaf.place]) for leaf in problem.leaves]

    def tried(self, args: list[Any], dout: Any) -> list[np.ndarray]:
        """Return the gradients in float64; NaN for all if forward or backward raises at these arguments."""
        leaves = self.problem.leaves
        try:
            found = [np.asarray(g, dtype=np.float64) for g in self.gradients(args, dout)]
        except Exception:  # whatever the user's code raises
            found = []
        if [g.shape for g in found] != [leaf.x.shape for leaf in leaves]:
            return [np.full(leaf.x.shape, np.nan) for leaf in leaves]
        return found


@dataclass(frozen=True)
class Misfit:
    """Why a gradient cannot be compared with its argument, and the slip that this suggests."""

    reason: str
    hint: str = ""


def misfit(leaf: Leaf, gradient: Any) -> Misfit | None:
    """Return why a gradient cannot be compared with its argument; None if it can."""
    if gradient is None:
        return Misfit("backward returned None")
    array, shape = np.asarray(gradient), leaf.x.shape
    if array.shape != shape:
        return Misfit(f"the gradient's shape {array.shape} is not the argument's {shape}", shape_hint(array, shape))
    if array.dtype.kind not in "fiu":
        return Misfit(f"the gradient is {array.dtype}, not floats")
    return None


def dtype_errors(problem: Problem, gradients: list[Any]) -> list[str]:
    """Return a sentence for each gradient that is not floats, or floats of less precision than the code's own."""
    least = np.dtype(np.float32 if problem.single else np.float64)
    errors = []
    for leaf, gradient in zip(problem.leaves, gradients, strict=True):
        if gradient is None:
            continue
        kind = np.asarray(gradient).dtype
        if kind.kind != "f":
            errors.append(f"the gradient of {leaf.name} is {kind}, not floats")
        elif kind.itemsize < least.itemsize:
            errors.append(f"the gradient of {leaf.name} is {kind}, where argument and output are {least}")
    return errors


def matched(result: Any, args: Sequence[Any], names: Sequence[str], chosen: Sequence[int]) -> list[Any]:
    """Return one gradient tree for each chosen argument, whether backward returned one for each or only for those."""
    if len(chosen) == 1 and is_tree(args[chosen[0]]) and same_structure(args[chosen[0]], result) and result is not None:
        return [result]
    results = list(result) if isinstance(result, tuple | list) else [result]
    if len(results) == len(args):
        found = [results[i] for i in chosen]
    elif len(results) == len(chosen):
        found = results
    else:
        wanted = ", ".join(names[i] for i in chosen)
        raise ValueError(
            f"backward returned {len(results)} gradients; expected {len(args)}, one for each argument of forward, "
            f"or {len(chosen)}, for {wanted}"
        )
    for position, gradient in zip(chosen, found, strict=True):
        if not same_structure(args[position], gradient):
            raise ValueError(f"the gradient of {names[position]} does not have the structure of its argument")
    return found
