"""Distillation: a run that teaches a small GPT what a larger one knows, on the teacher's own data or on other."""

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPTConfig, TextConfig, TrainConfig, settle
from npgpt.data.batch import Batch, Dataset, Text
from npgpt.data.source import Source, TextSource, open_source
from npgpt.data.tales.corpus import langs_of
from npgpt.data.teaching import NAME, Taught, file_size, open_top, taught_rows, top_dtype, write_top
from npgpt.data.text import require_text
from npgpt.hub.folders import find_folder, recorded
from npgpt.hub.tensors import require_run
from npgpt.models import registry
from npgpt.models.base import Model
from npgpt.models.lora import checksum_of
from npgpt.models.registry import Distilled, Teaching, new_student, open_model, require_trainable, with_teacher
from npgpt.support.fields import split_fields
from npgpt.support.files import begin, remove_parts
from npgpt.support.lock import locked
from npgpt.support.notices import notice
from npgpt.tokenizer import Tokenizer
from npgpt.training.checkpoint import refuse_existing, say_if_unevaluated
from npgpt.training.compute import require_compute
from npgpt.training.further import Start, lacking_characters, recorded_name, tokenizer_from
from npgpt.training.further import in_words as characters_in_words
from npgpt.training.loop import Trainer
from npgpt.training.memory import in_bytes, require_memory
from npgpt.training.minutes import keep_pace, more_minutes
from npgpt.training.pretraining import reading_of
from npgpt.training.pretraining import require_same as require_as_before
from npgpt.training.recipes import DROPOUTS, recipe_for
from npgpt.training.run import (
    Run,
    open_tokenizer,
    read_saved,
    require_effect_of_schedule,
    require_model_of,
    require_out,
    saved_names,
    saved_split,
    say_what_adapts,
)
from npgpt.training.threads import Split, work_of
from npgpt.training.threads import settle as share_of_threads
from npgpt.training.workers import Workers

SIZES = ("n_layer", "n_embd", "n_head", *DROPOUTS)  # of a student, which are not always the teacher's
ROWS = 4  # that a teacher is asked about at once, on each thread
# what must not change when a run is resumed: (part of train.json, key, error message)
FIXED = (
    ("data", "sha256", "the text is not the one that the run was trained on"),
    ("data", "tokenizer", "the teacher's tokenizer is not the one that the run was trained with"),
    ("distill", "teacher_sha256", "the teacher is not the one that the run began with"),
    ("distill", "temperature", "--temperature cannot change with --resume"),
    ("distill", "ce", "--ce cannot change with --resume"),
    ("distill", "kl", "--kl cannot change with --resume"),
    ("distill", "cosine", "--cosine cannot change with --resume"),
    ("distill", "top", "--cache-logits cannot change with --resume"),
    ("train", "dtype", "--dtype cannot change with --resume"),
    ("train", "init", "--init cannot change with --resume"),
    ("train", "optimizer", "--optimizer cannot change with --resume"),
    ("train", "trainable", "--trainable cannot change with --resume"),
    ("train", "pack", "--pack cannot change with --resume"),
    ("train", "seed", "--seed cannot change with --resume: it decides which rows are drawn"),
)


@dataclasses.dataclass(frozen=True)
class DistillingPlan:
    """What to teach, by which teacher, where and how. It is settled before a model is opened.

    data      names, as of npgpt train
    sizes     what is given of the student's n_layer, n_embd, n_head and dropout
    teaching  the temperature, and the weights of the losses
    top       how many of the teacher's likeliest tokens are kept before the training; None asks it on the way
    saved     train.json of the run to resume; None for a new run
    given     the settings that are given
    began     the time, of time.monotonic, from which minutes count
    """

    teacher: str
    folder: Path
    data: list[str]
    config: TrainConfig
    reading: TextConfig
    sizes: dict[str, Any]
    teaching: Teaching
    top: int | None
    saved: dict[str, Any] | None
    given: dict[str, Any]
    began: float = dataclasses.field(default_factory=time.monotonic)


@dataclasses.dataclass(frozen=True)
class Distilling:
    """A run, its model, what the student begins with in words, and the rows that the teacher is asked about before."""

    run: Run
    model: Distilled
    begins: str
    taught: Taught | None
    key: bytes

    @property
    def file(self) -> Path:
        return self.run.folder / NAME

    def ask(self, k: int, progress: Callable[[int], object] = lambda done: None) -> None:
        """Have the teacher say which k tokens are the likeliest, if it has not done so: `to_ask` says of how much.

        Raises OSError or ValueError if they cannot be written; then none are.
        """
        taught, teacher = self.taught, self.model.teacher
        assert taught is not None
        if taught.top is None:
            config, dtype = teacher.config, top_dtype(teacher.config.vocab_size)
            begin(self.run.folder)
            remove_parts(self.run.folder, (NAME,))
            shape = (taught.n_rows, config.n_positions, k)
            with Workers(teacher, ROWS, split=Split(self.run.trainer.split.threads, 1)) as workers:

                def answer(batch: Batch) -> np.ndarray:
                    return self.model.answers(batch, k, dtype)

                def answered() -> Iterator[np.ndarray]:
                    done = 0
                    for part in workers.map(answer, taught.untaught(ROWS)):
                        yield part
                        progress(done := done + len(part))

                write_top(self.file, self.key, shape, dtype, answered())
            taught.top = open_top(self.file, self.key)

    def to_ask(self, k: int) -> int:
        """Return how many bytes the teacher's answers will have on disk; 0 if they are there.

        Raises ValueError for a file that is damaged, and where there is no room for them.
        """
        taught, config = self.taught, self.model.config
        if taught is None:
            return 0
        if self.file.exists():
            found = open_top(self.file, self.key)
            if found is not None and found.shape == (taught.n_rows, config.n_positions, k):
                taught.top = found
                return 0
            notice(f"{self.file} is of another teacher, another temperature or other rows: it is made again")
        size = file_size(taught.n_rows, config.n_positions, k, top_dtype(config.vocab_size))
        place = next(folder for folder in (self.run.folder, *self.run.folder.resolve().parents) if folder.exists())
        if size > (free := shutil.disk_usage(place).free):
            raise ValueError(
                f"--cache-logits {k}: {in_bytes(size)} are needed in {self.run.folder}, and {in_bytes(free)} are free: "
                "give a smaller number, fewer steps, or leave it out"
            )
        return size


def plan_distilling(teacher: str, flags: Mapping[str, Any], resume: bool = False) -> DistillingPlan:
    """Settle the settings: those that are given, then those of the run to resume or, of a new one, the teacher's own.

    flags  data (a list of names), out, n_layer, n_embd, n_head, dropout, temperature, ce, kl, cosine, cache_logits, and
           fields of TrainConfig and TextConfig

    Raises FileNotFoundError or ValueError for settings that are not possible, or not possible together.
    """
    given = dict(flags)
    folder = require_out(given.pop("out", None), resume, "STUDENT")
    saved = read_saved(folder) if resume else None
    before = require_distilled(folder, saved) if saved else {}
    named = find_folder(teacher)
    learned = learned_by(named)
    names = given.pop("data", None) or (saved_names(folder, saved) if saved else data_of(teacher, named, learned))
    sizes = sizes_of(given)
    if saved and sizes:
        raise ValueError(f"--{next(iter(sizes)).replace('_', '-')}: the sizes of {folder} cannot change with --resume")
    teaching, top = teaching_of(given, before)
    fields, texts, _ = split_fields(given, TrainConfig, TextConfig)
    own = saved["train"] if saved else {}
    config = TrainConfig(**settle(fields, own_recipe(names, learned) | {"tokenizer": recorded_name(teacher)}, own))
    require_effect_of_schedule(config, given)
    say_what_adapts(config, saved, given)
    if saved and config.minutes is not None and "max_steps" not in given:
        config = more_minutes(folder, config, given)
    reading = saved["data"].get("reading", {}) if saved else reading_of(named) if names == files_of(learned) else {}
    if saved:
        require_as_before(folder, reading, texts)
    return DistillingPlan(
        teacher, folder, names, config, TextConfig(**{**reading, **texts}), sizes, teaching, top, saved, given
    )


def sizes_of(given: dict[str, Any]) -> dict[str, Any]:
    """Take the sizes of the student out of what is given."""
    dropout = given.pop("dropout", None)
    sizes = {name: given.pop(name) for name in SIZES if name in given}
    return ({} if dropout is None else dict.fromkeys(DROPOUTS, dropout)) | sizes


def require_distilled(folder: Path, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of train.json about the distillation. Raises ValueError for a run of another kind."""
    before = saved.get("distill")
    if not isinstance(before, dict):
        raise ValueError(f"{folder} is not a run of npgpt distill: continue it with the command that began it")
    for name in ("temperature", "ce", "kl", "cosine"):
        if type(before.get(name)) not in (int, float):
            raise ValueError(f"{folder / 'train.json'}: distill.{name} is {before.get(name)!r}, not a number")
    if before.get("top") is not None and type(before["top"]) is not int:
        raise ValueError(f"{folder / 'train.json'}: distill.top is {before['top']!r}, not a number of tokens")
    return before


def learned_by(folder: Path) -> dict[str, Any] | None:
    """Return train.json of a teacher; None for a model of another library."""
    try:
        return read_saved(folder)
    except FileNotFoundError:
        return None


def files_of(learned: Mapping[str, Any] | None) -> list[str]:
    """Return the names of what a teacher learned."""
    return [] if learned is None else list(learned["data"]["files"])


def data_of(teacher: str, folder: Path, learned: dict[str, Any] | None) -> list[str]:
    """Return what a teacher learned. Raises ValueError or FileNotFoundError if that is not known, or not there."""
    way = "give the text to teach it on with --data FILE, or --data tales"
    if learned is None:
        raise ValueError(f"{teacher} does not say what it has learned, as a model of another library: {way}")
    if "finetune" in learned:
        raise ValueError(
            f"{teacher} has learned prompts and completions: distil the model that it began with, and fine-tune the "
            f"student; or {way}"
        )
    names = saved_names(folder, learned)
    for name in names:
        if langs_of(name) is None and not Path(name).exists():
            raise FileNotFoundError(f"{name}, which {teacher} was trained on, is no longer there: {way}")
    return names


def teaching_of(given: dict[str, Any], before: Mapping[str, Any]) -> tuple[Teaching, int | None]:
    """Take the settings of the lesson out of what is given, or out of train.json.

    Raises ValueError for what is not possible.
    """
    top = given.pop("cache_logits", None)
    top = before.get("top") if top is None else top
    if top is not None and top < 1:
        raise ValueError(f"--cache-logits {top} must be at least 1")
    values = Teaching()._asdict() | ({"cosine": 0.0} if top is not None else {})
    values |= {name: before[name] for name in values if name in before}
    values |= {name: given.pop(name) for name in Teaching._fields if name in given}
    for name, value in values.items():
        if not math.isfinite(value) or value < 0 or (name == "temperature" and value == 0):
            raise ValueError(f"--{name} {value:g} must be {'above 0' if name == 'temperature' else 'at least 0'}")
    if top is not None and values["cosine"]:
        raise ValueError(
            f"--cosine {values['cosine']:g} compares hidden states, which --cache-logits does not keep: leave one out"
        )
    teaching = Teaching(**values)
    if not teaching.ce + teaching.kl + teaching.cosine:
        raise ValueError("--ce, --kl and --cosine are all 0: nothing would be learned")
    return teaching, top


def own_recipe(data: Sequence[str], learned: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings that suit a student: those by which the teacher learned, or those that suit the data."""
    if learned is not None and "finetune" not in learned:
        return {**learned["train"], "pretrain": None, "minutes": None, "end_token": None}
    train, *_ = split_fields(recipe_for(data), TrainConfig, GPTConfig)
    return train


def start_distilling(plan: DistillingPlan) -> Distilling:
    """Lock the folder, open teacher and data, make or open the student, and return the run. Nothing is written yet.

    Raises FileNotFoundError or ValueError if teacher, student and data do not fit together, if the folder already holds
    a run, or if a resumed run would become another run.
    """
    with ExitStack() as lock:
        lock.enter_context(locked(plan.folder))
        return _start(plan, lock)


def _start(plan: DistillingPlan, lock: ExitStack) -> Distilling:
    """Do what start_distilling says. The run takes the lock over."""
    config, folder = plan.config, plan.folder
    require_compute(config)
    teacher, tokenizer = open_teacher(plan)
    source = open_source(plan.data, config.seed, plan.reading)
    require_effect(source, plan)
    tokenizer = fitting_tokenizer(plan, teacher, tokenizer, source)
    if plan.saved is None:
        refuse_existing(folder)
        student, begins = new_student(teacher, config.seed, config.init, "init" in plan.given, **plan.sizes)
    else:
        student, begins = reopened(plan), "it goes on"
    model = with_teacher(student, teacher, plan.teaching, config.seed)
    n_positions = model.config.n_positions
    train_data, val_data = source.split(tokenizer, n_positions, config)
    documents = config.pack or (isinstance(train_data, Text) and train_data.has(tokenizer.end_id))
    sha256 = checksum_of(teacher)
    how = {"teacher": recorded(plan.teacher), "teacher_sha256": sha256, **plan.teaching._asdict(), "top": plan.top}
    settings = {
        "data": source.settings() | {"tokenizer": tokenizer.fingerprint(), "documents": documents},
        "distill": how,
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(config),
    }
    if plan.saved is not None:
        require_same(folder, plan.saved, settings)
    taught, key = rows_to_ask(plan, train_data, sha256)
    how["rows"] = None if taught is None else taught.n_rows
    split = saved_split(plan.saved, config, frozenset(plan.given), model)
    split = split or share_of_threads(work_of(model, config.batch_size, False), config.threads)
    made = teacher.params.flat.nbytes + model.params.flat.nbytes
    require_memory(model.config, config, made=made, split=split)
    trainer = Trainer(model, taught or train_data, val_data, config, folder, split=split)
    trainer.trained = student.config.n_embd == teacher.config.n_embd
    if config.minutes is not None:
        keep_pace(trainer, plan.began, plan.given, source)
    run = Run(trainer, tokenizer, settings, source, plan.saved, lock=lock.pop_all())
    return Distilling(run, model, begins, taught, key)


def open_teacher(plan: DistillingPlan) -> tuple[Model, Tokenizer]:
    """Return a teacher and its tokenizer. Raises ValueError for one that cannot teach a GPT."""
    folder = find_folder(plan.teacher)
    model = open_model(folder, plan.config.dtype, plan.config.ops)
    require_trainable(model, plan.teacher)
    registry.refuse_generator(model, plan.teacher, "give the GPT that its encoder was made from")
    if not isinstance(model.config, GPTConfig):
        raise ValueError(f"{plan.teacher} cannot be distilled, because it is no GPT: {model.describe()}")
    tokenizer = open_tokenizer(folder, model)
    say_if_unevaluated(folder)
    if plan.top is not None and plan.top > model.config.vocab_size:
        raise ValueError(f"--cache-logits {plan.top} is more than the {model.config.vocab_size:,} tokens there are")
    return model, tokenizer


def require_effect(source: Source, plan: DistillingPlan) -> None:
    """Raise ValueError for a setting that has no effect on the data."""
    if not isinstance(source, TextSource):
        require_text(plan.given, plan.data[0])
    if plan.top is not None and plan.given.get("windows") == "random":
        raise ValueError("--windows random: --cache-logits needs fixed rows; leave one of them out")


def fitting_tokenizer(plan: DistillingPlan, teacher: Model, tokenizer: Tokenizer, source: Source) -> Tokenizer:
    """Return the teacher's tokenizer. Raises ValueError if it cannot encode the data."""
    if lacking := lacking_characters(tokenizer, source):
        raise ValueError(
            f"the text has {characters_in_words(lacking)} that the tokenizer of {plan.teacher} lacks: teach it on "
            "another text"
        )
    start = Start(plan.teacher, {}, teacher, tokenizer)
    return tokenizer_from(start, source, None, None)


def reopened(plan: DistillingPlan) -> Model:
    """Open the student of the run to resume."""
    assert plan.saved is not None
    require_run(plan.folder / "model.safetensors")
    student = open_model(plan.folder, plan.config.dtype, plan.config.ops)
    require_model_of(plan.folder, student, plan.saved)
    return student


def require_same(folder: Path, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise ValueError for a change that would make the run another run."""
    for part, name, what in FIXED:
        if saved[part].get(name) != settings[part][name]:
            raise ValueError(f"{folder}: {what}; start a new run: npgpt distill TEACHER --out NEW")


def rows_to_ask(plan: DistillingPlan, data: Dataset, sha256: str) -> tuple[Taught | None, bytes]:
    """Return the rows that the teacher is asked about before the training, and what its answers depend on."""
    if plan.top is None:
        return None, b""
    config = plan.config
    draws = config.batch_size * config.gradient_accumulation_steps * config.max_steps
    taught = taught_rows(data, plan.saved["distill"].get("rows") or draws if plan.saved else draws)
    return taught, taught.key(sha256, plan.teaching.temperature, plan.top, config.dtype)
