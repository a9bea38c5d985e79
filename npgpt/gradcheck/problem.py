"""What is checked: one forward with its arguments, the leaves among them, and the cotangent of its output."""

import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .forms import cotangent, in_single, leaving, output_form, real_form, with_real_forms
from .leaf import Leaf
from .numeric import largest
from .outputs import sizes, unmoved, weighted
from .tree import (
    convert,
    copied,
    fresh,
    is_complex,
    is_floats,
    is_number,
    is_tree,
    leaves,
    map_leaves,
    same_structure,
)


@dataclass(frozen=True, eq=False)
class Problem:
    """The function `sum(dout * out)` of the leaves that are checked.

    forward    takes the leaves' x, too, in place of what was given, and returns complex outputs as pairs
    args       the arguments of forward, their floats in float64
    chosen     the positions of the arguments that may be checked
    required   the positions of those that must have a gradient
    out        what forward returns: pairs for complex numbers, and 0 for what is no number
    forms      for each leaf of out, the `output_form` of what it stands for
    others     the outputs that are not differentiated, by name
    dout       a random cotangent, in the structure of out
    dtype      the dtype in which forward and backward are to run
    single     whether they compute in float32, because of dtype or of their own accord
    conjugate  how complex gradients are written
    source     forward as it was given
    takes      the dtype in which the differences are taken: float32 if forward takes nothing else
    symmetric  the names of the leaves whose gradients are made symmetric before they are compared
    """

    forward: Callable[..., tuple[Any, Any]]
    args: list[Any]
    names: list[str]
    chosen: list[int]
    required: list[int]
    leaves: list[Leaf]
    out: Any
    forms: list[str]
    others: list[tuple[str, Any]]
    dout: Any
    dtype: np.dtype
    single: bool
    conjugate: bool
    source: Callable[..., tuple[Any, Any]]
    takes: np.dtype
    symmetric: tuple[str, ...] = ()

    @classmethod
    def pose(
        cls,
        forward: Callable[..., tuple[Any, Any]],
        args: Sequence[Any],
        names: Sequence[str] | None,
        wrt: Sequence[int | str] | None,
        rng: np.random.Generator,
        dtype: np.dtype,
        dout: Any = None,
        conjugate: bool = False,
    ) -> "Problem":
        """Run forward once, and draw a cotangent for its output unless dout is one.

        The arguments are described at check_backward.
        """
        names = argument_names(forward, len(args)) if names is None else _own_names(names, len(args))
        for position, arg in enumerate(args):
            _refuse_other_arrays(arg, names[position])
        # rounded to dtype first, so that the derivatives in float64 are taken at the very same numbers
        args = [map_leaves(lambda leaf: convert(convert(leaf, dtype), np.float64), arg) for arg in args]
        chosen, required = _chosen(args, wrt, names)
        source, takes = forward, np.dtype(np.float64)
        try:
            result = forward(*fresh(args))
        except Exception:  # whatever it raises where it takes float32 alone
            if dtype != np.float32:
                raise
            forward, takes = in_single(forward), dtype
            result = forward(*fresh(args))
        if not (isinstance(result, tuple) and len(result) == 2):
            kind = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise TypeError(f"forward must return a pair, (out, cache), but returned {kind}")
        forms, others = _outputs(result[0])
        out = leaving(result[0], forms, conjugate)
        dout = random_cotangent(out, rng) if dout is None else _given_cotangent(out, dout, forms)
        single = dtype == np.float32 or any(np.asarray(leaf).dtype == np.float32 for _, leaf in leaves(out))
        found = _leaves(args, names, chosen, wrt is not None)
        given = {leaf.number: leaf.given for leaf in found if leaf.is_complex or is_number(leaf.given)}
        return cls(
            with_real_forms(forward, given, forms, conjugate),
            args,
            names,
            chosen,
            required,
            found,
            out,
            forms,
            others,
            dout,
            dtype,
            single,
            conjugate,
            source,
            takes,
        )

    def settled(self, gradients: Sequence[Any]) -> "Problem":
        """Return the same problem without the optional leaves that have no gradient, unless no leaf has one."""
        pairs = zip(self.leaves, gradients, strict=True)
        kept = [leaf for leaf, gradient in pairs if not leaf.optional or gradient is not None]
        return replace(self, leaves=kept or self.leaves)

    def given_dout(self) -> Any:
        """Return a fresh copy of dout as backward is to get it: in float32 if that was asked for."""
        kind = self.dtype if self.dtype == np.float32 else None  # else each output's own
        return map_leaves(lambda leaf: np.array(leaf, dtype=kind)[()], self.dout)

    @cached_property
    def weights(self) -> tuple[int, ...]:
        """Return the shape of dout * out, flat."""
        return (sum(np.size(leaf) for _, leaf in leaves(self.dout)),)

    def for_backward(self, dout: Any) -> Any:
        """Return a dout as backward is to get it; it shares memory."""
        return cotangent(dout, self.forms)

    @property
    def real(self) -> bool:
        """Return whether no complex number goes in or comes out, so that complex steps can be told from them."""
        return "complex" not in self.forms and not any(leaf.is_complex for leaf in self.leaves)

    def weighted(self, out: Any) -> np.ndarray:
        """Return dout * out, flat, and not summed: what does not move then adds no rounding to a difference.

        An output that is infinite whatever the arguments are counts as 0.
        """
        with np.errstate(invalid="ignore"):
            product = weighted(out, self.dout)
        return np.where(self.silent, 0.0, product) if self.has_silent and product.shape == self.weights else product

    @cached_property
    def start(self) -> np.ndarray:
        """Return dout * out, flat, at the given arguments."""
        with np.errstate(invalid="ignore"):
            return weighted(self.out, self.dout)

    @cached_property
    def silent(self) -> np.ndarray:
        """Return which outputs, flat, are infinite whatever the arguments are, as masked scores are."""
        infinite = np.isinf(self.start)
        return infinite & self.still if infinite.any() else infinite

    @cached_property
    def has_silent(self) -> bool:
        return bool(self.silent.any())

    @cached_property
    def still(self) -> np.ndarray:
        """Return which outputs, flat, no argument moves."""
        rng = np.random.default_rng(4)

        def at(size: float, share: float) -> np.ndarray:
            args = self.moved(lambda leaf: share * leaf.x + size * leaf.steps * rng.standard_normal(leaf.x.shape))
            return weighted(self.forward(*args)[0], self.dout)

        return unmoved(self.start, at, self.smallest_scale)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Return |dout * out|, flat, as a measure of what rounding may hide."""
        return sizes(
            np.where(self.silent, 0.0, self.start), self.still, weighted(map_leaves(np.ones_like, self.out), self.dout)
        )

    @cached_property
    def magnitude(self) -> float:
        """Return the size of the function."""
        return float(np.sum(self.sizes))

    @property
    def largest_dout(self) -> float:
        return max((largest(part) for _, part in leaves(self.dout)), default=0.0)

    @property
    def smallest_scale(self) -> float:
        """Return the least of the leaves' scales."""
        return min((leaf.scale for leaf in self.leaves if leaf.x.size), default=1.0)

    def natural(self, leaf: Leaf) -> float:
        """Return the size that a gradient would have if the function doubled over the leaf's scale."""
        return self.magnitude / leaf.scale if leaf.x.size else 0.0

    def copies(self, dtype: Any = None) -> list[Any]:
        """Return fresh arguments; with dtype, the floats among them converted."""
        memo: dict[int, Any] = {}

        def copy(leaf: Any) -> Any:
            floats = dtype is not None and (is_floats(leaf) or is_complex(leaf))
            return convert(leaf, dtype) if floats else copied(leaf, memo)

        return [map_leaves(copy, arg) for arg in self.args]

    def moved(self, move: Callable[[Leaf], np.ndarray]) -> list[Any]:
        """Return fresh arguments with move(leaf) in the place of each leaf that is checked."""
        checked = {leaf.number: leaf for leaf in self.leaves}
        numbers = itertools.count()
        memo: dict[int, Any] = {}

        def put(other: Any) -> Any:
            leaf = checked.get(next(numbers))
            return copied(other, memo) if leaf is None else np.asarray(move(leaf))

        return [map_leaves(put, arg) for arg in self.args]


def _own_names(names: Sequence[str], count: int) -> list[str]:
    if len(names) < count:
        raise ValueError(f"{len(names)} names for {count} arguments")
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"names={names!r} is not a list of strings")
    return list(names)


def _refuse_other_arrays(arg: Any, name: str) -> None:
    """Raise TypeError for arrays whose numbers alone would be another argument."""
    for full_name, leaf in leaves(arg, name):
        if isinstance(leaf, np.ma.MaskedArray | np.matrix) and leaf.dtype.kind in "fc":
            kind = type(leaf).__name__
            raise TypeError(
                f"{full_name} is a {kind}, which forward would get as a plain array; make it inside forward"
            )


def _outputs(out: Any) -> tuple[list[str], list[tuple[str, Any]]]:
    """Return the form of each output, and by name those that are not differentiated."""
    named = list(leaves(out, "out"))
    floats = [np.asarray(leaf).dtype.kind in "fc" for _, leaf in named]
    if not any(floats):
        raise ValueError("out holds no floats: there is nothing to differentiate")
    others = [pair for pair, is_float in zip(named, floats, strict=True) if not (is_float and np.size(pair[1]))]
    return [output_form(leaf) for _, leaf in named], others


def random_cotangent(out: Any, rng: np.random.Generator) -> Any:
    """Return a random dout in the structure and dtypes of out; zero for an output that is not floats.

    Normal numbers, because under ones many gradients are zero whatever the code says: softmax's, and layer norm's.
    """

    def draw(leaf: Any) -> Any:
        array = np.asarray(leaf)
        dout = rng.standard_normal(array.shape)
        return np.asarray(dout, array.dtype)[()] if array.dtype.kind == "f" else np.zeros(array.shape)[()]

    return map_leaves(draw, out)


def describe(error: BaseException) -> str:
    """Return what an exception says, in one line."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 120 else f"{text[:117]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _given_cotangent(out: Any, dout: Any, forms: Sequence[str]) -> Any:
    """Return a given dout in the dtypes of out, a complex one as pairs."""
    if not same_structure(out, dout):
        raise ValueError("dout does not have the structure of out, with arrays where out has arrays")
    given = zip([leaf for _, leaf in leaves(leaving(dout, forms))], forms, strict=True)

    def put(leaf: Any) -> Any:
        (value, form), array = next(given), np.asarray(leaf)
        if np.shape(value) != array.shape:
            shapes = [shape[:-1] if form == "complex" else shape for shape in (np.shape(value), array.shape)]
            raise ValueError(f"dout has the shape {shapes[0]} where out has {shapes[1]}")
        return np.array(value, array.dtype if array.dtype.kind == "f" else None)[()]

    put_in = map_leaves(put, out)
    parts = [part for (_, part), form in zip(leaves(put_in), forms, strict=True) if form != "none"]
    if not all(np.isfinite(part).all() for part in parts):
        raise ValueError("dout is infinite or NaN")
    if not any(np.any(part) for part in parts):
        raise ValueError("dout is zero: every gradient would be zero")
    return put_in


def _leaves(args: list[Any], names: list[str], chosen: list[int], asked_for: bool) -> list[Leaf]:
    every = [
        (name, position, place, leaf)
        for position, arg in enumerate(args)
        for place, (name, leaf) in enumerate(leaves(arg, names[position]))
    ]
    return [
        Leaf(
            name,
            position,
            place,
            number,
            real_form(leaf),
            leaf,
            optional=is_number(leaf) and (is_tree(args[position]) or not asked_for),
        )
        for number, (name, position, place, leaf) in enumerate(every)
        if position in chosen and _has_derivative(leaf)
    ]


def _has_derivative(leaf: Any) -> bool:
    return is_floats(leaf) or is_complex(leaf) or is_number(leaf)


def argument_names(forward: Callable, count: int) -> list[str]:
    """Return the names of forward's arguments, `args[i]` where it does not tell."""
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # some built-in callables have no signature
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    return [names[i] if i < len(names) else f"args[{i}]" for i in range(count)]


def _without_floats(args: list[Any], names: Sequence[str]) -> str:
    """Return what kinds of things the arguments are, none of which holds floats; and what to do about integers."""
    every = [pair for arg, name in zip(args, names, strict=False) for pair in leaves(arg, name)]
    kinds = ", ".join(f"{name} is {getattr(leaf, 'dtype', type(leaf).__name__)}" for name, leaf in every[:4])
    integers = any(isinstance(leaf, np.ndarray | np.generic | int) for _, leaf in every)
    return f" ({kinds}{': make it floats' if integers else ''})" if kinds else ""


def _chosen(args: list[Any], wrt: Sequence[int | str] | None, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the positions of the arguments that may be checked, and of those that must have a gradient."""
    floats = [i for i, arg in enumerate(args) if any(_has_derivative(leaf) for _, leaf in leaves(arg))]
    if wrt is None:
        if not floats:
            raise ValueError(
                f"no argument is an array of floats: there is nothing to differentiate{_without_floats(args, names)}"
            )
        arrays = [i for i in floats if any(_has_derivative(x) and not is_number(x) for _, x in leaves(args[i]))]
        return floats, arrays
    chosen = []
    for key in [wrt] if isinstance(wrt, int | str) else wrt:
        position = names.index(key) if key in names else key
        if position not in floats:
            known = ", ".join(f"{i} ({names[i]})" for i in floats)
            raise ValueError(f"wrt={key!r} is not an array of floats; those are: {known}")
        chosen.append(int(position))
    if not chosen:
        raise ValueError("wrt is empty: there is nothing to check")
    return chosen, chosen
