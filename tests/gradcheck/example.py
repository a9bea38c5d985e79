"""What an example is, and the few lines that all of them share.

`out, cache = forward(*args())`, and `backward(dout, cache)` gives the gradients of the arguments that are arrays of
floats, in their order: an array, or a tuple of them. It may also give one for every argument, None for those that have
none. Arguments and outputs may be dicts, tuples and lists of arrays; then `dout` and the gradient have that structure
too, and a gradient that is itself a tuple comes inside the tuple of gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

SLIP = "typical slip"


@dataclass(frozen=True)
class Example:
    """A forward, a backward, arguments, and whether the backward is wrong.

    options  "inconclusive_ok": True where no tool could decide; "hidden": True for a bug that
             rounding hides; "violates": the part of the contract that a bug breaks;
             "exact": the forward without the rounding that makes it nasty; "step" and "rtol": what the difference
             that stands for the truth in test_suite.py needs; "each": True where every element is held to its own size,
             for small ones beside large; "check": keywords for check_backward; "slip": the name of the slip, for hints
    right    the backward without the bug; None where the formula is right and only the contract is broken
    """

    name: str
    forward: Callable
    backward: Callable
    args: Callable[[], tuple]
    source: str
    wrong: bool
    options: dict = field(default_factory=dict)
    note: str = ""
    right: Callable | None = None


def normal(seed: int, *shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape) for shape in shapes)


def planted(
    layer: str,
    slip: str,
    forward: Callable,
    right: Callable,
    args: Callable,
    source: str = SLIP,
    note: str = "",
    called: str = "",
    **options,
) -> Example:
    """Plant a bug: `right` is the correct backward, and the wrong one when it is told to slip.

    `called` says in plain words what a hint could name.
    """
    wrong = partial(right, slip=slip)
    if called:
        options["slip"] = called
    return Example(f"{layer}: {slip}", forward, wrong, args, source, True, options, note, right)


def broken(
    name: str, violates: str, forward: Callable, backward: Callable, args: Callable, source: str = SLIP, note: str = ""
) -> Example:
    """Break the contract, with a formula that is right."""
    return Example(name, forward, backward, args, source, True, {"violates": violates}, note)


def correct(
    name: str, forward: Callable, backward: Callable, args: Callable, note: str, source: str = "", **options
) -> Example:
    """State a correct example; `note` says what is nasty in it."""
    return Example(name, forward, backward, args, source or "correct by construction", False, options, note)
