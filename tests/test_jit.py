"""Compiled code is kept on disk, for these sources and this machine only, wherever a folder can be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt import jit

HELPER = "from npgpt.jit import jit\n\n@jit\ndef helper(x):\n    return {}\n"
CALLER = (
    "from npgpt.jit import jit\nfrom kernels.helper import helper\n\n@jit\ndef caller(x):\n    return helper(x) + 0\n"
)


def run(folder, code, **environment):
    """Run a line of Python in a process that sees the packages in folder; return what it prints."""
    paths = os.pathsep.join([str(folder), str(Path(jit.__file__).parent.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "NUMBA_DISABLE_JIT": "0", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "packages" / "kernels"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "helper.py").write_text(HELPER.format("x + 1"))
    (folder / "caller.py").write_text(CALLER)
    return folder


CALL = "from kernels.caller import caller; print(caller(1), len(caller.stats.cache_hits))"


def test_a_second_process_compiles_nothing(package, tmp_path):
    assert run(package.parent, CALL, XDG_CACHE_HOME=str(tmp_path)) == "2 0"
    assert run(package.parent, CALL, XDG_CACHE_HOME=str(tmp_path)) == "2 1"


def test_code_whose_helper_changed_in_another_file_is_compiled_again(package, tmp_path):
    assert run(package.parent, CALL, XDG_CACHE_HOME=str(tmp_path)) == "2 0"
    (package / "helper.py").write_text(HELPER.format("x + 2"))
    assert run(package.parent, CALL, XDG_CACHE_HOME=str(tmp_path)) == "3 0"


def test_a_cache_folder_that_cannot_be_made_is_replaced_by_a_temporary_one(package, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()  # a file where the folder should be: even root cannot make it
    (tmp_path / "tmp").mkdir()
    assert run(package.parent, CALL, XDG_CACHE_HOME=str(blocked), TMPDIR=str(tmp_path / "tmp")) == "2 0"
    assert list((tmp_path / "tmp").rglob("*.nbi"))


def test_with_no_folder_at_all_it_still_runs(package, tmp_path):
    nowhere = "import npgpt.jit; npgpt.jit.cache_folder = lambda package: None; " + CALL
    assert run(package.parent, nowhere) == "2 0"


def test_another_cpu_has_another_folder(package, tmp_path):
    other = (
        "import llvmlite.binding as b; b.get_host_cpu_name = lambda: 'other'\n"
        "from pathlib import Path; import npgpt.jit, sys; print(npgpt.jit.cache_folder(Path(sys.argv[1])).name)"
    )
    one = run(package.parent, other.replace("sys.argv[1]", repr(str(package))), XDG_CACHE_HOME=str(tmp_path))
    here = other.replace("sys.argv[1]", repr(str(package))).replace("lambda: 'other'", "b.get_host_cpu_name")
    assert run(package.parent, here, XDG_CACHE_HOME=str(tmp_path)) != one


def test_is_compiled_says_whether_anything_is(package, tmp_path):
    ask = f"from pathlib import Path; import npgpt.jit; print(npgpt.jit.is_compiled(Path({str(package)!r})))"
    assert run(package.parent, ask, XDG_CACHE_HOME=str(tmp_path)) == "False"
    run(package.parent, CALL, XDG_CACHE_HOME=str(tmp_path))
    assert run(package.parent, ask, XDG_CACHE_HOME=str(tmp_path)) == "True"


def test_a_users_own_numba_setting_is_left_as_it_was(package, tmp_path):
    ask = "from numba.core import config as c; d = c.CACHE_DIR; import kernels.caller; print(c.CACHE_DIR == d)"
    assert run(package.parent, ask, NUMBA_CACHE_DIR=str(tmp_path / "mine")) == "True"
    assert (tmp_path / "mine" / "npgpt").is_dir()


def test_no_flag_lets_the_compiler_forget_nan_or_infinity():
    assert not {"nnan", "ninf", "fast"} & jit.FASTMATH
