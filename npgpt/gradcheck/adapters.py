"""One-line checks for code that is not a pair of functions: scalar functions, PyTorch and JAX.

Neither library is imported here. PyTorch is found through the function that is checked, JAX through its pullback, and
arrays go in and out as NumPy's.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .check import check_backward
from .problem import argument_names
from .report import Report
from .tree import copied, leaves, map_leaves


def check_gradient(f: Callable, *point: Any, jac: Callable | bool | None = None, **options: Any) -> Report:
    """Check the gradient of a scalar function `f(x, *args)`, as scipy.optimize takes the two.

        check_gradient(f, gradient, x, *args)       gradient(x, *args) is the gradient
        check_gradient(f, x, *args, jac=gradient)   the same
        check_gradient(f, x, *args, jac=True)       f(x, *args) returns the pair (value, gradient)

    x        the array to differentiate by, or a list of numbers; args may be of any kind, and are not differentiated
    options  those of check_backward

    The report's numbers are those of the gradient itself: dout is 1.

    Raises ValueError if f's value is more than one number, TypeError for a gradient that is given twice or is neither a
    function nor True, for an x that is missing, and with jac=True for an f that returns no pair.
    """
    given = point if jac is None else (jac, *point)
    if len(given) < 2:
        raise TypeError("x is missing: check_gradient(f, gradient, x), or check_gradient(f, x, jac=True)")
    gradient, x, *args = given
    if not (callable(gradient) or gradient is True):
        raise TypeError(f"the gradient must be a function, or jac=True if f returns it too, not {gradient!r}")
    if callable(x):
        raise TypeError("the gradient is given twice: leave out jac=, or the function before x")
    if isinstance(x, list | tuple | int | np.integer) or getattr(x, "dtype", np.dtype(float)).kind in "iu":
        x = np.asarray(x, np.float64)  # as scipy.optimize does

    def forward(x: Any) -> tuple[Any, Any]:
        value, slope = f(x, *args), None
        if gradient is True:
            if not (isinstance(value, tuple | list) and len(value) == 2):
                raise TypeError(f"with jac=True f must return a pair, (value, gradient), not {type(value).__name__}")
            value, slope = value
        if np.size(value) != 1:
            raise ValueError(f"f must return one number, but its value has the shape {np.shape(value)}")
        # the slope is copied, because f may return a buffer that its next call writes into
        return np.reshape(value, ())[()], (x, copied(slope))

    def backward(dout: Any, cache: Any) -> Any:
        x, slope = cache
        slope = gradient(x, *args) if callable(gradient) else slope
        return None if slope is None else dout * np.asarray(slope)

    given_options: dict[str, Any] = {"names": ["x"], "dout": 1.0} | options
    return check_backward(forward, backward, x, **given_options)


def check_vjp(vjp: Callable, *args: Any, **options: Any) -> Report:
    """Check a function that returns an output and its pullback: `out, pull = vjp(*args)`, `gradients = pull(dout)`.

    For a JAX function f with a custom_vjp: `check_vjp(lambda *args: jax.vjp(f, *args), *args)`. Enable `jax_enable_x64`
    for it, or give `dtype=np.float32`.
    """

    def forward(*arrays: Any) -> tuple[Any, Any]:
        result = vjp(*arrays)
        if not (isinstance(result, tuple | list) and len(result) == 2 and callable(result[1])):
            raise TypeError(f"vjp must return a pair, (out, pull), with a function pull, not {type(result).__name__}")
        return _to_numpy(result[0]), result[1]

    names = {"names": argument_names(vjp, len(args))}
    return check_backward(forward, lambda dout, pull: _to_numpy(pull(dout)), *args, **(names | options))


def check_autograd_function(function: Any, *args: Any, **options: Any) -> Report:
    """Check a torch.autograd.Function: `function.apply(*args)` forward, and its own backward, in float64.

    args are NumPy arrays, and whatever else apply takes.
    """
    torch = sys.modules[function.__mro__[-2].__module__.split(".")[0]]
    apply = function.apply

    def forward(*arrays: Any) -> tuple[Any, Any]:
        def enter(leaf: Any) -> Any:
            if not isinstance(leaf, np.ndarray | np.inexact):
                return leaf
            tensor = torch.tensor(np.array(leaf))
            return tensor.requires_grad_() if tensor.is_floating_point() or tensor.is_complex() else tensor

        tensors = [map_leaves(enter, array) for array in arrays]
        out = apply(*tensors)
        return _to_numpy(out), (out, tensors)

    def backward(dout: Any, cache: Any) -> list[Any]:
        out, tensors = cache
        outs = [leaf for _, leaf in leaves(out)]
        douts = [torch.as_tensor(np.array(leaf)) for _, leaf in leaves(dout)]
        inputs = [t if torch.is_tensor(t) and t.requires_grad else None for t in tensors]
        wanted = [t for t in inputs if t is not None]
        found = iter(torch.autograd.grad(outs, wanted, douts, retain_graph=True, allow_unused=True))
        return [None if t is None else _to_numpy(next(found)) for t in inputs]

    return check_backward(forward, backward, *args, **_named(options, len(args)))


def _named(options: dict[str, Any], count: int) -> dict[str, Any]:
    return {"names": [f"args[{i}]" for i in range(count)]} | options


def _to_numpy(tree: Any) -> Any:
    def leave(leaf: Any) -> Any:
        if leaf is None or isinstance(leaf, np.ndarray | np.number | float | int):
            return leaf
        return leaf.detach().cpu().numpy() if hasattr(leaf, "detach") else np.array(leaf)

    return map_leaves(leave, tree)
