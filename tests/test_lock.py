"""A folder has one writer at a time, and its lock ends with the process that holds it."""

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt.cli import main
from npgpt.support import lock
from npgpt.support.lock import NAME, locked

fcntl = pytest.importorskip("fcntl")

HOLD = """
import sys, time
from pathlib import Path
from npgpt.support.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    folder = tmp_path / "run 诗"
    environment = {**os.environ, "PYTHONPATH": str(Path(lock.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield folder, process
    process.kill()
    process.communicate()


def test_a_folder_that_stays_empty_leaves_nothing(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [NAME]
        assert not (tmp_path / "a" / "b" / NAME).stat().st_mode & 0o111
    assert not list(tmp_path.iterdir())


def test_only_the_lock_goes_from_a_folder_with_files(tmp_path):
    with locked(tmp_path / "a"):
        (tmp_path / "a" / "mine").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]


def test_a_folder_that_was_there_stays(tmp_path):
    with locked(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_the_lock_is_free_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path / "a"):
            raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_second_writer_is_told_the_folder_and_the_process(holder):
    folder, process = holder
    with pytest.raises(ValueError, match=rf"run 诗: process {process.pid} is writing to it"), locked(folder):
        pass
    assert (folder / NAME).exists()


def test_two_blocks_of_one_process_exclude_each_other_too(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()} "), locked(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_free(holder):
    folder, process = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / NAME).exists()
    with locked(folder):
        assert (folder / NAME).read_text().startswith(f"{os.getpid()} ")


@pytest.mark.parametrize("content", ["", "nonsense", "12 elsewhere"])
def test_an_owner_without_a_readable_name_is_another_process(tmp_path, content):
    with locked(tmp_path):
        (tmp_path / NAME).write_text(content)
        words = "process 12 on elsewhere is" if content.endswith("elsewhere") else "another process is"
        with pytest.raises(ValueError, match=words), locked(tmp_path):
            pass


def test_a_lock_file_that_its_owner_removes_in_between_is_not_the_lock(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def removing(descriptor, how):
        flock(descriptor, how)
        if not calls:
            (tmp_path / NAME).unlink()
        calls.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", removing)
    with locked(tmp_path), pytest.raises(ValueError, match="is writing to it"), locked(tmp_path):
        pass
    assert len(calls) == 2  # the first one did not count; the second is the lock; the third raises


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_it_goes_on_and_says_so(tmp_path, monkeypatch, caplog, number):
    def flock(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING, "npgpt"), locked(tmp_path):
        pass
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: the file system has no locks; let only one process write to this folder"
    ]


COMMANDS = {
    "train": ["train", "--data", "text", "--ops", "reference", "--max-steps", "1", "--n-layer", "1", "--out"],
    "resume": ["train", "--resume", "--ops", "reference", "--out"],
    "prepare": ["prepare", "text", "--tokenizer", "bytes", "--out"],
    "tokenizer": ["tokenizer", "train", "text", "--vocab-size", "260", "--out"],
    "demo": ["demo", "--out"],
}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "resume"])
def test_a_command_that_writes_is_refused_in_one_line(holder, command, capsys, monkeypatch):
    folder, process = holder
    monkeypatch.chdir(folder.parent)
    Path("text").write_text("The quick brown fox. " * 100)
    assert main([*COMMANDS[command], folder.name]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"{folder.name}: process {process.pid} is writing to it" in line
    assert [path.name for path in folder.iterdir()] == [NAME]


@pytest.mark.parametrize("command", ["train", "finetune", "python"])
def test_a_run_holds_its_lock_from_the_start_to_the_last_record(tmp_path, monkeypatch, command):
    import npgpt
    from npgpt.training import run

    monkeypatch.chdir(tmp_path)
    Path("text").write_text("The quick brown fox. " * 100)
    Path("lines").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    small = ["--ops", "reference", "--max-steps", "1", "--eval-batches", "1", "--batch-size", "2"]
    base = ["train", "--data", "text", "--n-layer", "1", "--tokenizer", "bpe:257", "--sample-tokens", "0"]
    if command == "finetune":
        assert main([*base, *small, "--out", "base"]) == 0
    begin, seen = run.begin_run, []

    def refused(folder):
        with pytest.raises(ValueError, match="is writing to it"), locked(folder):
            pass
        seen.append(folder)
        begin(folder)

    monkeypatch.setattr(run, "begin_run", refused)
    if command == "train":
        assert main([*base, *small, "--out", "out"]) == 0
        assert main(["sample", "out", "--max-new-tokens", "1"]) == 0
    elif command == "finetune":
        assert main(["finetune", "base", "--data", "lines", *small, "--out", "out"]) == 0
    else:
        npgpt.train("text", "out", max_steps=1, eval_batches=1, batch_size=2, n_layer=1, ops="reference")
    assert seen == [Path("out")]
    assert not (tmp_path / "out" / NAME).exists()
    with locked(Path("out")):
        pass


def test_readers_need_no_lock(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("The quick brown fox. " * 100)
    assert main([*COMMANDS["train"], "run", "--eval-batches", "1", "--sample-tokens", "0"]) == 0
    with locked(Path("run")):
        assert main(["sample", "run", "--max-new-tokens", "1"]) == 0
        assert main(["eval", "run", "--data", "text"]) == 0
        assert main([*COMMANDS["resume"], "run"]) == 2
    assert "run: process" in capsys.readouterr().err


def test_a_start_that_is_refused_later_frees_the_lock_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*COMMANDS["train"], "runs/run"]) == 2  # there is no text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_file_is_an_error_and_not_a_wait(tmp_path, monkeypatch):
    def never(path, *args):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    monkeypatch.setattr(os, "open", never)
    with pytest.raises(FileNotFoundError, match=r"\.npgpt\.lock"), locked(tmp_path):
        pass


def test_a_file_system_without_stable_numbers_has_locks_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    with locked(tmp_path), pytest.raises(ValueError, match="is writing to it"), locked(tmp_path):
        pass
