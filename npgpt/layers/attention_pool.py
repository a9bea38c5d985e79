"""Attention pooling: one vector for a sequence, the average of its positions by learned weights."""

import numpy as np

from npgpt.layers.lengths import real_positions, softmax_of_real


def attention_pool_forward(
    x: np.ndarray, weight: np.ndarray, lengths: np.ndarray | None = None
) -> tuple[np.ndarray, tuple]:
    """Reduce each sequence to a vector: `out_b = sum_s probs_bs * x_bs`, `probs_b = softmax_s(x_bs @ weight)`.

    x        (B, S, C)
    weight   (C,): the query, the same for all sequences
    lengths  (B,) integers: how many of its S positions each sequence has. What stands beyond them has the weight 0 and
             the gradient 0, whatever it is. A sequence of length 0 gives 0. None: all have S
    out      (B, C)

    Raises ValueError for a length that is not in 0..S; TypeError if lengths are not integers.

    Source: Yang et al., "Hierarchical Attention Networks for Document Classification", NAACL 2016, without its layer
    before the query.
    """
    B, S, _ = x.shape
    real = real_positions(lengths, B, S)
    x = np.where(real[:, :, None], x, 0)  # 0 times what stands beyond a length would be NaN, if that is NaN
    probs = softmax_of_real(x @ weight, real)  # (B, S)
    out = (probs[:, :, None] * x).sum(axis=1)
    return out, (x, weight, real, probs)


def attention_pool_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Return `dx, dweight`.

    dout     (B, C)
    dx       (B, S, C)  probs_bs * dout_b + dscores_bs * weight, 0 beyond the lengths
    dweight  (C,)       dscores_bs * x_bs, summed over b and s
    """
    x, weight, real, probs = cache
    # out = sum_s probs * x
    dprobs = (x * dout[:, None]).sum(axis=-1)
    # probs = softmax(scores)
    dscores = probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True))
    # scores = x @ weight: x is in both the average and the scores
    dweight = (dscores[:, :, None] * x).sum(axis=(0, 1))
    dx = probs[:, :, None] * dout[:, None] + dscores[:, :, None] * weight
    # x = where(real, x, 0)
    return np.where(real[:, :, None], dx, 0), dweight
