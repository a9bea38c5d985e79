"""Ctrl-C at five moments of every command: one line, exit code 130, and nothing half-written."""

import contextlib
import itertools
import json
import shutil
import signal
import sys
import tempfile
import threading

import pytest
from safetensors.numpy import load_file

from npgpt import cli
from npgpt.cli import COMMANDS, main
from npgpt.training.checkpoint import STATE
from tests.conftest import mostly_big
from tests.mistakes.tools import FINETUNE, TINY, contents

LINES = {
    "train": f"train --data a.txt --out new {TINY} --sample-tokens 9",
    "resume": "train --resume --out r --max-steps 4",
    "distill": "distill r --out new --cache-logits 2 --max-steps 2 --sample-tokens 9",
    "sample": "sample r --max-new-tokens 20",
    "prompts": "sample r --prompts a.txt --max-new-tokens 2",
    "finetune": f"finetune q --data tasks.jsonl --out new {FINETUNE}",
    "train-generator": f"train-generator q --data tasks.jsonl --out new {FINETUNE}",
    "ask": "ask f --prompt the",
    "eval": "eval r --data a.txt",
    "score": "score r a.txt",
    "features": "features r a.txt --out v.npy",
    "similar": "similar r the --search a.txt",
    "tales": "tales 3",
    "tasks": "tales 3 --tasks",
    "demo": "demo --out new --base-steps 1 --tune-steps 1 --tests 1 --tasks translate",
    "data": "data list",
    "prepare": "prepare a.txt --out new --tokenizer bpe:270",
    "learn": "tokenizer train a.txt --out new --vocab-size 270",
    "encode": "tokenizer encode p the",
    "decode": "tokenizer decode p 1 2 3",
    "show": "tokenizer show p the",
    "stats": "tokenizer stats p a.txt",
    "gradcheck": "gradcheck linear",
    "info": "info r",
    "export": "export r --weights int8 --out new",
    "plot": "plot r",
    "profile": "profile r --steps 1",
}
QUICK = [name for name in LINES if name != "demo"]
# Commands that use what a command has written
USES = {
    "train": ["sample new"],
    "distill": ["sample new"],
    "finetune": ["ask new --prompt the"],
    "train-generator": ["ask new --prompt the"],
    "prepare": ["tokenizer show new the", f"train --data new --out newer {TINY}"],
    "learn": ["tokenizer show new the"],
}


def test_the_lines_name_every_command():
    assert {line.split()[0] for line in LINES.values()} == set(COMMANDS)


class Moments:
    """Counts the calls of npgpt's functions within a command, and interrupts it at the one with the given number."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.calls, self.where = at, 0, ""
        self.began = False

    def __call__(self, frame, event, arg):
        code = frame.f_code
        if code is cli.run.__code__:
            self.began = event == "call"
        if event != "call" or not self.began or "npgpt/" not in code.co_filename or code.co_name == "<module>":
            return
        self.calls += 1
        if self.calls == self.at:
            self.where = f"{code.co_filename}:{frame.f_lineno} {code.co_name}"
            signal.raise_signal(signal.SIGINT)


def run(line: str, moments: Moments) -> int:
    assert threading.current_thread() is threading.main_thread()
    sys.setprofile(moments)
    try:
        return main(line.split())
    finally:
        sys.setprofile(None)


def require_whole(folder) -> None:
    """Fail for a file that was begun and not finished."""
    for path in folder.rglob("*"):
        assert ".part" not in path.name, path
        assert ".tmp" not in path.name, path
        if path.suffix == ".safetensors":
            load_file(path)
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        if path.suffix == ".jsonl":
            assert [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# always: early in each command, and late in those whose files are used afterwards
ALWAYS = {*itertools.product(QUICK, [1]), *itertools.product(USES, [4])}


@pytest.mark.parametrize(("name", "moment"), mostly_big([*itertools.product(QUICK, range(5))], ALWAYS.__contains__))
def test_an_interrupt_is_one_line_and_leaves_nothing_half_written(capsys, here, name, moment):
    if name == "plot":
        pytest.importorskip("matplotlib")
    line = LINES[name]
    calls = counted(capsys, here, line)
    before = contents(here)
    moments = Moments(at=1 + (2 * moment + 1) * (calls - 1) // 10)
    try:
        code = run(line, moments)
    except KeyboardInterrupt:
        pytest.fail(f"a traceback, from {moments.where}")
    out, err = capsys.readouterr()
    assert moments.where, "the command ended before it was interrupted"
    if code == 0:  # it came too late to stop anything
        assert out.splitlines()[-1:] == ENDS[line]
    else:
        assert code == 130, (moments.where, out, err)
    assert len([text for text in err.splitlines() if text.strip()]) <= 1, (moments.where, err)
    assert "Traceback" not in err
    require_whole(here)
    after = contents(here)
    assert before.keys() <= after.keys()
    if name in USES:
        require_usable(here, name, moments.where)


def require_usable(folder, name: str, where: str) -> None:
    """Fail if what an interrupted command has left can neither be gone on with, nor begun anew, nor used as it is."""
    line = LINES[name]
    state = (folder / "new" / STATE).exists()
    code = main(f"{line} --resume".split() if state else line.split())
    assert code == 0 or (name in ("prepare", "learn") and (folder / "new" / "tokenizer_config.json").exists()), where
    for use in USES[name]:
        assert main(use.split()) == 0, (where, use)


COUNTS: dict[str, int] = {}
ENDS: dict[str, list[str]] = {}  # the last line that a command prints


def counted(capsys, folder, line: str) -> int:
    """Return how many calls a command makes in all, in a copy of the folder."""
    if line in COUNTS:
        return COUNTS[line]
    for _ in range(2):  # what is imported and compiled at first is there at the second time
        moments = Moments()
        with tempfile.TemporaryDirectory() as copy, contextlib.chdir(shutil.copytree(folder, f"{copy}/here")):
            assert run(line, moments) == 0
        ENDS[line] = capsys.readouterr().out.splitlines()[-1:]
    COUNTS[line] = moments.calls
    return moments.calls
