"""The training loop: what it computes, what it keeps, and that a run that was stopped goes on to the same bits."""

import errno
import functools
import itertools
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from npgpt import GPT, AdamW, GPTConfig, TrainConfig
from npgpt.data.batch import Text, random_batch
from npgpt.hub.tensors import read_tensors
from npgpt.optim.schedule import learning_rate_at
from npgpt.training.checkpoint import STATE, load_last, load_state
from npgpt.training.evaluation import estimate_loss, whole_loss
from npgpt.training.loop import Trainer

GPT_CONFIG = GPTConfig(vocab_size=7, n_positions=6, n_embd=8, n_layer=2, n_head=2)
STEPS = 11
CONFIG = TrainConfig(
    batch_size=3, max_steps=STEPS, eval_every=4, eval_batches=2, save_every=3, warmup_steps=2, learning_rate=1e-2
)
IDS = np.random.default_rng(8).integers(0, 7, 230)
TRAIN_IDS, VAL_IDS = IDS[:200], IDS[200:]


def changed(config, **changes):
    return type(config)(**vars(config) | changes)


def train(model, train_ids, val_ids, config, folder, resume=False, should_stop=lambda: False):
    T = model.config.n_positions
    return Trainer(model, Text(train_ids, T), Text(val_ids, T), config, folder).run(resume, should_stop)


def run(folder, config=CONFIG, gpt_config=GPT_CONFIG, stops=()) -> list[dict]:
    """Train, stopping after each of the steps in `stops` and going on with another model object."""
    done = 0
    for stop in [*stops, None]:
        model = GPT(gpt_config, 999 if done else config.seed, config.dtype)
        asked = itertools.count(done + 1)
        should_stop = functools.partial(lambda asked, stop: next(asked) == stop, asked, stop)
        list(train(model, TRAIN_IDS, VAL_IDS, config, folder, done > 0, should_stop))
        done = stop
    return metrics(folder)


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(records: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "tokens_per_s"} for record in records]


def content(folder) -> dict:
    """Every number that a run saves, to the bit, and how far it says that it is."""
    found = {"config.json": (folder / "config.json").read_bytes()}
    for name in ("model.safetensors", STATE):
        tensors, found[name] = read_tensors(folder / name)
        found |= {f"{name}: {key}": (tensor.dtype, tensor.tobytes()) for key, tensor in tensors.items()}
    return found


@functools.cache
def uninterrupted(variant: str) -> tuple[dict, list[dict]]:
    """What a run that never stops saves and logs."""
    config, gpt_config = configs(variant)
    with tempfile.TemporaryDirectory() as folder:
        return timeless(run(Path(folder), config, gpt_config)), content(Path(folder))


def naive_loss(model: GPT, ids) -> float:
    """The mean loss over a text, one token at a time, each seeing those before it in its window."""
    total, T = 0.0, model.config.n_positions
    for i in range(1, len(ids)):
        start = (i - 1) // T * T
        logits = model.logits(np.array([ids[start:i]]))[0, -1].astype(np.float64)
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[i]]
    return total / (len(ids) - 1)


VARIANTS = {
    "plain": ({}, {}),
    "dropout": ({}, {"resid_pdrop": 0.2, "embd_pdrop": 0.1, "attn_pdrop": 0.3}),
    "accumulation": ({"gradient_accumulation_steps": 3, "batch_size": 2}, {"resid_pdrop": 0.2}),
    "float64": ({"dtype": "float64"}, {}),
    "untied": ({}, {"tie_word_embeddings": False, "bias": False, "activation_function": "gelu"}),
    "muon": ({"optimizer": "muon"}, {}),
    "shuffled windows": ({"windows": "shuffled", "schedule": "trapezoid"}, {}),  # 32 an epoch, 33 in all
    "averaging": ({"average": 0.85, "save_every": 1}, {}),  # from the second step on
    "patience": ({"patience": 2, "eval_every": 1, "save_every": 2, "learning_rate": 0.3}, {}),
    "no clipping": ({"grad_clip": 0, "warmup_steps": 0, "save_every": 100}, {}),
}


def configs(variant: str) -> tuple[TrainConfig, GPTConfig]:
    train_changes, gpt_changes = VARIANTS[variant]
    return changed(CONFIG, **train_changes), changed(GPT_CONFIG, **gpt_changes)


@pytest.mark.parametrize("stops", [(1,), (4,), (STEPS - 1,), (2, 3, 9)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, variant, stops):
    records = run(tmp_path, *configs(variant), stops)
    assert (timeless(records), content(tmp_path)) == uninterrupted(variant)


def test_each_optimizer_goes_its_own_way():
    assert uninterrupted("muon")[0][-1]["val_loss"] != uninterrupted("plain")[0][-1]["val_loss"]


@pytest.mark.parametrize("crash", range(1, STEPS))
@pytest.mark.parametrize("end", ["", '{"step": 6, "lo'], ids=["whole line", "half a line"])
def test_a_run_that_crashed_goes_on_from_its_last_save(tmp_path, crash, end):
    """With the save at every third step and the best model at every fourth, they differ in age."""
    records = train(GPT(GPT_CONFIG, CONFIG.seed), TRAIN_IDS, VAL_IDS, CONFIG, tmp_path)
    while next(records)["step"] < crash:
        pass
    records.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(end)
    list(train(GPT(GPT_CONFIG, 999), TRAIN_IDS, VAL_IDS, CONFIG, tmp_path, resume=True))
    assert (timeless(metrics(tmp_path)), content(tmp_path)) == uninterrupted("plain")


def test_a_finished_run_goes_on_to_more_steps(tmp_path):
    run(tmp_path)
    list(train(GPT(GPT_CONFIG, 999), TRAIN_IDS, VAL_IDS, changed(CONFIG, max_steps=15), tmp_path, resume=True))
    records = metrics(tmp_path)
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 16))
    assert [r["step"] for r in records if "val_loss" in r and "whole" not in r] == [4, 8, 11, 12, 15]
    assert records[-1].get("whole")
    assert load_state(tmp_path, GPT(GPT_CONFIG))["step"] == 15


def test_a_finished_run_that_is_resumed_has_nothing_left_to_do(tmp_path):
    before = run(tmp_path)
    files = content(tmp_path)
    list(train(GPT(GPT_CONFIG, 999), TRAIN_IDS, VAL_IDS, CONFIG, tmp_path, resume=True))
    assert content(tmp_path) == files
    assert metrics(tmp_path) == before


def test_the_folder_is_whole_at_every_moment(tmp_path):
    for record in train(GPT(GPT_CONFIG), TRAIN_IDS, VAL_IDS, CONFIG, tmp_path):
        assert load_state(tmp_path, GPT(GPT_CONFIG))["step"] == (record["step"] - 1) // 3 * 3 or "val_loss" in record
        GPT.from_pretrained(tmp_path)
        load_last(tmp_path)
        assert metrics(tmp_path)[-1] == record
        assert not list(tmp_path.glob(".*"))


def test_what_numpy_warns_of_between_records_is_the_callers_to_say(tmp_path):
    with np.errstate(over="raise", invalid="raise"):
        for _ in train(GPT(GPT_CONFIG), TRAIN_IDS, VAL_IDS, CONFIG, tmp_path):
            assert (np.geterr()["over"], np.geterr()["invalid"]) == ("raise", "raise")


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    gpt_config = changed(GPT_CONFIG, attn_pdrop=0.2)
    first = run(tmp_path / "a", CONFIG, gpt_config)
    again = run(tmp_path / "b", CONFIG, gpt_config)
    other = run(tmp_path / "c", changed(CONFIG, seed=4), gpt_config)
    assert timeless(again) == timeless(first)
    assert content(tmp_path / "b") == content(tmp_path / "a")
    losses = [[r["loss"] for r in records if "loss" in r] for records in (first, other)]
    assert all(a != b for a, b in zip(*losses, strict=True))


def test_every_step_draws_other_windows_and_every_seed_too(tmp_path, monkeypatch):
    drawn = []

    def spy(self, step, config):
        batches = draw(self, step, config)
        drawn.extend(batch.ids.tobytes() for batch in batches)
        return batches

    draw = Text.draw
    monkeypatch.setattr(Text, "draw", spy)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        list(train(GPT(GPT_CONFIG, 0), TRAIN_IDS, VAL_IDS, changed(CONFIG, seed=seed), tmp_path / name))
    a, b, c = drawn[:STEPS], drawn[STEPS : 2 * STEPS], drawn[2 * STEPS :]
    assert a == b
    assert len({*a, *c}) == 2 * STEPS


def test_a_line_a_step_says_what_the_step_did(tmp_path):
    """With a text of one window every batch is known, so each step's loss, norm and rate can be computed beside it."""
    ids = TRAIN_IDS[: GPT_CONFIG.n_positions + 1]
    batch = np.tile(ids[:-1], (3, 1)), np.tile(ids[1:], (3, 1))
    config = changed(CONFIG, dtype="float64", grad_clip=0.5)
    model = GPT(GPT_CONFIG, 0, "float64")
    records = train(model, ids, VAL_IDS, config, tmp_path)
    for step in range(STEPS):
        loss, grads = model.loss_and_grads(*batch)
        record = next(records)
        while "val_loss" in record:
            assert set(record) == {"step", "val_loss"}
            record = next(records)
        assert set(record) == {"step", "loss", "lr", "grad_norm", "tokens_per_s"}
        assert record["step"] == step + 1
        assert record["loss"] == pytest.approx(loss, rel=1e-12)
        norm = math.sqrt(sum(float((grad**2).sum()) for grad in grads.values()))
        assert record["grad_norm"] == pytest.approx(norm, rel=1e-12), "the norm before clipping"
        assert record["lr"] == learning_rate_at(step, 1e-2, 1e-4, 2, STEPS)
        assert record["tokens_per_s"] > 0


def test_a_pace_may_change_the_number_of_steps_while_training(tmp_path):
    """It is asked once before the first step and once after each, and the next rate follows from its answer."""
    config, answers, asked = changed(CONFIG, schedule="trapezoid", decay_share=0.5, eval_every=100), [9, 9, 12, 6], []
    trainer = Trainer(GPT(GPT_CONFIG, 0), Text(TRAIN_IDS, 6), Text(VAL_IDS, 6), config, tmp_path)

    def pace(done):
        asked.append(done)
        return answers[min(done, 3)]

    trainer.pace = pace
    records = list(trainer.run())
    steps = [record for record in records if "loss" in record]
    assert asked == list(range(7))
    assert (len(steps), trainer.total) == (6, 6)
    totals = [9, 9, 12, 6, 6, 6]
    expected = [learning_rate_at(step, 1e-2, 1e-4, 2, total, "trapezoid", 0.5) for step, total in enumerate(totals)]
    assert [record["lr"] for record in steps] == expected
    assert [record["step"] for record in records if "val_loss" in record] == [6, 6], "the last step is evaluated"


def test_a_pace_that_ends_before_now_ends_the_run_at_this_step(tmp_path):
    trainer = Trainer(GPT(GPT_CONFIG, 0), Text(TRAIN_IDS, 6), Text(VAL_IDS, 6), CONFIG, tmp_path)
    trainer.pace = lambda done: 11 if done < 5 else 2
    assert [record["step"] for record in trainer.run() if "loss" in record] == [1, 2, 3, 4, 5]
    assert metrics(tmp_path)[-1]["whole"] is True


def test_the_last_line_is_the_loss_over_the_whole_validation_text(tmp_path):
    records = run(tmp_path, changed(CONFIG, dtype="float64"))
    model = GPT.from_pretrained(tmp_path, "float64")
    assert records[-1] == {"step": records[-1]["step"], "val_loss": records[-1]["val_loss"], "whole": True}
    assert records[-1]["val_loss"] == pytest.approx(naive_loss(model, VAL_IDS), rel=1e-12)


@pytest.mark.parametrize("length", [2, 3, 6, 7, 8, 13, 14, 15])
def test_whole_loss_counts_every_token_but_the_first_once(length):
    model = GPT(GPT_CONFIG, 2, "float64")
    model.params.flat *= 20  # predictions far from uniform, so that no token is like another
    assert whole_loss(model, Text(IDS[:length], 6)) == pytest.approx(naive_loss(model, IDS[:length]), rel=1e-12)


@pytest.mark.parametrize("length", [0, 1])
def test_a_text_with_nothing_to_predict_has_no_loss(length):
    with pytest.raises(ValueError, match=f"{length} tokens"):
        whole_loss(GPT(GPT_CONFIG), Text(IDS[:length], 6))


def test_random_batches_reach_every_window_of_the_text(rng):
    ids = np.arange(10, dtype=np.uint8)
    batch = random_batch(ids, 400, 4, rng)
    assert {tuple(row) for row in batch.ids.tolist()} == {tuple(range(s, s + 4)) for s in range(6)}
    np.testing.assert_array_equal(batch.targets, batch.ids + 1)


def test_an_estimate_takes_the_same_windows_each_time():
    model = GPT(GPT_CONFIG, 2)
    model.params.flat *= 20
    text = Text(VAL_IDS, 6)
    first = estimate_loss(model, text, changed(CONFIG, seed=1))
    assert estimate_loss(model, text, changed(CONFIG, seed=1)) == first
    assert estimate_loss(model, text, changed(CONFIG, seed=2)) != first


def test_the_best_model_is_kept_and_so_is_the_last(tmp_path):
    """Learning a text by heart whose reverse is the validation text makes the first evaluation the best."""
    train_ids = np.tile(np.arange(7), 10)
    val_ids = train_ids[30::-1]
    config = changed(CONFIG, learning_rate=0.05, eval_every=2)
    model, at = GPT(GPT_CONFIG, 0), {}
    for record in train(model, train_ids, val_ids, config, tmp_path):
        at.setdefault(record["step"], model.params.flat.copy())
    records = metrics(tmp_path)
    val = {r["step"]: r["val_loss"] for r in records if "val_loss" in r and "whole" not in r}
    best = min(val, key=val.get)
    assert best < STEPS
    assert records[-1]["step"] == best
    np.testing.assert_array_equal(GPT.from_pretrained(tmp_path).params.flat, at[best])
    np.testing.assert_array_equal(load_last(tmp_path).params.flat, at[STEPS])
    assert records[-1]["val_loss"] == pytest.approx(naive_loss(GPT.from_pretrained(tmp_path), val_ids), rel=1e-5)


def test_the_best_model_is_the_best_at_every_record_and_read_once(tmp_path, monkeypatch):
    """Evaluations after steps 4, 8 and 11, of which the first and the last are the best so far."""
    given, read = iter((2, 3, 1)), []
    monkeypatch.setattr("npgpt.training.loop.estimate_loss", lambda *args: float(next(given)))
    load = GPT.load_pretrained
    monkeypatch.setattr(GPT, "load_pretrained", lambda self, folder: read.append(folder) or load(self, folder))
    model = GPT(GPT_CONFIG, 0)
    trainer = Trainer(model, Text(TRAIN_IDS, 6), Text(VAL_IDS, 6), CONFIG, tmp_path)
    at = {0: model.params.flat.copy()}
    for record in trainer.run():
        step = record["step"]
        at.setdefault(step, model.params.flat.copy())
        if "val_loss" not in record:  # the evaluation's record comes before the best model is kept
            want = 0 if step <= 4 else 4
            for _ in range(2):
                np.testing.assert_array_equal(trainer.best().params.flat, at[want])
    assert len(read) == 2  # that of step 0, and that of step 4
    assert trainer.best() is model
    np.testing.assert_array_equal(model.params.flat, at[STEPS])


@pytest.mark.parametrize(("losses", "best"), [((3, 1, 2), 8), ((1, 2, 3), 4), ((3, 2, 1), 11), ((2, 2, 2), 4)])
def test_best_is_the_first_of_the_lowest_validation_losses(tmp_path, monkeypatch, losses, best):
    given = iter(losses)
    monkeypatch.setattr("npgpt.training.loop.estimate_loss", lambda *args: float(next(given)))
    model, at = GPT(GPT_CONFIG, 0), {}
    for record in train(model, TRAIN_IDS, VAL_IDS, CONFIG, tmp_path):
        at.setdefault(record["step"], model.params.flat.copy())
    np.testing.assert_array_equal(GPT.from_pretrained(tmp_path).params.flat, at[best])
    assert metrics(tmp_path)[-1]["step"] == best


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fast_and_reference_ops_train_along_the_same_curve(tmp_path, dtype):
    """Each step multiplies a difference by a little: after 50 steps it is at most 300 roundings."""
    config = changed(CONFIG, max_steps=50, dtype=dtype, threads=2, batch_size=4)
    losses = {}
    for ops in ("fast", "reference"):
        folder = tmp_path / ops
        list(train(GPT(GPT_CONFIG, 1, dtype, ops), TRAIN_IDS, VAL_IDS, config, folder))
        losses[ops] = [record["loss"] for record in metrics(folder) if "loss" in record]
    assert len(losses["fast"]) == 50
    np.testing.assert_allclose(losses["fast"], losses["reference"], rtol=300 * np.finfo(dtype).eps / 2)
    assert losses["fast"][-1] < 0.98 * losses["fast"][0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 5), (7, 1), (5, 2), (2, 13)], ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_one_batch_of_any_shape_is_learned_by_heart(shape, tied, rng):
    B, T = shape
    gpt_config = GPTConfig(
        vocab_size=11, n_positions=T, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=tied, initializer_range=0.1
    )
    ids, targets = rng.integers(0, 11, (2, B, T))
    ids[:, 0] = np.arange(B)  # rows that begin alike could not be told apart
    model = GPT(gpt_config, 0)
    optimizer = AdamW(model.params, weight_decay=0)
    for _ in range(200):
        loss, grads = model.loss_and_grads(ids, targets)
        if loss < 0.01:
            break
        optimizer.step(grads, 0.02)
    assert loss < 0.01
    assert (model.logits(ids).argmax(-1) == targets).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, on infinity minus infinity
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_end_the_run_and_the_saved_ones_stay(tmp_path, value):
    model = GPT(GPT_CONFIG, 0)
    records = train(model, TRAIN_IDS, VAL_IDS, CONFIG, tmp_path)
    while "val_loss" not in next(records):
        pass
    next(records)  # the best model is saved after the evaluation's record, when the next one is asked for
    before = content(tmp_path)
    model.params["h.1.mlp.c_fc.weight"][2, 3] = value
    with pytest.raises(FloatingPointError, match="step 6"):
        list(records)
    assert content(tmp_path) == before
    assert np.isfinite(load_last(tmp_path).params.flat).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("rate", [1e30, 1e12])
@pytest.mark.parametrize("eval_every", [1, 100])
def test_a_run_that_explodes_saves_nothing_that_is_not_finite(tmp_path, rate, eval_every):
    """The step that explodes is followed by an evaluation and a save before any loss is seen to be NaN."""
    config = changed(CONFIG, learning_rate=rate, warmup_steps=0, eval_every=eval_every, save_every=1, weight_decay=0)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        list(train(GPT(GPT_CONFIG, 0), TRAIN_IDS, VAL_IDS, config, tmp_path))
    best, last = GPT.from_pretrained(tmp_path), load_last(tmp_path)
    assert np.isfinite(best.logits(np.array([[1, 2, 3]]))).all()
    assert np.isfinite(last.logits(np.array([[1, 2, 3]]))).all()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("write", range(1, 12))
def test_a_disk_that_fills_leaves_what_was_saved_before(tmp_path, monkeypatch, write):
    """The nth file fails to be written; what is there then is whole, and the run goes on from it to the same bits."""
    replace, count = os.replace, iter(range(1, 1000))

    def full(source, target):
        if next(count) == write:
            raise FULL
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("npgpt.support.files.os.replace", full)
        with pytest.raises(OSError, match="No space left"):
            list(train(GPT(GPT_CONFIG, CONFIG.seed), TRAIN_IDS, VAL_IDS, CONFIG, tmp_path))
    assert not list(tmp_path.glob(".*"))
    for path in tmp_path.glob("*.safetensors"):
        assert load_file(path)
    if (tmp_path / STATE).exists():
        list(train(GPT(GPT_CONFIG, 999), TRAIN_IDS, VAL_IDS, CONFIG, tmp_path, resume=True))
        assert (timeless(metrics(tmp_path)), content(tmp_path)) == uninterrupted("plain")
    else:
        assert write <= 4  # the first model's three files and the first state
