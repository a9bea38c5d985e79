"""A GPT that reads given embeddings, and a backward that trains the last blocks alone or none."""

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.gradcheck import check_backward
from npgpt.models.gpt2 import features_backward, features_forward, gpt_backward, gpt_forward
from npgpt.models.taps import Taps
from npgpt.ops import get_ops

SIZES = {"vocab_size": 7, "n_positions": 6, "n_embd": 6, "n_layer": 3, "n_head": 2, "n_inner": 9}
IDS = np.array([[1, 2, 3, 1], [6, 0, 2, 2]])
STARTS = np.array([[0, 0, 2, 2], [0, 1, 1, 1]])
both_ops = pytest.mark.parametrize("ops", ["reference", "fast"])


def model(ops="reference", dtype="float64", **changes):
    """Return a model whose parameters are all of order one."""
    gpt = GPT(GPTConfig(**(SIZES | changes)), dtype=dtype, ops=ops)
    gpt.params.flat[:] = 0.7 * np.random.default_rng(0).standard_normal(gpt.params.flat.size)
    return gpt


def embeddings(gpt, ids=IDS):
    return gpt.params["wte.weight"][ids]


@both_ops
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("starts", [None, STARTS])
def test_the_embeddings_of_ids_give_what_the_ids_give(ops, dtype, starts):
    gpt = model(ops, dtype)
    given = embeddings(gpt)
    before = given.copy()
    for method in (gpt.forward, gpt.features):
        found = method(inputs_embeds=given, starts=starts)
        np.testing.assert_array_equal(found, method(IDS, starts=starts), strict=True)
    np.testing.assert_array_equal(given, before)  # and nothing is written into them
    if starts is None:
        assert not np.array_equal(gpt.features(inputs_embeds=given), gpt.features(inputs_embeds=given[:, ::-1]))


def test_given_embeddings_go_on_after_a_past_and_through_taps():
    gpt = model()
    past, taps = gpt.new_past(2), Taps("wte")
    first = gpt.forward(IDS[:, :3], past=past)
    last = gpt.forward(inputs_embeds=embeddings(gpt, IDS[:, 3:]), past=past, last=True, taps=taps)
    assert past.length == 4
    np.testing.assert_array_equal(taps.values["wte"], embeddings(gpt, IDS[:, 3:]))
    whole = gpt.forward(IDS)
    # two products of other sizes than the whole's: some ten roundings of numbers of order ten
    np.testing.assert_allclose(first, whole[:, :3], atol=1e-12)
    np.testing.assert_allclose(last, whole[:, 3:], atol=1e-12)


@both_ops
@pytest.mark.parametrize("starts", [None, STARTS])
@pytest.mark.parametrize("blocks", [None, 0, 2])
def test_gradient_of_given_embeddings(ops, starts, blocks):
    gpt = model(ops, n_layer=2)

    def forward(given):
        rng = np.random.default_rng(5)  # for the dropout of the embeddings
        return features_forward(gpt.params, None, gpt.config, gpt.ops, rng, starts, inputs_embeds=given)

    def backward(dout, cache):
        return features_backward(dout, cache, gpt.params.empty_like(), blocks)

    given = 2 * np.random.default_rng(1).standard_normal((2, 4, 6))
    gpt.config = GPTConfig(**(SIZES | {"n_layer": 2, "embd_pdrop": 0.2}))
    report = check_backward(forward, backward, given, tolerance=1e-8)
    assert report, report


@both_ops
@pytest.mark.parametrize("tied", [True, False])
def test_the_other_gradients_are_those_of_the_ids_but_for_the_lookup(ops, tied):
    gpt = model(ops, tie_word_embeddings=tied)
    logits, cache = gpt_forward(gpt.params, IDS, gpt.config, gpt.ops)
    again, given_cache = gpt_forward(gpt.params, None, gpt.config, gpt.ops, inputs_embeds=embeddings(gpt))
    np.testing.assert_array_equal(logits, again)
    dlogits = np.random.default_rng(1).standard_normal(logits.shape)
    grads, given = gpt_backward(dlogits, cache), gpt_backward(dlogits, given_cache)
    for name in grads:
        if name != "wte.weight":
            np.testing.assert_array_equal(given[name], grads[name], err_msg=name)
    # the lookup adds the gradient of the embeddings to the head's share, which is all that is left without it
    head = dlogits.reshape(-1, 7).T @ given_cache[4][0].reshape(-1, 6) if tied else np.zeros((7, 6))
    np.testing.assert_allclose(given["wte.weight"], head, rtol=1e-12, atol=1e-13)


@both_ops
@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
@pytest.mark.parametrize("given", [False, True])
def test_the_last_blocks_alone_get_their_gradients(ops, blocks, given):
    gpt = model(ops)
    ids, embeds = (None, embeddings(gpt)) if given else (IDS, None)
    hidden, cache = features_forward(gpt.params, ids, gpt.config, gpt.ops, inputs_embeds=embeds)
    dhidden = np.random.default_rng(1).standard_normal(hidden.shape)
    whole, some = gpt.params.empty_like(), gpt.params.empty_like()
    whole.flat[:], some.flat[:] = 0, 8
    dx = features_backward(dhidden, cache, whole)
    found = features_backward(dhidden, cache, some, blocks)
    trained = {f"h.{i}" for i in range(3 - blocks, 3)} | ({"ln_f"} if blocks else set())
    for name in whole:
        if name.startswith(tuple(f"{part}." for part in trained)):
            np.testing.assert_array_equal(some[name], whole[name], err_msg=name)
        else:
            np.testing.assert_array_equal(some[name], np.full_like(some[name], 8), err_msg=name)
    if given:
        np.testing.assert_array_equal(found, dx)
    else:
        assert found is None
        assert dx is None


@pytest.mark.parametrize("blocks", [-1, 4])
def test_blocks_that_there_are_not_are_refused(blocks):
    gpt = model()
    hidden, cache = features_forward(gpt.params, IDS, gpt.config, gpt.ops)
    with pytest.raises(ValueError, match=f"blocks={blocks} is not in 0..3"):
        features_backward(hidden, cache, gpt.params.empty_like(), blocks)


@pytest.mark.parametrize(
    ("ids", "given", "error", "match"),
    [
        (None, None, ValueError, "either ids or inputs_embeds"),
        (IDS, np.zeros((2, 4, 6)), ValueError, "either ids or inputs_embeds"),
        (None, np.zeros((2, 4, 5)), ValueError, r"must have the shape \(B, T, 6\), got \(2, 4, 5\)"),
        (None, np.zeros((4, 6)), ValueError, r"must have the shape \(B, T, 6\), got \(4, 6\)"),
        (None, np.zeros((2, 0, 6)), ValueError, "must have the shape"),
        (None, np.zeros((2, 4, 6), int), TypeError, "inputs_embeds must be floats, got int64"),
        (None, np.zeros((1, 7, 6)), ValueError, "7 tokens are longer than n_positions=6"),
    ],
)
def test_what_cannot_be_read_is_refused(ids, given, error, match):
    for method in (model().forward, model().features):
        with pytest.raises(error, match=match):
            method(ids, inputs_embeds=given)


def test_given_embeddings_are_read_in_the_models_precision():
    gpt = model(dtype="float32")
    assert gpt.features(inputs_embeds=np.zeros((1, 2, 6))).dtype == np.float32
    with pytest.raises(ValueError, match="6 tokens"):
        model(n_positions=5).forward(inputs_embeds=np.zeros((1, 6, 6)))
    past = gpt.new_past()
    gpt.forward(IDS[:1], past=past)
    with pytest.raises(ValueError, match="8 tokens are longer"):
        gpt.forward(inputs_embeds=np.zeros((1, 4, 6)), past=past)


def test_neither_is_refused_where_nothing_else_checks():
    gpt = model()
    with pytest.raises(ValueError, match="either ids or inputs_embeds"):
        features_forward(gpt.params, None, gpt.config, get_ops("reference"))
