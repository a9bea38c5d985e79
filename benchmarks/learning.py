"""npgpt's recipe beside nanoGPT's in PyTorch, with AdamW and with Muon: loss at equal time, time to equal loss.

All learn the same characters of one text, and are measured on its last tenth, the whole of it, by the same function.
First a PyTorch model with npgpt's weights must have npgpt's loss and gradients. A short trial then tells how many steps
fit into the time, and each contestant's schedule has that many. Only training steps are timed: not the compilers, nor
the copies of the weights that are kept on the way and evaluated when the run is over. One contestant runs at a time,
and all take turns, seed after seed.
"""

import argparse
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks import peer_models as peers
from benchmarks.timing import PAUSE, agree, installed, machine, milliseconds, progress, table
from npgpt import GPT, GPTConfig
from npgpt.config import PRESETS, TextConfig, TrainConfig
from npgpt.data.batch import Text
from npgpt.data.source import TextSource
from npgpt.data.tales.corpus import TRAIN, TalesCorpus
from npgpt.data.vocabulary import make_tokenizer
from npgpt.models.registry import new_model
from npgpt.optim.schedule import learning_rate_at
from npgpt.tokenizer import Tokenizer
from npgpt.training.compute import set_compute
from npgpt.training.evaluation import whole_loss
from npgpt.training.loop import make_optimizer
from npgpt.training.minutes import choice_for, tokenizer_for
from npgpt.training.step import train_step
from npgpt.training.threads import n_threads
from npgpt.training.workers import Workers

TALES = 2000  # that are read where no text is given, some 1.2 MB
POINTS = 16  # of the curve of npgpt's loss
NOT_CHOSEN = ("vocab_size", "seed", "minutes", "max_steps", "bos_token_id", "eos_token_id")
TRIAL = 0.1  # of the time, in which steps are counted that are not part of a run
# nanoGPT's train_shakespeare_char for a CPU, which are the defaults of TrainConfig, too; its 2,000 steps become as many
# as fit into the time
NANOGPT: dict[str, Any] = {"tokenizer": "chars", **PRESETS["tiny"]}
# PyTorch's Muon at the rate of npgpt's recipe for this width; it was not tuned further
NANOGPT_MUON: dict[str, Any] = NANOGPT | {"optimizer": "muon", "learning_rate": 1e-2}


class Corpus:
    """A text, cut into 90% to train on and the rest, and its ids under each tokenizer that somebody asks for."""

    def __init__(self, text: str) -> None:
        cut = int(0.9 * len(text))
        self.text, self.parts = text, (text[:cut], text[cut:])
        self.known: dict[str, tuple[Tokenizer, np.ndarray, np.ndarray]] = {}

    def write(self, folder: str) -> Path:
        """Write the text to a file in a folder."""
        file = Path(folder) / "text.txt"
        file.write_text(self.text, "utf-8", newline="")
        return file

    def encoded(self, name: str) -> tuple[Tokenizer, np.ndarray, np.ndarray]:
        """Return the tokenizer of a name and the ids of both parts."""
        if name not in self.known:
            with tempfile.TemporaryDirectory() as folder:
                tokenizer = make_tokenizer(name, [self.write(folder)])
            self.known[name] = (tokenizer, *(np.asarray(tokenizer.encode(part)) for part in self.parts))
        return self.known[name]


class Training(NamedTuple):
    """A run that has begun: take a step, and copy the weights, under npgpt's names and in its layouts."""

    step: Callable[[int], object]
    weights: Callable[[], Mapping[str, np.ndarray]]


class Point(NamedTuple):
    seconds: float
    loss: float


@dataclasses.dataclass
class Learner:
    """A contestant: its settings, and what begins a run of it.

    points  how often the loss is measured in a run
    curves  of each seed, the loss on the validation text after so many seconds of training
    steps   of each seed, how many steps fitted into the time
    """

    name: str
    sizes: GPTConfig
    settings: Mapping[str, Any]
    begin: Callable[[GPTConfig, TrainConfig], Any]
    points: int = 1
    curves: list[list[Point]] = dataclasses.field(default_factory=list)
    steps: list[int] = dataclasses.field(default_factory=list)

    def config(self, seed: int, steps: int) -> TrainConfig:
        return TrainConfig(**self.settings, seed=seed, max_steps=steps)

    @property
    def loss(self) -> float:
        return median(curve[-1].loss for curve in self.curves)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="FILE", help="a text in UTF-8 (default: tales that come with npgpt)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, for each run (default: 30)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each contestant (default: 3)")
    parser.add_argument("--threads", type=int, default=0, help="of every contestant; 0 for all cores (default)")
    parser.add_argument("--json", action="store_true", help="print every curve as JSON")


def run(options: argparse.Namespace) -> int:
    threads, corpus = n_threads(options.threads), Corpus(read(options.data))
    say = (lambda text: None) if options.json else (lambda text: print(text, flush=True))
    where = machine(["torch", "numba"])
    train, val = (f"{len(part):,}" for part in corpus.parts)
    say(f"{where}\n{threads} threads; {train} characters to train on, {val} for validation, the same for all")
    learners, notes = contestants(corpus, threads, options.seconds)
    say("\n".join(notes))
    for seed in range(1, options.seeds + 1):
        for learner in learners:
            learn(learner, corpus, seed, options.seconds)
    progress("")
    if options.json:
        print(json.dumps({"machine": where, "threads": threads, "notes": notes, "learners": as_json(learners)}))
    else:
        print("\n".join(["", *scores(learners, options.seconds)]))
    return 0


def read(name: str | None) -> str:
    if name is None:
        return "\n\n".join(TalesCorpus(("en",), 1).texts(TALES, TRAIN))
    return Path(name).read_text("utf-8")


def recipe(corpus: Corpus, threads: int, seconds: float) -> dict[str, Any]:
    """Return what `npgpt train --minutes` chooses for this text, this machine and this time."""
    config = TrainConfig(minutes=seconds / 60, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        source = TextSource([str(corpus.write(folder))], TextConfig())
        config = dataclasses.replace(config, tokenizer=tokenizer_for(source, config, {}))
        tokenizer, train, val = corpus.encoded(config.tokenizer)
        data = Text(train, 1), Text(val, 1)  # whatever the context will be
        choice = choice_for(source, data, tokenizer.vocab_size, config, {"threads": threads}, time.monotonic())
    chosen = dataclasses.asdict(choice.model) | dataclasses.asdict(choice.train) | {"tokenizer": config.tokenizer}
    return {name: value for name, value in chosen.items() if name not in NOT_CHOSEN}


def sizes_of(settings: Mapping[str, Any], vocab_size: int) -> tuple[GPTConfig, dict[str, Any]]:
    """Return the model that settings describe, and those of them that are about training."""
    fields = {field.name for field in dataclasses.fields(GPTConfig)}
    sizes = {name: value for name, value in settings.items() if name in fields}
    rest = {name: value for name, value in settings.items() if name not in fields}
    return GPTConfig(vocab_size=vocab_size, **sizes), rest


def contestants(corpus: Corpus, threads: int, seconds: float) -> tuple[list[Learner], list[str]]:
    """Return npgpt's recipe and its peers, and a line on each thing that was checked, left out or chosen."""

    def own(name: str, settings: Mapping[str, Any]) -> Learner:
        tokenizer, ids, _ = corpus.encoded(settings["tokenizer"])
        sizes, rest = sizes_of(settings, tokenizer.vocab_size)
        return Learner(name, sizes, rest, lambda sizes, config: npgpt_training(sizes, config, ids, threads))

    found = [own("npgpt, its recipe", recipe(corpus, threads, seconds)), own("npgpt, nanoGPT's recipe", NANOGPT)]
    found[0].points = POINTS
    if not installed("torch"):
        return found, ["torch is not installed: PyTorch is skipped"]
    notes = []
    for name, settings in (("AdamW", NANOGPT), ("Muon", NANOGPT_MUON)):
        tokenizer, ids, _ = corpus.encoded(settings["tokenizer"])
        sizes, rest = sizes_of(settings, tokenizer.vocab_size)
        model = peers.torch_model(sizes, GPT(sizes, seed=0).params)
        if not notes:
            notes = [same_as_npgpt(model, sizes, ids)]
        learner, note = faster(f"PyTorch, nanoGPT's recipe, {name}", sizes, rest, model, ids, threads, seconds)
        found.append(learner)
        notes.append(note)
    return found, notes


def same_as_npgpt(model: Any, sizes: GPTConfig, ids: np.ndarray) -> str:
    """Raise AssertionError unless the PyTorch model has npgpt's loss and gradients; return a line on it."""
    batch = Text(ids, sizes.n_positions).draw(0, TrainConfig())[0]
    loss, grads = GPT(sizes, seed=0).loss_and_grads(batch.ids, batch.targets)
    found, torch_grads = peers.torch_grads(model, batch.ids, batch.targets)
    agree("PyTorch", {"loss": found} | torch_grads, {"loss": loss} | grads, 1e-4)
    return f"with the same weights, npgpt's loss is {loss:.6f} and PyTorch's {found:.6f}; their gradients agree"


def faster(
    name: str, sizes: GPTConfig, settings: Mapping[str, Any], model: Any, ids: np.ndarray, threads: int, seconds: float
) -> tuple[Learner, str]:
    """Return PyTorch's contestant as it is or compiled, whichever takes less time a step, and a line on the choice."""
    import torch

    found, times = {}, {}
    for way, forward in (("eager", model), ("compiled", torch.compile(model))):
        learner = Learner(
            f"{name}, {way}",
            sizes,
            settings,
            lambda sizes, config, forward=forward: torch_training(model, forward, sizes, config, ids, threads),
        )
        try:
            times[way] = seconds_a_step(learner, seconds)
        except Exception as error:  # whatever a compiler that is not there, or too old, raises
            if way == "eager":
                raise
            return found["eager"], f"{name}: torch.compile failed ({type(error).__name__}), so it runs eagerly"
        found[way] = learner
    best = min(times, key=times.__getitem__)
    took = ", ".join(f"{milliseconds(value)} {way}" for way, value in times.items())
    return found[best], f"{name}: a step takes {took}; it runs {best}"


@contextmanager
def npgpt_training(sizes: GPTConfig, config: TrainConfig, ids: np.ndarray, threads: int) -> Iterator[Training]:
    """Begin a run of npgpt, whose steps are those of its trainer."""
    model = new_model(sizes, config.seed, config.dtype, config.ops, config.init)
    set_compute(model, config)
    optimizer, data = make_optimizer(model, config, None), Text(ids, sizes.n_positions)
    with Workers(model, config.batch_size, threads) as workers:
        yield Training(
            lambda step: train_step(workers, optimizer, data, config, step, config.max_steps),
            lambda: {name: value.copy() for name, value in model.params.items()},
        )


@contextmanager
def torch_training(
    model: Any, forward: Any, sizes: GPTConfig, config: TrainConfig, ids: np.ndarray, threads: int
) -> Iterator[Training]:
    """Begin a run of PyTorch, from the weights that npgpt would begin with.

    forward  the model itself, or what torch.compile made of it
    """
    import torch

    torch.set_num_threads(threads)
    peers.load(model, GPT(sizes, seed=config.seed).params)
    update = peers.torch_step_at(forward, peers.torch_optimizers(model, muon=config.optimizer == "muon"))
    data = Text(ids, sizes.n_positions)

    def step(i: int) -> None:
        batch = data.draw(i, config)[0]
        rates = config.learning_rate, config.min_lr, config.warmup_steps, config.max_steps
        update(batch.ids, batch.targets, learning_rate_at(i, *rates))

    yield Training(step, lambda: peers.torch_weights(model))


def seconds_a_step(learner: Learner, seconds: float) -> float:
    """Return how long a step takes, the mean over TRIAL of the time, after steps that compile and warm up."""
    time.sleep(PAUSE)
    with learner.begin(learner.sizes, learner.config(0, 10**6)) as training:
        for i in range(3):
            training.step(i)
        start, i = time.perf_counter(), 3
        while i < 6 or time.perf_counter() < start + TRIAL * seconds:
            training.step(i)
            i += 1
        return (time.perf_counter() - start) / (i - 3)


def learn(learner: Learner, corpus: Corpus, seed: int, seconds: float) -> None:
    """Train for about this many seconds, and add the curve of the loss. The run before tells how long a step takes."""
    ran = learner.steps and learner.curves[-1][-1].seconds / learner.steps[-1]
    steps = max(1, round(seconds / (ran or seconds_a_step(learner, seconds))))
    marks = {math.ceil(steps * (i + 1) / learner.points) for i in range(learner.points)}
    kept, clock = [], 0.0
    time.sleep(PAUSE)
    with learner.begin(learner.sizes, learner.config(seed, steps)) as training:
        for i in range(steps):
            start = time.perf_counter()
            training.step(i)
            clock += time.perf_counter() - start
            if i + 1 in marks:
                kept.append((clock, training.weights()))
                progress(f"{learner.name}, seed {seed}: {clock:.0f} of {seconds:g} s")
    learner.curves.append([Point(at, loss_of(learner, weights, corpus)) for at, weights in kept])
    learner.steps.append(steps)


def loss_of(learner: Learner, weights: Mapping[str, np.ndarray], corpus: Corpus) -> float:
    """Return the loss on the whole validation text in nats a character, which compares tokenizers, too."""
    tokenizer, _, ids = corpus.encoded(learner.settings["tokenizer"])
    model = GPT(learner.sizes, ops=learner.settings.get("ops", "fast"))
    for name, value in weights.items():
        model.params[name][...] = value
    with Workers(model, 1) as workers:
        nats = whole_loss(model, Text(ids, learner.sizes.n_positions), workers.map) * (len(ids) - 1)
    return nats / (len(corpus.parts[1]) - len(tokenizer.decode(ids[:1])))


def time_to(loss: float, curve: Sequence[Point]) -> float:
    """Return after how many seconds a curve first is at a loss, on a line between two points; infinity for never.

    Example: time_to(2.5, [Point(1, 3), Point(2, 2)]) is 1.5.
    """
    before = None
    for point in curve:
        if point.loss <= loss:
            if before is None:
                return point.seconds
            share = (before.loss - loss) / (before.loss - point.loss)
            return before.seconds + share * (point.seconds - before.seconds)
        before = point
    return math.inf


def scores(learners: Sequence[Learner], seconds: float) -> list[str]:
    """Return the table: medians over the seeds, the first contestant's against each of the others'."""
    own, rows = learners[0], []
    for learner in learners:
        losses = [curve[-1].loss for curve in learner.curves]
        took = median(curve[-1].seconds for curve in learner.curves)
        row = [
            learner.name,
            f"{learner.sizes.n_parameters:,}",
            f"{median(learner.steps):.0f}",
            f"{took:.1f} s",
            f"{learner.loss:.4f} ({min(losses):.4f} to {max(losses):.4f})",
        ]
        if learner is own:
            rows.append([*row, "", ""])
            continue
        times = [time_to(c[-1].loss, ours) for ours, c in zip(own.curves, learner.curves, strict=True)]
        need = median(times)
        share = median(t / c[-1].seconds for t, c in zip(times, learner.curves, strict=True))
        reached = f"{need:.1f} s ({share:.2f} of its time)" if need < math.inf else "not reached"
        rows.append([*row, f"{own.loss / learner.loss:.3f}", reached])
    title = f"{seconds:g} s of training"
    header = [
        title,
        "parameters",
        "steps",
        "took",
        "nats a character",
        "npgpt's loss against it",
        "npgpt at its loss in",
    ]
    return table(header, rows)


def as_json(learners: Sequence[Learner]) -> list[dict[str, Any]]:
    return [
        {"name": learner.name, "settings": dict(learner.settings), "steps": learner.steps, "curves": learner.curves}
        for learner in learners
    ]
