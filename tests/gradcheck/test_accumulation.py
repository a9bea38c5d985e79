"""A batch in parts: ways to accumulate, right and wrong, and when nothing can be said."""

import numpy as np
import pytest

from npgpt.cases import GPTCase, _config
from npgpt.gradcheck import check_accumulation
from npgpt.models.gpt2 import loss_backward, loss_forward
from npgpt.models.gpt2_parameters import zero_parameters
from npgpt.ops import FAST
from tests.gradcheck import parts
from tests.gradcheck.parts import BATCH, PARAMS, RIGHT, WRONG, accumulate, count, targets_share, whole

MEAN_OF_MEANS = WRONG["mean of means"]


@pytest.mark.parametrize("name", RIGHT)
def test_right_ways_to_accumulate_pass(name):
    report = check_accumulation(*RIGHT[name], PARAMS, BATCH)
    assert report.verdict == "pass", report
    assert [a.name for a in report.arguments] == ["loss", "grads['w']", "grads['b']"]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ways_to_accumulate_fail(name):
    report = check_accumulation(*WRONG[name], PARAMS, BATCH)
    assert report.verdict == "fail", report


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mean of means", "it is the mean of the parts' own: weight each by its number of unmasked targets"),
        ("sum of means", "it is the sum of the parts' own"),
        ("overwritten", "it is that of the last part alone"),
        ("one gradient is overwritten", "it is that of the last part alone"),
        ("begins at a billionth", ""),
    ],
)
def test_the_hint_says_what_it_is_instead(name, hint):
    wrong = [a for a in check_accumulation(*WRONG[name], PARAMS, BATCH).arguments if a.verdict == "fail"]
    assert {a.hint for a in wrong} == {hint}


def test_only_the_gradients_that_are_wrong_are_named():
    report = check_accumulation(*WRONG["one gradient is overwritten"], PARAMS, BATCH)
    assert [a.verdict for a in report.arguments] == ["pass", "pass", "fail"]
    assert report.arguments[2].reason == "in 6 parts it is not that of the whole batch"


def test_without_masked_targets_the_mean_of_means_proves_nothing():
    batch = BATCH | {"targets": np.abs(BATCH["targets"]) % 5}
    report = check_accumulation(*MEAN_OF_MEANS, PARAMS, batch)
    assert report.verdict == "inconclusive"
    assert "the plain mean of the parts is right too" in report.arguments[0].reason
    assert check_accumulation(*MEAN_OF_MEANS, PARAMS, batch, parts=[1, 2, 3]).verdict == "fail"
    assert check_accumulation(whole, accumulate(targets_share), PARAMS, batch, parts=[1, 2, 3])


def test_as_many_masked_targets_in_each_sample_prove_nothing():
    targets = np.abs(BATCH["targets"]) % 5
    targets[:, 2] = -100
    assert check_accumulation(*MEAN_OF_MEANS, PARAMS, BATCH | {"targets": targets}).verdict == "inconclusive"


def test_a_batch_that_is_even_as_it_lies_is_reordered():
    targets = np.abs(BATCH["targets"]) % 5
    targets[[0, 3], :3] = -100
    batch = BATCH | {"targets": targets}
    assert check_accumulation(*MEAN_OF_MEANS, PARAMS, batch, parts=2).verdict == "fail"


def test_batches_may_be_tuples_and_masks_arrays():
    mask = np.random.default_rng(3).random((6, 4)) < 0.7

    def with_mask(params, batch):
        x, targets, mask, name = batch
        assert name == "train"
        return whole(params, {"x": x, "targets": np.where(mask, targets, -100)})

    def accumulated(share):
        def run(params, pieces):
            total = sum(piece[2].sum() for piece in pieces)
            one = [with_mask(params, piece) for piece in pieces]
            weights = [share(piece[2].sum(), total, len(pieces)) for piece in pieces]
            grads = {k: sum(w * g[k] for w, (_, g) in zip(weights, one, strict=True)) for k in params}
            return sum(w * loss for w, (loss, _) in zip(weights, one, strict=True)), grads

        return run

    batch = (BATCH["x"], np.abs(BATCH["targets"]) % 5, mask, "train")
    assert check_accumulation(with_mask, accumulated(lambda own, total, n: own / total), PARAMS, batch)
    report = check_accumulation(with_mask, accumulated(lambda own, total, n: 1 / n), PARAMS, batch)
    assert report.verdict == "fail"


def test_in_float32_rounding_is_larger():
    assert check_accumulation(*RIGHT["weighted by targets"], PARAMS, BATCH, dtype=np.float32)
    assert check_accumulation(*MEAN_OF_MEANS, PARAMS, BATCH, dtype=np.float32).verdict == "fail"


def test_a_part_without_targets_makes_the_mean_of_means_nan():
    batch = BATCH | {"targets": np.where(np.arange(6)[:, None] == 2, -100, BATCH["targets"])}
    with np.errstate(invalid="ignore"):
        report = check_accumulation(*MEAN_OF_MEANS, PARAMS, batch, parts=6)
        assert report.verdict == "fail"
        assert np.isnan(report.arguments[0].analytic)
        skipping = accumulate(targets_share, take=lambda parts: [part for part in parts if count(part)])
        assert check_accumulation(whole, skipping, PARAMS, batch, parts=6)


@pytest.mark.parametrize(
    ("function", "batch", "why"),
    [
        (whole, {name: array[:1] for name, array in BATCH.items()}, "1 sample"),
        (lambda params, batch: (0.0, {"w": 0 * params["w"]}), BATCH, "loss and gradients are zero"),
        (lambda params, batch: (np.random.default_rng().random(), {}), BATCH, "two calls of forward differ"),
        (lambda params, batch: (np.nan, {}), BATCH, "infinite or NaN"),
    ],
)
def test_what_proves_nothing_is_inconclusive(function, batch, why):
    report = check_accumulation(function, lambda params, parts: function(params, parts[0]), PARAMS, batch)
    assert report.verdict == "inconclusive", report
    assert why in report.arguments[0].reason


def test_shapes_that_differ_fail():
    accumulated = accumulate(targets_share)
    report = check_accumulation(
        whole, lambda params, pieces: (np.ones(2), accumulated(params, pieces)[1]), PARAMS, BATCH, parts=2
    )
    assert report.arguments[0].verdict == "fail"
    assert "(2,)" in report.arguments[0].reason


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (BATCH, {"parts": 4}, "a batch of 6 cannot be split into parts=4 equal ones"),
        (BATCH, {"parts": [2, 3]}, r"parts=\[2, 3\] do not add up to the batch of 6"),
        (BATCH | {"x": BATCH["x"][:5]}, {}, r"the sizes along axis 0 differ: batch\['x'\] 5, batch\['targets'\] 6"),
        (BATCH, {"axis": 2}, r"batch\['targets'\] has the shape \(6, 4\), and so no axis 2"),
        ({}, {}, "the batch holds no arrays"),
    ],
)
def test_mistakes_are_told(batch, options, message):
    with pytest.raises(ValueError, match=message):
        check_accumulation(*MEAN_OF_MEANS, PARAMS, batch, **options)


def test_results_must_be_pairs_of_the_same_structure():
    with pytest.raises(TypeError, match=r"a pair .loss, grads. must be returned, and not float64"):
        check_accumulation(lambda params, batch: whole(params, batch)[0], MEAN_OF_MEANS[1], PARAMS, BATCH)
    with pytest.raises(ValueError, match=r"accumulated returns loss, but the whole loss, grads\['w'\]"):
        check_accumulation(whole, lambda params, pieces: (1.0, {}), PARAMS, BATCH)


def test_arguments_are_left_as_they_are():
    before = {name: value.copy() for name, value in PARAMS.items()}

    def writes(params, batch):
        result = whole(params, batch)
        params["w"] *= 0
        batch["x"] *= 0
        return result

    x = BATCH["x"].copy()
    assert check_accumulation(writes, accumulate(targets_share, lambda p, b: whole(p, b)), PARAMS, BATCH)
    np.testing.assert_array_equal(BATCH["x"], x)
    for name, value in before.items():
        np.testing.assert_array_equal(PARAMS[name], value)


@pytest.mark.big
def test_the_gpt_accumulates_masked_targets():
    config, rng = _config(), np.random.default_rng(5)
    arrays = GPTCase("", config).args(rng)
    ids, targets = rng.integers(0, 5, (2, 4, 6))
    targets[0, :3] = targets[2, 5] = -100

    def forward(arrays, batch):
        params = zero_parameters(config, np.result_type(*arrays).name)
        params |= dict(zip(params, arrays, strict=True))
        return loss_forward(params, batch["ids"], batch["targets"], config, FAST)

    def backward(dloss, cache):
        return dict(loss_backward(dloss, cache))

    def accumulated(arrays, pieces):
        total = sum(map(count, pieces))
        loss, grads = 0.0, {}
        for piece in pieces:
            own, cache = forward(arrays, piece)
            loss += own * count(piece) / total
            for name, grad in backward(count(piece) / total, cache).items():
                grads[name] = grads.get(name, 0) + grad
        return loss, grads

    batch = {"ids": ids, "targets": targets}
    report = check_accumulation((forward, backward), accumulated, arrays, batch)
    assert report.verdict == "pass", report
    assert len(report.arguments) == 1 + len(arrays)
    assert parts.count(batch) == 20
