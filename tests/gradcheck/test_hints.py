"""The hints: each slip is named, the special before the general, and a gradient without a pattern gets none."""

import numpy as np
import pytest

from npgpt import check_backward
from npgpt.gradcheck.hints import hint
from npgpt.gradcheck.hints_finding import Finding
from npgpt.gradcheck.hints_shape import shape_hint
from tests.gradcheck.bugs import BUGS
from tests.gradcheck.slips import MISSES, SLIPS, label

RNG = np.random.default_rng(11)
X = RNG.standard_normal((5, 7))
SQUARE = RNG.standard_normal((6, 6))
OTHER = RNG.standard_normal((5, 7))


def of(analytic, numeric=X, bars=1e-13, **known):
    """Return the hint for a gradient, wrong where it differs by more than its bars."""
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(analytic - numeric) <= bars)
    return hint(Finding("x", analytic, numeric, np.full(analytic.shape, bars), wrong, **known))


def changed(index, values, base=X):
    out = base.copy()
    out[index] = values
    return out


FACTORS = {
    2.0: "2 times",
    0.5: "1/2 times",
    3.0: "3 times",
    -1.0: "-1 (the sign) times",
    -2.0: "-2 times",
    7.0: "7 (7 is the size of an axis) times",
    1 / 5: "1/5 (5 is the size of an axis) times",
    1 / 7: "1/7 (7 is the size of an axis) times",
    1 / 35: "1/35 (35 is the size of an axis) times",
    np.sqrt(7): "sqrt(7) (7 is the size of an axis) times",
    1 / np.sqrt(35): "1/sqrt(35) (35 is the size of an axis) times",
    4 / 5: "(5 - 1)/5 (5 is the size of an axis) times",
    49.0: "7^2 (7 is the size of an axis) times",
    3 / 5: "0.6 times",
    1 / np.sqrt(2): "1/sqrt(2) times",
    1 / 12: "1/12 times",
    1.001: "1.001 times",
    0.123456: "0.123456 times",
}


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_is_named(factor):
    assert of(factor * X) == f"every element is {FACTORS[factor]} what it should be"


def test_a_factor_is_the_share_that_counts():
    assert "4/5 (of 5 in y 4 are not negative) times" in of(
        X[:, :6] * 0.8, X[:, :6], integers=[("y", np.arange(-1, 4))]
    )
    mask = np.array([True, False, True, False, True])
    assert "3/5 (of 5 in mask 3 are true) times" in of(X * 0.6, integers=[("mask", mask)])


def test_a_factor_is_the_size_of_another_argument_too():
    assert "1/11 (11 is the size of an axis)" in of(X / 11, arguments=[("w", np.ones((11, 3)))])


ROWS = np.arange(1.0, 6.0)[:, None]
MASK = np.arange(35).reshape(5, 7) % 3 == 0
PATTERNS = {
    "zero": (0 * X, X, "the gradient is zero where it should not be"),
    "should be zero": (X, 0 * X, "the gradient should be zero"),
    "NaN": (changed((2, 3), np.nan), X, "the gradient is not finite"),
    "infinity": (changed((2, 3), np.inf), X, "the gradient is not finite"),
    "transposed": (SQUARE.T, SQUARE, "it is transposed: the right numbers in the wrong places"),
    "transposed and reshaped": (X.T.reshape(5, 7), X, "it is transposed and reshaped: the right numbers in"),
    "rows reversed": (X[::-1], X, "reversed along axis 0"),
    "columns reversed": (X[:, ::-1], X, "reversed along axis 1"),
    "both reversed": (X[::-1, ::-1], X, "reversed along axes 0, 1"),
    "shuffled": (RNG.permutation(X.ravel()).reshape(X.shape), X, "the right numbers in the wrong places"),
    "rolled": (np.roll(X, 1, axis=1), X, "rolled by 1 along axis 1"),
    "late by one step": (np.vstack((0 * X[:1], X[:-1])), X, "shifted by 1 along axis 0"),
    "rows exchanged": (X[[0, 3, 2, 1, 4]], X, "index 1 and index 3 are swapped along axis 0"),
    "one row for all": (np.tile(X[2], (5, 1)), X, "each index has what index 2 should have along axis 0"),
    "symmetric": (
        np.triu(SQUARE + SQUARE.T),
        (SQUARE + SQUARE.T + np.diag(2 * SQUARE.diagonal())) / 2,
        "made symmetric",
    ),
    "a mean over the columns": (X + X.mean(axis=1, keepdims=True), X, "constant along axis 1"),
    "a mean over the rows": (X - X.mean(axis=0), X, "constant along axis 0"),
    "a constant": (X + 0.5, X, "the same number, 0.5, is too many everywhere"),
    "a factor for each row": (ROWS * X, X, "each index of axis 0 has a factor of its own, from 2 to 5"),
    "only the diagonal is right": (np.where(np.eye(6) == 1, SQUARE, SQUARE**2), SQUARE, "wrong only off the diagonal"),
    "only the diagonal": (np.diag(np.diag(SQUARE)), SQUARE, "wrong only off the diagonal: lost"),
    "the diagonal is wrong": (SQUARE + np.diag(RNG.standard_normal(6)), SQUARE, "wrong only on the diagonal"),
    "a lower triangle is wrong": (SQUARE + np.tril(RNG.standard_normal((6, 6)), -1), SQUARE, "below the diagonal"),
    "a mask is forgotten": (SQUARE, np.tril(SQUARE), "above the diagonal: not zero, as it should be"),
    "the border is lost": (np.pad(SQUARE[1:-1, 1:-1], 1), SQUARE, "at the border of the last two axes: lost (zero)"),
    "one element": (changed((2, 3), 9.0), X, "one element is wrong, at (2, 3)"),
    "the first row": (changed(0, RNG.standard_normal(7)), X, "wrong only at index 0 of axis 0 (the first of 5)"),
    "the last column": (
        changed(np.s_[:, 6], RNG.standard_normal(5)),
        X,
        "wrong only at index 6 of axis 1 (the last of 7)",
    ),
    "a row within": (changed(2, RNG.standard_normal(7)), X, "wrong only at index 2 of axis 0 (one of 5)"),
    "the last two steps": (changed(np.s_[3:], RNG.standard_normal((2, 7))), X, "indices 3 to 4 of axis 0 (the last 2)"),
    "every second column lost": (
        changed(np.s_[:, ::2], 0.0),
        X,
        "lost: indices 0, 2, ... of axis 1 (every second) are",
    ),
    "the last row lost": (changed(4, 0.0), X, "lost: index 4 of axis 0 (the last of 5) is zero and should not be"),
    "twice in scattered places": (np.where(MASK, 2 * X, X), X, "the wrong elements are 2 times what they should be"),
    "zero in scattered places": (np.where(MASK, 0, X), X, "lost: 12 elements are zero and should not be"),
    "another mask": (np.where(MASK, X, 0), np.where(MASK.T.reshape(5, 7), X, 0), "another mask or index"),
    "float16": (X.astype(np.float16).astype(float), X, "numbers of float16"),
    "float32": (X.astype(np.float32).astype(float), X, "numbers of float32"),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_named(name):
    analytic, numeric, expected = PATTERNS[name]
    assert expected in of(analytic, numeric)


KNOWN = {
    "dout": (OTHER, X, {"dout": [("dout", OTHER)]}, "it is dout: handed on as it came"),
    "a sum over the wrong axis": (OTHER.sum(1), X[:, 0], {"dout": [("dout", OTHER)]}, "it is dout, summed over axis 1"),
    "a lost skip connection": (X - OTHER, X, {"dout": [("dout", OTHER)]}, "dout is missing: a skip connection"),
    "a skip connection twice": (X + OTHER, X, {"dout": [("dout", OTHER)]}, "dout is too many: a skip connection"),
    "weight decay": (X + 0.01 * OTHER, X, {"arguments": [("x", OTHER)]}, "0.01 times x is too many"),
    "another's gradient": (OTHER, X, {"others": [("w", OTHER)]}, "it is the gradient of w: the two are swapped"),
    "another's, transposed": (OTHER.T, X.T, {"others": [("w", OTHER)]}, "the gradient of w, transposed"),
    "x is missing": (X / OTHER, X, {"arguments": [("x", OTHER)]}, "the factor x is missing"),
    "1 - out^2 is missing": (X / (1 - OTHER**2), X, {"out": [("out", OTHER)]}, "the factor (1 - out^2) is missing"),
    "a norm taken as constant": (X + ROWS * OTHER, X, {"arguments": [("x", OTHER)]}, "one that is a multiple of x"),
    "a layer norm without means": (
        X + ROWS + ROWS**2 * OTHER,
        X,
        {"arguments": [("x", OTHER)]},
        "one that is constant and one that is a multiple of x",
    ),
    "wrong below zero": (np.where(OTHER < 0, X**2, X), X, {"arguments": [("x", OTHER)]}, "wrong only where x < 0"),
    "wrong under a mask": (np.where(MASK, X**2, X), X, {"integers": [("mask", MASK)]}, "wrong only where mask is true"),
    "at the targets": (
        X + np.eye(7)[[1, 3, 3, 0, 6]] * OTHER,
        X,
        {"integers": [("y", np.array([1, 3, 3, 0, 6]))]},
        "at the element of each row that y picks",
    ),
    "rows to be ignored": (
        np.where([[True], [False], [False], [True], [False]], OTHER, X),
        X,
        {"integers": [("y", np.array([-1, 2, 3, -1, 0]))]},
        "where y is negative: rows to be ignored",
    ),
    "divided by counts": (
        X / np.array([[1], [1], [1], [2], [2]]),
        X,
        {"integers": [("ids", np.array([1, 3, 3, 4, 4]))]},
        "one over how often ids names it",
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_pattern_is_named_beside_what_is_known(name):
    analytic, numeric, known, expected = KNOWN[name]
    assert expected in of(analytic, numeric, **known)


@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(seed, marks=pytest.mark.big) for seed in range(40, 200))])
def test_a_random_gradient_has_no_pattern(seed):
    rng = np.random.default_rng(seed)
    for shape in ((4,), (3, 4), (4, 4), (2, 3, 5)):
        numeric, analytic, x, w, dout = rng.standard_normal((5, *shape))
        ids = rng.integers(0, shape[0], 3)
        known = {"arguments": [("x", x), ("w", w)], "dout": [("dout", dout)], "out": [("out", x * w)]}
        assert of(analytic, numeric, others=[("w", w)], integers=[("ids", ids)], **known) == ""


@pytest.mark.parametrize("seed", range(100, 150))  # not that of X itself
def test_an_error_that_is_added_at_random_has_no_pattern(seed):
    rng = np.random.default_rng(seed)
    known = {"arguments": [("x", OTHER)], "dout": [("dout", rng.standard_normal(X.shape))]}
    for size in (1e-6, 1e-3, 1.0):
        assert of(X + size * rng.standard_normal(X.shape), **known) == ""
        some = rng.random(X.shape) < 0.5
        some[0, 0] = some[1, 1] = some[0, 1] = True
        assert of(X + size * some * rng.standard_normal(X.shape), **known) == ""


def test_bars_that_are_wide_prove_nothing():
    """Within one percent many a pattern explains a gradient."""
    near = X * (1.5 + 1e-3 * OTHER)
    assert of(near, bars=1e-2) == ""
    assert of(1.5 * X, bars=1e-8) == "every element is 1.5 times what it should be"


def test_a_factor_of_two_is_called_two():
    """An axis of 4 makes sqrt(4) another reading, and a rarer one."""
    assert of(SQUARE[:4] / 2, SQUARE[:4]).startswith("every element is 1/2 ")
    assert of(SQUARE[:4] * 2, SQUARE[:4]).startswith("every element is 2 ")


def test_a_factor_that_is_nearly_one_is_told_from_it():
    assert of(1.000001 * X) == "every element is 1.000001 times what it should be"


def test_two_elements_alone_prove_no_factor():
    """Any two numbers in one row are 'at one index of an axis', but not by chance in a ratio."""
    wrong = X.copy()
    wrong[0, 1] += 0.3
    wrong[3, 4] -= 0.7
    assert of(wrong) == ""


def test_one_number_proves_no_factor_but_a_simple_one():
    assert of(np.array(2.0), np.array(1.0)) == "it may be 2 times what it should be"
    assert of(np.array([-1.5]), np.array([1.5])) == "it may be -1 (the sign) times what it should be"
    assert of(np.array(1 / 7), np.array(1.0), dout=[("dout", X)], out=[("out", X)]).startswith("it may be 1/7 (7 is")
    for other in (3.0, 0.7, np.sqrt(2), 1.1):
        assert of(np.array(other), np.array(1.0)) == ""


def test_what_was_not_looked_at_proves_nothing():
    numeric = X.copy()
    numeric[1:4] = np.nan
    wrong = np.isfinite(numeric)
    bars = np.full(X.shape, 1e-13)
    assert hint(Finding("x", 2 * X, numeric, bars, wrong)) == "every element is 2 times what it should be"
    # an order of all elements cannot be known from a part of them
    assert hint(Finding("x", np.roll(X, 2), numeric, bars, wrong)) == ""


def test_a_row_that_should_be_zero_is_no_repeat():
    """A row of padding has a gradient: adding up repeats would not help."""
    ids = np.array([0, 1, 0, 3])
    report = check_backward(lambda t, ids: (t[ids] * (ids > 0)[:, None], ids), _scatter, X, ids)
    assert "repeats" not in report.arguments[0].hint
    assert report.arguments[0].hint.startswith("it takes dout from outputs that do not depend")


def _scatter(dout, ids):
    dtable = np.zeros(X.shape)
    np.add.at(dtable, ids, dout)
    return dtable


# --- shapes


@pytest.mark.parametrize(
    ("analytic", "shape", "expected"),
    [
        ((4, 3), (3, 4), "it has the transposed shape"),
        ((3, 2, 4), (2, 3, 4), "its axes are in another order"),
        ((5, 3), (3,), "sum it over axis 0"),
        ((3, 5), (3,), "sum it over axis 1"),
        ((2, 5, 3), (3,), "sum it over axes 0, 1"),
        ((2, 5, 3), (5,), "sum it over axes 0, 2"),
        ((2, 5), (), "sum it over axes 0, 1"),
        ((1,), (), "sum it over axis 0"),
        ((2, 3, 4), (3, 4), "sum it over axis 0"),
        ((5, 3), (1, 3), "sum it over axis 0, with keepdims=True"),
        ((5, 3), (5, 1), "sum it over axis 1, with keepdims=True"),
        ((1, 3), (3,), "an axis of size 1 is left over: drop it, or sum without keepdims=True"),
        ((3, 1), (3,), "an axis of size 1 is left over: drop it, or sum without keepdims=True"),
        ((3,), (3, 1), "an axis of size 1 is missing: sum with keepdims=True"),
        ((), (3,), "it is summed over axis 0 of the argument, and should not be"),
        ((4,), (3, 4), "it is summed over axis 0 of the argument, and should not be"),
        ((12,), (3, 4), "it has the right number of elements in another shape"),
        ((2, 3, 2), (3, 4), "it has the right number of elements in another shape"),
        ((5, 4), (3,), ""),
        ((2, 2), (3, 3), ""),
    ],
)
def test_a_shape_is_explained(analytic, shape, expected):
    assert shape_hint(np.ones(analytic), shape) == expected


# --- from the slip to the report


def linear(x, weight, bias):
    return x @ weight + bias, (x, weight)


def linear_slip(**slips):
    def backward(dout, cache):
        x, weight = cache
        right = {"x": dout @ weight.T, "weight": x.T @ dout, "bias": dout.sum(axis=0)}
        return tuple({**right, **{k: f(dout, x, weight) for k, f in slips.items()}}.values())

    return backward


def layernorm(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return centred * rstd, (centred * rstd, rstd)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True), e / e.sum(axis=-1, keepdims=True)


A, B, C = (RNG.standard_normal(shape) for shape in ((6, 4), (4, 4), (4,)))
IDS = np.array([2, 0, 2, 5])
OWN_ALONE = "each element gets dout of its own index of axis {} alone, but other outputs depend on it, too"
REPORTED = {
    "a mean forgotten": (
        lambda x: (np.mean(x, axis=0), x.shape),
        lambda d, shape: np.broadcast_to(d, shape).copy(),
        (A,),
        "every element is 6 (6 is the size of an axis) times what it should be",
    ),
    "a scale of attention forgotten": (
        lambda q, k: (q @ k.T / np.sqrt(3), (q, k)),
        lambda d, c: (d @ c[1], d.T @ c[0] / np.sqrt(3)),
        (RNG.standard_normal((6, 3)), RNG.standard_normal((4, 3))),
        "every element is sqrt(3) (3 is the size of an axis) times what it should be",
    ),
    "a square's 2 forgotten": (
        lambda x: (x * x, x),
        lambda d, x: d * x,
        (X,),
        "every element is 1/2 times what it should be",
    ),
    "subtracted": (
        lambda x, y: (x - y, None),
        lambda d, _: (d, d),
        (A, A + 1),
        "every element is -1 (the sign) times what it should be",
    ),
    "weight transposed": (
        linear,
        linear_slip(weight=lambda d, x, w: d.T @ x),
        (A, B, C),
        "it is transposed: the right numbers in the wrong places",
    ),
    "transposed, and rows left out": (
        linear,
        linear_slip(weight=lambda d, x, w: d[1:].T @ x[1:]),
        (A, B, C),
        "axis 0 goes with axis 1 of out, and axis 1 should: transposed?",
    ),
    "bias not summed": (linear, linear_slip(bias=lambda d, x, w: d), (A, B, C), "sum it over axis 0"),
    "weight of another shape": (
        linear,
        linear_slip(weight=lambda d, x, w: d.T @ x),
        (A, RNG.standard_normal((4, 3)), C[:3]),
        "it has the transposed shape",
    ),
    "norm without what flows through the mean": (
        layernorm,
        lambda d, c: c[1] * (d - c[0] * (d * c[0]).mean(axis=-1, keepdims=True)),
        (A,),
        "a term is missing or too many that is constant along axis 1: a mean or sum over that axis?",
    ),
    "repeats dropped": (
        lambda table, ids: (table[ids], (table.shape, ids)),
        lambda d, c: _assign(np.zeros(c[0]), c[1], d),
        (A, IDS),
        "wrong only in rows that several of ids name: add up repeats, as np.add.at does",
    ),
    "zero": (
        lambda x, y: (x * y, y),
        lambda d, y: (d * y, 0 * y),
        (A, A + 1),
        "the gradient is zero where it should not be",
    ),
    "a gradient through argmax": (
        lambda x: (x[np.argmax(x, axis=0), np.arange(4)] * 0 + 3, x),
        lambda d, x: np.broadcast_to(d, x.shape) * 1.0,
        (A,),
        "the gradient should be zero",
    ),
    "the first token left out": (
        lambda x: (np.sin(x), x),
        lambda d, x: np.concatenate((0 * d[:1], d[1:] * np.cos(x[1:]))),
        (A,),
        "lost: index 0 of axis 0 (the first of 6) is zero and should not be",
    ),
    "one element": (
        lambda x: (np.sin(x), x),
        lambda d, x: d * np.where(x == x.max(), 1, np.cos(x)),
        (A,),
        f"one element is wrong, at {tuple(int(i) for i in np.unravel_index(A.argmax(), A.shape))}: dout as it came",
    ),
    "a derivative by itself alone": (
        lambda q: (q @ q.T, q),
        lambda d, q: d @ q,
        (A,),
        OWN_ALONE.format(0),
    ),
    "softmax by its diagonal": (softmax, lambda d, p: d * p * (1 - p), (A,), OWN_ALONE.format(1)),
}


def _assign(zeros, ids, values):
    zeros[ids] = values
    return zeros


@pytest.mark.parametrize("name", REPORTED)
def test_a_slip_is_hinted_at_in_the_report(name):
    forward, backward, args, expected = REPORTED[name]
    report = check_backward(forward, backward, *args)
    (failed,) = [a for a in report.arguments if a.verdict == "fail"]
    assert failed.hint == expected
    assert (f"{failed.name}: hint: {expected}" in str(report)) == bool(expected)


def test_a_wrong_gradient_of_a_number_that_moves_an_array_fails_in_a_report():
    """Looking at which outputs it counts for raised, since an array of no axes has no indices."""
    report = check_backward(lambda a: (a * A, None), lambda dout, _: 1.01 * np.sum(dout * A), np.array(0.25))
    assert report.verdict == "fail"


def test_no_hint_where_all_is_right():
    report = check_backward(linear, linear_slip(), A, B, C)
    assert [a.hint for a in report.arguments] == ["", "", ""]
    assert "hint" not in str(report)


# --- the planted bugs: test_catch.py holds each hint to its words


def test_most_planted_bugs_get_a_right_hint():
    labelled = [example for example in BUGS if label(example) is not None]
    right = [example for example in labelled if label(example) and example.name not in MISSES]
    assert len(labelled) == 270  # those whose numbers are wrong; the rest break the contract alone
    assert len(right) >= 0.85 * len(labelled)


def test_labels_are_of_bugs():
    names = {example.name for example in BUGS}
    assert {f"{layer}: {slip}" for layer, slips in SLIPS.items() for slip in slips} <= names
    assert names >= MISSES
