"""check_layer: layers that are objects, with parameters, gradients and the cache inside."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .check import check_backward
from .held import Held
from .layer_state import kept_by
from .objects import at, duplicate, walk
from .parameters import Found, distance, find_parameters, run_backward, run_forward
from .quiet import quiet, quietly
from .report import ArgumentReport, Report
from .tree import copy_tree, is_complex, is_floats, leaves, map_leaves


def check_layer(
    layer: Any,
    *inputs: Any,
    params: Mapping[str, Any] | Iterable[str] | None = None,
    grads: Callable[[Any], Mapping[str, Any]] | None = None,
    buffers: Iterable[str] = (),
    accumulates: bool = False,
    **options: Any,
) -> Report:
    """Check an object with `out = layer.forward(*inputs)` and `dinputs = layer.backward(dout)`, its cache inside.

    params       {name: array}, the layer's own arrays, or their names as reports print them; by default those for
                 which there is a gradient after backward
    grads        a function from the layer to {name: gradient} after backward, if they are kept elsewhere
    buffers      names of arrays that forward reads and that have no gradient on purpose, such as a mask or the memory
                 of a recurrent layer, which may change from call to call
    accumulates  whether backward adds to the gradients that are there, as in PyTorch, or overwrites them; that it does
                 what is said here is checked
    options      those of check_backward

    Parameters may be in attributes, dicts, lists and tuples, in objects with `data` and `grad`, and in layers inside.
    The gradient of `W` is found as `dW`, `grad_W`, `W_grad`, `W_gradient` or `grads["W"]`, that of `params[0]` as
    `grads[0]`. An array that two layers share is one parameter, and its gradient the sum of theirs, unless an object
    above both keeps one. forward may be `__call__`. A forward that returns None leaves its output in `layer.output`,
    and such a backward its gradient in `layer.dinputs`.

    An array that moves the output and has no gradient makes a pass inconclusive; it fails if there is a place for its
    gradient that backward leaves empty. State that changes the next output is inconclusive unless it is among buffers.
    Names that begin with `running_` or `moving_` are buffers.

    A copy of the layer is checked. Raises TypeError for an object that cannot be run or copied and for names=,
    ValueError for a name in params, grads or buffers that is not the layer's.
    """
    if isinstance(layer, type):
        raise TypeError(f"check_layer needs an object, not the class {layer.__name__}")
    if not (hasattr(layer, "backward") and (hasattr(layer, "forward") or callable(layer))):
        raise TypeError(f"{type(layer).__name__} has no backward, or neither forward nor __call__")
    buffers = _listed(buffers)
    with quiet():  # check_backward runs the layer at the given inputs, and that may warn
        found = find_parameters(layer, inputs, options.get("dtype", np.float64), params, grads, buffers)
    rows, options = _asked_for(found.rows, options)
    values = [held.value for held in found.parameters]
    values = [value if is_floats(value) or is_complex(value) else np.asarray(value, np.float64) for value in values]
    floats = any(is_floats(leaf) or is_complex(leaf) for _, leaf in leaves([*inputs, *values]))
    if rows and not options.get("wrt", floats):
        report = Report(())  # there is nothing else to check
    else:
        names = ["input"] if len(inputs) == 1 else [f"input {i}" for i in range(len(inputs))]
        names += [held.name for held in found.parameters]
        report = check_backward(*_pair(found, inputs, accumulates), *inputs, *values, names=names, **options)
    state, contract, notes = _called_again(found, inputs, buffers, accumulates)
    return replace(
        report,
        arguments=_with_state((*report.arguments, *rows), state),
        contract=(*report.contract, *contract),
        notes=(found.note, *report.notes, *notes),
        not_checked=(*report.not_checked, *found.not_checked),
    )


def _listed(names: Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


@quietly
def _called_again(
    found: Found, inputs: tuple, buffers: list[str], accumulates: bool
) -> tuple[str, list[str], list[str]]:
    """Return what makes the layer's next output another one, or what is wrong with its second gradients, and a note."""
    state = kept_by(found.layer, inputs, buffers)
    contract, notes = ([], []) if state else _accumulation(found, inputs, accumulates)
    return state, contract, notes


def _with_state(rows: Iterable[ArgumentReport], state: str) -> tuple[ArgumentReport, ...]:
    """Return the verdicts, none of them a pass if the layer keeps state."""
    return tuple(
        replace(row, verdict="inconclusive", reason=state) if state and row.verdict == "pass" else row for row in rows
    )


def _asked_for(rows: list[ArgumentReport], options: dict[str, Any]) -> tuple[list[ArgumentReport], dict[str, Any]]:
    """Return the verdicts among those that wrt asks for, and the options with what is left of wrt."""
    if "names" in options:
        raise TypeError("check_layer names the parameters as the layer does: leave out names=")
    wrt = options.get("wrt")
    if wrt is None:
        return rows, {key: value for key, value in options.items() if key != "wrt"}
    wrt = [wrt] if isinstance(wrt, int | str) else list(wrt)
    rows = [row for row in rows if row.name in wrt]
    return rows, options | {"wrt": [key for key in wrt if key not in [row.name for row in rows]]}


def _pair(found: Found, inputs: tuple, accumulates: bool) -> tuple[Callable, Callable]:
    """Return forward and backward as functions of inputs and parameters; each call has a layer of its own."""
    count = len(inputs)
    places = [held.places[0] for held in found.parameters]
    held = walk(found.layer)

    def forward(*args: Any) -> tuple[Any, Any]:
        kinds = {leaf.dtype for _, leaf in leaves(args) if is_floats(leaf)}
        dtype = np.float32 if kinds == {np.dtype(np.float32)} else np.float64
        fresh = duplicate(found.layer, held, dict(zip(places, args[count:], strict=True)), dtype)
        return run_forward(fresh, args[:count]), lambda: fresh  # a function, because what backward does to it is right

    def backward(dout: Any, cache: Callable[[], Any]) -> tuple[Any, ...]:
        fresh = duplicate(cache(), walk(cache()))
        starts = [_start(held, fresh) if accumulates else 0.0 for held in found.parameters]
        dinputs = run_backward(fresh, dout, inputs)
        pairs = zip(_gradients(found, fresh), starts, strict=True)
        return (*dinputs, *(None if gradient is None else gradient - start for gradient, start in pairs))

    return forward, backward


def _start(held: Held, layer: Any) -> Any:
    """Set a gradient to zero, because added to what is there a small one would lose its digits.

    Returns what is left of it, of a number for example, to be taken off afterwards.
    """
    for part in [at(layer, path) for path in held.gradients] or [held.gradient(layer)]:
        if isinstance(part, np.ndarray):
            part[...] = 0
    left = held.gradient(layer)
    return np.array(left) if left is not None and np.any(left) else 0.0


def _gradients(found: Found, layer: Any) -> list[Any]:
    """Return copies of the gradients that a layer holds."""
    held = [one.gradient(layer) for one in found.parameters]
    return [None if gradient is None else np.array(gradient) for gradient in held]


def _accumulation(found: Found, inputs: tuple, accumulates: bool) -> tuple[list[str], list[str]]:
    """Run forward and backward twice on one object; return what is wrong with its second gradients, and a note."""
    trial = duplicate(found.layer, walk(found.layer))
    rng = np.random.default_rng(0)
    dout, outs = None, []
    seen = [_gradients(found, trial) if accumulates else [None] * len(found.parameters)]
    for _ in range(2):
        outs.append(copy_tree(run_forward(trial, copy_tree(list(inputs)))))
        dout = map_leaves(lambda leaf: rng.standard_normal(np.shape(leaf)), outs[0]) if dout is None else dout
        run_backward(trial, copy_tree(dout), inputs)
        seen.append(_gradients(found, trial))
    verb = "add to" if accumulates else "overwrite"
    if found.parameters and distance(*outs) > 1e-9 * distance(outs[0], map_leaves(np.zeros_like, outs[0])):
        return [], [f"a second forward gives another output, so it is not known whether gradients {verb} earlier ones"]
    for held, start, first, second in zip(found.parameters, *seen, strict=True):
        if first is None or second is None:
            continue
        wanted = 2 * first - (0.0 if start is None else start) if accumulates else first
        if not np.allclose(second, wanted, rtol=1e-6, atol=1e-12 * float(np.max(np.abs(first), initial=0))):
            return [f"a second backward does not {verb} the gradient of {held.name}"], []
    return [], []
