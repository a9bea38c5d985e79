"""Linear: a matrix product with an optional bias. Weights are stored (in, out), as in GPT-2."""

import numpy as np


def linear_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, tuple]:
    """Multiply by a matrix and add a bias: `out = x @ weight + bias`.

    x       (..., I)
    weight  (I, O), as in GPT-2's Conv1D
    bias    (O,) or None
    out     (..., O)
    """
    out = x @ weight
    if bias is not None:
        out = out + bias
    return out, (x, weight, bias is not None)


def linear_backward(
    dout: np.ndarray, cache: tuple, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return `dx, dweight, dbias`; dbias is None if the forward had no bias.

    dout     (..., O)
    dx       (..., I)  dout @ weight.T
    dweight  (I, O)    x.T @ dout, summed over all leading axes
    dbias    (O,)      dout, summed over all leading axes
    """
    x, weight, has_bias = cache
    rows = dout.reshape(-1, dout.shape[-1])
    # out = x @ weight + bias
    dx = dout @ weight.T
    dweight = np.matmul(x.reshape(-1, x.shape[-1]).T, rows, out=dweight)
    dbias = rows.sum(axis=0, out=dbias) if has_bias else None
    return dx, dweight, dbias
