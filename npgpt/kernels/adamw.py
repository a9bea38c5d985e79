"""AdamW in one pass: each of the four arrays is read once, and three of them are written once."""

import numpy as np

from npgpt.support.jit import jit


def adamw_update(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    step: int,
    n_decayed: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    scale: float = 1.0,
) -> None:
    """Do what npgpt.optim.adamw_update does."""
    f = param.dtype.type
    constants = (
        f(scale),
        f(beta1),
        f(1 - beta1),
        f(beta2),
        f(1 - beta2),
        f(lr / (1 - beta1**step)),
        f(1 / (1 - beta2**step) ** 0.5),
        f(eps),
    )
    for part, keep in ((slice(n_decayed), f(1 - lr * weight_decay)), (slice(n_decayed, None), f(1))):
        _update(param[part], grad[part], exp_avg[part], exp_avg_sq[part], keep, *constants)


@jit
def _update(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    keep: float,
    scale: float,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    rate: float,
    root: float,
    eps: float,
) -> None:
    for i in range(param.size):
        g = grad[i] * scale
        m = beta1 * exp_avg[i] + rest1 * g
        v = beta2 * exp_avg_sq[i] + rest2 * g * g
        exp_avg[i], exp_avg_sq[i] = m, v
        param[i] = keep * param[i] - rate * m / (np.sqrt(v) * root + eps)
