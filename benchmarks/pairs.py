"""An example of the suite as a plain function of arrays: what every peer's wrapper is built on.

A peer sees the float arrays alone, those inside dicts and tuples included, as one flat list; ids, masks, numbers and
None are handed on behind its back. Nothing is copied that a user's own wrapper would not copy.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from npgpt.gradcheck.tree import is_floats, leaf_at, leaves, map_leaves

Arrays = list[np.ndarray]


class Pair:
    """A forward and a backward, from and to flat lists of float64 arrays.

    xs    the arrays that are differentiated, copies of the example's, in their order in memory
    outs  what forward makes of them

    raw_forward, raw_backward and args are the example's own, for npgpt, and options are what it is told besides.
    """

    def __init__(self, forward: Callable, backward: Callable, args: tuple, options: dict[str, Any]) -> None:
        self.raw_forward, self.raw_backward, self.args, self.options = forward, backward, args, options
        found = [leaf for arg in args for _, leaf in leaves(arg) if is_floats(leaf)]
        self.xs: Arrays = [np.array(leaf, dtype=np.float64, order="K") for leaf in found]
        self.wanted = [i for i, arg in enumerate(args) if any(is_floats(leaf) for _, leaf in leaves(arg))]

    @cached_property
    def out_tree(self) -> Any:
        return self.raw_forward(*self._rebuild(self.xs))[0]

    @property
    def outs(self) -> Arrays:
        return [np.asarray(leaf) for _, leaf in leaves(self.out_tree)]

    def _rebuild(self, xs: Sequence[np.ndarray]) -> list[Any]:
        """Put arrays in the places of the arguments' own, in the same order in memory (some peers keep none)."""
        layouts = iter(self.xs)
        values = iter(xs)

        def put(leaf: Any) -> Any:
            if not is_floats(leaf):
                return leaf
            flags, value = next(layouts).flags, next(values)
            return np.asfortranarray(value) if flags.f_contiguous and not flags.c_contiguous else value

        return [map_leaves(put, arg) for arg in self.args]

    def forward(self, xs: Sequence[np.ndarray]) -> tuple[Arrays, Any]:
        out, cache = self.raw_forward(*self._rebuild(xs))
        return [np.asarray(leaf) for _, leaf in leaves(out)], cache

    def backward(self, douts: Sequence[np.ndarray], cache: Any) -> list[Any]:
        """Return what backward gives for each of xs, whatever it is: checking it is the peer's part."""
        values = iter(douts)
        dout = map_leaves(lambda leaf: next(values)[()], self.out_tree)
        result = self.raw_backward(dout, cache)
        results = list(result) if isinstance(result, tuple | list) else [result]
        if len(results) != len(self.wanted):
            results = [results[i] for i in self.wanted]
        gradients = []
        for i, tree in zip(self.wanted, results, strict=True):
            pairs = zip(leaves(self.args[i]), leaf_at(self.args[i], tree), strict=True)
            gradients += [gradient for (_, leaf), gradient in pairs if is_floats(leaf)]
        return gradients
