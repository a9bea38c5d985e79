"""A layer that keeps what changes its next output does not pass: the check saw the first output alone."""

import random

import numpy as np
import pytest

from npgpt.gradcheck import check_layer

X = np.random.default_rng(1).standard_normal((5, 3))


class Scale:
    """out = x * w, and what a class below does besides."""

    wrong = 1.0

    def __init__(self):
        self.w, self.count, self.factor = np.array([0.5, 2.0, -1.0]), 0, 1.0

    def forward(self, x):
        self.x = x
        self.before(x)
        return self.factor * x * self.w

    def before(self, x):
        pass

    def backward(self, dout):
        self.dw = self.wrong * self.factor * (dout * self.x).sum(axis=0)
        return self.factor * dout * self.w


class Counts(Scale):
    def before(self, x):
        self.count += 1
        self.factor = 1.0 + self.count


class CountsLate(Scale):
    def before(self, x):
        self.count += 1
        self.factor = 1.0 if self.count < 3 else 2.0


class CountsALittle(Scale):
    def before(self, x):
        self.count += 1
        self.factor = 1.0 + 1e-11 * self.count


class Averages(Scale):
    def __init__(self):
        super().__init__()
        self.running_size = 1.0

    def before(self, x):
        self.factor = self.running_size  # of the calls before
        self.running_size = 0.9 * self.running_size + 0.1 * float(np.abs(x).mean())


class Learns(Scale):
    def backward(self, dout):
        dx = super().backward(dout)
        self.w = self.w - 0.1 * self.dw
        return dx


class Remembers(Scale):
    """A recurrent layer that goes on where it was: its state is not there before the first call."""

    def __init__(self):
        super().__init__()
        self.h = None

    def forward(self, x):
        self.x = x
        self.h = x * self.w if self.h is None else x * self.w + 0.5 * self.h
        return self.h


class Inside:
    def __init__(self, layer):
        self.layers = [layer]

    def forward(self, x):
        return self.layers[0].forward(x)

    def backward(self, dout):
        return self.layers[0].backward(dout)


KEPT = {
    "a counter": (Counts, "self.count (from 0 to 1)"),
    "a counter that shows late": (CountsLate, "self.count (from 0 to 2)"),
    "a counter that hardly shows": (CountsALittle, "self.count (from 0 to 1)"),
    "an average": (Averages, "self.running_size (from "),
    "weights that backward changes": (Learns, "self.w (by up to "),
    "a state of its own": (Remembers, "self.h (new)"),
    "a counter in a layer inside": (lambda: Inside(Counts()), "self.layers[0].count (from 0 to 1)"),
}


@pytest.mark.parametrize("name", KEPT)
def test_state_that_changes_the_next_output_is_inconclusive_and_named(name):
    make, kept = KEPT[name]
    report = check_layer(make(), X)
    assert report.verdict == "inconclusive", str(report)
    reasons = {argument.reason for argument in report.arguments if argument.name in ("input", "w")}
    assert all(reason.startswith("the layer keeps state that changes its next output: ") for reason in reasons)
    assert all(kept in reason for reason in reasons)


def test_a_slip_in_such_a_layer_still_fails():
    class Wrong(Counts):
        wrong = 1.01

    assert check_layer(Wrong(), X).verdict == "fail"


# --- state that does not


class Notes(Scale):
    def before(self, x):
        self.count += 1


class DropsOut(Scale):
    """Draws a new factor in each call."""

    def __init__(self, rng, draw):
        super().__init__()
        self.rng, self.draw = rng, draw

    def before(self, x):
        self.factor = self.draw(self.rng)


DRAWING = {
    "a Generator": lambda: DropsOut(np.random.default_rng(0), lambda rng: rng.random() + 1),
    "a RandomState": lambda: DropsOut(np.random.RandomState(0), lambda rng: rng.random_sample() + 1),
    "one of Python's": lambda: DropsOut(random.Random(0), lambda rng: rng.random() + 1),
    "in a layer inside": lambda: Inside(DropsOut(np.random.default_rng(0), lambda rng: rng.random() + 1)),
    "none, a counter alone": Notes,
}


@pytest.mark.parametrize("name", DRAWING)
def test_generators_and_counters_that_change_nothing_else_pass(name):
    assert check_layer(DRAWING[name](), X).verdict == "pass"


def test_the_memory_of_a_recurrent_layer_may_be_said_to_be_on_purpose():
    report = check_layer(Remembers(), X, buffers=["h"])
    assert report.verdict == "pass"
    assert any(note.startswith("a second forward gives another output") for note in report.notes)
    assert check_layer(Counts(), X, buffers=["factor"]).verdict == "inconclusive"


def test_a_layer_that_can_be_called_only_twice_is_no_pass():
    class Twice(Scale):
        def before(self, x):
            self.count += 1
            if self.count > 2:
                raise RuntimeError("it is used up")

    report = check_layer(Twice(), X)
    assert report.verdict == "inconclusive"
    assert "the layer raises RuntimeError: it is used up when it is called again" in str(report)
