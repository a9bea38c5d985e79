"""Arguments and outputs of every kind: trees, shapes, what is not floats, and what cannot be a gradient of them."""

from collections import namedtuple

import numpy as np
import pytest

from npgpt import check_backward

X = np.random.default_rng(7).standard_normal((3, 4))
W = np.random.default_rng(8).standard_normal(4)


# --- trees of arguments and outputs


def test_a_dict_of_parameters():
    def forward(x, params):
        return x @ params["weight"] + params["bias"], (x, params)

    def backward(dout, cache):
        x, params = cache
        return dout @ params["weight"].T, {"weight": x.T @ dout, "bias": dout.sum(axis=0)}

    params = {"weight": np.random.default_rng(1).standard_normal((4, 2)), "bias": np.ones(2)}
    report = check_backward(forward, backward, X, params)
    assert report.verdict == "pass"
    assert [a.name for a in report.arguments] == ["x", "params['weight']", "params['bias']"]

    def slip(dout, cache):
        dx, dparams = backward(dout, cache)
        return dx, dparams | {"bias": 2 * dparams["bias"]}

    verdicts = {a.name: a.verdict for a in check_backward(forward, slip, X, params).arguments}
    assert verdicts == {"x": "pass", "params['weight']": "pass", "params['bias']": "fail"}


def test_keys_of_a_gradient_in_another_order():
    report = check_backward(
        lambda p: (p["a"] * p["b"], p), lambda d, p: {"b": d * p["a"], "a": d * p["b"]}, {"a": W, "b": W + 1}
    )
    assert report.verdict == "pass"


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_single_argument_that_is_a_sequence(kind):
    def forward(pair):
        return pair[0] * pair[1], pair

    arguments = kind((W, W + 1))
    assert check_backward(forward, lambda d, p: kind((d * p[1], d * p[0])), arguments)
    assert check_backward(forward, lambda d, p: (kind((d * p[1], d * p[0])),), arguments)
    assert not check_backward(forward, lambda d, p: kind((d * p[1], d * p[1])), arguments)


def test_nested_arguments_and_outputs():
    def forward(tree, y):
        a, (b, c) = tree["a"], tree["bc"]
        return {"sum": a + b * y, "rest": [c * y, a * a]}, (a, b, c, y)

    def backward(dout, cache):
        a, b, c, y = cache
        dsum, (dcy, daa) = dout["sum"], dout["rest"]
        return {"a": dsum + 2 * daa * a, "bc": (dsum * y, dcy * y)}, dsum * b + dcy * c

    report = check_backward(forward, backward, {"a": W, "bc": (W + 1, W - 1)}, 2 * W)
    assert report.verdict == "pass"
    assert [a.name for a in report.arguments] == ["tree['a']", "tree['bc'][0]", "tree['bc'][1]", "y"]


def test_a_named_tuple():
    Params = namedtuple("Params", "a b")
    report = check_backward(lambda p: (p.a * p.b, p), lambda d, p: Params(d * p.b, d * p.a), Params(W, W + 1))
    assert report.verdict == "pass"


def test_ids_and_none_within_a_tree_are_left_alone():
    def forward(batch):
        return batch["table"][batch["ids"]], batch

    def backward(dout, batch):
        return {"ids": None, "table": np.bincount(batch["ids"], dout, len(batch["table"])), "nothing": None}

    report = check_backward(forward, backward, {"ids": np.array([0, 2, 2]), "table": W, "nothing": None})
    assert report.verdict == "pass"
    assert [a.name for a in report.arguments] == ["batch['table']"]


def test_none_for_a_floating_argument_fails_and_wrt_leaves_it_out():
    def forward(x, scale):
        return x * scale, scale

    def backward(dout, scale):
        return dout * scale, None

    report = check_backward(forward, backward, W, W + 1)
    assert [a.verdict for a in report.arguments] == ["pass", "fail"]
    assert report.arguments[1].reason == "backward returned None"
    assert check_backward(forward, backward, W, W + 1, wrt="x").verdict == "pass"


def test_none_for_a_branch_fails_for_all_its_leaves():
    report = check_backward(
        lambda x, p: (x * p["a"] * p["b"], (x, p)),
        lambda d, c: (d * c[1]["a"] * c[1]["b"], None),
        *(W, {"a": W, "b": W}),
    )
    assert [a.verdict for a in report.arguments] == ["pass", "fail", "fail"]


@pytest.mark.parametrize(
    "gradient",
    [
        lambda d: {"b": d},
        lambda d: {"a": d, "b": d},
        lambda d: d,
        lambda d: {"a": {"a": d}},
        lambda d: [d],
    ],
)
def test_a_gradient_of_another_structure_names_the_argument(gradient):
    with pytest.raises(ValueError, match="the gradient of params does not have the structure of its argument"):
        check_backward(lambda x, params: (x * params["a"], None), lambda d, _: (d, gradient(d)), W, {"a": W})


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (lambda x: x, "ndarray"),
        (lambda x: [x, x], "list"),
        (lambda x: (x, x, x), "3 values"),
        (lambda x: None, "NoneType"),
    ],
)
def test_a_forward_that_returns_no_pair(returned, named):
    with pytest.raises(TypeError, match=f"forward must return a pair, .out, cache., but returned {named}"):
        check_backward(returned, lambda d, c: d, W)


@pytest.mark.parametrize("result", [lambda d: (), lambda d: (d, d), lambda d: (d, d, d, d)])
def test_a_backward_with_too_few_or_too_many_gradients(result):
    with pytest.raises(
        ValueError, match=r"^backward returned \d gradients; expected 3, one for each argument of forward$"
    ):
        check_backward(lambda x, y, z: (x * y * z, None), lambda d, _: result(d), W, W, W)


def test_names_that_are_too_few():
    with pytest.raises(ValueError, match="names"):
        check_backward(lambda x, y: (x * y, (x, y)), lambda d, c: (d * c[1], d * c[0]), W, W, names=["x"])


def test_an_argument_without_a_name():
    report = check_backward(lambda *args: (args[0] * args[1], args), lambda d, c: (d * c[1], d * c[0]), W, W + 1)
    assert [a.name for a in report.arguments] == ["args[0]", "args[1]"]


# --- arguments of every kind


def cube(x):
    return x**3, x


def cube_backward(dout, x):
    return 3 * dout * x * x


SHAPES = {
    "0-d": np.array(0.7),
    "a NumPy number": np.float64(0.7),
    "one element": np.array([0.7]),
    "one element, three axes": np.full((1, 1, 1), 0.7),
    "empty": np.zeros((0,)),
    "empty, two axes": np.zeros((3, 0)),
    "Fortran order": np.asfortranarray(X),
    "every second row, backwards": np.repeat(X, 2, axis=0)[::-2],
    "transposed": X.T,
    "broadcast": np.broadcast_to(W, (3, 4)),
    "float32": X.astype(np.float32),
    "long double": X.astype(np.longdouble),
    "big-endian": X.astype(">f8"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_arguments_of_every_kind(name):
    x = SHAPES[name]
    before = np.array(x)
    report = check_backward(cube, cube_backward, x)
    assert report.verdict == "pass", str(report)
    assert report.arguments[0].shape == np.shape(x)
    np.testing.assert_array_equal(x, before)
    if np.size(x):
        assert check_backward(cube, lambda d, x: cube_backward(d, x) * 1.001, x).verdict == "fail"


def test_a_read_only_argument():
    x = X.copy()
    x.flags.writeable = False
    assert check_backward(cube, cube_backward, x).verdict == "pass"


@pytest.mark.parametrize(
    "other", [np.array([0, 2, 1, 3]), W > 0, 3, 2.5, None, "name", np.int64(2), np.zeros(0, int), object()]
)
def test_what_is_not_floats_is_handed_on_as_it_is(other):
    seen = []

    def forward(x, other):
        seen.append(other)
        return x * x, x

    report = check_backward(forward, lambda d, x: (2 * d * x, None), W, other)
    assert report.verdict == "pass"
    assert [a.name for a in report.arguments] == ["x"]
    assert {type(value) for value in seen} == {type(other)}
    if isinstance(other, np.ndarray):
        assert {value.dtype for value in seen} == {other.dtype}


def test_an_output_that_is_not_floats_gets_a_dout_of_zeros():
    douts = []

    def backward(dout, x):
        douts.append(dout[1])
        return 2 * dout[0]

    assert check_backward(lambda x: ((2 * x, np.argsort(x)), x), backward, W)
    assert douts
    assert not np.any(douts)


def test_an_output_that_is_empty_has_a_gradient_of_zeros():
    assert check_backward(lambda x: (x[:0], x), lambda d, x: np.zeros_like(x), W).verdict == "pass"
    assert check_backward(lambda x: (x[:0], x), lambda d, x: np.ones_like(x), W).verdict == "fail"


def test_broadcasting_arguments():
    def forward(x, w, c):
        return x * w + c, (x, w)

    def backward(dout, cache):
        x, w = cache
        return dout * w, (dout * x).sum(axis=0), dout.sum()

    assert check_backward(forward, backward, X, W, np.array(0.3)).verdict == "pass"
    report = check_backward(forward, lambda d, c: (d * c[1], d * c[0], d.sum()), X, W, np.array(0.3))
    assert [a.verdict for a in report.arguments] == ["pass", "fail", "pass"]
    assert "sum it over axis 0" in str(report)


def test_the_same_array_twice():
    assert check_backward(lambda x, y: (x * y, (x, y)), lambda d, c: (d * c[1], d * c[0]), W, W).verdict == "pass"
