"""Taps: every value of a forward by its name, right and replaceable; and without them nothing changes."""

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.layers import gelu_forward, gelu_new_forward, layernorm_forward
from npgpt.models.gpt2 import features_forward
from npgpt.models.gpt2_inside import tap_names
from npgpt.models.taps import Taps

SIZES = {"vocab_size": 7, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 5}
IDS = np.array([[1, 2, 3, 1, 6], [6, 0, 2, 2, 4]])
STARTS = np.array([[0, 0, 2, 2, 2], [0, 1, 1, 1, 4]])


def model(ops="reference", dtype="float64", **changes):
    gpt = GPT(GPTConfig(**(SIZES | changes)), dtype=dtype, ops=ops)
    rng = np.random.default_rng(1)
    for name, array in gpt.params.items():
        gpt.params[name] = 0.7 * rng.standard_normal(array.shape)
    return gpt


def seen(gpt, *names, ids=IDS, **options):
    taps = Taps(*names)
    return taps, gpt.forward(ids, taps=taps, **options)


@pytest.mark.parametrize("ops", ["reference", "fast"])
@pytest.mark.parametrize("starts", [None, STARTS], ids=["one text", "several"])
@pytest.mark.parametrize(
    "changes", [{}, {"activation_function": "gelu"}, {"bias": False}, {"tie_word_embeddings": False}]
)
def test_every_value_is_what_the_forward_makes_of_those_before(ops, starts, changes):
    gpt = model(ops, **changes)
    taps, logits = seen(gpt, "*", starts=starts)
    assert list(taps.values) == tap_names(gpt.config)
    np.testing.assert_allclose(logits, gpt.logits(IDS, starts), rtol=1e-11)
    p, H, D = gpt.params, 2, 4
    get = lambda name: p.get(name, 0)  # noqa: E731, a bias that is not there adds nothing
    where = np.arange(5) - (0 if starts is None else starts)
    close = lambda name, want: np.testing.assert_allclose(taps[name], want, rtol=1e-11, atol=1e-12, err_msg=name)  # noqa: E731
    close("wte", p["wte.weight"][IDS])
    close("wpe", p["wpe.weight"][where])
    stream = taps["wte"] + taps["wpe"]
    for h in ("h.0", "h.1"):
        close(f"{h}.in", stream)
        close(f"{h}.ln_1", layernorm_forward(stream, p[f"{h}.ln_1.weight"], p.get(f"{h}.ln_1.bias"))[0])
        qkv = taps[f"{h}.ln_1"] @ p[f"{h}.attn.c_attn.weight"] + get(f"{h}.attn.c_attn.bias")
        for name, part in zip("qkv", np.split(qkv, 3, axis=-1), strict=True):
            close(f"{h}.attn.{name}", part.reshape(2, 5, H, D).transpose(0, 2, 1, 3))
        scores = np.einsum("bhid,bhjd->bhij", taps[f"{h}.attn.q"], taps[f"{h}.attn.k"]) / 2
        visible = np.tri(5, dtype=bool) & (True if starts is None else np.arange(5) >= starts[:, None, :, None])
        weights = np.exp(scores) * visible
        close(f"{h}.attn.probs", weights / weights.sum(-1, keepdims=True))
        close(f"{h}.attn.heads", taps[f"{h}.attn.probs"] @ taps[f"{h}.attn.v"])
        side_by_side = taps[f"{h}.attn.heads"].transpose(0, 2, 1, 3).reshape(2, 5, 8)
        close(f"{h}.attn.out", side_by_side @ p[f"{h}.attn.c_proj.weight"] + get(f"{h}.attn.c_proj.bias"))
        stream = stream + taps[f"{h}.attn.out"]
        close(f"{h}.mid", stream)
        close(f"{h}.ln_2", layernorm_forward(stream, p[f"{h}.ln_2.weight"], p.get(f"{h}.ln_2.bias"))[0])
        activation = gelu_forward if gpt.config.activation_function == "gelu" else gelu_new_forward
        close(f"{h}.mlp.act", activation(taps[f"{h}.ln_2"] @ p[f"{h}.mlp.c_fc.weight"] + get(f"{h}.mlp.c_fc.bias"))[0])
        close(f"{h}.mlp.out", taps[f"{h}.mlp.act"] @ p[f"{h}.mlp.c_proj.weight"] + get(f"{h}.mlp.c_proj.bias"))
        stream = stream + taps[f"{h}.mlp.out"]
        close(f"{h}.out", stream)
    close("ln_f", layernorm_forward(stream, p["ln_f.weight"], p.get("ln_f.bias"))[0])
    close("logits", taps["ln_f"] @ p["lm_head.weight" if "lm_head.weight" in p else "wte.weight"].T)


@pytest.mark.parametrize("name", tap_names(GPTConfig(**SIZES)))
def test_every_value_can_be_replaced(name):
    """What follows is computed from the replacement; one that is the value itself changes nothing."""
    gpt = model()
    before = gpt.logits(IDS)
    same = gpt.forward(IDS, taps=Taps(replace={name: lambda value: value}))
    np.testing.assert_allclose(same, before, rtol=1e-11)
    other = gpt.forward(
        IDS, taps=Taps(replace={name: lambda value: 1.5 * value + np.arange(value.size).reshape(value.shape)})
    )
    assert np.abs(other - before).max() > 1e-3


def test_a_replaced_branch_leaves_the_stream():
    gpt = model()
    taps = Taps("h.1.*", replace={"h.1.attn.out": lambda out: 0 * out, "h.1.mlp.out": lambda out: 0 * out})
    gpt.forward(IDS, taps=taps)
    np.testing.assert_array_equal(taps["h.1.out"], taps["h.1.in"])
    assert not taps["h.1.mlp.out"].any()  # what is replaced is seen as it has become


def test_a_head_can_be_switched_off():
    gpt = model()

    def without_the_first(heads):
        heads[:, 0] = 0
        return heads

    rows = slice(0, 4)  # of the projection: what the first head's four channels are multiplied by
    want = gpt.forward(IDS, taps=Taps(replace={"h.0.attn.heads": without_the_first}))
    gpt.params["h.0.attn.c_proj.weight"][rows] = 0
    np.testing.assert_allclose(gpt.logits(IDS), want, rtol=1e-11)


@pytest.mark.parametrize("ops", ["reference", "fast"])
def test_values_are_copies(ops):
    """The block adds the stream to a branch in its memory, which a tap must not see."""
    gpt = model(ops)
    taps, _ = seen(gpt, "*")
    first = {name: value.copy() for name, value in taps.values.items()}
    gpt.forward(IDS[::-1])
    for name, value in taps.values.items():
        np.testing.assert_array_equal(value, first[name])
    stream = taps["h.0.in"] + taps["h.0.attn.out"]
    np.testing.assert_allclose(taps["h.0.mid"], stream, rtol=1e-13)


def test_a_change_in_place_changes_no_past():
    """The function gets a copy, and with a past the keys that it is shown lie in the past itself."""
    gpt, past, other = model(), *(model().new_past(2) for _ in range(2))

    def spoil(k):
        k[...] = 0
        return k

    gpt.forward(IDS[:, :3], past, Taps(replace={"h.0.attn.k": spoil}))
    gpt.forward(IDS[:, :3], other)
    np.testing.assert_array_equal(past.keys[0, :, :, :3], other.keys[0, :, :, :3])


def test_a_forward_begins_without_values_and_one_that_fails_moves_no_past():
    gpt, past = model(), model().new_past(2)
    taps = Taps("h.0.attn.probs")
    gpt.forward(IDS, taps=taps)
    short = IDS[:, :2]
    gpt.forward(short, taps=taps)
    assert taps["h.0.attn.probs"].shape == (2, 2, 2, 2)
    with pytest.raises(ValueError, match="its replacement"):
        gpt.forward(IDS, past, Taps(replace={"logits": lambda logits: logits[0]}))
    assert past.length == 0
    with pytest.raises(ValueError, match="1 rows of ids cannot continue a past of 2"):
        gpt.forward(IDS[:1], past)


def test_weights_of_a_long_context_are_computed_too():
    """The fused kernel keeps none beyond its block of 128 queries."""
    gpt = model("fast", n_positions=200)
    ids = np.random.default_rng(0).integers(0, 7, (1, 200))
    taps, logits = seen(gpt, "h.1.attn.probs", ids=ids)
    assert taps["h.1.attn.probs"].shape == (1, 2, 200, 200)
    np.testing.assert_allclose(taps["h.1.attn.probs"].sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(logits, gpt.logits(ids), rtol=1e-9, atol=1e-11)


def test_a_past_and_taps_go_together():
    gpt = model()
    past = gpt.new_past(2)
    gpt.forward(IDS[:, :3], past)
    taps = Taps("*")
    logits = gpt.forward(IDS[:, 3:], past, taps)
    assert taps["h.0.attn.probs"].shape == (2, 2, 2, 5)
    whole, _ = seen(gpt, "*")
    np.testing.assert_allclose(taps["h.1.attn.probs"], whole["h.1.attn.probs"][:, :, 3:], rtol=1e-11)
    np.testing.assert_allclose(taps["h.1.out"], whole["h.1.out"][:, 3:], rtol=1e-11)
    np.testing.assert_allclose(logits, whole["logits"][:, 3:], rtol=1e-11)


def test_taps_keep_the_precision():
    gpt = model(dtype="float32")
    taps = Taps("*", replace={"h.0.mlp.out": lambda out: out.astype(np.float64) * 2})
    assert gpt.forward(IDS, taps=taps).dtype == np.float32
    assert {value.dtype for value in taps.values.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("taps", "match"),
    [
        (Taps("h.0.attn.prob"), "no value 'h.0.attn.prob'; did you mean 'h.0.attn.probs'"),
        (Taps("h.2.*"), r"no value 'h\.2\.\*'"),
        (Taps(replace={"embeddings": lambda x: x}), "no value 'embeddings'"),
        (Taps(replace={"ln_f": lambda x: x[:1]}), r"ln_f has the shape \(2, 5, 8\), but its replacement \(1, 5, 8\)"),
    ],
)
def test_mistakes_are_named(taps, match):
    with pytest.raises(ValueError, match=match):
        model().forward(IDS, taps=taps)


def test_names_alone_are_no_taps():
    with pytest.raises(TypeError, match=r"taps='ln_f' must be Taps, as in Taps\('ln_f'\)"):
        model().forward(IDS, taps="ln_f")


def test_a_value_that_was_not_seen_is_named():
    taps, _ = seen(model(), "ln_f")
    with pytest.raises(KeyError, match="no value of 'ln_g' was seen; did you mean 'ln_f'"):
        taps["ln_g"]


def test_without_taps_nothing_is_seen_and_the_fused_ops_run(monkeypatch):
    gpt = model("fast")
    for name in ("causal_softmax_forward", "gelu_new_forward"):  # of which the fused ops are not made
        monkeypatch.setattr(gpt.ops, name, None)
    hidden, cache = features_forward(gpt.params, IDS, gpt.config, gpt.ops)
    assert hidden.shape == (2, 5, 8)
    assert len(cache.blocks) == 2
    past = gpt.new_past(2)
    monkeypatch.undo()
    _, cache = features_forward(gpt.params, IDS, gpt.config, gpt.ops, past=past)
    assert not cache.blocks  # which would be kept for nothing
