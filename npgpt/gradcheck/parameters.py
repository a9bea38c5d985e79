"""Which of the arrays that a layer holds are its parameters: found by running it, and by moving one array at a time."""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .held import Held, held_by, number
from .objects import at, closed_over, duplicate, text, walk
from .report import ArgumentReport, Unchecked, without_numbers
from .tree import convert, copy_tree, is_tree, leaves, map_leaves

SHOWN = 12  # so many parameters are named in the note


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in a layer.

    layer        the layer; if it makes its parameters in its first forward, a copy that has made them
    parameters   what is to be checked
    rows         a verdict for each array that moves the output and cannot be checked
    not_checked  numbers, buffers and state
    note         where parameters and gradients are
    """

    layer: Any
    parameters: list[Held]
    rows: list[ArgumentReport]
    not_checked: list[Unchecked]
    note: str


def find_parameters(
    layer: Any,
    inputs: tuple,
    dtype: Any,
    params: Mapping[str, Any] | Iterable[str] | None = None,
    grads: Callable[[Any], Mapping[str, Any]] | None = None,
    buffers: Iterable[str] = (),
) -> Found:
    """Run copies of a layer, and sort what it holds. The arguments are described at check_layer."""
    trial = Trial(layer, inputs, np.dtype(dtype))
    if params is not None and not isinstance(params, Mapping):
        params = dict.fromkeys(params)
    held = _relevant(_known(trial, layer, params, grads, buffers), trial, params or ())
    roles = [(one, *_role(one, trial, params)) for one in held]
    parameters = _apart([one for one, role, _ in roles if role == "parameter"])
    missing = [one for one, role, _ in roles if role in ("fail", "inconclusive") and not _covered(one, parameters)]
    built = all(np.shape(at(layer, one.places[0])) == one.shape for one in parameters + missing)
    layer = layer if built else trial.used
    # what is not in the layer that is checked was made by the trial
    roles = [entry for entry in roles if number(at(layer, entry[0].places[0])) is not None]
    return Found(
        layer,
        [replace(one, value=at(layer, one.places[0])) for one in parameters],
        [_row(*entry) for entry in roles if entry[0] in missing or entry[1] == "overwritten"],
        [Unchecked(one.name, one.kind, reason) for one, role, reason in roles if role == "unchecked"]
        + [
            Unchecked(name, str(array.dtype), "in a closure, out of reach")
            for name, array in closed_over(layer).items()
        ],
        _note(parameters, built),
    )


# --- running a layer


def run_forward(layer: Any, inputs: Iterable[Any]) -> Any:
    """Return the layer's output."""
    out = (layer.forward if hasattr(layer, "forward") else layer)(*inputs)
    out = getattr(layer, "output", None) if out is None else out
    if out is None:
        raise TypeError("forward returned None, and the layer has no attribute output")
    return out


def run_backward(layer: Any, dout: Any, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Return the gradient of each input, None for those that backward says nothing of."""
    given: Any = layer.backward(dout)
    given = getattr(layer, "dinputs", None) if given is None else given
    one = len(inputs) == 1
    several = (isinstance(given, tuple) and not is_tree(inputs[0])) if one else isinstance(given, tuple | list)
    result = tuple(given) if several else (given,)
    if len(result) > len(inputs):
        many = f"backward returned {len(result)} gradients for {len(inputs)} input{'' if one else 's'}"
        raise ValueError(f"{many}; those of parameters are looked for in the layer")
    return (*result, *[None] * (len(inputs) - len(result)))


class Trial:
    """A layer that has run once, and what it does if one of its arrays is moved.

    used   a copy of the layer after one forward and backward
    still  another, whose backward was given zeros
    """

    def __init__(self, layer: Any, inputs: tuple, dtype: np.dtype) -> None:
        self.inputs = [map_leaves(lambda leaf: convert(leaf, dtype), arg) for arg in inputs]
        self.dtype, self.rng = dtype, np.random.default_rng(0)
        self.used, self.still = (self._run(layer, weight) for weight in (1.0, 0.0))
        self.leaves = walk(self.used)
        self.out, *again = (self._forward({})[0] for _ in range(4))
        self.noise = max(distance(self.out, other) for other in again)  # of a forward that is random

    def movers(self, held: list[Held]) -> list[Held]:
        """Return those that move the output, by halves: of the many caches of a layer none does."""
        if not held or not self.move(held)[0]:
            return []
        if len(held) == 1:
            return held
        middle = len(held) // 2
        return self.movers(held[:middle]) + self.movers(held[middle:])

    def move(self, held: list[Held]) -> tuple[bool, bool]:
        """Return whether the output moves with some arrays, and whether forward leaves them as they are."""
        values = {one.places[0]: self._moved(np.asarray(one.value)) for one in held}
        try:
            out, layer = self._forward(values)
        except Exception:  # so forward does read them
            return True, True
        kept = all(np.array_equal(at(layer, path), value) for path, value in values.items())
        return distance(self.out, out) > 10 * self.noise, kept

    def _moved(self, value: np.ndarray) -> np.ndarray:
        value = value.astype(np.promote_types(self.dtype, value.dtype))
        size = float(np.max(np.abs(value), initial=0.0))
        step = 1e-3 * (size if size > 1e-6 else 1.0) * self.rng.standard_normal(value.shape)
        return np.asarray(value + step, value.dtype)

    def reaches(self, held: Held) -> bool:
        """Return whether backward has written an array's gradient."""
        used, still = held.gradient(self.used), held.gradient(self.still)
        return used is not None and not np.array_equal(used, np.nan if still is None else still)

    def _run(self, layer: Any, weight: float) -> Any:
        fresh = duplicate(layer, walk(layer), dtype=self.dtype)
        out = run_forward(fresh, copy_tree(self.inputs))

        def draw(leaf: Any) -> Any:
            return np.asarray(weight * self.rng.standard_normal(np.shape(leaf)), np.asarray(leaf).dtype)[()]

        run_backward(fresh, map_leaves(draw, out), self.inputs)
        return fresh

    def _forward(self, values: dict) -> tuple[Any, Any]:
        fresh = duplicate(self.used, self.leaves, values, self.dtype)
        with np.errstate(all="ignore"):
            return copy_tree(run_forward(fresh, copy_tree(self.inputs))), fresh


def distance(one: Any, other: Any) -> float:
    """Return the largest difference between two outputs; infinity if one is finite where the other is not."""
    pairs = [(np.asarray(a), np.asarray(b)) for (_, a), (_, b) in zip(leaves(one), leaves(other), strict=True)]
    if any(a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)) for a, b in pairs):
        return math.inf
    return max((float(np.max(np.abs(a - b), where=np.isfinite(a), initial=0.0)) for a, b in pairs), default=0.0)


# --- sorting what it holds


def _known(
    trial: Trial, layer: Any, params: Mapping[str, Any] | None, grads: Callable | None, buffers: Iterable[str]
) -> list[Held]:
    """Return what a layer holds, sorted and named as the user has said."""
    held = held_by(trial.used)
    if grads is not None:
        held = _with_gradients(held, grads, trial.used)
    aside = _called([buffers] if isinstance(buffers, str) else buffers, held, "buffers")
    held = [one for one in held if one not in aside]
    return held if params is None else _renamed(held, params, layer)


def _relevant(held: list[Held], trial: Trial, named: Container[str]) -> list[Held]:
    """Return what has a gradient or a name that the user has given, and what else moves the output."""
    # an integer is a size, a stride or an id, unless backward writes a gradient for it, or it is among the params
    held = [one for one in held if one.is_float or one.is_declared or one.name in named or trial.reaches(one)]
    has = [one for one in held if one.name in named or one.gradient(trial.used) is not None]
    movers = trial.movers([one for one in held if one not in has])
    return [one for one in held if one in has or one in movers]


def _role(held: Held, trial: Trial, params: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return what an array is, and why: parameter, unchecked, the verdict on one that cannot be checked, or nothing."""
    if not isinstance(held.value, np.ndarray) and isinstance(at(trial.used, held.places[0][:-1]), tuple):
        return ("unchecked", "a number in a tuple cannot be moved") if held.gradients else ("", "")
    moves, kept = trial.move([held])
    if params is None or held.name in params:
        return _role_of_moved(held, trial, moves, kept, params is not None)
    return ("unchecked", "not among the params") if moves and kept else ("", "")


def _role_of_moved(held: Held, trial: Trial, moves: bool, kept: bool, named: bool) -> tuple[str, str]:
    """Return the same for what the user has named a parameter, or has not been asked about."""
    written, single = trial.reaches(held), not isinstance(held.value, np.ndarray)
    # what is of another shape and not backward's is no gradient, such as the spacing dx of a grid x
    has = written or (held.gradient(trial.used) is not None and np.shape(held.gradient(trial.used)) == held.shape)
    if has and kept and (named or written or (moves and not single)):
        return "parameter", ""
    if not (moves or named):
        return ("unchecked", "the output does not move with it") if has and kept else ("", "")
    reason = "" if named else _excuse(held, single, kept or has)
    return ("unchecked", reason) if reason else _blame(held, single, kept)


def _excuse(held: Held, single: bool, kept_or_has: bool) -> str:
    """Return why an array that moves the output may do without a gradient, if it may."""
    if single and not (held.empty or held.is_declared):
        return "a number without a gradient"
    if held.is_buffer:
        return "a buffer, by its name"
    return "" if kept_or_has else "state: forward overwrites it"


def _blame(held: Held, single: bool, kept: bool) -> tuple[str, str]:
    """Return the verdict on an array that should have been checked, and the reason."""
    if not kept:
        return "overwritten", "forward overwrites it, so it cannot be moved"
    if held.empty and not single:
        return "fail", f"backward leaves no gradient in {' or '.join(map(text, held.empty))}"
    hint = f"if it has none on purpose, give buffers=[{held.name!r}]"
    return "inconclusive", f"the output moves with it, but no gradient was found; {hint}"


def _row(held: Held, role: str, reason: str) -> ArgumentReport:
    return without_numbers(held.name, held.shape, role if role == "fail" else "inconclusive", reason)


def _with_gradients(held: list[Held], grads: Callable[[Any], Mapping[str, Any]], layer: Any) -> list[Held]:
    """Return the arrays with the gradients that the user's function gives, each by a name of the array."""
    keys = {id(_called([key], held, "grads")[0]): key for key in grads(layer)}

    def reader(one: Held) -> Callable[[Any], Any]:
        return lambda layer: grads(layer).get(keys.get(id(one), ""))

    return [replace(one, read=reader(one), gradients=(), empty=()) for one in held]


def _renamed(held: list[Held], params: Mapping[str, Any], layer: Any) -> list[Held]:
    """Return the arrays, those that the user has named by those names."""
    places = {id(leaf): path for path, leaf in walk(layer) if isinstance(leaf, np.ndarray)}
    names = {}
    for name, value in params.items():
        path = places.get(id(value))
        same = [one for one in held if path in one.places] or _called([name], held, "params")
        names[id(same[0])] = name
    chosen = [one for key in names for one in held if id(one) == key]
    return [replace(one, name=names[id(one)]) for one in chosen] + [one for one in held if id(one) not in names]


def _called(names: Iterable[str], held: list[Held], option: str) -> list[Held]:
    """Return the arrays that go by these names."""
    found = []
    for name in names:
        known = [one for one in held if one.goes_by(name)]
        if not known:
            raise ValueError(f"{option}: the layer holds no {name!r}; it holds {', '.join(one.name for one in held)}")
        found += known
    return found


def _apart(parameters: list[Held]) -> list[Held]:
    """Return the parameters without those that look at the memory of a larger one."""
    kept: list[Held] = []
    for one in sorted(parameters, key=lambda held: -np.size(held.value)):
        if not any(_shared(one, other) for other in kept):
            kept.append(one)
    return [one for one in parameters if one in kept]


def _covered(held: Held, parameters: list[Held]) -> bool:
    """Return whether all of an array is in the memory of parameters that are checked."""
    return 0 < np.size(held.value) <= sum(np.size(one.value) for one in parameters if _shared(held, one))


def _shared(one: Held, other: Held) -> bool:
    a, b = one.value, other.value
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.shares_memory(a, b)


def _note(parameters: list[Held], built: bool) -> str:
    """Say where the parameters are, and their gradients."""
    if not parameters:
        return "no parameters found"
    shown = []
    for one in parameters[:SHOWN]:
        place = " + ".join(map(text, one.gradients)) or "grads"
        shown.append(f"{one.name} (gradient: {place})")
    more = f" and {len(parameters) - SHOWN} more" if len(parameters) > SHOWN else ""
    made = "" if built else "; made by the first forward"
    return f"parameters found: {', '.join(shown)}{more}{made}"
