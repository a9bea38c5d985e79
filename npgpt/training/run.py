"""A run folder from its first file to its last record: what training from scratch and fine-tuning share."""

import hashlib
import json
from collections.abc import Callable, Collection, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from npgpt.config import TrainConfig
from npgpt.data.text import ONCE, is_gone
from npgpt.hub.peft import first_with, folders_of
from npgpt.hub.tensors import is_own, require_run
from npgpt.models.base import Model, end_ids
from npgpt.models.registry import fields_of, require_fields
from npgpt.support.fields import flat_fields, split_fields
from npgpt.support.files import file_digest, is_cut_short, read_json, read_sealed_json, write_sealed_json
from npgpt.support.notices import notice
from npgpt.support.version import __version__
from npgpt.tokenizer import Tokenizer
from npgpt.training.checkpoint import STATE, begin_run, remove_leftovers, remove_unstarted
from npgpt.training.choosing import Choice
from npgpt.training.loop import Record, Trainer
from npgpt.training.threads import MOST, Split, choose_without_teams, n_threads, work_of

# what makes two runs of the same model on the same data two runs, besides how long they are
OF_A_RUN = (
    *("seed", "init", "dtype", "optimizer", "trainable", "pack", "learning_rate", "min_lr", "batch_size"),
    *("base_sha256", "lora", "lora_alpha", "in_order", "pretrain"),
)
OF_A_GENERATOR = ("base_sha256", "in_order", "encoder", "loss", "loss_temperature", "label_smoothing")


class Run:
    """A run that is ready to train, new or resumed.

    source    where the data came from
    settings  the content of train.json, which --resume reads
    saved     train.json of the run to resume; None for a new run
    lock      the folder's lock, which records releases
    choice    what was chosen to suit the minutes of a new run; None if it has none
    whole     the best model's loss on all validation data or a sample of it, once the run is finished
    """

    def __init__(
        self,
        trainer: Trainer,
        tokenizer: Tokenizer,
        settings: dict[str, Any],
        source: Any,
        saved: dict[str, Any] | None,
        lock: ExitStack,
        choice: Choice | None = None,
    ) -> None:
        run = run_id(settings) if saved is None else saved.get("run")
        settings |= {"workers": trainer.split._asdict()} | ({"run": run} if run else {})
        self.trainer, self.tokenizer, self.settings = trainer, tokenizer, settings
        self.source, self.resume, self.lock = source, saved is not None, lock
        self.choice = choice
        self.whole: float | None = None

    @property
    def folder(self) -> Path:
        return self.trainer.folder

    @property
    def model(self) -> Model:
        """The model that is trained, as it is now."""
        return self.trainer.model

    @property
    def config(self) -> TrainConfig:
        return self.trainer.config

    def best(self) -> Model:
        """Return the best model by validation loss."""
        return self.trainer.best()

    def records(self, should_stop: Callable[[], bool] = lambda: False) -> Generator[Record, None, None]:
        """Train, and yield the records of Trainer.run. A new run that fails before its first state leaves no files."""
        with self.lock:
            yield from self._records(should_stop)

    def _records(self, should_stop: Callable[[], bool]) -> Generator[Record, None, None]:
        remove_leftovers(self.folder)
        try:
            if not self.resume:
                begin_run(self.folder)
                self.tokenizer.save_pretrained(self.folder)
                self._write_settings()
            for number, record in enumerate(self.trainer.run(self.resume, should_stop)):
                if self.resume and number == 0:  # the old state could be read: from now on the run has these settings
                    self._write_settings()
                if "whole" in record:
                    self.whole = record["val_loss"]
                yield record
        except BaseException:
            if not self.resume:
                remove_unstarted(self.folder)
            raise
        if self.settings["train"]["max_steps"] != self.trainer.total:  # which the clock has decided
            self.settings["train"] = self.settings["train"] | {"max_steps": self.trainer.total}
            self._write_settings()

    def _write_settings(self) -> None:
        data = self.settings["data"] | {"tokenizer_json": file_digest(self.folder / "tokenizer.json")}
        settings = {"npgpt_version": __version__, **self.settings, "data": data}
        write_sealed_json(self.folder / "train.json", settings)


def run_id(settings: dict[str, Any]) -> str:
    """Return the id of a new run, which its model and its training state carry. Equal runs have equal ids."""
    data, how = settings["data"], settings["train"] | settings.get("finetune", {})
    parts = [settings["model"], data.get("sha256"), data.get("tokenizer"), [how.get(name) for name in OF_A_RUN]]
    if "from" in settings:
        parts.append(settings["from"]["sha256"])
    if "distill" in settings:
        parts.append(settings["distill"])
    if "generator" in settings:
        parts.append([settings["generator"][name] for name in OF_A_GENERATOR])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def next_free(parent: Path) -> Path:
    """Return parent/1, or the next number after the largest in parent."""
    taken = [int(p.name) for p in parent.glob("*") if p.name.isdecimal()] if parent.is_dir() else []
    return parent / str(max(taken, default=0) + 1)


def require_out(out: str | None, resume: bool, name: str) -> Path:
    """Return the folder that --out names, or a new one if it is not given.

    Raises ValueError for an empty name, and for a missing one if a run is to be resumed. `name` is its name in help.
    """
    if out == "":
        raise ValueError("--out is empty: give a folder, or leave it out")
    if resume and out is None:
        raise ValueError(f"--resume needs --out {name}, the folder of the run to continue")
    return Path(out) if out else next_free(Path("runs"))


def read_saved(folder: Path) -> dict[str, Any]:
    """Read train.json. Raises FileNotFoundError or ValueError if --resume cannot continue from it."""
    path = folder / "train.json"
    if is_cut_short(folder, STATE):
        raise ValueError(f"{folder}: the run was cut short before it saved anything: start it again without --resume")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no train.json")
    saved = read_sealed_json(path)
    if isinstance(saved.get("train"), dict) and saved["train"].get("init") == "gpt2":
        saved["train"]["init"] = "normal"  # as it is called since
    for part in ("model", "train", "data"):
        if not isinstance(saved.get(part), dict):
            raise ValueError(f"{path}: {part!r} is missing")
    try:
        require_fields(saved["model"])
        split_fields(saved["train"], TrainConfig)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if saved.get("workers") is not None:
        require_split(path, saved["workers"])
    saved["train"].setdefault("trainable", "*")  # which runs of earlier versions do not say
    files = saved["data"].get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ValueError(f"{path}: data.files={files!r} must be a list of strings")
    return saved


def require_split(path: Path, workers: Any) -> None:
    """Raise ValueError if what a run folder says of its threads is no Split, or one of more than MOST threads."""
    whole = isinstance(workers, dict) and workers.keys() == {*Split._fields}
    if not whole or not all(type(number) is int and number > 0 for number in workers.values()):
        raise ValueError(f"{path}: workers={workers!r} must be numbers of groups and members, at least 1")
    if (threads := Split(**workers).threads) > MOST:
        raise ValueError(f"{path}: workers={workers!r} are {threads} threads, and {MOST} are the most")


def saved_split(
    saved: dict[str, Any] | None, config: TrainConfig, given: Collection[str], model: Model
) -> Split | None:
    """Return how the threads of the run to resume share a step, which decides its bits; None to choose anew.

    That is done for a new run, and for one that is resumed with another batch size or number of threads, or with
    --threads 0, which asks for what this machine can do.
    """
    if saved is None:
        return None
    before = saved["train"]
    now = {name: getattr(config, name) for name in ("threads", "batch_size", "ops")}
    changed = any(before.get(name, value) != value for name, value in now.items())
    if changed or ("threads" in given and not config.threads):
        return None
    if "workers" in saved:
        return Split(**saved["workers"])
    # a run of an earlier version
    return choose_without_teams(work_of(model, config.batch_size, False), n_threads(config.threads))


def say_what_adapts(config: TrainConfig, saved: dict[str, Any] | None, given: Collection[str]) -> None:
    """Say which learning rate of a resumed run adapts to the one that is given now."""
    before = saved["train"] if saved else {}
    for name in ("min_lr", "learning_rate"):
        value = getattr(config, name)
        if name not in given and value != before.get(name, value):
            notice(f"{name} is {value:g} instead of {before[name]} from now on, to fit")


def require_effect_of_schedule(config: TrainConfig, given: Collection[str]) -> None:
    """Raise ValueError for a share of the decay that is given to a schedule without one."""
    if "decay_share" in given and config.schedule != "trapezoid":
        raise ValueError(
            f"--decay-share {config.decay_share:g} has no effect with --schedule {config.schedule}: give "
            "--schedule trapezoid, or leave --decay-share out"
        )


def saved_names(folder: Path, saved: dict[str, Any]) -> list[str]:
    """Return what a run was trained on. Raises ValueError for a text that could be read only once."""
    names: list[str] = saved["data"]["files"]
    for name in names:
        if is_gone(name):
            source = name.removeprefix(ONCE)
            raise ValueError(
                f"{folder} was trained on what {source} gave, which is not kept: give the same text again with --data"
            )
    return names


def require_whole(name: str | Path, tokenizer: Tokenizer, model: Model | None) -> None:
    """Raise ValueError if the model or the tokenizer of a run that npgpt has written is not that of train.json.

    model  None if it is not the run's, but made from it by an adapter, which may have brought other sizes
    """
    folder = Path(name)
    path, config = folder / "train.json", folder / "tokenizer_config.json"
    if not path.is_file() or not is_own(folder / "model.safetensors"):
        return
    require_run(folder / "model.safetensors")
    saved = read_sealed_json(path)
    if model is not None:
        require_model_of(folder, model, saved)
    data = saved["data"] if isinstance(saved.get("data"), dict) else {}
    # equal bytes need no fingerprint, which takes 0.1 s for 32,000 tokens
    same = data.get("tokenizer_json") == file_digest(folder / "tokenizer.json")
    if not same and data.get("tokenizer", tokenizer.fingerprint()) != tokenizer.fingerprint():
        raise ValueError(f"{folder}: tokenizer.json is not the tokenizer that the run was trained with")
    if config.is_file():
        read_json(config)


def open_tokenizer(
    name: str | Path, model: Model, end_token: str | None = None, base: str | Path | None = None
) -> Tokenizer:
    """Return the tokenizer of a folder whose model is open, with the end token that end_token or the model names.

    That of an adapter is in its own folder, in that of its run, or in its base, which is `base` if that is given. If
    the model names none that the tokenizer has, the tokenizer's own stays. A notice names the tokens for which the
    model has no row. Raises ValueError as require_whole does.
    """
    folders = folders_of(Path(name), base)
    name = first_with(folders, "tokenizer.json", "vocab.json")
    tokenizer = Tokenizer.from_pretrained(name)
    require_whole(name, tokenizer, model if len(folders) == 1 else None)
    try:
        tokenizer = tokenizer.below(model.config.vocab_size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if tokenizer.beyond:
        notice(f"{name}: {say_beyond(tokenizer)}; a text that has one of them is refused")
    if end_token is not None:
        return tokenizer.ending_with(end_token)
    return tokenizer.ending_with_id(end_ids(model.config))


def say_beyond(tokenizer: Tokenizer) -> str:
    """Return in words which tokens a tokenizer has beyond those of its model."""
    beyond = tokenizer.beyond
    some = ", ".join(repr(name) for name in [*beyond.values()][:3])
    more = f" and {len(beyond) - 3:,} more" if len(beyond) > 3 else ""
    are = "tokens, which begin" if len(beyond) > 1 else "token, which begins"
    return f"the model has no row for {len(beyond):,} {are} at id {min(beyond)}: {some}{more}"


def require_model_of(folder: Path, model: Model, saved: dict[str, Any]) -> None:
    """Raise ValueError, naming the key, if a run's model has another configuration than its train.json says."""
    before = saved.get("model")
    now = fields_of(model.config)
    for name, value in flat_fields(before).items() if isinstance(before, dict) else ():
        found = now.get(name, value)
        if name.endswith("eos_token_id") and value is not None:  # generation_config.json may name more tokens
            ids = {*value} if isinstance(value, list) else {value}
            found = value if ids <= {*end_ids(model.config)} else found
        if found != value and not name.endswith(("bias", "tie_word_embeddings")):  # which the model's tensors decide
            raise ValueError(
                f"{folder / 'config.json'}: {name} is {found!r}, but train.json says {value!r}: "
                "one of the files was damaged or changed after it was written"
            )
