"""The configurations: what they refuse, and how names are matched."""

import dataclasses

import numpy as np
import pytest

from npgpt import GPTConfig, TrainConfig
from npgpt.config import PRESETS, preset
from npgpt.support.fields import split_fields
from npgpt.support.hints import nearest


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_head": 5, "n_embd": 768}, "n_head=5 does not divide n_embd=768"),
        ({"n_layer": 0}, "n_layer=0 must be at least 1"),
        ({"vocab_size": -1}, "vocab_size=-1"),
        ({"n_inner": 0}, "n_inner=0"),
        ({"n_embd": 768.0}, "n_embd=768.0 must be of type int"),
        ({"n_embd": True}, "n_embd=True must be of type int"),
        ({"n_embd": None}, "n_embd=None"),
        ({"bias": 1}, "bias=1 must be of type bool"),
        ({"attn_pdrop": 1.0}, r"attn_pdrop=1.0 must be in \[0, 1\)"),
        ({"resid_pdrop": float("nan")}, "resid_pdrop=nan"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon=0.0 must be above 0"),
        ({"initializer_range": float("inf")}, "initializer_range=inf must be finite"),
        ({"activation_function": "gelu_ne"}, "did you mean 'gelu_new'"),
        ({"activation_function": "relu"}, "relu"),
    ],
)
def test_gpt_config_refuses(changes, match):
    with pytest.raises(ValueError, match=match):
        GPTConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": 0}, "learning_rate=0.0 must be above 0"),
        ({"learning_rate": 1e-5, "min_lr": 1e-4}, "min_lr=0.0001 is above learning_rate=1e-05"),
        ({"beta2": 1.0}, "beta2=1.0"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"ops": "fas"}, "did you mean 'fast'"),
        ({"ops": "slow"}, "ops='slow'"),
        ({"seed": -1}, "seed=-1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"max_steps": "many"}, "max_steps='many' must be of type int"),
    ],
)
def test_train_config_refuses(changes, match):
    with pytest.raises(ValueError, match=match):
        TrainConfig(**changes)


def test_numbers_become_pythons_own():
    config = GPTConfig(vocab_size=np.int64(65), resid_pdrop=np.float32(0.5), layer_norm_epsilon=1)
    assert type(config.vocab_size) is int
    assert type(config.resid_pdrop) is float
    assert config.layer_norm_epsilon == 1.0


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().n_layer = 3


def test_mlp_width():
    assert GPTConfig(n_embd=8, n_head=2).mlp_width == 32
    assert GPTConfig(n_embd=8, n_head=2, n_inner=5).mlp_width == 5


def test_presets():
    assert all(preset(name) for name in PRESETS)
    tiny = preset("tiny", vocab_size=65)
    assert (tiny.n_layer, tiny.n_head, tiny.n_embd, tiny.n_positions, tiny.vocab_size) == (4, 4, 128, 64, 65)
    with pytest.raises(ValueError, match="did you mean 'small'"):
        preset("smal")


def test_fields_are_sorted_and_unknown_ones_named():
    gpt, train, other = split_fields({"n_embd": 8, "seed": 3, "data": "x"}, GPTConfig, TrainConfig, also=["data"])
    assert (gpt, train, other) == ({"n_embd": 8}, {"seed": 3}, {"data": "x"})
    with pytest.raises(ValueError, match="unknown key 'learnin_rate'; did you mean 'learning_rate'"):
        split_fields({"learnin_rate": 1}, GPTConfig, TrainConfig)


def test_nearest_lists_all_where_none_is_near():
    assert nearest("zzz", ["abc", "def"]) == "; known are abc, def"


def test_every_field_has_help():
    for config in (GPTConfig, TrainConfig):
        for field in dataclasses.fields(config):
            assert field.metadata["help"], field.name
