"""The generator: every gradient, with a past as without, each example as if it were alone, and its files."""

import itertools

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, check_backward, generate
from npgpt.data.batch import IGNORED, Batch
from npgpt.data.packing import pack
from npgpt.models.registry import new_generator
from npgpt.models.seq import Seq2Seq
from npgpt.models.seq_config import BRIDGES, DECODERS, EMBEDDINGS, Objective, SeqConfig
from npgpt.models.seq_pairs import pairs_of, scattered
from npgpt.models.taps import Taps
from tests.conftest import mostly_big

E = 0  # the end token
EXAMPLES = [([5, 6], [7, 8]), ([4], [3]), ([1], [2, 3, 4, 5, 6]), ([], [8, 1]), ([2, 3, 4], [])]


def example(prompt, completion):
    """Return the tokens of an example between its two outer end tokens, and which are a prompt."""
    return np.array([*prompt, E, *completion]), np.array([True] * (len(prompt) + 1) + [False] * len(completion))


def packed(examples=EXAMPLES, n_positions=12):
    tokens, prompts = zip(*(example(*each) for each in examples), strict=True)
    return pack(tokens, n_positions, E, prompts)


def batch_of(examples=EXAMPLES, n_positions=12):
    return packed(examples, n_positions).rows(slice(None))


def encoder_config(**changes):
    sizes = {"vocab_size": 9, "n_positions": 12, "n_embd": 4, "n_layer": 2, "n_head": 2, "n_inner": 5}
    return GPTConfig(**(sizes | {"eos_token_id": E, "bos_token_id": E} | changes))


def model_of(seed=3, dtype="float64", ops="reference", encoder=None, **fields):
    """Return a generator with random weights of order one, those of norms included."""
    fields = {"n_head": 2} | fields
    if fields.get("embedding") != "encoder":
        fields = {"n_embd": 6} | fields
    model = Seq2Seq(SeqConfig(encoder_config(**encoder or {}), **fields), dtype=dtype, ops=ops)
    model.params.flat[:] = np.random.default_rng(seed).standard_normal(model.size) * 0.7
    return model


# --- pairs


def test_rows_become_prompts_and_completions():
    ids = np.array([[E, 5, 6, E, 7, 8, E, 4, E, 3, E, E]])
    targets = np.array([[IGNORED] * 3 + [7, 8, E] + [IGNORED] * 2 + [3, E] + [IGNORED] * 2])
    starts = np.array([[0] * 6 + [6] * 4 + [10, 11]])
    pairs = pairs_of(ids, (E,), targets, starts)
    assert pairs.source.tolist() == [[E, 5, 6], [E, 4, 0]]
    assert pairs.source_lengths.tolist() == [3, 2]
    assert pairs.target_in.tolist() == [[E, 7, 8], [E, 3, 0]]
    assert pairs.targets.tolist() == [[7, 8, E], [3, E, IGNORED]]
    assert pairs.lengths.tolist() == [3, 2]
    values = np.arange(1, 7).reshape(2, 3)
    assert scattered(values, pairs, (1, 12)).tolist() == [[0, 0, 0, 1, 2, 3, 0, 0, 4, 5, 0, 0]]


def test_an_end_token_within_a_completion_divides_nothing():
    pairs = pairs_of(np.array([[E, 5, E, 6, E, 7]]), (E,))
    assert (pairs.source.tolist(), pairs.target_in.tolist()) == ([[E, 5]], [[E, 6, E, 7]])


def test_a_target_in_a_prompt_is_refused():
    ids = np.array([[E, 5, 6, E, 7]])
    with pytest.raises(ValueError, match="the target 6 is in a prompt, which a generator reads"):
        pairs_of(ids, (E,), np.array([[IGNORED, 6, IGNORED, 7, E]]))
    with pytest.raises(ValueError, match="the target 5 is in a prompt"):
        pairs_of(ids[:, :3], (E,), np.array([[5, 6, E]]))


# --- gradients

KINDS = list(itertools.product(DECODERS, BRIDGES, EMBEDDINGS, (None, 0, 1), (True, False)))


def trained_names(model):
    """Return the names of the parameters that have gradients."""
    if model.trained_blocks is None:
        return list(model.params)
    n = model.config.encoder.n_layer
    last = [f"encoder.h.{i}." for i in range(n - model.trained_blocks, n)] + ["encoder.ln_f."]
    kept = tuple(last) if model.trained_blocks else ()
    return [name for name in model.params if not name.startswith("encoder.") or name.startswith(kept)]


def training_loss(model, batch, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    return model.loss_and_grads(batch, rng=rng)


def require_gradients(model, batch, seed=None):
    """Hold the gradient of each trained parameter against a central difference in a random direction of its own.

    The others' must be zero. check_backward looks at more, but takes a thousand steps where this takes eighty.
    """
    rng, eps = np.random.default_rng(1), 1e-5
    grads = training_loss(model, batch, seed)[1]
    trained = trained_names(model)
    assert all(not grads[name].any() for name in grads.keys() - set(trained))
    for name in trained:
        param, direction = model.params[name], rng.standard_normal(grads[name].shape)
        kept, sides = param.copy(), []
        for side in eps, -eps:
            model.params[name] = kept + side * direction
            sides.append(training_loss(model, batch, seed)[0])
        model.params[name] = kept
        expected, found = (sides[0] - sides[1]) / (2 * eps), np.vdot(grads[name], direction)
        # the difference is off by eps^2 times a third derivative of order 100, and by rounding over eps
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-8), name
        assert abs(found) > 1e-8 or "c_attn.bias" in name or "c_q.bias" in name, name


@pytest.mark.parametrize(
    ("decoder", "bridge", "embedding", "blocks", "tied"),
    mostly_big(KINDS, lambda kind: KINDS.index(kind) % 5 == 0),
)
def test_gradient_of_every_parameter(decoder, bridge, embedding, blocks, tied):
    model = model_of(
        decoder=decoder, bridge=bridge, embedding=embedding, n_layer=2, encoder={"tie_word_embeddings": tied}
    )
    model.trained_blocks = blocks
    require_gradients(model, batch_of())


@pytest.mark.parametrize(
    ("decoder", "bridge", "embedding", "ops"),
    mostly_big(
        list(itertools.product(DECODERS, BRIDGES, EMBEDDINGS, ("reference", "fast"))),
        lambda kind: kind == ("gru", "attention", "encoder", "fast"),
    ),
)
def test_check_backward_passes(decoder, bridge, embedding, ops):
    model, batch = model_of(decoder=decoder, bridge=bridge, embedding=embedding, ops=ops), batch_of(EXAMPLES[:3])

    def forward(flat):
        model.params.flat[:] = flat
        return model.loss(batch), flat

    def backward(dout, flat):
        model.params.flat[:] = flat
        return model.loss_and_grads(batch, dloss=dout)[1].flat

    report = check_backward(forward, backward, model.params.flat.copy(), mode="directions")
    assert report, report


def test_gradient_with_dropout():
    model = model_of(pdrop=0.4, n_layer=2, encoder={"resid_pdrop": 0.3})
    require_gradients(model, batch_of(), seed=5)
    assert training_loss(model, batch_of(), 5)[0] != model.loss(batch_of())


def test_dloss_scales_the_gradients():
    model = model_of()
    one, half = model.loss_and_grads(batch_of())[1], model.loss_and_grads(batch_of(), dloss=0.5)[1]
    np.testing.assert_allclose(half.flat, 0.5 * one.flat, rtol=1e-12)


# --- each example alone


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("bridge", BRIDGES)
def test_each_example_is_computed_as_if_it_were_alone(decoder, bridge):
    model = model_of(decoder=decoder, bridge=bridge)
    rows, alone = batch_of(), [batch_of([each]) for each in EXAMPLES]
    assert len(rows) < len(EXAMPLES)
    loss, grads = model.loss_and_grads(rows)
    found = [model.loss_and_grads(each) for each in alone]
    shares = [each.n_targets / rows.n_targets for each in alone]
    # rounding, of sums in another order
    assert loss == pytest.approx(sum(s * part for s, (part, _) in zip(shares, found, strict=True)), rel=1e-12)
    whole = sum(s * part.flat for s, (_, part) in zip(shares, found, strict=True))
    np.testing.assert_allclose(grads.flat, whole, rtol=1e-9, atol=1e-13)


def test_the_logits_are_those_of_the_loss():
    model, batch = model_of(), batch_of()
    logits = model.forward(batch.ids, starts=batch.starts)
    counted = batch.targets != IGNORED
    top = logits[counted] - logits[counted].max(axis=-1, keepdims=True)
    logp = top - np.log(np.exp(top).sum(axis=-1, keepdims=True))
    wanted = -logp[np.arange(counted.sum()), batch.targets[counted]].mean()
    assert model.loss(batch) == pytest.approx(wanted, rel=1e-12)
    before = pairs_of(batch.ids, (E,), starts=batch.starts)
    assert not logits[scattered(np.ones(before.target_in.shape), before, batch.ids.shape) == 0].any()


@pytest.mark.parametrize("ops", ["reference", "fast"])
@pytest.mark.parametrize("bridge", BRIDGES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_forward_with_a_past_equals_one_without(decoder, bridge, ops):
    model = model_of(decoder=decoder, bridge=bridge, ops=ops, n_layer=2)
    ids = np.array([[E, 5, 6, E, 7, 8, 1, E, 2, 3], [E, 4, 3, 2, 1, E, 2, 3, 4, 5]])
    whole = model.forward(ids)
    assert not whole[0, :3].any()
    assert not whole[1, :5].any()
    for cuts in ([*range(1, 10)], [2, 4, 5, 9], [6]):
        past = model.new_past(2)
        parts = [model.forward(part, past) for part in np.split(ids, cuts, axis=1)]
        assert past.length == 10
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-12)
    np.testing.assert_allclose(model.forward(ids, last=True), whole[:, -1:], atol=1e-12)


@pytest.mark.parametrize("ops", ["reference", "fast"])
@pytest.mark.parametrize("bridge", BRIDGES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_fork_of_a_past_goes_its_own_way(decoder, bridge, ops):
    """In the prompt, at its end, and after it, and each to the same bits as if there were no other."""
    model = model_of(decoder=decoder, bridge=bridge, ops=ops)
    for begun in ([E, 5], [E, 5, 6, E], [E, 5, 6, E, 7, 8]):
        past = model.new_past()
        model.forward(np.array([begun]), past)
        fork = past.fork()
        for ids, one in (([7, E, 2], past), ([8, E, 4, 6], fork), ([3], past), ([3], fork)):
            model.forward(np.array([ids]), one)
        for ids, one in (([*begun, 7, E, 2, 3], past), ([*begun, 8, E, 4, 6, 3], fork)):
            alone = model.new_past()
            for part in np.split(np.array([ids]), [len(begun), len(ids) - 1], axis=1):
                model.forward(part, alone)
            assert one.length == alone.length == len(ids)
            np.testing.assert_array_equal(model.forward(np.array([[4]]), one), model.forward(np.array([[4]]), alone))


def test_a_row_without_a_completion_has_no_logits():
    model = model_of()
    ids = np.array([[E, 5, 6]])
    assert not model.forward(ids).any()
    for past in None, model.new_past():
        with pytest.raises(ValueError, match="writes after the end token of a prompt, and there is none yet"):
            model.forward(ids, past, last=True)


def test_a_batch_without_targets_has_no_loss():
    model, ids = model_of(), np.array([[E, 5, 6, E]])
    batch = Batch(ids, np.full_like(ids, IGNORED))
    loss, grads = model.loss_and_grads(batch)
    assert (loss, model.loss(batch), grads.flat.any()) == (0.0, 0.0, False)


# --- objectives


def critic_of(seed=4, dtype="float64", ops="reference"):
    """Return a GPT of the same vocabulary with random weights of order one."""
    critic = GPT(encoder_config(n_embd=6, n_layer=1), dtype=dtype, ops=ops)
    critic.params.flat[:] = np.random.default_rng(seed).standard_normal(critic.size) * 0.7
    return critic


def test_evaluations_have_no_label_smoothing():
    model, batch = model_of(), batch_of()
    plain = model.loss(batch)
    model.objective = Objective(label_smoothing=0.2)
    assert model.loss(batch) == pytest.approx(plain, rel=1e-12)  # of the fused op
    assert model.loss_and_grads(batch)[0] != pytest.approx(plain, rel=1e-3)
    require_gradients(model, batch)


@pytest.mark.parametrize(
    ("kind", "decoder", "blocks"),
    mostly_big(
        list(itertools.product(("cosine", "ce+cosine"), DECODERS, (None, 0))),
        lambda case: case in {("cosine", "gru", 0), ("ce+cosine", "transformer", None)},
    ),
)
def test_gradient_through_the_critic(kind, decoder, blocks):
    model = model_of(decoder=decoder)
    model.trained_blocks, model.objective = blocks, Objective(kind, 0.7, 0.1, 0.8)
    model.critic = critic_of() if blocks is None else None
    require_gradients(model, batch_of())


@pytest.mark.big
@pytest.mark.parametrize(
    ("kind", "decoder", "bridge"),
    [("ce+cosine", "gru", "attention"), ("cosine", "lstm", "mean"), ("cosine", "transformer", "attention")],
)
def test_check_backward_passes_for_every_parameter_by_its_name(kind, decoder, bridge):
    model, batch = model_of(decoder=decoder, bridge=bridge), batch_of(EXAMPLES[:2])
    model.objective, model.critic = Objective(kind, 0.7, tau=0.8), critic_of()

    def forward(*params):
        for name, value in zip(model.params, params, strict=True):
            model.params[name] = value
        return model.loss(batch), params

    def backward(dout, params):
        forward(*params)
        return tuple(model.loss_and_grads(batch, dloss=dout)[1].values())

    report = check_backward(forward, backward, *(value.copy() for value in model.params.values()), mode="directions")
    assert report, report


def test_the_objective_is_the_sum_of_its_parts():
    model, batch = model_of(), batch_of()
    model.critic = critic_of()
    found = {}
    for kind in "ce", "cosine", "ce+cosine":
        model.objective = Objective(kind, 0.7, tau=0.5)
        found[kind] = model.loss(batch)
    assert found["ce+cosine"] == pytest.approx(found["ce"] + 0.7 * found["cosine"], rel=1e-12)
    model.objective = Objective("cosine", tau=0.9, final_tau=0.5)
    assert model.loss(batch) == found["cosine"] != model.loss_and_grads(batch)[0]


def test_a_cosine_needs_a_critic_that_stays_as_it_is():
    model = model_of()
    model.objective = Objective("cosine")
    with pytest.raises(ValueError, match="needs a critic where the encoder is trained"):
        model.loss(batch_of())


# --- taps


def test_taps_see_what_the_forward_computes():
    model = model_of(n_layer=2)
    batch = batch_of()
    taps = Taps("*")
    logits = model.forward(batch.ids, taps=taps, starts=batch.starts)
    assert list(taps.values) == model.tap_names()
    np.testing.assert_allclose(logits, model.forward(batch.ids, starts=batch.starts), atol=1e-12)
    pairs = pairs_of(batch.ids, (E,), starts=batch.starts)
    probs = taps["decoder.h.0.attn.probs"]
    assert probs.shape == (len(pairs.at), 2, pairs.target_in.shape[1], pairs.source.shape[1])
    np.testing.assert_allclose(probs.sum(axis=-1), 1)
    assert not probs[pairs.source_lengths < probs.shape[3]][..., -1].any()
    np.testing.assert_allclose(taps["ln_f"] @ model.params["decoder.head.weight"].T, logits)


def test_taps_see_a_transformer_decoder():
    model, batch = model_of(decoder="transformer"), batch_of()
    taps = Taps("*")
    model.forward(batch.ids, taps=taps, starts=batch.starts)
    assert list(taps.values) == model.tap_names()


@pytest.mark.parametrize("name", ["encoder.h.1.mlp.out", "encoder.h.0.attn.probs", "decoder.wte", "decoder.h.0.out"])
def test_a_replaced_value_changes_the_logits(name):
    model, ids = model_of(), np.array([[E, 5, 6, E, 7, 8]])
    taps = Taps(replace={name: lambda value: 2 * value})
    assert not np.allclose(model.forward(ids, taps=taps), model.forward(ids))


def test_a_past_shows_the_last_hidden_states():
    model, past = model_of(), None
    past, taps = model.new_past(), Taps("ln_f")
    model.forward(np.array([[E, 5]]), past, taps)
    assert not taps["ln_f"].any()
    logits = model.forward(np.array([[6, E]]), past, taps)
    np.testing.assert_allclose(taps["ln_f"] @ model.params["decoder.head.weight"].T, logits)


# --- initial values


@pytest.mark.parametrize("tied", [True, False])
def test_the_decoder_begins_with_copies_of_the_encoders_embeddings(tied):
    gpt = GPT(encoder_config(tie_word_embeddings=tied), seed=1)
    model = new_generator(gpt, decoder="lstm", n_layer=2)
    params = model.params
    np.testing.assert_array_equal(params["decoder.wte.weight"], gpt.params["wte.weight"])
    head = gpt.params["wte.weight" if tied else "lm_head.weight"]
    np.testing.assert_array_equal(params["decoder.head.weight"], head)
    np.testing.assert_array_equal(params["encoder.h.1.mlp.c_fc.weight"], gpt.params["h.1.mlp.c_fc.weight"])
    assert "encoder.lm_head.weight" not in params
    assert params["decoder.h.1.b_ih"].tolist() == [0] * 4 + [1] * 4 + [0] * 8
    recurrent = params["decoder.h.0.w_hh"].reshape(4, 4, 4)
    np.testing.assert_allclose(recurrent @ recurrent.swapaxes(1, 2), [np.eye(4)] * 4, atol=1e-6)
    narrow = new_generator(gpt, n_embd=6, n_head=2)
    assert narrow.params["decoder.wte.weight"].std() == pytest.approx(0.02, rel=0.3)


def test_the_same_seed_gives_the_same_numbers_in_both_dtypes():
    config = SeqConfig(encoder_config())
    one, two = (Seq2Seq(config, 3, dtype).params.flat for dtype in ("float32", "float64"))
    np.testing.assert_allclose(one, two, rtol=1e-6)
    assert (Seq2Seq(config, 4).params.flat != one).any()


# --- what is refused, and where a text ends


def test_a_full_context_ends_a_generators_text():
    """To forget the beginning would be to lose where the prompt ends."""
    model = model_of(ops="fast", dtype="float32")
    prompt = [0, 3, 4, 0]
    tokens = list(generate(model, prompt, max_new_tokens=100, temperature=0, stop_ids=()))
    assert len(prompt) + len(tokens) == model.config.n_positions
    with pytest.raises(ValueError, match="a generator has no guidance"):
        list(generate(model, prompt, guidance_scale=2.0, negative_prompt=""))


def test_a_prompt_of_unknown_tokens_is_refused_before_its_end():
    model = model_of()
    past = model.new_past()
    with pytest.raises(ValueError, match=r"ids 0\.\.99 are not all in"):
        model.forward(np.array([[0, 99]]), past)
    assert past.length == 0
