"""One optimizer step: gradients, clipping, the learning rate, the update, and the record of the step."""

import math
import time
from typing import Any

import numpy as np

from npgpt.config import TrainConfig
from npgpt.data.batch import Dataset
from npgpt.models.lora import Adapters
from npgpt.optim import Optimizer
from npgpt.optim.schedule import clip_scale, learning_rate_at
from npgpt.training.workers import Workers

# require_finite reports a run that diverges, so NumPy's warnings before it are not needed
quietly = np.errstate(over="ignore", invalid="ignore")


@quietly
def train_step(
    workers: Workers,
    optimizer: Optimizer,
    train_data: Dataset,
    config: TrainConfig,
    step: int,
    total: int,
    adapters: Adapters | None = None,
) -> dict[str, Any]:
    """Take one step of `total` and return its record. The seed and the step determine everything random in it."""
    start = time.perf_counter()
    batches = train_data.draw(step, config)
    loss, grads, grad_norm = workers.loss_and_grads(batches, seed=(config.seed, step))
    if adapters is not None:
        grads = adapters.gradients(grads)
        grad_norm = float(np.linalg.norm(grads.flat))
    if len(optimizer.trained) < len(grads):  # frozen parameters do not count
        grad_norm = math.sqrt(sum(float(np.vdot(grads[name], grads[name])) for name in sorted(optimizer.trained)))
    require_finite(step + 1, loss=loss, gradient_norm=grad_norm)
    rates = (config.learning_rate, config.min_lr, config.warmup_steps)
    lr = learning_rate_at(step, *rates, total, config.schedule, config.decay_share)
    scale = clip_scale(grad_norm, config.grad_clip)
    if adapters is None:
        workers.update(optimizer, lr, scale)
    else:
        optimizer.step(grads, lr, scale)
        adapters.merge_into(workers.model)
    tokens = sum(batch.n_tokens for batch in batches)
    return {
        "step": step + 1,
        "loss": loss,
        "lr": lr,
        "grad_norm": grad_norm,
        "tokens_per_s": round(tokens / (time.perf_counter() - start), 1),
    }


def require_finite(step: int, **numbers: float) -> None:
    """Raise FloatingPointError if one of the numbers is not finite, so that nothing of such a step is saved."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise FloatingPointError(
                f"training diverged at step {step}: the {name.replace('_', ' ')} is {number}; "
                "try a smaller learning_rate or grad_clip"
            )
