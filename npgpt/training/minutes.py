"""A run with a limit on its time: its settings, chosen before the first step, and its number of steps, by the clock."""

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPTConfig, TrainConfig
from npgpt.data.batch import IGNORED, Dataset, Text
from npgpt.data.source import Source, TalesSource, TextSource
from npgpt.support.fields import split_fields
from npgpt.support.machine import available_memory
from npgpt.training.checkpoint import read_progress
from npgpt.training.choosing import FEWEST_ROWS, FEWEST_STEPS, STEPS_AN_EPOCH, Choice, Expect, Facts, choose, unknown
from npgpt.training.compute import can_round
from npgpt.training.evaluation import affordable_tokens
from npgpt.training.law import FEWEST, count_traits, expected_loss
from npgpt.training.loop import Trainer
from npgpt.training.pace import Pace
from npgpt.training.recipes import SIZES, TALES, TALES_IN_TWO, VOCABULARIES, step_of
from npgpt.training.speed import EVALUATING, Machine, measure

# seconds to end the program, for a sample of a text, and for the hundred tales of the report
AROUND, SAMPLING, REPORTING = 0.2, 0.3, 5.0
VAL_TOKENS_OF_TALES = 100_000
NOT_OF_MINUTES = ("max_steps", "eval_every", "save_every", "warmup_steps", "tokenizer")  # of the recipes for tales
LAST_LINES = 2**14  # bytes of metrics.jsonl that tell how fast a run was
PACKED_ROWS = 1000  # that are counted
BATCHES = (12, 8, 4, 2, 1)  # of a trained model: the largest with which a run has FEWEST_STEPS steps
FEWEST_MORE = 100  # steps to begin with, where a run has timed none


def tokenizer_for(source: Source, config: TrainConfig, given: Mapping[str, Any]) -> str:
    """Return the tokenizer for a source: characters for a short text, pieces of words for a long one."""
    if not isinstance(source, TextSource) or given.keys() & {"tokenizer", "vocab_size"} or config.tokenizer != "chars":
        return config.tokenizer
    return str(step_of(((0, "chars"), *VOCABULARIES), sum(file.size for file in source.texts.files)))


def choice_for(
    source: Source,
    data: tuple[Dataset, Dataset] | None,
    vocab_size: int,
    config: TrainConfig,
    given: Mapping[str, Any],
    began: float,
    settled: Mapping[str, Any] | None = None,
) -> Choice:
    """Measure the machine, and choose the settings of a new run.

    data    for training and validation; None for tales, which are made
    config  with the dtype, the ops, the threads and the minutes of the run
    given   what flags or a file gave
    began   the time from which the minutes count
    settled what a model to go on from has settled; None for a new one
    """
    model, train, _ = split_fields(given, GPTConfig, TrainConfig, also=given.keys())
    known = model | train | {name: given[name] for name in ("preset", "dropout") if name in given}
    known |= {"minutes": config.minutes, "tokenizer": config.tokenizer, "pretrain": config.pretrain}
    rounding = "compute" not in given and can_round(config)
    machine = measure(config, ["float32", "bf16"] if rounding else [config.compute])
    facts = Facts(float("inf"), VAL_TOKENS_OF_TALES, vocab_size)
    recipes: Sequence[dict[str, Any]] = SIZES
    expect: Expect = unknown
    if data is not None:
        facts = Facts(data[0].size, data[1].size, vocab_size)
        expect = law_of(*data, vocab_size)
    elif isinstance(source, TalesSource):
        tales = TALES if len(source.corpus.langs) == 1 else TALES_IN_TWO
        recipes = ({name: value for name, value in tales.items() if name not in NOT_OF_MINUTES},)
    if data is None or config.pack:  # rows of texts are shuffled as they are
        recipes = tuple({**recipe, "windows": "random"} for recipe in recipes)
    seconds = 60 * (config.minutes or 0.0) - (time.monotonic() - began) - seconds_around(source, config)
    room = available_memory()
    if settled is None:
        return choose(facts, machine, seconds, known, expect, recipes, room)
    return choose_from(
        {**{k: v for k, v in recipes[0].items() if k == "windows"}, **settled, **known}, facts, machine, seconds, room
    )


def choose_from(settled: Mapping[str, Any], facts: Facts, machine: Machine, seconds: float, room: int | None) -> Choice:
    """Choose what a trained model to go on from has not settled; no law tells its loss."""
    sizes: list[int] = [settled["batch_size"]] if "batch_size" in settled else [*BATCHES]
    most = max(FEWEST_ROWS, facts.tokens / (STEPS_AN_EPOCH * settled["n_positions"]))
    for size in [size for size in sizes if size <= most] or sizes:
        choice = choose(facts, machine, seconds, {**settled, "batch_size": size}, recipes=({},), room=room)
        if choice.enough or choice.train.max_steps >= FEWEST_STEPS:
            break
    return choice


def law_of(data: Dataset, val_data: Dataset, vocab_size: int) -> Expect:
    """Return what tells the loss to expect of a model on this text; it returns None for a text that is too short."""
    ids, held = ids_of(data), ids_of(val_data)
    if len(ids) < FEWEST or len(held) < FEWEST // 10:
        return unknown
    traits = count_traits(ids, vocab_size, held)._replace(tokens=data.size)
    return lambda n_parameters, tokens: expected_loss(traits, n_parameters, tokens)


def ids_of(data: Dataset) -> np.ndarray:
    """Return the ids of a text, or of the first rows of documents, which are a sample of all."""
    if isinstance(data, Text):
        return data.ids
    targets = next(data.whole(PACKED_ROWS)).targets
    return np.asarray(targets[targets != IGNORED])


def more_minutes(folder: Path, config: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """Return the settings of a run to resume for some minutes, or for what is left of them.

    Minutes that are given are more minutes: the rate is constant again, and falls over the same share of the steps to
    come as it fell over those that were planned together before.

    Source: Wen et al., "Understanding Warmup-Stable-Decay Learning Rates", arXiv:2410.05192.
    """
    progress = read_progress(folder)
    done, total = progress["step"], progress.get("total", config.max_steps)
    if "minutes" not in given:
        return dataclasses.replace(config, max_steps=max(done, total))
    steps = steps_in(60 * given["minutes"], folder, config)
    if "max_steps" in given:
        steps = max(1, config.max_steps - done)
    else:
        config = dataclasses.replace(config, max_steps=done + steps)
    share = steps / (done + steps)
    suiting = {"schedule": "trapezoid", "decay_share": progress.get("decay_share", config.decay_share) * share}
    if steps < 2 * config.eval_every:  # at least two evaluations
        suiting |= {"eval_every": max(1, steps // 2), "save_every": max(1, steps // 2)}
    return dataclasses.replace(config, **{name: value for name, value in suiting.items() if name not in given})


def steps_in(seconds: float, folder: Path, config: TrainConfig) -> int:
    """Return how many steps of a run take so long, by the speed of its last ones."""
    path = folder / "metrics.jsonl"
    speeds = []
    if path.is_file():
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LAST_LINES))
            for line in file.read().splitlines()[1:]:
                try:
                    speeds.append(float(json.loads(line)["tokens_per_s"]))
                except (ValueError, KeyError, TypeError):  # an evaluation, or a line that was cut short
                    continue
    if not speeds or not statistics.median(speeds) > 0:
        return FEWEST_MORE
    model = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokens = config.batch_size * config.gradient_accumulation_steps * model["n_positions"]
    return max(1, int(seconds * statistics.median(speeds) / tokens))


def keep_pace(
    trainer: Trainer, began: float, given: Mapping[str, Any], source: Source, choice: Choice | None = None
) -> None:
    """Let the clock decide the number of a trainer's steps, unless it is given.

    choice  what was chosen for a new run; None for one that is resumed
    """
    config = trainer.config
    if "max_steps" in given or config.minutes is None:
        return
    most = affordable_tokens(trainer.model.size) if config.final_eval_tokens is None else config.final_eval_tokens
    last = min(most or trainer.val_data.size, trainer.val_data.size)
    a_batch = config.batch_size * trainer.model.config.n_positions
    evaluating = EVALUATING * (last / a_batch + config.eval_batches) / config.gradient_accumulation_steps
    enough = config.max_steps if choice is not None and choice.enough else None
    pace = Pace(60 * config.minutes, began, seconds_around(source, config), evaluating, config.max_steps, enough)

    def total(done: int) -> int:
        progress = trainer.progress
        if pace.first is None and done and "minutes" in given:  # with new patience; later minutes need the share, too
            left = config.max_steps - done
            progress |= {"waited": 0, "decay_share": min(1.0, config.decay_share * config.max_steps / max(1, left))}
        elif pace.first is None and done:  # a resumed run has used some of its minutes
            if progress.get("total") == done:
                return done
            pace.began -= progress.get("seconds", 0.0)
            pace.most = progress.get("enough", pace.most)
        steps = pace(done)
        progress |= {"seconds": pace.used, "total": steps, "enough": pace.most}
        return steps

    trainer.pace = total


def seconds_around(source: Source, config: TrainConfig) -> float:
    """Return about how long the program takes around the training, and to show what the model has learned."""
    if isinstance(source, TalesSource):
        return AROUND + REPORTING
    return AROUND + (SAMPLING if config.sample_tokens else 0.0)
