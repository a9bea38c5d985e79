"""The training loop: batches, steps, evaluations, and a run folder that is valid at every moment."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from npgpt.config import TrainConfig
from npgpt.data.batch import Dataset
from npgpt.models.base import Model
from npgpt.models.lora import Adapters
from npgpt.ops import get_ops
from npgpt.optim import AdamW, Mean, Muon, Optimizer
from npgpt.support.notices import notice
from npgpt.support.parameters import select
from npgpt.training.checkpoint import append_metrics, cut_metrics, load_state, save_state
from npgpt.training.compute import set_compute
from npgpt.training.evaluation import Evaluation, affordable_tokens, estimate_loss, evaluate
from npgpt.training.step import quietly, require_finite, train_step
from npgpt.training.threads import Split, settle, work_of
from npgpt.training.workers import Workers

Record = dict[str, Any]


class Trainer:
    """Trains a model in place and keeps its run folder.

    >>> trainer = Trainer(model, Text(train_ids, 64), Text(val_ids, 64), TrainConfig(), "runs/mine")
    >>> for record in trainer.run():
    ...     print(record["step"], record.get("loss"), record.get("val_loss"))

    train_data, val_data  a Text or Packed examples each; evaluations during training use some batches of val_data
    adapters              train only these, with AdamW; the model runs with them merged in. None trains the model
    on_best               called whenever the model has been saved as the best
    on_evaluating         called during the last evaluation with the tokens predicted so far, and all that will be
    split                 how threads share a step; None chooses it for this machine (threads.py)
    on_step               called before each step with the number of steps taken, and of all
    pace                  asked before the first step and after every step, with the number of steps taken, how many the
                          run will have; max_steps unless it is replaced. If it says no more than were taken, the run
                          ends there
    total                 its last answer; once patience has run out, the step at which it did
    stopped_early         whether it has
    patient_until         patience counts only evaluations after this step
    evaluation            the last evaluation, of the best model; None before it
    trained               whether the model has learned before, so that it is evaluated before the first step, too

    The folder's model.safetensors holds the best model by validation loss, its training state the last one.
    """

    def __init__(
        self,
        model: Model,
        train_data: Dataset,
        val_data: Dataset,
        config: TrainConfig,
        folder: str | Path,
        adapters: Adapters | None = None,
        on_best: Callable[[], None] = lambda: None,
        split: Split | None = None,
    ) -> None:
        self.model, self.train_data, self.val_data = model, train_data, val_data
        self.config, self.folder, self.adapters, self.on_best = config, Path(folder), adapters, on_best
        self.optimizer = make_optimizer(model, config, adapters)
        self.mean = Mean(self.optimizer.params) if config.average else None
        set_compute(model, config)
        self.progress: dict[str, Any] = {"step": 0, "best_step": 0, "best_val_loss": None}
        self.progress |= {"best_averaged": 0, "waited": 0}  # evaluations in a row without a better loss
        self.on_evaluating: Callable[[int, int], object] = lambda done, total: None
        self.on_step: Callable[[int, int], object] = lambda done, total: None
        self.pace: Callable[[int], int] = lambda done: config.max_steps
        self.total, self.stopped_early, self.patient_until = config.max_steps, False, 0
        self.trained = False
        self.evaluation: Evaluation | None = None
        self.split = split or settle(work_of(model, config.batch_size, config.ops == "fast"), config.threads)
        self._best: Model | None = None

    def run(self, resume: bool = False, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Record]:
        """Train to the last step, or until patience runs out, and yield each record that is written to metrics.jsonl.

        A step's record has step, loss, lr, grad_norm and tokens_per_s; an evaluation's has step and val_loss. While
        weights are averaged, it also has averaged, the number of steps, and the losses last_val_loss and
        mean_val_loss, the lower of which is val_loss; if it ends the run early, it has stopped_early. The last record
        is the best model's loss on all validation data, and `whole` is True in it; or, if there are more than
        final_eval_tokens, on a sample of that many. Then `whole` is False, and val_stderr and val_tokens say more. If
        the best model is a mean, averaged says of how many steps.

        resume       continue from the folder's training state, to the same bits as a run that never stopped
        should_stop  called after every step; if it returns True, the state is saved and the run ends without the last
                     record. Also called during the last evaluation, which a resumed run then repeats

        Raises FloatingPointError when the loss or the gradient is no longer finite; what was saved before is kept.
        """
        config = self.config
        self._begin(resume)
        with Workers(self.model, config.batch_size, split=self.split) as workers:
            done = self.progress["step"]
            self.total = max(done, self.pace(done))
            self._end_if_out_of_patience()
            yield from self._evaluate_first(workers)
            while done < self.total:
                self.on_step(done, self.total)
                record = train_step(workers, self.optimizer, self.train_data, config, done, self.total, self.adapters)
                done = self.progress["step"] = done + 1
                self.total = max(done, self.pace(done))
                self._average()
                yield self._log(record)
                last = done == self.total
                stop = not last and should_stop()
                evaluating = last or done % config.eval_every == 0
                if evaluating:
                    yield self._log(self._evaluate(workers))
                save = done == self.total or stop or done % config.save_every == 0
                if save and not evaluating:
                    # finite parameters are not enough: the next loss of a model that is diverging may not be finite
                    require_finite(done, next_loss=self._next_loss())
                if save:
                    save_state(self.folder, self.model, self.optimizer, self.progress, self.mean)
                if stop:
                    return
            if self.stopped_early:
                best_step = self.progress["best_step"]
                notice(f"no better loss since step {best_step}: stopped early; the model of step {best_step} is kept")
            most, best = config.final_eval_tokens, self.best()
            if most is None:
                most = affordable_tokens(best.size)
            found = evaluate(best, self.val_data, most, workers.map, self.on_evaluating, should_stop)
            if found is None:
                return
            self.evaluation = found
            more = {} if found.whole else {"val_stderr": found.stderr, "val_tokens": found.tokens}
            if averaged := self.progress["best_averaged"]:
                more["averaged"] = averaged
            step = self.progress["best_step"]
            yield self._log({"step": step, "val_loss": found.loss, "whole": found.whole, **more})

    @property
    def n_trained(self) -> int:
        """The number of parameters that are trained: of the model or of its adapters, without those that are frozen."""
        return sum(self.optimizer.params[name].size for name in self.optimizer.trained)

    def best(self) -> Model:
        """Return the best model by validation loss so far; before the first evaluation, the untrained one.

        If it is the model as it is now, that model itself is returned, and changes as training goes on. Otherwise it is
        read from the folder, once.
        """
        if self.progress["best_step"] == self.progress["step"] and not self.progress["best_averaged"]:
            return self.model
        if self._best is None:
            self._best = self.model.load_pretrained(self.folder)
        return self._best

    def _begin(self, resume: bool) -> None:
        if resume:
            self.progress |= load_state(self.folder, self.model, self.optimizer, self.mean)
            step, most = self.progress["step"], self.config.max_steps
            if step > most:
                raise ValueError(f"the run is already at step {step}, beyond max_steps={most}: give a larger max_steps")
            cut_metrics(self.folder, step)
        else:
            self.model.save_pretrained(self.folder)
            save_state(self.folder, self.model, self.optimizer, self.progress, self.mean)
        self._merge()

    def _evaluate_first(self, workers: Workers) -> Iterator[Record]:
        """Evaluate a model that has learned before, before its first step, and yield the record."""
        if self.trained and self.progress["best_val_loss"] is None and not self.progress["step"]:
            yield self._log(self._evaluate(workers))
            save_state(self.folder, self.model, self.optimizer, self.progress, self.mean)

    def _log(self, record: Record) -> Record:
        append_metrics(self.folder, record)
        return record

    def _end_if_out_of_patience(self) -> None:
        step = self.progress["step"]
        if 0 < self.config.patience <= self.progress["waited"] and step < self.total:
            self.total, self.stopped_early = step, True

    def _evaluate(self, workers: Workers) -> Record:
        """Evaluate, keep the model if it is the best, end the run if patience has run out, and return the record."""
        record = self._losses(workers)
        self._keep_if_best(record)
        self._end_if_out_of_patience()
        return record | ({"stopped_early": True} if self.stopped_early else {})

    def _losses(self, workers: Workers) -> Record:
        """Return the validation losses of the weights and of their mean, if there is one."""
        step, loss = self.progress["step"], self._validation_loss(workers)
        if self.mean is None or self.mean.count < 2:
            return {"step": step, "val_loss": loss}
        with self._averaged():
            mean_loss = self._validation_loss(workers)
        losses = {"val_loss": min(loss, mean_loss), "last_val_loss": loss, "mean_val_loss": mean_loss}
        return {"step": step, **losses, "averaged": self.mean.count}

    @quietly
    def _validation_loss(self, workers: Workers) -> float:
        loss = estimate_loss(self.model, self.val_data, self.config, workers.map)
        require_finite(self.progress["step"], validation_loss=loss)
        return loss

    def _keep_if_best(self, found: Record) -> None:
        loss, best = found["val_loss"], self.progress["best_val_loss"]
        if best is not None and not loss < best:
            self.progress["waited"] += int(found["step"] > self.patient_until)
            return
        averaged = found["averaged"] if loss < found.get("last_val_loss", loss) else 0
        self.progress |= {"best_step": found["step"], "best_val_loss": loss, "best_averaged": averaged, "waited": 0}
        self._best = None
        with self._averaged() if averaged else nullcontext():
            self.model.save_pretrained(self.folder)
            self.on_best()

    def _average(self) -> None:
        """Take the weights into their mean if the step is one of the last ones that are averaged."""
        if self.mean is None:
            return
        if self.total - self.progress["step"] < self.config.average * self.total:
            self.mean.add()
        else:  # the run has become longer since it seemed to come to its end
            self.mean.count = 0

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Let the model have the mean of its weights for a while."""
        assert self.mean is not None
        try:
            with self.mean.in_place():
                self._merge()
                yield
        finally:
            self._merge()

    def _merge(self) -> None:
        if self.adapters is not None:
            self.adapters.merge_into(self.model)

    @quietly
    def _next_loss(self) -> float:
        return self.model.loss(self.train_data.first())


def make_optimizer(model: Model, config: TrainConfig, adapters: Adapters | None) -> Optimizer:
    """Return the optimizer that the configuration names. Raises ValueError for one that cannot train adapters."""
    if adapters is not None and config.optimizer != "adamw":
        raise ValueError(f"optimizer={config.optimizer!r} is for whole models: adapters are trained by adamw")
    ops = get_ops(config.ops)
    settings = (config.beta1, config.beta2, config.adam_epsilon, config.weight_decay, ops.adamw_update)
    params = model.params if adapters is None else adapters.params
    frozen = params.keys() - trained_names(params, config.trainable)
    if config.optimizer == "muon":
        return Muon(params, model.matrices, *settings, without=frozen, update_matrices=ops.muon_update)
    return AdamW(params, *settings, without=frozen)


def trained_names(names: Collection[str], trainable: str) -> set[str]:
    """Return the names of the parameters to train. Raises ValueError for a pattern that fits none."""
    try:
        return select(names, trainable)
    except ValueError as error:
        raise ValueError(f"trainable={trainable!r}: {error}") from None
