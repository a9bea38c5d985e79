"""Muon for the matrices of the blocks, beside AdamW for the rest."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from npgpt.optim.adamw import AdamW, adamw_update
from npgpt.support.parameters import Parameters, zeros

STEPS = 5  # iterations
# The time of updating one number, beside that of a multiplication and an addition in a matrix product
PER_NUMBER = 50


def orthogonalized(matrix: np.ndarray, steps: int = STEPS) -> np.ndarray:
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
    scratch = Scratch.of(matrix.shape, np.empty(Scratch.size(matrix.shape), matrix.dtype))
    scratch.x[...] = matrix
    return scratch.orthogonalized(steps)


@dataclass(frozen=True)
class Scratch:
    """Memory for one matrix: two arrays of its shape, and two squares of its shorter side."""

    x: np.ndarray
    y: np.ndarray
    gram: np.ndarray
    poly: np.ndarray

    @staticmethod
    def size(shape: tuple[int, ...]) -> int:
        """Return how many numbers are needed for a matrix of this shape."""
        return 2 * math.prod(shape) + 2 * min(shape) ** 2

    @classmethod
    def of(cls, shape: tuple[int, ...], memory: np.ndarray) -> "Scratch":
        """Return the scratch for a matrix of this shape in the first size(shape) elements of the memory."""
        n, short = math.prod(shape), min(shape)
        x, y, gram, poly, _ = np.split(memory, np.cumsum([n, n, short**2, short**2]))
        return cls(x.reshape(shape), y.reshape(shape), gram.reshape(short, short), poly.reshape(short, short))

    def orthogonalized(self, steps: int) -> np.ndarray:
        """Return orthogonalized(x); it is in the memory of x or y, which are both overwritten."""
        x, y, gram, poly = self.x, self.y, self.gram, self.poly
        tall = x.shape[0] > x.shape[1]
        x /= np.linalg.norm(x) + 1e-30
        diagonal = poly.reshape(-1)[:: len(poly) + 1]
        for _ in range(steps):
            # of a product with its own transpose, BLAS computes half; gram is its own transpose
            np.matmul(*((x.T, x) if tall else (x, x.T)), out=gram)
            np.matmul(gram, gram.T, out=poly)
            poly *= 2.0315
            gram *= -4.7750
            poly += gram
            diagonal += 3.4445
            np.matmul(*((x, poly) if tall else (poly, x)), out=y)
            x, y = y, x
        return x


def muon_update(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    lr: float,
    beta: float,
    weight_decay: float,
    scale: float,
    scratch: Scratch,
) -> None:
    """Take one step in place for a matrix (m, n): param and exp_avg are changed, grad is not.

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
    share = np.multiply(grad, scale, out=scratch.y)
    share *= 1 - beta
    exp_avg *= beta
    exp_avg += share
    ahead = np.multiply(exp_avg, beta, out=scratch.x)
    ahead += share
    step = scratch.orthogonalized(STEPS)
    step *= lr * 0.2 * math.sqrt(max(param.shape))
    param *= 1 - lr * weight_decay
    param -= step


@dataclass(frozen=True)
class Share:
    """What one part of a step updates: whole matrices, a slice of AdamW's averages, and memory to work in."""

    matrices: list[tuple[str, slice]]  # a parameter's name, and the columns that are one matrix of it
    rest: slice
    memory: np.ndarray


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
        for name, columns in share.matrices:
            param, grad, exp_avg = (arrays[name][:, columns] for arrays in (self.params, grads, self.exp_avg))
            scratch = Scratch.of(param.shape, share.memory)
            muon_update(param, grad, exp_avg, lr, self.momentum, self.weight_decay, scale, scratch)
        self.rest.update_part(share.rest, grads, lr, scale)

    def _shares(self, parts: int) -> list[Share]:
        """Divide a step: the most expensive matrix that is left goes where the cost is least so far.

        AdamW's numbers then fill up the parts that have less to do than others.
        """
        matrices = []
        for name, count in self.matrices.items():
            m, n = self.params.shapes[name][0], self.params.shapes[name][1] // count
            matrices += [((m, n), name, slice(i * n, (i + 1) * n)) for i in range(count)]
        costs, sizes = [0.0] * parts, [0] * parts
        chosen: list[list[tuple[str, slice]]] = [[] for _ in range(parts)]
        for shape, name, columns in sorted(matrices, key=lambda matrix: -cost_of(*matrix[0])):
            least = costs.index(min(costs))
            chosen[least].append((name, columns))
            costs[least] += cost_of(*shape)
            sizes[least] = max(sizes[least], Scratch.size(shape))
        total = self.rest.exp_avg.flat.size
        bounds = np.cumsum([0, *filled(costs, PER_NUMBER * total)]) / PER_NUMBER
        rests = [slice(*bound) for bound in pairwise(np.round(bounds).astype(int))]
        memories = [np.empty(size, self.params.flat.dtype) for size in sizes]
        return [Share(*share) for share in zip(chosen, rests, memories, strict=True)]


def cost_of(m: int, n: int) -> float:
    """Return what updating a matrix (m, n) costs, in multiplications and additions of a matrix product.

    A product with its own transpose costs about two thirds of another one.
    """
    short, long = min(m, n), max(m, n)
    return STEPS * short * short * (2 / 3 * (short + long) + long) + PER_NUMBER * m * n


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
