"""The hints: each slip's pattern is named, the plain before the general, and a gradient without a pattern gets none."""

import numpy as np
import pytest

from npgpt import check_backward
from npgpt.gradcheck.hints import hint, shape_hint

RNG = np.random.default_rng(11)
X = RNG.standard_normal((5, 7))
SQUARE = RNG.standard_normal((6, 6))


def of(analytic, numeric=X, args=()):
    """Return the hint for a gradient, wrong where it differs."""
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(analytic - numeric) <= 1e-12)
    return hint(analytic, numeric, wrong, args)


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
    7.0: "7 (7 is the size of an axis, or of the array) times",
    1 / 5: "1/5 (5 is the size of an axis, or of the array) times",
    1 / 7: "1/7 (7 is the size of an axis, or of the array) times",
    1 / 35: "1/35 (35 is the size of an axis, or of the array) times",
    np.sqrt(7): "sqrt(7) (7 is the size of an axis, or of the array) times",
    1 / np.sqrt(35): "1/sqrt(35) (35 is the size of an axis, or of the array) times",
    1 / np.sqrt(2): "1/sqrt(2) times",
    1 / 12: "1/12 times",
    1.001: "1.001 times",
    0.123456: "0.123456 times",
}


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_is_named(factor):
    assert of(factor * X) == f"every element is {FACTORS[factor]} what it should be"


PATTERNS = {
    "zero": (0 * X, X, "the gradient is zero where it should not be"),
    "should be zero": (X, 0 * X, "the gradient should be zero"),
    "NaN": (changed((2, 3), np.nan), X, "the gradient is not finite"),
    "infinity": (changed((2, 3), np.inf), X, "the gradient is not finite"),
    "transposed": (SQUARE.T, SQUARE, "it is transposed: the right numbers in the wrong places"),
    "transposed and reshaped": (
        X.T.reshape(5, 7),
        X,
        "it is transposed and reshaped: the right numbers in the wrong places",
    ),
    "rows reversed": (X[::-1], X, "it is reversed along axis 0"),
    "columns reversed": (X[:, ::-1], X, "it is reversed along axis 1"),
    "shuffled": (RNG.permutation(X.ravel()).reshape(X.shape), X, "the right numbers in the wrong places"),
    "rolled": (np.roll(X, 1, axis=1), X, "the right numbers in the wrong places"),
    "a mean over the columns is missing": (
        X + X.mean(axis=1, keepdims=True),
        X,
        "a term is missing or too many that is constant along axis 1: a mean or sum over that axis?",
    ),
    "a mean over the rows is missing": (
        X - X.mean(axis=0),
        X,
        "a term is missing or too many that is constant along axis 0: a mean or sum over that axis?",
    ),
    "a constant in a vector": (
        X[0] + 0.5,
        X[0],
        "a term is missing or too many that is constant along axis 0: a mean or sum over that axis?",
    ),
    "only the diagonal is right": (
        np.where(np.eye(6) == 1, SQUARE, SQUARE**2),
        SQUARE,
        "only the diagonal is right",
    ),
    "only the diagonal is right, the rest is zero": (np.diag(np.diag(SQUARE)), SQUARE, "only the diagonal is right"),
    "only the diagonal is wrong": (SQUARE + np.diag(RNG.standard_normal(6)), SQUARE, "only the diagonal is wrong"),
    "one element": (changed((2, 3), 9.0), X, "one element is wrong, at (2, 3)"),
    "the first row": (
        changed(0, RNG.standard_normal(7)),
        X,
        "all wrong elements are at index 0 of axis 0 (the first of 5)",
    ),
    "the last column": (
        changed(np.s_[:, 6], RNG.standard_normal(5)),
        X,
        "all wrong elements are at index 6 of axis 1 (the last of 7)",
    ),
    "a row within": (changed(2, RNG.standard_normal(7)), X, "all wrong elements are at index 2 of axis 0 (one of 5)"),
    "twice in scattered places": (
        np.where(np.arange(35).reshape(5, 7) % 3 == 0, 2 * X, X),
        X,
        "the wrong elements are 2 times what they should be",
    ),
    "zero in scattered places": (
        np.where(np.arange(35).reshape(5, 7) % 3 == 0, 0, X),
        X,
        "the wrong elements are 0 times what they should be",
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_named(name):
    analytic, numeric, expected = PATTERNS[name]
    assert of(analytic, numeric) == expected


def test_repeats_are_named_with_ids_among_the_arguments():
    ids = np.array([1, 3, 3, 4, 4])
    wrong = X.copy()
    wrong[3] = RNG.standard_normal(7)
    expected = "only rows that several ids name are wrong: add up repeats, as np.add.at does"
    assert of(wrong, args=[ids]) == expected
    assert of(wrong, args=[None, 3, X, ids]) == expected
    wrong[1] = RNG.standard_normal(7)  # a row that one id alone names: it must be something else
    assert of(wrong, args=[ids]) != expected


@pytest.mark.parametrize("ids", [np.array([0, 1, 2]), np.array([3, 3, 99]), np.array([-1, 3, 3]), np.zeros(0, int)])
def test_repeats_are_not_named_where_ids_do_not_repeat_or_are_no_rows(ids):
    wrong = changed(3, RNG.standard_normal(7))
    assert "repeats" not in of(wrong, args=[ids])


@pytest.mark.parametrize("seed", range(200))
def test_a_random_gradient_has_no_pattern(seed):
    rng = np.random.default_rng(seed)
    for shape in ((4,), (3, 4), (4, 4), (2, 3, 5)):
        numeric, analytic = rng.standard_normal((2, *shape))
        assert of(analytic, numeric, [np.array([0, 1, 1])]) == ""


def test_a_factor_of_two_is_called_two():
    """An axis of 4 makes sqrt(4) another reading, and a rarer one."""
    assert of(SQUARE[:4] / 2, SQUARE[:4]).startswith("every element is 1/2 ")
    assert of(SQUARE[:4] * 2, SQUARE[:4]).startswith("every element is 2 ")


def test_a_factor_that_is_nearly_one_is_told_from_it():
    assert of(1.000001 * X) == "every element is 1.000001 times what it should be"


@pytest.mark.parametrize("seed", range(100, 150))  # not that of X itself
def test_an_error_that_is_added_at_random_has_no_pattern(seed):
    rng = np.random.default_rng(seed)
    for size in (1e-6, 1e-3, 1.0):
        assert of(X + size * rng.standard_normal(X.shape)) == ""
        some = rng.random(X.shape) < 0.5
        some[0, 0] = some[1, 1] = some[0, 1] = True
        assert of(X + size * some * rng.standard_normal(X.shape)) == ""


def test_two_elements_alone_prove_no_factor():
    """Any two numbers in one row are 'at one index of an axis', but not by chance in a ratio."""
    wrong = X.copy()
    wrong[0, 1] += 0.3
    wrong[3, 4] -= 0.7
    assert of(wrong) == ""


def test_one_number_is_named_by_its_factor_alone():
    """Of a gradient of one element no more is known than its ratio."""
    assert of(np.array([3.0]), np.array([1.0])) == "every element is 3 times what it should be"
    assert of(np.array(2.0), np.array(1.0)) == "every element is 2 times what it should be"


def test_what_was_not_looked_at_proves_nothing():
    numeric = X.copy()
    numeric[1:4] = np.nan
    wrong = np.zeros(X.shape, dtype=bool)
    wrong[[0, 4]] = True
    assert hint(2 * X, numeric, wrong, ()) == "every element is 2 times what it should be"
    # a transposed array cannot be known from a part of it
    assert "transposed" not in hint(np.roll(X, 2), numeric, wrong, ())


# --- shapes


@pytest.mark.parametrize(
    ("analytic", "shape", "expected"),
    [
        ((4, 3), (3, 4), "it has the transposed shape"),
        ((5, 3), (3,), "sum it over the leading axis 0"),
        ((2, 5, 3), (3,), "sum it over the leading axes 0, 1"),
        ((2, 5), (), "sum it over the leading axes 0, 1"),
        ((12,), (3, 4), "it has the right number of elements in another shape"),
        ((2, 3, 2), (3, 4), "it has the right number of elements in another shape"),
        ((3, 1), (3,), "it has the right number of elements in another shape"),
        ((1,), (), "sum it over the leading axis 0"),
        ((5, 4), (3,), ""),
        ((), (3,), ""),
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
SLIPS = {
    "a mean forgotten": (
        lambda x: (np.mean(x, axis=0), x.shape),
        lambda d, shape: np.broadcast_to(d, shape).copy(),
        (A,),
        "every element is 6 (6 is the size of an axis, or of the array) times what it should be",
    ),
    "a scale of attention forgotten": (
        lambda q, k: (q @ k.T / np.sqrt(3), (q, k)),
        lambda d, c: (d @ c[1], d.T @ c[0] / np.sqrt(3)),
        (RNG.standard_normal((6, 3)), RNG.standard_normal((4, 3))),
        "every element is sqrt(3) (3 is the size of an axis, or of the array) times what it should be",
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
    "bias not summed": (linear, linear_slip(bias=lambda d, x, w: d), (A, B, C), "sum it over the leading axis 0"),
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
        "only rows that several ids name are wrong: add up repeats, as np.add.at does",
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
        "all wrong elements are at index 0 of axis 0 (the first of 6)",
    ),
    "one element": (
        lambda x: (np.sin(x), x),
        lambda d, x: d * np.where(x == x.max(), 1, np.cos(x)),
        (A,),
        f"one element is wrong, at {tuple(int(i) for i in np.unravel_index(A.argmax(), A.shape))}",
    ),
    "a derivative by itself alone": (
        lambda q: (q @ q.T, q),
        lambda d, q: d @ q,
        (A,),
        "",
    ),
    "softmax by its diagonal": (softmax, lambda d, p: d * p * (1 - p), (A,), ""),
}


def _assign(zeros, ids, values):
    zeros[ids] = values
    return zeros


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_hinted_at_in_the_report(name):
    forward, backward, args, expected = SLIPS[name]
    report = check_backward(forward, backward, *args)
    (failed,) = [a for a in report.arguments if a.verdict == "fail"]
    assert failed.hint == expected
    assert (f"{failed.name}: hint: {expected}" in str(report)) == bool(expected)


def test_no_hint_where_all_is_right():
    report = check_backward(linear, linear_slip(), A, B, C)
    assert [a.hint for a in report.arguments] == ["", "", ""]
    assert "hint" not in str(report)
