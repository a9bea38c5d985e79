"""Sampling: the cache against the whole model, and each rule by itself."""

import itertools

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, generate
from npgpt.generation.answers import continue_text
from npgpt.generation.rules import apply_temperature, draw, keep_top_k, keep_top_p, softmax
from npgpt.tokenizer import BPETokenizer

LOGITS = np.log([0.4, 0.1, 0.3, 0.15, 0.05])


def model(**changes):
    sizes = {"vocab_size": 9, "n_positions": 8, "n_embd": 12, "n_layer": 2, "n_head": 3}
    gpt = GPT(GPTConfig(**(sizes | changes)), dtype="float64")
    rng = np.random.default_rng(2)
    for name, array in gpt.params.items():
        gpt.params[name] = 0.8 * rng.standard_normal(array.shape)
    return gpt


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"bias": False}])
@pytest.mark.parametrize("chunks", [[8], [1] * 8, [3, 1, 4], [1, 7]])
def test_cache_gives_the_whole_models_logits(changes, chunks):
    gpt = model(**changes)
    ids = [3, 1, 4, 1, 5, 8, 2, 6]
    want = gpt.logits([ids])[0]
    past, start = gpt.new_past(), 0
    for size in chunks:
        got = gpt.forward([ids[start : start + size]], past)[0]
        np.testing.assert_allclose(got, want[start : start + size], rtol=1e-11)
        start += size
        assert past.length == start


def test_a_past_holds_rows_apart():
    gpt = model()
    ids = np.array([[3, 1, 4, 1, 5], [8, 2, 6, 0, 7]])
    past = gpt.new_past(2)
    parts = [gpt.forward(ids[:, :2], past), gpt.forward(ids[:, 2:], past)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), gpt.logits(ids), rtol=1e-11)


def test_the_last_logits_are_those_of_the_last_position():
    gpt = model()
    np.testing.assert_allclose(gpt.forward([[3, 1, 4]], last=True), gpt.forward([[3, 1, 4]])[:, -1:], rtol=1e-13)


def test_a_past_is_full_when_the_context_is():
    gpt = model()
    past = gpt.new_past()
    gpt.forward([[1] * 8], past)
    with pytest.raises(ValueError, match="9 tokens are longer than n_positions=8"):
        gpt.forward([[1]], past)
    with pytest.raises(ValueError, match="past and starts"):
        gpt.forward([[1]], gpt.new_past(), starts=[[0]])


@pytest.mark.parametrize("prompt", [[1], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2]])
def test_greedy_takes_the_likeliest_and_the_context_slides(prompt):
    gpt, context = model(), list(prompt)
    for token in generate(gpt, prompt, 20, temperature=0, context="slide"):
        assert token == gpt.logits([context[-8:]])[0, -1].argmax()
        context.append(token)
    assert len(context) == len(prompt) + 20


def test_a_seed_gives_the_same_tokens():
    gpt = model()
    one, two, three = (list(generate(gpt, [1], 30, temperature=2.0, seed=seed)) for seed in (3, 3, 4))
    assert one == two != three


def test_tokens_come_one_at_a_time():
    calls = []
    gpt = model()
    forward = gpt.forward

    def counting(ids, *args, **options):
        calls.append(ids.shape[1])
        return forward(ids, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt, "forward", counting)
        patch.setattr(gpt, "decoder", None, raising=False)
        list(itertools.islice(generate(gpt, [1, 2, 3], 100), 3))
    assert calls == [3, 1, 1]  # the prompt at once, then a token at a time, and none that nobody asked for


def test_draws_follow_the_distribution():
    rng = np.random.default_rng(0)
    counts = np.bincount([draw(LOGITS, rng) for _ in range(20000)], minlength=5) / 20000
    # the standard deviation of a share is at most sqrt(0.25 / 20000) = 0.0035, and 0.015 is four of them
    np.testing.assert_allclose(counts, np.exp(LOGITS), atol=0.015)


def test_temperature():
    np.testing.assert_allclose(softmax(apply_temperature(LOGITS, 1.0)), np.exp(LOGITS))
    half = np.exp(LOGITS) ** 2
    np.testing.assert_allclose(softmax(apply_temperature(LOGITS, 0.5)), half / half.sum())
    np.testing.assert_array_equal(softmax(apply_temperature(LOGITS, 0)), [1, 0, 0, 0, 0])
    np.testing.assert_allclose(softmax(apply_temperature(LOGITS, 1e-300)), [1, 0, 0, 0, 0])


@pytest.mark.parametrize(("k", "kept"), [(1, [0]), (2, [0, 2]), (4, [0, 1, 2, 3]), (5, range(5)), (99, range(5))])
def test_top_k(k, kept):
    found = keep_top_k(LOGITS, k)
    assert list(np.flatnonzero(np.isfinite(found))) == list(kept)
    np.testing.assert_array_equal(found[list(kept)], LOGITS[list(kept)])


@pytest.mark.parametrize(
    ("p", "kept"), [(1e-9, [0]), (0.39, [0]), (0.41, [0, 2]), (0.69, [0, 2]), (0.71, [0, 2, 3]), (1.0, range(5))]
)
def test_top_p(p, kept):
    assert list(np.flatnonzero(np.isfinite(keep_top_p(LOGITS, p)))) == list(kept)


def test_equal_logits_keep_the_first():
    assert list(np.flatnonzero(np.isfinite(keep_top_k(np.zeros(4), 2)))) == [0, 1]
    assert apply_temperature(np.zeros(4), 0).argmax() == 0


def test_rules_after_one_another():
    # top-k leaves 0.4 and 0.3; of what is left, 0.4 / 0.7 = 0.57 is enough for p = 0.5
    gpt = model()
    with pytest.MonkeyPatch.context() as patch:
        logits = np.append(LOGITS, np.full(4, -np.inf))[None, None]
        patch.setattr(gpt, "forward", lambda ids, past, taps, last: logits)
        patch.setattr(gpt, "decoder", None, raising=False)
        patch.setattr(gpt, "tap_names", list)
        assert set(generate(gpt, [1], 50, top_k=2)) == {0, 2}
        assert set(generate(gpt, [1], 50, top_k=2, top_p=0.5)) == {0}


def test_it_stops_after_the_end_of_text():
    gpt = model()
    tokens = list(generate(gpt, [1], 50, temperature=3.0))
    ending = model(eos_token_id=tokens[5])
    assert list(generate(ending, [1], 50, temperature=3.0)) == tokens[: tokens.index(tokens[5]) + 1]


def test_it_stops_after_another_token_that_is_given():
    gpt = model(eos_token_id=0)
    tokens = list(generate(gpt, [1], 50, temperature=3.0, stop=()))
    assert len(tokens) == 50
    last = next(token for token in tokens if token)
    assert list(generate(gpt, [1], 50, temperature=3.0, stop=last))[-1] == last
    assert 0 in list(generate(gpt, [1], 50, temperature=3.0, stop=()))
    assert list(generate(gpt, [1], 50, temperature=3.0, stop=last)) == tokens[: tokens.index(last) + 1]


def test_padded_vocabulary_is_not_drawn_from():
    assert max(generate(model(), [1], 200, temperature=5.0, vocab_size=4)) == 3


def test_logits_that_are_nan_are_no_text():
    gpt = model()
    gpt.params["ln_f.bias"][3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        list(generate(gpt, [1], 5))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ids": []}, "prompt is empty"),
        ({"ids": [9]}, "outside the vocabulary of 9"),
        ({"ids": [-1]}, "outside"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"vocab_size": 10}, "vocab_size=10"),
        ({"vocab_size": 0}, "vocab_size=0"),
    ],
)
def test_arguments_out_of_range_are_named_at_once(changes, match):
    with pytest.raises(ValueError, match=match):
        generate(model(), **({"ids": [1]} | changes))  # without asking for a token


def test_no_new_tokens():
    assert list(generate(model(), [1], 0)) == []


def test_an_id_without_a_token_is_not_drawn():
    tokens = [*(bytes([i]) for i in range(256)), b"", b"ab"]
    tokenizer = BPETokenizer(tokens, [(97, 98)])
    model = GPT(GPTConfig(vocab_size=258, n_positions=8, n_embd=4, n_layer=1, n_head=1, tie_word_embeddings=False))
    model.params["ln_f.weight"], model.params["ln_f.bias"] = 0, 1
    model.params["lm_head.weight"][256:] = [[9], [8]]  # the likeliest of all is the id without a token
    assert list(continue_text(model, tokenizer, [97], 4, temperature=0)) == [257] * 4
