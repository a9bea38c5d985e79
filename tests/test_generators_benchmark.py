"""`python -m benchmarks generators`: minutes become steps, and what is finished is kept."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import generators
from benchmarks.__main__ import main
from npgpt.cli import COMMANDS, parse
from npgpt.cli import main as npgpt
from npgpt.config import LANGS, TASKS
from tests.test_cli_examples import small

RESULTS = Path("o/results.jsonl")
SETTING = generators.Setting("base", ("translate",), LANGS)


@pytest.mark.parametrize("name", generators.CONTESTANTS)
def test_the_command_of_every_contestant_exists(name, tmp_path):
    if name == "teacher":
        return
    command = generators.command_of(name, SETTING, tmp_path / "a.jsonl")
    assert command[0] in COMMANDS
    _, args = parse(command)
    assert generators.contestant(name) == name
    if name.count("-") == 3:
        loss = args.loss.removesuffix(":1")
        assert "-".join((args.decoder, args.bridge, args.encoder, loss)) == name
    elif "-" in name:
        assert args.n_layer == 1


def test_a_student_may_have_another_width(tmp_path):
    command = generators.command_of("distilled-2x64", SETTING, tmp_path)
    assert command == ["distill", "base", "--data", "tales:en+zh", "--n-layer", "2", "--n-embd", "64"]
    taught = generators.command_of("taught-2x64", SETTING._replace(langs=("zh",)), tmp_path)
    assert taught == ["distill", "base", "--data", "tales:zh", "--n-layer", "2", "--n-embd", "64", *generators.TAUGHT]


@pytest.mark.parametrize(
    "name", ["", "gtp", "gru-attention-whole", "gru-attention-whole-ce-1", "scratch", "scratch-x3"]
)
def test_a_contestant_that_nobody_can_be_is_refused(name):
    with pytest.raises(argparse.ArgumentTypeError, match="is no contestant"):
        generators.contestant(name)


@pytest.mark.parametrize("flags", [("--langs", "en,fr"), ("--tasks", "translate,sing"), ("--langs", "")])
def test_a_language_or_task_that_does_not_exist_is_refused(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generators", "--base", "base", *flags])
    assert stop.value.code == 2
    assert f"argument {flags[0]}: {flags[1].split(',')[-1]!r} is none of" in capsys.readouterr().err


def test_a_course_begins_with_questions_and_has_no_further_ones_about_a_tale():
    assert [part.task for part in generators.course_of(("translate",))] == ["answer", "translate", "translate"]
    mixed = generators.course_of(("answer", "write"))
    assert [part.task for part in mixed] == ["answer", "answer,write", "answer,write"]
    for course in (mixed, *(generators.course_of((task,)) for task in TASKS)):
        assert sum(part.share for part in course) == pytest.approx(1)
        assert not any(part.questions for part in course)


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """No model is trained: what would be is noted, and each step that is timed takes a second, the first ones ten."""
    calls, now, took = [], [0.0], []

    def step(*args):
        now[0] += 10.0 if len(took) < generators.NOT_TIMED else 1.0
        took.append(now[0])

    def call(command, out, steps, seed):
        from npgpt.training import loop

        calls.append((command[0], out.name, steps, seed))
        took.clear()
        if out.name == "run":  # which is timed
            for _ in range(steps):
                loop.train_step()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("npgpt.training.loop.train_step", step)
    monkeypatch.setattr(generators.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(generators, "call", call)
    monkeypatch.setattr(generators, "write_course", lambda path, *args: path.write_text(""))
    scores = {f"translate {lang}": 0.5 for lang in LANGS}
    monkeypatch.setattr(generators, "of_tasks", lambda *args: {"parameters": 7, "scores": scores})
    found = {"parameters": 5, "loss": 0.5, "floor": 0.4, "right": 0.9}
    monkeypatch.setattr(generators, "of_student", lambda *args: found)
    return calls


def bench(*words):
    return main(["generators", "--base", "base", "--out", "o", *words])


def test_minutes_are_a_number_of_steps_whatever_the_machine_does(stubs, capsys):
    words = ("--tasks", "translate", "--only", "gpt", "scratch-1", "teacher", "--minutes", "2", "--seeds", "2")
    assert bench("--measure", *words) == 0
    assert stubs == [("finetune", "run", generators.TIMED, generators.SEED), ("train", "run", generators.TIMED, 1337)]
    assert json.loads(Path("o/steps.json").read_text()) == {"gpt translate en,zh": 1.0, "scratch-1 en,zh": 1.0}
    Path("o/steps.json").write_text('{"gpt translate en,zh": 9.0}')
    assert bench("--measure", *words) == 0, "which measures again what is known"
    assert json.loads(Path("o/steps.json").read_text()) == {"gpt translate en,zh": 1.0, "scratch-1 en,zh": 1.0}
    stubs.clear()
    times = {"gpt translate en,zh": 0.25, "scratch-1 en,zh": 0.5}
    Path("o/steps.json").write_text(json.dumps(times))
    assert bench(*words) == 0
    assert stubs == [
        (command, f"{name}-en-zh-2min-{seed}", steps, seed)
        for seed in (1337, 1338)
        for command, name, steps in (("finetune", "gpt-translate", 480), ("train", "scratch-1", 240))
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["fine-tuned GPT", "", "", "ce", "7", "250 ms", "480", "50%", "50%", "2"] in rows
    assert ["scratch-1", "2", "5", "500 ms", "240", "25.0%", "90%", "2"] in rows
    assert ["teacher", "", "5", "", "", "25.0%", "90%", "2"] in rows


def test_what_is_finished_is_kept(stubs, capsys):
    words = ("--tasks", "translate", "--only", "gpt", "--minutes", "1")
    assert bench(*words) == 0
    before = RESULTS.read_text()
    stubs.clear()
    assert bench(*words) == 0
    assert (stubs, RESULTS.read_text()) == ([], before)
    for other in (("--minutes", "3"), ("--seeds", "2"), ("--tests", "7"), ("--tasks", "write")):
        assert bench(*words, *other) == 0
        assert RESULTS.read_text() != before
        before = RESULTS.read_text()
    capsys.readouterr()
    assert main(["generators", "--out", "o", "--table"]) == 0
    out = capsys.readouterr().out
    assert "1 minutes, translate; right, of 7 or 100 each:" in out
    assert "3 minutes, translate; right, of 100 each:" in out
    assert "1 minutes, write" in out


def test_one_that_fails_does_not_keep_the_others_from_running(stubs, monkeypatch, capsys):
    plain = generators.call

    def call(command, out, *args):
        plain(command, out, *args)
        if command[0] == "finetune" and out.name != "run":
            raise SystemExit(2)

    monkeypatch.setattr(generators, "call", call)
    assert bench("--tasks", "translate", "--only", "gpt", "scratch-1") == 1
    assert [json.loads(line)["name"] for line in RESULTS.read_text().splitlines()] == ["scratch-1"]
    assert "gpt failed: 2" in capsys.readouterr().out


def test_without_a_base_it_says_what_to_give(capsys):
    assert main(["generators"]) == 2
    assert "give --base RUN" in capsys.readouterr().err


@pytest.mark.big
def test_all_of_it_runs(tmp_path, monkeypatch, capsys):
    """With one step for each of contestants of each kind, a mixture of tasks, and one language."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"TIMED": 2, "NOT_TIMED": 1, "SAMPLES": 2}.items():
        monkeypatch.setattr(generators, name, value)
    monkeypatch.setattr("npgpt.data.tales.corpus.VALIDATION_TALES", 3)
    names = ["gpt", "gru-attention-frozen-ce+cosine", "teacher", "scratch-1", "taught-1x4"]
    with small():
        shape = "--n-layer 1 --n-embd 8 --n-head 1 --max-steps 1 --batch-size 2 --eval-batches 1 --threads 1"
        assert npgpt(f"train --out base {shape} --data tales".split()) == 0
        words = ("--tasks", "answer,translate", "--langs", "zh", "--tests", "1", "--minutes", "1e-9", "--threads", "1")
        assert bench(*words, "--only", *names) == 0
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    assert [line["name"] for line in lines] == names
    assert {*lines[0]["scores"]} == {"answer zh", "translate zh"}
    assert all(line["steps"] == 1 for line in lines if line["name"] != "teacher")
    assert all(line["loss"] > line["floor"] for line in lines if "loss" in line)
    assert not [*(tmp_path / "o").glob("*-*.jsonl")], "examples are made again, and not kept"
