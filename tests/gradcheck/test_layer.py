"""Checks of layers that are objects."""

import numpy as np
import pytest

from npgpt.gradcheck import check_layer

from .layers import BIAS, RNG, STYLES, WEIGHT, Attributes, Book, BookModel, Children, Dicts, Flat, Sigmoid, X

ALL_PASS = {"input": "pass", "W": "pass", "b": "pass"}


def verdicts(report):
    return {argument.name: argument.verdict for argument in report.arguments}


@pytest.mark.parametrize("style", STYLES)
def test_a_right_layer_passes_with_all_its_parameters(style):
    make, accumulates, W, b, others = STYLES[style]
    report = check_layer(make(), X, accumulates=accumulates)
    assert verdicts(report) == dict.fromkeys(["input", W, b, *others], "pass"), str(report)
    assert report.verdict == "pass", str(report)
    assert report.not_checked == ()
    (note,) = report.notes
    assert note.startswith("parameters found: ")
    assert f"{W} (gradient: " in note


@pytest.mark.parametrize("style", STYLES)
def test_a_wrong_gradient_of_a_parameter_is_named(style):
    make, accumulates, W, b, others = STYLES[style]
    report = check_layer(make("wrong"), X, accumulates=accumulates)
    assert verdicts(report) == dict.fromkeys(["input", W, b, *others], "pass") | {W: "fail"}
    assert report.arguments[[a.name for a in report.arguments].index(W)].index == (1, 2)


@pytest.mark.parametrize("style", STYLES)
def test_a_missing_gradient_is_no_pass_and_is_named(style):
    make, accumulates, W, b, others = STYLES[style]
    report = check_layer(make("missing"), X, accumulates=accumulates)
    found = verdicts(report)
    assert found.pop(b) in ("fail", "inconclusive")
    assert found == dict.fromkeys(["input", W, *others], "pass")
    assert not report


# --- arrays in several places


class Tied:
    """One table as an embedding and, transposed, as the head, at unequal depths; each keeps its share of dW."""

    def __init__(self, share=1.0, whole=None):
        table = RNG.standard_normal((6, 3))
        self.embed, self.inner = Lookup(table), {"head": Head(table, share)}
        self.whole = whole

    def forward(self, ids):
        return self.inner["head"].forward(self.embed.forward(ids))

    def backward(self, dout):
        self.embed.backward(self.inner["head"].backward(dout))
        if self.whole:
            self.grads = {"table": self.whole * (self.embed.dtable + self.inner["head"].dW)}


class Lookup:
    def __init__(self, table):
        self.table = table

    def forward(self, ids):
        self.ids = ids
        return self.table[ids]

    def backward(self, dout):
        self.dtable = np.zeros_like(self.table)
        np.add.at(self.dtable, self.ids, dout)


class Head:
    def __init__(self, W, share):
        self.W, self.share = W, share

    def forward(self, x):
        self.x = x
        return x @ self.W.T

    def backward(self, dout):
        self.dW = self.share * (dout.T @ self.x)
        return dout @ self.W


IDS = np.array([1, 4, 1])


def test_the_gradient_of_a_tied_array_is_the_sum_of_its_shares():
    report = check_layer(Tied(), IDS)
    assert verdicts(report) == {"embed.table": "pass"}
    assert report.notes == ("parameters found: embed.table (gradient: embed.dtable + inner['head'].dW)",)
    assert verdicts(check_layer(Tied(share=0), IDS)) == {"embed.table": "fail"}
    assert verdicts(check_layer(Tied(share=1.01), IDS)) == {"embed.table": "fail"}


def test_an_object_above_both_layers_keeps_the_whole_gradient():
    for whole, verdict in ((1, "pass"), (1.01, "fail")):
        layer = Tied(whole=whole)
        layer.params = {"table": layer.embed.table}
        report = check_layer(layer, IDS)
        assert verdicts(report) == {"table": verdict}
        assert report.notes == ("parameters found: table (gradient: grads['table'])",)


def test_a_gradient_that_only_the_layers_have_is_not_the_models():
    """The optimizer reads the model's list, which backward has left as it was at the start."""

    class Stale(BookModel):
        def __init__(self):
            super().__init__()
            self.grads = [g.copy() for g in self.grads]

    assert verdicts(check_layer(Stale(), X))["params[0]"] == "fail"
    assert verdicts(check_layer(BookModel(), X))["params[0]"] == "pass"


@pytest.mark.parametrize(("slip", "verdict"), [("", "pass"), ("wrong", "fail"), ("missing", "fail")])
def test_views_of_one_buffer_move_with_it(slip, verdict):
    report = check_layer(Flat(slip), X)
    assert verdicts(report) == {"input": "pass", "theta": verdict}
    assert report.arguments[1].size == 16


def test_a_buffer_without_a_gradient_is_checked_by_its_views():
    layer = Flat()
    layer.total = layer.__dict__.pop("theta")
    assert verdicts(check_layer(layer, X)) == ALL_PASS
    del layer.b, layer.db

    class NoBias(Flat):
        def forward(self, x):
            self.x = x
            return x @ self.W + self.total[12:]

        def backward(self, dout):
            self.dW[...] = self.x.T @ dout
            return dout @ self.W.T

    layer.__class__ = NoBias
    assert verdicts(check_layer(layer, X)) == {"input": "pass", "W": "pass", "total": "inconclusive"}


@pytest.mark.parametrize(("slip", "verdict"), [("", "pass"), ("wrong", "fail"), ("missing", "pass")])
def test_arrays_of_the_class_are_the_layers(slip, verdict):
    class Shared(Attributes):
        W, b = WEIGHT.copy(), BIAS.copy()

    layer = Shared(slip)
    del layer.W, layer.b
    report = check_layer(layer, X)
    assert verdicts(report) == ALL_PASS | {"W": verdict, "b": "inconclusive" if slip == "missing" else "pass"}
    np.testing.assert_array_equal(Shared.W, WEIGHT)


def test_arrays_in_closures_are_said_to_be_out_of_reach():
    W = WEIGHT.copy()

    class Closed:
        def __init__(self):
            self.product = lambda x: x @ W
            self.later = lambda: late
            if not self:
                late = 1

        def forward(self, x):
            return self.product(x)

        def backward(self, dout):
            return dout @ W.T

    report = check_layer(Closed(), X)
    assert [str(unchecked) for unchecked in report.not_checked] == ["W (float64): in a closure, out of reach"]
    assert check_layer(Closed(), X, strict=True).verdict == "inconclusive"


# --- what kind of numbers


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int64])
def test_parameters_of_other_dtypes_are_moved_in_float64(kind):
    for slip, verdict in (("", "pass"), ("wrong", "fail")):
        layer = Attributes(slip)
        layer.W, layer.b = (3 * layer.W).astype(kind), layer.b.astype(kind)
        assert verdicts(check_layer(layer, X)) == ALL_PASS | {"W": verdict}
    book = Book("", WEIGHT.astype(np.float32), BIAS.astype(np.float32))  # its grads are float32, too
    assert check_layer(book, X).verdict == "pass"


class Complex(Attributes):
    def __init__(self, slip):
        super().__init__(slip)
        self.W = (self.W + 1j * self.W[::-1]).astype(np.complex64)

    def backward(self, dout):
        self.x = self.x.conj()
        super().backward(dout)
        return dout @ self.W.conj().T


@pytest.mark.parametrize(("slip", "verdict"), [("", "pass"), ("wrong", "fail")])
def test_complex_parameters_are_checked(slip, verdict):
    report = check_layer(Complex(slip), X + 0.5j, wrt=["input", "W"])
    assert verdicts(report) == {"input": "pass", "W": verdict}, str(report)


def test_integers_without_a_gradient_among_the_params_are_no_pass():
    layer = Dicts("missing")
    layer.params |= {"b": np.arange(4), "stride": 1}
    assert verdicts(check_layer(layer, X)) == ALL_PASS | {"b": "fail"}


class Slope:
    """A leaky relu whose slope is a number."""

    def __init__(self, alpha, factor=1.0):
        self.alpha, self.factor, self.eps, self.axis = alpha, factor, 1e-5, 0

    def forward(self, x):
        self.x = x
        return np.where(x > 0, x, self.alpha * x) + self.eps

    def backward(self, dout):
        if self.factor:
            self.dalpha = self.factor * float(np.sum(dout * np.minimum(self.x, 0)))
        return dout * np.where(self.x > 0, 1.0, self.alpha)


@pytest.mark.parametrize("alpha", [0.25, np.float32(0.25), np.array(0.25), 2])
def test_a_number_with_a_gradient_is_a_parameter(alpha):
    report = check_layer(Slope(alpha), X)
    assert verdicts(report) == {"input": "pass", "alpha": "pass"}
    assert [str(unchecked) for unchecked in report.not_checked] == ["eps (float): a number without a gradient"]
    assert verdicts(check_layer(Slope(alpha, 1.01), X)) == {"input": "pass", "alpha": "fail"}


def test_a_number_without_a_gradient_is_said():
    report = check_layer(Slope(0.25, None), X)
    assert [unchecked.name for unchecked in report.not_checked] == ["alpha", "eps"]
    assert (report.verdict, check_layer(Slope(0.25, None), X, strict=True).verdict) == ("pass", "inconclusive")
    layer = Slope(0.25, None)
    layer.dalpha = None
    assert verdicts(check_layer(layer, X)) == {"input": "pass", "alpha": "inconclusive"}


def test_a_gradient_of_a_number_that_is_not_summed_fails():
    class Unsummed(Slope):
        def backward(self, dout):
            self.dalpha = dout * np.minimum(self.x, 0)
            return dout * np.where(self.x > 0, 1.0, self.alpha)

    assert verdicts(check_layer(Unsummed(0.25), X)) == {"input": "pass", "alpha": "fail"}


def test_w_and_W_are_two_arrays():
    class Two:
        def __init__(self, factor=1.0):
            self.W, self.w, self.factor = np.array([2.0, 3, 4]), np.array([5.0, 6, 7]), factor

        def forward(self, x):
            self.x = x
            return x * self.W + self.w

        def backward(self, dout):
            self.dW = (dout * self.x).sum(axis=0)
            if self.factor:
                self.dw = self.factor * dout.sum(axis=0)
            return dout * self.W

    assert verdicts(check_layer(Two(), X)) == {"input": "pass", "W": "pass", "w": "pass"}
    assert verdicts(check_layer(Two(2), X)) == {"input": "pass", "W": "pass", "w": "fail"}
    assert verdicts(check_layer(Two(None), X)) == {"input": "pass", "W": "pass", "w": "inconclusive"}


# --- what is no parameter


class Norm:
    """A batch norm over a running mean and variance; in training they are updated and not read."""

    def __init__(self, training, names=("running_mean", "running_var")):
        self.gamma, self.beta = np.array([1.5, 0.5, 2.0]), np.array([0.1, 0.2, 0.3])
        self.names, self.training, self.momentum = names, training, 0.9
        for name, value in zip(names, (np.full(3, 0.2), np.full(3, 1.3)), strict=True):
            setattr(self, name, value)

    def forward(self, x):
        mean, var = (getattr(self, name) for name in self.names)
        if self.training:
            now = x.mean(axis=0), x.var(axis=0)
            for name, old, new in zip(self.names, (mean, var), now, strict=True):
                setattr(self, name, self.momentum * old + (1 - self.momentum) * new)
            mean, var = now
        self.rstd = 1 / np.sqrt(var)
        self.xhat = (x - mean) * self.rstd
        return self.gamma * self.xhat + self.beta

    def backward(self, dout):
        self.dgamma, self.dbeta = (dout * self.xhat).sum(axis=0), dout.sum(axis=0)
        d = dout * self.gamma
        self.dxhat = d
        if self.training:
            d = d - d.mean(axis=0) - self.xhat * (d * self.xhat).mean(axis=0)
        return d * self.rstd


def test_running_statistics_are_no_parameters():
    passing = {"input": "pass", "gamma": "pass", "beta": "pass"}
    report = check_layer(Norm(True), X)
    assert (verdicts(report), report.not_checked) == (passing, ())
    report = check_layer(Norm(False), X)
    assert verdicts(report) == passing
    assert [str(unchecked) for unchecked in report.not_checked] == [
        "running_mean (float64): a buffer, by its name",
        "running_var (float64): a buffer, by its name",
    ]
    report = check_layer(Norm(False, ("mean", "var")), X)
    assert verdicts(report) == passing | {"mean": "inconclusive", "var": "inconclusive"}
    assert "buffers=['mean']" in str(report)
    report = check_layer(Norm(False, ("mean", "var")), X, buffers=["mean", "var"])
    assert (verdicts(report), report.not_checked) == (passing, ())


def test_a_layer_in_use_is_checked_like_a_new_one():
    """It holds caches and their gradients, `xhat` and `dxhat`."""
    layer = Norm(False)
    layer.backward(layer.forward(X))
    assert verdicts(check_layer(layer, X)) == {"input": "pass", "gamma": "pass", "beta": "pass"}


def test_the_parameters_of_a_neighbour_are_not_this_layers():
    model = Children()
    model.backward(model.forward(X))
    report = check_layer(model.fc1, X)  # its parent leads to the other layers, with gradients of old
    assert verdicts(report) == ALL_PASS
    assert [(u.name, u.reason) for u in report.not_checked] == [
        ("parent.blocks['out'][0].W", "the output does not move with it"),
        ("parent.blocks['out'][0].b", "the output does not move with it"),
    ]


def test_a_layer_without_parameters_says_so():
    report = check_layer(Sigmoid(), X)
    assert (verdicts(report), report.notes) == ({"input": "pass"}, ("no parameters found",))


def test_a_layer_whose_arrays_have_no_gradients_is_no_pass():
    class Nothing(Attributes):
        def backward(self, dout):
            return dout @ self.W.T

    report = check_layer(Nothing(), X)
    assert verdicts(report) == {"input": "pass", "W": "inconclusive", "b": "inconclusive"}
    assert report.verdict == "inconclusive"
    assert report.notes == ("no parameters found",)
    assert "W: inconclusive: the output moves with it, but no gradient was found" in str(report)
    assert '"verdict": "inconclusive"' in report.to_json()
    assert "no gradient was found" in report.to_html()

    class Ids(Lookup):
        def backward(self, dout):
            pass

    report = check_layer(Ids(RNG.standard_normal((6, 3))), IDS)  # and nothing else to check
    assert verdicts(report) == {"table": "inconclusive"}
    assert str(report).endswith("inconclusive")


def test_state_that_forward_overwrites_is_said():
    class Stateful(Attributes):
        def __init__(self):
            super().__init__()
            self.h = np.ones(4)

        def forward(self, x):
            self.h = 0.5 * self.h + super().forward(x)
            return self.h

    report = check_layer(Stateful(), X)
    assert set(verdicts(report).values()) == {"inconclusive"}
    assert "the layer keeps state that changes its next output: self.h (changed)" in str(report)
    assert check_layer(Stateful(), X, buffers=["h"]).verdict == "pass"
    assert [str(unchecked) for unchecked in report.not_checked] == ["h (float64): state: forward overwrites it"]


class Memory(Attributes):
    """A recurrent state that the first forward makes, and its gradient, as in Deep Learning from Scratch."""

    def __init__(self, h):
        super().__init__()
        self.h = h

    def forward(self, x):
        self.h = np.tanh(super().forward(x) + (0 if self.h is None else self.h))
        return self.h

    def backward(self, dout):
        self.dh = dout * (1 - self.h**2)
        return super().backward(self.dh)


def test_state_with_a_gradient_is_no_parameter():
    report = check_layer(Memory(None), X)
    assert (verdicts(report).keys(), report.not_checked) == (ALL_PASS.keys(), ())
    assert "changes its next output: self.h (new)" in report.arguments[0].reason
    assert verdicts(check_layer(Memory(None), X, buffers=["h"])) == ALL_PASS
    report = check_layer(Memory(np.zeros((5, 4))), X)
    assert report.verdict == "inconclusive"
    assert "h: inconclusive: forward overwrites it" in str(report)


def test_the_spacing_of_a_grid_is_no_gradient():
    class Gate(Attributes):
        def __init__(self):
            super().__init__()
            self.h, self.dh, self.table_grad = 6, 3, 1
            self.t, self.dt, self.bg, self.b_grade = np.array([0.1, 0.2, 0.3, 0.4]), 0.1, np.ones(4), 3

        def forward(self, x):
            return super().forward(x) + self.t * self.dt * self.h

    report = check_layer(Gate(), X)
    assert [unchecked.name for unchecked in report.not_checked] == ["dt"]
    assert verdicts(report) == ALL_PASS | {"t": "inconclusive"}
    assert "buffers=['t']" in str(report)
    assert verdicts(check_layer(Gate(), X, buffers=["t", "dt"])) == ALL_PASS


def test_a_weight_that_forward_normalises_is_no_pass():
    class Normalised(Attributes):
        def forward(self, x):
            self.W = self.W / np.linalg.norm(self.W)
            return super().forward(x)

    assert verdicts(check_layer(Normalised(), X)) == ALL_PASS | {"W": "inconclusive"}


def test_one_array_among_many_caches_is_found():
    class Cached(Attributes):
        def __init__(self):
            super().__init__()
            self.offset, self.betas = np.zeros(4), (0.9, 0.999)
            self.caches = [RNG.standard_normal((3, 3)) for _ in range(100)]

        def forward(self, x):
            return super().forward(x) + self.offset

    report = check_layer(Cached(), X)
    assert verdicts(report) == ALL_PASS | {"offset": "inconclusive"}
    assert report.not_checked == ()


class Dropout(Attributes):
    def __init__(self, rng):
        super().__init__()
        self.rng, self.mask = rng, np.ones((5, 4))

    def forward(self, x):
        self.mask = (self.rng or np.random.default_rng()).random((5, 4)) < 0.5
        return super().forward(x) * self.mask

    def backward(self, dout):
        return super().backward(dout * self.mask)


def test_dropout_is_judged_with_a_generator_of_its_own():
    assert verdicts(check_layer(Dropout(np.random.default_rng(0)), X)) == ALL_PASS
    assert check_layer(Dropout(None), X).verdict == "inconclusive"
