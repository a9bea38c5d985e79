"""The contract: each sentence is provoked by one slip, a right pair breaks nothing."""

import re
from pathlib import Path

import numpy as np
import pytest

import npgpt.gradcheck.contract
from npgpt import check_backward
from npgpt.gradcheck.conduct import Conduct, Watch
from npgpt.gradcheck.contract import Contract, check_contract
from npgpt.gradcheck.gradients import Backward
from npgpt.gradcheck.problem import Problem

X = np.random.default_rng(7).standard_normal((3, 4))
W = np.random.default_rng(8).standard_normal(4)

WRITES_ARGUMENTS = "forward writes into its arguments"
WRITES_DOUT = "backward writes into dout"
WRITES_INPUTS = "backward writes into the arguments of forward"
WRITES_CACHE = "backward writes into the cache"
SECOND = "a second backward from the same cache gives another gradient: it adds up, or uses the cache up"
LATER = "a later backward changes the gradients that an earlier one has returned"
STATE = "backward gives another gradient when forward and backward are run again: it keeps state, or is random"
ZERO = "backward of a zero dout is not zero"
LINEAR = "backward is not linear in dout"
LARGE = "backward is not linear in dout: not for a large one"
SMALL = "backward is not linear in dout: not for a small one"
LAYOUT = "backward gives another gradient for a dout that lies in memory in another way"
BETWEEN = "backward depends on another forward that was run in between: it keeps state outside the cache"


def square(x):
    return x * x, x.copy()


def right(dout, x):
    return 2 * dout * x


# --- one slip each. Functions that make a pair, because a pair with state must be fresh.


def forward_in_place():
    def forward(x):
        np.multiply(x, x, out=x)
        return x.copy(), np.sqrt(x)

    return forward, lambda dout, root: 2 * dout * root


def unseeded():
    rng = np.random.default_rng(0)

    def forward(x):
        mask = rng.random(x.shape) < 0.5
        return x * mask, mask

    return forward, lambda dout, mask: dout * mask


def writes_dout():
    def backward(dout, x):
        given = dout.copy()
        dout *= 0
        return 2 * given * x

    return square, backward


def writes_inputs():
    def backward(dout, x):
        dx = 2 * dout * x
        x *= 1.5
        return dx

    return lambda x: (x * x, x), backward


def writes_cache():
    def backward(dout, cache):
        x, seen = cache
        seen += 1  # a counter that nothing reads
        return 2 * dout * x

    return lambda x: (x * x, (x.copy(), np.zeros(1))), backward


def uses_the_cache_up():
    class Cache:
        def __init__(self, x):
            self.x, self.used = x, 1

        def take(self):
            factor, self.used = self.used, 0
            return self.x * factor

    caches = {}

    def forward(x):
        caches[len(caches)] = Cache(x.copy())
        return x * x, f"number {len(caches) - 1}"  # a handle: what is behind it is out of sight

    return forward, lambda dout, handle: 2 * dout * caches[int(handle.split()[1])].take()


def one_buffer():
    buffer = np.empty(X.shape)

    def backward(dout, x):
        np.multiply(2 * dout, x, out=buffer)
        return buffer

    return square, backward


def adds_up():
    total = {}

    def backward(dout, x):
        total["dx"] = total.get("dx", 0) + 2 * dout * x
        return total["dx"]

    return square, backward


def random_backward():
    rng = np.random.default_rng(0)
    return square, lambda dout, x: 2 * dout * x * (1 + 1e-6 * rng.standard_normal(x.shape))


def constant_term():
    return square, lambda dout, x: 2 * dout * x + 1e-3


def squared_dout():
    return square, lambda dout, x: 2 * dout * x * (1 + np.abs(dout))


def clipped():
    return square, lambda dout, x: 2 * np.clip(dout, -100, 100) * x


def epsilon_added():
    return square, lambda dout, x: 2 * dout * x * (np.abs(dout) / (np.abs(dout) + 1e-10))


def memory_order():
    def backward(dout, x):
        return 2 * np.ravel(dout, order="K").reshape(x.shape) * x

    return square, backward


def state_outside():
    last = {}

    def forward(x):
        last["x"] = x.copy()
        return x * x, None

    return forward, lambda dout, cache: 2 * dout * last["x"]


SLIPS = [
    (forward_in_place, WRITES_ARGUMENTS),
    (writes_dout, WRITES_DOUT),
    (writes_inputs, WRITES_INPUTS),
    (writes_cache, WRITES_CACHE),
    (uses_the_cache_up, SECOND),
    (one_buffer, LATER),
    (adds_up, STATE),
    (random_backward, STATE),
    (constant_term, ZERO),
    (squared_dout, LINEAR),
    (clipped, LARGE),
    (epsilon_added, SMALL),
    (memory_order, LAYOUT),
    (state_outside, BETWEEN),
]
# what else must be said beside the sentence: these slips break more than one clause
ALSO = {
    adds_up: {SECOND, ZERO, LINEAR, LARGE, SMALL, LAYOUT, BETWEEN},
    random_backward: {SECOND, LINEAR, LARGE, SMALL, LAYOUT, BETWEEN},
    constant_term: {LINEAR, LARGE, SMALL},
    squared_dout: {LARGE, SMALL},
    writes_inputs: {SECOND},
    uses_the_cache_up: set(),
    one_buffer: {LINEAR},
    epsilon_added: {LINEAR},
    clipped: set(),
}


@pytest.mark.parametrize(("make", "sentence"), SLIPS, ids=[make.__name__ for make, _ in SLIPS])
def test_each_sentence_is_provoked_by_its_slip(make, sentence):
    report = check_backward(*make(), X)
    assert sentence in report.contract
    assert set(report.contract) - {sentence} <= ALSO.get(make, set())
    assert report.verdict == "fail"
    assert f"contract: {sentence}" in str(report)


def posed(make):
    """Return the problem of a pair, and its backward."""
    forward, backward = make()
    problem = Problem.pose(forward, (X,), None, None, np.random.default_rng(0), np.dtype(np.float64))
    return problem, Backward(problem, backward)


def test_the_contract_says_what_the_check_must_know_without_words():
    def found_of(make):
        problem, backward = posed(make)
        return check_contract(problem, backward)

    def conduct_of(make):
        problem, _ = posed(make)
        return Watch(problem).conduct()

    assert found_of(lambda: (square, right)) == Contract()
    assert found_of(writes_dout) == Contract(broken=(WRITES_DOUT,))
    assert not conduct_of(writes_dout).writes
    in_place = conduct_of(forward_in_place)
    assert in_place.writes
    assert in_place.broken == (WRITES_ARGUMENTS,)
    assert not in_place.obstacle
    random = conduct_of(unseeded)
    assert not random.writes
    assert random.obstacle
    assert not random.broken  # it is no breach of backward's, and the check says it in another place


@pytest.mark.parametrize(
    ("conduct", "verdict"),
    [
        ({}, "pass"),
        ({"broken": ("anything",)}, "fail"),
        ({"obstacle": "anything"}, "inconclusive"),
        ({"notes": ("anything",)}, "pass"),
    ],
)
def test_the_verdict_follows_from_what_was_seen_of_forward(monkeypatch, conduct, verdict):
    monkeypatch.setattr("npgpt.gradcheck.check.Watch.conduct", lambda self: Conduct(**conduct))
    assert check_backward(square, right, X).verdict == verdict


@pytest.mark.parametrize(
    ("contract", "verdict"),
    [(Contract(), "pass"), (Contract(broken=("anything",)), "fail"), (Contract(notes=("anything",)), "pass")],
)
def test_the_verdict_follows_from_the_fields_of_the_contract(monkeypatch, contract, verdict):
    monkeypatch.setattr("npgpt.gradcheck.check.check_contract", lambda *args: contract)
    assert check_backward(square, right, X).verdict == verdict


def test_every_sentence_of_the_contract_is_tested():
    """Those that quote an exception are tested in test_raises.py."""
    source = Path(npgpt.gradcheck.contract.__file__).read_text(encoding="utf-8")
    sentences = [s for s in re.findall(r'yield f?"([^"]+)"', source) if " raises " not in s]
    tested = {sentence for _, sentence in SLIPS}
    assert len(sentences) == 11  # with the one for large and small
    for sentence in sentences:
        assert [s for s in tested if re.fullmatch(re.escape(sentence).replace(r"\{size\}", "(large|small)"), s)]


RIGHT = {
    "square": (square, right),
    "a view of x in the cache": (lambda x: (x * x, x), right),
    "an object as cache": (lambda x: (x * x, type("Cache", (), {"x": x.copy()})()), lambda d, c: 2 * d * c.x),
    "a closure as cache": (lambda x: (x * x, lambda dout: 2 * dout * x), lambda dout, pull: pull(dout)),
    "no cache": (lambda x: (3 * x, None), lambda dout, _: 3 * dout),
    "dout handed through": (lambda x: (x + 1, None), lambda dout, _: dout),
    "out is x": (lambda x: (x, None), lambda dout, _: dout),
    "seeded noise": (
        lambda x: (x * np.random.default_rng(0).standard_normal(x.shape), x.shape),
        lambda dout, shape: dout * np.random.default_rng(0).standard_normal(shape),
    ),
    "sums in another order": (
        lambda x: (np.full((), x.sum()), x.shape),
        lambda dout, shape: np.broadcast_to(dout, shape),
    ),
    "a gradient that is zero but for rounding": (
        lambda x: (x - x.mean(axis=0) + x.mean(axis=0), x.shape),
        lambda dout, shape: dout - dout.mean(axis=0) + dout.mean(axis=0),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_pair_breaks_nothing(name):
    report = check_backward(*RIGHT[name], X)
    assert report.contract == ()
    assert report.verdict == "pass", str(report)


def test_the_arguments_of_the_caller_are_left_alone():
    x = X.copy()
    for make, _ in SLIPS:
        check_backward(*make(), x)
    np.testing.assert_array_equal(x, X)


# --- dtypes of gradients


@pytest.mark.parametrize(
    ("gradient", "sentence"),
    [
        (
            lambda d, x: (2 * d * x).astype(np.float32),
            "the gradient of x is float32, where argument and output are float64",
        ),
        (lambda d, x: (2 * d * x).astype(np.int64), "the gradient of x is int64, not floats"),
        (lambda d, x: d * x > 0, "the gradient of x is bool, not floats"),
    ],
)
def test_a_gradient_of_another_dtype_fails(gradient, sentence):
    report = check_backward(square, gradient, X)
    assert sentence in report.contract
    assert report.verdict == "fail"


def test_float32_is_the_dtype_asked_for():
    seen = []

    def forward(x):
        seen.append(x.dtype)
        return x * x, x

    assert check_backward(forward, right, X, dtype=np.float32)
    assert np.dtype(np.float32) in seen  # for backward; the derivatives are taken in float64
    assert np.dtype(np.float64) in seen
    # 1e-3 is far above float32's rounding of 6e-8, and so is 3e-5
    assert not check_backward(square, lambda d, x: right(d, x) * np.float32(1.001), X, dtype=np.float32)
    assert not check_backward(square, lambda d, x: right(d, x) * np.float32(1.00003), X, dtype=np.float32)


def test_no_taylor_test_is_claimed_in_float32():
    """It is not run there, so it has nothing to say about a gradient that is wrong."""
    report = check_backward(square, lambda d, x: right(d, x) * np.float32(1.5), X, dtype=np.float32)
    assert report.verdict == "fail"
    assert report.taylor == ""
    assert "Taylor" not in str(report)


# --- the cotangent


def test_the_numbers_of_a_backward_that_writes_into_dout_are_right():
    """Only its contract is broken: the writing must not reach the checker's own dout."""

    def backward(dout, x):
        dout *= 2 * x
        return dout

    report = check_backward(square, backward, X)
    assert report.contract == (WRITES_DOUT,)
    assert [a.verdict for a in report.arguments] == ["pass"]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_cotangent_is_not_what_the_users_generator_draws(seed):
    """With dout equal to x, `dout.T @ x` is symmetric, and a transposed gradient passes."""
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((4, 3)), rng.standard_normal((3, 3))
    report = check_backward(
        lambda x, weight: (x @ weight, (x, weight)), lambda dout, c: (dout @ c[1].T, dout.T @ c[0]), x, weight
    )
    assert [a.verdict for a in report.arguments] == ["pass", "fail"]


@pytest.mark.parametrize("forward", [lambda x: (np.argsort(x), x), lambda x: (x > 0, x)], ids=["int", "bool"])
def test_a_forward_without_an_output_of_floats_is_rejected(forward):
    """Its dout would be all zeros, under which every gradient is right."""
    with pytest.raises(ValueError, match="out holds no floats: there is nothing to differentiate"):
        check_backward(forward, lambda dout, x: 17.0 * dout, W)
