"""What layers over rows of several lengths share: which positions are real, and a softmax over these alone."""

import numpy as np


def real_positions(lengths: np.ndarray | None, B: int, S: int) -> np.ndarray:
    """Return which of S positions belong to each of B rows: (B, S) bool, `position < length`; None: all of them.

    Example: lengths [2, 0] with S = 3 give [[True, True, False], [False, False, False]].

    Raises ValueError for lengths of another shape than (B,) or outside 0..S, TypeError if they are not integers.
    """
    if lengths is None:
        return np.ones((B, S), bool)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths must be integers, got {lengths.dtype}")
    if lengths.shape != (B,):
        raise ValueError(f"lengths {lengths.shape} must have the shape (B,) = {(B,)}")
    wrong = (lengths < 0) | (lengths > S)
    if wrong.any():
        raise ValueError(f"length {lengths[wrong][0]} is not in 0..{S}, the number of positions")
    return np.arange(S) < lengths[:, None]


def softmax_of_real(scores: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the softmax of scores (..., S) over the real positions; the weights of others are 0.

    real  bool, of a shape that broadcasts to that of scores. Where none is real, all weights are 0
    """
    scores = np.where(real, scores, -np.inf)
    # a finite number below all scores: the difference of minus infinity from itself would be NaN
    top = scores.max(axis=-1, keepdims=True, initial=np.finfo(scores.dtype).min)
    exp = np.exp(scores - top)
    return exp / (exp.sum(axis=-1, keepdims=True) + ~real.any(axis=-1, keepdims=True))
