"""What a first and a second start of a command do: compile with a line that says so, then say nothing."""

import os
import subprocess
import sys

import pytest

TRAIN = [
    "train",
    "--max-steps",
    "1",
    "--eval-batches",
    "1",
    "--batch-size",
    "2",
    "--n-layer",
    "1",
    "--sample-tokens",
    "0",
]


def npgpt(tmp_path, *words, **environment):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "NUMBA_DISABLE_JIT": "0", **environment}
    command = [sys.executable, "-m", "npgpt", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.mark.big
def test_the_first_run_compiles_and_says_so_and_the_second_does_not(tmp_path):
    (tmp_path / "text").write_text("The quick brown fox. " * 100)
    data = ["--data", str(tmp_path / "text")]
    one, two = (npgpt(tmp_path, *TRAIN, *data, "--out", str(tmp_path / name)).stderr for name in ("one", "two"))
    assert "compiling the fast ops" in one
    assert "compiling" not in two
    sample = ["sample", str(tmp_path / "one"), "--max-new-tokens", "1"]
    assert "compiling" not in npgpt(tmp_path, *sample).stderr
    for path in (tmp_path / "cache").rglob("*.nbc"):
        path.write_bytes(b"")
    (line,) = npgpt(tmp_path, *sample).stderr.splitlines()
    assert line.endswith("was damaged, and is compiled again")
    assert npgpt(tmp_path, *sample).stderr == ""


def test_reference_ops_and_pages_of_help_compile_nothing(tmp_path):
    (tmp_path / "text").write_text("The quick brown fox. " * 100)
    where = ["--data", str(tmp_path / "text"), "--out", str(tmp_path / "run")]
    assert "compiling" not in npgpt(tmp_path, *TRAIN, *where, "--ops", "reference").stderr
    assert "compiling" not in npgpt(tmp_path, "info", "--no-speed", str(tmp_path / "run")).stderr
    assert not list((tmp_path / "cache").rglob("*.nbc"))


def test_a_command_imports_no_other_command():
    code = "import sys; from npgpt.cli import parse; parse(['tales']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "npgpt.cli.tales" in done.stdout.split()
    assert "npgpt.cli.train" not in done.stdout.split()
