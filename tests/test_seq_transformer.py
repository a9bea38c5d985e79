"""The transformer decoder of a generator: its gradients, its past, its taps, and how it begins."""

import numpy as np
import pytest

from npgpt.config import GPTConfig
from npgpt.gradcheck import check_backward
from npgpt.models.gpt2 import GPT
from npgpt.models.seq_config import SeqConfig
from npgpt.models.seq_transformer import (
    TransformerPast,
    init_transformer,
    transformer_backward,
    transformer_forward,
    transformer_shapes,
    transformer_tap_names,
)
from npgpt.models.taps import Taps
from npgpt.ops import FAST, REFERENCE
from npgpt.support.parameters import Parameters, zeros

ENCODER = {"vocab_size": 5, "n_positions": 6, "n_embd": 3, "n_layer": 1, "n_head": 1}
LENGTHS = np.array([4, 1, 2])
BRIDGES = ["attention", "mean", "last"]
BOTH = pytest.mark.parametrize("ops", [REFERENCE, FAST], ids=["reference", "fast"])


def configured(bridge="attention", **changes):
    fields = {"n_layer": 2, "n_embd": 4, "n_head": 2}
    return SeqConfig(GPTConfig(**ENCODER), "transformer", bridge, **(fields | changes))


def drawn(config, seed=0):
    """Return parameters of order one, embeddings (3, 3, C) and features (3, 4, E)."""
    rng = np.random.default_rng(seed)
    params = zeros(transformer_shapes(config), "float64")
    for name, param in params.items():
        params[name] = (1.5 if "wpe" in name else 0.6) * rng.standard_normal(param.shape)
    return params, rng.standard_normal((3, 3, config.width)), rng.standard_normal((3, 4, config.encoder.n_embd))


big = pytest.mark.big


@pytest.mark.parametrize(
    ("bridge", "ops", "mode"),
    [
        ("attention", REFERENCE, "directions"),
        ("mean", REFERENCE, "directions"),
        pytest.param("attention", REFERENCE, "elements", marks=big),
        pytest.param("attention", FAST, "elements", marks=big),
        pytest.param("mean", REFERENCE, "elements", marks=big),
        pytest.param("last", FAST, "elements", marks=big),
    ],
    ids=lambda value: {REFERENCE: "reference", FAST: "fast"}.get(value, value),
)
def test_gradient_of_every_parameter(bridge, ops, mode):
    config = configured(bridge, pdrop=0.2)
    params, x, source = drawn(config)

    def forward(x, source, flat):
        like = Parameters(params.shapes, flat)
        return transformer_forward(like, x, source, LENGTHS, config, ops, np.random.default_rng(7))

    def backward(dy, cache):
        grads = params.empty_like()
        grads.flat.fill(np.nan)  # every gradient is to be overwritten
        return *transformer_backward(dy, cache, grads), grads.flat

    report = check_backward(forward, backward, x, source, params.flat, mode=mode, tolerance=1e-8)
    assert report, report


@BOTH
def test_what_stands_beyond_the_source_counts_for_nothing(ops):
    config = configured()
    params, x, source = drawn(config)
    padded = np.arange(4) >= LENGTHS[:, None]
    found = []
    for filling in (0.0, 1e9):
        source[padded] = filling
        y, cache = transformer_forward(params, x, source, LENGTHS, config, ops)
        grads = params.empty_like()
        dx, dsource = transformer_backward(np.ones_like(y), cache, grads)
        assert (dsource[padded] == 0).all()
        found.append((y, dx, grads.flat))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize("bridge", BRIDGES)
def test_token_by_token_with_a_past_it_is_the_same_as_at_once(ops, bridge):
    config = configured(bridge)
    params, x, source = drawn(config)
    whole, _ = transformer_forward(params, x, source, LENGTHS, config, ops)
    past, parts = TransformerPast(), []
    for begin, end in ((0, 1), (1, 3)):
        part = source if begin == 0 else None
        y, _ = transformer_forward(params, x[:, begin:end], part, LENGTHS, config, ops, past=past)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-12, atol=1e-13)


def test_no_position_sees_a_later_one():
    config = configured()
    params, x, source = drawn(config)
    whole, _ = transformer_forward(params, x, source, LENGTHS, config, REFERENCE)
    x[:, 2] = 1 - x[:, 2, ::-1]
    changed, _ = transformer_forward(params, x, source, LENGTHS, config, REFERENCE)
    np.testing.assert_array_equal(changed[:, :2], whole[:, :2])
    assert (changed[:, 2] != whole[:, 2]).any(axis=1).all()


@BOTH
@pytest.mark.parametrize("bridge", BRIDGES)
def test_taps_see_every_value_and_change_nothing(ops, bridge):
    config = configured(bridge)
    params, x, source = drawn(config)
    plain, _ = transformer_forward(params, x, source, LENGTHS, config, ops)
    names, taps = transformer_tap_names(config), Taps("decoder.*")
    y, _ = transformer_forward(params, x, source, LENGTHS, config, ops, taps=taps)
    assert list(taps.values) == names
    np.testing.assert_allclose(y, plain, rtol=1e-12, atol=1e-13)
    assert any("crossattention" in name for name in names) == (bridge == "attention")
    if bridge == "attention":
        probs = taps["decoder.h.1.crossattention.probs"]
        assert probs.shape == (3, 2, 3, 4)
        np.testing.assert_allclose(probs.sum(axis=-1), 1, rtol=1e-14)
        assert (probs[1, :, :, 1:] == 0).all()


def test_a_tap_replaces_what_cross_attention_adds():
    config = configured()
    params, x, source = drawn(config)
    none = {f"decoder.h.*.crossattention.{name}": lambda value: 0 * value for name in ("out", "probs")}
    taps = Taps(replace={"decoder.h.*.crossattention.out": none["decoder.h.*.crossattention.out"]})
    y, _ = transformer_forward(params, x, source, LENGTHS, config, REFERENCE, taps=taps)
    other, _ = transformer_forward(params, x, 3 * source, LENGTHS, config, REFERENCE, taps=taps)
    np.testing.assert_array_equal(y, other)
    # weights of nothing leave the bias of the layer after them
    for name in params:
        if name.endswith("crossattention.c_proj.bias"):
            params[name] = 0
    taps = Taps(replace={"decoder.h.*.crossattention.probs": none["decoder.h.*.crossattention.probs"]})
    found, _ = transformer_forward(params, x, source, LENGTHS, config, REFERENCE, taps=taps)
    np.testing.assert_allclose(found, y, rtol=1e-12)


def test_without_a_source_or_a_past_it_says_what_is_missing():
    config = configured()
    params, x, _ = drawn(config)
    with pytest.raises(ValueError, match="needs a source"):
        transformer_forward(params, x, None, None, config, REFERENCE)


# --- how it begins


def begun(config, dtype="float32"):
    encoder = GPT(config.encoder, seed=1)
    encoder.params.flat += 1  # no value that a fresh one has, too
    params = zeros(transformer_shapes(config), dtype)
    params.flat.fill(np.nan)
    init_transformer(params, config, encoder.params, np.random.default_rng(3))
    return params, encoder.params


def test_of_the_encoders_sizes_it_begins_as_the_encoders_blocks_and_learns_to_read_the_source():
    encoder = GPTConfig(vocab_size=5, n_positions=6, n_embd=8, n_layer=4, n_head=2)
    params, known = begun(SeqConfig(encoder, "transformer", n_layer=2))
    for i, origin in ((0, 0), (1, 2)):
        for name in ("ln_1.bias", "attn.c_attn.weight", "mlp.c_proj.weight"):
            np.testing.assert_array_equal(params[f"decoder.h.{i}.{name}"], known[f"h.{origin}.{name}"])
    for name in ("wpe.weight", "ln_f.weight"):
        np.testing.assert_array_equal(params[f"decoder.{name}"], known[name])
    assert (params["decoder.h.1.ln_cross_attn.weight"] == 1).all()
    assert (params["decoder.h.1.crossattention.c_attn.bias"] == 0).all()
    assert np.isfinite(params.flat).all()


def test_of_other_sizes_it_begins_at_random_and_the_same_in_both_dtypes():
    encoder = GPTConfig(vocab_size=5, n_positions=6, n_embd=64, n_layer=1, n_head=2)
    config = SeqConfig(encoder, "transformer", n_layer=3, n_embd=96, n_head=2)
    params, _ = begun(config)
    again, _ = begun(config, "float64")
    np.testing.assert_array_equal(params.flat, again.flat)
    # of thousands of numbers: their standard deviation is known to some 1 / sqrt(2 * 6144), 1%
    for name, std in (
        ("h.2.attn.c_attn", 1 / np.sqrt(96)),
        ("h.2.crossattention.c_attn", 1 / np.sqrt(64)),
        ("h.2.crossattention.c_proj", 1 / np.sqrt(96) / 3),
        ("h.0.mlp.c_proj", 1 / np.sqrt(4 * 96) / 3),
    ):
        assert params[f"decoder.{name}.weight"].std() == pytest.approx(std, rel=0.05)
        assert (params[f"decoder.{name}.bias"] == 0).all()
    assert params["decoder.wpe.weight"].std() == pytest.approx(0.02, rel=0.2)
    assert (params["decoder.ln_f.weight"] == 1).all()
