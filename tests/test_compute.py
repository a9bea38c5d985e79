"""`--compute bf16`: what a model computes then, where it is refused, and what a run records."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, TrainConfig
from npgpt.kernels import bf16
from npgpt.models.gpt2 import loss_backward, loss_forward
from npgpt.ops import FAST, REFERENCE, bf16_ops
from npgpt.training import compute
from npgpt.training.compute import require_compute, set_compute
from tests.test_cli_train import resume, settings, train

CONFIG = GPTConfig(vocab_size=19, n_positions=8, n_embd=16, n_layer=2, n_head=2)


def case(ops, kind, seed):
    """Return a small model in which every parameter counts, and a batch."""
    model = GPT(CONFIG, ops=ops)
    model.compute = kind
    rng = np.random.default_rng(seed)
    for array in model.params.values():
        array[...] = 0.3 * rng.standard_normal(array.shape)
    ids, targets = rng.integers(0, 19, (2, 2, 8))
    return model, ids, np.where(rng.random((2, 8)) < 0.2, -100, targets)


def differences(found, expected):
    return [np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name]) for name in expected]


def test_a_model_s_gradients_are_those_of_the_rounded_ops():
    model, ids, targets = case("reference", "bf16", 0)
    loss, grads = model.loss_and_grads(ids, targets, dloss=0.7)
    expected, cache = loss_forward(model.params, ids, targets, CONFIG, bf16_ops(REFERENCE))
    assert loss == expected
    np.testing.assert_array_equal(grads.flat, loss_backward(0.7, cache).flat)


def test_evaluation_and_generation_are_in_float32():
    model, ids, targets = case("reference", "bf16", 0)
    before = model.loss(ids, targets), model.logits(ids)
    model.compute = "float32"
    assert model.loss(ids, targets) == before[0]
    np.testing.assert_array_equal(model.logits(ids), before[1])


@pytest.mark.big
@pytest.mark.skipif(FAST.step is None, reason="there is no compiled step here")
def test_the_compiled_step_rounds_what_the_definition_rounds():
    """They add up in another order. So an operand may differ in its last bit, and if it lies in the middle of two
    bfloat16s, be rounded to the other side, which the gradients show at 1e-4; but with some thousand operands that is
    rare. Without it they agree to float32's own errors, while a product that is not rounded makes a difference of 1e-3.
    """
    errors = []
    for seed in range(5):
        model, ids, targets = case("reference", "bf16", seed)
        loss, expected = model.loss_and_grads(ids, targets, dloss=0.7)
        model.compute = "float32"
        plain = model.loss_and_grads(ids, targets, dloss=0.7)[1]
        assert min(differences(plain, expected)) > 5e-4, "every gradient shows whether operands were rounded"
        model, ids, targets = case("fast", "bf16", seed)
        found_loss, found = model.loss_and_grads(ids, targets, dloss=0.7)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        errors.append(max(differences(found, expected)))
    assert np.median(errors) < 2e-6, errors
    assert max(errors) < 1e-2, errors


@pytest.mark.parametrize("missing", ["this processor has no instruction", "numba is too old"])
def test_it_is_refused_in_a_line_where_something_is_missing(capsys, text, monkeypatch, missing):
    monkeypatch.setattr(bf16, "missing", lambda: missing)
    code, out, err = train(capsys, "--compute", "bf16")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert missing in err
    assert "--compute float32" in err
    assert not (text / "r" / "train.json").exists()


def test_it_is_refused_in_a_line_with_figures_where_it_does_not_pay(capsys, text, monkeypatch):
    monkeypatch.setattr(bf16, "missing", lambda: "")
    monkeypatch.setattr(compute, "_speeds", lambda: (104e9, 80e9))
    code, out, err = train(capsys, "--compute", "bf16")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "80 GFLOP/s" in err
    assert "104" in err


def test_it_is_accepted_where_it_pays_and_measured_once(monkeypatch):
    calls = []
    monkeypatch.setattr(bf16, "missing", lambda: "")
    monkeypatch.setattr(bf16, "speeds", lambda: calls.append(1) or (100e9, 200e9))
    compute._speeds.cache_clear()
    try:
        for _ in range(2):
            require_compute(TrainConfig(compute="bf16"))
        assert calls == [1]
        require_compute(TrainConfig())
    finally:
        compute._speeds.cache_clear()


def test_the_definition_is_refused_nowhere_and_a_run_keeps_it(capsys, text, monkeypatch):
    monkeypatch.setattr(bf16, "missing", lambda: "this processor has no instruction")
    losses = {}
    for kind in ("float32", "bf16"):
        assert train(capsys, "--ops", "reference", "--compute", kind, "--out", kind)[0] == 0
        assert settings(text / kind)["compute"] == kind
        lines = [json.loads(line) for line in (text / kind / "metrics.jsonl").read_text().splitlines()]
        losses[kind] = [line["loss"] for line in lines if "loss" in line]
    assert losses["bf16"] != losses["float32"]
    np.testing.assert_allclose(losses["bf16"], losses["float32"], rtol=5e-3)
    (text / "bf16").rename(text / "r")
    assert resume(capsys, "--max-steps", 8)[0] == 0
    assert settings(text / "r")["compute"] == "bf16"
    assert resume(capsys, "--max-steps", 9, "--ops", "fast")[0] == 2, "a resumed run is looked at, too"
    assert resume(capsys, "--max-steps", 9, "--compute", "float32")[0] == 0
    assert settings(text / "r")["compute"] == "float32"


def test_float64_is_not_rounded():
    with pytest.raises(ValueError, match="compute='bf16' rounds operands in float32, and dtype is 'float64'"):
        TrainConfig(compute="bf16", dtype="float64")


def test_a_model_of_another_kind_cannot_round():
    other = SimpleNamespace(describe=lambda: "a table of bigrams")
    set_compute(other, TrainConfig())
    assert not hasattr(other, "compute")
    with pytest.raises(ValueError, match="a table of bigrams"):
        set_compute(other, TrainConfig(compute="bf16"))


def test_a_trainer_without_it_sets_a_model_back():
    model = GPT(CONFIG, ops="reference")
    set_compute(model, TrainConfig(compute="bf16"))
    assert model.compute == "bf16"
    set_compute(model, TrainConfig())
    assert model.compute == "float32"


@pytest.mark.parametrize("ops", ["reference", "fast"])
def test_a_model_in_float64_refuses_to_round(ops):
    model = GPT(GPTConfig(vocab_size=7, n_positions=6, n_embd=8, n_layer=1, n_head=2), 0, "float64", ops)
    model.compute = "bf16"
    ids = np.ones((2, 3), int)
    with pytest.raises(ValueError, match="dtype is 'float64'"):
        model.loss_and_grads(ids, ids)
    with pytest.raises(ValueError, match="dtype is 'float64'"):
        model.team(2)
