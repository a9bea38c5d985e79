"""`npgpt.train`: `npgpt train` for notebooks and scripts."""

import dataclasses
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from npgpt.config import GPTConfig, TextConfig, TrainConfig
from npgpt.generation.answers import continue_text
from npgpt.generation.prompts import Learned, first_prompt
from npgpt.inspection.losses import Record, as_png, draw, read_metrics
from npgpt.models.base import Model
from npgpt.support.hints import nearest
from npgpt.tokenizer import Tokenizer
from npgpt.training.interrupt import stop_on_interrupt
from npgpt.training.pretraining import plan_training, start_training
from npgpt.training.run import Run

Name = str | PathLike[str]

CONFIGS = (TrainConfig, GPTConfig, TextConfig)
# in an error, the value of a flag: one that can be no other word, or what stands before a colon, except "leave it out"
VALUE = (
    r"(?:[A-Z]{2,}|bpe:\w+|chars|bytes|utf-?\d[\w-]*|gb\w+|big5|latin-1|cp\d+|shift_jis|euc-\w+)\b|(?!out:|-)\S+(?=: )"
)
SETTINGS = (
    "preset",
    "recipe",
    "dropout",
    "vocab",
    *(field.name for config in CONFIGS for field in dataclasses.fields(config)),
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Training:
    """What `npgpt.train` returns. A notebook shows it as the plot of its losses.

    folder     the run folder
    model      the best model by validation loss; before the first evaluation, the last one
    tokenizer  its tokenizer
    config     how it was trained
    records    one dict per step and per evaluation, as in metrics.jsonl
    finished   whether the last step was reached; False if the run was interrupted
    floor      the loss that no model can get below, in nats per token, if the data is tales; otherwise None
    """

    folder: Path
    model: Model
    tokenizer: Tokenizer
    config: TrainConfig
    records: list[Record]
    finished: bool
    floor: float | None
    _learned: Learned
    _first: int  # the first token of the training data

    def plot(self) -> Any:
        """Return a matplotlib figure of the losses, with the floor where there is one.

        Raises ValueError if matplotlib is missing: it comes with npgpt[plot].
        """
        return draw(self.folder, self.records, self.floor)

    def sample(
        self,
        prompt: str | None = None,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> str:
        """Return the prompt and what the model writes after it; without a prompt, a text from the beginning.

        The settings are those of npgpt.generate, and so are the errors.
        """
        ids = first_prompt(self.tokenizer, prompt, self._learned, self._first)
        tokens = continue_text(self.model, self.tokenizer, ids, max_new_tokens, temperature, top_k, top_p, seed)
        return (prompt or "") + self.tokenizer.decode(tokens)

    def __repr__(self) -> str:
        losses = [record for record in self.records if "val_loss" in record]
        done = max((record["step"] for record in self.records), default=0)
        early = ", stopped early" if any("stopped_early" in record for record in self.records[-2:]) else ""
        lines = [f"{self.folder}: {self.model.size:,} parameters, {done:,} of {self.config.max_steps:,} steps{early}"]
        if losses:
            best = losses[-1] if self.finished else min(losses, key=lambda record: record["val_loss"])
            floor = "" if self.floor is None else f", floor {self.floor:.4f}"
            error = f" ± {best['val_stderr']:.4f}" if best.get("val_stderr") else ""  # of a sample
            lines.append(f"validation loss {best['val_loss']:.4f}{error} nats per token (step {best['step']:,}){floor}")
        if not self.finished:
            lines.append(f"stopped; continue with npgpt.train(out={str(self.folder)!r}, resume=True)")
        return "\n".join(lines)

    def _repr_png_(self) -> bytes | None:
        """Return the plot for a notebook; None without matplotlib, so that the notebook shows the text."""
        try:
            return as_png(self.plot())
        except ValueError:
            return None


def train(
    data: Name | Iterable[Name] | None = None,
    out: Name | None = None,
    *,
    from_: Name | None = None,
    resume: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Training:
    """Train a GPT, or continue a run, and return the run: its model, its losses, its plot, its samples.

    >>> training = npgpt.train("poems.txt", "runs/poems", preset="tiny", max_steps=300)
    >>> print(training.sample("The "))

    data      text files (one, or several; a folder of *.txt or a glob), a folder of `npgpt prepare`, or "tales:en",
              "tales:zh", "tales"; "tales:en" if it is not given, and with resume the data of the run
    out       the run folder; runs/1 or the next number free if it is not given
    from_     a trained model to go on from, with its tokenizer and its sizes: a folder, or a name on the hub
    resume    continue the run in out, to the same bits as if it had never stopped
    progress  show a progress bar on standard error
    settings  the flags of `npgpt train` by name: preset, recipe, dropout, vocab, and the fields of TrainConfig,
              GPTConfig and TextConfig

    An interrupt (Ctrl-C, or a notebook's stop button) completes the current step, saves the run and returns it with
    `finished` False. A second one raises KeyboardInterrupt at once; what was saved before stays. SIGTERM and SIGHUP
    save the run, too, and then do what they do without npgpt: they end the program.

    Raises ValueError for an unknown or invalid setting, for a folder that already holds a run or that another process
    writes to, and, with resume, for a file that was changed and for a change that would make it another run;
    FileNotFoundError for missing data; FloatingPointError when the loss is no longer finite.
    """
    with _arguments_in_errors():
        flags = _flags(data, out, resume, settings)
        plan = plan_training(flags if from_ is None else flags | {"from": os.fspath(from_)}, resume=resume)
        run = start_training(plan)
    with (
        _arguments_in_errors(),
        stop_on_interrupt() as stopped,
        closing(run.records(lambda: bool(stopped))) as records,  # its threads end with it, whatever ends it
        _bar(run, progress) as show,
    ):
        for record in records:
            show(record)
    for number in stopped:
        if number != signal.SIGINT:  # the run is saved; now what the signal is for
            signal.raise_signal(number)
    return _training(run)


def _flags(data: Any, out: Name | None, resume: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings as plan_training reads them. Raises ValueError for an unknown one."""
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(f"unknown setting {name!r}{nearest(name, SETTINGS)}")
    if not isinstance(settings.get("preset"), str | None):
        raise ValueError(f"preset={settings['preset']!r} must be a string")
    if resume and out is None:
        raise ValueError("resume=True needs out, the folder of the run to continue")
    flags = {name: value for name, value in settings.items() if (name, value) != ("preset", None)}
    if "trainable" in flags:
        flags["trainable"] = _joined(flags["trainable"])
    if out is not None:
        flags["out"] = os.fspath(out)
    if data is not None:
        names = [data] if isinstance(data, str | PathLike) else list(data)
        if not names:
            raise ValueError("data is empty: name at least one file, or leave it out")
        # a Path is a file even if it is called tales, which as a string would be the tales that come with npgpt
        flags["data"] = [name if isinstance(name, str) else str(Path(name).absolute()) for name in names]
    return flags


def _joined(trainable: Any) -> str:
    """Return patterns of names as one setting. Raises ValueError for anything but strings."""
    patterns = [trainable] if isinstance(trainable, str) else trainable
    if not (isinstance(patterns, Iterable) and all(isinstance(pattern, str) for pattern in patterns)):
        raise ValueError(f"trainable={trainable!r} must be a string or a list of strings")
    return ",".join(patterns)


@contextmanager
def _arguments_in_errors() -> Iterator[None]:
    """Name arguments of `npgpt.train` where an error names flags of the command."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (as_arguments(error.args[0]),)
        raise


def as_arguments(message: str) -> str:
    """Return a message with arguments of `npgpt.train` in place of flags. A command line in it stays as it is.

    >>> as_arguments("runs/1 holds a run: continue it with --resume, or leave --min-lr out")
    'runs/1 holds a run: continue it with resume=True, or leave min_lr out'
    >>> as_arguments("it looks like Latin-1: give --encoding cp1252")
    'it looks like Latin-1: give encoding="cp1252"'
    """
    names = {"resume": "resume=True", "from": "from_"} | {name: name for name in ("data", "out", *SETTINGS)}

    def argument(match: re.Match) -> str:
        name, value = (match[1] or "").replace("-", "_"), match[2]
        return names.get(name, match[0]) + (f'="{value}"' if value and name in names else "")

    return re.sub(rf"npgpt \w+ .*|(?<![\w-])--([a-z]\w*(?:-\w+)*)(?: ({VALUE}))?", argument, message)


@contextmanager
def _bar(run: Run, progress: bool) -> Iterator[Callable[[Record], None]]:
    """Give a function that shows a record on a progress bar."""
    from tqdm import tqdm

    words: dict[str, str] = {}

    def show(record: Record) -> None:
        if not words:  # a resumed run begins where it stopped, which it knows by now
            bar.initial = bar.n = bar.last_print_n = run.trainer.progress["step"] - ("loss" in record)
        bar.total = run.trainer.total
        if "val_loss" in record:
            words["val_loss"] = f"validation {record['val_loss']:.4f}"
        else:
            words["loss"] = f"loss {record['loss']:.4f}"
            words["speed"] = f"{record['tokens_per_s']:,.0f} tokens/s"
            bar.update()
        bar.set_postfix_str(", ".join(words[name] for name in ("loss", "val_loss", "speed") if name in words), False)

    with tqdm(desc=run.folder.name, total=run.config.max_steps, unit="step", disable=not progress) as bar:
        run.trainer.on_evaluating = lambda done, total: bar.set_postfix_str(f"evaluating {min(1, done / total):.0%}")
        yield show


def _training(run: Run) -> Training:
    """Return what a run has reached, finished or not."""
    evaluated = run.trainer.progress["best_val_loss"] is not None
    data = run.settings["data"]
    return Training(
        folder=run.folder,
        model=run.best() if evaluated else run.model,
        tokenizer=run.tokenizer,
        config=run.config,
        records=read_metrics(run.folder / "metrics.jsonl"),
        finished=run.whole is not None,
        floor=data.get("floor"),
        _learned=Learned.of(data),
        _first=int(run.trainer.train_data.first().ids[0, 0]),
    )
