"""Checks of what is not a pair of functions: scalar functions, pullbacks, PyTorch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npgpt import gradcheck
from npgpt.gradcheck import (
    check_autograd_function,
    check_backward,
    check_gradient,
    check_vjp,
)

RNG = np.random.default_rng(21)
X = RNG.standard_normal((5, 3))


def verdicts(report):
    return {argument.name: argument.verdict for argument in report.arguments}


# --- scalar functions with a gradient


def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_gradient(x):
    gradient = np.zeros_like(x)
    gradient[1:] += 200 * (x[1:] - x[:-1] ** 2)
    gradient[:-1] += -400 * x[:-1] * (x[1:] - x[:-1] ** 2) - 2 * (1 - x[:-1])
    return gradient


def test_a_scalar_function_with_its_gradient():
    assert check_gradient(rosenbrock, rosenbrock_gradient, X[0]).verdict == "pass"
    report = check_gradient(rosenbrock, lambda x: rosenbrock_gradient(x) + 2 * x, X[0])
    assert report.verdict == "fail"
    assert report.arguments[0].name == "x"


def test_a_scalar_function_takes_further_arguments_of_any_kind():
    def f(x, weight, power):
        return float(np.sum(weight["w"] * x**power))

    def gradient(x, weight, power):
        return power * weight["w"] * x ** (power - 1)

    report = check_gradient(f, gradient, X, {"w": np.full((5, 3), 2.0)}, 3)
    assert verdicts(report) == {"x": "pass"}
    assert check_gradient(f, lambda x, w, p: gradient(x, w, p + 1), X, {"w": np.ones((5, 3))}, 3).verdict == "fail"


def test_a_gradient_that_is_a_list():
    assert check_gradient(lambda x: x[0] * x[1], lambda x: [x[1], x[0]], np.array([2.0, 3.0])).verdict == "pass"


def test_a_scalar_function_takes_options():
    wrong = check_gradient(rosenbrock, lambda x: 1.001 * rosenbrock_gradient(x), X[0], tolerance=0.01)
    assert wrong.verdict == "pass"  # because it was asked to
    assert check_gradient(rosenbrock, rosenbrock_gradient, X[0], names=["theta"]).arguments[0].name == "theta"


def value_and_gradient(x, factor=1.0):
    return rosenbrock(x), factor * rosenbrock_gradient(x)


@pytest.mark.parametrize(
    "check",
    [
        lambda factor: check_gradient(value_and_gradient, True, X[0], factor),
        lambda factor: check_gradient(value_and_gradient, X[0], factor, jac=True),
        lambda factor: check_gradient(rosenbrock, X[0], jac=lambda x: factor * rosenbrock_gradient(x)),
    ],
    ids=["positional", "jac=True", "jac is a function"],
)
def test_a_function_that_returns_its_gradient_too(check):
    assert check(1.0).verdict == "pass"
    assert check(1.001).verdict == "fail"


def test_the_report_holds_the_gradient_itself():
    """Before, the numbers were those of the gradient times a random one."""
    at = np.array([1.0, 2.0, 3.0])
    (argument,) = check_gradient(lambda x: np.sum(x**3), lambda x: 3 * x**2 + [0, 0, 1], at).arguments
    assert (argument.index, argument.analytic) == ((2,), 28.0)
    assert argument.numeric == pytest.approx(27.0, rel=1e-12)


def test_a_function_that_returns_its_gradient_in_a_buffer_passes():
    buffer = np.empty(3)

    def f(x):
        if np.iscomplexobj(x):
            return np.sum(x**3), None
        buffer[...] = 3 * x**2
        return np.sum(x**3), buffer

    assert check_gradient(f, X[0], jac=True).verdict == "pass"


@pytest.mark.parametrize(
    ("given", "jac", "error", "match"),
    [
        ((rosenbrock,), None, TypeError, "x is missing"),
        ((rosenbrock,), True, TypeError, "x is missing"),
        ((rosenbrock, 3, X[0]), None, TypeError, "must be a function, or jac=True if f returns it too, not 3"),
        ((rosenbrock, X[0]), False, TypeError, "not False"),
        ((rosenbrock, X[0]), True, TypeError, "must return a pair"),
        ((lambda x: 2 * x, lambda x: np.full(3, 2.0), X[0]), None, ValueError, r"shape \(3,\)"),
    ],
)
def test_what_is_no_scalar_function_with_a_gradient_is_an_error(given, jac, error, match):
    with pytest.raises(error, match=match):
        check_gradient(given[0], *given[1:], jac=jac)


def test_a_gradient_of_none_fails():
    assert "backward returned None" in str(check_gradient(rosenbrock, lambda x: None, X[0]))
    assert check_gradient(lambda x: (rosenbrock(x), None), X[0], jac=True).verdict == "fail"


def test_the_cotangent_can_be_given():
    def square(x):
        return {"out": x * x}, x

    def wrong(dout, x):
        return 3 * dout["out"] * x

    (argument,) = check_backward(square, wrong, np.array([2.0, 5.0]), dout={"out": np.array([1.0, 0.5])}).arguments
    assert argument.analytic in (6.0, 7.5)
    with pytest.raises(ValueError, match="structure"):
        check_backward(square, wrong, np.ones(2), dout=np.ones(2))
    with pytest.raises(ValueError, match="shape"):
        check_backward(square, wrong, np.ones(2), dout={"out": np.ones(3)})


# --- pullbacks


def tanh_product(x, y):
    out = np.tanh(x * y)
    return out, lambda dout: (dout * (1 - out**2) * y, dout * (1 - out**2) * x)


def test_a_pullback_in_numpy():
    assert verdicts(check_vjp(tanh_product, X, X + 1)) == {"x": "pass", "y": "pass"}

    def wrong(x, y):
        out, pull = tanh_product(x, y)
        return out, lambda dout: (pull(dout)[0], dout * x)

    assert verdicts(check_vjp(wrong, X, X + 1)) == {"x": "pass", "y": "fail"}
    assert verdicts(check_vjp(tanh_product, X, X + 1, names=["x", "y"])) == {"x": "pass", "y": "pass"}


def test_a_pullback_of_one_argument_and_of_a_dict():
    assert check_vjp(lambda x: (x * x, lambda dout: (2 * dout * x,)), X).verdict == "pass"
    report = check_vjp(
        lambda p: (p["a"] * p["b"], lambda dout: ({"a": dout * p["b"], "b": dout * p["a"]},)), {"a": X, "b": X + 1}
    )
    assert verdicts(report) == {"p['a']": "pass", "p['b']": "pass"}


JAX = """
import numpy as np, jax, jax.numpy as jnp
from npgpt.gradcheck import check_vjp
jax.config.update("jax_enable_x64", True)

def custom(factor):
    @jax.custom_vjp
    def f(x, y):
        return {"out": jnp.sin(x) * y}
    f.defvjp(lambda x, y: (f(x, y), (x, y)),
             lambda c, d: (factor * d["out"] * jnp.cos(c[0]) * c[1], d["out"] * jnp.sin(c[0])))
    return f

x = np.random.default_rng(0).standard_normal((3, 4))
for factor in (1.0, 1.001):
    report = check_vjp(lambda *args: jax.vjp(custom(factor), *args), x, x + 1)
    print(*(a.verdict for a in report.arguments), *report.contract)
"""


def test_a_custom_vjp_of_jax():
    pytest.importorskip("jax")
    # in a process of its own: jax_enable_x64 is for a whole process
    result = subprocess.run([sys.executable, "-c", JAX], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["pass pass", "fail pass"]


# --- torch.autograd.Function


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def sine(torch, factor):
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, power):
            ctx.save_for_backward(x)
            ctx.power = power
            return torch.sin(x) ** power

        @staticmethod
        def backward(ctx, dout):
            (x,) = ctx.saved_tensors
            return factor * dout * ctx.power * torch.sin(x) ** (ctx.power - 1) * torch.cos(x), None

    return Sine


def test_an_autograd_function_with_an_argument_that_is_no_tensor(torch):
    assert verdicts(check_autograd_function(sine(torch, 1), X, 3)) == {"args[0]": "pass"}
    report = check_autograd_function(sine(torch, 1.001), X, 3)
    assert verdicts(report) == {"args[0]": "fail"}
    assert "every element is 1.001 times" in str(report)


def test_an_autograd_function_with_two_outputs_and_two_inputs(torch):
    def function(sign):
        class SumAndProduct(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, y):
                ctx.save_for_backward(x, y)
                return x + y, x * y

            @staticmethod
            def backward(ctx, dsum, dproduct):
                x, y = ctx.saved_tensors
                return dsum + dproduct * y, sign * dsum + dproduct * x

        return SumAndProduct

    assert verdicts(check_autograd_function(function(1), X, X + 1)) == {"args[0]": "pass", "args[1]": "pass"}
    assert verdicts(check_autograd_function(function(-1), X, X + 1)) == {"args[0]": "pass", "args[1]": "fail"}


def test_an_autograd_function_with_ids(torch):
    class Lookup(torch.autograd.Function):
        @staticmethod
        def forward(ctx, table, ids):
            ctx.save_for_backward(ids)
            ctx.rows = table.shape[0]
            return table[ids]

        @staticmethod
        def backward(ctx, dout):
            (ids,) = ctx.saved_tensors
            return torch.zeros(ctx.rows, dout.shape[-1], dtype=dout.dtype).index_add(0, ids, dout), None

    report = check_autograd_function(Lookup, X, np.array([1, 4, 1]), names=["table", "ids"])
    assert verdicts(report) == {"table": "pass"}


def test_an_autograd_function_that_returns_none_for_a_tensor_fails(torch):
    class Forgetful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, dout):
            return dout * ctx.saved_tensors[1], None

    assert verdicts(check_autograd_function(Forgetful, X, X + 1)) == {"args[0]": "pass", "args[1]": "fail"}


def test_an_autograd_function_derived_from_another(torch):
    class Derived(sine(torch, 1)):
        pass

    assert check_autograd_function(Derived, X, 2).verdict == "pass"


def test_a_subset_of_an_autograd_functions_arguments(torch):
    report = check_autograd_function(sine(torch, 1), X, 2, wrt=[0])
    assert verdicts(report) == {"args[0]": "pass"}


# --- no library is imported


def test_nothing_but_numpy_is_imported():
    code = (
        "import sys, npgpt.gradcheck as g, numpy as np\n"
        "report = g.check_backward(lambda x: (x * x, x), lambda d, x: 2 * d * x, np.ones(3))\n"
        "str(report), report.to_json(), report.to_html()\n"
        "print(sorted({n.split('.')[0] for n in sys.modules} & {'torch', 'jax', 'matplotlib', 'pytest', 'numba'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.stdout == "[]\n", result.stderr


def test_the_public_names_are_there():
    for name in gradcheck.__all__:
        assert getattr(gradcheck, name).__doc__
    assert gradcheck.check_backward is check_backward
