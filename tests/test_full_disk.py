"""A full disk is one line that names the file, and what was there before stays whole."""

import errno
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from npgpt.cli import main
from npgpt.training.checkpoint import STATE
from tests.test_cli import start
from tests.test_cli_train import TINY, resume, saved, train

TEXT = "The quick brown fox 学而时习之. " * 100
SIZE, PAGE = 1 << 18, 1 << 12
TRAIN = ["train", "--data", "text", "--ops", "reference", "--n-layer", "1", "--n-embd", "16", "--eval-batches", "1"]
TRAIN += ["--batch-size", "2", "--sample-tokens", "0", "--threads", "1", "--max-steps", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.fixture
def disk(here):
    """A function that leaves so many bytes of a small disk free, which is mounted at `disk 诗`."""
    folder = here / "disk 诗"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")

    def leave(n_bytes):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        free = os.statvfs(folder)
        (folder / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize - n_bytes))
        return folder

    yield leave
    subprocess.run(["umount", str(folder)], check=True)


def parts(folder):
    return [path for path in folder.rglob(".*") if path.name not in (".", "..")]


COMMANDS = {
    "train": [*TRAIN, "--out", "{}/run"],
    "prepare": ["prepare", "text", "--tokenizer", "bytes", "--out", "{}/data"],
    "tokenizer": ["tokenizer", "train", "text", "--vocab-size", "270", "--out", "{}/tokenizer"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_room_is_left_the_line_names_the_file_and_nothing_is_half(disk, capsys, command):
    codes = []
    for pages in range(1, 45, 2):
        folder = disk(pages * PAGE)
        words = [word.format(folder) for word in COMMANDS[command]]
        codes.append(main(words))
        err = capsys.readouterr().err
        if codes[-1]:
            (line,) = [line for line in err.splitlines() if "error" in line]
            assert "No space left on device" in line
            assert str(folder) in line
            assert ".part" not in line
            assert not parts(folder)
            (folder / "filler").unlink()
            more = ["--resume"] if (folder / "run" / STATE).exists() else []
            assert main([*words, *more]) == 0
            capsys.readouterr()
    assert set(codes) == {0, 2}
    assert codes == sorted(codes, reverse=True), "more room never hurts"


@pytest.mark.parametrize("name", ["loss.png", "loss.svg", "loss"])
def test_a_plot_that_does_not_fit_leaves_no_file(disk, here, capsys, name):
    pytest.importorskip("matplotlib")
    assert main([*TRAIN, "--out", "run"]) == 0
    folder = disk(2 * PAGE)
    assert main(["plot", "run", "--out", str(folder / name)]) == 2
    assert f"{folder / name}: No space left on device" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["filler"]
    (folder / "filler").unlink()
    assert main(["plot", "run", "--out", str(folder / name)]) == 0
    assert capsys.readouterr().out == f"{folder / name}\n"
    assert (folder / name).stat().st_size > 2 * PAGE


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("before", [b"old", None])
def test_a_plot_that_fails_keeps_the_picture_before(here, capsys, monkeypatch, before):
    figure = pytest.importorskip("matplotlib.figure")
    assert main([*TRAIN, "--out", "run"]) == 0
    if before:
        Path("loss.png").write_bytes(before)
    monkeypatch.setattr(figure.Figure, "savefig", full)
    assert main(["plot", "run", "--out", "loss.png"]) == 2
    assert "loss.png: No space left on device" in capsys.readouterr().err
    assert Path("loss.png").exists() == bool(before)
    assert not before or Path("loss.png").read_bytes() == before


@pytest.mark.parametrize("line", ["tokenizer stats run text --plot {}", "gradcheck gelu --ops reference --html {}"])
def test_a_report_that_does_not_fit_leaves_no_file(disk, capsys, line):
    pytest.importorskip("matplotlib")
    assert main([*TRAIN, "--out", "run"]) == 0
    folder = disk(0)
    assert main([*line.split()[:-1], str(folder / "a.png")]) == 2
    assert f"{folder / 'a.png'}: No space left on device" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["filler"]


def test_what_is_no_file_is_written_to_and_stays_what_it_is(here, capsys):
    """A rename over /dev/null would make a file of it."""
    pytest.importorskip("matplotlib")
    assert main([*TRAIN, "--out", "run"]) == 0
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main(["gradcheck", "gelu", "--ops", "reference", "--html", "pipe"]) == 0
        assert os.read(reader, 5)
    finally:
        os.close(reader)
    assert not Path("pipe").is_file()
    if Path("/dev/full").exists():
        assert main(["plot", "run", "--out", "/dev/full"]) == 2
        assert "/dev/full: No space left on device" in capsys.readouterr().err
        assert not Path("/dev/full").is_file()


def test_metrics_that_do_not_fit_name_their_file(here, capsys, monkeypatch):
    import builtins

    plain = builtins.open

    def only_metrics(path, *args, **kwargs):
        file = plain(path, *args, **kwargs)
        if str(path).endswith("metrics.jsonl") and args[:1] == ("a",):
            file.close()
            file = plain("/dev/full", "a", encoding="utf-8")
        return file

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    monkeypatch.setattr(builtins, "open", only_metrics)
    assert main([*TRAIN, "--out", "run"]) == 2
    assert "run/metrics.jsonl: No space left on device" in capsys.readouterr().err


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_disk(monkeypatch, where: str, at: int) -> None:
    """Let the nth write of one kind find the disk full, half of the file or line being written."""
    calls = iter(range(1, 10**6))
    if where == "metrics":

        def append(folder, record):
            with open(folder / "metrics.jsonl", "a") as file:
                if next(calls) >= at:
                    file.write('{"st')
                    raise FULL
                file.write(json.dumps(record) + "\n")

        monkeypatch.setattr("npgpt.training.loop.append_metrics", append)
    else:
        from npgpt.hub.tensors import _write

        def save(path, *what):
            if where in path.name and next(calls) >= at:
                path.write_bytes(b"half")
                raise FULL
            _write(path, *what)

        monkeypatch.setattr("npgpt.hub.tensors._write", save)


@pytest.mark.parametrize("where", ["model.safetensors", STATE, "metrics"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_full_disk_is_one_line_and_what_was_saved_stays(capsys, text, monkeypatch, where, at):
    assert train(capsys)[0] == 0
    (text / "r").rename(text / "whole")
    with monkeypatch.context() as patch:
        fill_disk(patch, where, at)
        code, _, err = train(capsys)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "No space left on device" in err
    assert not list(text.rglob("*.part"))
    # with room again the same command, or --resume if something had been saved, comes to the same end
    again = resume(capsys) if (text / "r" / STATE).exists() else train(capsys)
    assert (again[0], again[2]) == (0, "")
    assert saved(text / "r") == saved(text / "whole")


def test_a_limit_of_the_system_is_one_line(text):
    """A real refusal to write, by a limit on the size of a file."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    with start("train", "--data", "a.txt", "--out", "r", *TINY, "--n-embd", 64, preexec_fn=limited) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1
    assert b"File too large" in err
    assert not list(text.rglob("*.part"))
