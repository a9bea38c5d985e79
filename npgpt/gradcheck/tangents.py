"""What a forward-mode derivative returns: given tangents leaf by leaf, compared with out, and held to its contract."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .forms import as_given, split
from .leaf import Leaf
from .numeric import EPS, largest
from .problem import Problem, describe
from .tree import leaf_at, leaves, map_leaves, same_structure

Tangents = dict[int, np.ndarray]  # by the numbers of the leaves
CLOSE = 1e-9  # far above rounding, far below any slip
CLOSE_SINGLE = 1e-4  # the same for float32 code


@dataclass(frozen=True, eq=False)
class Product:
    """The jvp that is checked, which takes its tangents leaf by leaf; `subject` is what reports call it."""

    subject: str
    problem: Problem
    function: Callable[[Any, Any], Any]

    def __call__(self, tangents: Tangents, cache: Any) -> list[Any]:
        """Return the tangent of each leaf of out, as pairs if that is complex. Each call gets tangents of its own."""
        return self.parts(self.function(self.given(tangents), cache))

    def given(self, tangents: Tangents) -> Any:
        """Return fresh tangents as jvp takes them: one tree for each checked argument, a single one by itself."""
        forms = {leaf.number: leaf.given for leaf in self.problem.leaves}
        every = put(self.problem.args, {k: as_given(v.copy(), forms[k]) for k, v in tangents.items()}, keep=False)
        trees = tuple(every[position] for position in positions(self.problem))
        return trees[0] if len(trees) == 1 else trees

    def parts(self, tangent: Any) -> list[Any]:
        """Return the tangent of each leaf of out in what jvp returned."""
        problem = self.problem

        def part(form: str, leaf: Any) -> Any:
            if form != "complex" or leaf is None:
                return leaf
            return split(np.conj(leaf) if problem.conjugate else leaf)

        return [part(*pair) for pair in zip(problem.forms, leaf_at(problem.out, tangent), strict=True)]

    def along(self, leaf: Leaf, v: np.ndarray, cache: Any) -> list[Any]:
        """Return the tangent of out where v is that of one leaf, and the others' are zero."""
        zeros = {other.number: np.zeros(other.x.shape, v.dtype) for other in self.problem.leaves}
        return self(zeros | {leaf.number: v}, cache)

    def cache(self) -> Any:
        problem = self.problem
        return problem.forward(*problem.copies(problem.dtype))[1]

    def random(self, rng: np.random.Generator) -> Tangents:
        """Return a random tangent for each leaf, of its scale."""
        problem = self.problem
        return {
            leaf.number: np.asarray(leaf.scale * rng.standard_normal(leaf.x.shape), problem.dtype)
            for leaf in problem.leaves
        }


def moved_alone(problem: Problem) -> Problem:
    """Return the problem with those leaves alone that have a tangent: numbers only if wrt names them, or nothing else.

    For numbers check_backward looks whether a gradient comes back, but nobody can look whether a tangent was used.
    """
    return replace(problem, leaves=[leaf for leaf in problem.leaves if not leaf.optional] or problem.leaves)


def positions(problem: Problem) -> list[int]:
    """Return which of the arguments have tangents."""
    return problem.required or problem.chosen


def put(args: Sequence[Any], values: dict[int, Any], keep: bool = True) -> list[Any]:
    """Return the arguments with values in the place of the leaves of these numbers; the others kept, or None."""
    numbers = itertools.count()
    return [map_leaves(lambda leaf: values.get(next(numbers), leaf if keep else None), arg) for arg in args]


def products(dout: Any, parts: Sequence[Any]) -> np.ndarray:
    """Return dout times the tangents of the leaves of out, flat, in float64, over those that are floats."""
    with np.errstate(all="ignore"):
        found = [
            np.ravel(np.asarray(weight, np.float64) * np.asarray(part, np.float64))
            for (_, weight), part in zip(leaves(dout), parts, strict=True)
            if _is_float(weight) and part is not None
        ]
    return np.concatenate(found)


def tangent_misfit(product: Product, whole: str) -> str:
    """Return why what jvp returns cannot be compared with out, or nothing; whole is what messages call out.

    Raises ValueError if it is not even in the structure of out.
    """
    out, subject = product.problem.out, product.subject
    tangent = product.function(product.given(product.random(np.random.default_rng(0))), product.cache())
    if tangent is None:
        return f"{subject} returned None"
    if not same_structure(out, tangent):
        got = f"a {type(tangent).__name__}" + (f" of {len(tangent)}" if isinstance(tangent, tuple | list) else "")
        raise ValueError(f"{subject} must return a tangent in the structure of {whole}, alone, but returned {got}")
    for name, leaf, part in _floats(out, product.parts(tangent)):
        at = name.replace("out", whole, 1)
        if part is None:
            return f"{subject} returned None for {at}"
        array = np.asarray(part)
        if array.shape != np.shape(leaf):
            return f"{subject} returned the shape {array.shape} where {at} has {np.shape(leaf)}"
        if array.dtype.kind not in "fiu":
            return f"{subject} returned {array.dtype} for {at}, not floats"
    return ""


def used_up(product: Product) -> str:
    """Say so if a second jvp from the same cache raises an error, where the first did not; or return nothing."""
    cache, v = product.cache(), product.random(np.random.default_rng(0))
    product(v, cache)
    try:
        product(v, cache)
    except Exception as error:  # whatever a jvp raises that misses what it took out of its cache
        return f"a second {product.subject} from the same cache raises {describe(error)}: it uses the cache up"
    return ""


def tangent_contract(product: Product, rng: np.random.Generator) -> Iterator[str]:
    """Yield what jvp does not keep to, a sentence each."""
    subject, problem = product.subject, product.problem
    a, b = product.random(rng), product.random(rng)
    cache, given = product.cache(), product.given(a)
    first = product.parts(product.function(given, cache))
    if not _same(given, product.given(a)):
        yield f"{subject} writes into the tangents that it is given"
    single = problem.single
    for name, whole, part in _floats(problem.out, first):
        kind, least = np.asarray(part).dtype, np.dtype(np.float32 if problem.single else np.float64)
        single |= kind == np.float32
        if kind.kind != "f":
            yield f"the tangent of {name} is {kind}, not floats"
        elif kind.itemsize < min(least.itemsize, np.asarray(whole).dtype.itemsize):
            yield f"the tangent of {name} is {kind}, where argument and output are {least}"
    right = _flat(problem.out, first)
    other = _flat(problem.out, product(b, cache))
    if not all(np.array_equal(*pair, equal_nan=True) for pair in zip(right, _flat(problem.out, first), strict=True)):
        yield f"a later {subject} changes the tangents that an earlier one has returned"
    if all(np.isfinite(part).all() for part in (*right, *other)):
        yield from _nonlinear(product, cache, (a, right), (b, other), CLOSE_SINGLE if single else CLOSE)


def _nonlinear(
    product: Product,
    cache: Any,
    one: tuple[Tangents, list[np.ndarray]],
    another: tuple[Tangents, list[np.ndarray]],
    limit: float,
) -> Iterator[str]:
    """Compare jvp of sums and multiples of two sets of tangents with what it returned for each."""
    subject, problem, (a, right), (b, other) = product.subject, product.problem, one, another
    floor = 64 * EPS * problem.magnitude

    def run(tangents: Tangents) -> list[np.ndarray]:
        return _flat(problem.out, product(tangents, cache))

    def differ(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
        triples = zip(found, wanted, right, strict=True)
        return any(largest(x - y) > limit * max(largest(y), largest(z)) + floor for x, y, z in triples)

    if any(np.any(part != 0) for part in run({number: 0 * v for number, v in a.items()})):
        yield f"{subject} of zero tangents is not zero"
    both = run({number: 2.0 * a[number] - 0.7 * b[number] for number in a})
    if differ(both, [2.0 * x - 0.7 * y for x, y in zip(right, other, strict=True)]):
        yield f"{subject} is not linear in the tangents"
        return
    for factor, size in ((2.0**40, "large"), (2.0**-40, "small")):  # powers of two round nothing
        scaled = run({number: np.asarray(factor * v, v.dtype) for number, v in a.items()})
        if differ([part / factor for part in scaled], right):
            yield f"{subject} is not linear in the tangents: not for {size} ones"
    parts = [_flat(problem.out, product.along(leaf, a[leaf.number], cache)) for leaf in problem.leaves]
    if differ([np.sum(each, axis=0) for each in zip(*parts, strict=True)], right):
        yield f"{subject} of all tangents together is not the sum of that of each"


def _floats(out: Any, parts: Sequence[Any]) -> list[tuple[str, Any, Any]]:
    """Return the leaves of out that are floats, with their names and tangents."""
    pairs = zip(leaves(out, "out"), parts, strict=True)
    return [(name, whole, part) for (name, whole), part in pairs if _is_float(whole)]


def _flat(out: Any, parts: Sequence[Any]) -> list[np.ndarray]:
    """Return copies of the tangents of the leaves of out that are floats, in float64."""
    return [np.array(part, np.float64) for _, _, part in _floats(out, parts)]


def _same(one: Any, other: Any) -> bool:
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for (_, a), (_, b) in pairs if a is not None)


def _is_float(leaf: Any) -> bool:
    return np.asarray(leaf).dtype.kind == "f"
