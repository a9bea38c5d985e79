"""The training loop: batches, gradients, optimizer, evaluations, and a run folder that is whole at every moment."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.checkpoint import append_metrics, cut_metrics, load_state, save_state
from npgpt.config import TrainConfig
from npgpt.data.packing import Packed, draw, n_tokens
from npgpt.evaluate import estimate_loss, random_batch, whole_loss
from npgpt.lora import Adapters
from npgpt.model import GPT
from npgpt.optim import AdamW, Muon, clip_scale, learning_rate_at
from npgpt.parallel import Batch, Workers

Data = np.ndarray | Packed  # a text, or examples


def train(
    model: GPT,
    train_data: Data,
    val_data: Data,
    config: TrainConfig,
    folder: Path,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    adapters: Adapters | None = None,
    on_best: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """Train the model in place, and yield each record that goes to metrics.jsonl.

    A step's record has step, loss, lr, grad_norm and tokens_per_s; an evaluation's has step and val_loss. The last one
    is that of the best model on all validation data, marked whole. The best model by validation loss is kept in
    the folder's model.safetensors, the last one in its training state.

    train_data   the ids of a text, of which random windows are learned; or packed examples, whose rows are drawn
                 without replacement, and shuffled anew when all have been; or as they stand, if they are in order
    val_data     the same; the evaluations during training take some windows or rows of it
    resume       go on from the folder's training state: to the same bits as a run that never stopped
    should_stop  asked after every step; when it says so, the state is saved and the run ends without the last record
    adapters     train these alone, by AdamW, and the model with them merged in; None trains the model itself
    on_best      called whenever the model has been kept as the best

    Raises FloatingPointError when loss or gradient is no longer finite; what was saved before stays.
    """
    if adapters is not None and config.optimizer != "adamw":
        raise ValueError(f"optimizer={config.optimizer!r} is for whole models: adapters are trained by adamw")
    optimizer = (Muon if config.optimizer == "muon" else AdamW)(
        model.params if adapters is None else adapters.params,
        config.beta1,
        config.beta2,
        config.adam_epsilon,
        config.weight_decay,
        model.ops.adamw_update,
    )
    progress: dict[str, Any] = {"step": 0, "best_step": 0, "best_val_loss": None}
    if resume:
        progress = load_state(folder, model, optimizer)
        if progress["step"] > config.max_steps:
            raise ValueError(f"the run is at step {progress['step']} already, beyond max_steps={config.max_steps}")
        cut_metrics(folder, progress["step"])
    else:
        model.save_pretrained(folder)
        save_state(folder, model, optimizer, progress)

    if adapters is not None:
        adapters.merge_into(model)

    def log(record: dict[str, Any]) -> dict[str, Any]:
        append_metrics(folder, record)
        return record

    with Workers(model, config.batch_size, config.threads) as workers:
        for step in range(progress["step"], config.max_steps):
            yield log(train_step(workers, optimizer, train_data, config, step, adapters))
            done = progress["step"] = step + 1
            last = done == config.max_steps
            stop = not last and should_stop()
            evaluate = last or done % config.eval_every == 0
            save = last or stop or done % config.save_every == 0
            if evaluate:
                val_loss = validation_loss(workers, val_data, config)
                require_finite(done, validation_loss=val_loss)
            elif save:
                # finite parameters are not enough: of a model that is about to explode the next loss is not
                require_finite(done, next_loss=training_loss(model, train_data))
            if evaluate:
                yield log({"step": done, "val_loss": val_loss})
                best = progress["best_val_loss"]
                if best is None or val_loss < best:
                    progress |= {"best_step": done, "best_val_loss": val_loss}
                    model.save_pretrained(folder)
                    on_best()
            if save:
                save_state(folder, model, optimizer, progress)
            if stop:
                return
        best_model = model
        if progress["best_step"] != progress["step"]:
            best_model = GPT.from_pretrained(folder, model.dtype.name, model.ops)
        loss = whole_loss(best_model, val_data, workers.map)
        yield log({"step": progress["best_step"], "val_loss": loss, "whole": True})


# a run that diverges is reported by require_finite, not by NumPy's warnings on the way there
quietly = np.errstate(over="ignore", invalid="ignore")


@quietly
def validation_loss(workers: Workers, val_data: Data, config: TrainConfig) -> float:
    """Return the mean loss over some validation batches, always the same ones."""
    return estimate_loss(workers.model, val_data, config.batch_size, config.eval_batches, config.seed, workers.map)


@quietly
def training_loss(model: GPT, train_data: Data) -> float:
    """Return the loss on the first window of the training text, or the first row of examples."""
    if isinstance(train_data, Packed):
        return model.loss(*train_data.batch(slice(1)))
    window = train_data[None, : model.config.n_positions + 1]
    return model.loss(window[:, :-1], window[:, 1:])


@quietly
def train_step(
    workers: Workers,
    optimizer: AdamW,
    train_data: Data,
    config: TrainConfig,
    step: int,
    adapters: Adapters | None = None,
) -> dict[str, Any]:
    """Take one optimizer step and return its record. Everything random in it follows from the seed and the step."""
    start = time.perf_counter()
    batches = step_batches(train_data, config, step, workers.model.config.n_positions)
    loss, grads, grad_norm = workers.loss_and_grads(batches, seed=(config.seed, step))
    if adapters is not None:
        grads = adapters.gradients(grads)
        grad_norm = float(np.linalg.norm(grads.flat))
    require_finite(step + 1, loss=loss, gradient_norm=grad_norm)
    lr = learning_rate_at(step, config.learning_rate, config.min_lr, config.warmup_steps, config.max_steps)
    scale = clip_scale(grad_norm, config.grad_clip)
    if adapters is None:
        workers.update(optimizer, lr, scale)
    else:
        optimizer.step(grads, lr, scale)
        adapters.merge_into(workers.model)
    packed = isinstance(train_data, Packed)
    tokens = sum(n_tokens(targets) if packed else targets.size for _, targets, *_ in batches)
    return {
        "step": step + 1,
        "loss": loss,
        "lr": lr,
        "grad_norm": grad_norm,
        "tokens_per_s": round(tokens / (time.perf_counter() - start), 1),
    }


def step_batches(train_data: Data, config: TrainConfig, step: int, n_positions: int) -> list[Batch]:
    """Return the batches of a step, one for each gradient that is accumulated."""
    B, n = config.batch_size, config.gradient_accumulation_steps
    if isinstance(train_data, Packed):
        return [draw(train_data, B, B * (n * step + i), config.seed) for i in range(n)]
    rng = np.random.default_rng((config.seed, step))
    return [random_batch(train_data, B, n_positions, rng) for _ in range(n)]


def require_finite(step: int, **numbers: float) -> None:
    """Raise FloatingPointError if one of the numbers is not finite: nothing of such a step is saved."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise FloatingPointError(
                f"training went astray at step {step}: the {name.replace('_', ' ')} is {number}; "
                "try a smaller --learning-rate or --grad-clip"
            )
