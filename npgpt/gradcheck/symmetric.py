"""Arguments that are symmetric matrices, of which forward may read one triangle alone."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .tree import is_floats, leaves, map_leaves


def symmetrised(gradient: Any) -> Any:
    """Return (g + g.T) / 2 over the last two axes of an array; anything else, such as None, as it is."""
    square = is_floats(gradient) and gradient.ndim > 1 and gradient.shape[-1] == gradient.shape[-2]
    return (gradient + gradient.swapaxes(-1, -2)) / 2 if square else gradient


def reading_symmetric(
    forward: Callable[..., tuple[Any, Any]], args: Sequence[Any], names: Sequence[str], symmetric: Sequence[str]
) -> Callable[..., tuple[Any, Any]]:
    """Return forward with (A + A.T) / 2 in the place of each symmetric argument A.

    By the one triangle that forward reads, by both, or made symmetric: made symmetric again, the gradients of all
    conventions are those of this function.

    Raises ValueError for a name that is no argument, or one of what is no symmetric matrix.
    """
    every = [list(leaves(arg, name)) for arg, name in zip(args, names, strict=False)]
    known = {name: leaf for pairs in every for name, leaf in pairs}
    for name in symmetric:
        if name not in known:
            raise ValueError(f"symmetric={name!r} is not an argument; those are: {', '.join(known)}")
        A = known[name]
        if not is_floats(A) or np.ndim(A) < 2 or A.shape[-1] != A.shape[-2] or not np.allclose(A, A.swapaxes(-1, -2)):
            raise ValueError(f"symmetric={name!r} is not a symmetric matrix")

    @functools.wraps(forward)
    def run(*given: Any) -> tuple[Any, Any]:
        numbers = iter([name in symmetric for pairs in every for name, _ in pairs])
        return forward(*(map_leaves(lambda A: _mean(A) if next(numbers) else A, arg) for arg in given))

    return run


def _mean(A: np.ndarray) -> np.ndarray:
    return (A + A.swapaxes(-1, -2)) / 2  # of complex numbers too, for complex steps
