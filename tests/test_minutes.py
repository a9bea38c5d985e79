"""`npgpt train --minutes`: the settings that it chooses and says, the flags that it keeps, and runs that go on."""

import json

import pytest

import npgpt
from npgpt.training.checkpoint import read_progress
from npgpt.training.pretraining import plan_training, start_training
from npgpt.training.recipes import DEFAULT_MINUTES, recipe_of
from tests.test_averaging import losses
from tests.test_cli import command
from tests.test_cli_train import DOCUMENTS, TINY, interrupt_after, settings, steps

SMALL = tuple(word for pair in zip(TINY[::2], TINY[1::2], strict=True) if pair[0] != "--max-steps" for word in pair)
pytestmark = pytest.mark.usefixtures("known_machine")


@pytest.fixture
def in_steps(monkeypatch):
    """Let a run's clock advance by a tenth of a second in each step, and not otherwise."""

    def set_minutes(seconds_of_step=0.1):
        from npgpt.training import pace

        class Stepping(pace.Pace):
            def __init__(self, *args):
                self.now = 0.0
                super().__init__(*args, clock=lambda: self.now)
                self.now = self.began

            def __call__(self, done):
                self.now += seconds_of_step if self.first is not None else 0.0
                return super().__call__(done)

        monkeypatch.setattr("npgpt.training.minutes.Pace", Stepping)

    return set_minutes


def minutes(capsys, *flags):
    return command(capsys, "train", "--data", "a.txt", "--out", "r", *flags)


def test_the_recipe_of_own_text_is_minutes_unless_steps_or_a_preset_are_given():
    assert recipe_of({"data": ["a.txt"]}, False) == "minutes"
    for given in ({"preset": "tiny"}, {"max_steps": 3}, {"minutes": 1}, {"data": ["tales"]}, {"data": None}):
        assert recipe_of({"data": ["a.txt"]} | given, False) is None
    assert recipe_of({"data": ["a.txt"], "recipe": "nanogpt"}, False) == "nanogpt"
    assert recipe_of({"data": ["a.txt"]}, True) is None


def test_the_recipe_of_nanogpt_is_the_plan_without_one():
    plain, named = (plan_training({"data": ["a.txt"], "out": "r"} | more) for more in ({}, {"recipe": "nanogpt"}))
    assert (plain.config, plain.model, plain.reading) == (named.config, named.model, named.reading)
    assert plain.config == npgpt.TrainConfig()
    assert plan_training({"data": ["a.txt"], "out": "r", "recipe": "minutes"}).config.minutes == DEFAULT_MINUTES


def test_a_run_says_its_settings_and_why(capsys, text, in_steps):
    in_steps()
    code, out, _ = minutes(capsys, "--minutes", 0.1, "--patience", 0, *SMALL)
    assert code == 0
    table = out.split("settings for 0.1 minutes")[1].split("\nr: ")[0]
    assert max(map(len, table.splitlines())) <= 100
    for name, value in (("n_embd", 8), ("batch_size", 2), ("warmup_steps", 1), ("optimizer", "muon")):
        assert settings(text / "r")[name] == value
    assert [line.split()[2:] for line in table.splitlines() if line.split()[:1] == ["n_embd"]] == [["as", "given"]]
    assert "expected" in table or "no loss can be foretold" in table
    assert len(steps(text / "r")) == settings(text / "r")["max_steps"]
    assert 45 < len(steps(text / "r")) < 60


def test_a_run_that_was_stopped_has_what_is_left_of_its_minutes(capsys, text, in_steps, monkeypatch):
    in_steps()
    with monkeypatch.context() as patch:
        interrupt_after(patch, 20)
        assert minutes(capsys, "--minutes", 0.1, "--patience", 0, *SMALL)[0] == 130
    assert command(capsys, "train", "--resume", "--out", "r")[0] == 0
    assert 45 < len(steps(text / "r")) < 60
    done = read_progress(text / "r")
    assert command(capsys, "train", "--resume", "--out", "r")[0] == 0
    assert read_progress(text / "r")["step"] == done["step"], "a run that has ended does not go on by itself"


def test_a_run_goes_on_for_more_minutes_with_a_constant_rate_and_a_fall(capsys, text, in_steps):
    in_steps()
    assert minutes(capsys, *TINY)[0] == 0  # a run of six steps
    assert command(capsys, "train", "--resume", "--out", "r", "--minutes", 0.1)[0] == 0
    lines = [json.loads(line) for line in (text / "r" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if "lr" in line][6:]
    assert 45 < len(rates) < 60
    assert rates[0] == rates[5] == max(rates)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]


def test_the_rate_falls_over_the_same_share_however_often_a_run_goes_on(capsys, text, in_steps, monkeypatch):
    in_steps()
    monkeypatch.setattr("npgpt.training.minutes.steps_in", lambda *args: 50)
    assert minutes(capsys, "--minutes", 0.1, *SMALL, "--patience", 0, "--decay-share", 0.5)[0] == 0
    for _ in range(3):
        before = len(steps(text / "r"))
        assert command(capsys, "train", "--resume", "--out", "r", "--minutes", 0.1)[0] == 0
        lines = [json.loads(line) for line in (text / "r" / "metrics.jsonl").read_text().splitlines()]
        rates = [line["lr"] for line in lines if "lr" in line][before:]
        assert 0.4 < sum(rate < max(rates) for rate in rates) / len(rates) < 0.6


def test_a_run_that_was_stopped_early_goes_on_for_more_minutes(capsys, text, in_steps, monkeypatch):
    in_steps()
    with monkeypatch.context() as patch:
        losses(patch, *range(9))
        assert minutes(capsys, "--minutes", 0.1, *SMALL, "--patience", 2, "--eval-every", 2)[0] == 0
    assert len(steps(text / "r")) == 6
    assert command(capsys, "train", "--resume", "--out", "r", "--minutes", 0.1)[0] == 0
    assert len(steps(text / "r")) > 6


def test_minutes_that_are_none_or_contradict_are_refused(capsys, text):
    for value in (0, -1, "nan", "inf"):
        code, _, err = minutes(capsys, "--minutes", value)
        assert (code, err.count("\n")) == (2, 1)
    code, _, err = minutes(capsys, "--recipe", "nanogpt", "--minutes", 3)
    assert code == 2
    assert "--recipe nanogpt has a number of steps" in err
    with pytest.raises(ValueError, match="unknown recipe 'minute'; did you mean 'minutes'"):
        npgpt.train("a.txt", recipe="minute")


def test_the_command_that_is_printed_repeats_the_run_without_a_clock(capsys, text, in_steps):
    in_steps()
    (text / "a.txt").write_bytes((text / "a.txt").read_text().encode("utf-16"))
    code, out, _ = minutes(capsys, "--minutes", 0.1, *SMALL, "--dropout", 0.1, "--encoding", "utf-16", "--patience", 9)
    assert code == 0
    words = out.split("without a clock:\n")[1].split("\n\n")[0].replace("\\\n", " ").split()
    assert max(map(len, out.split("without a clock:\n")[1].splitlines())) <= 100
    assert command(capsys, *words[1:], "--out", "s")[0] == 0
    before, again = settings(text / "r"), settings(text / "s")
    left_out = {"minutes", "save_every"}
    assert {name for name in before if before[name] != again[name]} <= left_out
    losses = []
    for folder in "r", "s":
        lines = map(json.loads, (text / folder / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line][:9])
    assert losses[0] == losses[1]


def test_the_command_that_is_printed_fits_a_prepared_folder(capsys, text, in_steps):
    in_steps()
    assert command(capsys, "prepare", "a.txt", "--tokenizer", "bytes", "--out", "p")[0] == 0
    code, out, _ = command(capsys, "train", "--data", "p", "--out", "r", "--minutes", 0.1, *SMALL)
    assert code == 0
    words = out.split("without a clock:\n")[1].split("\n\n")[0].replace("\\\n", " ").split()
    assert command(capsys, *words[1:], "--out", "s")[0] == 0


@pytest.mark.parametrize("data", ["tales:en", "a.txt"])
def test_packed_rows_are_not_said_to_be_shuffled_windows(text, monkeypatch, data):
    monkeypatch.setattr("npgpt.data.source.TOKENIZER_TALES", 300)
    monkeypatch.setattr("npgpt.data.source.VALIDATION_TALES", 20)
    (text / "a.txt").write_text(DOCUMENTS)
    flags = {"tokenizer": "bpe:1024"} if data == "tales:en" else {"tokenizer": "bpe:300", "pack": True}
    flags |= {"end_token": "<end>"} if data == "a.txt" else {}
    run = start_training(plan_training({"data": [data], "out": "r", "minutes": 0.05, "n_embd": 8, **flags}))
    run.lock.close()
    assert run.config.windows == "random"
    assert run.choice.epochs == 0 if data == "tales:en" else run.choice.epochs > 0


def test_steps_that_are_given_beside_minutes_are_kept(capsys, text):
    assert minutes(capsys, "--minutes", 0.1, *TINY)[0] == 0
    assert steps(text / "r") == [1, 2, 3, 4, 5, 6]


@pytest.mark.big
def test_minutes_work_in_python(text, in_steps):
    in_steps()
    training = npgpt.train("a.txt", "r", progress=False, minutes=0.05, n_layer=1, n_embd=8, threads=1)
    assert training.finished
    assert training.config.optimizer == "muon"
    assert npgpt.train("a.txt", "s", progress=False, max_steps=1).config.minutes is None


def test_a_long_text_is_read_as_pieces_of_words(text, monkeypatch):
    monkeypatch.setattr("npgpt.training.minutes.VOCABULARIES", ((100, "bpe:270"),))
    plan = plan_training({"data": ["a.txt"], "out": "r", "minutes": 1, "n_positions": 8})
    run = start_training(plan)
    assert run.config.tokenizer == "bpe:270"
    assert run.tokenizer.vocab_size == 270
    run.lock.close()
    plan = plan_training({"data": ["a.txt"], "out": "r", "minutes": 1, "n_positions": 8, "tokenizer": "bytes"})
    run = start_training(plan)
    assert run.config.tokenizer == "bytes"
    run.lock.close()
