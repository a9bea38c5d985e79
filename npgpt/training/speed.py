"""How long a training step takes on this machine: measured for two small models, and computed for all others.

machine = measure(TrainConfig(), ["float32", "bf16"])
machine.seconds(GPTConfig(n_layer=6, n_embd=256), TrainConfig(batch_size=16, optimizer="muon"))
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from npgpt.config import GPTConfig, TrainConfig
from npgpt.data.batch import Batch
from npgpt.models.registry import new_model
from npgpt.training.compute import set_compute
from npgpt.training.loop import make_optimizer
from npgpt.training.workers import Workers

# The two models that are measured: most of a step of the first is work beside products, of the second products. They
# have two layers, so that a block is most of them, and their batch is one that a run would use.
SIZES = (
    GPTConfig(vocab_size=64, n_positions=64, n_embd=96, n_layer=2, n_head=3, tie_word_embeddings=False),
    GPTConfig(vocab_size=64, n_positions=64, n_embd=256, n_layer=2, n_head=8, tie_word_embeddings=False),
)
BATCH_SIZE = 24
STEPS, SECONDS = 3, 0.15  # each model takes at least so many steps, and steps for at least so long
UPDATES = ("adamw", "muon")
# Work beside products, for a token, a layer and a channel: norms, activations, the residual stream. Measured on Zen 4:
# an entry of the vocabulary costs a twentieth of that, a weight of attention that drops out a third, and dropout of a
# layer's results an eighth.
OF_VOCABULARY, OF_DROPPED_WEIGHTS, OF_DROPPED_CHANNELS = 0.05, 0.35, 0.12
EVALUATING = 0.45  # how long the prediction of a batch takes beside its gradients


class Machine(NamedTuple):
    """Seconds on this machine, for each way to compute and each optimizer that was measured.

    products  {compute: (of an operation of a product, of a channel of a layer for a token)}
    updates   {optimizer: (of an operation in its products, of a number that it updates)}
    """

    products: dict[str, tuple[float, float]]
    updates: dict[str, tuple[float, float]]

    @property
    def fastest(self) -> str:
        """Return the way to compute whose products are fastest."""
        return min(self.products, key=lambda compute: self.products[compute][0])

    def seconds(self, model: GPTConfig, train: TrainConfig) -> float:
        """Return how long a step takes, with its update."""
        gradients = self.gradients(model, train) * train.gradient_accumulation_steps
        products, in_matrices = matrices_of_blocks(model)
        if train.optimizer == "adamw":
            return gradients + dot(self.updates["adamw"], (0, model.n_parameters))
        rest = dot(self.updates["adamw"], (0, model.n_parameters - in_matrices))
        return gradients + dot(self.updates["muon"], (products, in_matrices)) + rest

    def gradients(self, model: GPTConfig, train: TrainConfig) -> float:
        """Return how long the gradients of a batch take."""
        return dot(self.products[train.compute], work(model, train.batch_size))

    def evaluating(self, model: GPTConfig, train: TrainConfig) -> float:
        """Return how long it takes to predict a token."""
        return EVALUATING * self.gradients(model, train) / (train.batch_size * model.n_positions)


def work(model: GPTConfig, batch_size: int) -> tuple[float, float]:
    """Return the operations in the products of a batch's gradients, and its channels of layers, as if all else were
    these."""
    C, F, L, T, V = model.n_embd, model.mlp_width, model.n_layer, model.n_positions, model.vocab_size
    tokens = batch_size * T
    products = 6 * tokens * (L * (4 * C * C + 2 * C * F + C * (T + 1)) + V * C)
    channels = L * C + OF_VOCABULARY * V
    if model.attn_pdrop:
        channels += OF_DROPPED_WEIGHTS * L * model.n_head * T / 2
    if model.resid_pdrop:
        channels += OF_DROPPED_CHANNELS * L * C
    return products, tokens * channels


def matrices_of_blocks(model: GPTConfig) -> tuple[float, float]:
    """Return the operations in the products of Muon's update, up to a factor, and the numbers that it updates.

    A matrix costs its longer side times the square of its shorter one; queries, keys and values are three.
    """
    C, F, L = model.n_embd, model.mlp_width, model.n_layer
    return L * (4 * C**3 + 2 * min(C, F) ** 2 * max(C, F)), L * (4 * C * C + 2 * C * F)


def dot(costs: tuple[float, float], amounts: tuple[float, float]) -> float:
    return costs[0] * amounts[0] + costs[1] * amounts[1]


def costs(amounts: Sequence[tuple[float, float]], took: Sequence[float]) -> tuple[float, float]:
    """Return what one of each of two amounts costs, from two measurements. No cost is negative: where the clock says
    so, one of them explains both measurements.

    >>> costs([(1.0, 10.0), (10.0, 20.0)], [12.0, 30.0])
    (1.0, 1.1)
    """
    (a, b), (c, d) = amounts
    first, second = took
    both = a * d - b * c
    x, y = (first * d - b * second) / both, (a * second - first * c) / both
    if x > 0 and y > 0:
        return x, y
    return (second / c, 0.0) if y <= 0 else (0.0, second / d)


def measure(config: TrainConfig, computes: Sequence[str], clock: Callable[[], float] = time.perf_counter) -> Machine:
    """Measure steps of two models, in one to three seconds; longer where kernels must be compiled first.

    config    with the dtype, the ops and the threads of the run
    computes  the ways to compute, which must be possible here; see compute.py
    """
    gradients: dict[str, list[float]] = {compute: [] for compute in computes}
    updates: dict[str, list[float]] = {name: [] for name in UPDATES}
    for model in SIZES:
        for compute in computes:
            settings = dataclasses.replace(config, batch_size=BATCH_SIZE, compute=compute, trainable="*")
            took = measure_steps(model, settings, UPDATES if compute == computes[0] else (), clock)
            gradients[compute].append(took["gradients"])
            for name in took.keys() & updates.keys():
                updates[name].append(took[name])
    works = [work(model, BATCH_SIZE) for model in SIZES]
    adamw = updates["adamw"][1] / SIZES[1].n_parameters
    muon = costs([matrices_of_blocks(model) for model in SIZES], updates["muon"])
    return Machine(
        {compute: costs(works, took) for compute, took in gradients.items()},
        {"muon": muon, "adamw": (0.0, adamw)},
    )


def measure_steps(
    model_config: GPTConfig, config: TrainConfig, optimizers: Sequence[str], clock: Callable[[], float]
) -> dict[str, float]:
    """Return how long the gradients of a model's batch take, and an update by each of the optimizers: the medians."""
    model = new_model(model_config, 0, config.dtype, config.ops)
    set_compute(model, config)
    ids = np.random.default_rng(0).integers(0, model_config.vocab_size, (BATCH_SIZE, model_config.n_positions + 1))
    batch = Batch(ids[:, :-1], ids[:, 1:])
    made = {name: make_optimizer(model, dataclasses.replace(config, optimizer=name), None) for name in optimizers}
    took: dict[str, list[float]] = {"gradients": [], **{name: [] for name in optimizers}}
    with Workers(model, BATCH_SIZE, config.threads) as workers:
        workers.loss_and_grads([batch], seed=(0,))  # compiles
        for optimizer in made.values():
            workers.update(optimizer, 0.0)
        end = clock() + SECONDS
        while len(took["gradients"]) < STEPS or clock() < end:
            start = clock()
            workers.loss_and_grads([batch], seed=(0,))
            took["gradients"].append(clock() - start)
            for name, optimizer in made.items():
                start = clock()
                workers.update(optimizer, 0.0)
                took[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in took.items()}
