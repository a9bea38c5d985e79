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


def recipe_for(data: Sequence[str]) -> dict[str, Any]:
    """Return the settings that suit what --data names. Every setting that is given overrides them."""
    from npgpt.data.tales.corpus import langs_of

    langs = langs_of(data[0]) if len(data) == 1 else None
    if langs is None:
        return {}
    return TALES if len(langs) == 1 else TALES_IN_TWO


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
