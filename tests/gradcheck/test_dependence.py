"""Causality and independence of samples: right and wrong functions, and when nothing can be said."""

from functools import partial

import numpy as np
import pytest

from npgpt.cases import GPTCase, _config
from npgpt.gradcheck import check_batch_independence, check_causality
from npgpt.models.gpt2 import gpt_backward, gpt_forward
from npgpt.models.gpt2_parameters import zero_parameters
from npgpt.ops import FAST, REFERENCE
from tests.gradcheck import batches, sequences

SEQUENCES, BATCH = sequences.X, batches.X


def reason(report):
    (argument,) = (argument for argument in report.arguments if argument.verdict != "pass")
    return argument.reason


# --- causality


@pytest.mark.parametrize("name", sequences.RIGHT)
def test_what_depends_on_the_past_alone_is_causal(name):
    report = check_causality(sequences.RIGHT[name], SEQUENCES)
    assert report.verdict == "pass", report


@pytest.mark.big
@pytest.mark.parametrize(("offset", "scale"), [(0, 1e-8), (1e4, 1), (0, 30), (0.3, 0)])
def test_no_size_of_the_inputs_raises_a_false_alarm(offset, scale):
    for name, forward in sequences.RIGHT.items():
        report = check_causality(forward, offset + scale * SEQUENCES)
        assert report.verdict != "fail", f"{name}\n{report}"
    for name, forward in batches.RIGHT.items():
        report = check_batch_independence(forward, offset + scale * BATCH)
        assert report.verdict != "fail", f"{name}\n{report}"


@pytest.mark.parametrize("seed", range(2))
def test_no_draw_raises_a_false_alarm(seed):
    for name, forward in sequences.RIGHT.items():
        report = check_causality(forward, SEQUENCES, rng=np.random.default_rng(seed))
        assert report.verdict == "pass", f"{name}\n{report}"


@pytest.mark.parametrize("name", sequences.WRONG)
def test_what_depends_on_the_future_is_found(name):
    report = check_causality(sequences.WRONG[name], SEQUENCES)
    assert report.verdict == "fail", report


@pytest.mark.parametrize(("t", "s"), [(0, 1), (2, 5), (3, 4), (0, 5)])
def test_the_first_output_and_the_first_input_are_named(t, s):
    def forward(x):
        out = np.cumsum(x, axis=1)
        out[:, t] += 1e-9 * x[:, s]
        out[:, 4] += x[:, 5]
        return out

    report = check_causality(forward, SEQUENCES)
    assert reason(report).startswith(f"output {t} depends on input {s}: it changes by ")
    assert report.arguments[0].index[1] == t


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_time_axis_may_be_any(axis):
    x = np.moveaxis(SEQUENCES, 1, axis)

    def along(f):
        return lambda x: np.moveaxis(f(np.moveaxis(x, axis, 1)), 1, axis)

    assert check_causality(along(sequences.recurrent), x, time_axis=axis)
    assert check_causality(along(sequences.WRONG["given the next place"]), x, time_axis=axis).verdict == "fail"


def test_the_outputs_may_have_it_elsewhere():
    forward = lambda x: np.cumsum(x, axis=1).sum(axis=2).T  # noqa: E731
    assert check_causality(forward, SEQUENCES, out_axis=0)
    assert check_causality(lambda x: forward(x)[::-1], SEQUENCES, out_axis=0).verdict == "fail"


def test_the_gradient_must_be_causal_too():
    forward, backward = sequences.attention_pair()
    assert check_causality(forward, SEQUENCES, sequences.W, backward=backward)
    forward, backward = sequences.attention_pair(mask_in_backward=False)
    report = check_causality(forward, SEQUENCES, sequences.W, backward=backward)
    assert [a.verdict for a in report.arguments] == ["pass", "fail", "fail"]
    assert report.arguments[1].reason.startswith("a dout at output 0 alone gives input 1 a gradient of ")
    assert report.arguments[2].reason.startswith("the gradient of output 0 depends on input 1: it changes by ")


def test_moves_can_be_kept_small():
    assert check_causality(sequences.attention(-1e9), SEQUENCES).verdict == "fail"
    assert check_causality(sequences.attention(-1e9), SEQUENCES, moves=[1e-3, 1])


def test_in_float32_rounding_is_larger():
    for name, forward in sequences.RIGHT.items():
        report = check_causality(forward, SEQUENCES, dtype=np.float32)
        assert report.verdict == "pass", f"{name}\n{report}"
    assert check_causality(sequences.leak(1e-4), SEQUENCES, dtype=np.float32).verdict == "fail"


def test_of_a_long_sequence_some_places_are_looked_at():
    x = np.random.default_rng(0).standard_normal((1, 100, 2))
    report = check_causality(sequences.RIGHT["running mean"], x)
    assert report
    assert report.notes == ("16 of 99 places in time were looked at",)
    assert check_causality(sequences.WRONG["given the next place"], x).verdict == "fail"


@pytest.mark.parametrize(
    ("forward", "x", "why"),
    [
        (sequences.recurrent, SEQUENCES[:, :1], "1 place in time"),
        (lambda x: np.tanh(x @ sequences.W), SEQUENCES, "nothing here mixes places in time"),
        (lambda x: x + 0 * sequences.WRONG["no mask"](x), SEQUENCES, "nothing here mixes places in time"),
        (lambda x: 0 * x, SEQUENCES, "no move of the inputs changes it"),
        (lambda x: x + np.random.default_rng().random(), SEQUENCES, "two calls of forward differ"),
        (lambda x: np.cumsum(x, axis=1) * np.nan, SEQUENCES, "out is NaN at these arguments"),
        (lambda x: np.exp(1e3 * (x != SEQUENCES).any()) * x, SEQUENCES, "no move leaves anything to judge"),
        (lambda ids: np.cumsum(ids, axis=1), np.ones((2, 5), int), "the inputs cannot be moved"),
        (lambda x: x.sum(), SEQUENCES, "no output has the axis"),
    ],
)
def test_what_proves_nothing_about_time_is_inconclusive(forward, x, why):
    report = check_causality(forward, x)
    assert report.verdict == "inconclusive"
    assert why in reason(report)


# --- the batch


@pytest.mark.parametrize("name", batches.RIGHT)
def test_what_treats_samples_alone_passes(name):
    report = check_batch_independence(batches.RIGHT[name], BATCH)
    assert report.verdict == "pass", report


@pytest.mark.parametrize("name", batches.WRONG)
def test_what_mixes_samples_is_found(name):
    report = check_batch_independence(batches.WRONG[name], BATCH)
    assert report.verdict == "fail", report


@pytest.mark.parametrize("name", batches.WRONG_BACKWARDS)
def test_a_backward_that_mixes_samples_is_found(name):
    forward, backward = batches.LINEAR

    def wrong(dout, cache):
        return batches.WRONG_BACKWARDS[name](dout, *backward(dout, cache), cache)

    report = check_batch_independence(forward, BATCH, batches.W, backward=wrong)
    assert report.arguments[0].verdict == "pass"
    assert report.verdict == "fail", report


def test_pairs_that_treat_samples_alone_pass():
    for forward, backward in (batches.LINEAR, batches.norm(axis=1)):
        report = check_batch_independence(forward, BATCH, batches.W, backward=backward)
        assert [a.verdict for a in report.arguments] == ["pass"] * 3, report


def test_batch_norm_in_training_is_found_in_output_and_gradients():
    forward, backward = batches.norm(axis=0)
    report = check_batch_independence(forward, BATCH, batches.W, backward=backward)
    assert [a.verdict for a in report.arguments] == ["fail"] * 3
    assert report.arguments[0].reason.startswith("sample 0 depends on sample 1: it changes by ")


def test_padding_up_to_the_longest_is_found():
    assert check_batch_independence(batches.pooled, batches.IDS)
    report = check_batch_independence(partial(batches.pooled, divide_by_longest=True), batches.IDS)
    assert report.verdict == "fail"
    report = check_batch_independence(batches.trimmed, batches.IDS)
    assert reason(report).startswith("its shape becomes ")


@pytest.mark.parametrize(("one", "other"), [(0, 1), (4, 0), (3, 2)])
def test_the_two_samples_are_named(one, other):
    def forward(x):
        out = np.tanh(x)
        out[one] += 1e-9 * x[other]
        return out

    assert f"sample {one} depends on sample {other}: " in reason(check_batch_independence(forward, BATCH))


def test_the_batch_may_lie_along_any_axis():
    assert check_batch_independence(lambda x: np.cumsum(x, axis=0), BATCH, axis=1)
    assert check_batch_independence(lambda x: np.cumsum(x, axis=0), BATCH, axis=-1)
    assert check_batch_independence(lambda x: np.cumsum(x, axis=1), BATCH, axis=1).verdict == "fail"


def test_several_inputs_move_together():
    def forward(x, weight, scale):
        return {"y": x["a"] @ weight * scale[:, None], "z": x["b"] + scale}

    x = {"a": BATCH, "b": BATCH[:, 0]}
    scale = np.linspace(1, 2, 5)
    assert check_batch_independence(forward, x, batches.W, scale, inputs=["x", "scale"])
    wrong = lambda x, weight, scale: forward(x, weight, scale / scale.sum())  # noqa: E731
    assert check_batch_independence(wrong, x, batches.W, scale, inputs=["x", "scale"]).verdict == "fail"


def test_what_is_not_looked_at_is_said():
    report = check_batch_independence(lambda x: (np.tanh(x), x.mean(), "text"), BATCH)
    assert report
    assert [u.name for u in report.not_checked] == ["out[1]", "out[2]"]
    report = check_batch_independence(
        lambda x, y: (x * y, None), BATCH, BATCH, backward=lambda dout, cache: (dout * BATCH, 0 * dout)
    )
    assert [(u.name, u.reason) for u in report.not_checked] == [("gradient of y", "it is zero throughout")]


def test_a_gradient_of_none_is_not_checked():
    report = check_batch_independence(
        lambda x, y: (x * y, None), BATCH, BATCH, backward=lambda dout, cache: (dout * BATCH, None)
    )
    assert [(u.name, u.reason) for u in report.not_checked] == [("gradient of y", "backward returned None")]


def test_exceptions_at_moved_inputs_are_told():
    def picky(x):
        if x.min() < 0:
            raise ValueError("negative")
        return np.sqrt(x)

    report = check_batch_independence(picky, np.abs(BATCH))
    assert report
    assert any("ValueError: negative" in note for note in report.notes)

    def pickier(x):
        if not np.array_equal(x, BATCH):
            raise ValueError("other numbers")
        return x

    assert "ValueError: other numbers" in reason(check_batch_independence(pickier, BATCH))


@pytest.mark.parametrize(
    ("forward", "x", "why"),
    [
        (np.tanh, BATCH[:1], "1 sample"),
        (lambda x: 0 * x, BATCH, "no move of the inputs changes it"),
        (lambda x: x * np.random.default_rng().random(x.shape), BATCH, "two calls of forward differ"),
        (lambda x: x.sum(), BATCH, "no output has the axis"),
    ],
)
def test_what_proves_nothing_about_a_batch_is_inconclusive(forward, x, why):
    report = check_batch_independence(forward, x)
    assert report.verdict == "inconclusive"
    assert why in reason(report)


def test_gradients_of_zero_prove_nothing():
    report = check_batch_independence(lambda x: (x, None), BATCH, backward=lambda dout, cache: 0 * dout)
    assert report.verdict == "inconclusive"
    assert reason(report) == "all gradients are zero or None"


def test_arguments_are_left_as_they_are_even_by_a_forward_that_writes():
    x = BATCH.copy()

    def forward(x):
        x *= 2
        return x

    assert check_batch_independence(forward, x)
    np.testing.assert_array_equal(x, BATCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "z"}, "inputs='z' is not an argument; those are: x, y"),
        ({"inputs": 2}, "inputs=2 is not an argument"),
        ({"inputs": []}, "inputs is empty"),
        ({"inputs": "y"}, "no array of numbers is in y"),
        ({"axis": 2}, r"x has the shape \(5, 4\), and so no axis 2"),
        ({"moves": [1, 0]}, r"moves=\[1, 0\] must be positive"),
        ({"dtype": np.int64}, "dtype=int64 is not float64 or float32"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        check_batch_independence(lambda x, y: x, BATCH, None, **options)


def test_more_mistakes_are_told():
    with pytest.raises(ValueError, match="the sizes along axis 0 differ: x 5, y 4"):
        check_batch_independence(lambda x, y: x, BATCH, BATCH[:4], inputs=[0, 1])
    with pytest.raises(TypeError, match="must return a pair"):
        check_batch_independence(lambda x: x, BATCH, backward=lambda dout, cache: dout)
    with pytest.raises(ValueError, match=r"the gradient of x is \(4,\)"):
        check_batch_independence(lambda x: (x, None), BATCH, backward=lambda dout, cache: dout[0])


# --- npgpt's own GPT

CONFIG = _config()


def gpt(ops):
    def forward(ids, *arrays):
        params = zero_parameters(CONFIG, np.result_type(*arrays).name)
        params |= dict(zip(params, arrays, strict=True))
        return gpt_forward(params, ids, CONFIG, ops, None)

    return forward, lambda dout, cache: tuple(gpt_backward(dout, cache).values())


@pytest.mark.big
@pytest.mark.parametrize("ops", [REFERENCE, FAST])
def test_the_gpt_is_causal_and_treats_samples_alone(ops):
    rng = np.random.default_rng(4)
    ids = rng.integers(0, CONFIG.vocab_size, (3, 6))
    arrays = GPTCase("", CONFIG).args(rng)
    forward, backward = gpt(ops)
    for check in (check_causality, check_batch_independence):
        report = check(forward, ids, *arrays, backward=backward)
        assert report.verdict == "pass", report
        assert len(report.arguments) == 1 + len(arrays)
