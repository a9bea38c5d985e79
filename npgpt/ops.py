"""The two tables of ops: REFERENCE, the plain definitions, and FAST, their compiled twins.

The model calls `ops.layernorm_forward(...)` and does not know which table it was given. Of an op that has no
compiled twin, FAST holds the definition.
"""

from types import SimpleNamespace
from typing import Any

from npgpt import layers, optim

Ops = SimpleNamespace

REFERENCE: Ops = SimpleNamespace(
    **{name: getattr(layers, name) for name in layers.__all__}, adamw_update=optim.adamw_update
)
NAMES = ("fast", "reference")


def __getattr__(name: str) -> Any:
    """Make FAST when it is first asked for: numba takes half a second to import, and REFERENCE does without it."""
    if name != "FAST":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from npgpt import kernels

    fast = SimpleNamespace(**vars(REFERENCE) | {name: getattr(kernels, name) for name in kernels.__all__})
    globals()["FAST"] = fast
    return fast


def get_ops(ops: str | Ops) -> Ops:
    """Return the table of that name; a table is returned as it is.

    Raises ValueError for any other name.
    """
    if isinstance(ops, SimpleNamespace):
        return ops
    if ops not in NAMES:
        raise ValueError(f"ops={ops!r} is not one of {', '.join(NAMES)}")
    return REFERENCE if ops == "reference" else __getattr__("FAST")
