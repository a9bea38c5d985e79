"""What is dead: whole arrays, rows, columns and elements; what is detached; and what is neither."""

import numpy as np
import pytest

from npgpt.gradcheck import find_dead
from npgpt.gradcheck.dead import which

RNG = np.random.default_rng(35)
X = RNG.standard_normal((7, 3))
W1, B1 = RNG.standard_normal((3, 5)), np.array([0.1, -50.0, 0.2, -0.1, -60.0])
W2 = RNG.standard_normal((5, 2))
IDS = np.array([[4, 1], [4, 2]])
TABLE = RNG.standard_normal((6, 3))


def mlp_forward(x, w1, b1, w2):
    h = np.maximum(x @ w1 + b1, 0)
    return h @ w2, (x, w1, h, w2)


def mlp_backward(dout, cache):
    x, w1, h, w2 = cache
    dz = (dout @ w2.T) * (h > 0)
    return dz @ w1.T, x.T @ dz, dz.sum(axis=0), h.T @ dout


def verdicts(report):
    return {a.name: a.verdict for a in report.arguments}


def dead(report):
    return {a.name: a.analytic for a in report.arguments if a.analytic > 0}


def test_nothing_dead_passes_without_notes():
    report = find_dead(mlp_forward, mlp_backward, X, W1, np.abs(B1), W2)  # all units are on somewhere
    assert report, report
    assert report.notes == ()
    assert dead(report) == {}
    assert [a.name for a in report.arguments] == ["x", "w1", "b1", "w2", "out"]


def test_dead_relus_are_columns_elements_and_rows():
    report = find_dead(mlp_forward, mlp_backward, X, W1, B1, W2)
    assert report, report
    assert report.notes[1:-1] == (
        "w1: the gradient of columns 1, 4 is zero",
        "b1: the gradient of elements (1), (4) is zero",
        "w2: the gradient of rows 1, 4 is zero",
    )
    assert {"w1": 6, "b1": 2, "w2": 4}.items() <= dead(report).items()
    assert report.arguments[1].relative_error == 6 / 15


def embed(ids, table):
    return table[ids], (ids, table.shape)


def embed_backward(dout, cache):
    ids, shape = cache
    dtable = np.zeros(shape)
    np.add.at(dtable, ids, dout)
    return dtable


def test_embeddings_that_no_id_names_are_rows():
    report = find_dead(embed, embed_backward, IDS, TABLE)
    assert report, report
    assert report.notes == ("table: the gradient of rows 0, 3, 5 is zero",)


def test_an_argument_that_nothing_depends_on_is_inconclusive():
    report = find_dead(lambda x, y: (x * x, x), lambda dout, x: (2 * dout * x, None), X, W1)
    assert verdicts(report) == {"x": "pass", "y": "inconclusive", "out": "pass"}
    assert report.arguments[1].reason == "no output depends on it"


def test_a_bias_before_batch_norm_is_dead_but_for_rounding():
    def forward(x, bias):
        y = x + bias
        centred = y - y.mean(axis=0)
        rstd = 1 / np.sqrt((centred**2).mean(axis=0))
        return centred * rstd, (centred * rstd, rstd)

    def backward(dout, cache):
        xhat, rstd = cache
        dx = rstd * (dout - dout.mean(axis=0) - xhat * (dout * xhat).mean(axis=0))
        return dx, dx.sum(axis=0)

    report = find_dead(forward, backward, X, W1[:, 0])
    assert verdicts(report) == {"x": "pass", "bias": "inconclusive", "out": "pass"}
    assert report.arguments[1].reason == "no output depends on it"


@pytest.mark.parametrize("gradient", [None, 0.0])
def test_a_detached_argument_fails(gradient):
    def backward(dout, cache):
        w = cache[1]
        return dout @ w.T, None if gradient is None else gradient * w

    report = find_dead(lambda x, w: (x @ w, (x, w)), backward, X, W1)
    assert verdicts(report) == {"x": "pass", "w": "fail", "out": "pass"}
    assert report.arguments[1].reason == "its gradient is zero, but outputs move in proportion: it is detached"


def test_a_detached_row_fails():
    def backward(dout, cache):
        dx, dw1, db1, dw2 = mlp_backward(dout, cache)
        dw2[3] = 0
        return dx, dw1, db1, dw2

    report = find_dead(mlp_forward, backward, X, W1, np.abs(B1), W2)
    assert verdicts(report) == {"x": "pass", "w1": "pass", "b1": "pass", "w2": "fail", "out": "pass"}
    assert report.arguments[3].reason.startswith("the gradient of row 3 is zero, but outputs move in proportion")


def test_a_stopped_branch_of_nested_parameters_fails():
    params = {"a": W1, "rest": [W1 + 1, B1]}

    def forward(x, params):
        return x @ params["a"] + np.tanh(x @ params["rest"][0]) + params["rest"][1], (x, params)

    def backward(dout, cache):
        x, _ = cache
        return None, {"a": x.T @ dout, "rest": [np.zeros((3, 5)), dout.sum(axis=0)]}

    report = find_dead(forward, backward, X, params)
    assert verdicts(report) == {
        "x": "fail",
        "params['a']": "pass",
        "params['rest'][0]": "fail",
        "params['rest'][1]": "pass",
        "out": "pass",
    }


@pytest.mark.parametrize(
    ("forward", "backward", "x"),
    [
        (lambda x: (x * x, x), lambda dout, x: 2 * dout * x, np.zeros(4)),
        (lambda x: (x**3, x), lambda dout, x: 3 * dout * x * x, np.zeros(4)),
        (lambda x: (np.abs(x), x), lambda dout, x: dout * np.sign(x), np.zeros(4)),
        (lambda x: (np.maximum(x, 0), x), lambda dout, x: dout * (x > 0), np.zeros(4)),
        (lambda x: (np.maximum(x, 0), x), lambda dout, x: dout * (x > 0), np.full(4, -0.5)),
    ],
)
def test_stationary_points_and_kinks_are_not_detached(forward, backward, x):
    report = find_dead(forward, backward, x)
    assert report.arguments[0].verdict == "inconclusive", report
    assert "gradient is zero" in report.arguments[0].reason


def test_a_zero_factor_makes_the_other_one_dead():
    """As in a fresh LoRA, whose second matrix is zero."""
    forward = lambda x, a, b: (x @ a @ b, (x, a, b))  # noqa: E731

    def backward(dout, cache):
        x, a, b = cache
        return dout @ (a @ b).T, x.T @ dout @ b.T, (x @ a).T @ dout

    report = find_dead(forward, backward, X, W1, np.zeros((5, 2)))
    assert verdicts(report) == {"x": "inconclusive", "a": "inconclusive", "b": "pass", "out": "pass"}


def test_outputs_that_nothing_moves_are_counted():
    mask = np.arange(3) < 2

    def forward(x):
        return (np.where(mask, x, -np.inf), {"constant": np.ones(4)}, x.argmax()), None

    report = find_dead(forward, lambda dout, cache: np.where(mask, dout[0], 0), X)
    assert verdicts(report) == {"x": "pass", "out[0]": "pass", "out[1]['constant']": "inconclusive"}
    assert report.notes == ("x: the gradient of column 2 is zero", "out[0]: no argument moves column 2")
    assert report.arguments[2].reason == "no argument moves it"
    assert [u.name for u in report.not_checked] == ["out[2]"]


def test_what_is_random_or_nan_is_inconclusive():
    report = find_dead(lambda x: (x * np.random.default_rng().random(), x), lambda dout, x: dout, X)
    assert {a.reason for a in report.arguments} == {"two calls of forward differ: seed what is random in it"}
    report = find_dead(lambda x: (x * np.nan, x), lambda dout, x: dout * np.nan, X)
    assert {a.reason for a in report.arguments} == {"an output is NaN at these arguments"}


def test_a_gradient_of_nan_is_not_zero():
    report = find_dead(lambda x: (x * x, x), lambda dout, x: dout * np.nan, X)
    assert dead(report) == {}


def test_mistakes_are_told():
    with pytest.raises(TypeError, match="forward must return a pair"):
        find_dead(lambda x: x, lambda dout, cache: dout, X)
    with pytest.raises(ValueError, match=r"the gradient of x is \(3, 7\), and x \(7, 3\)"):
        find_dead(lambda x: (x, None), lambda dout, cache: dout.T, X)
    with pytest.raises(ValueError, match="no argument is an array of floats"):
        find_dead(lambda ids: (TABLE[ids], None), lambda dout, cache: None, IDS)


def test_the_table_counts_dead_elements():
    text = str(find_dead(embed, embed_backward, IDS, TABLE))
    header, row = text.splitlines()[:2]
    assert header.split()[-3:] == ["dead", "elements", "ratio"]
    assert row.split()[-3:] == ["9", "18", "0.5"]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ([[True, True], [True, False]], "row 0 and column 0"),
        ([[False, True, True], [False, False, True]], "column 2 and element (0, 1)"),
        (np.eye(3, dtype=bool), "elements (0, 0), (1, 1), (2, 2)"),
        (np.arange(30) > 10, "elements (11), (12), (13), (14), (15), (16), (17), (18) and 11 more"),
        (np.broadcast_to(np.arange(4) % 2 == 0, (2, 3, 4)), "indices 0, 2 of axis 2"),
    ],
)
def test_what_is_dead_is_said_in_words(mask, words):
    assert which(np.array(mask)) == words
