"""npgpt trains, resumes, samples and prepares where Windows forbids what it forbids. See windows.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import npgpt
from tests import windows

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the layer reads /proc")

ROOT = Path(npgpt.__file__).parents[1]
SMALL = ["--ops", "reference", "--eval-batches", "1", "--batch-size", "2", "--max-steps", "2"]
TRAIN = ["train", "--n-layer", "1", "--n-embd", "16", "--n-positions", "16", "--sample-tokens", "2", *SMALL]
COMMANDS = [
    [*TRAIN, "--data", "text 诗.txt", "--tokenizer", "bpe:270", "--out", "runs/a run 诗"],
    ["train", "--resume", "--max-steps", "3", "--out", "runs/a run 诗"],
    ["sample", "runs/a run 诗", "--max-new-tokens", "2"],
    ["sample", "runs/a run 诗", "--max-new-tokens", "2", "--last"],
    ["eval", "runs/a run 诗", "--data", "text 诗.txt"],
    ["finetune", "runs/a run 诗", "--data", "lines.jsonl", "--out", "tuned", "--lora", "1", *SMALL],
    ["finetune", "runs/a run 诗", "--resume", "--out", "tuned", "--max-steps", "3"],
    ["ask", "tuned", "--prompt", "fox", "--max-new-tokens", "1"],
    ["prepare", "text 诗.txt", "--tokenizer", "chars", "--out", "data 诗"],
    [*TRAIN, "--data", "data 诗", "--out", "prepared"],
    ["train", "--resume", "--max-steps", "3", "--out", "prepared"],
    ["tokenizer", "train", "text 诗.txt", "--vocab-size", "260", "--out", "tok"],
    ["tokenizer", "encode", "tok", "狐狸 fox"],
    ["plot", "tuned"],
    ["info", "tuned"],
    ["gradcheck", "gelu", "--ops", "reference", "--html", "report 诗.html"],
    ["tales", "1"],
]


def environment():
    # the layer changes the platform, for which numba would compile other code
    return {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_DISABLE_JIT": "1", "PYTHONUTF8": "1"}


# what writes and replaces the most files
SOME = [COMMANDS[0], COMMANDS[1], COMMANDS[2], COMMANDS[8]]


@pytest.mark.parametrize("commands", [pytest.param(COMMANDS, marks=pytest.mark.big), SOME], ids=["all", "some"])
def test_a_life_of_runs_needs_nothing_that_windows_forbids(tmp_path, commands):
    (tmp_path / "text 诗.txt").write_text("The quick brown fox 学而时习之. " * 30, encoding="utf-8")
    (tmp_path / "lines.jsonl").write_text('{"prompt": "fox", "completion": " 学"}\n' * 20, encoding="utf-8")
    (tmp_path / "commands.json").write_text(json.dumps(commands), encoding="utf-8")
    command = [sys.executable, windows.__file__, "commands.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    ended = [line for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert not [line for line in ended if not line.endswith("-> 0")], done.stderr
    assert len(ended) >= len(commands) - 1  # plot needs matplotlib
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".."]


MISTAKES = {
    "flushes a descriptor that reads": "os.fsync(os.open('a', os.O_RDONLY))",
    "opens a folder": "os.open('.', os.O_RDONLY)",
    "replaces an open file": "file = open('a', 'rb')\nos.replace('b', 'a')",
    "replaces by an open file": "file = open('b', 'rb')\nos.replace('b', 'a')",
    "replaces a mapped file": "import numpy\nids = numpy.memmap('a', 'u1', 'r')\nos.replace('b', 'a')",
    "removes an open file": "from pathlib import Path\nfile = open('a', 'rb')\nPath('a').unlink()",
    "writes a forbidden name": "open('a:b', 'wb')",
    "makes a forbidden folder": "os.mkdir('what?')",
    "makes a reserved name": "open('nul.txt', 'wb')",
    "asks for the user": "os.getuid()",
    "locks as POSIX does": "import fcntl",
    "knows a signal of POSIX": "import signal\nsignal.SIGHUP",
    "writes text in the system's encoding": "exec(compile(\"open('c', 'w')\", 'c', 'exec'), {'__name__': 'npgpt.c'})",
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What each of the mistakes raises on the layer, or "nothing"."""
    folder = tmp_path_factory.mktemp("windows")
    script = f"""
import json, os, gc
from tests import windows
windows.install()
found = {{}}
for name, code in {MISTAKES!r}.items():
    for file in "ab":
        with open(file, "wb") as f:
            f.write(b"12345")
    try:
        space = {{"os": os}}
        exec(code, space)
        found[name] = "nothing"
    except Exception as error:
        found[name] = type(error).__name__
        error.__traceback__ = None
    space.clear()
    gc.collect()
for file in "cd":
    open(file, "wb").close()
os.replace("c", "d")
os.unlink("d")
print(json.dumps(found))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_folder_has_one_writer_there_too(tmp_path):
    script = """
from pathlib import Path
from tests import windows
windows.install()
from npgpt.support.lock import locked
for _ in range(2):
    with locked(Path("run 诗")):
        try:
            with locked(Path("run 诗")):
                print("nothing")
        except ValueError as error:
            print(error)
print(list(Path(".").iterdir()))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    first, second, after = done.stdout.splitlines()
    assert first == second
    assert first.startswith("run 诗: process ")
    assert after == "[]"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_layer_forbids(verdicts, mistake):
    assert verdicts[mistake] != "nothing"
