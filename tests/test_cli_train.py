"""`npgpt train`: flags, files and presets, what it writes, Ctrl-C, and --resume."""

import dataclasses
import itertools
import json
import os
import re
import signal

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, Tokenizer, TrainConfig
from npgpt.cli.options import DEFAULTS
from npgpt.config import PRESETS
from npgpt.hub.tensors import read_tensors
from npgpt.support.fields import split_fields
from npgpt.training.checkpoint import STATE, load_last, load_state
from npgpt.training.recipes import merge
from tests.conftest import mostly_big
from tests.test_cli import command, start

TEXT = "the quick brown fox jumps over the lazy dog\n" * 20
DOCUMENTS = TEXT.replace("\n", "<end>")
TINY = (
    *("--n-layer", 1, "--n-head", 2, "--n-embd", 8, "--n-positions", 8, "--batch-size", 2, "--max-steps", 6),
    *("--eval-every", 2, "--eval-batches", 1, "--save-every", 2, "--sample-tokens", 3, "--warmup-steps", 1),
    *("--threads", 1),
)
FILES = {
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("train.json", "metrics.jsonl", STATE),
}


def train(capsys, *flags) -> tuple[int, str, str]:
    return command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY, *flags)


def resume(capsys, *flags) -> tuple[int, str, str]:
    return command(capsys, "train", "--resume", "--out", "r", *flags)


def settings(folder) -> dict:
    saved = json.loads((folder / "train.json").read_text())
    return saved["model"] | saved["train"]


def steps(folder) -> list[int]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def saved(folder) -> dict:
    """Everything in a run but the times in its metrics and the order of names in its headers."""
    found = {name: (folder / name).read_bytes() for name in FILES if name.endswith(".json")}
    for name in ("model.safetensors", STATE):
        tensors, found[name] = read_tensors(folder / name)
        found |= {f"{name}: {key}": tensor.tobytes() for key, tensor in tensors.items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return found | {"metrics": [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]}


def test_train_writes_a_run_and_says_what_it_did(capsys, text, monkeypatch):
    monkeypatch.setattr(
        "npgpt.support.jit.is_compiled", lambda package: True
    )  # no line on stderr of a first compilation
    code, out, err = train(capsys)
    assert (code, err) == (0, "")
    assert {path.name for path in (text / "r").iterdir()} == FILES
    model = GPT.from_pretrained("r")
    assert model.config.vocab_size == len(set(TEXT))
    assert f"{model.params.flat.size:,} parameters" in out
    assert f"{int(0.9 * len(TEXT)):,} to train on, {len(TEXT) - int(0.9 * len(TEXT)):,} for validation" in out
    assert [int(line.split()[1]) for line in out.splitlines() if line.startswith("step ")] == [2, 4, 6]
    whole = json.loads((text / "r" / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"validation loss {whole['val_loss']:.4f}" in out
    sample = out.split("a sample:\n")[1].split("\n\ngenerate more")[0]
    assert len(sample.removesuffix("\n")) == 3
    assert command(capsys, "sample", "r", "--max-new-tokens", 5)[0] == 0


def test_runs_without_a_name_are_numbered(capsys, text):
    for _ in range(2):
        assert command(capsys, "train", "--data", "a.txt", *TINY, "--max-steps", 1)[0] == 0
    (text / "runs" / "7").mkdir()
    (text / "runs" / "notes").mkdir()
    assert command(capsys, "train", "--data", "a.txt", *TINY, "--max-steps", 1)[0] == 0
    assert sorted(p.name for p in (text / "runs").iterdir()) == ["1", "2", "7", "8", "notes"]


@pytest.mark.parametrize("flags", [("--data", "a.txt", "b.txt"), ("--data", "a.txt", "--data", "b.txt")], ids=" ".join)
def test_several_texts_are_each_split(capsys, text, flags):
    (text / "b.txt").write_text("0123456789" * 9)
    code, out, err = command(capsys, "train", *flags, "--out", "r", *TINY)
    assert (code, err) == (0, "")
    val = len(TEXT) - int(0.9 * len(TEXT)) + 9
    assert f"{len(TEXT) + 90 - val:,} to train on, {val:,} for validation" in out
    assert Tokenizer.from_pretrained("r").vocab_size == len(set(TEXT)) + 10


OTHER = {  # a value that is not the default for every field
    "init": "copy",
    "optimizer": "muon",
    "trainable": "h.*",
    "vocab_size": 310,  # more than the tokenizer's
    "n_positions": 7,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "n_inner": 5,
    "activation_function": "gelu",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.2,
    "attn_pdrop": 0.3,
    "layer_norm_epsilon": 1e-3,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
    "bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tokenizer": "bpe:270",
    "pretrain": "tales:en",
    "end_token": "<end>",
    "pack": True,
    "batch_size": 3,
    "gradient_accumulation_steps": 2,
    "minutes": 0.5,
    "max_steps": 3,
    "learning_rate": 0.01,
    "min_lr": 0.001,
    "schedule": "trapezoid",
    "decay_share": 0.2,
    "windows": "shuffled",
    "average": 0.5,
    "warmup_steps": 1,
    "weight_decay": 0.2,
    "beta1": 0.8,
    "beta2": 0.9,
    "adam_epsilon": 1e-6,
    "grad_clip": 0.5,
    "eval_every": 2,
    "eval_batches": 1,
    "patience": 4,
    "final_eval_tokens": 8,
    "save_every": 2,
    "sample_tokens": 0,
    "seed": 7,
    "threads": 1,
    "dtype": "float64",
    "compute": "bf16",
    "ops": "reference",
}
# float64 is not rounded to bfloat16, and packed rows are no windows
TOGETHER = OTHER | {"compute": "float32", "windows": "random"}
FIELDS = [*dataclasses.fields(TrainConfig), *dataclasses.fields(GPTConfig)]


def as_flag(name: str, value) -> list:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-")]
    return [flag, value]


def as_toml(values: dict, dashed: bool) -> str:
    return "".join(f"{k.replace('_', '-') if dashed else k} = {json.dumps(v)}\n" for k, v in values.items())


def test_every_field_has_another_value_to_try():
    assert set(OTHER) == {field.name for field in FIELDS}
    assert all(OTHER[field.name] != field.default for field in FIELDS)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_is_a_flag_with_help_and_default(capsys, field):
    out = command(capsys, "train", "--help")[1]
    flag = f"--{field.name.replace('_', '-')}"
    [text] = [" ".join(part.split()) for part in out.split("\n  --") if re.match(flag[2:] + r"[\s,]", part)]
    assert field.metadata["help"] in text
    default = (PRESETS["tiny"] | DEFAULTS).get(field.name, field.default)
    if default is None or isinstance(default, bool | str):
        default = {True: "on", False: "off", "*": "all", None: "none"}.get(default, default)
    assert f"(default: {default}" in text
    assert all(choice in text for choice in field.metadata["choices"] or ())


@pytest.mark.parametrize(
    "way",
    [pytest.param("flags", marks=pytest.mark.big), "file with _", pytest.param("file with -", marks=pytest.mark.big)],
)
def test_every_field_can_be_set(capsys, text, few_tales, known_machine, way):
    flags = [word for name, value in TOGETHER.items() for word in as_flag(name, value)]
    if way != "flags":
        (text / "c.toml").write_text(as_toml(TOGETHER, dashed="-" in way))
        flags = ["--config", "c.toml"]
    (text / "a.txt").write_text(DOCUMENTS)
    code, _, err = command(capsys, "train", "--data", "a.txt", "--out", "r", *flags)
    assert (code, err) == (0, "")
    assert settings(text / "r") == TOGETHER
    model = GPT.from_pretrained("r", "float64")
    assert dataclasses.asdict(model.config).items() <= TOGETHER.items()
    assert load_last(text / "r", "float64").dtype == "float64"
    assert read_tensors(text / "r" / "model.safetensors")[0]["wte.weight"].dtype == "float64"
    assert steps(text / "r") == [1, 2, 3]


def test_a_config_file_may_name_everything(capsys, text):
    (text / "b.txt").write_text(TEXT)
    values = {"data": ["a.txt", "b.txt"], "out": "named", "preset": "small", "dropout": 0.2, "attn_pdrop": 0.3}
    small = {"n_layer": 1, "n_embd": 12, "max_steps": 1, "batch_size": 1, "eval_batches": 1, "sample_tokens": 0}
    (text / "c.toml").write_text(as_toml(values | small, dashed=False))
    assert command(capsys, "train", "--config", "c.toml")[0] == 0
    found = settings(text / "named")
    assert (found["n_head"], found["n_positions"], found["n_embd"]) == (6, 256, 12), "the file beats its preset"
    assert (found["resid_pdrop"], found["embd_pdrop"], found["attn_pdrop"]) == (0.2, 0.2, 0.3)
    files = json.loads((text / "named" / "train.json").read_text())["data"]["files"]
    assert files == [str(text / "a.txt"), str(text / "b.txt")]


def test_a_single_text_in_a_config_file_need_not_be_a_list(capsys, text):
    (text / "c.toml").write_text('data = "a.txt"\nout = "r"\n')
    assert command(capsys, "train", "--config", "c.toml", *TINY)[0] == 0


@pytest.mark.parametrize(
    ("flags", "file", "saved", "expected"),
    [
        ({}, {}, {}, {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 64}),
        ({"preset": "gpt2-xl"}, {}, {}, {"n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024}),
        ({"preset": "gpt2"}, {"preset": "small"}, {}, PRESETS["gpt2"]),
        ({"preset": "small"}, {"n_embd": 12}, {}, {"n_embd": 12, "n_layer": 6}),
        ({"n_embd": 6}, {"n_embd": 12, "preset": "small"}, {"n_embd": 24}, {"n_embd": 6, "n_layer": 6}),
        ({}, {"n_embd": 12}, {"n_embd": 24, "seed": 3}, {"n_embd": 12, "seed": 3}),
        ({"dropout": 0.1}, {"resid_pdrop": 0.3}, {}, dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1)),
        ({"resid_pdrop": 0.3}, {"dropout": 0.1}, {}, {"resid_pdrop": 0.3, "embd_pdrop": 0.1, "attn_pdrop": 0.1}),
        ({"dropout": 0.1, "attn_pdrop": 0.0}, {}, {}, {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.0}),
    ],
)
def test_a_flag_beats_the_file_beats_the_saved_run_beats_the_preset(flags, file, saved, expected):
    merged = merge(flags, file, saved)
    assert merged | expected == merged
    assert "dropout" not in merged
    assert "preset" not in merged


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_model(name):
    sizes, _ = split_fields(merge({"preset": name}, {}, {}), GPTConfig, also=("tokenizer",))
    assert GPTConfig(**sizes).mlp_width == 4 * PRESETS[name]["n_embd"]


WRITINGS = {
    "Chinese": "春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。\n",
    "emoji and combining marks": "e\u0301a\u0308 👩\u200d🚀🎉 ไม่ a\u0301\u0323\r\n",
    "no line end": "abcd ef",
    "one character": "aa",
}


LEARNED = {("Chinese", "chars"), ("emoji and combining marks", "bytes"), ("one character", "chars")}


@pytest.mark.parametrize(
    ("writing", "tokenizer"), mostly_big([*itertools.product(WRITINGS, ["chars", "bytes"])], LEARNED.__contains__)
)
def test_any_writing_is_learned_by_heart(capsys, text, writing, tokenizer):
    """A text repeated over and over comes back from its first characters, character for character."""
    line = WRITINGS[writing]
    (text / "a.txt").write_bytes((line * (400 // len(line))).encode("utf-8"))
    flags = ("--learning-rate", 0.02, "--max-steps", 100, "--n-embd", 32, "--n-positions", 24, "--batch-size", 6)
    flags += ("--newline", "keep", "--eval-every", 1000, "--min-lr", 0, "--warmup-steps", 10, "--sample-tokens", 0)
    assert train(capsys, "--tokenizer", tokenizer, *flags)[0] == 0
    assert Tokenizer.from_pretrained("r").vocab_size == (256 if tokenizer == "bytes" else len(set(line)))
    count = len(line.encode("utf-8") if tokenizer == "bytes" else line)
    _, out, _ = command(capsys, "sample", "r", "--temperature", 0, "--prompt", line, "--max-new-tokens", count)
    assert out == line * 2 + "\n"


def test_a_real_chinese_text_trains_and_samples(capsys, text, shared_text):
    (text / "a.txt").write_text(shared_text("tang.txt")[:20_000], encoding="utf-8")
    code, out, err = train(capsys, "--max-steps", 3, "--sample-tokens", 20)
    assert (code, err) == (0, "")
    sample = out.split("a sample:\n")[1].split("\n\ngenerate more")[0]
    assert set(sample) <= set((text / "a.txt").read_text(encoding="utf-8"))


def interrupt_after(monkeypatch, step: int) -> None:
    """Press Ctrl-C while the line of that step is written."""
    from npgpt.training.checkpoint import append_metrics

    def pressing(folder, record):
        append_metrics(folder, record)
        if record["step"] == step and "loss" in record:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("npgpt.training.loop.append_metrics", pressing)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_ctrl_c_saves_and_resume_goes_on_to_the_same_bits(capsys, text, monkeypatch, step):
    assert train(capsys, "--dropout", 0.1)[0] == 0
    (text / "r").rename(text / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, step)
        code, out, err = train(capsys, "--dropout", 0.1)
    assert code == 130
    assert "Traceback" not in err
    assert "npgpt train --resume --out r" in out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    model = GPT.from_pretrained("r")
    assert load_state(text / "r", model)["step"] == step
    assert resume(capsys)[0] == 0
    assert saved(text / "r") == saved(text / "whole")


def test_a_second_ctrl_c_ends_at_once(capsys, text, monkeypatch):
    def twice(*args):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still running")

    monkeypatch.setattr("npgpt.training.loop.train_step", twice)
    code, _, err = train(capsys)
    assert code == 130
    assert err.splitlines()[-1] == "interrupted"


def test_ctrl_c_of_a_process_of_its_own(text, capsys):
    with start("train", "--data", "a.txt", "--out", "r", *TINY, "--max-steps", 1_000_000) as process:
        for line in process.stdout:
            if line.startswith(b"step "):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"--resume" in out
    done = len(steps(text / "r"))
    assert resume(capsys, "--max-steps", done + 2)[0] == 0
    assert steps(text / "r") == list(range(1, done + 3))


def test_output_that_nobody_reads_does_not_end_the_training_as_if_it_were_done(text):
    """As in `npgpt train ... | head -1`: exit code 0 would promise a trained model. The run can be resumed."""
    with start("train", "--data", "a.txt", "--out", "r", *TINY, "--max-steps", 1_000_000) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        code = process.wait(timeout=60)
    assert b"Traceback" not in err
    assert code == 141
    done = len(steps(text / "r"))
    assert load_state(text / "r", GPT.from_pretrained("r"))["step"] == done < 1_000_000


@pytest.mark.parametrize("every", mostly_big([1, 100], {1}.__contains__))
def test_a_run_that_diverges_ends_with_one_line(text, every):
    """In a process of its own: NumPy's warnings would be lines too."""
    flags = ("--learning-rate", 1e30, "--warmup-steps", 0, "--eval-every", every, "--save-every", every)
    with start("train", "--data", "a.txt", "--out", "r", *TINY, *flags) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1
    assert b"learning_rate" in err
    assert np.isfinite(GPT.from_pretrained("r").params.flat).all()
    assert np.isfinite(load_last(text / "r").params.flat).all()


def test_resume_with_more_steps_and_other_settings_goes_on(capsys, text):
    assert train(capsys)[0] == 0
    assert resume(capsys, "--max-steps", 9, "--learning-rate", 0.01, "--batch-size", 3)[0] == 0
    found = settings(text / "r")
    assert (found["max_steps"], found["learning_rate"], found["batch_size"]) == (9, 0.01, 3)
    assert steps(text / "r") == list(range(1, 10))


def test_a_run_keeps_its_optimizer(capsys, text):
    assert train(capsys)[0] == 0
    code, _, err = resume(capsys, "--max-steps", 7, "--optimizer", "muon")
    assert (code, err.count("\n")) == (2, 1)
    assert "optimizer is 'adamw' in r and cannot change with --resume" in err
    assert resume(capsys, "--max-steps", 7)[0] == 0


def test_resume_finds_a_text_that_has_moved(capsys, text):
    assert train(capsys)[0] == 0
    (text / "a.txt").rename(text / "b.txt")
    assert resume(capsys, "--data", "b.txt", "--max-steps", 7)[0] == 0


def test_a_run_with_an_end_token_says_so_in_every_file(capsys, text):
    assert train(capsys, "--tokenizer", "bpe:270")[0] == 0
    end = Tokenizer.from_pretrained("r").end_id
    assert end == 269
    for name in ("config.json", "generation_config.json"):
        config = json.loads((text / "r" / name).read_text())
        assert (config["bos_token_id"], config["eos_token_id"]) == (end, end)
    config = json.loads((text / "r" / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == ("<|endoftext|>", "<|endoftext|>")
    assert resume(capsys, "--max-steps", 7)[0] == 0
    assert GPT.from_pretrained("r").config.eos_token_id == end


def test_a_run_without_an_end_token_says_nothing_of_one(capsys, text):
    assert train(capsys)[0] == 0
    assert GPT.from_pretrained("r").config.eos_token_id is None
    assert "eos_token" not in json.loads((text / "r" / "tokenizer_config.json").read_text())
