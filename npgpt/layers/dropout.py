"""Dropout: zero a random share of the elements and scale up the rest."""

import numpy as np


def dropout_forward(x: np.ndarray, p: float, rng: np.random.Generator | None) -> tuple[np.ndarray, tuple]:
    """Drop each element with probability p: `out = x * mask`, mask 0 with probability p, else `1 / (1 - p)`.

    x, out  (...)
    p       in [0, 1)
    rng     the generator that draws the mask; None turns dropout off, as for evaluation

    If p = 0 or rng is None, out is x itself. Raises ValueError if p is not in [0, 1).

    Source: Srivastava et al., "Dropout", JMLR 15 (2014), in the inverted form, which needs no scaling in evaluation.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability p={p} must be in [0, 1)")
    if p == 0 or rng is None:
        return x, (None,)
    # the random numbers do not depend on the dtype, so a seed gives the same mask in float32 and float64
    mask = (rng.random(x.shape) >= p) * x.dtype.type(1 / (1 - p))
    return x * mask, (mask,)


def dropout_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Return `dx = dout * mask`, with the forward's mask.

    dout, dx  (...)
    """
    (mask,) = cache
    # out = x * mask
    return dout if mask is None else dout * mask
