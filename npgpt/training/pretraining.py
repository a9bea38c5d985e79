"""Starting or resuming a training from scratch: what `npgpt train` and `npgpt.train` share.

plan = plan_training({"data": ["poems.txt"], "out": "runs/poems", "max_steps": 300})
run = start_training(plan)
for record in run.records(): ...
"""

import dataclasses
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from npgpt.config import GPTConfig, TextConfig, TrainConfig
from npgpt.data.batch import Dataset, Text
from npgpt.data.source import Source, TalesSource, TextSource, open_source
from npgpt.data.splitting import ContextError
from npgpt.data.text import require_text
from npgpt.hub.peft import first_with, folders_of
from npgpt.hub.tensors import require_run
from npgpt.models.base import Model, end_ids
from npgpt.models.registry import new_model, open_model, require_trainable, shapes_of_model
from npgpt.support.fields import split_fields
from npgpt.support.lock import locked
from npgpt.support.notices import notice
from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.stream import AS_IT_IS
from npgpt.training.checkpoint import refuse_existing
from npgpt.training.choosing import Choice
from npgpt.training.compute import require_compute
from npgpt.training.further import (
    Start,
    model_fields,
    model_from,
    open_start,
    recipe_from,
    require_same_start,
    settled_from,
    tokenizer_from,
)
from npgpt.training.loop import Trainer
from npgpt.training.memory import require_memory, require_room_for_weights
from npgpt.training.minutes import choice_for, keep_pace, more_minutes, tokenizer_for
from npgpt.training.recipes import merge, minutes_of, recipe_for
from npgpt.training.run import (
    Run,
    read_saved,
    require_effect_of_schedule,
    require_model_of,
    require_out,
    saved_names,
    saved_split,
    say_what_adapts,
)
from npgpt.training.warmstart import AfterTales, after_tales, keep_share, with_tales

DEFAULT_DATA = "tales:en"
OF_THE_COMMAND = ("data", "out", "recipe", "from", "vocab")  # settings that are no fields of a config
# how the texts of a run were read before train.json said so
OLD_READING = dataclasses.asdict(AS_IT_IS)


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What to train, where and how. It is settled before any text is read.

    model     the fields of GPTConfig that are known before the tokenizer is
    reading   how text files are read
    saved     train.json of the run to resume; None for a new run
    given     the settings given by flags or a file, not by a recipe or a default
    start     the model to go on from; None for a new one, and for a run that is resumed
    began     the time, of time.monotonic, from which minutes count

    If config.minutes is given, the rest of config and model is settled once the text is read.
    """

    folder: Path
    data: list[str]
    config: TrainConfig
    model: dict[str, Any]
    reading: TextConfig
    saved: dict[str, Any] | None
    given: dict[str, Any]
    began: float = dataclasses.field(default_factory=time.monotonic)
    start: Start | None = None

    @property
    def named(self) -> frozenset[str]:
        """The names of the settings that are given."""
        return frozenset(self.given)


def plan_training(
    flags: Mapping[str, Any], file: Mapping[str, Any] | None = None, resume: bool = False
) -> TrainingPlan:
    """Settle the settings: a flag beats the --config file, which beats the settings saved with a resumed run.

    flags  data (a list of names), out, preset, recipe, dropout, from, vocab, and fields of TrainConfig, GPTConfig and
           TextConfig; file likewise

    Raises FileNotFoundError or ValueError for settings that are not possible, or not possible together.
    """
    given = {**(file or {}), **flags}
    folder = require_out(given.get("out"), resume, "RUN")
    if resume:
        require_none_of_new_models(given)
    saved = read_saved(folder) if resume else None
    if saved:
        require_kind(folder, saved)
    reading = saved["data"].get("reading", OLD_READING) if saved else {}
    before = {**saved["model"], **saved["train"], **reading} if saved else {}
    start = None if resume else start_of(given)
    data = given.get("data") or (saved_names(folder, saved) if saved else None) or [DEFAULT_DATA]
    settings = merge(flags, file or {}, before, suiting(data, start, given, resume))
    settings["minutes"] = minutes_of(given, before)
    model, train, texts, _ = split_fields(settings, GPTConfig, TrainConfig, TextConfig, also=OF_THE_COMMAND)
    if saved:
        require_same(folder, saved["model"], model)
        require_same(folder, reading, texts)
        require_same_start(folder, saved, given)
    GPTConfig(**model)  # raises for wrong sizes before any file is read
    config = TrainConfig(**train)
    if saved and config.minutes is not None:
        config = more_minutes(folder, config, given)
    if start is None:  # the vocabulary is not known yet, nor whether the text is long enough for the context
        require_room_for_weights(GPTConfig(**{"vocab_size": 1} | model | {"n_positions": 1}), config)
    require_effect_of_schedule(config, given)
    say_what_adapts(config, saved, given)
    return TrainingPlan(folder, data, config, model, TextConfig(**texts), saved, given, start=start)


def suiting(data: list[str], start: Start | None, given: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """Return the settings that suit a new run on some data, or from a trained model; none for one that is resumed."""
    if resume:
        return {}
    return recipe_for(data) if start is None else recipe_from(start, given)


def start_of(given: Mapping[str, Any]) -> Start | None:
    """Open the model to go on from, if one is given."""
    if "from" in given:
        return open_start(given["from"], given)
    if "vocab" in given:
        raise ValueError(f"--vocab {given['vocab']} has no effect without --from: add it, or leave --vocab out")
    return None


def require_none_of_new_models(given: Mapping[str, Any]) -> None:
    """Raise ValueError for what settles the sizes of a new model, if a run is resumed."""
    for what in ("preset", "recipe"):
        if what in given:
            raise ValueError(
                f"--{what} {given[what]} sets the sizes of a new model: a resumed run has its own, so leave "
                f"--{what} out"
            )


def reading_of(folder: Path, base: str | None = None) -> dict[str, Any]:
    """Return how the text files of a run were read, as fields of TextConfig; {} for a model that learned from none."""
    try:
        saved = read_saved(first_with(folders_of(folder, base), "train.json"))
    except (FileNotFoundError, ValueError):  # a model without a run
        return {}
    data = saved["data"]
    # a prepared folder, tales and examples have no reading either, and a run of today says whether it has documents
    old = {} if "finetune" in saved or data.keys() & {"documents", "examples"} else OLD_READING
    return split_fields(data.get("reading", old), TextConfig)[0]


def require_kind(folder: Path, saved: Mapping[str, Any]) -> None:
    """Raise ValueError for a run of npgpt finetune, npgpt distill or npgpt train-generator."""
    for part, command in (
        ("finetune", "finetune RUN"),
        ("distill", "distill TEACHER"),
        ("generator", "train-generator RUN"),
    ):
        if part in saved:
            name = command.split()[0]
            raise ValueError(
                f"{folder} is a run of npgpt {name}: continue it with npgpt {command} --resume --out {folder}"
            )


def require_same(folder: Path, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that would make the model or the text of the run to resume another one."""
    for name, value in given.items():
        if value != saved.get(name, value):
            raise ValueError(f"{name} is {saved[name]!r} in {folder} and cannot become {value!r} with --resume")


def start_training(plan: TrainingPlan) -> Run:
    """Lock the folder, read the data, make or open tokenizer and model, and return the run. Nothing is written yet.

    Raises FileNotFoundError or ValueError for data that cannot be read or is too short, a folder that holds a run
    already, and, when a run is resumed, for a change that would make it another run.
    """
    with ExitStack() as lock:
        lock.enter_context(locked(plan.folder))
        return _start(plan, lock)


def _start(plan: TrainingPlan, lock: ExitStack) -> Run:
    """Do what start_training says. The run takes the lock over."""
    require_compute(plan.config)
    source = open_source(plan.data, plan.config.seed, plan.reading)
    require_effect(source, plan)
    plan = dataclasses.replace(plan, config=with_tales(source, with_tokenizer_of(source, plan)))
    split = choice = None
    if plan.saved is None:
        refuse_existing(plan.folder)
        plan, choice, model, tokenizer, train_data, val_data = beginning(plan, source)
    else:
        gpt_config = GPTConfig(**plan.model)
        split = saved_split(plan.saved, plan.config, plan.named, shapes_of_model(gpt_config))
        require_memory(gpt_config, plan.config, split=split)
        model = reopened(plan, plan.config, source)
        tokenizer = known_tokenizer(plan, model)
        train_data, val_data = source.split(tokenizer, model.config.n_positions, plan.config)
    config, began_with = plan.config, plan.start.record if plan.start else (plan.saved or {}).get("from")
    documents = config.pack or (isinstance(train_data, Text) and train_data.has(tokenizer.end_id))
    data = source.settings() | {"tokenizer": tokenizer.fingerprint(), "documents": documents}
    if config.pretrain is not None:
        train_data = after_tales(train_data, tokenizer, model.config.n_positions, config, plan.saved)
        data["pretrain_steps"] = train_data.steps
    settings = {
        "data": data,
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(config),
    } | ({"from": began_with} if began_with else {})
    trainer = Trainer(model, train_data, val_data, config, plan.folder, split=split)
    trainer.trained = began_with is not None
    if config.minutes is not None:
        keep_pace(trainer, plan.began, plan.given, source, choice)
    if isinstance(train_data, AfterTales):
        keep_share(trainer, train_data)
    return Run(trainer, tokenizer, settings, source, plan.saved, lock=lock.pop_all(), choice=choice)


def beginning(
    plan: TrainingPlan, source: Source
) -> tuple[TrainingPlan, Choice | None, Model, Tokenizer, Dataset, Dataset]:
    """Return what a new run begins with: its plan, with all settings, and what was chosen if it has minutes; a model,
    its tokenizer, and the data for training and validation."""
    choice, data = None, None
    plan, tokenizer = plan_and_tokenizer(plan, source)
    if plan.config.minutes is not None:
        plan, choice, data = chosen(plan, source, tokenizer)
    gpt_config = config_for(plan, tokenizer)
    if isinstance(source, TalesSource):  # as many are made as the run will use; the context becomes no shorter
        require_memory(gpt_config, plan.config)
    n_positions, train_data, val_data = data or fitting(plan, source, tokenizer, plan.config)
    gpt_config = dataclasses.replace(gpt_config, n_positions=n_positions)
    made = plan.start.model.params.flat.nbytes if plan.start else 0
    require_memory(gpt_config, plan.config, made=made)
    config = plan.config
    if plan.start is not None:
        model = model_from(plan.start, gpt_config, tokenizer)
    else:
        model = new_model(gpt_config, config.seed, config.dtype, config.ops, config.init)
    return plan, choice, model, tokenizer, train_data, val_data


def plan_and_tokenizer(plan: TrainingPlan, source: Source) -> tuple[TrainingPlan, Tokenizer]:
    """Return the tokenizer of a new run, and its plan with what follows from that."""
    config, start = plan.config, plan.start
    if start is not None:
        tokenizer = tokenizer_from(start, source, plan.given.get("vocab"), config.end_token)
        fields = model_fields(start, tokenizer, config.end_token)
        return dataclasses.replace(plan, model=plan.model | fields), tokenizer
    if config.minutes is not None and source.tokenizer_name is None:
        name = tokenizer_for(source, config, plan.given)
        plan = dataclasses.replace(plan, config=dataclasses.replace(config, tokenizer=name))
    tokenizer = source.make_tokenizer(plan.config.tokenizer, config.end_token)
    if config.end_token is None:
        tokenizer = tokenizer.ending_with_id(end_ids(config_for(plan, tokenizer)))
    return plan, tokenizer


def chosen(
    plan: TrainingPlan, source: Source, tokenizer: Tokenizer
) -> tuple[TrainingPlan, Choice, tuple[int, Dataset, Dataset] | None]:
    """Return a plan with the settings that suit its minutes, what was chosen for them, and the data with its context;
    None for tales, which are made when the number of steps is known."""
    vocab_size, given = config_for(plan, tokenizer).vocab_size, plan.given
    data: tuple[int, Dataset, Dataset] | None = None
    if not isinstance(source, TalesSource):
        # a running text is read once, and its context settled afterwards; documents are packed into a known one
        running = not plan.config.pack and "n_positions" not in plan.named and plan.start is None
        known = dataclasses.replace(plan, model=plan.model | {"n_positions": 1}) if running else plan
        data = fitting(known, source, tokenizer, plan.config)
        given = given if running else {**given, "n_positions": data[0]}
    settled = None if plan.start is None else settled_from(plan.model, plan.config)
    choice = choice_for(source, data and data[1:], vocab_size, plan.config, given, plan.began, settled)
    model = {field.name: getattr(choice.model, field.name) for field in dataclasses.fields(GPTConfig)}
    for name in ("vocab_size", "bos_token_id", "eos_token_id"):  # the tokenizer's, unless they are given
        del model[name]
    if data is not None:
        n = choice.model.n_positions
        train, val = (dataclasses.replace(d, n_positions=n) if isinstance(d, Text) else d for d in data[1:])
        data = n, train, val
    return dataclasses.replace(plan, config=choice.train, model=plan.model | model), choice, data


def require_effect(source: Source, plan: TrainingPlan) -> None:
    """Raise ValueError for a setting about text files if there are none to read."""
    if not isinstance(source, TextSource):
        require_text(plan.named, plan.data[0])
    packed = plan.config.pack or isinstance(source, TalesSource)
    if packed and "windows" in plan.named and plan.config.windows == "shuffled":
        raise ValueError(
            "--windows shuffled has no effect on packed rows, which are shuffled in every epoch: leave it out"
        )
    if plan.config.pack and isinstance(source, TalesSource):
        raise ValueError("--pack has no effect on tales, which are always packed: leave it out")


def with_tokenizer_of(source: Source, plan: TrainingPlan) -> TrainConfig:
    """Return the settings, with the name of the source's tokenizer if it comes with one."""
    if source.tokenizer_name is None:
        return plan.config
    if "tokenizer" in plan.named:
        name = plan.config.tokenizer
        raise ValueError(f"--tokenizer {name}: {plan.data[0]} is tokenized already; leave --tokenizer out")
    name = (plan.saved or {}).get("train", {}).get("tokenizer", source.tokenizer_name)
    return dataclasses.replace(plan.config, tokenizer=name)


def config_for(plan: TrainingPlan, tokenizer: Tokenizer) -> GPTConfig:
    """Return the configuration of a new model. Raises ValueError if its vocabulary is too small for the tokenizer."""
    end = tokenizer.end_id  # one token for the beginning and the end of a text, as in GPT-2's config
    given = {"vocab_size": tokenizer.vocab_size, "bos_token_id": end, "eos_token_id": end}
    gpt_config = GPTConfig(**given | plan.model)
    if gpt_config.vocab_size < tokenizer.vocab_size:
        raise ValueError(f"vocab_size={gpt_config.vocab_size} is smaller than the tokenizer's {tokenizer.vocab_size}")
    return gpt_config


def fitting(
    plan: TrainingPlan, source: Source, tokenizer: Tokenizer, config: TrainConfig
) -> tuple[int, Dataset, Dataset]:
    """Return the context of a new model, and the data for training and validation.

    If n_positions is not given, and its default does not suit the data, the nearest context that does is returned:
    a shorter one for a short text, a longer one for long tales.
    """
    n_positions = plan.model["n_positions"]
    while True:
        try:
            return n_positions, *source.split(tokenizer, n_positions, config)
        except ContextError as error:
            if "n_positions" in plan.named or error.fits is None:
                raise
            notice(f"n_positions is {error.fits} instead of {n_positions}, to suit the text")
            n_positions = error.fits


def reopened(plan: TrainingPlan, config: TrainConfig, source: Source) -> Model:
    """Open the model of the run to resume. Raises ValueError for a change that would make it another run."""
    folder, saved = plan.folder, plan.saved or {}
    model = open_model(folder, config.dtype, config.ops)
    require_trainable(model, folder)
    require_run(folder / "model.safetensors")
    require_model_of(folder, model, saved)
    for name in ("init", "tokenizer", "end_token", "dtype", "optimizer", "trainable", "pack", "pretrain"):
        before = saved["train"].get(name, False if name == "pack" else None)  # it is younger than the others
        if before != getattr(config, name):
            raise ValueError(f"{name} is {before!r} in {folder} and cannot change with --resume")
    if source.digest() != saved["data"].get("sha256"):
        raise ValueError(
            f"the text is not the one that {folder} was trained on, and --resume only continues a run; on another "
            f"text, start a new run from its weights: npgpt train --from {folder} --data FILE --out NEW; "
            f"or teach this model examples: npgpt finetune {folder} --data LINES --out NEW"
        )
    return model


def known_tokenizer(plan: TrainingPlan, model: Model) -> Tokenizer:
    """Open the tokenizer of the run to resume. Raises ValueError if it is not the one that the run began with."""
    tokenizer = Tokenizer.from_pretrained(plan.folder)
    known = (plan.saved or {})["data"].get("tokenizer")
    if tokenizer.fingerprint() != known:
        raise ValueError(f"{plan.folder}: tokenizer.json is not the tokenizer that the run was trained with")
    return tokenizer.below(model.config.vocab_size)
