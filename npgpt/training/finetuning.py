"""Fine-tuning on prompts and completions: a run on packed examples that starts from a trained model."""

import dataclasses
import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.config import GPTConfig, TrainConfig, settle
from npgpt.data.examples import Example, ExamplesSource, pack_examples
from npgpt.data.packing import Packed
from npgpt.data.templates import AS_GIVEN, Template, about_chat_template, parse_template
from npgpt.hub.folders import find_folder, recorded
from npgpt.hub.tensors import require_run
from npgpt.models.base import Model, set_end
from npgpt.models.lora import Adapters, save_adapter
from npgpt.models.registry import open_model, refuse_generator, require_trainable
from npgpt.support.files import read_sealed_json
from npgpt.support.lock import locked
from npgpt.support.notices import notice
from npgpt.tokenizer import Tokenizer
from npgpt.training.checkpoint import refuse_existing, say_if_unevaluated
from npgpt.training.compute import require_compute
from npgpt.training.loop import Trainer
from npgpt.training.memory import require_memory
from npgpt.training.recipes import FINETUNE
from npgpt.training.run import (
    Run,
    open_tokenizer,
    read_saved,
    require_effect_of_schedule,
    require_out,
    saved_names,
    saved_split,
    say_what_adapts,
)

# what must not change when a run is resumed: (part of train.json, key, error message)
FIXED = (
    ("data", "template", "the template cannot change with --resume"),
    ("data", "sha256", "the examples are not those that the run was trained on"),
    ("data", "tokenizer", "the model's tokenizer is not the one that the run was trained with"),
    ("finetune", "base_sha256", "the model to begin with is not the one that the run began with"),
    ("finetune", "lora", "--lora cannot change with --resume"),
    ("finetune", "lora_alpha", "--lora-alpha cannot change with --resume"),
    ("finetune", "in_order", "--in-order cannot be added with --resume"),
    ("train", "dtype", "--dtype cannot change with --resume"),
    ("train", "optimizer", "--optimizer cannot change with --resume"),
    ("train", "trainable", "--trainable cannot change with --resume"),
    ("train", "end_token", "--end-token cannot change with --resume"),
    ("train", "seed", "--seed cannot change with --resume: it decides which examples are drawn, and which validate"),
)


@dataclasses.dataclass(frozen=True)
class TuningPlan:
    """What to learn, from which model, where and how. It is settled before the model is opened.

    how    the part `finetune` of train.json
    saved  train.json of the run to resume; None for a new run
    named  the settings that are given
    """

    base: str
    folder: Path
    source: ExamplesSource
    config: TrainConfig
    how: dict[str, Any]
    saved: dict[str, Any] | None
    named: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """A run, its validation examples, and some counts to report.

    n_trained, n_examples  the parameters that change, and the examples to train on
    times                  how often each example will be used
    """

    run: Run
    val_examples: list[Example]
    n_trained: int
    n_examples: int
    times: float


def plan_finetuning(
    base: str, data: Sequence[str], out: str | None, how: dict[str, Any], given: dict[str, Any], resume: bool = False
) -> TuningPlan:
    """Settle the settings, and read the examples.

    base   the run folder of the model to begin with
    how    skip_long, in_order, lora, lora_alpha, encoding, and the file of a template; None or False for what is not
           given
    given  fields of TrainConfig

    Raises FileNotFoundError or ValueError for settings that are not possible, or not possible together.
    """
    folder = require_out(out, resume, "FOLDER")
    if not (data or resume):
        raise ValueError("--data is missing: give a file of JSON lines with prompt and completion")
    if how["lora_alpha"] is not None and how["lora"] is None and not resume:
        raise ValueError(
            f"--lora-alpha {how['lora_alpha']} has no effect without --lora R: add it, or leave --lora-alpha out"
        )
    saved = read_saved(folder) if resume else None
    before = read_finetune(folder, saved) if saved else {}
    config = TrainConfig(**settle(given, FINETUNE, saved["train"] if saved else None))
    require_effect_of_schedule(config, given)
    say_what_adapts(config, saved, given)
    files = data or (saved_names(folder, saved) if saved else [])
    how = {name: before.get(name) if value is None or value is False else value for name, value in how.items()}
    flags = {name: bool(how[name]) for name in ("skip_long", "in_order")}
    template = template_of(how.pop("template", None), saved)
    source = ExamplesSource(files, how.get("encoding") or "utf-8", template)
    return TuningPlan(base, folder, source, config, how | flags, saved, frozenset(given))


def template_of(file: str | None, saved: dict[str, Any] | None) -> Template | None:
    """Return the template that is given, or that of the run to resume; None for that of the examples' kind."""
    if file is not None:
        return Template.read(file)
    return parse_template(saved["data"]["template"]) if saved else None


def read_finetune(folder: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """Return the part of train.json about the fine-tuning. Raises ValueError for a run of another kind."""
    before = saved.get("finetune")
    if not isinstance(before, dict):
        command = "train-generator RUN" if "generator" in saved else "train"
        raise ValueError(
            f"{folder} is not a run of npgpt finetune: continue it with npgpt {command} --resume --out {folder}"
        )
    for name, types in ("lora", (int,)), ("lora_alpha", (int, float)), ("skip_long", (bool,)), ("in_order", (bool,)):
        value = before.get(name)
        if value is not None and type(value) not in types:
            raise ValueError(f"{folder / 'train.json'}: finetune.{name} is {value!r}, not of type {types[-1].__name__}")
    if not saved["data"]["files"]:
        raise ValueError(f"{folder / 'train.json'}: data.files is empty")
    saved["data"].setdefault("template", AS_GIVEN.text)  # which runs of earlier versions do not say
    if not isinstance(saved["data"]["template"], str):
        raise ValueError(f"{folder / 'train.json'}: data.template is {saved['data']['template']!r}, not a string")
    return before


def start_finetuning(plan: TuningPlan) -> Tuning:
    """Lock the folder, open the model, pack the examples, and return the run. Nothing is written yet.

    Raises FileNotFoundError or ValueError if the model and the examples do not fit together, if the folder already
    holds a run, or if a resumed run would become another run.
    """
    with ExitStack() as lock:
        lock.enter_context(locked(plan.folder))
        return _start(plan, lock)


def _start(plan: TuningPlan, lock: ExitStack) -> Tuning:
    """Do what start_finetuning says. The run takes the lock over."""
    config, source, folder = plan.config, plan.source, plan.folder
    require_compute(config)
    begins = find_folder(plan.base)
    model, tokenizer = open_base(begins, config)
    refuse_generator(model, plan.base, "npgpt train-generator trains one from a GPT, with --data for other examples")
    n_positions = model.config.n_positions
    base = {
        "base": recorded(plan.base),
        "base_sha256": hashlib.sha256(model.params.flat.tobytes()).hexdigest(),
    }
    if plan.how["skip_long"]:
        source.skip_long(tokenizer, n_positions)
    settings = {
        "data": source.settings() | {"tokenizer": tokenizer.fingerprint()},
        "finetune": base | plan.how,
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(config),
    }
    if plan.saved is None:
        say_if_taught_otherwise(begins, source.template)
    else:
        require_run(folder / "model.safetensors")
        require_same(folder, plan.saved, settings)
    parts = packed(plan, tokenizer, n_positions)
    if plan.saved is None:
        refuse_existing(folder)
    adapters, split = None, saved_split(plan.saved, config, plan.named, model)
    if plan.how["lora"] is not None:
        adapters = Adapters(model, plan.how["lora"], plan.how["lora_alpha"], seed=config.seed)
    if isinstance(model.config, GPTConfig):
        made = model.params.flat.nbytes + sum(base.nbytes for base in (adapters.base.values() if adapters else ()))
        require_memory(model.config, config, plan.how["lora"], made, split)
    trainer = Trainer(model, parts.train_data, parts.val_data, config, folder, adapters, split=split)
    if adapters is not None:
        trainer.on_best = lambda: save_adapter(folder / "adapter", adapters, base["base"], base["base_sha256"])
    return tuning_of(Run(trainer, tokenizer, settings, source, plan.saved, lock=lock.pop_all()), parts)


class Parts(NamedTuple):
    """The examples of a run to train on and to validate with, and each of them in rows."""

    train: list[Example]
    val: list[Example]
    train_data: Packed
    val_data: Packed


def packed(plan: TuningPlan, tokenizer: Tokenizer, n_positions: int) -> Parts:
    """Divide the examples of a plan, and pack them into rows. Raises ValueError for one that is too long."""
    in_order, source = plan.how["in_order"], plan.source
    train, val = source.split(plan.config.seed, in_order)
    train_data = pack_examples(train, tokenizer, n_positions, in_order, source.template)
    return Parts(train, val, train_data, pack_examples(val, tokenizer, n_positions, template=source.template))


def tuning_of(run: Run, parts: Parts) -> Tuning:
    """Return a run with its counts."""
    config = run.config
    times = config.max_steps * config.batch_size * config.gradient_accumulation_steps / len(parts.train_data.ids)
    return Tuning(run, parts.val, run.trainer.n_trained, len(parts.train), times)


def open_base(name: Path, config: TrainConfig) -> tuple[Model, Tokenizer]:
    """Return the model of a run folder and its tokenizer, which must have an end token."""
    model = open_model(name, config.dtype, config.ops)
    require_trainable(model, name)
    tokenizer = open_tokenizer(name, model, config.end_token)
    say_if_unevaluated(name)
    if line := about_chat_template(name):
        notice(line)
    set_end(model, tokenizer.require_end_id())
    return model, tokenizer


def say_if_taught_otherwise(base: Path, template: Template) -> None:
    """Give notice of a model that has learned examples by another template."""
    path = base / "train.json"
    data = read_sealed_json(path).get("data") if path.is_file() else None
    before = data.get("template") if isinstance(data, dict) else None
    if before not in (None, template.text):
        notice(f"{base} has learned examples as {before!r:.80}, and now learns them as {template.text!r:.80}")


def require_same(folder: Path, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise ValueError for a change that would make the run another run."""
    if what := first_change(saved, settings, FIXED):
        raise ValueError(
            f"{folder}: {what}; start a new run, as npgpt finetune {folder} --data LINES --out NEW, which begins with "
            "this model"
        )


def first_change(saved: dict[str, Any], settings: dict[str, Any], fixed: Sequence[tuple[str, str, str]]) -> str | None:
    """Return what cannot change, of the first of some settings that is no longer as saved; None if none has changed.

    fixed  (part of train.json, key, error message)
    """
    return next((what for part, key, what in fixed if saved[part].get(key) != settings[part][key]), None)
