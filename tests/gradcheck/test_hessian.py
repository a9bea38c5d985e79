"""check_hessian: right Hessians, their products and Gauss-Newton products pass, and the slips in them do not."""

import numpy as np
import pytest

from npgpt.gradcheck import check_hessian
from npgpt.gradcheck.hessian import MATRIX

RNG = np.random.default_rng(62)
DATA, TARGET = RNG.standard_normal((7, 4)), RNG.integers(0, 2, 7).astype(float)
W = RNG.standard_normal(4)


# --- logistic regression with a ridge: a full Hessian and its products


def loss(w):
    z = DATA @ w
    return np.sum(np.log1p(np.exp(z)) - TARGET * z) + 0.3 * np.sum(w * w)


def loss_gradient(w):
    return DATA.T @ (1 / (1 + np.exp(-DATA @ w)) - TARGET) + 0.6 * w


def loss_hessian(w, slip=""):
    s = 1 / (1 + np.exp(-DATA @ w))
    weights = s if slip == "s for s (1 - s)" else s * (1 - s)
    ridge = {"no ridge": 0.0, "ridge not doubled": 0.3}.get(slip, 0.6)
    h = (DATA.T * weights) @ DATA
    if slip == "only the diagonal":
        h = np.diag(np.diag(h))
    if slip == "only the lower triangle":
        h = np.tril(h)
    if slip == "a rank-one term of the Fisher":
        g = DATA.T @ (s - TARGET)
        h = np.outer(g, g)
    if slip == "not symmetric":
        h = h + np.triu(0.1 * h, 1)
    if slip == "the mean":
        h = h / len(DATA)
    return h + ridge * np.eye(len(w))


HESSIAN_SLIPS = [
    "s for s (1 - s)",
    "no ridge",
    "ridge not doubled",
    "only the diagonal",
    "only the lower triangle",
    "a rank-one term of the Fisher",
    "not symmetric",
    "the mean",
]


def test_a_right_hessian_and_its_products_pass():
    report = check_hessian(loss, loss_gradient, W, hessian=loss_hessian, hvp=lambda w, v: loss_hessian(w) @ v)
    assert report, report
    names = ["gradient: x", "hvp: x", "hvp: symmetry", "hessian: entries", "hessian: symmetry"]
    assert [row.name for row in report.arguments] == names
    assert report.labels == ("claimed", "reference")
    assert check_hessian(loss, loss_gradient, W, hessian=loss_hessian, dtype=np.float32)


@pytest.mark.parametrize("slip", HESSIAN_SLIPS)
def test_a_wrong_hessian_fails_as_a_matrix_and_as_a_product(slip):
    whole = check_hessian(loss, loss_gradient, W, hessian=lambda w: loss_hessian(w, slip))
    product = check_hessian(loss, loss_gradient, W, hvp=lambda w, v: loss_hessian(w, slip) @ v)
    assert (whole.verdict, product.verdict) == ("fail", "fail")
    verdicts = {row.name: row.verdict for row in (*whole.arguments, *product.arguments)}
    assert verdicts["gradient: x"] == "pass"
    assert verdicts["hessian: entries"] == verdicts["hvp: x"] == "fail"
    lopsided = "fail" if slip in ("not symmetric", "only the lower triangle") else "pass"
    assert verdicts["hessian: symmetry"] == verdicts["hvp: symmetry"] == lopsided


def test_the_report_holds_the_entries_themselves():
    def one_entry(w):
        h = loss_hessian(w)
        h[2, 1] += 1
        return h

    rows = {row.name: row for row in check_hessian(loss, loss_gradient, W, hessian=one_entry).arguments}
    entries, symmetry = rows["hessian: entries"], rows["hessian: symmetry"]
    assert entries.index == (2, 1)
    assert entries.analytic == one_entry(W)[2, 1]
    assert entries.numeric == pytest.approx(loss_hessian(W)[2, 1], rel=1e-9)
    assert {symmetry.index, (2, 1)} <= {(1, 2), (2, 1)}
    assert abs(symmetry.analytic - symmetry.numeric) == pytest.approx(1)


@pytest.mark.parametrize("size", [MATRIX, MATRIX + 1])
def test_a_large_hessian_is_compared_by_products(size):
    a = RNG.standard_normal((size, size))
    functions = lambda x: np.sum((a @ x) ** 4), lambda x: 4 * a.T @ (a @ x) ** 3
    right = lambda x: 12 * (a.T * (a @ x) ** 2) @ a  # noqa: E731
    x = RNG.standard_normal(size)
    report = check_hessian(*functions, x, hessian=right)
    assert report, report
    assert (report.arguments[1].name == "hessian: entries") == (size == MATRIX)
    assert not check_hessian(*functions, x, hessian=lambda x: right(x) + 1e-4 * np.eye(size)[::-1])


def test_hessians_of_other_shapes_and_of_sparse_matrices():
    class Sparse:
        def __init__(self, array):
            self.array = array

        def toarray(self):
            return self.array

    x = W.reshape(2, 2)
    functions = lambda x: np.sum(x**3), lambda x: 3 * x**2
    right = lambda x: np.diag(6 * x.ravel())  # noqa: E731
    assert check_hessian(*functions, x, hessian=right)
    assert check_hessian(*functions, x, hessian=lambda x: right(x).reshape(2, 2, 2, 2))
    assert check_hessian(*functions, x, hessian=lambda x: Sparse(right(x)))
    report = check_hessian(*functions, x, hessian=lambda x: 6 * x)
    assert report.verdict == "fail"
    assert report.arguments[1].reason == "the Hessian's shape (2, 2) is not (4, 4)"


# --- more functions, each with its gradient, its Hessian's products, and slips of the latter


def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_gradient(x):
    d = x[1:] - x[:-1] ** 2
    g = np.zeros_like(x)
    g[:-1] += -400 * x[:-1] * d - 2 * (1 - x[:-1])
    g[1:] += 200 * d
    return g


def rosenbrock_product(x, v, slip=""):
    d = x[1:] - x[:-1] ** 2
    dd = v[1:] - (1 if slip == "no chain through the square" else 2 * x[:-1]) * v[:-1]
    out = np.zeros_like(x)
    second = 0 if slip == "Gauss-Newton" else -400 * v[:-1] * d
    out[:-1] += second - 400 * x[:-1] * dd + (-2 if slip == "a sign" else 2) * v[:-1]
    out[1:] += 200 * dd
    return out


def network(params):
    hidden = np.tanh(DATA @ params["w"])
    return 0.5 * np.sum((hidden @ params["v"] - TARGET) ** 2)


def network_gradient(params):
    hidden = np.tanh(DATA @ params["w"])
    error = hidden @ params["v"] - TARGET
    return {"w": DATA.T @ (np.outer(error, params["v"]) * (1 - hidden**2)), "v": hidden.T @ error}


def network_product(params, tangents, slip=""):
    """Differentiate the gradient line by line (Pearlmutter's R operator)."""
    hidden = np.tanh(DATA @ params["w"])
    slope = 1 - hidden**2
    error = hidden @ params["v"] - TARGET
    rv = 0 * tangents["v"] if slip == "the tangent of only one argument" else tangents["v"]
    rhidden = slope * (DATA @ tangents["w"])
    rerror = rhidden @ params["v"] + (0 if slip == "the error moves by the hidden layer alone" else hidden @ rv)
    rslope = 0 if slip == "the slope does not move" else -2 * hidden * rhidden
    outer, router = np.outer(error, params["v"]), np.outer(rerror, params["v"]) + np.outer(error, rv)
    if slip == "Gauss-Newton":
        return {"w": DATA.T @ (np.outer(rerror, params["v"]) * slope), "v": hidden.T @ rerror}
    first = 0 if slip == "a term of the product rule" else rhidden.T @ error
    return {"w": DATA.T @ (router * slope + outer * rslope), "v": first + hidden.T @ rerror}


def entropy(z):
    return np.log(np.sum(np.exp(z - z.max()))) + z.max()


def probabilities(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def entropy_product(z, v, slip=""):
    p = probabilities(z)
    if slip == "no outer product":
        return p * v
    return p * v - p * (v.mean() if slip == "an unweighted mean" else p @ v)


PARAMS = {"w": RNG.standard_normal((4, 3)), "v": RNG.standard_normal(3)}
FUNCTIONS = {
    "rosenbrock": (rosenbrock, rosenbrock_gradient, rosenbrock_product, RNG.standard_normal(5)),
    "network": (network, network_gradient, network_product, PARAMS),
    "entropy": (entropy, probabilities, entropy_product, RNG.standard_normal(6)),
}
PRODUCT_SLIPS = [
    ("rosenbrock", "no chain through the square"),
    ("rosenbrock", "Gauss-Newton"),
    ("rosenbrock", "a sign"),
    ("network", "the tangent of only one argument"),
    ("network", "the error moves by the hidden layer alone"),
    ("network", "the slope does not move"),
    ("network", "Gauss-Newton"),
    ("network", "a term of the product rule"),
    ("entropy", "no outer product"),
    ("entropy", "an unweighted mean"),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_products_pass(name):
    f, gradient, product, x = FUNCTIONS[name]
    report = check_hessian(f, gradient, x, hvp=product)
    assert report, report
    assert check_hessian(None, gradient, x, hvp=product, mode="directions")


@pytest.mark.parametrize(("name", "slip"), PRODUCT_SLIPS)
def test_a_wrong_product_fails(name, slip):
    f, gradient, product, x = FUNCTIONS[name]
    report = check_hessian(f, gradient, x, hvp=lambda x, v: product(x, v, slip))
    assert report.verdict == "fail"
    assert {row.verdict for row in report.arguments if row.name.startswith("gradient")} == {"pass"}


def test_a_gauss_newton_product_is_checked_with_a_backward_that_is_held():
    def model(params):
        hidden = np.tanh(DATA @ params["w"])
        return hidden @ params["v"], (params, hidden)

    def backward(dout, cache):
        params, hidden = cache
        return {"w": DATA.T @ (np.outer(dout, params["v"]) * (1 - hidden**2)), "v": hidden.T @ dout}

    _, cache = model(PARAMS)
    held = lambda params: backward(model(params)[0] - TARGET, cache)  # noqa: E731
    right = lambda params, v: network_product(params, v, "Gauss-Newton")  # noqa: E731
    report = check_hessian(None, held, PARAMS, hvp=right)
    assert report, report
    assert "trusted" in str(report)
    assert not check_hessian(None, held, PARAMS, hvp=network_product)  # the Hessian is not what was asked for


def test_other_arguments_are_handed_on():
    f = lambda x, power, scale: scale * np.sum(x**power)  # noqa: E731
    gradient = lambda x, power, scale: scale * power * x ** (power - 1)  # noqa: E731
    hvp = lambda x, v, power, scale: scale * power * (power - 1) * x ** (power - 2) * v  # noqa: E731
    assert check_hessian(f, gradient, W, 3, 0.7, hvp=hvp)
    assert check_hessian(f, gradient, W, 3, 0.7, hessian=lambda x, *args: np.diag(hvp(x, 1, *args)))


# --- what the second derivatives are compared with


def test_a_wrong_gradient_fails_and_nothing_is_compared_with_it():
    both = {"hvp": lambda w, v: 2 * loss_hessian(w) @ v, "hessian": lambda w: 2 * loss_hessian(w)}
    report = check_hessian(loss, lambda w: 2 * loss_gradient(w), W, **both)
    assert report.verdict == "fail"
    assert [row.name for row in report.arguments] == ["gradient: x"]
    assert [item.name for item in report.not_checked] == ["hvp", "hessian"]
    trusted = check_hessian(None, lambda w: 2 * loss_gradient(w), W, **both)
    assert trusted
    assert trusted.notes[0].startswith("the gradient is trusted")


def test_nothing_to_check_and_what_does_not_fit_are_errors():
    with pytest.raises(ValueError, match="give hvp=, hessian= or both"):
        check_hessian(loss, loss_gradient, W)
    with pytest.raises(ValueError, match="not in the structure and shapes of x"):
        check_hessian(None, lambda w: loss_gradient(w)[:3], W, hessian=loss_hessian)
    with pytest.raises(ValueError, match="f must return one number"):
        check_hessian(lambda w: w * w, loss_gradient, W, hessian=loss_hessian)
    with pytest.raises(TypeError, match="check the products of a tree with hvp="):
        check_hessian(network, network_gradient, PARAMS, hessian=lambda params: np.eye(15))
    report = check_hessian(loss, loss_gradient, W, hvp=lambda w, v: w @ v)
    assert report.arguments[1].reason == "hvp returned the shape () where x has (4,)"
    report = check_hessian(loss, lambda w: loss_gradient(w)[:3], W, hessian=loss_hessian)
    assert report.verdict == "fail"
    assert "(3,)" in report.arguments[0].reason


def test_functions_that_write_into_what_they_are_given_fail():
    def hessian(w):
        found = loss_hessian(w)
        w += 1
        return found

    def hvp(w, v):
        found = loss_hessian(w) @ v
        v *= 2
        return found

    assert "hessian: hessian writes into x" in check_hessian(loss, loss_gradient, W, hessian=hessian).contract
    broken = check_hessian(loss, loss_gradient, W, hvp=hvp).contract
    assert "hvp: hvp writes into the tangents that it is given" in broken


def test_a_product_that_is_not_linear_fails():
    report = check_hessian(loss, loss_gradient, W, hvp=lambda w, v: loss_hessian(w) @ v * (1 + 1e-3 * v @ v))
    assert "hvp: hvp is not linear in the tangents" in report.contract


def test_what_is_not_finite_is_not_called_lopsided():
    with np.errstate(all="ignore"):
        exp = lambda x: np.sum(np.exp(x)), np.exp
        report = check_hessian(*exp, np.array([1.0, 800.0]), hessian=lambda x: np.diag(np.exp(x)))
    assert report.verdict == "inconclusive"
