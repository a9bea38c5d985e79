"""One training step over shards of a batch, on threads: groups of them, and in each group one member or several.

A group runs a forward and backward on its rows of the batch, and writes gradients into a buffer of its own, which are
then added up in a fixed order. So a group could as well be a rank on another machine. If the model can (`Team` in
models/base.py), the members of a group compute its rows together, and its gradients are one buffer for all of them.
Otherwise a group is one thread, and a single group gives BLAS all threads.

What threads compute runs without the interpreter's lock; a GPT's step needs it only a few times (kernels/gpt.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from npgpt.data.batch import Batch
from npgpt.models.base import Model
from npgpt.optim import Optimizer
from npgpt.support.buffers import Buffers, empty
from npgpt.support.crew import Crew
from npgpt.support.parameters import Parameters
from npgpt.training.threads import Split, settle, work_of

Result = TypeVar("Result")


class Workers:
    """Threads that compute training steps together, and the memory that they need.

    >>> with Workers(model, batch_size=12, threads=2) as workers:
    ...     loss, grads, norm = workers.loss_and_grads([Batch(ids, targets)], seed=(0, 1))
    ...     workers.update(optimizer, lr=1e-3, scale=clip_scale(norm, 1.0))

    The same seed and split give the same bits.
    """

    def __init__(self, model: Model, batch_size: int, threads: int = 0, split: Split | None = None) -> None:
        make_team = getattr(model, "team", lambda members: None)
        self.model = model
        teams = make_team(1) is not None
        if split is None:
            split = settle(work_of(model, batch_size, teams), threads)
        self.split, self.threads = split, split.threads
        self.members = split.members if teams else 1
        self.n = split.groups * self.members  # threads that compute gradients
        self.teams = [make_team(split.members) for _ in range(split.groups)]
        self.buffers = [Buffers() for _ in range(self.n)]
        self.flat = np.empty((split.groups, model.params.size), model.dtype)  # the gradients of each group
        self.grads = [Parameters(model.params.shapes, flat) for flat in self.flat]
        self.laps: np.ndarray | None = None  # (n, clock.SIZE), if somebody wants to know where the time goes
        # the optimizer runs in parts on all threads, whatever the groups are
        bounds = np.linspace(0, model.params.size, self.threads + 1).astype(int)
        self.parts = [slice(start, stop) for start, stop in pairwise(bounds)]

    def __enter__(self) -> "Workers":
        self._crew = Crew(self.threads).__enter__()
        self._limits = threadpool_limits(self.threads if self.n == 1 else 1)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._limits.restore_original_limits()
        self._crew.__exit__()

    def loss_and_grads(
        self, batches: Sequence[Batch], seed: Sequence[int] | None = None
    ) -> tuple[float, Parameters, float]:
        """Return the mean loss over the counted targets of all batches together, its gradients and their norm.

        batches  the batches of one step
        seed     seed of the dropout masks, which each thread draws for itself; None switches dropout off

        The next call overwrites the gradients. Each target has the same weight. A mean of the batches' means would be
        another loss if some targets are masked.
        """
        if not batches:
            raise ValueError("there are no batches: give at least one")
        total = max(1, sum(batch.n_targets for batch in batches))
        parts = [[batch.part(g, len(self.teams)) for batch in batches] for g in range(len(self.teams))]
        for team, own in zip(self.teams, parts, strict=True):
            if team is not None:
                team.begin(own, drop=seed is not None)

        def work(i: int) -> float:
            rng = None if seed is None else np.random.default_rng((*seed, i))
            group, member = divmod(i, self.members)
            team, grads = self.teams[group], self.grads[group]
            with self.buffers[i]:
                if team is None:
                    return accumulate_grads(self.model, parts[group], total, grads, rng)
                laps = None if self.laps is None else self.laps[i]
                return team.accumulate_grads(member, parts[group], total, grads, rng, laps)

        losses = self._crew.run(work, range(self.n), self._abort)
        if self.n == 1:  # BLAS has the threads
            squares = [float(np.dot(self.grads[0].flat, self.grads[0].flat))]
        else:
            squares = self._crew.run(self._add_up, self.parts)
        return sum(losses), self.grads[0], float(np.sqrt(sum(squares)))

    def update(self, optimizer: Optimizer, lr: float, scale: float = 1.0) -> None:
        """Take the optimizer's step with scale times the gradients. Each thread updates a part of the parameters."""
        optimizer.step(self.grads[0], lr, scale, self.threads, self._crew.run)

    def map(self, function: Callable[[Any], Result], items: Iterable[Any]) -> Iterator[Result]:
        """Yield function(item) for each item in order, as many at a time as there are workers."""
        pools = [Buffers() for _ in range(self.n)]  # apart from those of the steps, whose shapes are others

        def call(pool_and_item: tuple[Buffers, Any]) -> Result:
            pool, item = pool_and_item
            with pool:
                return function(item)

        items = iter(items)
        while several := list(islice(items, self.n)):
            yield from self._crew.run(call, list(zip(pools, several, strict=False)))

    def _abort(self) -> None:
        """Let the members of all teams go on that wait for one that has failed."""
        for team in self.teams:
            if team is not None:
                team.abort()

    def _add_up(self, part: slice) -> float:
        """Add the other workers' gradients to the first one's, always in the same order; return the sum of squares."""
        if self.teams[0] is not None:
            return self.teams[0].add_up(self.flat, part.start, part.stop)
        total = self.grads[0].flat[part]
        for other in self.grads[1:]:
            total += other.flat[part]
        return float(np.dot(total, total))


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
