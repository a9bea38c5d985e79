"""Ctrl-C, SIGTERM and SIGHUP: a training saves its state, and every command says a line and cleans up."""

import os
import runpy
import signal
import subprocess
import sys
import time

import pytest

import npgpt
from npgpt.cli import main
from npgpt.training import interrupt
from tests.conftest import mostly_big
from tests.test_cli import command, start
from tests.test_cli_train import TINY, resume, saved, steps, train

CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has Ctrl-C alone, which other tests try")


def kill_after(patch, step: int, *names: str) -> None:
    """Let these signals come while a step's record is written."""
    from npgpt.training.checkpoint import append_metrics

    def killing(folder, record):
        append_metrics(folder, record)
        if record["step"] == step and "loss" in record:
            for name in names:
                signal.raise_signal(getattr(signal, name))

    patch.setattr("npgpt.training.loop.append_metrics", killing)


@pytest.mark.parametrize("name", CODES)
def test_a_signal_saves_the_run_and_resume_goes_on_to_the_same_bits(capsys, text, monkeypatch, name):
    assert train(capsys)[0] == 0
    (text / "r").rename(text / "whole")
    before = [signal.getsignal(number) for number in interrupt.SIGNALS]
    with monkeypatch.context() as patch:
        kill_after(patch, 3, name)
        code, out, err = train(capsys)
    assert code == CODES[name]
    assert out.endswith("stopped; continue with: npgpt train --resume --out r\n")
    assert err.splitlines()[-1] == "finishing this step ..."
    assert [signal.getsignal(number) for number in interrupt.SIGNALS] == before
    assert steps(text / "r") == [1, 2, 3]
    assert resume(capsys)[0] == 0
    assert saved(text / "r") == saved(text / "whole")


@pytest.mark.parametrize("names", [("SIGHUP", "SIGHUP"), ("SIGTERM", "SIGHUP", "SIGTERM"), ("SIGHUP", "SIGINT")])
def test_several_signals_that_come_together_still_save_the_run(capsys, text, monkeypatch, names):
    """The system sends SIGHUP when a terminal is closed, and the shell sends it again."""
    with monkeypatch.context() as patch:
        kill_after(patch, 3, *names)
        assert train(capsys)[0] == CODES[names[0]]
    assert steps(text / "r") == [1, 2, 3]
    assert resume(capsys)[0] == 0


def test_a_signal_that_is_ignored_ends_nothing(capsys, text, monkeypatch):
    """As nohup ignores SIGHUP, and a script Ctrl-C for what it runs in the background."""
    ignored = signal.SIGHUP, signal.SIGINT
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    try:
        kill_after(monkeypatch, 3, "SIGHUP", "SIGINT")
        assert train(capsys)[0] == 0
        assert [signal.getsignal(number) for number in ignored] == [signal.SIG_IGN] * 2
    finally:
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)


def test_a_run_under_nohup_survives_its_terminal(text):
    with start("train", "--data", "a.txt", "--out", "r", *TINY, preexec_fn=ignore_hangup) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"on all validation data" in out


def ignore_hangup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.parametrize("outputs", mostly_big([1, 2], {2}.__contains__))
def test_ctrl_c_saves_a_run_whose_output_goes_through_tee(text, outputs):
    """Ctrl-C ends tee as well, so nobody reads what the run says about it."""
    reader, writer = os.pipe()
    words = [sys.executable, "-m", "npgpt", "train", "--data", "a.txt", "--out", "r", *TINY, "--max-steps", 1_000_000]
    streams = {"stdout": writer, "stderr": (subprocess.DEVNULL, writer)[outputs - 1]}
    with subprocess.Popen(list(map(str, words)), **streams) as process:
        os.close(writer)
        while b"step " not in os.read(reader, 1000):
            pass
        os.close(reader)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) in (130, 141)
    last = steps(text / "r")[-1]
    assert main(["train", "--resume", "--out", "r", "--max-steps", str(last + 2)]) == 0
    assert steps(text / "r") == list(range(1, last + 3))


def test_in_python_the_run_is_saved_before_the_signal_ends_the_program(text, monkeypatch):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append((number, steps(text / "r"))))
    try:
        kill_after(monkeypatch, 3, "SIGTERM")
        sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 8, "batch_size": 2, "max_steps": 6}
        training = npgpt.train("a.txt", "r", progress=False, eval_batches=1, warmup_steps=1, **sizes)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not training.finished
    assert received == [(signal.SIGTERM, [1, 2, 3])]


@pytest.mark.parametrize("name", CODES)
def test_a_signal_in_any_other_command_is_one_line_and_leaves_nothing_half_written(capsys, text, monkeypatch, name):
    def killed(*args):
        signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr("os.replace", killed)
    before = sorted(text.iterdir())
    code, out, err = command(capsys, "tokenizer", "train", "a.txt", "--vocab-size", 260, "--out", ".")
    assert (code, out, err) == (CODES[name], "", "interrupted\n")
    assert sorted(text.iterdir()) == before


def test_an_interrupt_that_a_library_makes_another_error_of_is_still_one(capsys, monkeypatch):
    """Compiled modules do so while they are imported."""

    def converted(*args):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import") from None

    monkeypatch.setattr("npgpt.cli.tales.print_tales", converted)
    assert command(capsys, "tales") == (130, "", "interrupted\n")


def test_an_interrupt_that_python_has_to_ignore_comes_again(capsys, monkeypatch):
    """llvmlite has destructors and callbacks, in which much of the time of a compilation is spent."""

    class Ignoring:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def ignoring(*args):
        del [Ignoring()][0]
        for _ in range(1000):
            time.sleep(0.01)

    monkeypatch.setattr("npgpt.cli.tales.print_tales", ignoring)
    assert command(capsys, "tales") == (130, "", "interrupted\n")


@pytest.mark.parametrize("module", ["argparse", "npgpt.cli.parser", "npgpt.cli.tales"])
def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path, module):
    """From the first of npgpt's own imports on. sitecustomize, which Python imports before, waits for this module."""
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.path.dirname(os.path.dirname(npgpt.__file__))])
    with start("tales", env={"PYTHONPATH": path}) as process:
        assert process.communicate(timeout=60) == (b"", b"interrupted\n")
    assert process.returncode == 130


def test_there_may_be_no_sighup(monkeypatch):
    """As on Windows."""
    monkeypatch.delattr(signal, "SIGHUP")
    assert runpy.run_path(interrupt.__file__)["SIGNALS"] == (signal.SIGINT, signal.SIGTERM)
