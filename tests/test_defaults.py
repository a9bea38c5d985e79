"""Defaults adapt to what is given: a sensible value given alone is accepted, and only what is given can contradict."""

import dataclasses
import json

import pytest

from npgpt import GPTConfig, TrainConfig
from npgpt.config import PRESETS, preset
from npgpt.hub.gpt2 import read_config
from npgpt.support.files import read_sealed_json, write_sealed_json
from npgpt.training.finetuning import plan_finetuning
from npgpt.training.pretraining import plan_training, start_training
from npgpt.training.recipes import TALES, TALES_IN_TWO
from tests.test_cli import command
from tests.test_cli_train import FIELDS, OTHER, TINY, interrupt_after, saved, settings

# further sensible values of fields that depend on another, beside the one in OTHER: below and above the defaults
SENSIBLE = {
    "learning_rate": (1e-6, 3e-5, 3e-4, 0.1),
    "min_lr": (0, 1e-6, 2e-3, 0.1),
    "max_steps": (1, 10, 99, 1_000_000),
    "warmup_steps": (0, 10_000),
    "batch_size": (1, 512),
    "eval_every": (1, 100_000),
    "save_every": (1, 100_000),
    "threads": (1, 64),
    "n_embd": (1, 7, 90, 126, 100, 1024),
    "n_head": (1, 3, 5, 7, 12),
    "n_positions": (1, 1024),
    "vocab_size": (1000, 70_000),
    "beta1": (0, 0.999),
    "beta2": (0, 0.999),
    "tokenizer": ("bpe:300", "bpe:8192"),
}
ALONE = [(f.name, value) for f in FIELDS for value in (OTHER[f.name], *SENSIBLE.get(f.name, ()))]


@pytest.fixture(autouse=True)
def _memory(monkeypatch):
    """However little memory this machine has, a plan for a large preset is no contradiction."""
    for name in ("require_memory", "require_room_for_weights"):
        monkeypatch.setattr(f"npgpt.training.pretraining.{name}", lambda *args, **kwargs: None)


def plan(data="a.txt", **flags):
    return plan_training({"data": [data], "out": "new"} | flags)


def settled(**flags):
    found = plan(**flags)
    return {**dataclasses.asdict(found.config), **found.model}


@pytest.mark.parametrize(("name", "value"), ALONE, ids=str)
def test_a_sensible_value_given_alone_is_accepted(name, value):
    for data in ("a.txt", "tales:en", "tales"):
        assert settled(data=data, **{name: value})[name] == value
        assert plan_training({"data": [data], "out": "new"}, {name: value}).config, "in a file"


@pytest.mark.parametrize(("name", "value"), [pair for pair in ALONE if pair[0] in PRESETS["tiny"]], ids=str)
@pytest.mark.parametrize("size", PRESETS)
def test_a_sensible_size_is_accepted_beside_a_preset(size, name, value):
    for data in ("a.txt", "tales:en", "tales"):
        assert settled(data=data, preset=size, **{name: value})[name] == value
    assert getattr(preset(size, **{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), ALONE, ids=str)
def test_a_sensible_field_given_alone_is_accepted_in_python(name, value):
    config = GPTConfig if name in {field.name for field in dataclasses.fields(GPTConfig)} else TrainConfig
    assert getattr(config(**{name: value}), name) == value


HOW = {"skip_long": False, "in_order": False, "lora": None, "lora_alpha": None}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, v in ALONE if hasattr(TrainConfig, n)], ids=str)
def test_a_sensible_value_given_alone_is_accepted_in_fine_tuning(text, name, value):
    (text / "t.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    assert getattr(plan_finetuning("base", ["t.jsonl"], "new", HOW, {name: value}).config, name) == value


@pytest.mark.parametrize(
    ("data", "recipe"), [("a.txt", {}), ("tales:en", TALES), ("tales:zh", TALES), ("tales", TALES_IN_TWO)]
)
def test_without_flags_nothing_adapts(data, recipe):
    expected = dataclasses.asdict(TrainConfig()) | PRESETS["tiny"] | recipe
    assert settled(data=data) == expected
    plain = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    assert dataclasses.asdict(TrainConfig()) == plain
    for name in PRESETS:
        assert settled(data=data, preset=name) == expected | PRESETS[name]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"learning_rate": 3e-5}, {"min_lr": 3e-6}),
        ({"learning_rate": 5e-4}, {"min_lr": 5e-5}),
        ({"learning_rate": 4e-3}, {"min_lr": 1e-4}),
        ({"min_lr": 2e-3}, {"learning_rate": 2e-3}),
        ({"learning_rate": 3e-5, "data": "tales"}, {"min_lr": 3e-6}),
        ({"min_lr": 1e-2, "data": "tales"}, {"learning_rate": 1e-2}),
        ({"max_steps": 20}, {"warmup_steps": 2}),
        ({"max_steps": 5}, {"warmup_steps": 0}),
        ({"decay_share": 0.2}, {"schedule": "trapezoid"}),
        ({"max_steps": 5000}, {"warmup_steps": 100}),
        ({"max_steps": 100, "data": "tales"}, {"warmup_steps": 10}),
        ({"max_steps": 20, "warmup_steps": 100}, {"warmup_steps": 100}),
        ({"n_embd": 90}, {"n_head": 3}),
        ({"n_embd": 7}, {"n_head": 1}),
        ({"n_head": 3}, {"n_embd": 129}),
        ({"preset": "small", "n_embd": 128}, {"n_head": 4}),
        ({"preset": "gpt2-xl", "n_embd": 128, "data": "tales"}, {"n_head": 16}),
        ({"vocab_size": 1000, "data": "tales"}, {"tokenizer": "bpe:1000"}),
        ({"vocab_size": 5000, "data": "tales"}, {"tokenizer": "bpe:4096"}),
        ({"pack": True}, {"tokenizer": "bpe:4096"}),
        ({"pack": False}, {"tokenizer": "chars"}),
        ({"pack": True, "tokenizer": "chars"}, {"tokenizer": "chars"}),
        ({"document_separator": "犬"}, {"tokenizer": "bpe:4096"}),
        ({"document_separator": "file"}, {"tokenizer": "bpe:4096"}),
        ({"document_separator": "none"}, {"tokenizer": "chars"}),
        ({"document_separator": "auto"}, {"tokenizer": "chars"}),
        ({"document_separator": "---", "tokenizer": "bpe:300"}, {"tokenizer": "bpe:300"}),
        ({"end_token": "</s>"}, {"tokenizer": "bpe:4096"}),
        ({"end_token": "</s>", "vocab_size": 300}, {"tokenizer": "bpe:300", "vocab_size": 300}),
        ({"end_token": "</s>", "vocab_size": 300, "data": "tales"}, {"tokenizer": "bpe:300"}),
        ({"vocab_size": 300, "pack": True}, {"tokenizer": "bpe:300"}),
        ({"vocab_size": 300}, {"tokenizer": "chars"}),
        ({"preset": "small", "data": "tales:en"}, {"n_positions": 256, "n_layer": 6}),
        ({"preset": "gpt2", "data": "tales"}, {"n_positions": 1024}),
        ({"preset": "tiny", "n_positions": 200, "data": "tales"}, {"n_positions": 200}),
    ],
    ids=str,
)  # fmt: skip
def test_what_defaults_become(given, expected):
    found = settled(**given)
    assert found | expected == found


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"learning_rate": 3e-5, "min_lr": 1e-4}, "min_lr=0.0001 is above learning_rate=3e-05"),
        ({"n_embd": 90, "n_head": 4}, "n_head=4 does not divide n_embd=90"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"learning_rate": True}, "learning_rate=True"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"min_lr": -1}, "min_lr=-1"),
        ({"n_head": 0}, "n_head=0 must be at least 1"),
        ({"n_embd": -3}, "n_embd=-3 must be at least 1"),
        ({"n_embd": 6.5}, "n_embd=6.5 must be of type int"),
        ({"max_steps": "ten"}, "max_steps='ten'"),
        ({"max_steps": 20.0}, "max_steps=20.0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("data", ["a.txt", "tales"])
def test_what_is_given_is_refused_where_it_is_wrong(given, match, data):
    with pytest.raises(ValueError, match=match):
        plan(data, **given)
    with pytest.raises(ValueError, match=match):
        plan_training({"data": [data], "out": "new"}, given)


def test_what_the_file_gives_and_a_flag_contradicts_is_refused():
    with pytest.raises(ValueError, match=r"min_lr=.* is above learning_rate"):
        plan_training({"data": ["a.txt"], "out": "new", "learning_rate": 3e-5}, {"min_lr": 1e-4})


def test_a_field_is_either_positional_or_named():
    assert GPTConfig(300, 64, n_embd=90).n_head == 10
    with pytest.raises(TypeError, match="vocab_size"):
        GPTConfig(300, vocab_size=300)
    with pytest.raises(TypeError, match="no_field"):
        TrainConfig(no_field=1)


def test_a_hub_folder_that_leaves_out_the_heads_has_those_of_gpt2(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 90}')
    with pytest.raises(ValueError, match="n_head=12 does not divide n_embd=90"):
        read_config(tmp_path / "config.json")


def test_the_settled_values_are_recorded_and_resumed(capsys, text, monkeypatch):
    small = [word for pair in zip(TINY[::2], TINY[1::2], strict=True) if pair[0] != "--warmup-steps" for word in pair]
    flags = ("train", "--data", "a.txt", *small, "--learning-rate", 3e-5, "--max-steps", 30)
    assert command(capsys, *flags, "--out", "whole")[0] == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert command(capsys, *flags, "--out", "r")[0] == 130
    found = settings(text / "r")
    assert (found["min_lr"], found["warmup_steps"]) == (3e-6, 3)
    code, _, err = command(capsys, "train", "--resume", "--out", "r")
    assert (code, err) == (0, "")
    assert saved(text / "r") == saved(text / "whole")
    assert command(capsys, "train", "--resume", "--out", "r", "--max-steps", 40)[0] == 0
    assert settings(text / "r") == found | {"max_steps": 40}, "the warm-up stays what it was"


def test_a_resumed_rate_adapts_to_what_is_given_now_and_says_so(capsys, caplog, text):
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY)[0] == 0
    go_on = ("train", "--resume", "--out", "r", "--max-steps")
    assert command(capsys, *go_on, 7, "--learning-rate", 1e-5)[0] == 0
    assert caplog.messages == ["min_lr is 1e-06 instead of 0.0001 from now on, to fit"]
    assert settings(text / "r")["min_lr"] == pytest.approx(1e-6)
    assert command(capsys, *go_on, 8, "--min-lr", 1e-4)[0] == 0
    assert caplog.messages[1:] == ["learning_rate is 0.0001 instead of 1e-05 from now on, to fit"]
    code, _, err = command(capsys, *go_on, 9, "--min-lr", 1e-4, "--learning-rate", 1e-5)
    assert (code, err.count("\n")) == (2, 1)


def test_the_former_name_of_random_weights_is_refused_with_the_new_one(capsys, text):
    (text / "c.toml").write_text('init = "gpt2"\n')
    for given in ("--init", "gpt2"), ("--config", "c.toml"):
        code, _, err = command(capsys, "train", "--data", "a.txt", "--out", "r", *given, *TINY)
        assert code == 2
        assert ": it is called normal now, because it draws random weights and loads no GPT-2: give normal" in err
        assert err.count("\n") == 1
        assert not (text / "r").exists()


def test_a_run_that_was_begun_under_the_former_name_is_resumed(capsys, text):
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY)[0] == 0
    saved = read_sealed_json(text / "r" / "train.json")
    saved["train"]["init"] = "gpt2"
    write_sealed_json(text / "r" / "train.json", saved)
    assert command(capsys, "train", "--resume", "--out", "r", "--max-steps", 7)[0] == 0
    assert read_sealed_json(text / "r" / "train.json")["run"] == saved["run"]
    assert settings(text / "r")["init"] == "normal"


def test_a_resumed_model_keeps_its_sizes(capsys, text):
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY)[0] == 0
    code, _, err = command(capsys, "train", "--resume", "--out", "r", "--init", "copy")
    assert (code, err) == (2, "npgpt train: error: init is 'normal' in r and cannot change with --resume\n")
    code, _, err = command(capsys, "train", "--resume", "--out", "r", "--n-head", 3)
    assert (code, err) == (2, "npgpt train: error: n_head is 2 in r and cannot become 3 with --resume\n")
    assert command(capsys, "train", "--resume", "--out", "r", "--n-head", 2, "--max-steps", 7)[0] == 0


@pytest.mark.parametrize("content", ["学而时习之，不亦说乎？\n" * 3, "e\u0301🚀\r\n" * 5, "aabb" * 3])
@pytest.mark.parametrize("flags", [(), ("--preset", "small", "--n-embd", 8)], ids=str)
def test_a_text_shorter_than_the_default_context_is_learned(capsys, caplog, text, content, flags):
    (text / "a.txt").write_bytes(content.encode("utf-8"))
    tiny = ("--n-layer", 1, "--max-steps", 1, "--threads", 1, "--sample-tokens", 0)
    code, _, err = command(capsys, "train", "--data", "a.txt", "--out", "r", *tiny, *flags)
    assert code == 0, err
    n_positions = settings(text / "r")["n_positions"]
    default = 256 if flags else 64
    assert n_positions < default
    assert f"n_positions is {n_positions} instead of {default}, to suit the text" in caplog.messages
    assert command(capsys, "train", "--resume", "--out", "r", "--max-steps", 2)[:3:2] == (0, "")


@pytest.mark.parametrize("flags", [{"n_positions": 64}, {"n_positions": 18}], ids=str)
def test_a_given_context_is_not_changed(text, flags):
    (text / "a.txt").write_text("aabb" * 5)
    with pytest.raises(ValueError, match=f"n_positions={flags['n_positions']} needs at least"):
        start_training(plan(**flags))


@pytest.mark.parametrize(
    "flags", [{"document_separator": "狗"}, {"pack": True}, {"end_token": "</s>", "vocab_size": 300}], ids=str
)
def test_what_needs_an_end_token_given_alone_learns_one(text, flags):
    (text / "a.txt").write_text("".join(f"第{i}句 the theme {i * i}<|endoftext|>狗" for i in range(400)), "utf-8")
    run = start_training(plan(max_steps=1, **flags))
    assert run.tokenizer.end_token == flags.get("end_token", "<|endoftext|>")
    assert run.tokenizer.vocab_size <= flags.get("vocab_size", 4096)


def test_a_text_without_two_tokens_is_refused(text):
    (text / "a.txt").write_text("ab")
    with pytest.raises(ValueError, match="too short"):
        start_training(plan())


def test_a_small_vocabulary_makes_room_for_longer_tales(text, monkeypatch):
    monkeypatch.setattr("npgpt.data.source.TOKENIZER_TALES", 50)
    monkeypatch.setattr("npgpt.data.source.VALIDATION_TALES", 20)
    run = start_training(plan("tales:en", vocab_size=300, max_steps=1))
    longest = max(int((row != -100).sum()) for row in run.trainer.val_data.targets)
    assert 288 < longest <= run.model.config.n_positions
    assert run.settings["train"]["tokenizer"] == "bpe:300"
    assert json.loads(json.dumps(run.settings["model"]))["vocab_size"] == 300
    with pytest.raises(ValueError, match="n_positions=288 is too short"):
        start_training(plan("tales:en", vocab_size=300, max_steps=1, n_positions=288, out="other"))
