"""The last evaluation of a run: bounded, with its error, watched, and stopped by Ctrl-C without harm."""

import json
import signal

import numpy as np
import pytest

import npgpt
from npgpt import GPT, GPTConfig, TrainConfig
from npgpt.data.batch import Text, spread
from npgpt.data.packing import pack
from npgpt.models.gpt2 import loss_forward
from npgpt.training.evaluation import Evaluation, affordable_tokens, evaluate, standard_error, whole_loss
from npgpt.training.loop import Trainer
from npgpt.training.workers import Workers
from tests.test_cli import command

CONFIG = GPTConfig(vocab_size=7, n_positions=6, n_embd=8, n_layer=2, n_head=2)
IDS = np.random.default_rng(8).integers(0, 7, 4000)
SETTINGS = {"batch_size": 3, "max_steps": 4, "eval_batches": 2, "warmup_steps": 1, "threads": 2}
TINY = "--n-layer 1 --n-head 1 --n-embd 8 --n-positions 8 --max-steps 3 --eval-batches 1 --threads 2 --sample-tokens 0"


def model():
    gpt = GPT(CONFIG, 2)
    gpt.params.flat *= 20  # predictions far from uniform, so that no token is like another
    return gpt


def packed():
    rng = np.random.default_rng(1)
    return pack([rng.integers(0, 6, rng.integers(1, 6)) for _ in range(600)], 6, 6)


@pytest.mark.parametrize("data", [Text(IDS, 6), packed()], ids=["text", "packed"])
def test_data_that_fits_the_limit_is_read_whole(data):
    expected = Evaluation(whole_loss(model(), data), 0.0, data.size - isinstance(data, Text), True)
    for most in (0, data.size, 2 * data.size):
        assert evaluate(model(), data, most) == expected


@pytest.mark.parametrize("data", [Text(IDS, 6), packed()], ids=["text", "packed"])
def test_of_more_a_sample_is_read_always_the_same(data):
    found = evaluate(model(), data, 1000)
    assert found == evaluate(model(), data, 1000)
    assert 950 <= found.tokens <= 1000
    assert not found.whole
    assert found.loss == pytest.approx(whole_loss(model(), data), abs=4 * found.stderr)


def test_a_sample_is_wrong_by_as_much_as_its_error_says():
    gpt, squares = model(), []
    for seed in range(60):
        data = Text(np.random.default_rng(seed).integers(0, 7, 2400), 6)
        found = evaluate(gpt, data, 700)
        squares.append(((found.loss - whole_loss(gpt, data)) / found.stderr) ** 2)
    # the mean of the squares of 60 normal numbers is 1, with a standard deviation of sqrt(2 / 60) = 0.18
    assert 0.5 < np.mean(squares) < 1.5


def test_a_sample_has_each_row_once_and_something_of_each_part():
    for n, rows, share in ((1000, 8, 0.3), (33, 8, 0.97), (5, 8, 0.01), (1, 1, 0.5), (10**6, 128, 0.001)):
        groups = list(spread(n, rows, share))
        every = np.sort(np.concatenate(groups))
        assert max(map(len, groups)) <= rows
        assert len(every) == max(1, int(n * share))
        assert len(set(every)) == len(every)
        assert np.diff([*every, n]).max() <= n / len(every) + 1


def test_a_sample_of_a_text_shorter_than_the_context_is_one_window():
    found = evaluate(model(), Text(IDS[:5], 6), 2)
    assert found.tokens == 4
    assert found.stderr is None  # one group says nothing about how much groups differ
    assert str(found) == f"{found.loss:.4f}"


def test_the_standard_error_is_that_of_the_mean_of_the_groups():
    losses, counts = np.array([10.0, 30.0, 20.0]), np.array([10, 10, 10])
    # means of 1, 3 and 2 nats have a standard deviation of 1; a sample of half of the data has half of the variance
    assert standard_error(losses, counts, 10**9) == pytest.approx(1 / np.sqrt(3), rel=1e-6)
    assert standard_error(losses, counts, 60) == pytest.approx(1 / np.sqrt(6), rel=1e-12)


def test_workers_find_the_same_and_progress_ends_at_the_total():
    seen = []
    data = Text(np.tile(IDS, 30), 6)
    with Workers(model(), 3, 2) as workers:
        found = evaluate(model(), data, map=workers.map, progress=lambda *numbers: seen.append(numbers))
    assert found == evaluate(model(), data)
    done, totals = zip(*seen, strict=True)
    assert len(seen) > 10
    assert sorted(done) == list(done)
    assert done[-1] == data.size - 1
    assert set(totals) == {data.size}


def test_a_loss_alone_keeps_nothing_for_a_backward():
    """Otherwise an evaluation needs several times the memory of a training step, because its batches are larger."""
    gpt, batch = model(), Text(IDS, 6).first()
    loss, cache = loss_forward(gpt.params, batch.ids, batch.targets, CONFIG, gpt.ops, keep=False)
    features = cache[3]
    assert features.blocks == []
    assert loss == loss_forward(gpt.params, batch.ids, batch.targets, CONFIG, gpt.ops)[0] == gpt.loss(batch)


def records(folder, resume=False, should_stop=lambda: False, **settings):
    trainer = Trainer(GPT(CONFIG, 0), Text(IDS, 6), Text(IDS[::-1], 6), TrainConfig(**SETTINGS | settings), folder)
    trainer.on_evaluating = lambda done, total: seen.append(done)
    seen: list[int] = []
    found = [*trainer.run(resume, should_stop)]
    return found, seen


def test_the_record_of_a_sample_says_so(tmp_path):
    (*_, record), seen = records(tmp_path, final_eval_tokens=600)
    assert set(record) == {"step", "val_loss", "whole", "val_stderr", "val_tokens"}
    assert record["whole"] is False
    assert record["val_stderr"] > 0
    assert record["val_tokens"] == seen[-1] == 594
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1]) == record


def test_stopped_in_the_last_evaluation_a_resumed_run_has_only_that_left(tmp_path):
    whole, _ = records(tmp_path / "whole")
    asked = iter(range(100))
    first, seen = records(tmp_path / "parts", should_stop=lambda: next(asked) == 3 + 1)
    assert len(seen) == 1
    assert "whole" not in first[-1]
    rest, _ = records(tmp_path / "parts", resume=True)
    assert rest == whole[-1:]
    again, _ = records(tmp_path / "parts", resume=True, final_eval_tokens=600)  # the record is replaced
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines if "whole" in line] == again


def test_ctrl_c_in_the_last_evaluation_keeps_the_run_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 400)
    whole = Text.whole

    def interrupted(self, rows):
        for number, batch in enumerate(whole(self, 4)):
            if number == 3:
                signal.raise_signal(signal.SIGINT)
            assert number < 6, "Ctrl-C was not heard"
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Text, "whole", interrupted)
        code, out, err = command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY.split())
    assert code == 130
    assert "npgpt train --resume --out r" in out
    assert err.splitlines()[-1] == "stopping the evaluation ..."
    assert command(capsys, "sample", "r", "--max-new-tokens", "5")[0] == 0
    code, out, err = command(capsys, "train", "--resume", "--out", "r")
    assert (code, err) == (0, "")
    assert "on all validation data (step 3)" in out


def test_the_printed_loss_of_a_sample_has_its_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 400)
    words = ["train", "--data", "a.txt", "--out", "r", *TINY.split(), "--final-eval-tokens", "400"]
    code, out, _ = command(capsys, *words)
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("validation loss"))
    assert "±" in line
    assert "on 392 of 800 validation tokens (step 3; --final-eval-tokens 0 reads all)" in line
    assert json.loads((tmp_path / "r" / "train.json").read_text())["train"]["final_eval_tokens"] == 400


def test_in_python_the_loss_of_a_sample_has_its_error_too(tmp_path):
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 400)
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 8, "max_steps": 2, "eval_batches": 1, "threads": 1}
    common = {"out": tmp_path / "r", "progress": False, "final_eval_tokens": 400}
    training = npgpt.train(tmp_path / "a.txt", **common, **sizes)
    last = training.records[-1]
    assert f"validation loss {last['val_loss']:.4f} ± {last['val_stderr']:.4f} nats per token" in repr(training)


@pytest.mark.parametrize(("size", "tokens"), [(1, 2**18), (2**21, 2**18), (10_700_000, 51379), (10**9, 2**13)])
def test_a_large_model_reads_fewer_tokens(size, tokens):
    assert affordable_tokens(size) == tokens


def test_the_last_evaluation_reads_what_the_model_affords(tmp_path, monkeypatch):
    monkeypatch.setattr("npgpt.training.evaluation.MOST_TOKENS", 600)
    monkeypatch.setattr("npgpt.training.evaluation.FEWEST_TOKENS", 1)
    assert records(tmp_path / "some")[0][-1]["val_tokens"] == 594
    assert records(tmp_path / "all", final_eval_tokens=0)[0][-1]["whole"] is True
