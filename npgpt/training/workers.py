"""One training step over shards of a batch: each worker runs a plain forward and backward on its own part.

A worker is a thread. NumPy, BLAS and the compiled ops run without the interpreter's lock, so workers run at the same
time. Each uses one BLAS thread, so none waits for another before the gradients are added up. A worker needs only its
shard and the number of all targets, and writes its gradients into a buffer of its own. So a worker could as well be a
rank on another machine, whose buffer is added in the same fixed order.
"""

import contextvars
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from npgpt.config import TrainConfig
from npgpt.data.batch import Batch
from npgpt.models.base import Model
from npgpt.optim import Optimizer
from npgpt.support.buffers import Buffers, empty
from npgpt.support.machine import cores
from npgpt.support.parameters import Parameters

Result = TypeVar("Result")

# Adding up the gradients of one more worker takes time that grows with the parameters; the time that it saves grows
# with the tokens. With more parameters per token of the batch than this, one worker with all BLAS threads is as fast,
# and needs no second gradient.
PARAMETERS_PER_TOKEN = 2**16


def n_workers(size: int, batch_size: int, n_positions: int, threads: int) -> int:
    """Return how many workers to split the batches of a model of `size` parameters over. One gives BLAS the threads.

    Workers are better for small models: small products do not gain from BLAS threads, which run nothing but products.
    But a batch of one sequence cannot be split, and a model that is large for its batch should not store its gradients
    twice.
    """
    large = size > PARAMETERS_PER_TOKEN * batch_size * n_positions
    return 1 if large else min(threads, batch_size)


def n_threads(threads: int = 0) -> int:
    """Return the number of threads to use: the given one, or for 0 what the machine allows (support/machine.py)."""
    return threads or cores()


def with_threads(config: TrainConfig) -> TrainConfig:
    """Return the settings with a number of threads in place of 0.

    The number decides the bits of a run. So a run records it, and keeps it when it is resumed on another machine.
    """
    return dataclasses.replace(config, threads=n_threads(config.threads))


class Workers:
    """Threads that compute training steps together, and the memory that they need.

    >>> with Workers(model, batch_size=12, threads=2) as workers:
    ...     loss, grads, norm = workers.loss_and_grads([Batch(ids, targets)], seed=(0, 1))
    ...     workers.update(optimizer, lr=1e-3, scale=clip_scale(norm, 1.0))

    The same seed and number of threads give the same bits.
    """

    def __init__(self, model: Model, batch_size: int, threads: int = 0) -> None:
        self.model = model
        self.threads = n_threads(threads)
        self.n = n_workers(model.size, batch_size, model.config.n_positions, self.threads)
        self.buffers = [Buffers() for _ in range(self.n)]
        self.grads = [model.params.empty_like() for _ in range(self.n)]
        # the optimizer runs in parts on all threads, whatever the workers are
        bounds = np.linspace(0, model.size, self.threads + 1).astype(int)
        self.parts = [slice(start, stop) for start, stop in pairwise(bounds)]

    def __enter__(self) -> "Workers":
        self._pool = ThreadPoolExecutor(max(1, self.threads - 1))
        self._limits = threadpool_limits(1 if self.n > 1 else self.threads)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._limits.restore_original_limits()
        self._pool.shutdown()

    def loss_and_grads(
        self, batches: Sequence[Batch], seed: Sequence[int] | None = None
    ) -> tuple[float, Parameters, float]:
        """Return the mean loss over the counted targets of all batches together, its gradients and their norm.

        batches  the batches of one step
        seed     seed of the dropout masks, which each worker draws for itself; None switches dropout off

        The next call overwrites the gradients. Each target has the same weight. A mean of the batches' means would be
        another loss if some targets are masked.
        """
        if not batches:
            raise ValueError("there are no batches: give at least one")
        total = max(1, sum(batch.n_targets for batch in batches))

        def work(i: int) -> float:
            rng = None if seed is None else np.random.default_rng((*seed, i))
            with self.buffers[i]:
                return accumulate_grads(
                    self.model, [batch.part(i, self.n) for batch in batches], total, self.grads[i], rng
                )

        losses = self._run(work, range(self.n))
        if self.n == 1:  # BLAS has the threads
            squares = [float(np.dot(self.grads[0].flat, self.grads[0].flat))]
        else:
            squares = self._run(self._add_up, self.parts)
        return sum(losses), self.grads[0], float(np.sqrt(sum(squares)))

    def update(self, optimizer: Optimizer, lr: float, scale: float = 1.0) -> None:
        """Take the optimizer's step with scale times the gradients. Each thread updates a part of the parameters."""
        optimizer.step(self.grads[0], lr, scale, len(self.parts), self._run)

    def map(self, function: Callable[[Any], Result], items: Iterable[Any]) -> Iterator[Result]:
        """Yield function(item) for each item in order, as many at a time as there are workers."""
        pools = [Buffers() for _ in range(self.n)]  # apart from those of the steps, whose shapes are others

        def call(pool_and_item: tuple[Buffers, Any]) -> Result:
            pool, item = pool_and_item
            with pool:
                return function(item)

        items = iter(items)
        while several := list(islice(items, self.n)):
            yield from self._run(call, zip(pools, several, strict=False))

    def _add_up(self, part: slice) -> float:
        """Add the other workers' gradients to the first one's, always in the same order; return the sum of squares."""
        total = self.grads[0].flat[part]
        for other in self.grads[1:]:
            total += other.flat[part]
        return float(np.dot(total, total))

    def _run(self, function: Callable[[Any], Result], items: Iterable[Any]) -> list[Result]:
        """Call the function for all items at once, the first of them in this thread."""
        first, *others = items
        # each call runs in a copy of this thread's context, where NumPy keeps its settings for overflow
        futures = [self._pool.submit(contextvars.copy_context().run, function, item) for item in others]
        try:
            result = function(first)
        finally:  # also after an error, no thread may still write into the buffers when this returns
            others = [future.result() for future in futures]
        return [result, *others]


def accumulate_grads(
    model: Model, batches: Sequence[Batch], total: int, grads: Parameters, rng: np.random.Generator | None
) -> float:
    """Write the gradients of the batches' summed loss divided by `total` into grads; return that part of the loss."""
    loss, into = 0.0, grads
    # if a batch has fewer rows than there are workers, some workers have none
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        grads.flat.fill(0)
    for batch in batches:
        share = batch.n_targets / total
        part_loss, _ = model.loss_and_grads(batch, rng=rng, dloss=share, grads=into)
        loss += share * part_loss
        if into is not grads:
            grads.flat += into.flat
        elif len(batches) > 1:  # grads holds the first batch's gradients, to which those of the others are added
            into = Parameters(grads.shapes, empty(grads.flat.shape, grads.flat.dtype))
    return loss
