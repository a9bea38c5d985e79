"""What a check does not look at is said; numbers and fields of dataclasses that have a gradient are looked at."""

import dataclasses
import json
import math
from collections import OrderedDict, defaultdict, deque, namedtuple
from enum import Enum

import numpy as np
import pytest

from npgpt.gradcheck import check_backward
from npgpt.gradcheck.tree import leaf_at, leaves, map_leaves, same_structure

rng = np.random.default_rng(0)
X = rng.standard_normal((3, 4))
W = rng.standard_normal((3, 4))
IDS = np.array([0, 2, 1, 1])
Z = X + 1j * W


def scaled(x, scale):
    return x * scale, (x, scale)


def scaled_backward(dout, cache):
    x, scale = cache
    return dout * scale, (dout * x).sum()


def double(x, *others):
    return 2 * x, len(others)


def double_backward(dout, count):
    return dout * 2


def unseen(report):
    return [str(one) for one in report.not_checked]


# --- arguments that have no gradient


class Colour(Enum):
    RED = 1


@dataclasses.dataclass
class Derived:
    """A dataclass with a field that its __init__ does not take."""

    w: np.ndarray
    norm: float = dataclasses.field(init=False, default=2.0)


class Plain:
    w = X


# kind: (argument, what is said of it, whether it could have had a gradient)
OTHERS = {
    "an array of integers": (IDS, "other (int64): integers have no gradient", False),
    "an integer": (3, "other (int): integers have no gradient", False),
    "a NumPy integer": (np.int32(3), "other (int32): integers have no gradient", False),
    "an array of booleans": (X > 0, "other (bool): booleans have no gradient", False),
    "a boolean": (True, "other (bool): booleans have no gradient", False),
    "a string": ("relu", "other (str): it holds no floats", False),
    "None": (None, "other (None): it holds no floats", False),
    "a function": (np.tanh, "other (ufunc): it holds no floats", False),
    "a lambda": (lambda x: x, "other (function): it holds no floats", False),
    "a type": (float, "other (type): it holds no floats", False),
    "a member of an enumeration": (Colour.RED, "other (Colour): it holds no floats", False),
    "a date": (np.datetime64("2026-01-01"), "other (datetime64[D]): it holds no floats", False),
    "a generator": (np.random.default_rng(0), "other (Generator): it holds no floats", False),
    "a float": (0.5, "other (float): the output does not move with it", False),
    "a NumPy float": (np.float64(0.5), "other (float64): the output does not move with it", False),
    "a complex number": (1j, "other (complex): the output does not move with it", False),
    "an array of objects": (np.array([0.5, None]), "other (object): what it holds is not looked at", True),
    "an array of records": (
        np.zeros(2, [("a", float)]),
        "other ([('a', '<f8')]): what it holds is not looked at",
        True,
    ),
    "a deque": (deque([X]), "other (deque): what it holds is not looked at", True),
    "an object": (Plain(), "other (Plain): what it holds is not looked at", True),
    "a dataclass that cannot be made again": (Derived(X), "other (Derived): what it holds is not looked at", True),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("returned", ["only one", "None"])
def test_an_argument_that_is_not_looked_at_is_named(kind, returned):
    other, said, differentiable = OTHERS[kind]
    backward = double_backward if returned == "only one" else lambda d, _: (2 * d, None)
    report = check_backward(lambda x, other: (2 * x, 0), backward, X, other)
    assert report.verdict == "pass"
    assert unseen(report) == [said]
    assert f"not checked: {said}" in str(report)
    strict = check_backward(lambda x, other: (2 * x, 0), backward, X, other, strict=True)
    assert strict.verdict == ("inconclusive" if differentiable else "pass")


def test_arguments_left_out_by_wrt_are_named():
    def forward(x, w, z, s):
        return x * w * z.real * s, (x, w, z, s)

    report = check_backward(forward, lambda d, c: d * c[1] * c[2].real * c[3], X, W, Z, 0.5, wrt="x")
    assert report.verdict == "pass"
    assert unseen(report) == [
        "w (float64): left out by wrt",
        "z (complex128): left out by wrt",
        "s (float): left out by wrt",
    ]


def test_an_integer_for_which_a_gradient_comes_back_is_named():
    report = check_backward(scaled, scaled_backward, X, 2)
    assert unseen(report) == ["scale (int): a gradient came back for it; make it floats to have that checked"]
    assert check_backward(scaled, scaled_backward, X, 2, strict=True).verdict == "inconclusive"
    assert check_backward(scaled, scaled_backward, X, 2.0, strict=True).verdict == "pass"


@pytest.mark.parametrize("nothing", [None, 0, 0.0, np.zeros(4), IDS, np.zeros(4, [("float0", "V1")])])
def test_zero_or_the_ids_themselves_are_no_gradient_of_ids(nothing):
    """JAX returns its float0 for integers, and dataclasses.replace leaves a field as it was."""
    report = check_backward(lambda x, ids: (x[:, ids], None), lambda d, _: (_gathered(d), nothing), X, IDS, strict=True)
    assert report.verdict == "pass"
    assert unseen(report) == ["ids (int64): integers have no gradient"]


def _gathered(dout):
    dx = np.zeros_like(X)
    np.add.at(dx, (slice(None), IDS), dout)
    return dx


def test_arrays_without_elements_are_named():
    report = check_backward(lambda x, y: (x * 2, y), lambda d, y: (2 * d, y), X, np.zeros((0, 3)), strict=True)
    assert report.verdict == "pass"
    assert unseen(report) == ["y (float64): it has no elements"]


def test_many_that_are_alike_make_one_line():
    report = check_backward(double, double_backward, X, list(range(1000)), {"a": "b"})
    assert unseen(report) == [
        "args[1][0] to args[1][999], 1000 in all (int): integers have no gradient",
        "args[2]['a'] (str): it holds no floats",
    ]


def test_nothing_is_said_where_all_is_looked_at():
    report = check_backward(lambda x, w: (x * w, (x, w)), lambda d, c: (d * c[1], d * c[0]), X, W, strict=True)
    assert report.not_checked == ()
    assert "not checked" not in str(report) + report.to_html()


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("kind", [lambda x: np.ma.masked_array(x, mask=x > 0), lambda x: np.matrix(x)])
def test_arrays_that_forward_would_not_get_as_they_are_are_refused(kind):
    with pytest.raises(TypeError, match=r"params\['w'\] is a (MaskedArray|matrix), which"):
        check_backward(lambda x, params: (x * 2, None), lambda d, _: (2 * d, None), X, {"w": kind(X)})


# --- outputs


def test_outputs_that_are_not_floats_are_named():
    def forward(x):
        return {"y": x * x, "top": x.argmax(), "mask": x > 0, "state": None, "name": "y", "extra": Plain()}, x

    seen = []

    def backward(dout, x):
        seen.append(dout)
        return 2 * x * dout["y"]

    report = check_backward(forward, backward, X)
    assert report.verdict == "pass"
    assert unseen(report) == [
        "out['top'] (int64): integers have no gradient",
        "out['mask'] (bool): booleans have no gradient",
        "out['state'] (None): it holds no floats",
        "out['name'] (str): it holds no floats",
        "out['extra'] (Plain): what it holds is not looked at",
    ]
    for dout in seen:
        assert not np.any(dout["top"])
        assert not np.any(dout["mask"])
        assert (dout["state"], dout["name"], dout["extra"]) == (None, None, None)
    assert check_backward(forward, lambda d, x: x * d["y"], X).verdict == "fail"
    assert check_backward(forward, backward, X, strict=True).verdict == "inconclusive"


def test_none_among_outputs_does_not_make_strict_useless():
    forward, backward = lambda x: ((x * x, None), x), lambda d, x: 2 * x * d[0]
    assert check_backward(forward, backward, X, strict=True).verdict == "pass"
    assert check_backward(forward, lambda d, x: x * d[0], X).verdict == "fail"


def test_a_dout_may_be_given_beside_outputs_of_none():
    forward, backward = lambda x: ((x * x, None), x), lambda d, x: 2 * x * d[0]
    assert check_backward(forward, backward, X, dout=(W, None)).verdict == "pass"


# --- numbers


@pytest.mark.parametrize("scale", [0.7, np.float64(0.7), np.float32(0.75)])
def test_a_number_is_checked_if_a_gradient_comes_back_for_it(scale):
    assert check_backward(scaled, scaled_backward, X, scale, strict=True).verdict == "pass"
    report = check_backward(scaled, lambda d, c: (d * c[1], 2 * (d * c[0]).sum()), X, scale)
    assert [a.verdict for a in report.arguments] == ["pass", "fail"]
    report = check_backward(scaled, lambda d, c: (d * c[1], d * c[0]), X, scale)
    assert [a.verdict for a in report.arguments] == ["pass", "fail"]
    assert report.arguments[1].reason == "the gradient's shape (3, 4) is not the argument's ()"


@pytest.mark.parametrize(("scale", "kinds"), [(0.7, {float, complex}), (np.float64(0.7), {np.float64, np.complex128})])
def test_a_number_reaches_forward_as_what_it_was(scale, kinds):
    seen = set()

    def forward(x, scale):
        seen.add(type(scale))
        return scaled(x, scale)

    report = check_backward(forward, scaled_backward, X, scale)
    assert [a.method for a in report.arguments] == ["complex step", "complex step"]
    assert seen == kinds


def test_a_forward_that_takes_only_real_numbers_is_differentiated_by_differences():
    def backward(dout, cache):
        x, scale = cache
        return dout * math.sqrt(scale), 0.5 * (dout * x).sum() / math.sqrt(scale)

    report = check_backward(lambda x, scale: (x * math.sqrt(scale), (x, scale)), backward, X, 0.7)
    assert report.verdict == "pass", str(report)
    assert [a.method for a in report.arguments] == ["differences", "differences"]


def test_a_python_float_is_not_rounded_to_float32():
    seen = set()

    def forward(x, eps):
        seen.add(eps)
        return x / (1 + eps), eps

    assert check_backward(forward, lambda d, eps: (d / (1 + eps), None), X, 0.1, dtype=np.float32).verdict == "pass"
    assert 0.1 in seen
    assert float(np.float32(0.1)) not in seen


def test_numbers_may_be_all_that_there_is():
    assert check_backward(lambda a: (a * a, a), lambda d, a: 2 * d * a, 0.7).verdict == "pass"
    assert check_backward(lambda a: (a * a, a), lambda d, a: d * a, 0.7).verdict == "fail"
    report = check_backward(lambda a, b: (a * b, (a, b)), lambda d, c: (d * c[1], None), 0.7, 0.2)
    assert unseen(report) == ["b (float): no gradient came back for it"]
    nothing = check_backward(lambda a: (a * a, a), lambda d, a: None, 0.7)
    assert nothing.arguments[0].reason == "backward returned None"


def test_a_number_that_wrt_names_must_have_a_gradient():
    report = check_backward(scaled, lambda d, c: (d * c[1], None), X, 0.7, wrt=["x", "scale"])
    assert [a.verdict for a in report.arguments] == ["pass", "fail"]
    only = check_backward(scaled, lambda d, c: (d * c[0]).sum(), X, 0.7, wrt="scale")
    assert only.verdict == "pass"
    assert unseen(only) == ["x (float64): left out by wrt"]


def test_gradients_of_the_arrays_alone_or_of_all_floats():
    def forward(ids, x, scale):
        return x[:, ids] * scale, (x[:, ids], scale)

    dx = lambda d, c: _gathered(d * c[1])  # noqa: E731
    dscale = lambda d, c: (d * c[0]).sum()  # noqa: E731
    for backward, count in (
        (dx, 1),
        (lambda d, c: (dx(d, c), dscale(d, c)), 2),
        (lambda d, c: (None, dx(d, c), dscale(d, c)), 2),
    ):
        report = check_backward(forward, backward, IDS, X, 0.7)
        assert report.verdict == "pass"
        assert len(report.arguments) == count
    wrong = check_backward(forward, lambda d, c: (dx(d, c), -dscale(d, c)), IDS, X, 0.7)
    assert [a.verdict for a in wrong.arguments] == ["pass", "fail"]


def test_python_zero_is_a_gradient_of_a_number():
    report = check_backward(lambda x, s: (x + 0 * s, None), lambda d, _: (d, 0), X, 0.7)
    assert report.verdict == "pass"
    assert len(report.arguments) == 2
    assert check_backward(scaled, lambda d, c: (d * c[1], 0), X, 0.7).verdict == "fail"


def test_a_float_array_without_a_gradient_fails_as_ever():
    report = check_backward(
        lambda x, w, s: (x * w * s, (x, w, s)), lambda d, c: (d * c[1] * c[2], None, None), X, W, 0.5
    )
    assert [a.verdict for a in report.arguments] == ["pass", "fail"]
    assert report.arguments[1].reason == "backward returned None"


# --- dicts, namedtuples and dataclasses


def layer(x, params):
    return x * params["w"] / params["eps"], (x, params)


def test_a_key_without_a_gradient():
    def without_eps(dout, cache):
        x, params = cache
        return dout * params["w"] / params["eps"], {"w": dout * x / params["eps"]}

    params = {"w": W, "eps": 0.1, "name": "layer"}
    report = check_backward(layer, without_eps, X, params)
    assert report.verdict == "pass"
    assert unseen(report) == [
        "params['eps'] (float): no gradient came back for it",
        "params['name'] (str): it holds no floats",
    ]
    report = check_backward(layer, lambda d, c: (without_eps(d, c)[0], {"eps": None}), X, params)
    assert [(a.name, a.verdict) for a in report.arguments] == [("x", "pass"), ("params['w']", "fail")]


def test_a_number_in_a_dict_is_checked_if_it_has_a_gradient():
    def backward(dout, cache, factor=1):
        x, params = cache
        w, eps = params["w"], params["eps"]
        return dout * w / eps, {"w": dout * x / eps, "eps": -factor * (dout * x * w).sum() / eps**2}

    assert check_backward(layer, backward, X, {"w": W, "eps": 0.1}).verdict == "pass"
    report = check_backward(layer, lambda d, c: backward(d, c, 2), X, {"w": W, "eps": 0.1})
    assert [a.verdict for a in report.arguments] == ["pass", "pass", "fail"]


@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda **p: defaultdict(list, p)])
def test_dicts_of_every_kind(kind):
    kinds = set()

    def forward(x, params):
        kinds.add(type(params))
        return layer(x, params)

    backward = lambda d, c: (d * c[1]["w"] / c[1]["eps"], {"w": d * c[0] / c[1]["eps"]})  # noqa: E731
    given = kind(w=W, eps=0.1)
    assert check_backward(forward, backward, X, given).verdict == "pass"
    assert kinds == {type(given)}


@dataclasses.dataclass(frozen=True)
class Params:
    w: np.ndarray
    scale: float = 0.5
    count: int = 3

    def __call__(self, x):
        return x * self.w * self.scale / self.count


@dataclasses.dataclass(slots=True, kw_only=True)
class Slots:
    w: object
    scale: float
    count: int = 3

    def __call__(self, x):
        return x * self.w * self.scale / self.count


class Named(namedtuple("Named", "w scale count")):
    def __call__(self, x):
        return x * self.w * self.scale / self.count


def gradients(dout, cache):
    x, p = cache
    return dout * p(1.0), {"w": dout * p.scale / p.count * x, "scale": (dout * p.w / p.count * x).sum(), "count": None}


FORMS = {
    "frozen": (Params(W), lambda g: Params(**g)),
    "slots": (Slots(w=W, scale=0.5), lambda g: Slots(**g)),
    "a dict for a dataclass": (Params(W), lambda g: g),
    "a dict without count": (Params(W), lambda g: {"w": g["w"], "scale": g["scale"]}),
    "another dataclass": (Params(W), lambda g: Slots(**g)),
    "namedtuple": (Named(W, 0.5, 3), lambda g: Named(**g)),
    "a tuple for a namedtuple": (Named(W, 0.5, 3), lambda g: (g["w"], g["scale"], None)),
}


@pytest.mark.parametrize("name", FORMS)
def test_fields_are_checked(name):
    p, form = FORMS[name]

    def backward(dout, cache, **factors):
        dx, g = gradients(dout, cache)
        return dx, form(g | {key: factor * g[key] for key, factor in factors.items()})

    report = check_backward(lambda x, p: (p(x), (x, p)), backward, X, p)
    assert report.verdict == "pass", str(report)
    assert [a.name for a in report.arguments] == ["x", "p.w", "p.scale"]
    assert unseen(report) == ["p.count (int): integers have no gradient"]
    for field, wrong in (("w", ["pass", "fail", "pass"]), ("scale", ["pass", "pass", "fail"])):
        report = check_backward(lambda x, p: (p(x), (x, p)), lambda d, c: backward(d, c, **{field: 2}), X, p)  # noqa: B023
        assert [a.verdict for a in report.arguments] == wrong


def test_fields_left_as_they_were_are_no_gradients():
    """dataclasses.replace(p, w=dw) hands the scale on as its own gradient."""
    backward = lambda d, c: (gradients(d, c)[0], dataclasses.replace(c[1], w=gradients(d, c)[1]["w"]))  # noqa: E731
    report = check_backward(lambda x, p: (p(x), (x, p)), backward, X, Params(W))
    assert [a.verdict for a in report.arguments] == ["pass", "pass", "fail"]
    assert unseen(report) == ["p.count (int): integers have no gradient"]


def test_outputs_may_be_a_dataclass():
    def backward(dout, cache):
        x, _ = cache
        assert isinstance(dout, Params)
        return 2 * x * dout.w + dout.scale

    forward = lambda x: (Params(x * x, x.sum()), (x, None))  # noqa: E731
    report = check_backward(forward, backward, X)
    assert report.verdict == "pass", str(report)
    assert unseen(report) == ["out.count (int): integers have no gradient"]
    assert check_backward(forward, lambda d, c: 2 * c[0] * d.w, X).verdict == "fail"


def test_a_dataclass_of_another_structure_names_the_argument():
    with pytest.raises(ValueError, match="the gradient of p does not have the structure of its argument"):
        check_backward(lambda x, p: (p(x), (x, p)), lambda d, c: (d, {"v": d}), X, Params(W))


def test_trees_with_dataclasses():
    tree = {"p": Params(1.0, [2.0, 3.0], 4), "q": Named(5.0, None, ())}
    names = ["['p'].w", "['p'].scale[0]", "['p'].scale[1]", "['p'].count", "['q'].w", "['q'].scale"]
    assert [name for name, _ in leaves(tree)] == names
    doubled = map_leaves(lambda leaf: leaf and 2 * leaf, tree)
    assert doubled == {"p": Params(2.0, [4.0, 6.0], 8), "q": Named(10.0, None, ())}
    assert same_structure(tree, {"p": {"scale": [0, 0]}})
    assert not same_structure(tree, {"p": {"bias": 0}})
    assert list(leaf_at(tree, {"p": {"scale": [7, 8]}})) == [None, 7, 8, None, None, None]


# --- where it is said


def test_what_is_not_checked_is_in_every_form_of_the_report():
    report = check_backward(lambda x, ids, s: (x[:, ids] * s, s), lambda d, s: _gathered(d * s), X, IDS, 0.7)
    line = "not checked: ids (int64): integers have no gradient; s (float): no gradient came back for it"
    assert line in str(report).splitlines()
    found = json.loads(report.to_json())["not_checked"]
    assert found[0] == {"name": "ids", "kind": "int64", "reason": "integers have no gradient", "differentiable": False}
    assert [one["differentiable"] for one in found] == [False, True]
    page = report.to_html()
    assert '<div class="unchecked"><h2>Not checked</h2><ul><li>ids (int64): integers have no gradient</li>' in page
    assert "<li>s (float): no gradient came back for it</li>" in page
    assert page.count("integers have no gradient") == 1


def test_strict_says_what_it_misses():
    report = check_backward(scaled, lambda d, c: (d * c[1], None), X, 0.7, strict=True)
    assert (report.verdict, bool(report)) == ("inconclusive", False)
    assert "strict: inconclusive, because these were not looked at: scale" in str(report).splitlines()
    assert json.loads(report.to_json())["strict"] is True


def test_strict_does_not_soften_a_failure():
    report = check_backward(scaled, lambda d, c: (2 * d * c[1], None), X, 0.7, strict=True)
    assert report.verdict == "fail"
