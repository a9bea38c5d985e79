"""Threads that compute one batch together, inside compiled code: each one's share, and where they wait for each other.

A call into Python to wait would need the interpreter's lock, which is what compiled steps avoid.
"""

import ctypes
import sys
import threading
import time
from typing import Any, cast

import llvmlite.binding
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from npgpt.support.jit import INNER, jit

ARRIVED, ROUND, ABORTED = 0, 8, 9  # where a barrier counts, on two cache lines
SPINS = 2000  # looks at the barrier, a few microseconds, before the core is offered to others
LINE = 16  # numbers; shares of columns begin at multiples of it, so that no two threads write to one cache line

_lock = threading.Lock()


def new_barrier() -> np.ndarray:
    """Return what the members of a team meet at."""
    return np.zeros(16, np.int64)


def abort(barrier: np.ndarray) -> None:
    """Let all who wait here go on, now and later: one of them has failed, and what they compute is worth nothing."""
    barrier[ABORTED] = 1


@jit
def share(n: int, member: int, members: int) -> tuple[int, int]:
    """Return where a member's share of n things begins and ends.

    Example: 10 things and 4 members: 0 to 2, 2 to 5, 5 to 7, 7 to 10.
    """
    return n * member // members, n * (member + 1) // members


@jit
def share_of_lines(n: int, member: int, members: int) -> tuple[int, int]:
    """Return a member's share of n columns, in whole cache lines."""
    lines = (n + LINE - 1) // LINE
    return min(n, lines * member // members * LINE), min(n, lines * (member + 1) // members * LINE)


def wait(barrier: np.ndarray, members: int) -> None:
    """Return when all members have called this. What each wrote before, the others can read afterwards."""
    if members == 1:
        return
    with _lock:
        turn = barrier[ROUND]
        barrier[ARRIVED] += 1
        if barrier[ARRIVED] == members:
            barrier[ARRIVED] = 0
            barrier[ROUND] += 1
    while barrier[ROUND] == turn and not barrier[ABORTED]:
        time.sleep(0)


@overload(wait, jit_options=INNER)
def _wait(barrier: Any, members: Any) -> Any:
    load, add = cast(Any, _load), cast(Any, _add)  # intrinsics, which type checkers take for their definitions

    def compiled(barrier: Any, members: Any) -> None:
        if members == 1:
            return
        turn = load(barrier, ROUND)
        if add(barrier, ARRIVED, 1) == members - 1:
            add(barrier, ARRIVED, -members)
            add(barrier, ROUND, 1)
            return
        spins = 0
        while load(barrier, ROUND) == turn and load(barrier, ABORTED) == 0:
            spins += 1
            if spins > SPINS:
                give_way()

    return compiled


def _register() -> None:
    """Make the system's call that offers the core to other threads known to compiled code."""
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    llvmlite.binding.add_symbol("npgpt_give_way", ctypes.cast(function, ctypes.c_void_p).value)


_register()
give_way = types.ExternalFunction("npgpt_give_way", types.int32())


def _pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return cgutils.gep_inbounds(builder, array.data, args[1])


@intrinsic
def _load(typing: Any, array: Any, index: Any) -> Any:
    """Read a number that other threads write, and see what they wrote before it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(context, builder, signature, args), "seq_cst", 8)

    return types.int64(array, types.intp), generate


@intrinsic
def _add(typing: Any, array: Any, index: Any, number: Any) -> Any:
    """Add to a number that other threads use, too, and return what it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        return builder.atomic_rmw("add", pointer, args[2], "seq_cst")

    return types.int64(array, types.intp, types.int64), generate
