"""A kernel against its definition: as exact, less exact, wrong in a corner, and when nothing can be said."""

import numpy as np
import pytest

from npgpt.cases import LAYERS
from npgpt.gradcheck import compare
from npgpt.ops import FAST, REFERENCE

RNG = np.random.default_rng(34)
X = RNG.standard_normal((6, 50))
W = RNG.standard_normal((50, 7))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_forward(x):
    p = softmax(x)
    return p, p


def softmax_backward(dout, p):
    return p * (dout - (dout * p).sum(axis=-1, keepdims=True))


SOFTMAX = softmax_forward, softmax_backward


def linear_forward(x, w):
    return x @ w, (x, w)


def linear_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout


LINEAR = linear_forward, linear_backward


def online_softmax(x):
    """One pass over the columns, as kernels do."""
    m, total = np.full(x.shape[0], -np.inf, x.dtype), np.zeros(x.shape[0], x.dtype)
    for column in x.T:
        new = np.maximum(m, column)
        total = total * np.exp(m - new) + np.exp(column - new)
        m = new
    return np.exp(x - m[:, None]) / total[:, None]


def variance(x):
    return ((x - x.mean(axis=-1, keepdims=True)) ** 2).mean(axis=-1)


def reversed_sum(x, w):
    return x[:, ::-1] @ w[::-1]


def changed(function, change):
    """Return the function with a change made to a copy of its output."""

    def other(*args):
        out = np.array(function(*args))
        change(out)
        return out

    return other


def at(index, factor):
    def change(out):
        out[index] *= np.asarray(factor, out.dtype)

    return change


RIGHT = {
    "itself": (softmax, softmax, (X,)),
    "softmax, divided before": (lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True), softmax, (X,)),
    "a sum in another order": (reversed_sum, np.matmul, (X, W)),
    "in blocks": (lambda x, w: sum(x[:, i : i + 10] @ w[i : i + 10] for i in range(0, 50, 10)), np.matmul, (X, W)),
    "in float64 inside": (lambda x: softmax(x.astype(np.float64)).astype(x.dtype), softmax, (X,)),
    "numbers of all sizes": (lambda x: np.exp(x), lambda x: np.exp(x / 2) ** 2, (20 * X,)),
    "exactly as it": (lambda x: x + x, lambda x: 2 * x, (X,)),
    "infinities alike": (lambda x: np.where(x > 0, x, -np.inf), lambda x: np.where(x > 0, x, -np.inf), (X,)),
    "a tree": (lambda x: (softmax(x), {"best": x.argmax(1)}), lambda x: [softmax(x), {"best": x.argmax(1)}], (X,)),
}

# right, and further from the truth than their definitions
LESS_EXACT = {
    "softmax in one pass": (online_softmax, softmax, (X,)),
    "softmax by a logarithm": (lambda x: np.exp(x - np.logaddexp.reduce(x, axis=-1)[:, None]), softmax, (X,)),
    "a sum in a loop": (lambda x, w: np.einsum("ij,jk->ik", x, w), np.matmul, (X, W)),
}

WRONG = {
    "a factor": (lambda x: 1.001 * softmax(x), softmax, (X,)),
    "one element by a ten-thousandth": (changed(softmax, at((3, 4), 1.0001)), softmax, (X,)),
    "the last row": (changed(softmax, at(-1, 1.00002)), softmax, (X,)),
    "a tail that is lost": (changed(np.exp, lambda out: np.copyto(out, 0, where=out < 1e-4)), np.exp, (5 * X,)),
    "digits lost": (lambda x: (x * x).mean(-1) - x.mean(-1) ** 2, variance, (100 + X,)),
    "rounded to half precision": (lambda x: x.astype(np.float16).astype(x.dtype) * 2, lambda x: 2 * x, (X,)),
    "an approximation": (lambda x: 1 + x + x * x / 2 + x**3 / 6, np.exp, (0.1 * X,)),
    "an epsilon": (lambda x: x / (np.sqrt((x * x).sum()) + 1e-3), lambda x: x / np.sqrt((x * x).sum()), (X,)),
    "not a number": (changed(softmax, at((0, 0), np.nan)), softmax, (X,)),
    "zero for infinity": (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, x, -np.inf), (X,)),
    "another shape": (lambda x: softmax(x)[:, :-1], softmax, (X,)),
    "another index": (lambda x: x.argmin(1), lambda x: x.argmax(1), (X,)),
    "zero": (lambda x: 0 * x, softmax, (X,)),
    "not zero": (lambda x: 1e-9 * x, lambda x: 0 * x, (X,)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_as_exact_passes(name):
    f, g, args = RIGHT[name]
    report = compare(f, g, *args)
    assert report.verdict == "pass", report


@pytest.mark.parametrize("name", WRONG)
def test_what_is_less_exact_fails(name):
    f, g, args = WRONG[name]
    report = compare(f, g, *args)
    assert report.verdict == "fail", report


@pytest.mark.parametrize("name", LESS_EXACT)
def test_how_much_less_exact_a_kernel_may_be_can_be_said(name):
    f, g, args = LESS_EXACT[name]
    report = compare(f, g, *args)
    assert report.verdict == "fail"
    assert ", where g has " in report.arguments[0].reason
    assert compare(f, g, *args, times=10)


def test_a_wrong_kernel_fails_under_generous_times_too():
    passed = [name for name, (f, g, args) in WRONG.items() if compare(f, g, *args, times=10).verdict != "fail"]
    assert passed == []


def test_the_worst_element_and_its_error_are_named():
    report = compare(changed(softmax, at((3, 4), 1.0001)), softmax, X)
    (out,) = report.arguments
    assert out.index == (3, 4)
    assert out.analytic / out.numeric == pytest.approx(1.0001, rel=1e-5)
    assert out.reason.startswith("an error of ")
    assert " ulp, where g has at most " in out.reason
    assert report.labels == ("f", "truth")


def test_notes_give_both_errors():
    (note,) = compare(online_softmax, softmax, X).notes
    assert note.startswith("out: f is off by ")
    assert note.count(" ulp") == 2


@pytest.mark.parametrize(
    ("f", "g", "args"), [(SOFTMAX, SOFTMAX, (X,)), (LINEAR, LINEAR, (X, W)), ((reversed_sum, None), LINEAR, (X, W))]
)
def test_pairs_are_compared_in_values_and_gradients(f, g, args):
    if f[1] is None:
        f = (lambda x, w: (reversed_sum(x, w), (x, w))), linear_backward
    report = compare(f, g, *args)
    assert report, report
    assert len(report.arguments) == 1 + len(args)


@pytest.mark.parametrize(
    "slip",
    [
        lambda dout, p: p * dout,
        lambda dout, p: 1.001 * softmax_backward(dout, p),
        lambda dout, p: changed(softmax_backward, at((2, 2), 1.001))(dout, p),
        lambda dout, p: p * (dout - (dout * p).sum()),
    ],
)
def test_a_wrong_gradient_fails_alone(slip):
    report = compare((softmax_forward, slip), SOFTMAX, X)
    assert [(a.name, a.verdict) for a in report.arguments] == [("out", "pass"), ("gradient of x", "fail")]


def test_in_float64_the_truth_is_long_double():
    if np.finfo(np.longdouble).eps == np.finfo(np.float64).eps:
        pytest.skip("long double is float64 here")
    assert compare(online_softmax, softmax, X, dtype=np.float64)
    assert compare(changed(softmax, at((3, 4), 1 + 1e-12)), softmax, X, dtype=np.float64).verdict == "fail"


@pytest.mark.parametrize(
    ("f", "g", "why"),
    [
        (softmax, lambda x: softmax(x.astype(np.float32)), "g gives float32 for finer arguments, too"),
        (lambda x: x * np.random.default_rng().random(), softmax, "two calls of forward differ"),
        (lambda x: 0 * x, lambda x: 0 * x, "it is zero, infinite or NaN throughout"),
        (lambda x: np.nan * x, lambda x: np.nan * x, "it is zero, infinite or NaN throughout"),
    ],
)
def test_what_proves_nothing_is_inconclusive(f, g, why):
    report = compare(f, g, X)
    assert report.verdict == "inconclusive", report
    assert why in report.arguments[0].reason


def test_without_one_backward_only_values_are_compared():
    report = compare(softmax, SOFTMAX, X)
    assert report
    assert [u.name for u in report.not_checked] == ["gradients"]


def test_gradients_of_zero_are_not_checked():
    pair = (lambda x, y: (x * y, (x, y))), (lambda dout, cache: (dout * cache[1], 0 * cache[1]))
    report = compare(pair, pair, X, X)
    assert report
    assert [(u.name, u.reason) for u in report.not_checked] == [("gradient of y", "it is zero throughout")]


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="dtype=float16 is not float64 or float32"):
        compare(softmax, softmax, X, dtype=np.float16)
    with pytest.raises(ValueError, match=r"times=0\.5 is less than 1"):
        compare(softmax, softmax, X, times=0.5)
    with pytest.raises(ValueError, match="no argument is an array of floats"):
        compare(np.negative, np.negative, np.arange(3))
    with pytest.raises(ValueError, match=r"f returns out\[0\], out\[1\], but g out"):
        compare(lambda x: (x, x), lambda x: x, X)
    with pytest.raises(TypeError, match="a forward with a backward must return a pair"):
        compare((softmax, softmax_backward), SOFTMAX, X)


@pytest.mark.parametrize("case", LAYERS, ids=[case.name for case in LAYERS])
def test_npgpts_kernels_are_as_exact_as_their_definitions(case):
    report = compare(case.pair(FAST), case.pair(REFERENCE), *case.args(np.random.default_rng(1)))
    # with a vocabulary of one the loss is zero
    assert report.verdict == ("inconclusive" if case.note == "V=1" else "pass"), report
