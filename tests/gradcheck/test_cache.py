"""What a cache holds that is no number of the user's, such as a module or a logger, is not watched."""

import io
import logging
import random
import types
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from npgpt import check_backward

X = np.random.default_rng(3).standard_normal((4, 3))
LOG = logging.getLogger("npgpt.test_cache")


class Cache:
    def __init__(self, x, other):
        self.x, self.other = x, other


def pair(make, use):
    def forward(x):
        return np.exp(x), Cache(x, make())

    def backward(dout, cache):
        use(cache.other)
        return dout * np.exp(cache.x)

    return forward, backward


def noted_in(module):
    module.calls = getattr(module, "calls", 0) + 1


HELD = {
    "a module": (lambda: np, lambda xp: xp.exp(0.0)),
    "a module that counts": (lambda: types.ModuleType("counts"), noted_in),
    "a class that counts": (lambda: type("Counts", (), {}), noted_in),
    "a function that counts": (lambda: lambda: None, noted_in),
    "a logger": (lambda: LOG, lambda log: (log.manager._clear_cache(), log.debug("backward"))),
    "a handler": (logging.NullHandler, lambda handler: handler.setLevel(random.randrange(9))),
    "a file": (io.StringIO, lambda file: noted_in(file)),
    "a path": (lambda: Path("a") / "b", lambda path: (str(path), hash(path))),
    "a generator": (lambda: random.Random(3), lambda generator: generator.gauss(0, 1)),
}


@pytest.mark.parametrize("name", HELD)
def test_what_is_no_number_of_the_users_may_change_in_a_cache(name):
    report = check_backward(*pair(*HELD[name]), X)
    assert report.verdict == "pass", str(report)


def test_a_number_in_a_cache_may_not():
    report = check_backward(*pair(types.SimpleNamespace, noted_in), X)
    assert report.contract[0] == "backward writes into the cache"


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


KEPT_IN = {
    "slots": (Slotted, lambda cache: cache.x),
    "a deque": (lambda x: deque([x]), lambda cache: cache[0]),
    "an object in a list": (lambda x: [Cache(x, None)], lambda cache: cache[0].x),
}


@pytest.mark.parametrize("name", KEPT_IN)
def test_an_array_in_a_cache_of_any_kind_may_not_be_written(name):
    make, get = KEPT_IN[name]

    def backward(dout, cache):
        dx = 2 * dout * np.abs(get(cache))
        get(cache)[...] = np.abs(get(cache))  # a second backward sees no difference
        return dx

    report = check_backward(lambda x: (x * x, make(x.copy())), backward, np.abs(X))
    assert report.verdict == "pass"  # nothing has changed
    report = check_backward(lambda x: (x * np.abs(x), make(x.copy())), backward, X)
    assert report.contract == ("backward writes into the cache",)


def test_a_logger_that_forward_uses_is_no_state():
    def forward(x):
        LOG.manager._clear_cache()
        LOG.debug("forward")
        return x * x, x

    assert check_backward(forward, lambda d, x: 2 * d * x, X).notes == ()
