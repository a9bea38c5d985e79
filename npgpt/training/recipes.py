"""Recipes, the settings that suit some data, and how flags, files, presets and recipes combine."""

from collections.abc import Mapping, Sequence
from typing import Any

from npgpt.config import PRESETS, TrainConfig, settle
from npgpt.support.hints import nearest

DEFAULT_PRESET = "tiny"
DROPOUTS = ("embd_pdrop", "resid_pdrop", "attn_pdrop")

# a small model that learns the tales of one language in minutes
TALES: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 128,
    "n_positions": 288,  # room for two tales and little more
    "initializer_range": 0.08,
    "tie_word_embeddings": False,
    "init": "copy",
    "tokenizer": "bpe:2048",
    "batch_size": 4,
    "optimizer": "muon",  # comes nearer to the floor than adamw, and the model then learns tasks sooner
    "learning_rate": 5e-3,
    "min_lr": 1e-4,
    "warmup_steps": 50,
    "weight_decay": 0.2,
    "beta2": 0.98,
    "max_steps": 3200,
    "eval_every": 400,
    "save_every": 400,
}
# a model that learns the tales of both languages in a quarter of an hour
TALES_IN_TWO: dict[str, Any] = TALES | {
    "n_layer": 3,
    "n_positions": 384,
    "tokenizer": "bpe:4096",
    "max_steps": 9500,
    "eval_every": 1000,
    "save_every": 1000,
}
# the defaults of npgpt finetune
FINETUNE: dict[str, Any] = {
    "batch_size": 4,
    "learning_rate": 1e-3,
    "min_lr": 5e-5,
    "warmup_steps": 50,
    "weight_decay": 0.01,
    "beta2": 0.98,
    "max_steps": 1000,
    "eval_every": 200,
    "save_every": 200,
}
# The defaults of npgpt train-generator. A new decoder learns as a new model of the tales does: by muon, at a high rate.
# It first has to find out where in a prompt to look, which takes a thousand steps
GENERATOR: dict[str, Any] = FINETUNE | {
    "optimizer": "muon",
    "learning_rate": 2.5e-3,
    "min_lr": 1e-4,
    "weight_decay": 0.2,
    "max_steps": 8000,
    "eval_every": 500,
    "save_every": 500,
}

RECIPES = ("nanogpt", "minutes")
DEFAULT_MINUTES = 3.0  # for own text
# The sizes that the recipe of a run with a limit on its time chooses from, and what it sets for all of them
SIZES: tuple[dict[str, Any], ...] = tuple(
    dict(zip(("n_layer", "n_embd", "n_head", "n_positions", "batch_size"), size, strict=True))
    for size in (
        (2, 64, 4, 64, 24),
        (2, 96, 4, 128, 12),
        (2, 128, 4, 128, 12),
        (3, 128, 4, 128, 12),
        (3, 192, 6, 128, 16),
        (4, 192, 6, 128, 16),
        (4, 256, 4, 256, 8),
        (6, 256, 4, 256, 8),
        (6, 384, 6, 256, 8),
        (8, 512, 8, 256, 16),
    )
)
MINUTES: dict[str, Any] = {
    "optimizer": "muon",
    "init": "shift",
    "initializer_range": 0.04,
    "schedule": "trapezoid",
    "decay_share": 0.7,
    "windows": "shuffled",
}
# Of a run in whose time a text could be read so often: its dropout, its weight decay, and its patience in evaluations
DROPOUT = ((0, 0.0), (6, 0.1), (9, 0.15), (20, 0.2), (400, 0.3))
WEIGHT_DECAY = ((0, 0.1), (4, 0.3), (12, 0.5))
PATIENCE = ((0, 0), (4, 6))
# Where each kind of token occurs less often than this on average, the embedding is the head: on all Tang poems, whose
# 5,613 characters occur 79 times each, that is worth 0.04 nats (one seed, 1,000 steps).
TIED = 150
# For a text in which each kind of token occurs less than SELDOM times on average, such as 20 kB of Chinese by
# characters. In twenty steps of its rate, which embeddings and head follow, Muon learns it by heart, and soon the
# loss exceeds that of a guess. AdamW at this rate is best after some 15 epochs (benchmarks/recipes/small.jsonl).
SELDOM, FEW_EPOCHS = 10, 20.0
OF_SELDOM: dict[str, Any] = {
    "n_layer": 3,
    "n_embd": 96,
    "n_head": 3,
    "n_positions": 64,
    "batch_size": 12,
    "optimizer": "adamw",
    "tie_word_embeddings": True,
    "learning_rate": 1e-3,
    "min_lr": 1e-5,
    "embd_pdrop": 0.2,
    "resid_pdrop": 0.2,
    "attn_pdrop": 0.2,
    "weight_decay": 0.3,
}
# Texts of so many bytes and more are read as pieces of words, by a vocabulary of this size
VOCABULARIES = ((8e6, "bpe:2048"), (64e6, "bpe:4096"))


def rate_of(n_embd: int, optimizer: str) -> float:
    """Return the learning rate for a width: Muon's is 1e-2 at 128 channels and 8e-3 at 256."""
    if optimizer == "adamw":
        return round(min(3e-3, 2e-3 * (128 / n_embd) ** 0.5), 4)
    return round(min(2e-2, 1e-2 * (128 / n_embd) ** 0.32), 4)


def step_of(table: Sequence[tuple[float, Any]], value: float) -> Any:
    """Return what a table of thresholds has for a value: the last whose threshold is at most that."""
    return next((found for least, found in reversed(table) if value >= least), table[0][1])


def recipe_for(data: Sequence[str]) -> dict[str, Any]:
    """Return the settings that suit what --data names. Every setting that is given overrides them."""
    from npgpt.data.tales.corpus import langs_of

    langs = langs_of(data[0]) if len(data) == 1 else None
    if langs is None:
        return {}
    return TALES if len(langs) == 1 else TALES_IN_TWO


def recipe_of(given: Mapping[str, Any], resume: bool) -> str | None:
    """Return which of RECIPES the command follows: the one that is given or, for a new run on own text, the one of
    minutes, unless a preset or a number of steps is given."""
    from npgpt.data.tales.corpus import langs_of

    data = given.get("data")
    tales = not data or (len(data) == 1 and langs_of(data[0]))
    if "recipe" in given or resume or tales or given.keys() & {"minutes", "preset", "max_steps"}:
        return given.get("recipe")
    return "minutes"


def minutes_of(given: Mapping[str, Any], saved: Mapping[str, Any]) -> float | None:
    """Return the minutes of a run: those that are given, its recipe's, or, unless a number of steps is given, those of
    the run to resume. Raises ValueError for an unknown recipe, and for minutes that contradict it."""
    recipe, minutes = given.get("recipe"), given.get("minutes")
    if recipe not in (None, *RECIPES):
        raise ValueError(f"unknown recipe {recipe!r}{nearest(str(recipe), RECIPES)}")
    if recipe == "nanogpt" and minutes is not None:
        raise ValueError(f"--recipe nanogpt has a number of steps, not --minutes {minutes}: leave one of them out")
    if minutes is not None or recipe == "minutes":
        return minutes if minutes is not None else DEFAULT_MINUTES
    return None if "max_steps" in given else saved.get("minutes")


def merge(
    flags: Mapping[str, Any], file: Mapping[str, Any], saved: Mapping[str, Any], recipe: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Combine all settings: a flag beats the --config file, which beats the settings saved with a resumed run.

    All three beat the preset, which a flag or the file may name, and the preset beats the recipe. What preset and
    recipe set adapts to what is given, as in `settle`. Raises ValueError for an unknown preset.

    Example: merge({"n_layer": 2}, {"preset": "small"}, {}) has n_layer 2, and otherwise the sizes of small.
    """
    given = _spread(file) | _spread(flags)
    name = given.pop("preset", None)
    if name is not None and name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}{nearest(name, PRESETS)}")
    below = {
        "tokenizer": TrainConfig.tokenizer,
        **PRESETS[DEFAULT_PRESET],
        **(recipe or {}),
        **(PRESETS[name] if name else {}),
    }
    return settle(given, below, _spread(saved))


def _spread(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace dropout by the fields that it sets. A field that is set itself keeps its value."""
    spread = dict(values)
    if "dropout" in spread:
        dropout = spread.pop("dropout")
        spread = dict.fromkeys(DROPOUTS, dropout) | spread
    return spread
