"""Muon for the matrices of the blocks, beside AdamW for the rest."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from npgpt.optim.adamw import AdamW, adamw_update
from npgpt.support.parameters import Parameters, zeros


def orthogonalized(matrix: np.ndarray, steps: int = 5) -> np.ndarray:
    """Return a matrix with the same singular vectors and singular values near 1, by Newton and Schulz's iteration.

        X = G / ||G||
        X = a X + b (X X^T) X + c (X X^T)^2 X        steps times, (a, b, c) = (3.4445, -4.7750, 2.0315)

    Each iteration turns a singular value s into a s + b s^3 + c s^5. Five of them bring every value from 0.01 to 1 into
    0.68..1.14. That is not exact, but fast, because it takes matrix products only. A matrix of zeros stays zero.

    >>> np.linalg.svd(orthogonalized(np.diag([1.0, 0.1])), compute_uv=False).round(2)
    array([0.71, 0.7 ])

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

    The step has about the same length in every direction of the matrix, also in directions that gradients rarely take.
    Its root mean square is about 0.2 lr, as with AdamW, so the same learning rates suit both.

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


class Muon:
    """Muon for matrices inside a model, AdamW for everything else: embeddings, head, biases and layer norms.

    matrices      {name: count}: the parameters that Muon trains; each is `count` matrices side by side, as c_attn holds
                  those of queries, keys and values. A model lists its own: `Muon(model.params, model.matrices)`
    weight_decay  decays the matrices only
    momentum      decay of the gradient's mean, which is all that Muon keeps of a matrix
    without       names of parameters that are frozen

    The other arguments are those of AdamW.
    """

    def __init__(
        self,
        params: Parameters,
        matrices: Mapping[str, int],
        beta1: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        update: Callable = adamw_update,
        momentum: float = 0.95,
        without: Collection[str] = (),
    ) -> None:
        self.params = params
        self.matrices = {name: count for name, count in matrices.items() if name not in without}
        self.momentum, self.weight_decay = momentum, weight_decay
        self.rest = AdamW(params, beta1, beta2, eps, 0.0, update, {*self.matrices, *without})
        self.exp_avg = zeros({name: params.shapes[name] for name in self.matrices}, params.flat.dtype)

    @property
    def steps(self) -> int:
        """The number of steps taken."""
        return self.rest.steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self.rest.steps = steps

    @property
    def trained(self) -> Collection[str]:
        """The names of the parameters that a step changes."""
        return {*self.matrices, *self.rest.trained}

    @property
    def state(self) -> dict[str, Mapping[str, np.ndarray]]:
        """What a checkpoint keeps beside the step count: {prefix: arrays by parameter name}."""
        every = {**self.exp_avg, **self.rest.exp_avg}
        return {"exp_avg.": every, "exp_avg_sq.": self.rest.exp_avg_sq}

    def step(
        self,
        grads: Parameters,
        lr: float,
        scale: float = 1.0,
        parts: Sequence[slice] = (slice(None),),
        map: Callable[..., Iterable] = map,
    ) -> None:
        """Change the parameters in place, against scale times the gradient.

        parts, map  slices of the flat buffers, and what calls a function for each of them; a matrix is updated as a
                    whole, with the part in which it begins
        """
        self.rest.steps += 1
        list(map(lambda part: self.update_part(part, grads, lr, scale), parts))

    def update_part(self, part: slice, grads: Parameters, lr: float, scale: float) -> None:
        """Change the matrices that begin in one part of the flat buffer, and what AdamW trains of it."""
        start, stop, _ = part.indices(self.params.flat.size)
        for name, count in self.matrices.items():
            if start <= self.params.places[name].start < stop:
                settings = (lr, self.momentum, self.weight_decay, scale, count)
                muon_update(self.params[name], grads[name], self.exp_avg[name], *settings)
        self.rest.update_part(part, grads, lr, scale)
