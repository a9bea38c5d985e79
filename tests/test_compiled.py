"""No file of compiled code, and no lack of one, ends a program: it compiles, and says so in one line."""

import errno
import logging
import os
import pickle
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import npgpt
from npgpt.support import compiled, files, jit
from tests.conftest import mostly_big

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="numba compiles nothing")


def total(values):
    found = 0.0
    for value in values:
        found += value
    return found


def other(values):
    return values[0] - values[1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(compiled, "_said", set())
    jit.cache_folder.cache_clear()
    yield tmp_path
    jit.cache_folder.cache_clear()


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "npgpt")
    return lambda: [record.message for record in caplog.records]


def start(function=total, dtype=np.float64):
    """Call a function as a new process would; return its result, and how often its code was found."""
    fresh = jit.jit(function)
    return fresh(np.array([3, 1], dtype)), sum(fresh.stats.cache_hits.values())


def code(home):
    return sorted((home / "cache").rglob("*.nbc"))


def test_code_is_found_by_its_function_and_its_types_alone(home, said):
    assert start() == (4, 0)
    assert start() == (4, 1)
    assert start(dtype=np.float32) == (4, 0)
    assert start(other) == (2, 0)
    assert len(code(home)) == 3
    assert start(dtype=np.float32) == (4, 1)
    assert start(other) == (2, 1)
    assert not said()


class Payload:
    def __reduce__(self):
        return open, ("opened", "w")


DAMAGES = {
    "emptied": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "cut by a byte": lambda data: data[:-1],
    "a bit flipped": lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    "the checksum flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "garbage": lambda data: bytes(range(256)) * 40,
    "a pickle": lambda data: pickle.dumps(Payload()),
    "a sealed pickle of something else": lambda data: sealed(pickle.dumps([1, 2])),
}


def sealed(data):
    from hashlib import sha256

    return sha256(data).digest() + data


# numba compiles four times in each
OFTEN = {"cut in half", "a bit flipped", "a sealed pickle of something else"}


@pytest.mark.parametrize("damage", mostly_big(DAMAGES, OFTEN.__contains__))
def test_damaged_code_is_compiled_again_with_one_line(home, said, damage, monkeypatch):
    monkeypatch.chdir(home)
    for function in (total, other):
        start(function)
    for path in code(home):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert [start(total), start(other)] == [(4, 0), (2, 0)]
    (line,) = said()
    assert line == f"the compiled code in {code(home)[0].parent} was damaged, and is compiled again"
    assert [start(total), start(other)] == [(4, 1), (2, 1)]
    assert not Path("opened").exists()


def test_code_that_is_a_folder_or_cannot_be_read_is_compiled_again(home, said):
    start()
    (path,) = code(home)
    path.unlink()
    path.mkdir()
    assert start() == (4, 0)
    (line,) = said()
    assert "cannot be kept, so each start compiles again" in line


@pytest.mark.parametrize(
    "number", mostly_big([errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ESTALE], errno.ENOSPC.__eq__)
)
def test_a_disk_that_takes_no_code_is_one_line_that_names_the_folder(home, said, monkeypatch, number):
    def full(source, target):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(compiled.os, "replace", full)
        assert [start(total), start(other)] == [(4, 0), (2, 0)]
    folder = jit.cache_folder(Path(__file__).parent)
    assert said() == [f"{folder}: compiled code cannot be kept, so each start compiles again: {os.strerror(number)}"]
    assert list(folder.iterdir()) == []
    assert start() == (4, 0)
    assert start() == (4, 1)


def test_a_folder_that_vanishes_is_made_again(home, said):
    fresh = jit.jit(total)
    shutil.rmtree(home / "cache")
    assert fresh(np.ones(2)) == 2
    assert not said()
    assert start() == (4, 1)
    if os.name == "posix":
        assert stat.S_IMODE(code(home)[0].parent.stat().st_mode) == 0o700


def test_without_a_home_the_temporary_folder_holds_the_code(home, said, monkeypatch):
    def nobody(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.setattr(jit.tempfile, "tempdir", str(home / "temporary"))
    (home / "temporary").mkdir()
    assert files.user_cache() is None
    assert [start(), start()] == [(4, 0), (4, 1)]
    assert list((home / "temporary").rglob("*.nbc"))
    from npgpt.data.download import cache_folder

    with pytest.raises(ValueError, match="set HOME, or XDG_CACHE_HOME"):
        cache_folder()


def test_without_any_folder_it_compiles(home, monkeypatch):
    def nowhere():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    (home / "cache").touch()
    monkeypatch.setattr(jit.tempfile, "gettempdir", nowhere)
    assert [start(), start()] == [(4, 0), (4, 0)]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs owners of files")
def test_code_in_a_folder_of_somebody_else_is_never_read(home, monkeypatch):
    start()
    jit.cache_folder.cache_clear()
    monkeypatch.setattr(jit.tempfile, "tempdir", str(home / "cache"))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert start() == (4, 0)


AT_ONCE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import numpy as np
from npgpt.kernels.rows import add_rows
from npgpt import kernels
hits = 0
for dtype in (np.float32, np.float64):
    x = np.ones((3, 4), dtype)
    assert kernels.gelu_forward(x)[0].dtype == dtype
    assert kernels.layernorm_forward(x, x[0], x[0], 1e-5)[0].dtype == dtype
for module in list(sys.modules.values()):
    if getattr(module, "__name__", "").startswith("npgpt.kernels"):
        for value in vars(module).values():
            hits += sum(getattr(getattr(value, "stats", None), "cache_hits", {}).values())
print(hits)
"""


@pytest.mark.big
def test_two_first_starts_at_once_leave_code_that_a_third_finds(home):
    script = AT_ONCE.replace("from npgpt.kernels.rows import add_rows\n", "")
    environment = {**os.environ, "NUMBA_CACHE_DIR": "", "NUMBA_DISABLE_JIT": "0"}
    words = [sys.executable, "-c", script, str(Path(npgpt.__file__).parents[1])]
    both = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in "12"]
    for process in both:
        _, err = process.communicate()
        assert (process.returncode, err) == (0, b"")
    third = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert (third.returncode, third.stderr) == (0, "")
    assert int(third.stdout) > 3
    assert not [path for path in (home / "cache").rglob("*") if path.is_file() and path.suffix != ".nbc"]
