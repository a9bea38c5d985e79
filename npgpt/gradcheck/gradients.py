"""What backward returns: matched to the arguments, and whether it can be compared with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .forms import split
from .hints_shape import shape_hint
from .leaf import Leaf
from .problem import Problem
from .symmetric import symmetrised
from .tree import copied, is_number, is_tree, leaf_at, map_leaves, same_structure


@dataclass(frozen=True, eq=False)
class Backward:
    """The backward that is checked, its results sorted by the arguments that are."""

    problem: Problem
    function: Callable[[Any, Any], Any]

    def __call__(self, dout: Any, cache: Any) -> list[Any]:
        """Return one tree for each argument that may be checked."""
        trees = self._trees(dout, cache)
        return [trees.get(position) for position in self.problem.chosen]

    def trees(self, args: list[Any], dout: Any) -> dict[int, Any]:
        """Run forward and backward, and return what came back for each argument; those left out are not there."""
        own = map_leaves(lambda leaf: np.array(leaf)[()], dout)  # because backward may write into it
        return self._trees(own, self.problem.forward(*args)[1])

    def gradients(self, args: list[Any], dout: Any) -> list[Any]:
        """Run forward and backward, and return one gradient for each checked leaf, as pairs if that is complex."""
        return self.of_leaves(self.trees(args, dout))

    def of_leaves(self, trees: dict[int, Any]) -> list[Any]:
        """Return the gradient of each checked leaf among those of the arguments."""
        problem = self.problem
        flat = {i: list(leaf_at(problem.args[i], trees.get(i))) for i in {leaf.position for leaf in problem.leaves}}
        # copies, because a backward may return the same array each time
        found = [copied(flat[leaf.position][leaf.place]) for leaf in problem.leaves]
        if problem.symmetric:
            pairs = zip(problem.leaves, found, strict=True)
            found = [symmetrised(g) if leaf.name in problem.symmetric else g for leaf, g in pairs]
        pairs = zip(problem.leaves, found, strict=True)
        return [_parts(g, problem.conjugate) if leaf.is_complex else g for leaf, g in pairs]

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

    def at(self, leaf: Leaf, x: np.ndarray, dout: Any) -> np.ndarray:
        """Return the gradient of a leaf with x in its place; NaN if forward or backward raises there."""
        moved = self.problem.moved(lambda other: np.array(x if other is leaf else other.x, dtype=self.problem.dtype))
        return self.tried(moved, dout)[self.problem.leaves.index(leaf)]

    def _trees(self, dout: Any, cache: Any) -> dict[int, Any]:
        problem = self.problem
        result = self.function(problem.for_backward(dout), cache)
        return by_argument(result, problem.args, problem.names, problem.chosen, problem.required)


@dataclass(frozen=True)
class Misfit:
    """Why a gradient cannot be compared with its argument, and the slip that this suggests."""

    reason: str
    hint: str = ""


def misfit(leaf: Leaf, gradient: Any) -> Misfit | None:
    """Return why a gradient cannot be compared with its argument; None if it can."""
    if gradient is None:
        return Misfit("backward returned None")
    array, shape = np.asarray(gradient), leaf.shape
    if array.dtype.kind not in "fiuc":  # the shape of strings, booleans or objects says nothing
        return Misfit(f"the gradient is {array.dtype}, not floats")
    if array.shape != leaf.x.shape:
        array = array[..., 0] if leaf.is_complex and array.ndim else array
        return Misfit(f"the gradient's shape {array.shape} is not the argument's {shape}", shape_hint(array, shape))
    if array.dtype.kind == "c":
        return Misfit(f"the gradient is {array.dtype}, not floats", "take its real part: the argument is real")
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
            if not (type(gradient) is int and is_number(leaf.given)):
                errors.append(f"the gradient of {leaf.name} is {kind}, not floats")
        elif kind.itemsize < least.itemsize:
            kinds = [np.result_type(k, np.complex64) if leaf.is_complex else k for k in (kind, least)]
            errors.append(f"the gradient of {leaf.name} is {kinds[0]}, where argument and output are {kinds[1]}")
    return errors


def matched(result: Any, args: Sequence[Any], names: Sequence[str], chosen: Sequence[int]) -> list[Any]:
    """Return one gradient tree for each chosen argument, whether backward returned one for each or only for those."""
    trees = by_argument(result, args, names, chosen, chosen)
    return [trees.get(position) for position in chosen]


def by_argument(
    result: Any, args: Sequence[Any], names: Sequence[str], chosen: Sequence[int], required: Sequence[int]
) -> dict[int, Any]:
    """Return the gradient tree of each argument, by position, for which backward returned one or None.

    Backward may have returned one for each argument, for each that is chosen, or for each that is required.
    """
    only = required or chosen
    first = args[only[0]] if len(only) == 1 else None
    if first is not None and is_tree(first) and same_structure(first, result) and result is not None:
        results = [result]
    else:
        results = list(result) if isinstance(result, tuple | list) else [result]
    for positions in (range(len(args)), required, chosen):
        if len(results) == len(positions) and results:
            break
    else:
        got = "None" if result is None else f"{len(results)} gradient{'s' * (len(results) != 1)}"
        raise ValueError(f"backward returned {got}; expected {_expected(len(args), [names[i] for i in only])}")
    trees = dict(zip(positions, results, strict=True))
    for position in chosen:
        if not same_structure(args[position], trees.get(position)):
            told = _kinds(trees.get(position), args[position])
            raise ValueError(f"the gradient of {names[position]} does not have the structure of its argument{told}")
    return trees


def _kinds(gradient: Any, arg: Any) -> str:
    kinds = type(gradient).__name__, type(arg).__name__
    return f": {kinds[0]} for {kinds[1]}" if kinds[0] != kinds[1] else ""


def _expected(count: int, only: Sequence[str]) -> str:
    """Return how many gradients backward may return: one for each argument, or for some by name."""
    every = f"{count}, one for each argument of forward"
    return every if len(only) == count else f"{every}, or {len(only)}, for {', '.join(only)}"


def _parts(gradient: Any, conjugate: bool) -> Any:
    """Return the gradient of a complex argument by its real and imaginary parts, as pairs."""
    if gradient is None or np.asarray(gradient).dtype.kind not in "fiuc":
        return gradient
    return split(np.conj(gradient) if conjugate else gradient)
