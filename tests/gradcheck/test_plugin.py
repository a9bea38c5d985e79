"""The pytest plugin, in a pytest of its own over a test file that each test writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
import numpy as np, pytest
def forward(x, w): return np.sin(x) * w, (x, w)
def right(dout, cache): x, w = cache; return dout * np.cos(x) * w, (dout * np.sin(x)).sum(axis=0)
def wrong(dout, cache): dx, dw = right(dout, cache); return dx, 1.001 * dw
X, W = np.random.default_rng(5).standard_normal((4, 3)), np.array([0.5, -1.5, 2.5])
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs pytest over one file, and gives its exit code and its output."""

    def run(*functions, options=(), columns="200"):
        (tmp_path / "test_it.py").write_text(HEAD + "\n".join(functions), encoding="utf-8")
        # warnings are errors, and markers must be registered, as careful projects have it
        strict = ("-W", "error", "--strict-markers", "-p", "no:cacheprovider", "--color=no")
        plugin = ("-p", "npgpt.gradcheck.pytest_plugin")
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-v", *strict, *plugin, *options, "test_it.py"],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            # found by itself once npgpt is installed; named here, so that it is loaded once in either case
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            | {"COLUMNS": columns, "CI": ""},  # in CI pytest cuts nothing
        )
        return result.returncode, result.stdout + result.stderr

    return run


def test_checks_that_pass_pass_and_return_the_report(run):
    code, out = run(
        """
def test_pair(gradcheck):
    report = gradcheck(forward, right, X, W)
    assert report.verdict == "pass"
    assert [a.name for a in report.arguments] == ["x", "w"]

class Layer:
    def __init__(self): self.W = W.copy()
    def forward(self, x): self.x = x; return x * self.W
    def backward(self, dout): self.dW = (dout * self.x).sum(axis=0); return dout * self.W

def test_layer(gradcheck):
    assert [a.name for a in gradcheck.layer(Layer(), X).arguments] == ["input", "W"]

def test_gradient(gradcheck):
    assert gradcheck.gradient(lambda x: np.sum(x**3), lambda x: 3 * x**2, X)

def test_vjp(gradcheck):
    assert gradcheck.vjp(lambda x: (x * x, lambda dout: (2 * dout * x,)), X)

def test_twice(gradcheck):
    assert gradcheck(forward, right, X, W)
    assert gradcheck(forward, right, X + 1, W, wrt="x")
"""
    )
    assert code == 0, out
    assert "5 passed" in out


def test_a_check_that_fails_gives_the_report_as_the_failures_text(run):
    code, out = run(
        """
def test_wrong(gradcheck):
    gradcheck(forward, wrong, X, W)
    raise SystemExit("this is not reached")
"""
    )
    assert code == 1
    lines = out.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith("argument ")]
    assert lines[start + 1].split()[:3] == ["x", "4x3", "pass"]
    assert lines[start + 2].split()[:3] == ["w", "3", "fail"]
    assert "w: hint: every element is 1.001 times what it should be" in lines
    assert "Traceback" not in out
    assert "pytest_plugin.py" not in out  # the report alone, and no way through the plugin
    assert "1 failed" in out


def test_the_summary_says_the_slip(run):
    """Where a terminal has 80 columns, too: not the header of the table."""
    code, out = run(
        """
def transposed(dout, cache): x, w = cache; return dout @ w.T, dout.T @ x
def product(x, w): return x @ w, (x, w)
def test_t(gradcheck): gradcheck(product, transposed, X[:3], X[1:].copy())
def test_c(gradcheck): gradcheck(lambda x: (x + 0, x), lambda d, x: (d.copy(), d.fill(0))[:1], X)
def test_i(gradcheck):
    rng = np.random.default_rng(0)
    gradcheck(lambda x: (x * rng.random(x.shape), x), lambda d, x: d, X)
""",
        options=("-q",),
        columns="80",
    )
    assert code == 1
    lines = {line.split(" - ")[0][-1]: line.split(" - ")[1] for line in out.splitlines() if " - " in line}
    assert lines["t"].startswith("Failed: w: it is transposed")
    assert lines["c"].startswith("Failed: backward writes into dout")
    assert lines["i"].startswith("Failed: inconclusive; x: two calls")


def test_each_kind_of_check_fails_the_test(run):
    code, out = run(
        """
class Layer:
    def forward(self, x): self.x = x; return x * x
    def backward(self, dout): return 3 * dout * self.x

def test_layer(gradcheck): gradcheck.layer(Layer(), X)
def test_gradient(gradcheck): gradcheck.gradient(lambda x: np.sum(x**3), lambda x: 2 * x**2, X)
def test_vjp(gradcheck): gradcheck.vjp(lambda x: (x * x, lambda dout: (3 * dout * x,)), X)
def test_jvp(gradcheck): gradcheck.jvp(lambda x: (x * x, x), lambda v, x: v * x, X)
def test_hessian(gradcheck): gradcheck.hessian(None, lambda x: 3 * x * x, X, hvp=lambda x, v: 3 * x * v)
def test_double(gradcheck):
    gradcheck.double_backward(lambda x: (x * x, x), lambda d, x: 2 * x * d, lambda dd, d, x: (x * dd, d * dd), X)
def test_penalty(gradcheck):
    square = lambda x: (x * x, x)
    gradcheck.gradient_penalty(square, lambda d, x: 2 * x * d, lambda dx: np.sum(dx * dx), lambda x: 4 * x, X)
def test_contract(gradcheck):
    def backward(dout, x):
        dx = 2 * dout * x
        dout *= 0
        return dx
    gradcheck(lambda x: (x * x, x), backward, X)
def test_inconclusive(gradcheck):
    rng = np.random.default_rng(0)
    gradcheck(lambda x: (x * rng.random(x.shape), x), lambda d, x: d, X)
"""
    )
    assert code == 1
    assert "9 failed" in out
    assert "every element is 1.5 times what it should be" in out
    assert "contract: backward writes into dout" in out
    assert "two calls of forward differ: seed what is random in it" in out


def test_the_markers_seed_and_options_are_used(run):
    code, out = run(
        """
def numeric(gradcheck): return gradcheck(forward, right, X, W).arguments[0].numeric

@pytest.mark.gradcheck(seed=3)
def test_seed(gradcheck):
    from npgpt import check_backward
    expected = check_backward(forward, right, X, W, rng=np.random.default_rng(3)).arguments[0].numeric
    assert numeric(gradcheck) == expected != check_backward(forward, right, X, W).arguments[0].numeric

def test_no_seed_is_seed_0(gradcheck):
    from npgpt import check_backward
    assert numeric(gradcheck) == check_backward(forward, right, X, W).arguments[0].numeric

@pytest.mark.gradcheck(seed=3)
def test_each_check_begins_with_the_seed(gradcheck):
    assert numeric(gradcheck) == numeric(gradcheck)

@pytest.mark.gradcheck(tolerance=0.01)
def test_tolerance(gradcheck):
    assert gradcheck(forward, wrong, X, W).tolerance == 0.01

@pytest.mark.gradcheck(tolerance=0.01)
class TestAll:
    def test_class(self, gradcheck):
        gradcheck(forward, wrong, X, W)

@pytest.mark.gradcheck(wrt="w")
def test_wrt(gradcheck):
    assert [a.name for a in gradcheck(forward, right, X, W).arguments] == ["w"]

@pytest.mark.gradcheck(seed=3, tolerance=1e-9)
def test_the_calls_options_win(gradcheck):
    assert gradcheck(forward, wrong, X, W, tolerance=0.01).tolerance == 0.01

@pytest.mark.gradcheck(tolerance=1e-9)
def test_a_tolerance_that_is_not_met(gradcheck):
    gradcheck(forward, wrong, X, W)
"""
    )
    assert code == 1, out
    assert "1 failed, 7 passed" in out, out
    assert "fail (relative error at most 1e-09 allowed)" in out


def test_an_unknown_option_is_an_error_that_names_it(run):
    code, out = run(
        """
@pytest.mark.gradcheck(toleranse=0.01)
def test_misspelt(gradcheck):
    gradcheck(forward, right, X, W)
"""
    )
    assert code == 1
    assert "toleranse" in out
    assert "1 failed" in out or "1 error" in out


def test_the_marker_and_the_fixture_are_documented(run):
    code, out = run("", options=("--markers",))
    assert code == 0
    assert "@pytest.mark.gradcheck(seed=0, **options): options of the fixture gradcheck" in out
    code, out = run("", options=("--fixtures",))
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("gradcheck -- ")]
    assert "made to fail the test unless the check passes" in out


def test_the_plugin_imports_no_large_library():
    """It is loaded wherever npgpt is installed, by projects that never use it too."""
    code = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        "import npgpt.gradcheck.pytest_plugin\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'numba', 'torch', 'jax', 'matplotlib', 'safetensors', 'regex'}))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "[]\n", result.stderr


def test_the_entry_point_is_the_plugin():
    import tomllib

    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]["pytest11"]
    assert points == {"pytest-npgpt": "npgpt.gradcheck.pytest_plugin"}


def test_a_marker_without_keywords_is_refused(run):
    code, out = run(
        """
@pytest.mark.gradcheck(3)
def test_pair(gradcheck): gradcheck(forward, right, X, W)
"""
    )
    assert code == 1
    assert "the marker gradcheck takes keywords alone, such as seed=3" in out


def test_equivalences_are_parts_of_the_fixture(run):
    code, out = run(
        """
def whole(params, x): return np.mean(x @ params), np.mean(x, axis=0)

def summed(params, parts): return tuple(map(sum, zip(*(whole(params, part) for part in parts))))

def test_independent(gradcheck): gradcheck.batch_independence(np.sin, X)
def test_causal(gradcheck): gradcheck.causality(lambda x: np.cumsum(x, axis=1), X)
def test_centred(gradcheck): gradcheck.batch_independence(lambda x: x - x.mean(axis=0), X)
def test_leak(gradcheck): gradcheck.causality(lambda x: x - x.mean(axis=1, keepdims=True), X)
def test_summed(gradcheck): gradcheck.accumulation(whole, summed, W, X)
"""
    )
    assert code == 1
    assert "3 failed, 2 passed" in out
    assert "sample 0 depends on sample 1" in out
    assert "output 0 depends on input 1" in out
    assert "in 2 parts it is not that of the whole batch" in out
