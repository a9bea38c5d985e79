"""The checker by itself, under the name npgpt_gradcheck: from a link to its folder, and built and installed by pip.

The second needs pip and its registry, so it is marked big, and CI runs it.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import npgpt.gradcheck
from tests.test_docs import unrounded

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "npgpt" / "gradcheck"
PACKAGE = ROOT / "packages" / "npgpt-gradcheck"
NPGPT, BY_ITSELF = (
    tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")) for folder in (ROOT, PACKAGE)
)
MINE = """
import sys
import numpy as np
assert not {"npgpt", "numba", "matplotlib"} & set(sys.modules)
rng = np.random.default_rng(0)

def make_args():
    return np.linspace(0.5, 3, 6).reshape(2, 3)

def forward(x):
    return x * x, x

def drawn(x):
    return x * rng.random(x.shape), x

def right(dout, x):
    return 2 * dout * x

def wrong(dout, x):
    return dout * x
"""
TEST = """
import pytest
import npgpt_gradcheck
from mine import drawn, forward, make_args, right, wrong

def test_right(gradcheck):
    assert gradcheck(forward, right, make_args()).verdict == "pass"

@pytest.mark.gradcheck(seed=3)
def test_wrong(gradcheck):
    gradcheck(forward, wrong, make_args())

def test_inconclusive(gradcheck):
    gradcheck(drawn, right, make_args())
"""

STRICT = ("-W", "error", "--strict-markers", "--color=no", "-p", "no:cacheprovider")  # as careful projects have it


def call(*command, cwd=None, code=0, path=""):
    """Run a command, and return what it prints."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "COLUMNS"))}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, encoding="utf-8", env=plain | {"PYTHONPATH": path}
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


def files(folder):
    """Return {path: content} of a folder, compiled code left out."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return {path.relative_to(folder): path.read_bytes() for path in found}


def entry_points(folder, name, points):
    """Write into a folder what pip would, so that pytest finds the plugin of a package."""
    info = folder / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
    lines = "".join(f"{point} = {module}\n" for point, module in points["project"]["entry-points"]["pytest11"].items())
    (info / "entry_points.txt").write_text(f"[pytest11]\n{lines}")


@dataclass(frozen=True)
class Place:
    """Where npgpt_gradcheck can be imported: the Python to run, the command, and the folder that holds the package."""

    executable: str
    command: tuple[str, ...]
    path: str = ""

    def python(self, *arguments, **how):
        return call(self.executable, *arguments, path=self.path, **how)

    def check(self, *arguments, **how):
        return call(*self.command, *arguments, path=self.path, **how)


def linked(folder):
    (folder / "npgpt_gradcheck").symlink_to(ROOM, target_is_directory=True)
    entry_points(folder, "npgpt_gradcheck", BY_ITSELF)
    return Place(sys.executable, (sys.executable, "-m", "npgpt_gradcheck"), str(folder))


def installed(folder):
    call(sys.executable, "-m", "venv", folder)
    call(folder / "bin" / "pip", "install", PACKAGE, "pytest")
    place = Place(str(folder / "bin" / "python"), (str(folder / "bin" / "npgpt-gradcheck"),))
    absent = "import importlib.util as u; print(*map(u.find_spec, ('npgpt', 'numba', 'llvmlite', 'matplotlib')))"
    assert place.python("-c", absent, cwd=folder) == "None None None None\n"
    return place


@pytest.fixture(scope="module", params=[linked, pytest.param(installed, marks=pytest.mark.big)])
def place(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("by_itself"))


@pytest.fixture
def here(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "test_it.py").write_text(TEST)
    return tmp_path


def test_the_public_names_are_those_of_npgpt_gradcheck(place, here):
    code = "import sys, npgpt_gradcheck as g; print(*g.__all__); assert 'pytest' not in sys.modules; import mine"
    assert place.python("-c", code, cwd=here).split() == npgpt.gradcheck.__all__


def test_no_file_imports_npgpt_or_numba(place, here):
    every = (
        "import importlib, pkgutil, npgpt_gradcheck\n"
        "modules = list(pkgutil.iter_modules(npgpt_gradcheck.__path__, 'npgpt_gradcheck.'))\n"
        "for module in modules: importlib.import_module(module.name)\n"
        "import mine; print(len(modules))"
    )
    assert int(place.python("-c", every, cwd=here)) == len(list(ROOM.glob("*.py"))) - 1


@pytest.mark.parametrize(
    ("pair", "code", "verdict"),
    [("forward,right", 0, "pass"), ("forward,wrong", 1, "fail"), ("drawn,right", 1, "inconclusive")],
)
def test_the_command_checks_a_pair(place, here, pair, code, verdict):
    assert json.loads(place.check(f"mine:{pair}", "--json", cwd=here, code=code))["verdict"] == verdict


def test_the_command_has_its_own_name(place, here):
    assert place.check("--help", cwd=here).startswith("usage: npgpt-gradcheck ")
    assert place.python("-m", "npgpt_gradcheck", "--help", cwd=here).startswith("usage: npgpt-gradcheck ")
    assert place.check("nosuch:forward,right", cwd=here, code=2) == ""


def test_pytest_finds_the_plugin(place, here):
    out = place.python("-m", "pytest", "-v", *STRICT, cwd=here, code=1)
    assert re.findall(r"^test_it.py::test_(\w+) (\w+)", out, re.MULTILINE) == [
        ("right", "PASSED"),
        ("wrong", "FAILED"),
        ("inconclusive", "FAILED"),
    ]
    assert "x: hint: every element is 1/2 times what it should be" in out.splitlines()


def test_its_readme_shows_what_it_prints(place, here):
    page = (PACKAGE / "README.md").read_text(encoding="utf-8")
    code, shown = re.search(r"```python\n(.*?)```\n```\n(.*?)```", page, re.DOTALL).groups()
    assert unrounded(place.python("-c", code, cwd=here)) == unrounded(shown)


@pytest.mark.big
@pytest.mark.parametrize("order", [("npgpt", "npgpt_gradcheck"), ("npgpt_gradcheck", "npgpt")])
def test_beside_npgpt_the_second_plugin_stands_back(tmp_path, order):
    """Where both are installed there is one fixture and one marker, from whichever pytest finds first."""
    (tmp_path / "npgpt_gradcheck").symlink_to(ROOM, target_is_directory=True)
    for name, points in (("npgpt", NPGPT), ("npgpt_gradcheck", BY_ITSELF)):
        entry_points(tmp_path / f"site_{name}", name, points)
    path = os.pathsep.join(map(str, [*(tmp_path / f"site_{name}" for name in order), tmp_path, ROOT]))
    run = (sys.executable, "-m", "pytest", *STRICT)
    out = call(*run, "--fixtures", cwd=tmp_path, path=path)
    assert out.count("\ngradcheck -- ") == 1
    plugins = re.search(r"^plugins: (.*)", out, re.MULTILINE)[1].split(", ")
    assert [plugin for plugin in plugins if plugin.startswith("npgpt")] == [f"{order[0]}-1"]
    assert call(*run, "--markers", cwd=tmp_path, path=path).count("@pytest.mark.gradcheck") == 1


def test_the_two_packages_agree():
    npgpt, by_itself = NPGPT["project"], BY_ITSELF["project"]
    assert by_itself["dependencies"] == [line for line in npgpt["dependencies"] if line.startswith("numpy")]
    assert by_itself["optional-dependencies"] == {"plot": npgpt["optional-dependencies"]["plot"]}
    assert by_itself["requires-python"] == npgpt["requires-python"]
    assert [*by_itself["entry-points"]["pytest11"]] == [*npgpt["entry-points"]["pytest11"]]
    assert (PACKAGE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_room_does_not_name_npgpt():
    """What it says must be right under both names."""
    for path in ROOM.rglob("*.py"):
        assert not re.findall(r"npgpt(?!-gradcheck\b|_gradcheck\b).*", path.read_text(encoding="utf-8")), path


@pytest.mark.big
def test_both_distributions_hold_the_room_byte_for_byte(tmp_path):
    call(sys.executable, "-m", "pip", "install", "--target", tmp_path / "tools", "build")
    build = (sys.executable, "-m", "build", PACKAGE, "--outdir")
    call(*build, tmp_path / "clone", "--wheel", path=str(tmp_path / "tools"))
    call(*build, tmp_path / "sdist", path=str(tmp_path / "tools"))  # a wheel from the source distribution that it makes
    wheels = sorted(tmp_path.glob("*/*.whl"))
    assert [path.name for path in wheels] == [f"npgpt_gradcheck-{npgpt.__version__}-py3-none-any.whl"] * 2
    for number, wheel in enumerate(wheels):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path / f"{number}")
        assert files(tmp_path / f"{number}" / "npgpt_gradcheck") == files(ROOM)
