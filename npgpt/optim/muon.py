"""Muon for the matrices of the blocks, beside AdamW for the rest."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from npgpt.optim.adamw import AdamW, adamw_update
from npgpt.support.parameters import Parameters, zeros

Polynomials = Sequence[Sequence[float]] | np.ndarray

# the coefficients (a, b, c) of each iteration
POLYNOMIALS = (
    (8.2987, -24.4305, 18.0903),
    (3.9152, -2.9211, 0.55922),
    (3.1746, -2.3804, 0.49783),
)
LINE = 64  # bytes; what the compiled update pads to
# The time of all else for one number of a matrix, and of AdamW for one of its own, beside that of a multiplication and
# an addition in a product. On Zen 4, they were 110 to 140 in matrices of up to 256 x 256, and 20 to 35
PER_NUMBER = 100
PER_NUMBER_OF_ADAMW = 30


def orthogonalized(matrix: np.ndarray, polynomials: Polynomials = POLYNOMIALS) -> np.ndarray:
    """Return a matrix with the same singular vectors and singular values near 1, by Newton and Schulz's iteration.

        X = G / ||(G G^T)^2||^(1/4)
        X = a X + b (X X^T) X + c (X X^T)^2 X        for each (a, b, c)

    The norm is Frobenius's, so the first line divides by the eighth root of the sum of the singular values' eighth
    powers, which is at least the largest of them, and at most 2.4 times as much in a matrix of 1024 x 1024. Then each
    iteration turns a singular value s into a s + b s^3 + c s^5. Its coefficients are those that bring the interval into
    which the one before it brings [0.005, 1] nearest to 1. All of them bring every value there into 0.50..1.50. That is
    not exact, but fast, because it takes matrix products only. A matrix of zeros stays zero.

    >>> np.linalg.svd(orthogonalized(np.diag([1.0, 0.1])), compute_uv=False).round(2)
    array([1.5 , 1.35])

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    kellerjordan.github.io/posts/muon; Amsel et al., "The Polar Express", arXiv:2505.16932, for the coefficients.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / matrix.dtype.type(norm_of(x))
    x = x / matrix.dtype.type(norm_of(x @ x.T @ (x @ x.T)) ** 0.25)
    for a, b, c in polynomials:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def norm_of(matrix: np.ndarray) -> float:
    """Return the root of the sum of the squares, which float64 holds if the numbers are float32; 1 for zeros."""
    return float(np.linalg.norm(matrix.astype(np.float64))) or 1.0


def muon_update(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    places: np.ndarray,
    polynomials: np.ndarray,
    lr: float,
    beta: float,
    weight_decay: float,
    scale: float,
    memory: np.ndarray,
) -> None:
    """Take one step in place for some matrices: param and exp_avg are changed, grad is not.

        grad    = scale * grad
        exp_avg = beta * exp_avg + (1 - beta) * grad
        step    = orthogonalized(beta * exp_avg + (1 - beta) * grad)         (Nesterov's momentum)
        param  -= lr * weight_decay * param
        param  -= lr * 0.2 sqrt(max(m, n)) * step                            for a matrix (m, n)

    param, grad, exp_avg  one-dimensional, of one dtype
    places                (matrices, 5), int64: where each begins in param and grad, where it does in exp_avg, how many
                          numbers there are from one row to the next, m, and n
    polynomials           (iterations, 3), float64
    memory                room_for numbers for the largest, which the compiled update works in

    The step has about the same length in every direction of the matrix, also in directions that gradients rarely take.
    Its root mean square is about 0.2 lr, as with AdamW, so the same learning rates suit both.

    Source: Jordan et al. (see orthogonalized); Liu et al., "Muon is Scalable for LLM Training", arXiv:2502.16982, for
    the decay and the factor.
    """
    for at, own, step, m, n in places.tolist():
        matrix, average = matrix_at(param, at, step, m, n), matrix_at(exp_avg, own, step, m, n)
        share = (1 - beta) * (scale * matrix_at(grad, at, step, m, n))
        average *= beta
        average += share
        matrix *= 1 - lr * weight_decay
        matrix -= lr * 0.2 * math.sqrt(max(m, n)) * orthogonalized(beta * average + share, polynomials)


def matrix_at(flat: np.ndarray, start: int, step: int, m: int, n: int) -> np.ndarray:
    """Return a view of the matrix (m, n) that begins there, with its rows `step` numbers apart."""
    return np.lib.stride_tricks.as_strided(flat[start:], (m, n), (step * flat.itemsize, flat.itemsize))


def room_for(m: int, n: int, itemsize: int) -> int:
    """Return how many numbers the compiled update needs for a matrix: for it, its transpose, and four squares.

    Sides are padded to lines, rows to an odd number of them, and the first line begins where memory is aligned.
    """
    unit = LINE // itemsize
    (short, short_row), (long, long_row) = (
        (lines * unit, (lines | 1) * unit) for lines in (-(-side // unit) for side in sorted((m, n)))
    )
    return unit + short * long_row + long * short_row + 4 * short * short_row


@dataclass(frozen=True)
class Share:
    """What one part of a step updates: whole matrices, a slice of AdamW's averages, and memory to work in."""

    places: np.ndarray  # of the matrices, as muon_update wants them
    rest: slice
    memory: np.ndarray


class Muon:
    """Muon for matrices inside a model, AdamW for everything else: embeddings, head, biases and layer norms.

    matrices      {name: count}: the parameters that Muon trains; each is `count` matrices side by side, as c_attn holds
                  those of queries, keys and values. A model lists its own: `Muon(model.params, model.matrices)`
    weight_decay  decays the matrices only
    momentum      decay of the gradient's mean, which is all that Muon keeps of a matrix
    without       names of parameters that are frozen
    update, update_matrices
                  the steps that change arrays: the definitions, or their compiled twins in `FAST`

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
        update_matrices: Callable = muon_update,
    ) -> None:
        self.params, self.update_matrices = params, update_matrices
        self.matrices = {name: count for name, count in matrices.items() if name not in without}
        self.momentum, self.weight_decay = momentum, weight_decay
        self.polynomials = np.array(POLYNOMIALS)
        self.rest = AdamW(params, beta1, beta2, eps, 0.0, update, {*self.matrices, *without})
        self.shares: list[Share] = []  # made at the first step
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
        parts: int = 1,
        map: Callable[..., Iterable] = map,
    ) -> None:
        """Change the parameters in place, against scale times the gradient.

        parts, map  how many parts of about equal cost to take the step in, and what calls a function for each, such as
                    on threads
        """
        self.rest.steps += 1
        if len(self.shares) != parts:
            self.shares = self._shares(parts)
        list(map(lambda share: self._update(share, grads, lr, scale), self.shares))

    def _update(self, share: Share, grads: Parameters, lr: float, scale: float) -> None:
        self.update_matrices(
            self.params.flat,
            grads.flat,
            self.exp_avg.flat,
            share.places,
            self.polynomials,
            lr,
            self.momentum,
            self.weight_decay,
            scale,
            share.memory,
        )
        self.rest.update_part(share.rest, grads, lr, scale)

    def _shares(self, parts: int) -> list[Share]:
        """Divide a step: the most expensive matrix that is left goes where the cost is least so far.

        AdamW's numbers then fill up the parts that have less to do than others.
        """
        places = []
        for name, count in self.matrices.items():
            m, step = self.params.shapes[name]
            n, at, own = step // count, self.params.places[name].start, self.exp_avg.places[name].start
            places += [(at + i * n, own + i * n, step, m, n) for i in range(count)]
        costs = [0.0] * parts
        chosen: list[list[tuple[int, ...]]] = [[] for _ in range(parts)]
        for place in sorted(places, key=lambda place: -cost_of(*place[3:])):
            least = costs.index(min(costs))
            chosen[least].append(place)
            costs[least] += cost_of(*place[3:])
        total = self.rest.exp_avg.flat.size
        bounds = np.cumsum([0, *filled(costs, PER_NUMBER_OF_ADAMW * total)]) / PER_NUMBER_OF_ADAMW
        rests = [slice(*bound) for bound in pairwise(np.round(bounds).astype(int))]
        dtype = self.params.flat.dtype
        sizes = [max((room_for(m, n, dtype.itemsize) for *_, m, n in own), default=0) for own in chosen]
        return [
            Share(np.array(own, np.int64).reshape(-1, 5), rest, np.empty(size, dtype))
            for own, rest, size in zip(chosen, rests, sizes, strict=True)
        ]


def products_of(m: int, n: int) -> float:
    """Return how many multiplications and additions the compiled update of a matrix (m, n) has in its products.

    X X^T, whose half is computed, and Q X are products of the longer side. For each polynomial there are four products
    of squares, of which half is computed; the last needs no more R, and the first is Q.
    """
    short, long = min(m, n), max(m, n)
    return short * short * (1.5 * long + (4 * len(POLYNOMIALS) - 3) * short / 2)


def cost_of(m: int, n: int) -> float:
    """Return what the compiled update of a matrix (m, n) costs, in multiplications and additions of its products."""
    return products_of(m, n) + PER_NUMBER * m * n


def filled(levels: Sequence[float], amount: float) -> list[float]:
    """Return how much to pour on each level so that the lowest ones come to one height, the amount in all.

    Example: levels [5, 1, 2] and the amount 3 give [0, 2, 1].
    """
    low, height = 0.0, 0.0
    for n, level in enumerate(sorted(levels), 1):
        if n > 1 and level >= height:
            break
        low += level
        height = (low + amount) / n
    return [max(0.0, height - level) for level in levels]
