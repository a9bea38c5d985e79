"""Second derivatives: Hessians and their products, the backward of a backward, and the gradient of a gradient penalty.

Each is compared with differences of a first derivative, which is therefore compared with differences of its own
function: a second derivative that agrees with a wrong gradient is wrong, too.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .check import check_backward
from .gradients import matched
from .jvp import tangent_report
from .numeric import largest
from .problem import Problem, argument_names
from .report import ArgumentReport, Report, Unchecked
from .tangents import CLOSE, CLOSE_SINGLE, positions
from .tree import copy_tree, is_floats, leaf_at, leaves, map_leaves, same_structure

MATRIX = 20  # the Hessian of at most so many elements is compared entry by entry


def check_hessian(
    f: Callable[..., Any] | None,
    gradient: Callable[..., Any],
    x: Any,
    *args: Any,
    hvp: Callable[..., Any] | None = None,
    hessian: Callable[..., Any] | None = None,
    **options: Any,
) -> Report:
    """Compare second derivatives of a scalar function with differences of its gradient, and that with those of f.

    f         `f(x, *args)`, a number. None if the gradient is to be trusted as it is
    gradient  `gradient(x, *args)`, in the structure of x
    x         an array, or a dict, tuple or list of arrays
    args      whatever else the functions take; not differentiated
    hvp       `hvp(x, v, *args)`, the Hessian times v, both in the structure of x
    hessian   `hessian(x, *args)`, (n, n), or twice the shape of x, for an array x of n elements
    options   those of check_backward

    The rows "gradient" compare gradient with f. The rows "hvp" compare `<u, H v>`, with a random u and the v of
    check_jvp, with the derivative of `<u, gradient>` along v. The row "hessian" compares the entries, or products if x
    has more than 20 elements, with derivatives of the gradient. The rows "symmetry" compare `<u, H v>` with `<v, H u>`,
    and each entry with its mirror image. If the gradient fails, nothing is compared with it.

    A Gauss-Newton or Fisher product is the derivative of a gradient whose backward is held at x, and checked as one:

        out, cache = model(x)
        check_hessian(None, lambda x: model_backward(loss_gradient(model(x)[0]), cache), x, hvp=gauss_newton)

    Raises ValueError if neither hvp nor hessian is given, or a trusted gradient is not in the shape of x.
    """
    if hvp is None and hessian is None:
        raise ValueError("give hvp=, hessian= or both: there is nothing to check")
    options = {"names": ["x"]} | options
    wanted = [name for name, function in (("hvp", hvp), ("hessian", hessian)) if function is not None]
    parts: dict[str, Report] = {}
    if f is not None:
        parts["gradient"] = _gradient_report(f, gradient, x, args, options)
        if parts["gradient"].verdict == "fail":
            return _joined(parts, unseen=wanted)
    elif not _fits(x, gradient(copy_tree(x), *args)):
        raise ValueError("the gradient is not in the structure and shapes of x")

    def first(x: Any) -> tuple[Any, Any]:
        return gradient(copy_tree(x), *args), x

    if hvp is not None:
        product = hvp
        parts["hvp"] = tangent_report(
            "hvp", first, lambda v, x: product(x, v, *args), [x], symmetric=True, **options
        )  # fmt: skip
    if hessian is not None:
        parts["hessian"] = _matrix_report(gradient, hessian, x, args, options)
    notes = () if f is not None else ("the gradient is trusted: there is no f to compare it with",)
    return _joined(parts, notes)


def check_double_backward(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    double_backward: Callable[[Any, Any, Any], Any],
    *args: Any,
    wrt: Sequence[int | str] | None = None,
    names: Sequence[str] | None = None,
    rng: np.random.Generator | None = None,
    **options: Any,
) -> Report:
    """Compare the backward of a backward with differences of that backward, and this with differences of forward.

    forward, backward  as for check_backward
    double_backward    `ddout, *dargs = double_backward(dd, dout, cache)`: with `gradients = backward(dout, cache)` the
                       gradients of `sum(dd * gradients)` by dout and by each argument (or each that is checked), None
                       for one that is zero. dd is a tuple with a cotangent for each argument that is checked; if only
                       one is, its cotangent by itself
    args, wrt, names, rng, options  those of check_backward

    The rows "backward" compare backward with forward, the rows "double_backward" double_backward with backward. The
    latter are left out if the former fail.
    """
    rng = np.random.default_rng(0 if rng is None else rng)
    own = np.random.default_rng(int(rng.integers(2**63)))
    problem = Problem.pose(forward, args, names, wrt, own, np.dtype(options.get("dtype", np.float64)))
    parts = {"backward": check_backward(forward, backward, *args, wrt=wrt, names=names, rng=rng, **options)}
    checked, dout = positions(problem), problem.for_backward(problem.given_dout())

    def forward_again(dout: Any, *args: Any) -> tuple[Any, Any]:
        cache = forward(*args)[1]
        trees = matched(backward(copy_tree(dout), cache), args, problem.names, checked)
        return trees[0] if len(trees) == 1 else tuple(trees), (dout, cache)

    def backward_again(dd: Any, cache: Any) -> list[Any]:
        found = double_backward(dd, *cache)
        if not (isinstance(found, tuple | list) and len(found) in (1 + len(checked), 1 + len(args))):
            got = f"{len(found)} gradients" if isinstance(found, tuple | list) else type(found).__name__
            raise ValueError(f"double_backward must return one gradient for dout and one per argument, not {got}")
        every = dict(zip(range(len(args)) if len(found) == 1 + len(args) else checked, found[1:], strict=True))
        dargs = [_or_zeros(arg, every.get(i)) if i in checked else None for i, arg in enumerate(problem.args)]
        return [_or_zeros(dout, found[0], np.ndarray | np.inexact), *dargs]

    if parts["backward"].verdict == "fail":
        return _joined(parts, unseen=["double_backward"])
    parts["double_backward"] = check_backward(
        forward_again,
        backward_again,
        dout,
        *args,
        wrt=[0, *(1 + i for i in checked)],
        names=["dout", *problem.names],
        rng=rng,
        **options,
    )
    return _joined(parts)


def check_gradient_penalty(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    penalty: Callable[..., Any],
    gradient: Callable[..., Any],
    *args: Any,
    dout: Any = None,
    **options: Any,
) -> Report:
    """Compare the gradient of a penalty on gradients with its differences, and those gradients with forward's.

    forward, backward  as for check_backward
    penalty            `penalty(*gradients)`, a number, of what backward returns: `lambda dx, dw: np.sum(dx * dx)`
    gradient           `gradient(*args)`: the penalty's gradients by the arguments, as a backward returns them
    dout               the cotangent with which backward is run; by default ones, which is right for a sum of losses
                       or of a critic's scores
    args, options      those of check_backward; wrt names the arguments by which the penalty is differentiated

    The rows "backward" compare backward with forward, for all arguments, the rows "penalty" gradient with the penalty.
    The latter are left out if the former fail.
    """
    given = {name: option for name, option in options.items() if name != "wrt"}
    parts = {"backward": check_backward(forward, backward, *args, **given)}
    if parts["backward"].verdict == "fail":
        return _joined(parts, unseen=["penalty"])
    names = options.get("names") or argument_names(forward, len(args))

    def value(*args: Any) -> tuple[Any, Any]:
        out, cache = forward(*args)
        ones = map_leaves(lambda leaf: np.ones_like(leaf)[()], out) if dout is None else copy_tree(dout)
        if not _fits(out, ones):
            raise ValueError("dout is not in the structure and shapes of out")
        gradients = backward(ones, cache)
        found = penalty(*gradients) if isinstance(gradients, tuple) else penalty(gradients)
        return _one_number("penalty", found), args

    own: dict[str, Any] = options | {"names": names, "dout": 1.0}
    parts["penalty"] = check_backward(value, lambda d, args: _times(d, gradient(*args)), *args, **own)
    return _joined(parts)


# --- the parts of a report


def _joined(parts: dict[str, Report], notes: Iterable[str] = (), unseen: Iterable[str] = ()) -> Report:
    """Return one report with the rows of several, each under its name.

    unseen  the functions that were not looked at, because what they are to be compared with is wrong
    """
    rows, broken, remarks = [], [], list(notes)
    others = [Unchecked(name, "function", "what it would be compared with fails") for name in unseen]
    for name, report in parts.items():
        rows += [replace(row, name=f"{name}: {row.name}") for row in report.arguments]
        broken += [f"{name}: {sentence.replace('backward', name)}" for sentence in report.contract]
        remarks += [f"{name}: {sentence}" for sentence in report.notes]
        others += [replace(item, name=f"{name}: {item.name}") for item in report.not_checked]
    return replace(
        next(iter(parts.values())),
        arguments=tuple(rows),
        contract=tuple(broken),
        taylor="",
        taylor_verdict="pass",
        notes=tuple(remarks),
        not_checked=tuple(others),
        labels=("claimed", "reference"),
    )


def _gradient_report(f: Callable, gradient: Callable, x: Any, args: tuple, options: dict[str, Any]) -> Report:
    def forward(x: Any) -> tuple[Any, Any]:
        return _one_number("f", f(x, *args)), x

    own: dict[str, Any] = {"dout": 1.0} | options
    return check_backward(forward, lambda dout, x: (_times(dout, gradient(x, *args)),), x, **own)


def _matrix_report(gradient: Callable, hessian: Callable, x: Any, args: tuple, options: dict[str, Any]) -> Report:
    """Compare a Hessian with derivatives of the gradient, entry by entry if it is small, and with its transpose.

    Entry by entry, the function is of a matrix in whose row i is the point at which element i of the gradient is taken.
    """
    if not is_floats(x):
        raise TypeError("hessian= needs an array of floats as x; check the products of a tree with hvp=")
    shape, n = x.shape, x.size

    def matrix(x: np.ndarray) -> np.ndarray:
        found = hessian(x, *args)
        return np.asarray(found.toarray() if hasattr(found, "toarray") else found)  # SciPy's sparse ones have it

    at = np.array(x, dtype=np.float64)
    claimed = matrix(at)
    broken = () if np.array_equal(at, x, equal_nan=True) else ("hessian writes into x",)
    if claimed.shape not in ((n, n), shape + shape):
        reason = f"the Hessian's shape {claimed.shape} is not {(n, n)}"
        row = ArgumentReport("entries", claimed.shape, "fail", np.inf, 0.0, None, np.nan, np.nan, reason)
        return Report((row,), broken, tolerance=options.get("tolerance"))
    symmetry = _symmetry(claimed.reshape(n, n), np.dtype(options.get("dtype", np.float64)) == np.float32)
    if n > MATRIX:
        report = tangent_report(
            "hessian",
            lambda x: (np.ravel(gradient(x.copy(), *args)), x),
            lambda v, x: matrix(x).reshape(n, n) @ np.ravel(v),
            [x],
            **options | {"mode": "directions"},
        )
        return replace(report, arguments=(*report.arguments, symmetry), contract=(*report.contract, *broken))

    def at_rows(function: Callable[[np.ndarray], Any], points: np.ndarray) -> np.ndarray:
        """Return row i of function at the point in row i; most rows are alike."""
        known: dict[bytes, np.ndarray] = {}
        for point in points:
            if point.tobytes() not in known:
                known[point.tobytes()] = np.array(function(point.reshape(shape).copy())).reshape(n, -1)
        return np.array([known[point.tobytes()][i] for i, point in enumerate(points)])

    def forward(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return at_rows(lambda x: gradient(x, *args), points)[:, 0], points

    def backward(dout: np.ndarray, points: np.ndarray) -> np.ndarray:
        return dout[:, None] * at_rows(matrix, points)

    starts = np.tile(np.ravel(x), (n, 1))
    # each output depends on one row, so that a cotangent of ones hides nothing
    report = check_backward(forward, backward, starts, **options | {"names": ["entries"], "dout": np.ones(n)})
    return replace(report, arguments=(*report.arguments, symmetry), contract=(*report.contract, *broken))


def _symmetry(matrix: np.ndarray, single: bool) -> ArgumentReport:
    """Compare a matrix with its transpose."""
    if not np.isfinite(matrix).all():
        reason = "overflow: the Hessian is not finite"
        return ArgumentReport("symmetry", matrix.shape, "inconclusive", np.nan, 0.0, None, np.nan, np.nan, reason)
    difference = np.abs(matrix - matrix.T)
    size, worst = largest(matrix), np.unravel_index(np.argmax(difference), matrix.shape)
    i, j = (int(k) for k in worst)
    wrong = largest(difference) > (CLOSE_SINGLE if single else CLOSE) * size
    return ArgumentReport(
        "symmetry",
        matrix.shape,
        "fail" if wrong else "pass",
        largest(difference) / size if size else 0.0,
        0.0,
        (i, j),
        float(matrix[i, j]),
        float(matrix[j, i]),
        f"entry {(i, j)} is not entry {(j, i)}" if wrong else "",
    )


# --- trees


def _fits(x: Any, gradient: Any) -> bool:
    """Return whether a gradient has a number for each that is in an array of x."""
    if gradient is None or not same_structure(x, gradient):
        return False
    pairs = zip((leaf for _, leaf in leaves(x)), leaf_at(x, gradient), strict=True)
    return all(np.shape(leaf) == np.shape(g) for leaf, g in pairs if is_floats(leaf))


def _one_number(name: str, value: Any) -> Any:
    if np.size(value) != 1:
        raise ValueError(f"{name} must return one number, but its value has the shape {np.shape(value)}")
    return np.reshape(value, ())[()]


def _times(dout: Any, tree: Any) -> Any:
    return map_leaves(lambda leaf: None if leaf is None else dout * np.asarray(leaf), tree)


def _or_zeros(arg: Any, gradient: Any, kinds: Any = np.ndarray) -> Any:
    """Return a gradient with zeros where it is None and arg has floats of these kinds."""
    if not same_structure(arg, gradient):
        return gradient
    found = leaf_at(arg, gradient)

    def fill(leaf: Any) -> Any:
        given = next(found)
        zero = given is None and isinstance(leaf, kinds) and leaf.dtype.kind in "fc"
        return np.zeros_like(leaf)[()] if zero else given

    return map_leaves(fill, arg)
