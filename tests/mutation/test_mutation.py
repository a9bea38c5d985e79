"""The mutation command itself: it makes the slips that it says, and a slip that no test notices does not go unseen."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.__main__ import EQUIVALENT, NPGPT, arguments, read_equivalent, select, stale
from tests.mutation.evaluate import used
from tests.mutation.mutate import mutants
from tests.mutation.operators import OPERATORS

ROOT = Path(__file__).parents[2]


def made(body, kind=None):
    """Return what becomes of a function's body, one line each mutant."""
    source = "import numpy as np\n\n\ndef f(x, y, n, out):\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    found = [m for m in mutants(source, "f.py", {"f"}) if kind in (None, m.kind)]
    assert all(m.source.count("\n") == source.count("\n") for m in found)
    changed = [set(m.source.split("\n")) - set(source.split("\n")) for m in found]
    return [line.strip() for lines in changed for line in lines]


EXAMPLES = [
    ("arithmetic", "x += y - n", ["x -= y - n", "x += (y + n)"]),
    ("arithmetic", "x = y ** n", ["x = y ** (n + 1)"]),
    ("matmul", "x = y @ n.T", ["x = (n.T @ y)", "x = y.swapaxes(-1, -2) @ n.T"]),
    ("matmul", "np.matmul(x, y, out=out)", [
        "np.matmul(x.swapaxes(-1, -2), y, out=out)", "np.matmul(x, y.swapaxes(-1, -2), out=out)",
    ]),
    ("sign", "return -x, y", ["return x, y", "return -x, (-y)"]),
    ("sign", "x = y - n", ["x = (-(y - n))"]),
    ("sign", "x[0] += y", []),  # -= is arithmetic's
    ("sign", "x = np.empty(n)", []),  # of what is not there yet
    ("scale", "x[0] = y + n", ["x[0] = ((y + n) * 1.001)"]),
    ("axis", "x = y.sum(axis=(0, 1))", ["x = y.sum()", "x = y.sum(axis=(1,))", "x = y.sum(axis=(0,))"]),
    ("axis", "x = np.mean(y, -1)", ["x = np.mean(y)", "x = np.mean(y, 0)"]),
    ("transpose", "x = y.T", ["x = y"]),
    ("transpose", "x = np.swapaxes(y, 0, 1)", ["x = y"]),
    ("reduction", "x = np.max(y.sum())", ["x = np.min(y.sum())", "x = np.max(y.mean())"]),
    ("constant", "x = 0.5 * y[1]", ["x = 0.5005 * y[1]", "x = 0.5 * y[2]", "x = 0.5 * y[0]"]),
    ("constant", "x = y.sum(keepdims=True)", ["x = y.sum(keepdims=False)"]),
    ("constant", "x = y[-1]", ["x = y[0]"]),
    ("drop", "x = x * y", ["x = x", "x = y"]),
    ("drop", "x = x - y", ["x = x", "x = (-y)"]),
    ("drop", "x = x / y", ["x = x", "x = (1 / y)"]),
    ("call", "x = max(np.exp(x), n)", ["x = np.exp(x)", "x = n", "x = max(x, n)"]),
    ("call", "x = y.reshape(n)", ["x = y"]),
    ("arguments", "x = y.transpose(0, 2, 1)", ["x = y.transpose(2, 0, 1)", "x = y.transpose(0, 1, 2)"]),
    ("arguments", "return x / y, n", ["return (y / x), n", "return (n, x / y)"]),
    ("arguments", "x[:, n] = 0", ["x[n, :] = 0"]),
    ("default", "x = np.zeros(n, y)", ["x = np.zeros(n)"]),
    ("inplace", "x = x + y", ["x += y"]),
    ("scatter", "np.add.at(x, n, y)", ["x[n] += y"]),
    ("condition", "x = y if n else x", ["x = y", "x = x"]),
    ("condition", "if x and not y: return", [
        "if True: return", "if False: return", "if (x or not y): return", "if (not y): return", "if x: return",
        "if x and y: return",
    ]),
    ("comparison", "return x < y", ["return (x <= y)", "return (x >= y)"]),
    ("statement", "x = y\nx[0] -= 1", ["pass", "x[0] = 1", "pass"]),
    ("index", "x = y[1:n]", ["x = y[:n]", "x = y[1:]", "x = y"]),
    ("index", "x[n] = y", ["x[...] = y"]),
    ("loop", "for i in range(n): pass", ["for i in range(0, n - 1): pass", "for i in range(0 + 1, n): pass"]),
    ("name", "x = drop_2", []),  # not of this function
    ("name", "y_1 = x_1 = y_2 = n\nx = y_1", ["y_1 = x_1 = y_2 = y", "x = y_2"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "expected"), EXAMPLES, ids=[f"{k} {b}" for k, b, _ in EXAMPLES])
def test_operator(kind, body, expected):
    assert sorted(made(body, kind)) == sorted(expected)


def test_every_operator_has_an_example():
    assert {operator.__name__ for operator in OPERATORS} == {kind for kind, _, _ in EXAMPLES}


def test_a_function_gets_each_different_program_once():
    bodies = ["-(x - y)", "(x - y) * 1.001", "x + y", "y - x", "-y"]
    expected = [f"return ({body})" for body in bodies] + ["return x", "return y - y", "return x - x"]
    assert sorted(made("return x - y")) == sorted(expected)


def test_nothing_is_changed_where_it_would_mean_nothing():
    body = '"""A docstring of 1 + 1."""\nraise ValueError(f"{x + 1} is not {-y}")'
    assert made(body) == []


def test_a_key_survives_when_lines_move_and_tells_occurrences_apart():
    source = "def f_backward(dout, cache):\n    return dout * 2, dout * 3\n"
    here, there = (mutants(text, "f.py", {"f_backward"}) for text in (source, "# é\n\n" + source))
    assert [m.key for m in here] == [m.key for m in there]
    assert len({m.key for m in here}) == len(here)
    assert "name: dout -> cache" in {m.key for m in here}
    assert "name: dout -> cache #2" in {m.key for m in here}
    assert [m.line for m in there] == [m.line + 2 for m in here]
    first = next(m for m in there if m.kind == "arithmetic")
    assert first.diff() == "-    return dout * 2, dout * 3\n+    return (dout / 2), dout * 3"
    assert str(first) == "f.py:4:11 f_backward arithmetic: dout * 2 -> dout / 2"


FILES = {
    "k/a.py": """
from k import tools
from k.b import helper as h
SCALE = 2
UNUSED = 3
def part(x): return x * SCALE
def idle(x): return -x
def a_forward(x): return part(x), x
def a_backward(dout, cache): return h(part(dout)) + tools.more(cache) + a_forward(dout)[0]
""",
    "k/b.py": "def helper(x): return x + deeper(x)\ndef deeper(x): return x\ndef other(x): return x\n",
    "k/tools.py": "def more(x): return x\ndef less(x): return x\n",
}


def test_what_a_backward_uses_is_mutated_with_it():
    expected = {"k/a.py": {"a_backward", "part", "SCALE"}, "k/b.py": {"helper", "deeper"}, "k/tools.py": {"more"}}
    assert used(FILES, r".*_backward", forward=False) == expected
    expected["k/a.py"].add("a_forward")
    assert used(FILES, r".*_(forward|backward)", forward=True) == expected
    assert used(FILES, r"k/a\.py:a_forward|.*_backward", forward=False) == expected
    expected["k/tools.py"].add("less")
    assert used(FILES, r".*:(.*_(forward|backward)|less)", forward=True) == expected


# --- whole runs over a toy: a package with one backward, and its test

TOY = """
def double_forward(x):
    return 2 * x, ()


def double_backward(dout, cache):
    return dout + dout
"""
STRONG = "from toy.double import double_backward\n\n\ndef test_it():\n    assert double_backward(3, ()) == 6\n"
WEAK = STRONG.replace("== 6", "> 4")
SCRIPT = """
import sys
from pathlib import Path
from tests.mutation.__main__ import Project, main
root = Path(sys.argv[1])
sys.exit(main(sys.argv[2:], Project(root, ("toy/d*.py",), ("test_*.py",)), root / "equivalent.toml"))
"""


def run(folder, test, equivalent="", toy=TOY, start=""):
    """Run the command over the toy; return its exit code and what it printed."""
    (folder / "toy").mkdir()
    (folder / "toy" / "double.py").write_text(toy)
    (folder / "test_double.py").write_text(test)
    (folder / "equivalent.toml").write_text(equivalent)
    words = [sys.executable, "-c", start + SCRIPT, str(folder), "--verbose"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"toy/double.py", "test_double.py", "equivalent.toml"}  # nothing is written
    return done.returncode, done.stdout + done.stderr


def listed(*keys):
    return f'[[equivalent]]\nat = "toy/double.py:double_backward"\nmutants = {list(keys)}\nreason = "a trial"\n'


def test_a_survivor_is_reported(tmp_path):
    code, printed = run(tmp_path, WEAK)
    assert code == 1
    assert "SURVIVED toy/double.py:7:11 double_backward scale: dout + dout -> (dout + dout) * 1.001" in printed
    assert "-    return dout + dout\n+    return ((dout + dout) * 1.001)\n" in printed
    assert printed.splitlines()[-3].split() == ["total", "6", "5", "0", "1"]


@pytest.mark.big
def test_a_listed_survivor_is_no_complaint(tmp_path):
    code, printed = run(tmp_path, WEAK, listed("scale: dout + dout -> (dout + dout) * 1.001"))
    assert code == 0, printed
    assert printed.splitlines()[-3].split() == ["total", "6", "5", "1", "0"]


@pytest.mark.big
def test_a_false_listing_is_a_complaint(tmp_path):
    code, printed = run(tmp_path, STRONG, listed("drop: dout + dout -> dout", "drop: dout * dout -> dout"))
    assert code == 1
    assert "KILLED, but listed as equivalent: toy/double.py:7:11 double_backward drop: dout + dout -> dout" in printed
    assert "STALE in equivalent.toml: toy/double.py:double_backward has no mutant drop: dout * dout" in printed
    assert "[test_double.py::test_it, " in printed
    assert printed.splitlines()[-3].split() == ["total", "6", "6", "0", "0"]


def test_a_crash_is_a_death(tmp_path):
    code, printed = run(
        tmp_path, STRONG.replace("assert", "import os; double_backward(3, ()) == 6 or os._exit(9); assert")
    )
    assert code == 0, printed
    assert "crash (exit code 9)" in printed


@pytest.mark.big
def test_a_loop_without_end_is_a_death(tmp_path):
    (tmp_path / "toy.py").write_text("def f_backward(n, cache):\n    while n > 0:\n        n -= 1\n    return n\n")
    (tmp_path / "test_toy.py").write_text("import toy\n\n\ndef test_it():\n    assert toy.f_backward(3, ()) == 0\n")
    script = """
import sys
from pathlib import Path
from tests.mutation.evaluate import Project, evaluate
project = Project(Path(sys.argv[1]), ("toy.py",), ("test_*.py",))
endless = [mutant for mutant in project.mutants() if mutant.key == "arithmetic: n -= 1 -> n += 1"]
print(*evaluate(project, endless, timeout=1))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert "outcome='killed', by='timeout'" in done.stdout, done.stderr


@pytest.mark.big
def test_what_numba_would_compile_runs_as_plain_python(tmp_path):
    # numba is there already when the trials begin, and keeps compiled code beside the source if nobody tells it not to
    toy = "import sys\n\nimport numba\n" + TOY.replace("def double_b", "@numba.njit(cache=True)\ndef double_b")
    plain = "\n    import types\n    assert type(double_backward) is types.FunctionType\n"
    code, printed = run(tmp_path, STRONG + plain, toy=toy, start="import numba\n")
    assert code == 0, printed
    assert printed.splitlines()[-3].split() == ["total", "6", "6", "0", "0"]


@pytest.mark.big
@pytest.mark.parametrize("test", [STRONG.replace("6", "7"), "def test_nothing():\n    pass\n"])
def test_tests_that_prove_nothing_are_an_error(tmp_path, test):
    code, printed = run(tmp_path, test)
    assert code == 2, printed


# --- npgpt's own


@pytest.mark.big
def test_the_list_of_equivalents_has_reasons_and_no_stale_entry():
    assert stale(NPGPT, read_equivalent(EQUIVALENT)) == []


@pytest.fixture(scope="module")
def everything():
    return NPGPT.mutants()


@pytest.mark.big
def test_every_file_with_a_backward_yields_mutants(everything):
    found = {mutant.file for mutant in everything}
    expected = {file for file, source in NPGPT.sources().items() if re.search(r"^def \w+_backward", source, re.M)}
    helpers = ("bf16", "exp", "normal", "products", "recurrence", "rows")
    shared = {f"npgpt/kernels/{name}.py" for name in helpers}  # what the kernels' backwards are made of
    shared |= {"npgpt/layers/distributions.py"}
    assert found == expected | shared
    assert len(found) >= 24


@pytest.mark.big
def test_forwards_that_make_gradients_yield_mutants(everything):
    assert set(NPGPT.forwards) <= {mutant.at for mutant in everything}


@pytest.mark.parametrize(
    ("file", "run", "left_out"),
    [
        (
            "npgpt/kernels/mlp.py",
            ["test_twins.py::test[mlp]", "test_gradient[mlp-fast]"],
            ["test_gradient[mlp-reference]"],
        ),
        (
            "npgpt/layers/mlp.py",
            ["test_gradient[mlp-reference]", "fuzz/test_layers.py::test_mlp"],
            ["test_model.py::test"],
        ),
        ("npgpt/models/gpt2.py", ["test_gradient[gpt tied-reference]"], ["test_gradient[gpt tied-fast]"]),
        ("", ["test_twins.py::test[mlp]", "test_gradient[mlp-reference]"], ["test_gradient[gpt tied-fast]"]),
    ],
)
def test_each_part_of_npgpt_has_tests_of_its_own(file, run, left_out):
    left = NPGPT.left_out(file)
    assert [name for name in run + left_out if left.search(f"tests/{name}")] == left_out


@pytest.mark.big
def test_a_sample_follows_its_seed(everything):
    def sample(*words):
        return select(everything, arguments(list(words)))

    assert len(sample("--sample", "0.1")) == round(0.1 * len(everything))
    assert sample("--sample", "0.1", "--seed", "3") == sample("--sample", "0.1", "--seed", "3")
    assert sample("--sample", "0.1", "--seed", "3") != sample("--sample", "0.1", "--seed", "4")
    assert {mutant.file for mutant in sample("--only", "layernorm", "mlp")} == {
        "npgpt/kernels/block.py",
        "npgpt/kernels/layernorm.py",
        "npgpt/kernels/mlp.py",
        "npgpt/layers/bf16.py",
        "npgpt/layers/layernorm.py",
        "npgpt/layers/mlp.py",
    }
    assert len(sample("--only", "layernorm_backward")) < len(everything)
    for wrong in (["--sample", "0"], ["--sample", "1.5"], ["--jobs", "0"]):
        with pytest.raises(SystemExit):
            arguments(wrong)
