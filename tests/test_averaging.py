"""The mean of the weights over a run's last steps: what it is, when it is kept, and that it changes nothing else."""

import math
from contextlib import suppress

import numpy as np
import pytest

from npgpt import GPT, TrainConfig
from npgpt.data.batch import Text
from npgpt.hub.tensors import read_tensors
from npgpt.models.lora import Adapters
from npgpt.optim import Mean
from npgpt.optim.averaging import CHUNK
from npgpt.support.parameters import Parameters
from npgpt.training.checkpoint import STATE, load_last, load_state
from npgpt.training.evaluation import estimate_loss
from npgpt.training.loop import Trainer
from npgpt.training.memory import memory_to_train
from tests.test_cli import command
from tests.test_train import CONFIG, GPT_CONFIG, STEPS, TRAIN_IDS, VAL_IDS, changed, metrics

AVERAGED = 5  # steps 7..11 of 11
END = changed(CONFIG, average=0.4, eval_every=100)  # evaluates the last step only


def parameters(size, dtype=np.float32):
    return Parameters({"a": (size,)}, np.zeros(size, dtype))


def trainer(folder, config, resume=None):
    model = GPT(GPT_CONFIG, config.seed, config.dtype)
    return Trainer(model, Text(TRAIN_IDS, 6), Text(VAL_IDS, 6), config, folder)


def losses(monkeypatch, *losses):
    """Let the evaluations find these losses."""
    found = map(float, losses)
    monkeypatch.setattr("npgpt.training.loop.estimate_loss", lambda *_: next(found))


def weights_of_steps(trainer, **how) -> list[np.ndarray]:
    """Train, and return the weights after each step."""
    return [trainer.optimizer.params.flat.copy() for record in trainer.run(**how) if "loss" in record]


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, 2 * CHUNK + 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_mean_of_what_was_added(rng, size, dtype):
    params = parameters(size, dtype)
    mean, drawn = Mean(params), rng.standard_normal((20, size)).astype(dtype)
    for n, values in enumerate(drawn, 1):
        params.flat[:] = values
        mean.add()
        assert mean.count == n
        # each of the n additions rounds a number of at most 10 three times
        np.testing.assert_allclose(
            mean.values.flat, drawn[:n].mean(0, dtype=np.float64), rtol=0, atol=3 * n * 10 * np.finfo(dtype).eps
        )
    np.testing.assert_array_equal(params.flat, drawn[-1])


def test_a_weight_that_does_not_change_keeps_its_bits(rng):
    params = parameters(1000)
    params.flat[:] = rng.standard_normal(1000)
    mean = Mean(params)
    for _ in range(33):
        mean.add()
    np.testing.assert_array_equal(mean.values.flat, params.flat)


def test_it_is_in_place_for_a_while_even_if_that_ends_in_an_error(rng):
    params = parameters(CHUNK + 3)
    mean = Mean(params)
    for _ in range(2):
        params.flat[:] = last = rng.standard_normal(CHUNK + 3).astype(np.float32)
        mean.add()
    values = mean.values.flat.copy()
    with suppress(KeyError), mean.in_place():
        np.testing.assert_array_equal(params.flat, values)
        raise KeyError
    np.testing.assert_array_equal(params.flat, last)
    np.testing.assert_array_equal(mean.values.flat, values)


def test_it_can_start_again(rng):
    params = parameters(9)
    mean = Mean(params)
    params.flat[:] = math.nan
    mean.add()
    mean.add()
    assert np.isnan(mean.values.flat).all(), "NaN stays visible"
    mean.count = 0
    params.flat[:] = 0.1
    mean.add()
    np.testing.assert_array_equal(mean.values.flat, params.flat)


def test_the_last_share_of_the_steps_is_averaged_and_evaluated(tmp_path):
    config = changed(CONFIG, average=0.4, dtype="float64", eval_every=1)
    run = trainer(tmp_path, config)
    weights = weights_of_steps(run)
    records = [record for record in metrics(tmp_path) if "val_loss" in record and "whole" not in record]
    for record in records:
        step, model = record["step"], GPT(GPT_CONFIG, 0, "float64")
        model.params.flat[:] = weights[step - 1]
        loss = estimate_loss(model, Text(VAL_IDS, 6), config)
        if step <= STEPS - AVERAGED + 1:  # none, or the first, which is its own mean
            assert record == {"step": step, "val_loss": pytest.approx(loss, rel=1e-12)}
            continue
        model.params.flat[:] = np.mean(weights[STEPS - AVERAGED : step], 0)
        mean_loss = estimate_loss(model, Text(VAL_IDS, 6), config)
        assert record["averaged"] == step - (STEPS - AVERAGED)
        assert record["last_val_loss"] == pytest.approx(loss, rel=1e-12)
        assert record["mean_val_loss"] == pytest.approx(mean_loss, rel=1e-12)
        assert record["val_loss"] == min(record["last_val_loss"], record["mean_val_loss"])
    assert records[-1]["averaged"] == AVERAGED


def test_a_mean_that_is_better_is_kept_and_said_to_be_one(tmp_path, monkeypatch):
    losses(monkeypatch, 1.6, 1.5)
    run = trainer(tmp_path, END)
    weights = weights_of_steps(run)
    evaluation, last = metrics(tmp_path)[-2:]
    assert evaluation == {
        "step": STEPS,
        "val_loss": 1.5,
        "last_val_loss": 1.6,
        "mean_val_loss": 1.5,
        "averaged": AVERAGED,
    }
    assert (last["step"], last["whole"], last["averaged"]) == (STEPS, True, AVERAGED)
    best = GPT.from_pretrained(tmp_path).params.flat
    np.testing.assert_allclose(best, np.mean(weights[-AVERAGED:], 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(run.best().params.flat, best)
    for last_weights in (run.model.params.flat, load_last(tmp_path).params.flat):
        np.testing.assert_array_equal(last_weights, weights[-1])


@pytest.mark.parametrize("mean_loss", [1.6, 1.7])
def test_a_mean_that_is_not_better_is_not_kept(tmp_path, monkeypatch, mean_loss):
    losses(monkeypatch, 1.6, mean_loss)
    run = trainer(tmp_path, END)
    weights = weights_of_steps(run)
    evaluation, last = metrics(tmp_path)[-2:]
    assert (evaluation["val_loss"], evaluation["averaged"]) == (1.6, AVERAGED)
    assert "averaged" not in last
    np.testing.assert_array_equal(GPT.from_pretrained(tmp_path).params.flat, weights[-1])
    assert run.best() is run.model


def test_a_mean_that_is_better_than_the_last_weights_but_not_the_best_is_not_kept(tmp_path, monkeypatch):
    losses(monkeypatch, 1.4, 1.6, 1.5, 1.6, 1.5)
    weights = weights_of_steps(trainer(tmp_path, changed(END, eval_every=4)))
    assert metrics(tmp_path)[-1]["step"] == 4
    np.testing.assert_array_equal(GPT.from_pretrained(tmp_path).params.flat, weights[3])


def test_averaging_does_not_change_the_training(tmp_path):
    with_mean, without = (
        weights_of_steps(trainer(tmp_path / str(average), changed(CONFIG, average=average, eval_every=2)))
        for average in (0.6, 0.0)
    )
    np.testing.assert_array_equal(with_mean, without)


def test_a_run_that_becomes_longer_starts_its_mean_again(tmp_path):
    run = trainer(tmp_path, changed(CONFIG, average=0.5))
    run.pace = lambda done: 6 if done < 5 else 10
    counts = [run.mean.count for record in run.run() if "loss" in record]
    assert counts == [0, 0, 0, 1, 0, 1, 2, 3, 4, 5]


def stop_at(step):
    asked = iter(range(1, 100))
    return lambda: next(asked) == step


def test_a_resumed_run_may_leave_the_mean_out_or_take_one_up(tmp_path):
    list(trainer(tmp_path, changed(CONFIG, average=0.9)).run(should_stop=stop_at(5)))
    state = read_tensors(tmp_path / STATE)[0]
    assert {name for name in state if name.startswith("mean.")} == {f"mean.{name}" for name in GPT(GPT_CONFIG).params}
    list(trainer(tmp_path, CONFIG).run(resume=True, should_stop=stop_at(2)))
    assert not any(name.startswith("mean.") for name in read_tensors(tmp_path / STATE)[0])
    run = trainer(tmp_path, changed(CONFIG, average=0.9))
    list(run.run(resume=True))
    assert run.mean.count == STEPS - 7
    assert "averaged" not in load_state(tmp_path, GPT(GPT_CONFIG))


def test_a_state_without_its_mean_is_refused(tmp_path):
    from npgpt.training.checkpoint import save_state

    run = trainer(tmp_path, changed(CONFIG, average=0.9))
    list(run.run())
    run.mean.count = 0
    save_state(tmp_path, run.model, run.optimizer, run.progress | {"averaged": 3})
    with pytest.raises(ValueError, match=r"mean\.wte\.weight is missing"):
        load_state(tmp_path, run.model, run.optimizer, run.mean)


def test_the_mean_of_adapters_is_merged_and_saved(tmp_path, monkeypatch):
    losses(monkeypatch, 1.6, 1.5)
    model = GPT(GPT_CONFIG, 0, "float64")
    adapters = Adapters(model, 2, seed=3)
    config = changed(END, average=1.0, dtype="float64")
    saved = []
    run = Trainer(model, Text(TRAIN_IDS, 6), Text(VAL_IDS, 6), config, tmp_path, adapters)
    run.on_best = lambda: saved.append(adapters.params.flat.copy())
    weights = weights_of_steps(run)
    assert metrics(tmp_path)[-1]["averaged"] == STEPS
    np.testing.assert_allclose(saved[-1], np.mean(weights, 0), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(adapters.params.flat, weights[-1])
    last = model.params.flat.copy()
    adapters.merge_into(model)
    np.testing.assert_array_equal(model.params.flat, last)
    adapters.params.flat[:] = saved[-1]
    adapters.merge_into(model)
    np.testing.assert_array_equal(GPT.from_pretrained(tmp_path, "float64").params.flat, model.params.flat)


def test_the_memory_of_the_mean_is_counted():
    plain, averaged = (memory_to_train(GPT_CONFIG, TrainConfig(average=average)) for average in (0.0, 0.2))
    assert averaged == (plain[0] + 4 * GPT_CONFIG.n_parameters, plain[1])
    plain, averaged = (memory_to_train(GPT_CONFIG, TrainConfig(average=average), lora=1) for average in (0.0, 0.2))
    adapters = Adapters(GPT(GPT_CONFIG), 1).params.flat.nbytes
    assert averaged == (plain[0] + adapters, plain[1])


def test_the_command_says_what_the_mean_brings(capsys, tmp_path, monkeypatch):
    losses(monkeypatch, 1.9, 1.8, 1.7)
    (tmp_path / "a.txt").write_text("to be or not to be that is the question " * 30)
    flags = "--max-steps 10 --average 0.5 --eval-every 5 --n-embd 16 --n-layer 1 --n-positions 8 --sample-tokens 0"
    code, out, _ = command(capsys, "train", "--data", tmp_path / "a.txt", "--out", tmp_path / "r", *flags.split())
    assert code == 0
    first, second, last = [line for line in out.splitlines() if "validation " in line]
    assert first.endswith("validation 1.9000")
    assert second.endswith("validation 1.8000, mean of 5 steps 1.7000")
    assert last.endswith("nats per token on all validation data (step 10, weights averaged over 5 steps)")
