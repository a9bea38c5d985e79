"""State and noise: what a forward keeps or rounds anew is a remark; what changes its output never passes."""

import numpy as np
import pytest

from npgpt import check_backward

RNG = np.random.default_rng(7)
X = RNG.standard_normal((5, 3))
GAIN, SHIFT = RNG.standard_normal(3), RNG.standard_normal(3)


def notes(report):
    return "\n".join(report.notes)


def twice(factor=2.0):
    return lambda dout, x: factor * dout * x


class Layer:
    def __init__(self):
        self.rng, self.count, self.mean, self.out = np.random.default_rng(4), 0, np.zeros(3), np.zeros(X.shape)

    def drop(self, x):
        mask = self.rng.random(x.shape) < 0.5
        return 2 * x * mask, mask

    def counted(self, x):
        self.count += 1
        return x * self.count, self.count

    def momentum(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(axis=0)
        return (x - self.mean) ** 2, x - self.mean

    def statistics(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(axis=0)
        return x * x, x

    def late(self, x):
        self.count += 1
        return (x * x if self.count < 40 else x * x + 1), x

    def random_in_one_buffer(self, x):
        mask = self.rng.random(x.shape) < 0.5
        np.multiply(x, 2 * mask, out=self.out)
        return self.out, mask

    def one_buffer(self, x):
        if np.iscomplexobj(x):
            return x * x, x
        np.multiply(x, x, out=self.out)
        return self.out, x


# --- running statistics among the arguments


def batch_norm(x, gain, shift, p):
    """The function of the course CS231n: in training it updates the averages, afterwards it uses them."""
    mean, var = p.get("mean", np.zeros(x.shape[1])), p.get("var", np.zeros(x.shape[1]))
    if p["mode"] == "train":
        centred = x - x.mean(axis=0)
        mean = 0.9 * mean + 0.1 * x.mean(axis=0)
        var = 0.9 * var + 0.1 * (centred * centred).mean(axis=0)
        inverse = 1 / np.sqrt((centred * centred).mean(axis=0) + p["eps"])
    else:
        centred, inverse = x - mean, 1 / np.sqrt(var + p["eps"])
    p["mean"], p["var"] = mean, var
    return gain * centred * inverse + shift, (centred * inverse, gain, inverse, p["mode"])


def batch_norm_backward(dout, cache):
    normal, gain, inverse, mode = cache
    d = dout * gain
    if mode == "train":
        d = d - d.mean(axis=0) - normal * (d * normal).mean(axis=0)
    return d * inverse, (dout * normal).sum(axis=0), dout.sum(axis=0)


def parameters(mode, statistics=True):
    averages = {"mean": np.zeros(3), "var": np.ones(3)} if statistics else {}
    return {"mode": mode, "eps": 1e-5} | averages


@pytest.mark.parametrize("p", [parameters("train"), parameters("train", False)])
@pytest.mark.parametrize("more", [(), (None,)], ids=["3 gradients", "and None"])
def test_running_statistics_in_a_dict(p, more):
    given = {key: np.array(value) for key, value in p.items()}
    report = check_backward(batch_norm, lambda d, c: (*batch_norm_backward(d, c), *more), X, GAIN, SHIFT, p)
    assert report.verdict == "pass", str(report)
    assert [argument.name for argument in report.arguments] == ["x", "gain", "shift"]
    assert "p['mean']" in notes(report)
    assert p.keys() == given.keys()
    assert all(np.array_equal(p[key], given[key]) for key in p)

    def slip(dout, cache):
        dx, dgain, dshift = batch_norm_backward(dout, cache)
        return dx, 1.001 * dgain, dshift, *more

    verdicts = [a.verdict for a in check_backward(batch_norm, slip, X, GAIN, SHIFT, p).arguments]
    assert verdicts == ["pass", "fail", "pass"]


def normalized(x, mean):
    mean *= 0.9
    mean += 0.1 * x.mean(axis=0)
    return (x - x.mean(axis=0)) ** 2, x - x.mean(axis=0)


def normalized_backward(dout, centred):
    d = 2 * dout * centred
    return d - d.mean(axis=0)


@pytest.mark.parametrize("more", [(), (None,)], ids=["1 gradient", "and None"])
@pytest.mark.parametrize("wrt", [None, ["x"]])
def test_running_statistics_in_an_array_that_is_written(more, wrt):
    def backward(dout, centred):
        d = normalized_backward(dout, centred)
        return (d, *more) if more else d

    report = check_backward(normalized, backward, X, np.zeros(3), wrt=wrt)
    assert report.verdict == "pass", str(report)
    assert "forward updates mean (by up to" in notes(report)


def test_running_statistics_beside_parameters():
    def forward(x, p):
        p["mean"] = 0.9 * p["mean"] + 0.1 * x.mean(axis=0)
        return x * p["gain"], (x, p["gain"])

    def backward(dout, cache):
        x, gain = cache
        return dout * gain, {"gain": (dout * x).sum(axis=0), "mean": None}

    report = check_backward(forward, backward, X, {"gain": GAIN, "mean": np.zeros(3)})
    assert report.verdict == "pass", str(report)
    assert [argument.name for argument in report.arguments] == ["x", "p['gain']"]
    missing = check_backward(forward, lambda d, c: (d * c[1], {"mean": None}), X, {"gain": GAIN, "mean": np.zeros(3)})
    assert missing.verdict == "fail"


def test_a_parameter_beside_a_text_needs_its_gradient_if_another_has_one():
    def forward(x, p):
        return x * p["gain"] + p["shift"], (x, p["gain"])

    report = check_backward(
        forward,
        lambda d, c: (d * c[1], {"gain": (d * c[0]).sum(axis=0), "shift": None, "name": None}),
        *(X, {"gain": GAIN, "shift": SHIFT, "name": "scale"}),
    )
    assert report.verdict == "fail"


def in_place_relu(x, w):
    np.maximum(x, 0, out=x)
    return x * w, (x.copy(), w)


def weights_renewed(x, p):
    p["w"] = p["w"] / np.linalg.norm(p["w"])
    return x * p["w"], (x, p["w"])


@pytest.mark.parametrize("wrt", [None, ["w"]])
def test_an_input_that_is_written_is_no_state(wrt):
    report = check_backward(
        in_place_relu, lambda d, c: (d * c[1] * (c[0] > 0), (d * c[0]).sum(axis=0)), X, GAIN, wrt=wrt
    )
    assert "forward writes into its arguments" in report.contract


def test_weights_that_are_renewed_in_their_dict_are_no_state():
    report = check_backward(weights_renewed, lambda d, c: (d * c[1], {"w": (d * c[0]).sum(axis=0)}), X, {"w": GAIN})
    assert "forward writes into its arguments" in report.contract


def test_ids_that_are_written_are_no_state():
    def forward(x, batch):
        batch["ids"] %= len(x)
        return x[batch["ids"]], (batch["ids"].copy(), x.shape)

    def backward(dout, cache):
        ids, shape = cache
        dx = np.zeros(shape)
        np.add.at(dx, ids, dout)
        return dx, None

    report = check_backward(forward, backward, X, {"ids": np.array([1, 7, 3])})
    assert report.contract == ("forward writes into its arguments",)


# --- state that changes the output


def momentum_in_a_dict(x, p):
    p["m"] = 0.9 * p["m"] + 0.1 * x.mean(axis=0)
    return (x - p["m"]) ** 2, x - p["m"]


def momentum_backward(dout, centred):
    d = 2 * dout * centred
    return d - 0.1 * d.mean(axis=0)


def counted_in_a_dict(x, p):
    p["t"] += 1
    return x * p["t"], p["t"]


def tiny_drift():
    steps = [0]

    def forward(x):
        steps[0] += 1
        return x * (1 + 1e-11 * steps[0]), x

    return forward


KEPT = {
    "a counter of an object": (Layer().counted, lambda d, t: d * t, (), "self.count"),
    "a mean that is used at once": (Layer().momentum, momentum_backward, (), "self.mean"),
    "such a mean in a dict": (
        momentum_in_a_dict,
        lambda d, c: (momentum_backward(d, c), None),
        ({"m": SHIFT},),
        "['m']",
    ),
    "a counter in a dict": (counted_in_a_dict, lambda d, t: (d * t, None), ({"t": 0},), "['t'] (from 0 to 1)"),
    "a counter that shows late": (Layer().late, twice(), (), "self.count"),
    "a counter that hardly shows": (tiny_drift(), lambda d, x: d, (), "steps[0]"),
}


@pytest.mark.parametrize("name", KEPT)
def test_state_that_changes_the_output_does_not_pass_and_is_named(name):
    forward, backward, more, kept = KEPT[name]
    report = check_backward(forward, backward, X, *more, wrt=["x"])
    assert report.verdict == "inconclusive", str(report)
    assert kept in report.arguments[0].reason


# --- state that does not


def test_statistics_that_an_object_keeps_are_a_note_with_their_size():
    layer = Layer()
    report = check_backward(layer.statistics, twice(), X)
    assert report.verdict == "pass"
    assert "self.mean (by up to 0.0" in notes(report)
    assert not check_backward(layer.statistics, twice(2.001), X)


def test_state_in_slots_is_seen():
    class Slotted:
        __slots__ = ("count",)

        def __init__(self):
            self.count = 0

        def forward(self, x):
            self.count += 1
            return x * x, x

    report = check_backward(Slotted().forward, twice(), X)
    assert report.verdict == "pass"
    assert "self.count (from 1 to 2)" in notes(report)


def test_an_output_in_one_buffer_is_a_note():
    report = check_backward(Layer().one_buffer, twice(), X)
    assert report.verdict == "pass"
    assert "the same array each time" in notes(report)
    assert check_backward(Layer().one_buffer, twice(2.1), X).verdict == "fail"


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.01, "fail")])
def test_outputs_that_are_the_arguments_or_the_caches_own_array(factor, verdict):
    assert check_backward(lambda x: (x, x), lambda d, x: factor * d, X).verdict == verdict

    def sigmoid(x):
        out = 1 / (1 + np.exp(-x))
        return out, out

    assert check_backward(sigmoid, lambda d, out: factor * d * out * (1 - out), X).verdict == verdict


# --- noise


def shuffled_sum(x):
    total = 0.0
    for value in np.random.permutation(x.ravel()):  # noqa: NPY002
        total = total + value**3
    return np.asarray(total), x


def shuffled_product():
    rng = np.random.default_rng(5)

    def forward(x, w):
        order = rng.permutation(x.shape[1])
        return np.tanh(x[:, order] @ w[order]), (x, w, np.tanh(x @ w))

    return forward


def product_backward(dout, cache):
    x, w, out = cache
    d = dout * (1 - out * out)
    return d @ w.T, x.T @ d


def test_sums_in_another_order_each_time_are_judged_and_their_noise_is_told():
    x = RNG.standard_normal((20, 2))
    report = check_backward(shuffled_sum, lambda d, x: 3 * d * x * x, x)
    assert report.verdict == "pass", str(report)
    assert "differ from call to call by up to" in notes(report)
    assert check_backward(shuffled_sum, lambda d, x: 3.001 * d * x * x, x).verdict == "fail"


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.001, "fail")])
def test_a_product_in_another_order_each_time(factor, verdict):
    x, w = RNG.standard_normal((6, 40)), RNG.standard_normal((40, 3)) / 6

    def backward(dout, cache):
        dx, dw = product_backward(dout, cache)
        return dx, factor * dw

    assert check_backward(shuffled_product(), backward, x, w).verdict == verdict


def test_noise_widens_the_error_bars_by_hand():
    def forward(x):
        return np.sqrt(x), x

    x = np.abs(X) + 1
    exact = check_backward(forward, lambda d, x: d / (2 * np.sqrt(x)), x)
    wide = check_backward(forward, lambda d, x: d / (2 * np.sqrt(x)), x, noise=1e-8)
    assert exact.verdict == wide.verdict == "pass"
    assert exact.error_bar < 1e-11
    assert 1e-9 < wide.error_bar < 1e-4
    slip = check_backward(forward, lambda d, x: 1.000001 * d / (2 * np.sqrt(x)), x)
    assert slip.verdict == "fail"  # a millionth is far outside of the exact bars, and within the wide ones
    assert check_backward(forward, lambda d, x: 1.01 * d / (2 * np.sqrt(x)), x, noise=1e-8).verdict == "fail"


@pytest.mark.parametrize("noise", [-1e-9, 1.0, np.nan])
def test_a_noise_that_is_none(noise):
    with pytest.raises(ValueError, match="noise="):
        check_backward(lambda x: (x, None), lambda d, _: d, X, noise=noise)


class Compiled:
    """A function as a compiler makes it: the user's own inside, among tables of the compiler's."""

    def __init__(self, function):
        self.__wrapped__ = function
        self.tables = {Untouched(): 1.0}

    def __call__(self, *args):
        return self.__wrapped__(*args)


class Untouched:
    def __repr__(self):
        raise AssertionError("its words take seconds")


def test_a_compiled_function_is_looked_into_no_further_than_its_own():
    calls = [0]

    def counted(x):
        calls[0] += 1
        return x * x, x

    report = check_backward(Compiled(counted), lambda d, x: 2 * d * x, np.ones(3))
    assert report
    assert any("calls[0]" in note for note in report.notes)
