"""What the examples are held against: differences in long double, and the contract tried out clause by clause.

Written anew, with nothing of npgpt.gradcheck in it, so that the examples do not stand on what they are to prove.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.gradcheck.example import Example

# x86 has 64 bits of mantissa in long double, 11 more than float64. Elsewhere it may be float64 itself: then the
# differences are too coarse to prove anything, and test_suite.py skips what needs them.
LONG = np.longdouble
HAS_LONG = np.finfo(LONG).eps < 1e-18


def leaves(tree: Any) -> Iterator[Any]:
    """Give the arrays of a tree of dicts, tuples and lists, in order."""
    if isinstance(tree, dict):
        for key in tree:
            yield from leaves(tree[key])
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from leaves(part)
    else:
        yield tree


def tree_map(function: Callable, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: tree_map(function, part) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(tree_map(function, part) for part in tree)
    return function(tree)


def is_floats(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"


def differentiable(args: tuple) -> list[int]:
    return [i for i, arg in enumerate(args) if any(map(is_floats, leaves(arg)))]


def cotangent(out: Any, seed: int = 0) -> Any:
    """Draw a random dout in the structure of out."""
    rng = np.random.default_rng(seed)
    return tree_map(lambda leaf: np.asarray(rng.standard_normal(np.shape(leaf)), np.asarray(leaf).dtype)[()], out)


def gradients(example: Example, backward: Callable, dout: Any, cache: Any, args: tuple) -> list:
    """Call backward, and give the gradient of each differentiable argument."""
    result = backward(dout, cache)
    wanted = differentiable(args)
    results = list(result) if isinstance(result, tuple | list) else [result]
    if len(results) == len(wanted):
        return results
    assert len(results) == len(args), f"{example.name}: {len(results)} gradients for {len(args)} arguments"
    return [results[i] for i in wanted]


def first_call(example: Example, backward: Callable | None = None, seed: int = 0) -> tuple[list, Any, tuple]:
    """Run forward and backward once; give the gradients, the dout and the arguments."""
    args = example.args()
    out, cache = example.forward(*args)
    dout = cotangent(out, seed)
    return gradients(example, backward or example.backward, copy.deepcopy(dout), cache, example.args()), dout, args


def distance(found: Any, truth: Any, size: float = 0.0) -> float:
    """Measure the relative difference of two gradients by norm; infinite where they cannot be compared.

    size is that of the terms that make up a gradient which is zero by cancellation.
    """
    pairs = list(zip(leaves(found), leaves(truth), strict=True))
    if any(a is None or np.shape(a) != np.shape(b) or not np.isfinite(a).all() for a, b in pairs):
        return float("inf")
    error = sum(float(np.sum(np.abs(np.asarray(a) - np.asarray(b)) ** 2)) for a, b in pairs) ** 0.5
    size = max(size, sum(float(np.sum(np.abs(np.asarray(b)) ** 2)) for _, b in pairs) ** 0.5)
    return error / size if size > 0 else error


def apart(example: Example, found: Any, truth: Any) -> float:
    """Measure how far two gradients of one argument are apart: by norm, or each element by its own size."""
    size = example.options.get("size", 0.0)
    if not example.options.get("each"):
        return distance(found, truth, size)
    pairs = list(zip(leaves(found), leaves(truth), strict=True))
    elements = [pair for a, b in pairs for pair in zip(np.ravel(a), np.ravel(b), strict=True)]
    return max((distance(a, b, size) for a, b in elements), default=0.0)


# --- differences


def moved(args: tuple, position: int, path: int, change: np.ndarray) -> tuple:
    """Add to one leaf of one argument."""
    args = tuple(copy.deepcopy(arg) if i == position else arg for i, arg in enumerate(args))
    target = list(leaves(args[position]))[path]
    if target is not args[position]:
        target[...] = target + change
        return args
    return *args[:position], target + change, *args[position + 1 :]


def slope(forward: Callable, args: tuple, dout: Any, place: tuple[int, int], v: np.ndarray, step: float) -> Any:
    """Differentiate `sum(dout * out)` along v, in the precision of v: a central difference of sixth order."""

    def out_at(t: float) -> list:
        return [np.asarray(leaf) for leaf in leaves(forward(*moved(args, *place, v.dtype.type(t) * v))[0])]

    total = v.dtype.type(0)
    for k, factor in ((1, 45), (2, -9), (3, 1)):
        # subtract before summing: what does not change then adds no rounding
        for d, a, b in zip(leaves(dout), out_at(k * step), out_at(-k * step), strict=True):
            if a.size and a.dtype != v.dtype:
                raise TypeError(f"the forward computes in {a.dtype}")
            with np.errstate(invalid="ignore"):
                change = np.where(a == b, 0, a - b)  # an infinity that stays does not move
            total += factor * np.sum(np.asarray(d, v.dtype) * change)
    return total / (60 * v.dtype.type(step))


def true_gradients(example: Example, dout: Any, dtype: Any = LONG, most: int = 150) -> list:
    """Give each differentiable argument its gradient, or for large leaves pairs (v, slope along v)."""
    args = tree_map(lambda leaf: leaf.astype(dtype) if is_floats(leaf) else leaf, example.args())
    forward = example.options.get("exact", example.forward)
    step = example.options.get("step", 2e-4 if dtype is LONG else 2e-3)
    rng = np.random.default_rng(5)
    results = []
    for position in differentiable(args):
        found = []
        for path, leaf in enumerate(leaves(args[position])):
            if not is_floats(leaf):
                continue
            if leaf.size > most:
                directions = [rng.standard_normal(leaf.shape).astype(dtype) for _ in range(2)]
                found.append([(v, slope(forward, args, dout, (position, path), v, step)) for v in directions])
                continue
            gradient = np.zeros(leaf.shape, dtype)
            for index in np.ndindex(leaf.shape):
                v = np.zeros(leaf.shape, dtype)
                # relative to what is small, so that a log near zero is not left on the wrong side
                size = abs(leaf[index])
                v[index] = (size if example.options.get("each") else min(size, 1)) or 1
                gradient[index] = slope(forward, args, dout, (position, path), v, step) / v[index]
            found.append(gradient)
        results.append(found)
    return results


def error_of(example: Example, backward: Callable) -> float:
    """Give the largest relative error of an argument's gradient against the differences."""
    found, dout, _ = first_call(example, backward)
    try:
        expected = true_gradients(example, dout)
    except TypeError:  # np.linalg and math.erf know float64 alone
        expected = true_gradients(example, dout, np.float64)
    worst = 0.0
    for gradient, truth in zip(found, expected, strict=True):
        pairs = list(zip((leaf for leaf in leaves(gradient) if leaf is not None), truth, strict=True))
        wide = [(np.sum(np.asarray(g, LONG) * v), s) for g, t in pairs if isinstance(t, list) for v, s in t]
        whole = [(g, t) for g, t in pairs if not isinstance(t, list)]
        both = [
            pair for pair in (([a for a, _ in wide], [b for _, b in wide]), tuple(zip(*whole, strict=True))) if pair
        ]
        for a, b in both:
            worst = max(worst, apart(example, list(a), list(b)))
    return worst


def subgradient_error(example: Example, backward: Callable, most: int = 40) -> float:
    """Measure by how much the gradient of an output leaves the range of its one-sided slopes, along random directions.

    For examples exactly at a kink, where no difference gives the gradient. Of many outputs a sample is tried.
    """
    args = example.args()
    out, _ = example.forward(*args)
    rng = np.random.default_rng(6)
    worst = 0.0
    for number in rng.permutation(np.size(out))[:most]:
        index = np.unravel_index(number, np.shape(out))
        dout = np.zeros(np.shape(out))
        dout[index] = 1
        found = gradients(example, backward, dout, example.forward(*args)[1], args)
        for position, gradient in zip(differentiable(args), found, strict=True):
            for v in rng.standard_normal((20, *args[position].shape)):
                ahead, behind = (
                    (sign * (example.forward(*moved(args, position, 0, sign * 1e-7 * v))[0] - out)[index] / 1e-7)
                    for sign in (1, -1)
                )
                inside = np.clip(np.sum(gradient * v), min(ahead, behind), max(ahead, behind))
                worst = max(worst, abs(float(np.sum(gradient * v) - inside)))
    return worst


# --- the contract


def violations(example: Example, backward: Callable | None = None) -> set[str]:
    """Try out every clause of the contract, and name those that are broken."""
    backward = backward or example.backward
    broken: set[str] = set()

    def run(dout: Any, cache: Any) -> list:
        return gradients(example, backward, dout, cache, example.args())

    rtol = max(1e-9, example.options.get("rtol", 0.0))

    def same(a: Any, b: Any) -> bool:
        pairs = [(x, y) for x, y in zip(leaves(a), leaves(b), strict=True) if x is not None]
        return all(distance(x, y, example.options.get("size", 0.0)) < rtol for x, y in pairs)

    args = example.args()
    out, cache = example.forward(*args)
    dout = cotangent(out)
    given = copy.deepcopy(dout)
    before = copy.deepcopy(cache)
    first = run(given, cache)
    kept = copy.deepcopy(first)
    if not identical(given, dout):
        broken.add("dout written")
    if not identical(args, example.args()):
        broken.add("arguments written")
    if not identical(cache, before):
        broken.add("cache written")
    wanted = [leaf for i in differentiable(args) for leaf in leaves(args[i])]
    for leaf, arg in zip(leaves(first), wanted, strict=True):
        if not is_floats(arg):
            continue
        if leaf is None or np.shape(leaf) != arg.shape:
            broken.add("shape")
        elif np.asarray(leaf).dtype != arg.dtype:
            broken.add("dtype")

    # each clause from here on gets arguments and a cache of its own
    try:
        again = run(copy.deepcopy(dout), cache)
    except (LookupError, TypeError, StopIteration):  # the first has used the cache up
        return broken | {"repeat"}
    if not same(again, kept):
        broken.add("repeat")
    scaled = {}
    for factor in (0.0, 2.0, 1e-5, 1e5):
        cache = example.forward(*example.args())[1]
        run(cotangent(out, 1), cache)
        part = run(tree_map(lambda leaf, f=factor: leaf * f, dout), cache)
        scaled[factor] = tree_map(lambda leaf, f=factor: leaf if leaf is None or not f else leaf / f, part)
    if any(leaf is not None and np.any(np.asarray(leaf) != 0) for leaf in leaves(scaled.pop(0.0))):
        broken.add("zero")
    if not all(same(part, kept) for part in scaled.values()):
        broken.add("linear")

    cache = example.forward(*example.args())[1]
    example.forward(*tree_map(lambda leaf: leaf * 0.75 if is_floats(leaf) else leaf, example.args()))
    if not same(run(copy.deepcopy(dout), cache), kept):
        broken.add("call order")
    cache = example.forward(*example.args())[1]
    held = run(copy.deepcopy(dout), cache)
    shown = copy.deepcopy(held)
    run(cotangent(out, 2), cache)
    if not same(held, shown):
        broken.add("result overwritten")
    cache = example.forward(*example.args())[1]
    if not same(run(tree_map(other_layout, dout), cache), kept):
        broken.add("layout")
    return broken


def other_layout(leaf: Any) -> Any:
    return np.asfortranarray(leaf) if np.ndim(leaf) > 1 else leaf


def identical(a: Any, b: Any) -> bool:
    """Compare two trees bit by bit, arrays or not."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(identical(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
            return False
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    return a is b or a == b
