"""The two tables of ops: REFERENCE, the plain definitions, and FAST, their compiled twins.

The model calls `ops.layernorm_forward(...)` and does not know which table it was given. Of an op that has no
compiled twin yet, FAST holds the definition.
"""

from types import SimpleNamespace

from npgpt import layers

Ops = SimpleNamespace

REFERENCE: Ops = SimpleNamespace(**{name: getattr(layers, name) for name in layers.__all__})
FAST: Ops = SimpleNamespace(**vars(REFERENCE))

TABLES = {"fast": FAST, "reference": REFERENCE}


def get_ops(ops: str | Ops) -> Ops:
    """Return the table of that name; a table is returned as it is.

    Raises ValueError for any other name.
    """
    if isinstance(ops, SimpleNamespace):
        return ops
    if ops not in TABLES:
        raise ValueError(f"ops={ops!r} is not one of {', '.join(TABLES)}")
    return TABLES[ops]
