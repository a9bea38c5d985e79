"""AdamW over the flat buffer, Muon for the matrices of the blocks, clipping by global norm, and the schedule."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

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
    scale: float = 1.0,
) -> None:
    """Take one step in place: param, exp_avg and exp_avg_sq are changed, grad is not.

        grad       = scale * grad                                    (as clipping asks for)
        exp_avg    = beta1 * exp_avg    + (1 - beta1) * grad
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad^2
        param     -= lr * weight_decay * param                       (the first n_decayed elements)
        param     -= lr * exp_avg / (1 - beta1^step) / (sqrt(exp_avg_sq / (1 - beta2^step)) + eps)

    All arrays are one-dimensional and of one dtype; step counts from 1.

    Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.
    """
    grad = scale * grad
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
        update: Callable = adamw_update,
    ) -> None:
        self.params = params
        self.exp_avg = np.zeros_like(params.flat)
        self.exp_avg_sq = np.zeros_like(params.flat)
        self.steps = 0
        self.n_decayed = params.n_decayed
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.update = update

    def step(
        self,
        grads: Parameters,
        lr: float,
        scale: float = 1.0,
        parts: Sequence[slice] = (slice(None),),
        map: Callable[..., Iterable] = map,
    ) -> None:
        """Change the parameters in place, against scale times the gradient.

        parts, map  slices of the flat buffers, and what calls a function for each of them: at once, say
        """
        self.steps += 1
        list(map(lambda part: self._update(part, grads, lr, scale), parts))

    def _update(self, part: slice, grads: Parameters, lr: float, scale: float) -> None:
        start, stop, _ = part.indices(self.params.flat.size)
        self.update(
            self.params.flat[part],
            grads.flat[part],
            self.exp_avg[part],
            self.exp_avg_sq[part],
            self.steps,
            min(max(self.n_decayed - start, 0), stop - start),
            lr,
            self.beta1,
            self.beta2,
            self.eps,
            self.weight_decay,
            scale,
        )


def orthogonalized(matrix: np.ndarray, steps: int = 5) -> np.ndarray:
    """Return a matrix with the same singular vectors and singular values near 1, by Newton and Schulz's iteration.

        X = G / ||G||
        X = a X + b (X X^T) X + c (X X^T)^2 X        steps times, (a, b, c) = (3.4445, -4.7750, 2.0315)

    Each time a singular value s becomes a s + b s^3 + c s^5, which takes 0.01 and more into 0.68..1.14 in five steps:
    no exact result, but a quick one, of matrix products alone. A matrix of zeros is returned as it is.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    kellerjordan.github.io/posts/muon.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (np.linalg.norm(x) + 1e-30)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x.T if tall else x


def muon_update(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    lr: float,
    beta: float,
    weight_decay: float,
    scale: float = 1.0,
    count: int = 1,
) -> None:
    """Take one step in place for `count` matrices (m, n) side by side: param and exp_avg are changed, grad is not.

        grad    = scale * grad
        exp_avg = beta * exp_avg + (1 - beta) * grad
        step    = orthogonalized(beta * exp_avg + (1 - beta) * grad)         (Nesterov's momentum)
        param  -= lr * weight_decay * param
        param  -= lr * 0.2 sqrt(max(m, n)) * step

    The step goes as far in every direction of the matrix, in the rare ones, too. Its root mean square is about 0.2 lr,
    as that of AdamW is, so that learning rates are alike.

    Source: Jordan et al. (see orthogonalized); Liu et al., "Muon is Scalable for LLM Training", arXiv:2502.16982, for
    the decay and the factor.
    """
    grad = scale * grad
    exp_avg *= beta
    exp_avg += (1 - beta) * grad
    ahead = beta * exp_avg + (1 - beta) * grad
    param *= 1 - lr * weight_decay
    for part, direction in zip(np.split(param, count, axis=1), np.split(ahead, count, axis=1), strict=True):
        part -= lr * 0.2 * math.sqrt(max(part.shape)) * orthogonalized(direction)


class Muon(AdamW):
    """Muon for the matrices of a GPT's blocks, AdamW for everything else: embeddings, head, biases and layer norms.

    What makes query, key and value at once is three matrices. Of the two averages of a block's matrix the second stays
    0. Weight decay is for these matrices alone.
    """

    def __init__(self, params: Parameters, *args: Any, momentum: float = 0.95, **options: Any) -> None:
        super().__init__(params, *args, **options)
        self.momentum, self.n_decayed = momentum, 0
        self.matrices = [name for name, shape in params.shapes.items() if name.startswith("h.") and len(shape) == 2]

    def _update(self, part: slice, grads: Parameters, lr: float, scale: float) -> None:
        start, stop, _ = part.indices(self.params.flat.size)
        for name in self.matrices:  # each by the part that it begins in
            place = self.params.places[name]
            if start <= place.start < stop:
                exp_avg = self.exp_avg[place].reshape(self.params.shapes[name])
                settings = (lr, self.momentum, self.weight_decay, scale)
                muon_update(self.params[name], grads[name], exp_avg, *settings, 3 if "c_attn" in name else 1)
        places = [self.params.places[name] for name in self.matrices]
        ends = [0, *(end for place in places for end in (place.start, place.stop)), self.params.flat.size]
        for low, high in zip(ends[::2], ends[1::2], strict=True):
            rest = slice(max(low, start), min(high, stop))
            if rest.start < rest.stop:
                super()._update(rest, grads, lr, scale)


def clip_scale(norm: float, max_norm: float) -> float:
    """Return what to multiply gradients of this global norm by, so that it is at most max_norm; 0 is no limit.

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
