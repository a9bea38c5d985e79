"""A run that stops getting better ends early, says so, and can be gone on with."""

import pytest

import npgpt
from npgpt import GPT
from npgpt.data.batch import Text
from npgpt.training.checkpoint import load_state
from npgpt.training.loop import Trainer
from tests.test_averaging import losses
from tests.test_cli import command
from tests.test_train import CONFIG, GPT_CONFIG, STEPS, TRAIN_IDS, VAL_IDS, changed, metrics

EVERY = changed(CONFIG, eval_every=1, patience=3)


def trainer(folder, config):
    return Trainer(GPT(GPT_CONFIG, 0), Text(TRAIN_IDS, 6), Text(VAL_IDS, 6), config, folder)


def steps_and_best(folder) -> tuple[int, int]:
    records = metrics(folder)
    assert "whole" in records[-1]
    return max(record["step"] for record in records), records[-1]["step"]


@pytest.mark.parametrize(
    ("patience", "found", "end", "best"),
    [
        (1, [5, 4, 4], 3, 2),  # an equal loss is not better
        (2, [5, 4, 6, 3, 4, 4], 6, 4),  # a better one in between starts the count again
        (3, [5, 6, 7, 8], 4, 1),
        (3, [5, 6, 7, 4, 5, 5, 3, 4, 2, 2, 2], STEPS, 9),
        (0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], STEPS, 1),
    ],
)
def test_it_ends_after_so_many_evaluations_without_a_better_loss(
    tmp_path, monkeypatch, caplog, patience, found, end, best
):
    losses(monkeypatch, *found)
    run = trainer(tmp_path, changed(EVERY, patience=patience))
    list(run.run())
    assert steps_and_best(tmp_path) == (end, best)
    assert run.total == end
    evaluations = [record for record in metrics(tmp_path) if "val_loss" in record][:-1]
    assert len(evaluations) == end
    assert [record["step"] for record in evaluations if "stopped_early" in record] == ([end] if end < STEPS else [])
    said = [f"no better loss since step {best}: stopped early; the model of step {best} is kept"]
    assert caplog.messages == (said if end < STEPS else [])


def test_patience_that_runs_out_with_the_last_step_ends_nothing_early(tmp_path, monkeypatch, caplog):
    losses(monkeypatch, *range(STEPS))
    list(trainer(tmp_path, changed(EVERY, patience=STEPS - 1)).run())
    assert not any("stopped_early" in record for record in metrics(tmp_path))
    assert caplog.messages == []


def test_the_state_of_the_last_step_is_saved(tmp_path, monkeypatch):
    losses(monkeypatch, 1, 2, 3, 4)
    run = trainer(tmp_path, changed(EVERY, save_every=100))
    list(run.run())
    model = GPT(GPT_CONFIG, 5)
    progress = load_state(tmp_path, model)
    assert (progress["step"], progress["waited"]) == (4, 3)
    assert (model.params.flat == run.model.params.flat).all()


def test_it_resumes_to_its_last_evaluation_and_with_more_patience_goes_on(tmp_path, monkeypatch, caplog):
    losses(monkeypatch, 1, 2, 3, 4)
    list(trainer(tmp_path, EVERY).run())
    before = metrics(tmp_path)
    losses(monkeypatch)  # no further evaluation of batches
    assert [record["step"] for record in trainer(tmp_path, EVERY).run(resume=True)] == [1]
    assert metrics(tmp_path) == before
    assert len(caplog.messages) == 2
    losses(monkeypatch, 5, 6)
    list(trainer(tmp_path, changed(EVERY, patience=5)).run(resume=True))
    assert steps_and_best(tmp_path) == (6, 1)
    losses(monkeypatch, *[7] * 5)
    list(trainer(tmp_path, changed(EVERY, patience=0)).run(resume=True))
    assert steps_and_best(tmp_path) == (STEPS, 1)


def test_a_mean_that_is_better_counts(tmp_path, monkeypatch):
    found = [9, 8]  # of the first steps
    found += [8, 8]  # the weights, and their mean
    found += [8, 7]  # a better mean
    found += [8, 8, 8, 8]
    losses(monkeypatch, *found)
    list(trainer(tmp_path, changed(EVERY, patience=2, average=0.85)).run())
    assert steps_and_best(tmp_path) == (6, 4)


def test_the_command_says_so_and_shows_what_the_best_model_writes(capsys, caplog, tmp_path, monkeypatch):
    losses(monkeypatch, 1, 2, 3)
    (tmp_path / "a.txt").write_text("to be or not to be that is the question " * 30)
    flags = "--max-steps 50 --eval-every 2 --patience 2 --n-embd 16 --n-layer 1 --n-positions 8 --sample-tokens 5"
    code, out, _ = command(capsys, "train", "--data", tmp_path / "a.txt", "--out", tmp_path / "r", *flags.split())
    assert code == 0
    assert caplog.messages == ["no better loss since step 2: stopped early; the model of step 2 is kept"]
    assert "(step 2)" in out
    assert "a sample:" in out


def test_python_says_so(tmp_path, monkeypatch):
    losses(monkeypatch, 1, 2)
    (tmp_path / "a.txt").write_text("to be or not to be that is the question " * 30)
    sizes = {"n_embd": 16, "n_layer": 1, "n_positions": 8}
    training = npgpt.train(
        tmp_path / "a.txt", tmp_path / "r", progress=False, max_steps=50, eval_every=2, patience=1, **sizes
    )
    assert training.finished
    assert "4 of 50 steps, stopped early" in str(training)
