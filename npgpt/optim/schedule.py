"""The learning rate of a step, and clipping by global norm."""

import math

import numpy as np

from npgpt.support.parameters import Parameters


def clip_scale(norm: float, max_norm: float) -> float:
    """Return the factor that brings a global norm of gradients down to max_norm; max_norm 0 is no limit.

    The factor is min(max_norm / (norm + 1e-6), 1), as in PyTorch, so that runs compare.
    """
    # in this order min() hands on a NaN, so that one NaN is seen in every gradient
    return min(max_norm / (norm + 1e-6), 1.0) if max_norm else 1.0


def clip_grad_norm(grads: Parameters, max_norm: float) -> float:
    """Scale the gradients in place by clip_scale; return their global norm before."""
    with np.errstate(over="ignore"):  # a norm that overflows is returned as infinity
        norm = float(np.linalg.norm(grads.flat))
    grads.flat *= clip_scale(norm, max_norm)
    return norm


def learning_rate_at(step: int, learning_rate: float, min_lr: float, warmup_steps: int, max_steps: int) -> float:
    """Return the learning rate of step 0..max_steps-1: linear warm-up, then half a cosine down to min_lr.

    Source: Loshchilov, Hutter, "SGDR", arXiv:1608.03983, without restarts; the warm-up is nanoGPT's.
    """
    if step < warmup_steps:
        return learning_rate * (step + 1) / (warmup_steps + 1)
    share = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return min_lr + (learning_rate - min_lr) * 0.5 * (1 + math.cos(math.pi * share))
