"""check_jvp: compare a forward-mode derivative, tangents in and tangent out, with differences and with a backward."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .check import check_backward
from .dot import dot_test, symmetry_test
from .forms import leaving
from .gradients import Backward
from .paths import Path, path_of
from .problem import Problem
from .quiet import quiet
from .report import ArgumentReport, Report, without_numbers
from .tangents import Product, moved_alone, products, put, tangent_contract, tangent_misfit, used_up
from .tree import leaf_at, leaves

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
              along a few random directions and a sample of its elements, "auto" does the first up to 64 elements

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
    unfit = tangent_misfit(product, "x" if symmetric else "out") or used_up(product)
    if unfit:
        rows = [without_numbers(leaf.name, leaf.shape, "fail", unfit) for leaf in problem.leaves]
        return Report(tuple(rows), labels=labels)
    with quiet():
        broken = list(tangent_contract(product, own))
    paths = [path_of(leaf, problem.args, mode, own, problem.dtype) for leaf in problem.leaves]
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
    found = iter(report.arguments)
    rows = [row for path in paths for row in path.renamed(found)]
    with quiet():
        rows += _dot_tests(product, backward, symmetric, own)
    broken += [sentence.replace("backward", subject) for sentence in report.contract]
    return replace(
        report,
        arguments=tuple(rows),
        contract=tuple(broken),
        not_checked=tuple(replace(item, reason=item.reason.replace(*CONSTANT)) for item in report.not_checked),
        labels=labels,
    )


def _dot_tests(
    product: Product, backward: Callable | None, symmetric: bool, rng: np.random.Generator
) -> list[ArgumentReport]:
    rows = dot_test(product, Backward(product.problem, backward), rng) if backward else []
    return [*rows, symmetry_test(product, rng)] if symmetric else rows


def _as_pair(forward: Callable, product: Product, paths: list[Path]) -> tuple[Callable, Callable]:
    """Return a forward of the paths' coordinates, and the backward that jvp makes for it.

    jvp along each direction is a column of the Jacobian, and dout times the Jacobian is what a backward returns.
    """
    problem = product.problem
    by_number = {path.leaf.number: path for path in paths}
    moved = {path.leaf.position for path in paths}

    def forward_along(*args: Any) -> tuple[Any, Any]:
        points = [leaf for arg, structure in zip(args, problem.args, strict=True) for leaf in leaf_at(structure, arg)]
        kind = np.asarray(next(iter(leaves(points[paths[0].leaf.number])))[1]).real.dtype
        placed = {number: path.point(points[number]) for number, path in by_number.items()}
        every = put(problem.args, dict(enumerate(points)) | placed)
        # the other arguments themselves, so that it shows if forward writes into them
        out, cache = forward(*(every[i] if i in moved else arg for i, arg in enumerate(args)))
        return out, (kind, cache)

    def backward_along(dout: Any, cache: Any) -> list[Any]:
        kind, own = cache
        weights = leaving(dout, problem.forms, problem.conjugate)
        found = {}
        for path in paths:
            steps = path.directions(kind)
            slopes = [float(np.sum(products(weights, product.along(path.leaf, v, own)))) for v in steps]
            found[path.leaf.number] = path.gradient(slopes)
        return put(problem.args, found, keep=False)

    return forward_along, backward_along
