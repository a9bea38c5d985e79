"""check_jvp: compare a forward-mode derivative, tangents in and tangent out, with differences and with a backward."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .check import check_backward
from .dot import dot_test, symmetry_test
from .forms import as_given, joined, leaving
from .gradients import Backward
from .problem import Leaf, Problem
from .report import ArgumentReport, Report
from .tangents import Product, moved_alone, products, put, tangent_contract, tangent_misfit, used_up
from .tree import map_leaves
from .verdict import without_numbers

FEW = 64  # an array of at most so many elements is moved along each of them
DIRECTIONS = 4  # a larger one is moved along so many random directions
CONSTANT = ("no gradient came back for it", "numbers are constants here; make it an array to have it checked")


def check_jvp(
    forward: Callable[..., tuple[Any, Any]],
    jvp: Callable[[Any, Any], Any],
    *args: Any,
    backward: Callable[[Any, Any], Any] | None = None,
    **options: Any,
) -> Report:
    """Compare a forward-mode derivative (a Jacobian-vector product) with numerical derivatives along directions.

        jvp(v, cache) = d forward(x + t v) / dt at t = 0

    forward   `out, cache = forward(*args)`, as for check_backward
    jvp       `tangent = jvp(tangents, cache)`: a tuple with one tangent for each argument that is checked, in the
              argument's structure (None in the place of what is not floats); if only one is checked, its tangent by
              itself. Returns the tangent of out, in the structure of out
    backward  the backward of the same forward. With it, `<jvp(v), dout> = <v, backward(dout)>` is checked for each
              argument (the dot test), which needs no differences
    args      arrays of floats or complex numbers, or dicts, tuples, lists and dataclasses of them. All else is fixed,
              and so are numbers unless wrt names them
    options   those of check_backward. mode="elements" moves each element of every argument, "directions" moves each
              argument along 4 random directions only, "auto" does the first for arrays of at most 64 elements

    The row of an argument compares `<dout, jvp(v)>` with the derivative of `<dout, out>` along v, where dout is random
    and v moves one element of the argument, or all of them. The verdict is "fail" also if jvp is not linear in the
    tangents, writes into what it is given, or keeps state.

    Raises ValueError or TypeError as check_backward does, and for a jvp whose result is not in the structure of out.
    """
    return tangent_report("jvp", forward, jvp, args, backward=backward, **options)


def tangent_report(
    subject: str,
    forward: Callable[..., tuple[Any, Any]],
    jvp: Callable[[Any, Any], Any],
    args: Sequence[Any],
    backward: Callable[[Any, Any], Any] | None = None,
    symmetric: bool = False,
    wrt: Sequence[int | str] | None = None,
    names: Sequence[str] | None = None,
    rng: np.random.Generator | None = None,
    dtype: Any = np.float64,
    mode: str = "auto",
    conjugate: bool = False,
    **options: Any,
) -> Report:
    """Do what check_jvp does.

    subject    what the report calls the function that is checked
    symmetric  whether jvp is the product with a symmetric matrix, which is checked, too
    """
    rng = np.random.default_rng(0 if rng is None else rng)
    own = np.random.default_rng(int(rng.integers(2**63)))  # draws nothing that the arguments were drawn as
    problem = moved_alone(Problem.pose(forward, args, names, wrt, own, np.dtype(dtype), conjugate=conjugate))
    product = Product(subject, problem, jvp)
    labels = (subject, "reference" if backward or symmetric else "numeric")
    unfit = tangent_misfit(product) or used_up(product)
    if unfit:
        rows = [without_numbers(leaf, "fail", unfit) for leaf in problem.leaves]
        return Report(tuple(rows), labels=labels)
    broken = list(tangent_contract(product, own))
    paths = [Path.through(leaf, mode, own, problem.dtype) for leaf in problem.leaves]
    report = check_backward(
        *_as_pair(forward, product, paths),
        *put(problem.args, {path.leaf.number: path.start for path in paths}),
        wrt=wrt,
        names=problem.names,
        rng=rng,
        dtype=dtype,
        mode="auto" if mode == "directions" else mode,  # of a few directions each is looked at
        **options,
    )
    rows = [path.renamed(row) for path, row in zip(paths, report.arguments, strict=True)]
    rows += dot_test(product, Backward(problem, backward), own) if backward else []
    rows += [symmetry_test(product, own)] if symmetric else []
    broken += [sentence.replace("backward", subject) for sentence in report.contract]
    return replace(
        report,
        arguments=tuple(rows),
        contract=tuple(broken),
        notes=(*report.notes, *(path.note for path in paths if path.note)),
        not_checked=tuple(replace(item, reason=item.reason.replace(*CONSTANT)) for item in report.not_checked),
        labels=labels,
    )


@dataclass(frozen=True, eq=False)
class Path:
    """How a leaf is moved: by its own elements (along is None), or to `x + (t - 1) @ along` with t of ones at first.

    t starts at 1, so that moving it by its last digits moves x by its own.
    """

    leaf: Leaf
    along: np.ndarray | None  # (directions, *shape of the leaf)

    @classmethod
    def through(cls, leaf: Leaf, mode: str, rng: np.random.Generator, dtype: np.dtype) -> "Path":
        if mode == "elements" or (mode == "auto" and leaf.x.size <= FEW) or not leaf.x.size:
            return cls(leaf, None)
        # rounded to dtype, so that the derivative in float64 is taken along the very same direction
        return cls(leaf, np.asarray(leaf.scale * rng.standard_normal((DIRECTIONS, *leaf.x.shape)), dtype))

    @property
    def start(self) -> Any:
        return self.leaf.given if self.along is None else np.ones(len(self.along))

    def point(self, t: Any) -> Any:
        """Return the leaf at t, in the form in which it was given and the precision of t."""
        if self.along is None:
            return t
        return as_given(np.asarray(self.leaf.x + np.tensordot(t - 1, self.along, 1), t.dtype), self.leaf.given)

    def gradient(self, slopes: list[float]) -> Any:
        """Return the derivatives by the elements of t, in its form."""
        if self.along is not None:
            return np.array(slopes)
        pairs = np.reshape(np.array(slopes, np.float64), self.leaf.x.shape)
        return joined(pairs)[()] if self.leaf.is_complex else pairs

    def directions(self, dtype: np.dtype) -> Iterator[np.ndarray]:
        """Yield the direction in which each element of t moves the leaf."""
        if self.along is not None:
            yield from self.along.astype(dtype)
            return
        for i in range(self.leaf.x.size):
            unit = np.zeros(self.leaf.x.shape, dtype)
            unit.flat[i] = 1
            yield unit

    def renamed(self, row: ArgumentReport) -> ArgumentReport:
        """Return a row under the leaf's name; hints read patterns in an array, of which directions have none."""
        return row if self.along is None else replace(row, name=f"{row.name}, {len(self.along)} directions", hint="")

    @property
    def note(self) -> str:
        if self.along is None:
            return ""
        count, size = len(self.along), np.size(self.leaf.given)
        return f"{self.leaf.name} is moved along {count} random directions, all of its {size} elements at once"


def _as_pair(forward: Callable, product: Product, paths: list[Path]) -> tuple[Callable, Callable]:
    """Return a forward of the paths' coordinates, and the backward that jvp makes for it.

    jvp along each direction is a column of the Jacobian, and dout times the Jacobian is what a backward returns.
    """
    problem = product.problem
    by_number = {path.leaf.number: path for path in paths}

    def forward_along(*args: Any) -> tuple[Any, Any]:
        numbers = itertools.count()
        kinds = []

        def place(t: Any) -> Any:
            path = by_number.get(next(numbers))
            if path is None:
                return t
            kinds.append(np.asarray(t).real.dtype)
            return path.point(t)

        out, cache = forward(*(map_leaves(place, arg) for arg in args))
        return out, (kinds, cache)

    def backward_along(dout: Any, cache: Any) -> list[Any]:
        (kind, *_), own = cache
        weights = leaving(dout, problem.forms, problem.conjugate)
        found = {}
        for path in paths:
            steps = path.directions(kind)
            slopes = [float(np.sum(products(weights, product.along(path.leaf, v, own)))) for v in steps]
            found[path.leaf.number] = path.gradient(slopes)
        return put(problem.args, found, keep=False)

    return forward_along, backward_along
