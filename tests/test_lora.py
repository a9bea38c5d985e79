"""Adapters of a whole model: merging, their gradients against finite differences, what is refused."""

import copy
import math

import numpy as np
import pytest

from npgpt import GPT, AdamW, GPTConfig
from npgpt.data.batch import Batch
from npgpt.gradcheck import check_gradient
from npgpt.models.lora import TARGETS, Adapters
from npgpt.training.workers import Workers

SIZES = {"vocab_size": 7, "n_positions": 5, "n_embd": 6, "n_layer": 2, "n_head": 3, "n_inner": 10}
IDS = np.array([[0, 6, 3, 3, 1], [2, 5, 0, 4, 6]])
NEXT = np.array([[6, 3, 3, -100, 2], [5, 0, 4, 6, 1]])


def make_model(dtype="float64", **changes):
    """Return a model with weights of order one: under those of an initialisation a wrong gradient may look right."""
    model = GPT(GPTConfig(**SIZES | changes), dtype=dtype)
    model.params.flat[:] = np.random.default_rng(4).standard_normal(model.params.flat.size)
    return model


def make_adapters(model, rank=2, **options):
    """Return adapters that change the model: both of their factors are of order one."""
    adapters = Adapters(model, rank, **options)
    adapters.params.flat[:] = np.random.default_rng(5).standard_normal(adapters.params.flat.size)
    return adapters


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_new_adapters_change_nothing(dtype):
    model = make_model(dtype)
    before = model.params.flat.copy()
    adapters = Adapters(model, rank=3, alpha=32)
    adapters.merge_into(model)
    np.testing.assert_array_equal(model.params.flat, before)
    assert adapters.params.flat.dtype == dtype


@pytest.mark.parametrize("targets", [TARGETS, ("c_attn",), ("c_proj", "mlp.c_fc")])
def test_merging_writes_the_formula_over_the_targets_alone(targets):
    model = make_model()
    before = copy.deepcopy(model.params)
    adapters = make_adapters(model, rank=2, alpha=3, targets=targets)
    adapters.merge_into(model)
    changed = set()
    for name, weight in model.params.items():
        a, b = (adapters.params.get(f"{name.removesuffix('.weight')}.lora_{f}.weight") for f in "AB")
        if a is None:
            np.testing.assert_array_equal(weight, before[name])
        else:
            changed.add(name)
            # each number is a sum of three terms of order one
            np.testing.assert_allclose(weight, before[name] + 1.5 * (b @ a).T, rtol=1e-13, atol=1e-14)
            assert not np.allclose(weight, before[name])
    ends = {"c_attn": ("attn.c_attn",), "c_proj": ("attn.c_proj", "mlp.c_proj")}
    wanted = [end for target in targets for end in ends.get(target, (target,))]
    assert changed == {f"h.{i}.{end}.weight" for i in range(2) for end in wanted}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_merging_again_gives_the_same_bits(dtype):
    model = make_model(dtype)
    adapters = make_adapters(model)
    adapters.merge_into(model)
    once = model.params.flat.copy()
    adapters.merge_into(model)
    np.testing.assert_array_equal(model.params.flat, once)
    # by way of other adapters, and into another copy of the model
    kept = adapters.params.flat.copy()
    adapters.params.flat[:] = 1e3
    adapters.merge_into(model)
    assert not np.array_equal(model.params.flat, once)
    adapters.params.flat[:] = kept
    adapters.merge_into(model)
    np.testing.assert_array_equal(model.params.flat, once)
    other = make_model(dtype)
    adapters.merge_into(other)
    np.testing.assert_array_equal(other.params.flat, once)


ONE = ("mlp.c_proj",), {"bias": False, "tie_word_embeddings": False}


@pytest.mark.parametrize(
    ("targets", "changes", "ops"),
    [
        pytest.param(TARGETS, {}, "reference", id="all-reference", marks=pytest.mark.big),
        pytest.param(TARGETS, {}, "fast", id="all-fast"),
        pytest.param(*ONE, "reference", id="one-reference"),
        pytest.param(*ONE, "fast", id="one-fast"),
        pytest.param(("c_attn", "c_fc"), {}, "reference", id="two-reference", marks=pytest.mark.big),
        pytest.param(("c_attn", "c_fc"), {}, "fast", id="two-fast", marks=pytest.mark.big),
    ],
)
def test_gradients_against_finite_differences_of_the_whole_model(targets, changes, ops):
    model = make_model(**changes)
    model = GPT(model.config, ops=ops, params=model.params)
    model.params.flat *= 0.5  # under larger weights attention sees one key alone, and has hardly a gradient
    adapters = make_adapters(model, rank=2, alpha=0.5, targets=targets)

    def merged(flat):
        adapters.params.flat[:] = flat
        adapters.merge_into(model)

    def loss(flat):
        merged(flat)
        return model.loss(IDS, NEXT)

    def gradient(flat):
        merged(flat)
        return adapters.gradients(model.loss_and_grads(IDS, NEXT)[1]).flat

    flat = adapters.params.flat.copy()
    report = check_gradient(loss, gradient, flat, tolerance=1e-8)
    assert report, report
    # none that is wrong can hide below the tolerance: all are some ten thousand times larger
    merged(flat)
    for name, grad in adapters.gradients(model.loss_and_grads(IDS, NEXT)[1]).items():
        assert np.sqrt(np.mean(grad**2)) > 1e-4, name


def test_a_step_lowers_the_loss_and_leaves_the_rest_of_the_model():
    model = make_model("float32")
    before = copy.deepcopy(model.params)
    adapters = Adapters(model, rank=2)
    optimizer = AdamW(adapters.params, weight_decay=0.0)
    adapters.merge_into(model)
    losses = []
    with Workers(model, batch_size=2, threads=1) as workers:
        for _ in range(40):
            loss, grads, _ = workers.loss_and_grads([Batch(IDS, NEXT)])
            losses.append(loss)
            optimizer.step(adapters.gradients(grads), lr=0.02)
            adapters.merge_into(model)
    assert losses[-1] < 0.5 * losses[0]
    for name, weight in model.params.items():
        trained = name.endswith(tuple(f"{target}.weight" for target in TARGETS))
        assert np.array_equal(weight, before[name]) is not trained, name


def test_lora_a_is_uniform_as_pefts_and_follows_the_seed():
    model = GPT(GPTConfig(**SIZES | {"n_embd": 96, "n_inner": 300}))
    adapters = Adapters(model, rank=16, seed=1)
    for name, array in adapters.params.items():
        if name.endswith("lora_B.weight"):
            assert not array.any()
        else:
            bound = 1 / math.sqrt(array.shape[1])
            assert 0.99 * bound < array.max() <= bound  # none of 1536 draws is above 0.99 in one of 2000 cases
            assert -bound <= array.min() < -0.99 * bound
            # a uniform's standard deviation is bound / sqrt(3); the estimate's own is 1.2% of it, and 6% is five
            assert array.std() == pytest.approx(bound / math.sqrt(3), rel=0.06)
    same, other = Adapters(model, rank=16, seed=1), Adapters(model, rank=16, seed=2)
    np.testing.assert_array_equal(same.params.flat, adapters.params.flat)
    assert not np.array_equal(other.params.flat, adapters.params.flat)
    wide = GPT(model.config, dtype="float64")
    np.testing.assert_array_equal(Adapters(wide, rank=16, seed=1).params.flat.astype(np.float32), adapters.params.flat)


def test_names_shapes_and_the_scale_of_one():
    adapters = Adapters(make_model(), rank=4, targets=["mlp.c_fc", "c_attn"])
    assert adapters.params.shapes == {
        "h.0.attn.c_attn.lora_A.weight": (4, 6),
        "h.0.attn.c_attn.lora_B.weight": (18, 4),
        "h.0.mlp.c_fc.lora_A.weight": (4, 6),
        "h.0.mlp.c_fc.lora_B.weight": (10, 4),
        "h.1.attn.c_attn.lora_A.weight": (4, 6),
        "h.1.attn.c_attn.lora_B.weight": (18, 4),
        "h.1.mlp.c_fc.lora_A.weight": (4, 6),
        "h.1.mlp.c_fc.lora_B.weight": (10, 4),
    }
    assert (adapters.alpha, adapters.targets) == (4, ("attn.c_attn", "mlp.c_fc"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0 must be at least 1"),
        ({"rank": -2}, "rank=-2 must be at least 1"),
        ({"rank": 7}, "rank=7 is more than h.0.attn.c_attn.weight of 6 x 18 can have"),
        ({"alpha": 0}, "alpha=0 must be a number above 0"),
        ({"alpha": math.nan}, "alpha=nan must be a number above 0"),
        ({"alpha": math.inf}, "alpha=inf must be a number above 0"),
        ({"targets": ["c_atn"]}, "unknown target 'c_atn'; did you mean 'c_attn'?"),
        ({"targets": ["attn.c_proj", "mlp.cproj"]}, "unknown target 'mlp.cproj'; did you mean 'mlp.c_proj'?"),
        ({"targets": ["_attn"]}, "unknown target '_attn'"),
        ({"targets": []}, "there is no target: choose some of attn.c_attn, "),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the text is compared below
        Adapters(make_model(), **{"rank": 2} | options)
    assert message in str(error.value)


def test_a_rank_that_is_no_integer_is_refused():
    with pytest.raises(TypeError):
        Adapters(make_model(), 2.5)


def test_there_are_no_gradients_before_a_merge():
    model = make_model()
    with pytest.raises(ValueError, match="call merge_into first"):
        Adapters(model, 2).gradients(model.params)
