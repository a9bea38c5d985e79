"""The head and the loss in one op: logits from the hidden states, and their cross-entropy."""

import numpy as np

from npgpt.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward


def linear_cross_entropy_forward(
    x: np.ndarray, weight: np.ndarray, targets: np.ndarray, ignore_index: int = -100
) -> tuple[np.ndarray, tuple]:
    """Average `-log softmax(x @ weight.T)[target]` over the targets that are not ignored.

    x        (..., C)
    weight   (V, C), one row per token, as in the embedding
    targets  (...) integers in 0..V-1, or ignore_index for a position to ignore
    loss     a scalar in the dtype of x, in nats; 0 if every target is ignored

    Raises ValueError for any other target.
    """
    loss, loss_cache = cross_entropy_forward(x @ weight.T, targets, ignore_index)
    return loss, (x, weight, loss_cache)


def linear_cross_entropy_backward(
    dout: np.ndarray | float, cache: tuple, dweight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return `dx, dweight`, from the gradient dlogits that cross_entropy_backward returns.

    dout     the scalar gradient of the loss
    dx       (..., C)  dlogits @ weight
    dweight  (V, C)    dlogits.T @ x, summed over all leading axes
    """
    x, weight, loss_cache = cache
    dlogits = cross_entropy_backward(dout, loss_cache)
    # logits = x @ weight.T
    dx = dlogits @ weight
    dweight = np.matmul(dlogits.reshape(-1, len(weight)).T, x.reshape(-1, x.shape[-1]), out=dweight)
    return dx, dweight
