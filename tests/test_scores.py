"""Scores of texts: equal to the model's loss, whatever is read beside them, and past the context by a known rule."""

import dataclasses
import math

import numpy as np
import pytest

import npgpt
from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.generation.scores import Framed, calls, figures, windows
from npgpt.tokenizer import ByteTokenizer, CharTokenizer

TEXTS = ["the quick brown fox", "床前明月光", "🙂 e\u0301\r\n", "a"]
TOKENIZERS = {
    "bpe": Tokenizer.train(["the quick brown fox 床前明月光 🙂 e\u0301\r\n"] * 3, 270),
    "bytes": ByteTokenizer(),
    "chars": CharTokenizer([*TEXTS, "\n"]),
}


def model(vocab_size, n_positions=64, dtype="float64", ops="fast"):
    config = GPTConfig(vocab_size=vocab_size, n_positions=n_positions, n_embd=8, n_layer=2, n_head=2)
    gpt = GPT(config, dtype=dtype, ops=ops)
    rng = np.random.default_rng(1)
    for name, array in gpt.params.items():
        gpt.params[name] = 0.5 * rng.standard_normal(array.shape)
    return gpt


def same(one, other):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    return True


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_nats_of_a_text_are_the_models_loss_on_it(kind, text):
    tokenizer = TOKENIZERS[kind]
    begin = [tokenizer.end_id] if kind == "bpe" else list(tokenizer.encode("\n"))
    ids = np.array([*begin, *tokenizer.encode(text)])
    gpt = model(tokenizer.vocab_size)
    found = npgpt.score(gpt, tokenizer, text)
    assert found.ids.tolist() == ids[1:].tolist()
    assert found.prompt_ids == tuple(begin)
    loss = gpt.loss(ids[None, :-1], ids[None, 1:])
    assert found.mean("token") == pytest.approx(loss, rel=1e-12)
    assert found.perplexity == pytest.approx(math.exp(loss))
    assert found.bits_per_byte == pytest.approx(loss * len(found.ids) / math.log(2) / len(text.encode()))
    assert found.mean("text") == found.nats == pytest.approx(-found.logprobs.sum())
    float32 = npgpt.score(model(tokenizer.vocab_size, dtype="float32"), tokenizer, text)
    assert float32.mean("token") == pytest.approx(loss, rel=1e-6)


def test_texts_read_together_have_the_figures_that_each_has_alone():
    tokenizer, long = TOKENIZERS["bytes"], "the fox " * 50
    gpt = model(256, n_positions=32, dtype="float32")
    texts = [*TEXTS, long, *TEXTS, "b", long[3:], *TEXTS]
    together = npgpt.score(gpt, tokenizer, texts, top=3)
    assert len(together) == len(texts)
    for text, found in zip(texts, together, strict=True):
        assert same(found, npgpt.score(gpt, tokenizer, text, top=3))


def test_a_text_past_the_context_is_read_in_windows_that_overlap_by_half():
    tokenizer, gpt = ByteTokenizer(), model(256, n_positions=8)
    text = "abcdefghijklmnopqrst"
    ids = tokenizer.encode("\n" + text)
    found = npgpt.score(gpt, tokenizer, text)
    assert found.contexts.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, *([5, 6, 7, 8] * 3)]
    for place, (context, logprob) in enumerate(zip(found.contexts, found.logprobs, strict=True), 1):
        logits = gpt.logits(ids[None, place - context : place])[0, -1]
        expected = logits[ids[place]] - np.log(np.exp(logits).sum())
        assert logprob == pytest.approx(expected, rel=1e-9), place


@pytest.mark.parametrize("n_positions", range(1, 7))
@pytest.mark.parametrize("n", range(2, 20))
def test_windows_score_each_token_once_and_with_half_a_context(n, n_positions):
    cut = list(windows(0, Framed(list(range(n)), 1), n_positions))
    scored = [place for window in cut for place in range(window.new, window.stop)]
    assert scored == list(range(n - 1))
    for window in cut:
        assert 0 < window.stop - window.start <= n_positions
        assert window.new - window.start >= (n_positions // 2 if window.start else 0)


def test_what_a_completion_costs_is_the_loss_after_its_prompt_and_with_the_end_token():
    tokenizer = TOKENIZERS["bpe"]
    gpt, end = model(tokenizer.vocab_size), tokenizer.end_id
    prompt, completion = tokenizer.encode("the 床"), tokenizer.encode("前 fox")
    ids = np.array([end, *prompt, *completion, end])
    targets = np.where(np.arange(1, len(ids)) <= len(prompt), -100, ids[1:])
    found = npgpt.score(gpt, tokenizer, prompt="the 床", completion="前 fox", end=True)
    assert found.prompt_ids == (end, *prompt)
    assert found.ids.tolist() == [*completion, end]
    assert found.mean("token") == pytest.approx(gpt.loss(ids[None, :-1], targets[None]), rel=1e-12)
    assert found.n_bytes == len("前 fox".encode())
    whole = npgpt.score(gpt, tokenizer, prompt="", completion="the fox")
    assert same(whole, npgpt.score(gpt, tokenizer, "the fox"))
    plain = npgpt.score(gpt, tokenizer, prompt="the", completion=" fox", after_end=False)
    assert plain.prompt_ids == tuple(tokenizer.encode("the"))


def test_one_prompt_serves_several_completions_and_the_likelier_is_found():
    tokenizer = TOKENIZERS["bytes"]
    gpt = model(256)
    completions = ["cat", "elephants", "中"]
    found = npgpt.score(gpt, tokenizer, prompt="the ", completion=completions)
    for completion, one in zip(completions, found, strict=True):
        assert same(one, npgpt.score(gpt, tokenizer, prompt="the ", completion=completion))
    assert found[1].mean("byte") == found[1].nats / 9
    pairs = npgpt.score(gpt, tokenizer, prompt=["the ", "a "], completion=["fox", "cat"])
    assert same(pairs[1], npgpt.score(gpt, tokenizer, prompt="a ", completion="cat"))
    assert npgpt.score(gpt, tokenizer, prompt="the ", completion=["cat"])[0].nats == found[0].nats
    assert npgpt.score(gpt, tokenizer, []) == []


def test_rank_and_the_likeliest_tokens_are_those_of_the_probabilities():
    logits = np.array([[0.0, 3, 1, 3, 9], [5, 4, 3, 2, 9]])
    logprobs, ranks, ids, top = figures(logits, np.array([3, 2]), size=4, top=3)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(logprobs), [probs[0, 3], probs[1, 2]])
    assert ranks.tolist() == [1, 3]  # the fifth only pads the vocabulary, and equals share a rank
    assert ids.tolist() == [[1, 3, 2], [0, 1, 2]]
    np.testing.assert_allclose(np.exp(top), np.take_along_axis(probs, ids, 1))


def test_logprobs_of_large_logits_are_finite():
    logprobs = figures(np.array([[1e4, -1e4]], np.float32), np.array([1]), 2, 0)[0]
    assert logprobs == [-2e4]


@pytest.mark.parametrize("ops", ["fast", "reference"])
def test_logits_that_are_not_finite_are_refused(ops):
    gpt = model(256, ops=ops)
    gpt.params["h.0.mlp.c_fc.weight"] = np.full((8, 32), np.nan)
    with pytest.raises(ValueError, match="not finite"):
        npgpt.score(gpt, ByteTokenizer(), "a")


def test_what_cannot_be_scored_is_refused():
    gpt, tokenizer = model(256, n_positions=8), ByteTokenizer()
    for given, words in (
        ({}, "give a text, or a prompt"),
        ({"prompt": "a"}, "give a text, or a prompt"),
        ({"completion": "a"}, "give a text, or a prompt"),
        ({"text": "a", "prompt": "a", "completion": "b"}, "give a text, or a prompt"),
        ({"text": ""}, "the text '' is empty"),
        ({"text": "a", "top": 257}, r"top=257 must be in 0..256"),
        ({"text": "a", "top": -1}, "top=-1"),
        ({"text": "a", "end": True}, "no token that ends an example"),
        ({"prompt": "a", "completion": ""}, "the completion is empty"),
        ({"prompt": "abcde", "completion": "fghij"}, "too long: 5 and 5 tokens, and the model's context is 8"),
        ({"prompt": ["a", "b"], "completion": ["c"]}, "2 prompts, but 1 completions"),
    ):
        with pytest.raises(ValueError, match=words):
            npgpt.score(gpt, tokenizer, **given)
    with pytest.raises(TypeError, match="text has 3"):
        npgpt.score(gpt, tokenizer, ["a", 3])
    letters = CharTokenizer(["ab"])
    with pytest.raises(ValueError, match="one token, which nothing comes before"):
        npgpt.score(model(2), letters, "a")
    with pytest.raises(ValueError, match="the prompt is empty"):
        npgpt.score(model(2), letters, prompt="", completion="a")
    assert npgpt.score(model(2), letters, "aba").prompt_ids == (letters.encode("a")[0],)


def test_a_full_context_is_enough_for_a_prompt_with_its_completion():
    found = npgpt.score(model(256, n_positions=8), ByteTokenizer(), prompt="abcde", completion="fghi")
    assert found.contexts.tolist() == [5, 6, 7, 8]


def test_a_call_of_the_decoder_is_filled_to_its_last_row():
    assert calls([2, 2, 4, 1], rows=4) == [slice(0, 4), slice(4, 8), slice(8, 9)]
