"""A generator's objective: from the decoder's outputs to the loss, and back."""

import numpy as np

from npgpt.models.seq_config import Objective
from npgpt.models.seq_pairs import Pairs
from npgpt.ops import Ops


def objective_forward(
    hidden: np.ndarray, head: np.ndarray, pairs: Pairs, objective: Objective, ops: Ops
) -> tuple[np.ndarray, tuple]:
    """Return the loss of the decoder's outputs (N, T, C) under a head (V, C), a scalar, and its cache."""
    if objective.kind != "ce":
        raise ValueError(f"loss={objective.kind!r} is not there yet")
    return ops.linear_cross_entropy_forward(hidden, head, pairs.targets)


def objective_backward(dloss: float, cache: tuple, ops: Ops, dhead: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of the outputs and of the head; the latter in the memory of dhead, if it is given."""
    return ops.linear_cross_entropy_backward(dloss, cache, dhead)
