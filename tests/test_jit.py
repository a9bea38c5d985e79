"""Compiled code is kept on disk, for these sources and this machine only, wherever a folder can be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt.support import jit

HELPER = "from npgpt.support.jit import jit\n\n@jit\ndef helper(x):\n    return {}\n"
CALLER = (
    "from npgpt.support.jit import jit\nfrom kernels.helper import helper\n\n"
    "@jit\ndef caller(x):\n    return helper(x) + 0\n"
)
# A process takes a second to import numba, so two of them do all that is asked: the first compiles, and the second
# looks for what that one left, and then imports the package again under one circumstance after the other.
START = """
import importlib, json, os, sys, tempfile
from pathlib import Path
import llvmlite.binding, numba
from npgpt.support import jit

package, home = Path(sys.argv[1]), Path(sys.argv[2])
found = {}


def call(scene, **environment):
    os.environ.update({"XDG_CACHE_HOME": str(home), "NUMBA_CACHE_DIR": ""} | environment)
    numba.config.reload_config()
    jit.cache_folder.cache_clear()
    for name in [name for name in sys.modules if name.startswith("kernels")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    before, setting = jit.is_compiled(package), numba.config.CACHE_DIR
    caller = importlib.import_module("kernels.caller").caller
    left_alone = numba.config.CACHE_DIR == setting
    result = caller(1)
    after = jit.is_compiled(package)
    found[scene] = [result, len(caller.stats.cache_hits), before, after, left_alone]
    return jit.cache_folder(package)
"""
FIRST = """
call("first")
"""
SECOND = f"""
folder = call("second")

plain, llvmlite.binding.get_host_cpu_name = llvmlite.binding.get_host_cpu_name, lambda: "other"
found["another CPU's folder is another"] = call("another CPU") != folder
llvmlite.binding.get_host_cpu_name = plain

call("numba's own setting", NUMBA_CACHE_DIR=str(home / "mine"))

blocked = home / "file"
blocked.touch()  # a file where the folder should be: even root cannot make it
tempfile.tempdir = str(home / "tmp")
os.mkdir(tempfile.tempdir)
call("blocked", XDG_CACHE_HOME=str(blocked))

plain, jit._is_ours = jit._is_ours, lambda folder: False
found["no folder is found"] = call("no folder") is None
jit._is_ours = plain

(package / "helper.py").write_text({HELPER.format("x + 2")!r})
call("helper changed")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def found(home):
    """Run both processes; return for each scene the result, the cache hits, and more, as `call` puts it down."""
    package = home / "packages" / "kernels"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "helper.py").write_text(HELPER.format("x + 1"))
    (package / "caller.py").write_text(CALLER)
    paths = os.pathsep.join([str(package.parent), str(Path(jit.__file__).parent.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "NUMBA_DISABLE_JIT": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    scenes = {}
    for script in (FIRST, SECOND):
        code = START + script + "print(json.dumps(found))"
        words = [sys.executable, "-c", code, str(package), str(home)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        scenes |= json.loads(done.stdout)
    return scenes


# what `call` puts down: the result, the cache hits, what is_compiled said before and after, numba's setting left alone
FRESH = [2, 0, False, True, True]


def test_the_first_process_compiles_and_keeps_it(found):
    assert found["first"] == FRESH


def test_a_second_process_compiles_nothing(found):
    assert found["second"] == [2, 1, True, True, True]


def test_code_whose_helper_changed_in_another_file_is_compiled_again(found):
    assert found["helper changed"] == [3, 0, False, True, True]


def test_a_cache_folder_that_cannot_be_made_is_replaced_by_a_temporary_one(found, home):
    assert found["blocked"] == FRESH
    assert list((home / "tmp").rglob("*.nbc"))


def test_with_no_folder_at_all_it_still_runs(found, home):
    assert found["no folder"] == [2, 0, False, False, True]
    assert found["no folder is found"]
    assert not list((home / "packages").rglob("*.nbc"))  # where numba would keep it by itself


def test_another_cpu_has_another_folder(found):
    assert found["another CPU"] == FRESH
    assert found["another CPU's folder is another"]


def test_a_users_own_numba_setting_is_used_and_left_as_it_was(found, home):
    assert found["numba's own setting"] == FRESH
    assert list((home / "mine" / "npgpt").rglob("*.nbc"))


def test_no_flag_lets_the_compiler_forget_nan_or_infinity():
    assert not {"nnan", "ninf", "fast"} & jit.FASTMATH
