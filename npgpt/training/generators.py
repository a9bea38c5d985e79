"""Training a generator: a run on prompts and completions with a trained GPT as encoder and a new decoder."""

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.config import TrainConfig, settle
from npgpt.data.dialects import Example
from npgpt.data.examples import ExamplesSource
from npgpt.data.templates import ONE_TURN, Template, asked_ids, parse_template
from npgpt.hub.folders import find_folder, recorded
from npgpt.hub.tensors import require_run
from npgpt.models.base import Model, end_ids
from npgpt.models.registry import new_generator, refuse_generator
from npgpt.support.hints import nearest
from npgpt.support.lock import locked
from npgpt.tokenizer import Tokenizer
from npgpt.training.checkpoint import refuse_existing
from npgpt.training.compute import require_compute
from npgpt.training.finetuning import Tuning, TuningPlan, first_change, open_base, packed, tuning_of
from npgpt.training.loop import Trainer
from npgpt.training.memory import require_memory_for_weights
from npgpt.training.recipes import GENERATOR
from npgpt.training.run import (
    Run,
    read_saved,
    require_effect_of_schedule,
    require_out,
    saved_names,
    saved_split,
    say_what_adapts,
)

SIZES = ("decoder", "bridge", "n_layer", "n_embd", "n_head", "embedding", "pdrop")  # fields of SeqConfig
LOSSES = ("ce", "cosine", "ce+cosine")
# what is trained for, and what of the encoder; the defaults of the part `generator` of train.json
HOW: dict[str, Any] = {"encoder": "whole", "loss": "ce", "loss_temperature": "1", "label_smoothing": 0.0}
# what must not change when a run is resumed: (part of train.json, key, error message)
FIXED = (
    ("data", "template", "the template cannot change with --resume"),
    ("data", "sha256", "the examples are not those that the run was trained on"),
    ("data", "tokenizer", "the model's tokenizer is not the one that the run was trained with"),
    ("generator", "base_sha256", "the model to begin with is not the one that the run began with"),
    *(
        ("model", name, f"--{'dropout' if name == 'pdrop' else name.replace('_', '-')} cannot change with --resume")
        for name in SIZES
    ),
    *(("generator", name, f"--{name.replace('_', '-')} cannot change with --resume") for name in HOW),
    ("generator", "in_order", "--in-order cannot be added with --resume"),
    ("train", "dtype", "--dtype cannot change with --resume"),
    ("train", "optimizer", "--optimizer cannot change with --resume"),
    ("train", "end_token", "--end-token cannot change with --resume"),
    ("train", "seed", "--seed cannot change with --resume: it decides which examples are drawn, and which validate"),
)


class Goal(NamedTuple):
    """What a generator is trained for, as the flags say.

    kind, weight     "ce", "cosine", or "ce+cosine" with the weight of the cosine
    label_smoothing  of the cross-entropy
    first, last      the temperature of the softmax whose expected embeddings the cosine reads, at the first step and
                     at the last
    """

    kind: str
    weight: float
    label_smoothing: float
    first: float
    last: float

    @property
    def has_cosine(self) -> bool:
        return self.kind != "ce"

    def tau(self, done: int, total: int) -> float:
        """Return the temperature of the step after `done` of `total`.

        tau = first + (last - first) * done / (total - 1)

        Example: from 2 to 1 in 5 steps, the third has 1.5.
        """
        return self.first + (self.last - self.first) * min(1.0, done / max(1, total - 1))


def goal_of(how: Mapping[str, Any]) -> Goal:
    """Return the goal that flags describe. Raises ValueError for what is not possible, or has no effect."""
    kind, colon, text = str(how["loss"]).partition(":")
    if kind not in LOSSES:
        raise ValueError(f"--loss {kind!r} is unknown{nearest(kind, LOSSES)}")
    if colon and kind != "ce+cosine":
        raise ValueError(
            f"--loss {how['loss']}: a weight belongs to the cosine beside the cross-entropy: ce+cosine:{text}"
        )
    weight = number(text, f"--loss {how['loss']}: the weight") if colon else 1.0
    smoothing = how["label_smoothing"]
    if type(smoothing) not in (int, float) or not 0 <= smoothing < 1:
        raise ValueError(f"--label-smoothing {smoothing!r} must be at least 0 and below 1")
    if smoothing and kind == "cosine":
        raise ValueError(f"--label-smoothing {smoothing:g} has no effect with --loss cosine: leave it out")
    given = str(how["loss_temperature"])
    parts = [number(part, f"--loss-temperature {given}: a temperature") for part in given.split(":")]
    if len(parts) > 2:
        raise ValueError(f"--loss-temperature {given}: give T, or T0:T1, of the first step and of the last")
    if kind == "ce" and parts != [1.0]:
        raise ValueError(f"--loss-temperature {given} has no effect with --loss ce: leave it out, or give ce+cosine:1")
    return Goal(kind, weight, float(smoothing), parts[0], parts[-1])


def number(text: str, what: str) -> float:
    """Return the number above 0 that a part of a flag says. Raises ValueError, beginning with `what`, for another."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{what} must be a number above 0, got {text!r}")
    return value


def blocks_of(encoder: str) -> int | None:
    """Return how many of the encoder's last blocks are trained: none of a frozen one, and None for all of it."""
    if encoder in ("frozen", "whole"):
        return 0 if encoder == "frozen" else None
    found = re.fullmatch(r"last:(\d+)", encoder)
    if found is None or not int(found[1]):
        raise ValueError(f"--encoder {encoder!r} must be frozen, whole, or last:N, the last N blocks")
    return int(found[1])


def require_blocks(blocks: int | None, encoder: Model) -> None:
    """Raise ValueError for more blocks than an encoder has."""
    n = encoder.config.n_layer
    if blocks is not None and blocks > n:
        raise ValueError(f"--encoder last:{blocks}: the encoder has {n} blocks: give last:1 to last:{n}, or whole")


def trainable_of(model: Model, blocks: int | None) -> str:
    """Return the patterns of the parameters that are trained; `blocks` as blocks_of says.

    What the encoder shares with the decoder, its embedding, is the encoder's.
    """
    if blocks is None:
        return "*"
    n = model.config.encoder.n_layer
    own = sorted({name.partition(".")[0] for name in model.params} - {"encoder"})
    of_encoder = [f"encoder.h.{i}" for i in range(n - blocks, n)] + ["encoder.ln_f"] * (blocks > 0)
    return ",".join(f"{name}.*" for name in [*of_encoder, *own])


def plan_generator(
    base: str, data: Sequence[str], out: str | None, how: Mapping[str, Any], given: dict[str, Any], resume: bool = False
) -> TuningPlan:
    """Settle the settings, and read the examples.

    base   the run folder of the GPT that becomes the encoder
    how    those of SIZES and HOW, skip_long, in_order, encoding, and the file of a template; None or False for what is
           not given
    given  fields of TrainConfig

    Raises FileNotFoundError or ValueError for settings that are not possible, or not possible together.
    """
    folder = require_out(out, resume, "FOLDER")
    if not (data or resume):
        raise ValueError("--data is missing: give a file of JSON lines with prompt and completion")
    saved = read_saved(folder) if resume else None
    config = TrainConfig(**settle(given, GENERATOR, saved["train"] if saved else None))
    require_effect_of_schedule(config, given)
    say_what_adapts(config, saved, given)
    settled = settled_how(how, folder, saved)
    files = data or (saved_names(folder, saved) if saved else [])
    source = ExamplesSource(files, settled["encoding"] or "utf-8", template_of(how["template"], saved))
    source.template = source.template.with_end()
    require_one_turn(source.examples)
    return TuningPlan(base, folder, source, config, settled, saved, frozenset(given))


def settled_how(how: Mapping[str, Any], folder: Path, saved: dict[str, Any] | None) -> dict[str, Any]:
    """Return the part `generator` of train.json, and as `sizes` the fields of SeqConfig: what is given, what the run to
    resume has, and what is left as it is by default. Raises ValueError for what is not possible.
    """
    before = HOW | (read_generator(folder, saved) if saved else {})
    settled = {name: before[name] if how[name] is None else how[name] for name in HOW}
    settled["label_smoothing"] = goal_of(settled).label_smoothing
    blocks_of(settled["encoder"])
    flags = {name: how[name] or bool(before.get(name)) for name in ("skip_long", "in_order")}
    sizes = {name: value for name, value in (saved["model"] if saved else {}).items() if name in SIZES}
    sizes |= {name: how[name] for name in SIZES if how[name] is not None}
    return settled | flags | {"encoding": how["encoding"] or before.get("encoding"), "sizes": sizes}


def template_of(file: str | None, saved: Mapping[str, Any] | None) -> Template | None:
    """Return the template that is given, which must have {end}, or that of the run to resume; None for that of the
    examples' kind.
    """
    if file is None:
        return parse_template(saved["data"]["template"]) if saved else None
    template = Template.read(file)
    if not template.ends:
        raise ValueError(
            f"{file}: a generator's template needs {{end}} directly before {{completion}}, where its prompt ends: "
            f"{template.with_end().text!r:.120}"
        )
    return template


def require_one_end(template: Template, tokenizer: Tokenizer, base: Model) -> None:
    """Raise ValueError for a template with an end token of its own, which would be taken for the end of the prompt."""
    ids = asked_ids(template, tokenizer, "", system="", input="")[:-1]
    if found := [i for i in ids if i in end_ids(base.config)]:
        raise ValueError(
            f"the template {template.text!r:.120} has {tokenizer.decode(found[:1])!r}, which ends texts, "
            "before {end}, where a generator's prompt ends: leave it out"
        )


def require_one_turn(examples: Sequence[Example]) -> None:
    """Raise ValueError, naming the line, for an example of several turns."""
    for example in examples:
        if example.more:
            raise ValueError(f"{example.where}: {len(example.turns())} turns, {ONE_TURN}")


def read_generator(folder: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """Return the part of train.json about a generator. Raises ValueError for a run of another kind."""
    before = saved.get("generator")
    if not isinstance(before, dict) or "encoder" not in saved["model"]:
        command = "finetune RUN" if "finetune" in saved else "train"
        raise ValueError(
            f"{folder} is not a run of npgpt train-generator: continue it with npgpt {command} --resume --out {folder}"
        )
    path = folder / "train.json"
    for name in HOW:
        if type(before.get(name)) is not type(HOW[name]):
            raise ValueError(
                f"{path}: generator.{name} is {before.get(name)!r}, not of type {type(HOW[name]).__name__}"
            )
    for name in ("skip_long", "in_order"):
        if not isinstance(before.get(name), bool):
            raise ValueError(f"{path}: generator.{name} is {before.get(name)!r}, not of type bool")
    if not saved["data"]["files"]:
        raise ValueError(f"{path}: data.files is empty")
    if not isinstance(saved["data"].get("template"), str):
        raise ValueError(f"{path}: data.template is {saved['data'].get('template')!r}, not a string")
    return before


def start_generator(plan: TuningPlan) -> Tuning:
    """Lock the folder, open the encoder, make the generator, pack the examples, and return the run. Nothing is written
    yet.

    Raises FileNotFoundError or ValueError if the encoder and the examples do not fit together, if the folder already
    holds a run, or if a resumed run would become another run.
    """
    with ExitStack() as lock:
        lock.enter_context(locked(plan.folder))
        return _start(plan, lock)


def _start(plan: TuningPlan, lock: ExitStack) -> Tuning:
    """Do what start_generator says. The run takes the lock over."""
    source, folder, how = plan.source, plan.folder, dict(plan.how)
    require_compute(plan.config)
    base, tokenizer = open_base(find_folder(plan.base), plan.config)
    refuse_generator(base, plan.base, "give the GPT that its encoder was made from, or another")
    blocks, sizes = blocks_of(how["encoder"]), how.pop("sizes")
    require_blocks(blocks, base)
    require_one_end(source.template, tokenizer, base)
    model = new_generator(base, plan.config.seed, **sizes)
    config = dataclasses.replace(plan.config, trainable=trainable_of(model, blocks))
    if how["skip_long"]:
        source.skip_long(tokenizer, model.config.n_positions)
    begins = {"base": recorded(plan.base), "base_sha256": hashlib.sha256(base.params.flat.tobytes()).hexdigest()}
    settings = {
        "data": source.settings() | {"tokenizer": tokenizer.fingerprint()},
        "generator": begins | how,
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(config),
    }
    if plan.saved is not None:
        require_run(folder / "model.safetensors")
        require_same(folder, plan.saved, settings)
    parts = packed(plan, tokenizer, model.config.n_positions)
    if plan.saved is None:
        refuse_existing(folder)
    split = saved_split(plan.saved, config, plan.named, model)
    trainer = Trainer(model, parts.train_data, parts.val_data, config, folder, split=split)
    require_memory_for_weights(model, config, trainer.split)
    trainer.on_step = aim(model, goal_of(how), blocks, base)
    return tuning_of(Run(trainer, tokenizer, settings, source, plan.saved, lock=lock.pop_all()), parts)


def aim(model: Any, goal: Goal, blocks: int | None, base: Model) -> Callable[[int, int], None]:
    """Have a generator train for a goal; return what sets the temperature of each step.

    base  the GPT that the encoder began as, whose features the cosine compares
    """
    model.trained_blocks = blocks
    model.critic = base if goal.has_cosine else None
    kind, weight, smoothing, *_ = goal
    final = {"tau": goal.last, "final_tau": goal.last}
    model.objective = model.objective._replace(kind=kind, weight=weight, label_smoothing=smoothing, **final)

    def set_tau(done: int, total: int) -> None:
        model.objective = model.objective._replace(tau=goal.tau(done, total))

    return set_tau


def require_same(folder: Path, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise ValueError for a change that would make the run another run."""
    if what := first_change(saved, settings, FIXED):
        raise ValueError(f"{folder}: {what}; start a new run with another --out")
