"""AdamW over the flat buffer, clipping by global norm, and the learning-rate schedule."""

import math

import numpy as np

from npgpt.parameters import Parameters


def adamw_update(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    step: int,
    n_decayed: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Take one step in place: param, exp_avg and exp_avg_sq are changed, grad is not.

        exp_avg    = beta1 * exp_avg    + (1 - beta1) * grad
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad^2
        param     -= lr * weight_decay * param                       (the first n_decayed elements)
        param     -= lr * exp_avg / (1 - beta1^step) / (sqrt(exp_avg_sq / (1 - beta2^step)) + eps)

    All arrays are one-dimensional and of one dtype; step counts from 1.

    Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.
    """
    exp_avg *= beta1
    exp_avg += (1 - beta1) * grad
    exp_avg_sq *= beta2
    exp_avg_sq += (1 - beta2) * grad * grad
    param[:n_decayed] *= 1 - lr * weight_decay
    # both averages began at 0; dividing by 1 - beta^step takes that bias out
    denom = np.sqrt(exp_avg_sq / (1 - beta2**step)) + eps
    param -= lr / (1 - beta1**step) * exp_avg / denom


class AdamW:
    """AdamW for the parameters it is given: the two running averages and the step count.

    Weight decay is for matrices alone; biases and layer norm weights are left out.
    """

    def __init__(
        self,
        params: Parameters,
        beta1: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        self.params = params
        self.exp_avg = np.zeros_like(params.flat)
        self.exp_avg_sq = np.zeros_like(params.flat)
        self.steps = 0
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay

    def step(self, grads: Parameters, lr: float) -> None:
        """Change the parameters in place, against the gradient."""
        self.steps += 1
        adamw_update(
            self.params.flat,
            grads.flat,
            self.exp_avg,
            self.exp_avg_sq,
            self.steps,
            self.params.n_decayed,
            lr,
            self.beta1,
            self.beta2,
            self.eps,
            self.weight_decay,
        )


def clip_grad_norm(grads: Parameters, max_norm: float) -> float:
    """Scale the gradients in place so that their global norm is at most max_norm; return the norm before.

    max_norm 0 is no limit. The factor is min(max_norm / (norm + 1e-6), 1), as in PyTorch, so that runs compare.
    """
    with np.errstate(over="ignore"):  # a norm that overflows is returned as infinity
        norm = float(np.linalg.norm(grads.flat))
    if max_norm:
        # in this order min() hands on a NaN, so that one NaN is seen in every gradient
        grads.flat *= min(max_norm / (norm + 1e-6), 1.0)
    return norm


def learning_rate_at(step: int, learning_rate: float, min_lr: float, warmup_steps: int, max_steps: int) -> float:
    """Return the learning rate of step 0..max_steps-1: linear warm-up, then half a cosine down to min_lr.

    Source: Loshchilov, Hutter, "SGDR", arXiv:1608.03983, without restarts; the warm-up is nanoGPT's.
    """
    if step < warmup_steps:
        return learning_rate * (step + 1) / (warmup_steps + 1)
    share = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return min_lr + (learning_rate - min_lr) * 0.5 * (1 + math.cos(math.pi * share))
