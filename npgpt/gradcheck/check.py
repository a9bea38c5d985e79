"""check_backward: hold a backward pass against the numerical gradient of its forward."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npgpt.gradcheck.numeric import STEP, numerical_gradient, steps
from npgpt.gradcheck.report import ArgumentReport, Report

# The largest relative error that passes. In float64 a correct smooth gradient comes out near 1e-11, and a slip in the
# formula changes it by far more than 1e-7. In float32 the gradient itself is rounded: some hundred times 6e-8.
TOLERANCE = {"float64": 1e-7, "float32": 1e-5}


def check_backward(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    *args: Any,
    wrt: Sequence[int | str] | None = None,
    rng: np.random.Generator | None = None,
    dtype: Any = np.float64,
    tolerance: float | None = None,
    names: Sequence[str] | None = None,
) -> Report:
    """Compare a backward pass with finite differences of its forward under a random cotangent.

    forward    `out, cache = forward(*args)`, out an array or a number
    backward   `gradients = backward(dout, cache)`, one for each argument of forward, or one for each that is checked;
               None for an argument that has none. A single gradient need not be in a tuple.
    wrt        the arguments to check, by position or name; by default every array of floats
    rng        draws the cotangent `dout`; by default seeded with 0
    dtype      float arguments are converted to it for forward and backward. The differences are taken in float64 in
               any case, because in float32 they prove nothing
    tolerance  the largest relative error, by norm over an argument, that passes; by default 1e-7, in float32 1e-5
    names      the arguments' names in the report; by default those of forward's signature

    The function differentiated is `sum(dout * out)`. Normal random dout, because under ones many gradients are zero
    whatever the code says: softmax's, and layer norm's.

    Raises ValueError or TypeError for a wrt that names nothing, or a backward whose results are not gradients.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    tolerance = TOLERANCE[np.dtype(dtype).name] if tolerance is None else tolerance
    values = [_convert(arg, dtype) for arg in args]
    exact = [_convert(value, np.float64) for value in values]
    names = _names(forward, len(args)) if names is None else list(names)
    chosen = _chosen(values, wrt, names)

    out, cache = forward(*map(_fresh, values))
    out = np.asarray(out)
    dout = np.asarray(rng.standard_normal(out.shape), dtype=out.dtype)
    gradients = _gradients(backward(dout.copy()[()], cache), len(args), chosen, names)

    again = np.asarray(forward(*map(_fresh, values))[0])
    unsteady = "" if np.array_equal(out, again, equal_nan=True) else "two calls of forward differ"

    magnitude = float(np.sum(np.abs(dout * out)))
    reports = []
    for position in chosen:

        def f(x: np.ndarray, position: int = position) -> float:
            inputs = [x.copy() if i == position else _fresh(v) for i, v in enumerate(exact)]
            return float(np.sum(dout * np.asarray(forward(*inputs)[0])))

        x = exact[position]
        # Where the function bends sharply the first step is too long, and a right gradient looks wrong by some
        # 1e-7: an eighth of it divides that error by 8^4. A wrong gradient stays as wrong as it was.
        for step in (STEP, STEP / 8):
            numeric = numerical_gradient(f, x, step)
            # what rounding alone can make of a difference of numbers of this magnitude
            noise = 4 * np.finfo(np.float64).eps * magnitude * np.linalg.norm(1 / steps(x, step))
            gradient = gradients[position]
            report = _compare(names[position], x.shape, gradient, numeric, noise, tolerance, unsteady)
            if report.verdict == "pass":
                break
        reports.append(report)
    return Report(tuple(reports), tolerance)


def _compare(
    name: str,
    shape: tuple[int, ...],
    analytic: Any,
    numeric: np.ndarray,
    noise: float,
    tolerance: float,
    unsteady: str,
) -> ArgumentReport:
    nan, inf = float("nan"), float("inf")
    if analytic is None:
        return ArgumentReport(name, shape, "fail", inf, None, nan, nan, "backward returned None")
    analytic = np.asarray(analytic)
    if analytic.shape != shape:
        reason = f"the gradient's shape {analytic.shape} is not the argument's {shape}"
        return ArgumentReport(name, shape, "fail", inf, None, nan, nan, reason)
    if analytic.size == 0:
        return ArgumentReport(name, shape, "pass", 0.0, None, nan, nan)

    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(analytic - numeric)
    # NaN counts as the largest distance: argmax would pass over some of them otherwise
    flat = int(np.argmax(np.where(np.isnan(distance), np.inf, distance)))
    index = tuple(int(i) for i in np.unravel_index(flat, shape))
    error, scale = float(np.linalg.norm(distance)), float(np.linalg.norm(numeric))
    scale = max(scale, float(np.linalg.norm(analytic)))

    verdict, reason, relative = "pass", "", error / scale if scale > 0 else 0.0
    if unsteady:
        verdict, reason = "inconclusive", f"{unsteady}: seed what is random in it"
    elif not np.isfinite(numeric).all():
        verdict, reason = "inconclusive", "the forward overflows or gives NaN near these arguments"
    elif not np.isfinite(analytic).all():
        verdict, reason = "fail", "the gradient is not finite"
    elif scale <= noise:
        relative = 0.0  # zero on both sides, as far as a difference can tell
    elif not error <= tolerance * scale + noise:
        verdict, reason = "fail", f"relative error {relative:.1e} at worst element {index}"
    values = float(analytic[index]), float(numeric[index])
    return ArgumentReport(name, shape, verdict, relative, index, *values, reason)


def _convert(arg: Any, dtype: Any) -> Any:
    """Convert what can be differentiated; leave ids, masks, numbers, None and everything else as it is."""
    is_floats = isinstance(arg, np.ndarray | np.floating) and np.issubdtype(arg.dtype, np.floating)
    return np.array(arg, dtype=dtype, order="K") if is_floats else arg


def _fresh(value: Any) -> Any:
    """Every call gets its own copy, so that a forward that writes into its input cannot mislead the check."""
    return value.copy() if isinstance(value, np.ndarray) else value


def _names(forward: Callable, count: int) -> list[str]:
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # some built-in callables have no signature
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    return [names[i] if i < len(names) else f"args[{i}]" for i in range(count)]


def _chosen(values: list, wrt: Sequence[int | str] | None, names: Sequence[str]) -> list[int]:
    floats = [i for i, v in enumerate(values) if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    if wrt is None:
        if not floats:
            raise ValueError("no argument is an array of floats: there is nothing to differentiate")
        return floats
    wrt = [wrt] if isinstance(wrt, int | str) else wrt
    chosen = []
    for key in wrt:
        position = names.index(key) if key in names else key
        if position not in floats:
            known = ", ".join(f"{i} ({names[i]})" for i in floats)
            raise ValueError(f"wrt={key!r} is not an array of floats; those are: {known}")
        chosen.append(int(position))
    if not chosen:
        raise ValueError("wrt is empty: there is nothing to check")
    return chosen


def _gradients(result: Any, count: int, chosen: list[int], names: Sequence[str]) -> dict[int, Any]:
    """Give each checked argument its gradient, whether backward returned one for each or only for those."""
    results = list(result) if isinstance(result, tuple | list) else [result]
    if len(results) == count:
        return {i: results[i] for i in chosen}
    if len(results) == len(chosen):
        return dict(zip(chosen, results, strict=True))
    wanted = ", ".join(names[i] for i in chosen)
    raise ValueError(
        f"backward returned {len(results)} gradients; expected {count}, one for each argument of forward, "
        f"or {len(chosen)}, for {wanted}"
    )
