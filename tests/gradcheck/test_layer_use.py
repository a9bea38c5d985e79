"""How check_layer is asked, and what it says of what backward does to gradients that are there."""

import threading

import numpy as np
import pytest

from npgpt.gradcheck import check_layer
from npgpt.gradcheck.objects import text, walk

from .layers import STYLES, WEIGHT, Attributes, X
from .test_layer import ALL_PASS, IDS, Tied, verdicts

# --- how it is asked


def test_params_and_grads_may_be_given():
    class Odd(Attributes):
        def backward(self, dout):
            self.found = [self.x.T @ dout, dout.sum(axis=0)]
            return dout @ self.W.T

    def found(layer):
        return dict(zip("Wb", layer.found, strict=True))

    layer = Odd()
    assert verdicts(check_layer(layer, X)) == {"input": "pass", "W": "inconclusive", "b": "inconclusive"}
    assert verdicts(check_layer(layer, X, grads=found)) == ALL_PASS
    assert verdicts(check_layer(layer, X, params={"W": layer.W, "b": layer.b}, grads=found)) == ALL_PASS
    report = check_layer(layer, X, params={"kernel": layer.W}, grads=lambda layer: {"W": layer.found[0]})
    assert verdicts(report) == {"input": "pass", "kernel": "pass"}
    assert [str(unchecked) for unchecked in report.not_checked] == ["b (float64): not among the params"]
    report = check_layer(layer, X, params={"W": layer.W, "b": layer.b}, grads=lambda layer: {"W": layer.found[0]})
    assert verdicts(report) == ALL_PASS | {"b": "inconclusive"}


def test_params_may_be_names():
    report = check_layer(Attributes("missing"), X, params=["W"])
    assert verdicts(report) == {"input": "pass", "W": "pass"}
    assert [str(unchecked) for unchecked in report.not_checked] == ["b (float64): not among the params"]
    assert verdicts(check_layer(Attributes("missing"), X, params=["b"])) == {"input": "pass", "b": "inconclusive"}
    assert verdicts(check_layer(Attributes("missing"), X, buffers="b")) == {"input": "pass", "W": "pass"}


def test_a_name_that_the_layer_does_not_hold_is_an_error():
    for options in ({"params": {"V": WEIGHT}}, {"grads": lambda layer: {"V": WEIGHT}}, {"buffers": ["V"]}):
        with pytest.raises(ValueError, match="holds no 'V'; it holds W, b"):
            check_layer(Attributes(), X, **options)


def test_wrt_chooses_among_inputs_and_parameters():
    assert verdicts(check_layer(Attributes("missing"), X, wrt=["W"])) == {"W": "pass"}
    assert verdicts(check_layer(Attributes("missing"), X, wrt="b")) == {"b": "inconclusive"}
    assert verdicts(check_layer(Attributes("missing"), X, wrt=["b", 0])) == {"input": "pass", "b": "inconclusive"}
    report = check_layer(Attributes("wrong"), X, tolerance=0.1)
    assert (report.tolerance, report.verdict) == (0.1, "pass")
    with pytest.raises(TypeError, match="colour"):
        check_layer(Attributes(), X, colour="red")


def test_what_is_no_layer_is_an_error():
    with pytest.raises(TypeError, match="int has no backward"):
        check_layer(3, X)
    with pytest.raises(TypeError, match="an object, not the class Attributes"):
        check_layer(Attributes, X)
    layer = Attributes()
    layer.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"the layer cannot be copied: .*lock"):
        check_layer(layer, X)


# --- what backward does to gradients that are there, and to everything else


class Accumulating(Attributes):
    def __init__(self):
        super().__init__()
        self.dW, self.db = np.zeros_like(self.W), np.zeros_like(self.b)

    def backward(self, dout):
        self.dW += self.x.T @ dout
        self.db += dout.sum(axis=0)
        return dout @ self.W.T


class Half(Accumulating):
    def backward(self, dout):
        self.dW = self.x.T @ dout
        self.db = self.db + dout.sum(axis=0)
        return dout @ self.W.T


@pytest.mark.parametrize(
    ("make", "accumulates", "sentence"),
    [
        (Attributes, False, None),
        (Accumulating, True, None),
        (STYLES["objects"][0], True, None),
        (Attributes, True, "a second backward does not add to the gradient of W"),
        (Accumulating, False, "a second backward does not overwrite the gradient of W"),
        (STYLES["objects"][0], False, "a second backward does not overwrite the gradient of W.data"),
        (Half, False, "a second backward does not overwrite the gradient of b"),
        (Half, True, "a second backward does not add to the gradient of W"),
    ],
)
def test_whether_it_accumulates_is_checked(make, accumulates, sentence):
    report = check_layer(make(), X, accumulates=accumulates)
    assert set(verdicts(report).values()) == {"pass"}
    assert report.contract == (() if sentence is None else (sentence,))
    assert report.verdict == ("pass" if sentence is None else "fail")


def test_an_accumulating_layer_that_holds_gradients_already():
    """A layer in use: the check must not take what was there before for a part of the gradient."""
    layer = Accumulating()
    layer.forward(X)
    layer.backward(np.full((5, 4), 1e9))
    assert check_layer(layer, X, accumulates=True).verdict == "pass"
    tied = Tied()
    tied.embed.dtable = np.ones((6, 3))
    assert check_layer(tied, IDS).verdict == "pass"


def test_whether_a_layer_that_draws_accumulates_is_not_known():
    class Dropout(Attributes):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(0)

        def forward(self, x):
            out = super().forward(x)
            self.kept = self.rng.random(out.shape) < 0.5
            return out * self.kept

        def backward(self, dout):
            return super().backward(dout * self.kept)

    report = check_layer(Dropout(), X)
    assert report.verdict == "pass"
    assert report.notes[1].startswith("a second forward gives another output")


@pytest.mark.parametrize("style", STYLES)
def test_the_layer_is_left_unchanged(style):
    layer = STYLES[style][0]()
    before = {text(path): np.array(leaf) for path, leaf in walk(layer) if isinstance(leaf, np.ndarray | int | float)}
    x = X.copy()
    check_layer(layer, x, accumulates=STYLES[style][1])
    after = {text(path): leaf for path, leaf in walk(layer) if isinstance(leaf, np.ndarray | int | float)}
    np.testing.assert_equal(after, before)
    np.testing.assert_array_equal(x, X)


# --- inputs


class Product:
    """Two inputs, two gradients, no parameters."""

    def __init__(self, pack=tuple, right=True):
        self.pack, self.right = pack, right

    def forward(self, x, y):
        self.x, self.y = x, y
        return x * y

    def backward(self, dout):
        return self.pack((dout * self.y, dout * (self.x if self.right else self.y)))


@pytest.mark.parametrize("pack", [tuple, list])
def test_several_inputs(pack):
    assert verdicts(check_layer(Product(pack), X, X + 1)) == {"input 0": "pass", "input 1": "pass"}
    assert verdicts(check_layer(Product(pack, False), X, X + 1)) == {"input 0": "pass", "input 1": "fail"}


def test_an_input_that_backward_says_nothing_of():
    class Loss:
        def forward(self, x, target):
            self.difference = x - target
            return np.mean(self.difference**2)

        def backward(self, dout=1.0):
            return 2 * dout * self.difference / self.difference.size

    assert verdicts(check_layer(Loss(), X, X + 1)) == {"input 0": "pass", "input 1": "fail"}
    assert check_layer(Loss(), X, X + 1, wrt="input 0").verdict == "pass"

    class Many(Attributes):
        def backward(self, dout):
            return super().backward(dout), self.dW, self.db

    with pytest.raises(ValueError, match="backward returned 3 gradients for 1 input;"):
        check_layer(Many(), X)


def test_a_single_input_and_output_that_are_trees():
    class Swap:
        def forward(self, pair):
            self.pair = pair
            return {"product": pair[0] * pair[1], "sum": pair[0] + pair[1]}

        def backward(self, dout):
            x, y = self.pair
            return dout["product"] * y + dout["sum"], dout["product"] * x + dout["sum"]

    assert verdicts(check_layer(Swap(), (X, X + 1))) == {"input[0]": "pass", "input[1]": "pass"}
