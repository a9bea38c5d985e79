"""The command for a pair of one's own: its process, its flags, and the command line of a checker by itself."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt.cli import gradcheck
from npgpt.gradcheck import command
from npgpt.gradcheck.command import main, parts_of

ROOT = Path(__file__).parents[2]
MINE = """
import numpy as np

def make_args():
    return np.linspace(-1.5, 2, 1200).reshape(400, 3), np.array([0.5, -1.0, 2.0]), np.arange(3)

def forward(x, weight, ids):
    print("in forward")
    return x**2 * weight, (x, weight)

def backward(dout, cache):
    x, weight = cache
    return 2 * x * weight * dout, (x**2 * dout).sum(axis=0), None

def wrong(dout, cache):
    dx, dweight, _ = backward(dout, cache)
    return dx, 1.001 * dweight, None
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def test_the_report_is_all_that_it_prints(capfd):
    assert main(["mine:forward,wrong"]) == 1
    out, err = capfd.readouterr()
    assert out.startswith("argument ")
    assert "weight: hint: every element is 1.001 times what it should be" in out.splitlines()
    assert out.splitlines()[-1] == "fail"
    assert set(err.splitlines()) == {"in forward"}  # what the module prints, and no progress where there is no terminal


def test_json_and_html(capfd, here):
    assert main(["mine:forward,backward", "--json", "--html", "page.html"]) == 0
    assert json.loads(capfd.readouterr().out)["verdict"] == "pass"
    assert (here / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def checked(capfd, *flags):
    main(["mine:forward,wrong", "--json", *flags])
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"x": "pass", "weight": "fail"}),
        (["--wrt", "x"], {"x": "pass"}),
        (["--wrt", "weight,x"], {"x": "pass", "weight": "fail"}),
        (["--wrt", "1"], {"weight": "fail"}),
    ],
)
def test_wrt_names_the_arguments(capfd, flags, expected):
    assert {a["name"]: a["verdict"] for a in checked(capfd, *flags)["arguments"]} == expected


def test_mode_dtype_strict_seed_and_max_seconds_are_those_of_check_backward(capfd):
    plain = checked(capfd)
    assert plain["arguments"][0]["checked"] < 1200 == plain["arguments"][0]["size"]
    assert not plain["strict"]
    found = checked(capfd, "--mode", "elements", "--strict", "--seed", "5", "--dtype", "float32")
    assert found["arguments"][0]["checked"] == 1200
    assert found["strict"]
    assert found["arguments"][1]["numeric"] != plain["arguments"][1]["numeric"]
    assert found["arguments"][1]["relative_error"] != pytest.approx(plain["arguments"][1]["relative_error"], rel=1e-7)
    found = checked(capfd, "--max-seconds", "1e-9")
    assert {a["verdict"] for a in found["arguments"]} == {"inconclusive"}


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("mine", "'mine' is not of the form package.module:forward,backward"),
        ("mine.py:f,b", "mine.py is a path: drop .py: mine:f,b"),
        ("./mine.py:f,b", "./mine.py is a path: drop .py: mine:f,b"),
        ("a/mine.py:f,b", "a/mine.py is a path: drop .py and write dots: a.mine:f,b"),
        ("a\\mine:f,b", "a\\mine is a path: write dots: a.mine:f,b"),
        ("/a/mine.py:f,b", "/a/mine.py is a path: drop .py, in the folder of the file: mine:f,b"),
        ("C:\\a\\mine.py:f,b", "C:\\a\\mine.py is a path: drop .py, in the folder of the file: mine:f,b"),
    ],
)
def test_a_path_is_refused_with_what_to_write(target, advice):
    with pytest.raises(ValueError, match=f"^{re.escape(advice)}$"):
        parts_of(target)


def test_a_target_is_a_module_and_two_functions():
    assert parts_of("a.b.mine:f,b") == ("a.b.mine", ["f", "b"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mine:forwrd,backward", "mine has no function forwrd; did you mean 'forward'?"),
        ("mine:forward,backward --seed -1", "--seed=-1 must be at least 0"),
        ("mine:forward,backward --max-seconds 0", "max_seconds=0.0 must be above 0"),
        ("mine:forward,backward --html nosuch/page.html", "No such file or directory"),
        ("mine:forward,backward --mode quick", "invalid choice: 'quick'"),
    ],
)
def test_an_error_is_exit_code_2(capfd, line, words):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    err = [line for line in capfd.readouterr().err.splitlines() if line != "in forward"]
    assert err[-1].startswith("npgpt-gradcheck: error: ")
    assert words in err[-1]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX's signals")
def test_an_interrupt_ends_the_other_process_too(here):
    waits = """
import os, pathlib, time
pathlib.Path("id").write_text(str(os.getpid()))
os.kill(os.getppid(), 2)
time.sleep(60)
"""
    (here / "mine.py").write_text(MINE + waits)
    code = "import sys; from npgpt.gradcheck.command import main; sys.exit(main(['mine:forward,backward']))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (found.returncode, found.stderr) == (130, "interrupted\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int((here / "id").read_text()), 0)


def test_a_name_that_the_encoding_lacks_is_escaped(here):
    (here / "mine.py").write_text(MINE.replace("weight", "θ"), encoding="utf-8")
    code = "import sys; from npgpt.gradcheck.command import main; sys.exit(main(['mine:forward,wrong']))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment)
    assert found.returncode == 1
    assert "\\u03b8: hint: every element is 1.001 times what it should be" in found.stdout.splitlines()


def test_npgpts_command_has_the_same_flags():
    """It cannot use add_flags itself: a page of help must not import NumPy."""

    def flags(module):
        parser = argparse.ArgumentParser()
        module.add_flags(parser)
        return {a.dest: (a.type, a.default, a.choices, a.const) for a in parser._actions}

    assert {**flags(command), "ops": None} == {**flags(gradcheck), "ops": None}
