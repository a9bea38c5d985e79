"""Pooling: one vector for a sequence, the mean of its positions or the last of them."""

import numpy as np

from npgpt.layers.lengths import real_positions

HOWS = ("mean", "last")


def pool_forward(x: np.ndarray, how: str = "mean", lengths: np.ndarray | None = None) -> tuple[np.ndarray, tuple]:
    """Reduce each sequence to a vector: `out_b = sum_s share_bs * x_bs`.

    "mean": share is 1 / length for each of the length's positions. "last": 1 for the position length - 1. Others have
    the share 0, and what stands beyond a length does not matter.

    x        (B, S, C)
    how      "mean" or "last"
    lengths  (B,) integers: how many of its S positions each sequence has. One of length 0 gives 0. None: all have S
    out      (B, C)

    Raises ValueError for another word and for a length that is not in 0..S; TypeError if lengths are not integers.
    """
    if how not in HOWS:
        raise ValueError(f"how={how!r} must be one of {', '.join(HOWS)}")
    B, S, _ = x.shape
    real = real_positions(lengths, B, S)
    count = real.sum(axis=1, keepdims=True)
    share = real / np.maximum(count, 1) if how == "mean" else np.arange(S) == count - 1
    share = share.astype(x.dtype)[:, :, None]  # (B, S, 1)
    out = (share * np.where(share, x, 0)).sum(axis=1)
    return out, (share,)


def pool_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Return `dx_bs = share_bs * dout_b`.

    dout  (B, C)
    dx    (B, S, C), 0 beyond the lengths
    """
    (share,) = cache
    # out = sum_s share * x
    return np.where(share, share * dout[:, None], 0)
