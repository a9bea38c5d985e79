"""npgpt sample --interactive and its signals: what is typed in a terminal, and what Ctrl-C leaves."""

import os
import shutil
import signal

import pytest

from npgpt import GPT, Generator, GPTConfig
from npgpt.cli import console
from npgpt.tokenizer import ByteTokenizer, CharTokenizer
from tests.test_cli import command, start
from tests.test_cli_sample import TEXT, stdin


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model of characters."""
    tokenizer = CharTokenizer([TEXT])
    GPT(GPTConfig(tokenizer.vocab_size, 24, 8, 1, 2), seed=1).save_pretrained(tmp_path / "chars")
    tokenizer.save_pretrained(tmp_path / "chars")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bytes_that_are_no_text_are_named_and_end_nothing(capsys, tmp_path, monkeypatch):
    GPT(GPTConfig(256, 24, 8, 1, 2), seed=1).save_pretrained(tmp_path)
    ByteTokenizer().save_pretrained(tmp_path)
    typed = [b"ab\xff", b"a"]

    def read(prompt):
        if not typed:
            raise EOFError
        return typed.pop(0).decode()

    stdin(monkeypatch, b"", terminal=True)
    monkeypatch.setattr("builtins.input", read)
    code, out, err = command(capsys, "sample", tmp_path, "--interactive", "--max-new-tokens", 3)
    assert (code, out[0]) == (0, "a")
    assert err.splitlines()[1:] == ["npgpt sample: error: the byte 0xff is not utf-8 text"]


class Terminal:
    """A terminal in which lines are typed; an exception is Ctrl-C or Ctrl-D."""

    def __init__(self, monkeypatch, *typed):
        self.typed = iter(typed)
        monkeypatch.setattr("builtins.input", self.input)
        stdin(monkeypatch, b"", terminal=True)

    def input(self, prompt):
        print(prompt, end="")
        line = next(self.typed)
        if isinstance(line, str):
            return line
        if line is signal.SIGINT:
            signal.raise_signal(line)
        raise EOFError


def test_interactive_continues_each_line_and_an_error_ends_nothing(capsys, here, monkeypatch):
    Terminal(monkeypatch, "日", "X", "日", signal.SIGINT, "", None)
    code, out, err = command(capsys, "sample", "chars", "--interactive", "--max-new-tokens", 5)
    assert code == 0
    first, wrong, second, stopped, new, end = out.split("> ")[1:]
    assert (wrong, stopped, end) == ("", "\n", "\n")
    assert first == command(capsys, "sample", "chars", "--prompt", "日", "--max-new-tokens", 5)[1]
    assert first != second  # another draw
    assert second[0] == "日"
    assert len(new) > 5
    begin, error = err.splitlines()
    assert "Ctrl-D" in begin
    assert error.startswith("npgpt sample: error: character 'X'")


def test_ctrl_c_stops_a_text_and_not_the_loop(capsys, here, monkeypatch):
    Terminal(monkeypatch, "日", "河", None)
    step, steps = Generator.step, []

    def interrupted(self):
        steps.append(self)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Generator, "step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = command(capsys, "sample", "chars", "--interactive", "--max-new-tokens", 6)
    assert (code, len(err.splitlines())) == (0, 1)
    stopped, whole = out.split("> ")[1:3]
    assert len(stopped) == len("日") + 2 + 1
    assert len(whole) == len("河") + 6 + 1
    assert signal.getsignal(signal.SIGINT) == before


def test_damage_is_said_at_the_end_of_the_loop_if_every_text_was_stopped(capsys, here, tmp_path, monkeypatch):
    shutil.copytree("chars", tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    Terminal(monkeypatch, "日", None)
    monkeypatch.setattr(Generator, "step", lambda self: signal.raise_signal(signal.SIGINT))
    code, _, err = command(capsys, "sample", tmp_path / "run", "--interactive")
    assert code == 2
    assert "model.safetensors: its checksum does not match" in err


def test_another_signal_ends_the_loop(capsys, here, monkeypatch):
    Terminal(monkeypatch, "日")
    monkeypatch.setattr(Generator, "step", lambda self: signal.raise_signal(signal.SIGTERM))
    code, _, err = command(capsys, "sample", "chars", "--interactive")
    assert (code, err.splitlines()[-1]) == (128 + signal.SIGTERM, "interrupted")


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with console.ctrl_c_interrupts():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_keeps_the_text_so_far(here):
    with start("sample", "chars", "--prompt", "日", "--max-new-tokens", 10_000_000) as process:
        begin = os.read(process.stdout.fileno(), 30)  # what it has printed so far, and no more
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"interrupted\n")
    assert (begin + rest).decode().startswith("日")
    assert rest.endswith(b"\n")
