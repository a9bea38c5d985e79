"""Second opinions without a step size: the Taylor test, the adjoint test, and float32 code against float64."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .function import Function
from .numeric import EPS, Line, largest, norm
from .tree import convert, leaves, map_leaves


@dataclass(frozen=True)
class Taylor:
    """How fast the remainder `f(x + h v) - f(x) - h <gradient, v>` falls as h is halved: like h^slope.

    slopes   2 for a right gradient, 1 for a wrong one; none if all remainders are rounding, NaN if all are NaN
    verdict  "pass", "fail", or "inconclusive" if the slopes are neither
    """

    slopes: tuple[float, ...]
    verdict: str

    def __str__(self) -> str:
        if not self.slopes:
            return "the function is a straight line along a random direction, and the gradient is its slope"
        if not all(map(math.isfinite, self.slopes)):
            return "the function is infinite or NaN at all steps along a random direction"
        return "remainders fall with slopes " + " ".join(f"{slope:.2f}" for slope in self.slopes)


def taylor_test(functions: list[Function], gradients: list[np.ndarray], rng: np.random.Generator) -> Taylor:
    """Move each checked array along a random direction in ever smaller steps; the worst of them decides.

    Source: Farrell et al., "Automated derivation of the adjoint of high-level transient finite element programs",
    SIAM J. Sci. Comput. 35 (2013), section 6: the convergence of the Taylor remainder.
    """
    slopes: list[float] = []
    for function, gradient in zip(functions, gradients, strict=True):
        leaf = function.leaf
        if leaf.x.size == 0:
            continue
        direction = leaf.steps * rng.standard_normal(leaf.x.shape)
        found = _slopes(function.line(direction), float(np.sum(gradient * direction)), norm(function.noise))
        if found and (not slopes or np.median(found) < np.median(slopes)):
            slopes = found
    middle = float(np.median(slopes)) if slopes else 2.0
    verdict = "pass" if middle > 1.7 else "fail" if abs(middle - 1) < 0.1 and len(slopes) >= 3 else "inconclusive"
    return Taylor(tuple(slopes), verdict)


def _slopes(line: Line, slope: float, noise: float) -> list[float]:
    """Return the exponents with which the remainder falls, those of the four smallest steps above rounding."""
    start = line(0.0)
    floor = 30 * (noise + EPS * largest(start))
    remainders: list[float] = []
    for k in range(8, 20):
        h = 2.0**-k
        with np.errstate(all="ignore"):
            remainder = abs(float(np.sum(line(h) - start)) - h * slope)
        if not math.isfinite(remainder) and not remainders:
            continue  # too far for this function
        if not math.isfinite(remainder) or remainder <= floor + 30 * EPS * abs(h * slope):
            break
        remainders.append(remainder)
    if not remainders and not math.isfinite(remainder):
        return [math.nan]
    return [math.log2(a / b) for a, b in itertools.pairwise(remainders)][-4:]


def check_adjoint(
    forward: Callable[[Any], Any], adjoint: Callable[[Any], Any], x: np.ndarray, rng: np.random.Generator | None = None
) -> float:
    """Return the relative error of `<forward(v), w> = <v, adjoint(w)>` for a linear function and its adjoint.

    forward, adjoint  functions of one array of real numbers; the adjoint is the backward of a linear layer
    x                 gives the shape of v
    returns           |left - right| / (|forward(v)| |w|): some 1e-16 for a right adjoint in float64, else of order 1

    Raises ValueError if what adjoint returns has not the shape of x, TypeError for complex numbers.

    Source: Claerbout, "Earth Soundings Analysis" (1992), the dot-product test.
    """
    rng = np.random.default_rng(0 if rng is None else rng)
    v = rng.standard_normal(np.shape(x))
    out = np.asarray(forward(v))
    w = rng.standard_normal(out.shape)
    back = np.asarray(adjoint(w))
    for name, array in (("x", np.asarray(x)), ("forward", out), ("adjoint", back)):
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} gives {array.dtype}, not real numbers; check_backward takes complex ones")
    if back.shape != v.shape:
        raise ValueError(f"adjoint returned the shape {back.shape}, where x has {v.shape}")
    left, right = float(np.sum(out * w)), float(np.sum(v * back))
    scale = float(np.linalg.norm(out) * np.linalg.norm(w))
    return abs(left - right) / scale if scale else abs(left - right)


def check_float32(
    forward: Callable,
    backward: Callable,
    *args: Any,
    reference: tuple[Callable, Callable] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Return how far float32 results are from float64: for out and each gradient the relative error by norm.

    reference  another pair to run in float64; by default the same one

    Good float32 code is within some tens of 6e-8. A larger error says that it loses digits, and where.
    Raises ValueError if the two results differ in shape, or if only one of them is None.
    """
    rng = np.random.default_rng(seed)
    true_forward, true_backward = reference or (forward, backward)
    single = [map_leaves(lambda leaf: convert(leaf, np.float32), arg) for arg in args]
    double = [map_leaves(lambda leaf: convert(leaf, np.float64), arg) for arg in single]
    out, cache = forward(*single)
    true_out, true_cache = true_forward(*double)
    dout = map_leaves(lambda leaf: np.asarray(rng.standard_normal(np.shape(leaf)), np.float32)[()], out)
    grads = backward(dout, cache)
    true_grads = true_backward(map_leaves(lambda leaf: np.asarray(leaf, np.float64)[()], dout), true_cache)
    found = {}
    for name, got, want in (("out", out, true_out), ("gradients", grads, true_grads)):
        for (leaf_name, a), (_, b) in zip(leaves(got, name), leaves(want, name), strict=True):
            if (a is None) != (b is None) or np.shape(a) != np.shape(b):
                raise ValueError(f"{leaf_name} has the shape {_shape(a)}, and in float64 {_shape(b)}")
            if a is not None:
                norm = float(np.linalg.norm(np.asarray(b)))
                error = float(np.linalg.norm(np.asarray(a) - np.asarray(b)))  # in float64, as b is
                found[leaf_name] = error / norm if norm else error
    return found


def _shape(leaf: Any) -> str:
    return "None" if leaf is None else str(np.shape(leaf))
