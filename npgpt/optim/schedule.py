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


def learning_rate_at(
    step: int,
    learning_rate: float,
    min_lr: float,
    warmup_steps: int,
    max_steps: int,
    schedule: str = "cosine",
    decay_share: float = 0.4,
) -> float:
    """Return the learning rate of step 0..max_steps-1: a linear warm-up, then a decay from learning_rate to min_lr.

        lr = learning_rate * (step + 1) / (warmup_steps + 1)      for step < warmup_steps, and after that
        lr = min_lr + (learning_rate - min_lr) * height
        left = min((max_steps - step) / decay, 1)                 1 until the decay begins, 0 after the last step

        schedule   decay                                          height
        cosine     max_steps - warmup_steps                       (1 + cos(pi * (1 - left))) / 2
        linear     max_steps - warmup_steps                       left
        trapezoid  decay_share * max_steps, but at most that      left

    The step after the last would have min_lr, so that none is lost to a rate of 0.

    Raises ValueError for an unknown schedule.

    Source: cosine: Loshchilov, Hutter, "SGDR", arXiv:1608.03983, without restarts; linear: Bergsma et al., "Straight to
    Zero", arXiv:2502.15938; trapezoid: Zhai et al., "Scaling Vision Transformers", arXiv:2106.04560, and Haegele et
    al., arXiv:2405.18392. The warm-up is nanoGPT's.
    """
    if step < warmup_steps:
        return learning_rate * (step + 1) / (warmup_steps + 1)
    decay: float = max(1, max_steps - warmup_steps)
    if schedule == "cosine":
        share = min(1.0, (step - warmup_steps) / decay)
        return min_lr + (learning_rate - min_lr) * 0.5 * (1 + math.cos(math.pi * share))
    if schedule == "trapezoid":
        decay = min(decay, decay_share * max_steps)
    elif schedule != "linear":
        raise ValueError(f"schedule={schedule!r} must be cosine, linear or trapezoid")
    left = min(1.0, max(0, max_steps - step) / decay)
    return min_lr + (learning_rate - min_lr) * left
