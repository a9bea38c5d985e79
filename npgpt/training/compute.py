"""`--compute bf16`: whether products of operands rounded to bfloat16 can be computed on this machine, and pay."""

import functools

from threadpoolctl import threadpool_limits

from npgpt.config import TrainConfig
from npgpt.models.base import Model

LEAVE_OUT = "leave --compute out, or give --compute float32"


def require_compute(config: TrainConfig) -> None:
    """Raise ValueError if compiled steps would compute as the settings say no faster than in float32.

    The definition (`--ops reference`) may run anywhere. The first call measures, in some 50 ms.
    """
    if config.compute != "bf16" or config.ops == "reference":
        return
    from npgpt.kernels import bf16  # it imports numba

    if missing := bf16.missing():
        raise ValueError(f"compute='bf16': {missing}; {LEAVE_OUT}")
    plain, rounded = _speeds()
    if rounded <= plain:
        raise ValueError(
            f"compute='bf16' does not pay: on this processor a product of bfloat16s runs at {rounded / 1e9:.0f} "
            f"GFLOP/s, and one in float32 at {plain / 1e9:.0f}; {LEAVE_OUT}"
        )


def can_round(config: TrainConfig) -> bool:
    """Say whether compiled steps can compute with operands rounded to bfloat16 on this machine."""
    if config.ops == "reference" or config.dtype != "float32":
        return False
    from npgpt.kernels import bf16

    return not bf16.missing()


def set_compute(model: Model, config: TrainConfig) -> None:
    """Have a model's steps compute as the settings say. Raises ValueError if the model cannot."""
    if config.compute != getattr(model, "compute", "float32"):
        if not hasattr(model, "compute"):
            raise ValueError(f"compute={config.compute!r} is for a GPT, and this is none: {model.describe()}")
        model.compute = config.compute


@functools.cache
def _speeds() -> tuple[float, float]:
    from npgpt.kernels import bf16

    with threadpool_limits(1):
        return bf16.speeds()
