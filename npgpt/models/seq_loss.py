"""A generator's objective: from the decoder's outputs to the loss, and back."""

from typing import Any, NamedTuple

import numpy as np

from npgpt.models.gpt2 import GPT
from npgpt.models.seq_config import Objective
from npgpt.models.seq_pairs import Pairs
from npgpt.models.seq_similarity import similarity_backward, similarity_forward
from npgpt.ops import Ops


class ObjectiveCache(NamedTuple):
    """What the objective's backward needs: where the logits are not kept, the cache of the fused op alone."""

    fused: Any
    head: Any
    entropy: Any
    similarity: Any
    weight: float


def objective_forward(
    hidden: np.ndarray, head: np.ndarray, pairs: Pairs, objective: Objective, critic: GPT | None, ops: Ops
) -> tuple[np.ndarray, ObjectiveCache]:
    """Return the loss of the decoder's outputs (N, T, C) under a head (V, C), a scalar, and its cache.

        loss = cross_entropy(logits, targets) + weight * (1 - cosine), or one of the two

    The cross-entropy is a mean over targets, the cosine (seq_similarity.py) one over examples, weighted
    by their targets.
    """
    if objective.kind == "ce" and not objective.label_smoothing:
        loss, fused = ops.linear_cross_entropy_forward(hidden, head, pairs.targets)
        return loss, ObjectiveCache(fused, None, None, None, 0.0)
    logits, linear = ops.linear_forward(hidden, head.T, None)
    loss, entropy, similarity = hidden.dtype.type(0), None, None
    if objective.kind != "cosine":
        smoothing = objective.label_smoothing
        loss, entropy = ops.cross_entropy_forward(logits, pairs.targets, label_smoothing=smoothing)
    weight = 1.0 if objective.kind == "cosine" else objective.weight
    if objective.kind != "ce":
        assert critic is not None
        unlike, similarity = similarity_forward(logits, pairs.targets, pairs.lengths, critic, objective.tau)
        loss = loss + hidden.dtype.type(weight) * unlike
    return loss, ObjectiveCache(None, linear, entropy, similarity, weight)


def objective_backward(dloss: float, cache: ObjectiveCache, ops: Ops, dhead: np.ndarray) -> np.ndarray:
    """Return the gradient of the outputs, and put that of the head (V, C) into dhead."""
    if cache.fused is not None:
        return ops.linear_cross_entropy_backward(dloss, cache.fused, dhead)[0]
    dlogits = None
    if cache.entropy is not None:
        dlogits = ops.cross_entropy_backward(dloss, cache.entropy)
    if cache.similarity is not None:
        # loss = loss + weight * unlike
        dunlike = similarity_backward(dloss * cache.weight, cache.similarity)
        dlogits = dunlike if dlogits is None else dlogits + dunlike
    assert dlogits is not None
    # logits = hidden @ head.T
    dhidden, dhead_t, _ = ops.linear_backward(dlogits, cache.head)
    dhead[...] = dhead_t.T
    return dhidden
