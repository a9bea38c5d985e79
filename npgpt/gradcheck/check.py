"""check_backward: hold a backward pass against the numerical gradient of its forward."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npgpt.gradcheck.contract import check_contract
from npgpt.gradcheck.elements import Numeric, check_directions, check_elements, check_together, sample
from npgpt.gradcheck.hints import hint, shape_hint
from npgpt.gradcheck.numeric import EPS, fourth_differences
from npgpt.gradcheck.problem import Leaf, Problem, argument_names
from npgpt.gradcheck.report import ArgumentReport, Report
from npgpt.gradcheck.second import Taylor, taylor_test
from npgpt.gradcheck.tree import convert, copied, is_tree, leaf_at, map_leaves, same_structure

SMALL = 1000  # elements: an array of at most so many is looked at as a whole
SAMPLED = 64  # elements that are looked at one by one in a larger one, besides its edges
WIDE = 1e-4  # a relative error bar beyond which a wrong gradient could hide in it
MANY_KINKS = 0.1  # the share of elements at kinks beyond which the rest proves little


def check_backward(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    *args: Any,
    wrt: Sequence[int | str] | None = None,
    rng: np.random.Generator | None = None,
    dtype: Any = np.float64,
    tolerance: float | None = None,
    names: Sequence[str] | None = None,
    mode: str = "auto",
) -> Report:
    """Compare a backward pass with numerical derivatives of its forward, each with an error bar of its own.

    forward    `out, cache = forward(*args)`. out is an array or a number, or a dict, tuple or list of them
    backward   `gradients = backward(dout, cache)`, dout in the structure of out: one gradient for each argument of
               forward, or for each that is checked, in the argument's structure; None for an argument that has none.
               A single gradient need not be in a tuple
    args       arrays, or dicts, tuples and lists of them. Ids, masks, numbers and None are handed on as they are
    wrt        the arguments to check, by position or name; by default every one with floats in it
    rng        draws the cotangent dout, directions and samples; by default seeded with 0
    dtype      float arguments are converted to it for forward and backward; the derivatives are taken in float64
    tolerance  none by default: the verdict follows from the error bars. If given, the largest relative error, by norm
               over an array, that passes
    names      the arguments' names in the report; by default those of forward's signature
    mode       "elements" looks at every element, "directions" at random directions and a sample, "auto" takes elements
               for arrays of at most 1000

    The function differentiated is `sum(dout * out)` with a random normal dout. The verdict is "fail" where an element
    is further from its numerical derivative than the error bar, where a gradient has the wrong shape or is missing, or
    where the backward breaks its contract (writes into what it is given, keeps state, is not linear in dout);
    "inconclusive" where noise, overflow or kinks leave the error bar too wide; else "pass".

    Raises ValueError or TypeError for a wrt that names nothing, or a backward whose results are not gradients.
    """
    if mode not in ("auto", "elements", "directions"):
        raise ValueError(f"mode={mode!r} is not one of auto, elements, directions")
    if np.dtype(dtype).name not in ("float64", "float32"):
        raise ValueError(f"dtype={np.dtype(dtype).name} is not float64 or float32")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance} must be at least 0")
    # a generator of its own: with the seed that the arguments were drawn with, dout would be equal to one of them
    rng = np.random.default_rng(0 if rng is None else rng)
    rng = np.random.default_rng((int(rng.integers(2**63)), 0x6E706770))
    single = np.dtype(dtype) == np.float32
    names = argument_names(forward, len(args)) if names is None else names
    if len(names) < len(args):
        raise ValueError(f"{len(names)} names for {len(args)} arguments")
    # rounded to dtype first, so that the derivatives in float64 are taken at the very same numbers
    args = tuple(map_leaves(lambda leaf: convert(leaf, dtype), arg) for arg in args)
    problem = Problem(forward, args, names, wrt, rng)
    problem.single = problem.single or single

    def match(result: Any) -> list[Any]:
        return _match(result, problem)

    def gradients_of(inputs: list[Any], dout: Any) -> list[Any]:
        dout = map_leaves(lambda leaf: np.array(leaf)[()], dout)  # backward may write into its own
        trees = match(backward(dout, forward(*inputs)[1]))
        pairs = zip(problem.chosen, trees, strict=True)
        flat = {i: list(leaf_at(problem.args[i], tree)) for i, tree in pairs}
        return [flat[leaf.position][_rank(problem, leaf)] for leaf in problem.leaves]

    dout = map_leaves(lambda leaf: np.array(leaf, dtype=dtype)[()] if single else np.array(leaf)[()], problem.dout)
    gradients = gradients_of(problem.copies(dtype), dout)
    shapes_right = all(
        g is not None and np.shape(g) == leaf.x.shape and np.asarray(g).dtype.kind in "fiu"
        for g, leaf in zip(gradients, problem.leaves, strict=True)
    )

    contract = check_contract(problem, backward, match) if shapes_right else []
    contract += _dtype_errors(problem, gradients, single)
    unsteady = [sentence for sentence in contract if sentence.startswith("two calls of forward differ")]
    if not math.isfinite(problem.magnitude):
        unsteady = ["overflow: the forward is infinite or NaN at these arguments"]
    if unsteady:  # nothing else can be said of it, least of all that the gradient is wrong
        reports = [_verdictless(leaf, "inconclusive", unsteady[0]) for leaf in problem.leaves]
        return Report(tuple(reports), tolerance=tolerance)

    problem.prepare(rng)
    allowances = _allowances(problem, gradients_of, dout, gradients, dtype) if shapes_right else [None] * len(gradients)
    reports = []
    for leaf, gradient, allowance in zip(problem.leaves, gradients, allowances, strict=True):
        reports.append(_check_leaf(problem, leaf, gradient, allowance, mode, tolerance, rng))
    finite = shapes_right and all(np.isfinite(g).all() for g in gradients)
    taylor = taylor_test(problem, gradients, rng) if finite and not single else Taylor((), "pass")
    return Report(
        tuple(reports), tuple(contract), str(taylor) if finite and not single else "", taylor.verdict, tolerance
    )


def _check_leaf(
    problem: Problem,
    leaf: Leaf,
    gradient: Any,
    allowance: np.ndarray | None,
    mode: str,
    tolerance: float | None,
    rng: np.random.Generator,
) -> ArgumentReport:
    shape = leaf.x.shape
    if gradient is None:
        return _verdictless(leaf, "fail", "backward returned None")
    analytic = np.asarray(gradient)
    if analytic.shape != shape:
        reason = f"the gradient's shape {analytic.shape} is not the argument's {shape}"
        return _verdictless(leaf, "fail", reason, shape_hint(analytic, shape))
    if analytic.dtype.kind not in "fiu":
        return _verdictless(leaf, "fail", f"the gradient is {analytic.dtype}, not floats")
    if analytic.size == 0:
        return ArgumentReport(leaf.name, shape, "pass", 0.0, 0.0, None, math.nan, math.nan)
    analytic = analytic.astype(np.float64)
    allowance = np.zeros(shape) if allowance is None else allowance
    found = Numeric.blank(shape)
    if mode == "elements" or (mode == "auto" and leaf.x.size <= SMALL):
        check_elements(problem, leaf, analytic, allowance, np.arange(leaf.x.size), found)
        if not found.wrong.any() and (problem.complex_safe or found.kinks.sum() > 1):
            check_together(problem, leaf, analytic, allowance, rng, found)
    else:
        chosen = sample(shape, problem.args, SAMPLED, rng)
        chosen = np.union1d(chosen, np.flatnonzero(~np.isfinite(analytic))[:8])
        check_elements(problem, leaf, analytic, allowance, chosen, found)
        if not found.wrong.any():
            check_directions(problem, leaf, analytic, allowance, rng, found)
    return _judge(problem, leaf, analytic, found, tolerance)


def _judge(
    problem: Problem, leaf: Leaf, analytic: np.ndarray, found: Numeric, tolerance: float | None
) -> ArgumentReport:
    """Turn what was found into a verdict."""
    counted = found.looked_at & ~found.kinks
    a, n = analytic[counted], found.value[counted]
    with np.errstate(all="ignore"):
        distance = np.where(counted, np.abs(analytic - found.value), -1.0)
    distance = np.where(found.wrong, np.where(np.isnan(distance), np.inf, np.maximum(distance, 0)), distance)
    distance = np.where(np.isnan(distance), np.inf, distance)
    flat = int(np.argmax(np.where(found.wrong.any() & ~found.wrong, -1.0, distance)))
    index = tuple(int(i) for i in np.unravel_index(flat, leaf.x.shape))
    with np.errstate(all="ignore"):
        size = float(max(np.linalg.norm(a), np.linalg.norm(n))) if a.size else 0.0
        error = float(np.linalg.norm(a - n)) if a.size else 0.0
        bar = float(np.linalg.norm(found.error[counted])) if a.size else 0.0
    relative = max(error / size, found.mismatch) if size > 0 else 0.0
    relative_bar = bar / size if size > 0 else 0.0

    # beside the function itself this would be seen, were it not zero
    natural = problem.natural(leaf)
    zero = (size <= bar and bar <= 1e-6 * natural) or size <= 64 * EPS * natural
    verdict, reason = "pass", ""
    if found.wrong.any() and not (tolerance is not None and relative <= tolerance):
        verdict, reason = "fail", f"{int(found.wrong.sum())} of {int(found.looked_at.sum())} elements are wrong"
        reason += "".join(f"; {note}" for note in found.notes[:2])
    elif not np.isfinite(n).all():
        verdict, reason = "inconclusive", "overflow: the forward is infinite or NaN near these arguments"
    elif found.kinks.sum() > MANY_KINKS * found.looked_at.sum():
        verdict, reason = "inconclusive", f"kinks: {int(found.kinks.sum())} of {int(found.looked_at.sum())} elements"
    elif zero:
        relative = relative_bar = 0.0
    elif tolerance is not None:
        if relative > tolerance:
            verdict = "fail" if relative - relative_bar > tolerance else "inconclusive"
            reason = f"relative error {relative:.1e}"
        elif relative_bar > tolerance:
            verdict, reason = "inconclusive", "noise: the error bar is wider than the tolerance"
    elif relative_bar > WIDE or not math.isfinite(relative_bar):
        verdict, reason = "inconclusive", "noise: the numerical derivative is too uncertain"
    suggestion = ""
    if verdict == "fail":
        suggestion = hint(analytic, np.where(found.kinks, np.nan, found.value), found.wrong, problem.args)
    return ArgumentReport(
        leaf.name,
        leaf.x.shape,
        verdict,
        relative,
        relative_bar,
        index,
        float(analytic[index]),
        float(found.value[index]),
        reason,
        suggestion,
        int(found.looked_at.sum()),
        leaf.x.size,
        int(found.kinks.sum()),
        _escape(leaf, found) if verdict == "pass" else "",
        "complex step" if problem.complex_safe else "differences",
        np.abs(analytic - found.value),
    )


def _allowances(
    problem: Problem, gradients_of: Callable, dout: Any, gradients: list[Any], dtype: Any
) -> list[np.ndarray]:
    """Return for each leaf how far rounding may put a right gradient from the exact one, element by element.

    A gradient is a sum over outputs: under random signs of dout its terms do not cancel, and show how large they are.
    Its own rounding shows in its fourth differences, and what its arguments' rounding does to it in its first.
    """
    rng = np.random.default_rng(3)
    unit = float(np.finfo(np.float32).eps) if problem.single else EPS
    sizes = [np.array(np.abs(np.asarray(g, dtype=np.float64))) for g in gradients]
    for _ in range(3):
        flipped = map_leaves(
            lambda leaf: np.asarray(leaf * rng.choice([-1.0, 1.0], np.shape(leaf)), np.asarray(leaf).dtype)[()], dout
        )
        for size, g in zip(sizes, gradients_of(problem.copies(dtype), flipped), strict=True):
            np.maximum(size, np.abs(g), out=size)
    by_number = {leaf.number: leaf for leaf in problem.leaves}
    directions = {number: rng.choice([-1.0, 1.0], leaf.x.shape) for number, leaf in by_number.items()}

    def moved(step: float) -> list[np.ndarray]:
        """Return the gradients with every argument a little to the side, by step times its own size."""
        numbers = iter(range(10**9))

        def move(leaf: Any) -> Any:
            number = next(numbers)
            if number in by_number:
                return np.array(leaf * (1 + step * directions[number]), dtype=dtype)
            return copied(leaf)

        with np.errstate(all="ignore"):
            found = gradients_of([map_leaves(move, arg) for arg in problem.args], dout)
        return [np.asarray(g, dtype=np.float64) for g in found]

    # close by, and far enough that the rounding of a number near 1 shows in what it leaves when 1 is taken away
    near, far = ([moved(k * step) for k in range(-4, 5)] for step in (64 * unit, 2.0**-22))
    limit = 1e-12 if not problem.single else 100 * unit
    found = []
    for i, (size, g) in enumerate(zip(sizes, gradients, strict=True)):
        with np.errstate(all="ignore"):
            noise = np.maximum(*(fourth_differences([values[i] for values in at]) for at in (near, far)))
            move = np.abs(near[5][i] - np.asarray(g, dtype=np.float64)) / 16
        # what is a good part of the gradient itself is no rounding: it has jumped over a kink
        if problem.precise:
            # double precision loses some last places of the largest number at hand, and not half of its digits
            noise = np.minimum(noise, 100 * EPS * (float(np.max(size, initial=0.0)) + problem.largest_dout))
        whole = np.abs(np.asarray(g, dtype=np.float64)) + size
        noise = np.where(np.isfinite(noise) & (noise <= 1e-3 * whole), noise, 0.0)
        move = np.where(np.isfinite(move) & (move <= 1e-3 * whole), move, 0.0)
        largest = float(np.max(size, initial=0.0))
        floor = (1e-15 if not problem.single else unit) * largest + 16 * EPS * problem.natural(problem.leaves[i])
        found.append(limit * size + 20 * noise + 8 * move + floor)
    return found


def _rank(problem: Problem, leaf: Leaf) -> int:
    """Return the leaf's place among all leaves of its argument, those that are not floats included."""
    first = next(n for n, (i, _, _) in enumerate(problem._all_leaves()) if i == leaf.position)
    return leaf.number - first


def _escape(leaf: Leaf, found: Numeric) -> str:
    """Say what could have escaped where not every element was looked at."""
    looked = int(found.looked_at.sum())
    if looked == leaf.x.size:
        return ""
    # if a share s of the elements were wrong, none of n random ones would be with probability (1 - s)^n
    share = 1 - 0.05 ** (1 / max(looked, 1))
    return (
        f"{looked} of {leaf.x.size} elements looked at, and {found.directions} directions through all: at 95%, at most "
        f"{share:.1%} of the elements are wrong, and together by at most {found.blind:.0e} of the gradient's norm"
    )


def _verdictless(leaf: Leaf, verdict: str, reason: str, suggestion: str = "") -> ArgumentReport:
    bad = math.inf if verdict == "fail" else math.nan
    return ArgumentReport(leaf.name, leaf.x.shape, verdict, bad, 0.0, None, math.nan, math.nan, reason, suggestion)


def _dtype_errors(problem: Problem, gradients: list[Any], single: bool) -> list[str]:
    errors = []
    for leaf, gradient in zip(problem.leaves, gradients, strict=True):
        if gradient is None:
            continue
        kind = np.asarray(gradient).dtype
        least = np.dtype(np.float32 if problem.single or single else np.float64)
        if kind.kind != "f":
            errors.append(f"the gradient of {leaf.name} is {kind}, not floats")
        elif kind.itemsize < least.itemsize:
            errors.append(f"the gradient of {leaf.name} is {kind}, where argument and output are {least}")
    return errors


def _match(result: Any, problem: Problem) -> list[Any]:
    """Return one gradient tree for each checked argument, whether backward returned one for each or only for those."""
    chosen, names, args = problem.chosen, problem.names, problem.args
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
