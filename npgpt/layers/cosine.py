"""Cosine similarity: the cosine of the angle between two vectors."""

import numpy as np

from npgpt.layers.distributions import checked_vectors


def cosine_forward(a: np.ndarray, b: np.ndarray, eps: float = 1e-8) -> tuple[np.ndarray, tuple]:
    """Return `a . b / (max(|a|, eps) * max(|b|, eps))` over the last axis.

    Example: a [3, 4] and b [1, 0] give 0.6.

    a, b  (..., C), of the same shape
    out   (...); 0 where a vector is zero

    Raises ValueError if the shapes differ.

    Source: PyTorch, torch.nn.functional.cosine_similarity. Derivation: docs/layers/kl.md.
    """
    checked_vectors(a, b)
    a_norm = np.sqrt((a * a).sum(axis=-1, keepdims=True))
    b_norm = np.sqrt((b * b).sum(axis=-1, keepdims=True))
    # each is divided by its own length, because the product of two lengths can overflow
    a_unit, b_unit = a / np.maximum(a_norm, eps), b / np.maximum(b_norm, eps)
    out = (a_unit * b_unit).sum(axis=-1)
    return out, (a_unit, b_unit, a_norm, b_norm, out, eps)


def cosine_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Return `da, db`, which are at right angles to a and b: a length changes no angle.

    dout  (...)
    da    (..., C)  dout * (b / |b| - out * a / |a|) / |a|, and dout * b / |b| / eps where |a| is below eps
    db    (..., C)  the same with a and b exchanged

    At a vector that is zero this is PyTorch's gradient. PyTorch's between zero and eps is another, which its forward
    does not have.
    """
    a_unit, b_unit, a_norm, b_norm, out, eps = cache
    dout, out = dout[..., None], out[..., None]
    # out = a_unit . b_unit and a_unit = a / max(|a|, eps): below eps the divisor is constant
    da = dout * (b_unit - np.where(a_norm < eps, 0, out * a_unit)) / np.maximum(a_norm, eps)
    db = dout * (a_unit - np.where(b_norm < eps, 0, out * b_unit)) / np.maximum(b_norm, eps)
    return da, db
