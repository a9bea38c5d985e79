"""npgpt and its peers, each as one function from a pair to an answer, each at its defaults.

A peer's own complaint counts as "fail", and so does any exception that it raises about what backward returned or did.
What it could not do for other reasons is "not applicable"; a pair for which it needs more memory than there is, is "not
finished". Peers are imported when they are asked for, and only then.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from benchmarks.pairs import Pair
from npgpt import check_backward

# The largest relative error that passes the CS231n recipe. Its notes call more than 1e-2 probably wrong, more than 1e-4
# uncomfortable, less than that usually okay where there are kinks, and 1e-7 or less happy. 1e-4 is the border between
# content and doubt; a line under the tables gives the figures for the other two.
RECIPE_LIMIT = 1e-4


@dataclass(frozen=True)
class Answer:
    """verdict is "pass", "fail", "inconclusive", "not applicable" or "not finished"; error is the recipe's figure."""

    verdict: str
    detail: str = ""
    error: float | None = None


def check_npgpt(pair: Pair) -> Answer:
    report = check_backward(pair.raw_forward, pair.raw_backward, *pair.args, **pair.options)
    return Answer(report.verdict, "" if report.verdict == "pass" else str(report))


def _check_torch(pair: Pair, fast_mode: bool) -> Answer:
    import torch
    from torch.autograd.gradcheck import GradcheckError, gradcheck

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            outs, ctx.pair_cache = pair.forward([tensor.detach().numpy() for tensor in tensors])
            results = tuple(torch.from_numpy(np.array(out)) for out in outs)
            return results if len(results) > 1 else results[0]

        @staticmethod
        def backward(ctx: Any, *douts: Any) -> Any:
            gradients = pair.backward([dout.detach().numpy() for dout in douts], ctx.pair_cache)
            return tuple(None if g is None else torch.from_numpy(np.array(g)) for g in gradients)

    # a copy of an empty array may have strides of zero, which gradcheck takes for overlapping memory
    inputs = [
        torch.from_numpy(x.copy(order="K")) if x.size else torch.zeros(x.shape, dtype=torch.double) for x in pair.xs
    ]
    try:
        gradcheck(Function.apply, [x.requires_grad_() for x in inputs], fast_mode=fast_mode)
    except GradcheckError as error:
        return Answer("fail", _say(error))
    except RuntimeError as error:
        if "allocate memory" in str(error):
            return Answer("not finished", "out of memory")
        # what the engine says of a gradient's shape and kind; anything else is about dtypes that gradcheck cannot mix
        of_gradient = "invalid gradient" in str(error) or "grad_is_complex" in str(error)
        return Answer("fail" if of_gradient else "not applicable", _say(error))
    return Answer("pass")


def check_torch(pair: Pair) -> Answer:
    return _check_torch(pair, fast_mode=False)


def check_torch_fast(pair: Pair) -> Answer:
    return _check_torch(pair, fast_mode=True)


def check_jax(pair: Pair) -> Answer:
    import jax
    import jax.test_util

    jax.config.update("jax_enable_x64", True)
    caches: dict[int, Any] = {}  # a cache is not always made of arrays: JAX carries its number

    def shapes(arrays: list[np.ndarray]) -> tuple:
        return tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)

    def run_forward(*xs: Any) -> tuple:
        outs, cache = pair.forward([np.asarray(x) for x in xs])
        caches[len(caches)] = cache
        return (np.int64(len(caches) - 1), *outs)

    def run_backward(number: Any, douts: tuple) -> tuple:
        gradients = pair.backward([np.asarray(dout) for dout in douts], caches[int(number)])
        for x, gradient in zip(pair.xs, gradients, strict=True):
            # as custom_vjp itself would say of a backward that is not hidden in a callback; None it takes for zero
            if gradient is not None and (np.shape(gradient) != x.shape or np.asarray(gradient).dtype != x.dtype):
                raise TypeError(f"the cotangent is {np.asarray(gradient).dtype}{np.shape(gradient)}, not {x.shape}")
        return tuple(np.zeros_like(x) if g is None else g for x, g in zip(pair.xs, gradients, strict=True))

    number = jax.ShapeDtypeStruct((), np.int64)

    @jax.custom_vjp
    def function(*xs: Any) -> Any:
        return jax.pure_callback(run_forward, (number, *shapes(pair.outs)), *xs)[1:]

    def forward(*xs: Any) -> Any:
        first, *outs = jax.pure_callback(run_forward, (number, *shapes(pair.outs)), *xs)
        return tuple(outs), first

    function.defvjp(forward, lambda first, douts: jax.pure_callback(run_backward, shapes(pair.xs), first, douts))
    try:
        jax.test_util.check_grads(function, tuple(pair.xs), order=1, modes=["rev"])
    except Exception as error:
        return Answer("fail", _say(error))
    return Answer("pass")


def check_autograd(pair: Pair) -> Answer:
    from autograd.extend import defvjp_argnums, primitive
    from autograd.test_util import check_grads

    last: list[Any] = [None]  # the cache of the forward that autograd is about to ask the gradient of

    @primitive
    def function(*xs: Any) -> Any:
        outs, last[0] = pair.forward([np.asarray(x) for x in xs])
        return tuple(outs) if len(outs) > 1 else outs[0]

    def vjp(argnums: tuple, ans: Any, args: tuple, kwargs: dict) -> Callable:
        cache = last[0]

        def run(g: Any) -> list:
            douts = list(g) if isinstance(ans, tuple) else [g]
            gradients = pair.backward([np.asarray(dout) for dout in douts], cache)
            return [gradients[i] for i in argnums]

        return run

    defvjp_argnums(function, vjp)
    np.random.seed(0)  # noqa: NPY002 - autograd draws from it
    try:
        check_grads(function, tuple(range(len(pair.xs))), modes=["rev"], order=1)(*pair.xs)
    except Exception as error:
        return Answer("fail", _say(error))
    return Answer("pass")


def check_cs231n(pair: Pair) -> Answer:
    """Take the course's eval_numerical_gradient_array and rel_error, as in its notebooks."""
    xs = pair.xs
    rng = np.random.default_rng(0)
    douts = [rng.standard_normal(out.shape) for out in pair.outs]
    h = 1e-5
    numeric = []
    for x in xs:
        gradient = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            old = x[index]
            x[index] = old + h
            after = [out.copy() for out in pair.forward(xs)[0]]
            x[index] = old - h
            before = [out.copy() for out in pair.forward(xs)[0]]
            x[index] = old
            gradient[index] = sum(np.sum((a - b) * d) for a, b, d in zip(after, before, douts, strict=True)) / (2 * h)
        numeric.append(gradient)
    if any(x.size == 0 for x in xs):
        return Answer("not applicable", "the maximum over an empty array")
    try:
        analytic = pair.backward(douts, pair.forward(xs)[1])
        found = zip(analytic, numeric, strict=True)
        errors = [np.max(np.abs(a - n) / np.maximum(1e-8, np.abs(a) + np.abs(n))) for a, n in found]
    except Exception as error:  # of a gradient that is None, or does not broadcast
        return Answer("fail", _say(error), float("inf"))
    worst = float(np.max(errors))  # NaN stays NaN, and does not pass
    return Answer("pass" if worst < RECIPE_LIMIT else "fail", f"relative error {worst:.1e}", worst)


def _say(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"


@dataclass(frozen=True)
class Peer:
    """title is what the table says; package is the distribution that must be installed, if any."""

    title: str
    package: str
    check: Callable[[Pair], Answer]

    @property
    def version(self) -> str | None:
        """Return the version that is installed, "" where nothing needs to be, None where it is missing."""
        try:
            return metadata.version(self.package) if self.package else ""
        except metadata.PackageNotFoundError:
            return None


PEERS = {
    "npgpt": Peer("npgpt.check_backward", "", check_npgpt),
    "torch": Peer("torch.autograd.gradcheck", "torch", check_torch),
    "torch-fast": Peer("torch gradcheck, fast_mode", "torch", check_torch_fast),
    "jax": Peer("jax.test_util.check_grads", "jax", check_jax),
    "autograd": Peer("HIPS autograd check_grads", "autograd", check_autograd),
    "cs231n": Peer("CS231n recipe", "", check_cs231n),
}
