"""The command gradcheck: layers by their names, and a pair of one's own."""

import json
import sys

import pytest

from npgpt.cases import LAYERS
from npgpt.ops import REFERENCE
from tests.conftest import mostly_big
from tests.test_cli import command


def test_gradcheck_of_a_layer_prints_every_argument(capsys):
    code, out, err = command(capsys, "gradcheck", "layernorm")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows if len(row) > 3 and row[2] == "pass"] == ["x", "weight", "bias", "x", "weight"] * 2
    assert "4 of 4 pass" in out


@pytest.mark.big
def test_gradcheck_without_a_target_checks_every_layer(capsys, monkeypatch):
    monkeypatch.setattr("npgpt.cases.CASES", LAYERS)  # the whole GPTs, which take longer, are in test_gradcheck.py
    code, out, err = command(capsys, "gradcheck")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == f"{2 * len(LAYERS)} of {2 * len(LAYERS)} pass"
    expected = [f"{ops} {case.name} pass".split() for ops in ("reference", "fast") for case in LAYERS]
    assert [line.split()[: len(words)] for line, words in zip(lines[1:-1], expected, strict=True)] == expected


def test_gradcheck_finds_the_layer_that_is_wrong(capsys, monkeypatch):
    right = REFERENCE.gelu_backward
    monkeypatch.setattr(
        "npgpt.cases.CASES", [case for case in LAYERS if "gelu" in case.layer or case.layer == "linear"]
    )
    monkeypatch.setattr(REFERENCE, "gelu_backward", lambda dout, cache: 1.001 * right(dout, cache))
    code, out, _ = command(capsys, "gradcheck", "--ops", "reference")
    assert code == 1
    lines = [line.split() for line in out.splitlines() if line.startswith("reference ")]
    verdicts = {line[1]: line[2] for line in lines}
    assert verdicts.pop("gelu") == "fail"
    assert "fail" not in verdicts.values()
    assert "1.0e-03" in out
    code, out, _ = command(capsys, "gradcheck", "--json")
    report = json.loads(out)
    assert (code, report["pass"]) == (1, False)
    # now that the two tables differ both are checked, and the fast one is still right
    wrong = [(check["ops"], check["name"]) for check in report["checks"] if check["verdict"] != "pass"]
    assert wrong == [("reference", "gelu")]
    assert {check["ops"] for check in report["checks"]} == {"reference", "fast"}


PAIR = """
import numpy as np

def make_args():
    return np.linspace(-1.5, 2, 6).reshape(2, 3), np.array([0.5, -1.0, 2.0])

def forward(x, weight):
    return x**2 * weight, (x, weight)

def backward(dout, cache):
    x, weight = cache
    return 2 * x * weight * dout, (x**2 * dout).sum(axis=0)

def wrong(dout, cache):
    dx, dweight = backward(dout, cache)
    return dx, 1.001 * dweight
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder for the user's own modules, of which nothing is left behind in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("mine", "package"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("path", "backward", "expected"),
    mostly_big(
        [(path, *case) for path in ("mine.py", "package/inner/mine.py") for case in (("backward", 0), ("wrong", 1))],
        {("mine.py", "wrong", 1), ("package/inner/mine.py", "backward", 0)}.__contains__,
    ),
)
def test_gradcheck_of_ones_own_pair(capsys, here, path, backward, expected):
    (here / path).parent.mkdir(parents=True, exist_ok=True)
    (here / path).write_text(PAIR)
    module = path.removesuffix(".py").replace("/", ".")
    code, out, err = command(capsys, "gradcheck", f"{module}:forward,{backward}")
    assert (code, err) == (expected, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["x"][2] == "pass"
    assert rows["weight"][2] == ("pass", "fail")[expected]
    code, out, _ = command(capsys, "gradcheck", f"{module}:forward,{backward}", "--json")
    assert code == expected
    assert json.loads(out)["pass"] is (expected == 0)


def test_one_argument_need_not_be_in_a_tuple(capsys, here):
    (here / "mine.py").write_text(
        "import numpy as np\nmake_args = lambda: np.ones(3)\n"
        "forward = lambda x: (x**3, x)\nbackward = lambda dout, x: 3 * x**2 * dout\n"
    )
    assert command(capsys, "gradcheck", "mine:forward,backward")[0] == 0


def test_arguments_in_a_list_are_arguments_too(capsys, here):
    (here / "mine.py").write_text(
        PAIR.replace("return np.linspace", "return list(args())\n\ndef args():\n    return np.linspace")
    )
    assert command(capsys, "gradcheck", "mine:forward,backward")[0] == 0


def test_a_gradient_of_the_wrong_shape_fails(capsys, here):
    (here / "mine.py").write_text(PAIR + "\n\ndef short(dout, cache):\n    return dout[:, :2], cache[1]\n")
    code, out, err = command(capsys, "gradcheck", "mine:forward,short")
    assert (code, err) == (1, "")
    assert "(2, 2)" in out
