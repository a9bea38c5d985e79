"""The dot test: two inner products that must agree, those of a jvp and a backward, or of a symmetric product."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .gradients import Backward, misfit
from .leaf import Leaf
from .numeric import EPS, fourth_differences
from .report import ArgumentReport, without_numbers
from .tangents import CLOSE, CLOSE_SINGLE, Product, Tangents, products, put
from .verdict import WIDE

Terms = tuple[np.ndarray, np.ndarray]  # those of the one inner product, and those of the other


def dot_test(product: Product, backward: Backward, rng: np.random.Generator) -> list[ArgumentReport]:
    """Compare `<jvp(v), dout>` with `<v, backward(dout)>`, with a random v for each leaf and a random dout.

    Source: Claerbout, "Earth Soundings Analysis" (1992), for a linear function; a Jacobian is one.
    """
    problem, v = product.problem, product.random(rng)
    dout = problem.given_dout()
    gradients = backward.gradients(problem.copies(problem.dtype), dout)

    def terms(leaf: Leaf, place: int, points: Callable[[], list]) -> Terms:
        tangent = product.along(leaf, v[leaf.number], problem.forward(*points())[1])
        gradient = np.asarray(backward.gradients(points(), dout)[place], np.float64)
        return products(dout, tangent), v[leaf.number] * gradient

    found = []
    for place, (leaf, gradient) in enumerate(zip(problem.leaves, gradients, strict=True)):
        name = f"{leaf.name} against backward"
        unfit = misfit(leaf, gradient)
        if unfit:
            row = without_numbers(leaf.name, leaf.shape, "fail", unfit.reason, unfit.hint)
        else:
            row = dot_row(product, name, [terms(leaf, place, points) for points in nearby(product)])
        found.append(replace(row, name=name))
    return found


def symmetry_test(product: Product, rng: np.random.Generator) -> ArgumentReport:
    """Compare `<u, H v>` with `<v, H u>` for random u and v, where jvp returns H v in the structure of v."""
    problem, u, v = product.problem, product.random(rng), product.random(rng)

    def terms(points: Callable[[], list]) -> Terms:
        def product_with(other: Tangents, along: Tangents) -> np.ndarray:
            weights = put(problem.args, dict(other), keep=False)[0]
            return products(weights, product(along, problem.forward(*points())[1]))

        return product_with(u, v), product_with(v, u)

    return dot_row(product, "symmetry", [terms(points) for points in nearby(product)])


def nearby(product: Product) -> list[Callable[[], list]]:
    """Return nine functions that return fresh arguments a few last digits apart, as fourth_differences takes them."""
    problem = product.problem
    rng = np.random.default_rng(3)
    signs = {leaf.number: rng.choice([-1.0, 1.0], leaf.x.shape) for leaf in problem.leaves}
    unit = float(np.finfo(problem.dtype).eps)

    def at(step: float) -> Callable[[], list]:
        def move(leaf: Leaf) -> np.ndarray:
            return np.array(leaf.x * (1 + step * signs[leaf.number]), dtype=problem.dtype)

        return lambda: problem.moved(move)

    return [at(64 * unit * k) for k in range(-4, 5)]


def dot_row(product: Product, name: str, terms: Sequence[Terms]) -> ArgumentReport:
    """Return the verdict on two inner products, from their terms at nine points; the middle one is the arguments.

    They may differ by what rounding of the terms does, which shows in the differences between the points.
    """
    problem = product.problem
    with np.errstate(all="ignore"):
        sides = [(float(np.sum(left)), float(np.sum(right))) for left, right in terms]
        bar = 20 * float(fourth_differences([left - right for left, right in sides]))
        size = max(float(np.linalg.norm(part)) for part in terms[len(terms) // 2])
    zero = 64 * EPS * problem.magnitude  # what is no larger beside the function is rounding
    bar += zero if size <= zero else 0.0
    left, right = sides[len(sides) // 2]
    error, whole = abs(left - right), max(abs(left), abs(right))
    verdict, reason = "pass", ""
    if not math.isfinite(error):
        verdict, reason = "inconclusive", "overflow: an inner product is infinite or NaN"
    elif error > bar + (CLOSE_SINGLE if problem.single else CLOSE) * size:
        verdict, reason = "fail", "the two inner products differ"
    elif bar > WIDE * size > WIDE * zero:
        verdict, reason = "inconclusive", "noise: the two inner products are too uncertain"
    relative, uncertain = (part / whole if whole else 0.0 for part in (error, bar))
    return ArgumentReport(name, (), verdict, relative, uncertain, (), left, right, reason)
