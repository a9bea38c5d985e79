"""AdamW over the flat buffer."""

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import pairwise

import numpy as np

from npgpt.support.hints import nearest
from npgpt.support.parameters import Parameters, zeros


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
    """AdamW: two running averages for each parameter, and the step count.

    Weight decay applies to matrices only, not to biases and layer norm weights.

    without  names of parameters that are frozen, or trained by another optimizer; AdamW neither changes them nor keeps
             averages for them

    Raises ValueError for a name in `without` that no parameter has.
    """

    def __init__(
        self,
        params: Parameters,
        beta1: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        update: Callable = adamw_update,
        without: Collection[str] = (),
    ) -> None:
        for name in without:
            if name not in params.shapes:
                raise ValueError(f"without: there is no parameter {name!r}{nearest(name, params.shapes)}")
        self.params = params
        self.shapes = {name: shape for name, shape in params.shapes.items() if name not in without}
        self.exp_avg = zeros(self.shapes, params.flat.dtype)
        self.exp_avg_sq = zeros(self.shapes, params.flat.dtype)
        self.steps = 0
        self.n_decayed = params.n_decayed
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.update = update
        # (place in the parameters' buffer, place in the averages'); neighbours are joined into one range
        self.ranges: list[tuple[slice, slice]] = []
        for name, place in sorted(self.exp_avg.places.items(), key=lambda item: item[1].start):
            there = params.places[name]
            if self.ranges and self.ranges[-1][0].stop == there.start:
                before, own = self.ranges.pop()
                there, place = slice(before.start, there.stop), slice(own.start, place.stop)
            self.ranges.append((there, place))

    @property
    def trained(self) -> Collection[str]:
        """The names of the parameters that a step changes."""
        return self.shapes

    @property
    def state(self) -> dict[str, Mapping[str, np.ndarray]]:
        """What a checkpoint keeps beside the step count: {prefix: arrays by parameter name}."""
        return {"exp_avg.": self.exp_avg, "exp_avg_sq.": self.exp_avg_sq}

    def step(
        self,
        grads: Parameters,
        lr: float,
        scale: float = 1.0,
        parts: int = 1,
        map: Callable[..., Iterable] = map,
    ) -> None:
        """Change the parameters in place, against scale times the gradient.

        parts, map  how many equal parts to take the step in, and what calls a function for each, such as on threads
        """
        self.steps += 1
        bounds = np.linspace(0, self.exp_avg.flat.size, parts + 1).astype(int)
        list(map(lambda part: self.update_part(slice(*part), grads, lr, scale), pairwise(bounds)))

    def update_part(self, part: slice, grads: Parameters, lr: float, scale: float) -> None:
        """Change the parameters whose averages are in one part of the averages' buffer."""
        for there, own in self.ranges:
            low, high = max(part.start, own.start), min(part.stop, own.stop)
            if low < high:
                shift = there.start - own.start
                self._update(slice(low + shift, high + shift), slice(low, high), grads, lr, scale)

    def _update(self, there: slice, own: slice, grads: Parameters, lr: float, scale: float) -> None:
        self.update(
            self.params.flat[there],
            grads.flat[there],
            self.exp_avg.flat[own],
            self.exp_avg_sq.flat[own],
            self.steps,
            min(max(self.n_decayed - there.start, 0), there.stop - there.start),
            lr,
            self.beta1,
            self.beta2,
            self.eps,
            self.weight_decay,
            scale,
        )
