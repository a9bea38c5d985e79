"""Run folders: what is saved comes back to the bit, and what is damaged is refused."""

import errno
import json
import os

import numpy as np
import pytest

from npgpt import GPT, AdamW, GPTConfig
from npgpt.hub.tensors import read_tensors, save_tensors
from npgpt.training.checkpoint import (
    STATE,
    append_metrics,
    cut_metrics,
    load_last,
    load_state,
    refuse_existing,
    save_state,
)

CONFIG = GPTConfig(vocab_size=7, n_positions=5, n_embd=6, n_layer=2, n_head=3)
PROGRESS = {"step": 12, "best_step": 8, "best_val_loss": 0.1 + 0.2}
RUN_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "train.json",
    "metrics.jsonl",
    STATE,
)


def trained(dtype: str = "float32", config: GPTConfig = CONFIG) -> tuple[GPT, AdamW]:
    """A model and an optimizer with no number in them that another has."""
    model = GPT(config, seed=3, dtype=dtype)
    optimizer = AdamW(model.params)
    rng = np.random.default_rng(5)
    for flat in (model.params.flat, optimizer.exp_avg.flat, optimizer.exp_avg_sq.flat):
        flat[:] = rng.standard_normal(flat.size)
    optimizer.steps = 12
    return model, optimizer


def blank(model: GPT) -> tuple[GPT, AdamW]:
    other = GPT(model.config, seed=99, dtype=model.dtype.name)
    return other, AdamW(other.params)


@pytest.fixture
def state(tmp_path):
    """A folder with a training state, the model and optimizer in it, and a function that writes another one."""
    model, optimizer = trained()
    save_state(tmp_path, model, optimizer, PROGRESS)
    tensors, metadata = read_tensors(tmp_path / STATE)

    def change(tensors=tensors, metadata=metadata):
        save_tensors(tmp_path / STATE, tensors, **{k: v for k, v in metadata.items() if k != "format"})

    return tmp_path, tensors, metadata, change


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "bias": False}], ids=["tied", "untied"])
def test_the_training_state_comes_back_to_the_bit(tmp_path, dtype, changes):
    config = GPTConfig(**{**vars(CONFIG), **changes})
    model, optimizer = trained(dtype, config)
    save_state(tmp_path, model, optimizer, PROGRESS)
    other, other_optimizer = blank(model)
    progress = load_state(tmp_path, other, other_optimizer)
    assert other.params.flat.tobytes() == model.params.flat.tobytes()
    assert other_optimizer.exp_avg.flat.tobytes() == optimizer.exp_avg.flat.tobytes()
    assert other_optimizer.exp_avg_sq.flat.tobytes() == optimizer.exp_avg_sq.flat.tobytes()
    assert other_optimizer.steps == 12
    assert {key: progress[key] for key in PROGRESS} == PROGRESS


def test_the_state_names_every_tensor_as_the_model_does(state):
    _, tensors, _, _ = state
    names = list(GPT(CONFIG).params)
    assert sorted(tensors) == sorted(f"{prefix}{name}" for prefix in ("", "exp_avg.", "exp_avg_sq.") for name in names)


def test_a_run_that_has_no_validation_loss_yet_is_saved_too(tmp_path):
    model, optimizer = trained()
    save_state(tmp_path, model, optimizer, {"step": 0, "best_step": 0, "best_val_loss": None})
    assert load_state(tmp_path, *blank(model))["best_val_loss"] is None


@pytest.mark.parametrize("name", ["wte.weight", "exp_avg.h.1.mlp.c_fc.weight", "exp_avg_sq.ln_f.bias"])
@pytest.mark.parametrize("kind", ["missing", "shape", "dtype"])
def test_a_state_of_another_model_is_refused(state, name, kind):
    folder, tensors, _, change = state
    if kind == "missing":
        del tensors[name]
    elif kind == "shape":
        tensors[name] = np.append(tensors[name], tensors[name], axis=0)
    else:
        tensors[name] = tensors[name].astype(np.float64)
    change(tensors)
    model, optimizer = blank(GPT(CONFIG))
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_state(folder, model, optimizer)


@pytest.mark.parametrize(
    "progress",
    [
        None,
        "",
        "[1]",
        "3",
        "{}",
        '{"step": "x", "best_step": 0, "best_val_loss": null, "optimizer_steps": 3}',
        '{"step": 1, "best_step": 0, "best_val_loss": null}',
        '{"step": 1, "best_step": 0, "optimizer_steps": 1}',
        '{"step": 1, "best_step": 0, "best_val_loss": "low", "optimizer_steps": 1}',
        '{"step": Infinity, "best_step": 0, "best_val_loss": null, "optimizer_steps": 1}',
        '{"step": -1, "best_step": 0, "best_val_loss": null, "optimizer_steps": 1}',
    ],
)
def test_a_state_that_does_not_say_where_it_stopped_is_refused(state, progress):
    folder, _, _, change = state
    change(metadata={} if progress is None else {"progress": progress})
    with pytest.raises(ValueError, match="training_state"):
        load_state(folder, *blank(GPT(CONFIG)))


def test_a_damaged_state_is_refused(state):
    folder, _, _, _ = state
    data = bytearray((folder / STATE).read_bytes())
    for position in range(5, len(data), len(data) // 40):
        damaged = data.copy()
        damaged[position] ^= 0x10
        (folder / STATE).write_bytes(damaged)
        with pytest.raises(ValueError, match=STATE):
            load_state(folder, *blank(GPT(CONFIG)))


def test_a_state_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=STATE):
        load_state(tmp_path, *blank(GPT(CONFIG)))


def test_a_save_that_fails_leaves_the_state_before(state, monkeypatch):
    folder, _, _, _ = state
    before = (folder / STATE).read_bytes()
    model, optimizer = blank(GPT(CONFIG))

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("npgpt.hub.tensors._write", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(folder, model, optimizer, PROGRESS | {"step": 13})
    assert (folder / STATE).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [STATE]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("asked", ["float32", "float64"])
def test_load_last_gives_the_last_model_and_from_pretrained_the_best(tmp_path, dtype, asked):
    last, optimizer = trained(dtype)
    best = GPT(CONFIG, seed=1, dtype=dtype)
    best.save_pretrained(tmp_path)
    save_state(tmp_path, last, optimizer, PROGRESS)
    model = load_last(tmp_path, asked)
    assert model.dtype == asked
    assert model.params.flat.tobytes() == last.params.flat.astype(asked).tobytes()
    ids = np.array([[1, 2, 3]])
    # one of them may compute in float32
    np.testing.assert_allclose(model.logits(ids), last.logits(ids), rtol=1e-5, atol=1e-5)
    assert GPT.from_pretrained(tmp_path, dtype).params.flat.tobytes() == best.params.flat.tobytes()


def test_load_last_of_a_state_without_a_model_names_the_file(tmp_path):
    GPT(CONFIG).save_pretrained(tmp_path)
    save_tensors(tmp_path / STATE, {"x": np.zeros(3, np.float32)}, progress="{}")
    with pytest.raises(ValueError, match=STATE):
        load_last(tmp_path)


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_folder_with_any_file_of_a_run_is_refused(tmp_path, name):
    """Else a new run would write over what was there before."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="already"):
        refuse_existing(tmp_path)


def test_a_folder_without_a_run_is_taken(tmp_path):
    refuse_existing(tmp_path / "new")
    (tmp_path / "notes.txt").write_text("mine")
    refuse_existing(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        refuse_existing(tmp_path / "run")


def lines(*steps: int) -> list[dict]:
    return [{"step": step, "loss": step / 7} for step in steps]


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("end", ["", '{"step": 5, "lo', '{"step": 3', "{", "\n", "nonsense\n", "3\n", "\0\0\0\n"])
def test_metrics_are_cut_behind_the_step_that_was_saved(tmp_path, end):
    for record in [*lines(1, 2), {"step": 2, "val_loss": 0.5}, *lines(3), {"step": 3, "val_loss": 0.4}, *lines(4)]:
        append_metrics(tmp_path, record)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(end)
    cut_metrics(tmp_path, 3)
    append_metrics(tmp_path, {"step": 4, "loss": 9.0})
    evaluations = [{"step": 2, "val_loss": 0.5}, {"step": 3, "val_loss": 0.4}]
    assert metrics(tmp_path) == [
        *lines(1, 2),
        evaluations[0],
        *lines(3),
        evaluations[1],
        {"step": 4, "loss": 9.0},
    ]


def test_a_last_line_that_lacks_its_line_end_alone_is_kept(tmp_path):
    for record in lines(1, 2):
        append_metrics(tmp_path, record)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    cut_metrics(tmp_path, 2)
    append_metrics(tmp_path, lines(3)[0])
    assert metrics(tmp_path) == lines(1, 2, 3)


def test_metrics_with_bytes_that_are_no_text_are_cut_like_any_broken_line(tmp_path):
    append_metrics(tmp_path, lines(1)[0])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'\xff\xfe{"step": 2}')
    cut_metrics(tmp_path, 2)
    assert metrics(tmp_path) == lines(1)


def test_metrics_that_are_gone_begin_anew(tmp_path):
    cut_metrics(tmp_path, 3)
    append_metrics(tmp_path, lines(4)[0])
    assert metrics(tmp_path) == lines(4)
