"""Forwards that draw random numbers, from generators among the arguments or from where nobody can repeat them."""

import random
import threading

import numpy as np
import pytest

from npgpt import check_backward

from .test_state import Layer, X, notes

# --- generators among the arguments


def dropout(x, rng):
    mask = rng.random(x.shape) < 0.5
    return 2 * x * mask, mask


class Settings:
    def __init__(self, rng):
        self.rng, self.keep = rng, 0.5


DROPOUTS = {
    "a Generator": (dropout, np.random.default_rng(3)),
    "a RandomState": (lambda x, rng: dropout_of(x, rng.random_sample(x.shape)), np.random.RandomState(3)),
    "one of Python's": (
        lambda x, rng: dropout_of(x, np.array([rng.random() for _ in range(x.size)]).reshape(x.shape)),
        random.Random(3),
    ),
    "in a dict": (lambda x, p: dropout(x, p["rng"]), {"rng": np.random.default_rng(3), "p": 0.5}),
    "in an object": (lambda x, settings: dropout(x, settings.rng), Settings(np.random.default_rng(3))),
    "in a dict in a list": (lambda x, many: dropout(x, many[1]["rng"]), [0.5, {"rng": np.random.default_rng(3)}]),
}


def dropout_of(x, uniform):
    mask = uniform < 0.5
    return 2 * x * mask, mask


@pytest.mark.parametrize("name", DROPOUTS)
@pytest.mark.parametrize(("factor", "verdict"), [(2.0, "pass"), (1.0, "fail")])
def test_dropout_from_a_generator_among_the_arguments_is_judged(name, factor, verdict):
    forward, source = DROPOUTS[name]
    report = check_backward(forward, lambda d, mask: (factor * d * mask, None), X, source)
    assert report.verdict == verdict, str(report)
    assert "forward draws from" in notes(report)


def test_the_generator_of_the_caller_is_left_as_it_is():
    rng = np.random.default_rng(3)
    check_backward(dropout, lambda d, mask: 2 * d * mask, X, rng)
    assert rng.random() == np.random.default_rng(3).random()


def test_a_generator_that_is_two_arguments_is_one_in_each_copy():
    rng = np.random.default_rng(3)
    same = []

    def forward(x, one, other):
        same.append(one is other["rng"])
        return dropout(x, one)

    assert check_backward(forward, lambda d, mask: (2 * d * mask, None, None), X, rng, {"rng": rng})
    assert all(same)


def test_a_mark_that_is_compared_by_identity_stays_itself():
    mark = object()

    def forward(x, mode):
        return (x * x if mode is mark else x), x

    assert check_backward(forward, lambda d, x: (2 * d * x, None), X, mark)


def test_a_generator_in_an_object_that_cannot_be_copied_is_named():
    settings = Settings(np.random.default_rng(3))
    settings.lock = threading.Lock()
    report = check_backward(lambda x, s: dropout(x, s.rng), lambda d, mask: (2 * d * mask, None), X, settings)
    assert report.verdict == "inconclusive"
    assert report.arguments[0].reason.endswith("it draws from s.rng")


# --- randomness that cannot be repeated


def from_numpy(x):
    return dropout_of(x, np.random.random(x.shape))  # noqa: NPY002


def from_python(x):
    return dropout_of(x, np.array([random.random() for _ in range(x.size)]).reshape(x.shape))


HIDDEN = np.random.default_rng(4)


def from_module(x):
    return dropout(x, HIDDEN)


def from_closure():
    generator = np.random.default_rng(4)
    return lambda x: dropout(x, generator)


def from_a_bound_method():
    draw = np.random.default_rng(4).random
    return lambda x: dropout_of(x, draw(x.shape))


UNSEEDED = {
    "NumPy's": (from_numpy, "NumPy's global generator (np.random)"),
    "Python's": (from_python, "Python's global generator (random)"),
    "the module's": (from_module, "HIDDEN"),
    "a closure's": (from_closure(), "generator"),
    "a bound method": (from_a_bound_method(), "draw"),
    "an attribute": (Layer().drop, "self.rng"),
    "an attribute, into one buffer": (Layer().random_in_one_buffer, "self.rng"),
}


@pytest.mark.parametrize("name", UNSEEDED)
def test_unseeded_dropout_is_inconclusive_and_its_generator_named(name):
    forward, source = UNSEEDED[name]
    report = check_backward(forward, lambda d, mask: 2 * d * mask, X)
    assert report.verdict == "inconclusive", str(report)
    assert report.arguments[0].reason.endswith(f"it draws from {source}")
