"""Where the time of a training step goes: by op, and beside what the machine can do."""

import copy
import time
from collections import defaultdict
from collections.abc import Callable
from threading import get_ident
from typing import Any, NamedTuple

import numpy as np

from npgpt.config import TrainConfig
from npgpt.data.batch import Text
from npgpt.inspection.costs import Cost, cost_of_adamw, cost_of_adding, cost_of_muon, costs_of_ops
from npgpt.kernels.clock import (
    ACTIVATION,
    ADD,
    ATTENTION,
    BACKWARD,
    DROPOUT,
    EMBED,
    HEAD,
    LINEAR,
    LOSS,
    MLP,
    NORM,
    SIZE,
    WAIT,
)
from npgpt.ops import NAMES, Ops
from npgpt.optim import Muon, Optimizer
from npgpt.optim.schedule import clip_scale
from npgpt.training.loop import make_optimizer
from npgpt.training.threads import Split
from npgpt.training.workers import Workers

SECONDS, FEWEST, MOST = 3.0, 4, 1000  # how long to measure, and the fewest and the most steps of that time
WARM = 3  # steps before: they compile, and get memory from the system
IDS = 2**20  # random tokens from which batches are drawn

# what a step's seconds are of, besides the laps of clock.py
DRAWING, MUON, ADAMW, REST, STEP = range(SIZE, SIZE + 5)
# the rows of the table
NAMES_OF_ROWS = {
    EMBED: "embedding",
    NORM: "layer norm, residual",
    LINEAR: "linear: qkv and output",
    ATTENTION: "attention",
    MLP: "mlp: products",
    ACTIVATION: "mlp: activation",
    DROPOUT: "dropout",
    HEAD: "head",
    LOSS: "loss",
}
NAMES_OF_ROWS = {op + there: name for op, name in NAMES_OF_ROWS.items() for there in (0, BACKWARD)}
NAMES_OF_ROWS |= {
    ADD: "gradients: sum and norm",
    MUON: "optimizer: Muon",
    ADAMW: "optimizer: AdamW",
    DRAWING: "drawing the batch",
    WAIT: "waiting for other threads",
    REST: "Python and waiting",
}
# of which row the ops of a table are that Python calls one by one
OPS_OF_TABLE = {
    "embedding": EMBED,
    "layernorm": NORM,
    "linear": LINEAR,
    "attention": ATTENTION,
    "mlp": MLP,
    "dropout": DROPOUT,
    "linear_cross_entropy": HEAD,
}


class Row(NamedTuple):
    """An op's part of a step: its seconds, averaged over the threads, and its cost, summed over them."""

    op: str
    direction: str
    seconds: float
    cost: Cost


class Profile(NamedTuple):
    """Where the time of a step goes. The seconds of the rows add up to those of the step.

    compiled  whether the ops are parts of one compiled step; otherwise Python called each
    """

    rows: list[Row]
    seconds: float
    tokens: int
    steps: int
    split: Split
    compiled: bool


def profile(model: Any, config: TrainConfig, steps: int | None = None, split: Split | None = None) -> Profile:
    """Take training steps on random tokens, and return where the time of a step went. The weights do not change.

    steps  how many to measure; None for as many as fit into SECONDS. Those slower than the median do not count,
           because another program may have held them up
    split  how threads share a step; None chooses it for this machine

    The model is a GPT.
    """
    sizes, gpt = model.config, copy.copy(model)
    ids = np.random.default_rng(0).integers(0, sizes.vocab_size, max(IDS, 2 * sizes.n_positions))
    data, optimizer = Text(ids, sizes.n_positions), make_optimizer(gpt, config, None)
    found: list[np.ndarray] = []
    workers = TimedWorkers(gpt, config.batch_size, config.threads, split)
    workers.time_updates_of(optimizer)
    with workers:
        for step in range(WARM + (steps or MOST)):
            if step == WARM:
                start = time.perf_counter()
            found.append(timed_step(workers, data, optimizer, config, step))
            if steps is None and step >= WARM + FEWEST and time.perf_counter() > start + SECONDS:
                break
    counted = np.array(found[WARM:])
    counted = counted[counted[:, STEP] <= np.median(counted[:, STEP])]
    taken = counted.mean(axis=0)
    tokens = config.batch_size * config.gradient_accumulation_steps * sizes.n_positions
    trained = {name: gpt.params.shapes[name] for name in optimizer.trained}
    matrices = gpt.matrices if config.optimizer == "muon" else {}
    costs = costs_of_ops(sizes, tokens) | {
        ADD: cost_of_adding(gpt.size, workers.split.groups),
        MUON: cost_of_muon(trained, matrices),
        ADAMW: cost_of_adamw({name: shape for name, shape in trained.items() if name not in matrices}),
    }
    rows = [
        Row(name, direction(op), float(taken[op]), costs.get(op, Cost()))
        for op, name in NAMES_OF_ROWS.items()
        if taken[op] > 0
    ]
    return Profile(rows, float(taken[STEP]), tokens, len(found) - WARM, workers.split, workers.compiled)


def direction(op: int) -> str:
    """Return in which pass an op is, or "" for what is in neither."""
    return "" if op >= ADD else "backward" if op >= BACKWARD else "forward"


def timed_step(workers: "TimedWorkers", data: Text, optimizer: Optimizer, config: TrainConfig, step: int) -> np.ndarray:
    """Take a step as training does, but with a learning rate of 0, and return the seconds of each part."""
    moments = [time.perf_counter()]
    batches = data.draw(step, config)
    moments.append(time.perf_counter())
    _, _, norm = workers.loss_and_grads(batches, (config.seed, step))
    workers.update(optimizer, 0.0, clip_scale(norm, config.grad_clip))
    moments.append(time.perf_counter())
    taken = np.zeros(STEP + 1)
    taken[:SIZE] = workers.taken()
    taken[DRAWING] = moments[1] - moments[0]
    taken[MUON], taken[ADAMW] = workers.taken_by_updates()
    taken[STEP] = moments[2] - moments[0]
    taken[REST] = taken[STEP] - taken[:REST].sum()
    return taken


class TimedWorkers(Workers):
    """Workers that note where the time of their threads goes.

    A compiled step notes it in laps. Without one, each op is timed as Python calls it.
    """

    def __init__(self, model: Any, batch_size: int, threads: int, split: Split | None = None) -> None:
        super().__init__(model, batch_size, threads, split)
        self.compiled = self.teams[0] is not None
        self.laps = self.own = np.zeros((self.n, SIZE))
        self.adding: list[float] = []
        self.updates: dict[int, list[float]] = {MUON: [], ADAMW: []}
        self.calls: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(SIZE))  # for each thread apart
        if not self.compiled:
            model.ops = self.timed_ops(model.ops)

    def taken(self) -> np.ndarray:
        """Return the seconds of each op since the last call, averaged over the threads."""
        total = np.sum([*self.own, *self.calls.values()], axis=0) / self.n
        total[-1] = 0  # when the last lap ended
        total[ADD] = sum(self.adding) / len(self.parts)
        self.own[:] = 0
        self.calls.clear()
        self.adding.clear()
        return total

    def taken_by_updates(self) -> list[float]:
        """Return the seconds of Muon's updates and of AdamW's since the last call, averaged over the threads."""
        total = [sum(seconds) / self.threads for seconds in self.updates.values()]
        for seconds in self.updates.values():
            seconds.clear()
        return total

    def time_updates_of(self, optimizer: Optimizer) -> None:
        """Have the updates of an optimizer note how long they take."""
        if isinstance(optimizer, Muon):
            optimizer.update_matrices = self.timed_update(optimizer.update_matrices, MUON)
            optimizer = optimizer.rest
        optimizer.update = self.timed_update(optimizer.update, ADAMW)

    def timed_update(self, update: Callable, op: int) -> Callable:
        def call(*args: Any) -> None:
            start = time.perf_counter()
            update(*args)
            self.updates[op].append(time.perf_counter() - start)

        return call

    def timed_ops(self, ops: Ops) -> Ops:
        """Return a table of the same ops, each of which notes how long it takes."""
        table = copy.copy(ops)
        for name in NAMES:
            layer, _, direction = name.rpartition("_")
            if layer in OPS_OF_TABLE:
                op = OPS_OF_TABLE[layer] + (BACKWARD if direction == "backward" else 0)
                setattr(table, name, self.timed(getattr(ops, name), op))
        return table

    def timed(self, function: Callable, op: int) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **options)
            self.calls[get_ident()][op] += time.perf_counter() - start
            return result

        return call

    def _add_up(self, part: slice) -> float:
        start = time.perf_counter()
        square = super()._add_up(part)
        self.adding.append(time.perf_counter() - start)
        return square
