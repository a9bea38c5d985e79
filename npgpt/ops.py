"""The two tables of ops: REFERENCE, the plain definitions, and FAST, their compiled twins.

The model calls `ops.layernorm_forward(...)` and does not know which table it was given. If an op has no compiled twin,
FAST holds its definition.
"""

import copy
import functools
import importlib
from typing import TYPE_CHECKING, Any

from npgpt import layers
from npgpt.config import OPS
from npgpt.layers import bf16
from npgpt.optim import adamw, muon
from npgpt.support.hints import nearest


class Ops:
    """A table of ops. Its attributes lead an editor and a type checker to the definitions, whatever twin stands in.

    A table of your own begins as a copy: `mine = copy.copy(FAST); mine.mlp_forward = my_mlp_forward`.
    An op that is fused into another, as GELU is into the MLP, is replaced with it.
    """

    attention_backward = staticmethod(layers.attention_backward)
    attention_forward = staticmethod(layers.attention_forward)
    attention_pool_backward = staticmethod(layers.attention_pool_backward)
    attention_pool_forward = staticmethod(layers.attention_pool_forward)
    causal_softmax_backward = staticmethod(layers.causal_softmax_backward)
    causal_softmax_forward = staticmethod(layers.causal_softmax_forward)
    cross_attention_backward = staticmethod(layers.cross_attention_backward)
    cross_attention_forward = staticmethod(layers.cross_attention_forward)
    cosine_backward = staticmethod(layers.cosine_backward)
    cosine_forward = staticmethod(layers.cosine_forward)
    cross_entropy_backward = staticmethod(layers.cross_entropy_backward)
    cross_entropy_forward = staticmethod(layers.cross_entropy_forward)
    dropout_backward = staticmethod(layers.dropout_backward)
    dropout_forward = staticmethod(layers.dropout_forward)
    embedding_backward = staticmethod(layers.embedding_backward)
    embedding_forward = staticmethod(layers.embedding_forward)
    gelu_backward = staticmethod(layers.gelu_backward)
    gelu_forward = staticmethod(layers.gelu_forward)
    gelu_new_backward = staticmethod(layers.gelu_new_backward)
    gelu_new_forward = staticmethod(layers.gelu_new_forward)
    gru_backward = staticmethod(layers.gru_backward)
    gru_forward = staticmethod(layers.gru_forward)
    int8_linear_forward = staticmethod(layers.int8_linear_forward)
    kl_backward = staticmethod(layers.kl_backward)
    kl_forward = staticmethod(layers.kl_forward)
    kl_topk_backward = staticmethod(layers.kl_topk_backward)
    kl_topk_forward = staticmethod(layers.kl_topk_forward)
    layernorm_backward = staticmethod(layers.layernorm_backward)
    layernorm_forward = staticmethod(layers.layernorm_forward)
    linear_backward = staticmethod(layers.linear_backward)
    linear_cross_entropy_backward = staticmethod(layers.linear_cross_entropy_backward)
    linear_cross_entropy_forward = staticmethod(layers.linear_cross_entropy_forward)
    linear_forward = staticmethod(layers.linear_forward)
    lora_backward = staticmethod(layers.lora_backward)
    lora_forward = staticmethod(layers.lora_forward)
    lstm_backward = staticmethod(layers.lstm_backward)
    lstm_forward = staticmethod(layers.lstm_forward)
    mlp_backward = staticmethod(layers.mlp_backward)
    mlp_forward = staticmethod(layers.mlp_forward)
    pool_backward = staticmethod(layers.pool_backward)
    pool_forward = staticmethod(layers.pool_forward)
    rmsnorm_backward = staticmethod(layers.rmsnorm_backward)
    rmsnorm_forward = staticmethod(layers.rmsnorm_forward)
    adamw_update = staticmethod(adamw.adamw_update)
    muon_update = staticmethod(muon.muon_update)

    # the module that computes a GPT's whole step in one call, from the very ops of this table; None if there is none
    step: Any = None

    def __setattr__(self, name: str, op: Any) -> None:
        """Put an op into the table. The whole step, which has the old one compiled in, then no longer stands for it."""
        super().__setattr__(name, op)
        if name != "step":
            super().__setattr__("step", None)

    def __getstate__(self) -> dict[str, Any]:
        """Return what copy.deepcopy and pickle keep: of the step's module its name, because modules have no copies."""
        return vars(self) | ({} if self.step is None else {"step": self.step.__name__})

    def __setstate__(self, state: dict[str, Any]) -> None:
        step = state.get("step")
        vars(self).update(state | ({} if step is None else {"step": importlib.import_module(step)}))


NAMES = tuple(name for name in vars(Ops) if not name.startswith("_") and name != "step")
REFERENCE = Ops()


@functools.cache
def _fast() -> Ops:
    """Make FAST when it is first asked for: numba takes half a second to import, and REFERENCE does without it."""
    from npgpt import kernels
    from npgpt.kernels import gpt, products

    fast = copy.copy(REFERENCE)
    for twin in kernels.__all__:
        setattr(fast, twin, getattr(kernels, twin))
    fast.step = gpt if products.FOUND else None
    return fast


if TYPE_CHECKING:
    FAST: Ops
else:  # unseen by type checkers, for whom every name of the module would be there

    def __getattr__(name: str) -> Any:
        if name != "FAST":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _fast()


def get_ops(ops: str | Ops) -> Ops:
    """Return the table of that name; a table is returned as it is.

    Raises ValueError for any other name.
    """
    if isinstance(ops, Ops):
        return ops
    if ops not in OPS:
        raise ValueError(f"ops={ops!r} is unknown{nearest(str(ops), OPS)}")
    return REFERENCE if ops == "reference" else _fast()


def bf16_ops(table: Ops) -> Ops:
    """Return a copy of a table in which the operands of the large products are rounded to bfloat16 (layers/bf16.py)."""
    table = copy.copy(table)
    for layer in ("linear", "mlp", "linear_cross_entropy"):
        for name in (f"{layer}_forward", f"{layer}_backward"):
            setattr(table, name, getattr(bf16, name))
    return table
