"""The engine: each of many texts is the one that it is alone, whenever the others begin, end or fail."""

import itertools
import time

import numpy as np
import pytest

from npgpt import GPT, Generator, GPTConfig, Sampling, generate
from npgpt.tokenizer import ByteTokenizer

CONFIG = GPTConfig(vocab_size=11, n_positions=12, n_embd=8, n_layer=2, n_head=2)


def model(**changes):
    gpt = GPT(GPTConfig(**{**vars(CONFIG), **changes}), dtype="float32")
    rng = np.random.default_rng(1)
    for name, array in gpt.params.items():
        gpt.params[name] = 0.8 * rng.standard_normal(array.shape)
    return gpt


def alone(gpt, prompt, sampling):
    (completion,) = Generator(gpt, slots=2).complete([prompt], sampling)
    return completion


def test_a_batch_of_prompts_of_different_lengths():
    gpt, sampling = model(), Sampling(max_new_tokens=15, temperature=0.9, seed=3, logprobs=2)
    prompts = [[1], [1, 2, 3, 4, 5, 6, 7], [5] * 20, [9, 8]]
    found = Generator(gpt, slots=2).complete(prompts, sampling)
    assert found == [alone(gpt, prompt, sampling) for prompt in prompts]
    assert [completion.prompt_ids for completion in found] == [tuple(prompt) for prompt in prompts]
    assert {len(completion.ids) for completion in found} == {15}


def test_samples_of_one_prompt_differ_by_their_seeds():
    gpt = model()
    found = Generator(gpt).complete([[1, 2]], n=3, temperature=2.0, seed=5, max_new_tokens=9)
    assert len({completion.ids for completion in found}) == 3
    for i, completion in enumerate(found):
        rng = np.random.default_rng(5 if i == 0 else (5, i))
        assert completion.ids == tuple(generate(gpt, [1, 2], 9, temperature=2.0, seed=rng))
    assert Generator(gpt).complete([[1, 2]], n=2, temperature=2.0, seed=5, max_new_tokens=9) == found[:2]


def test_log_probabilities_are_the_models_own():
    gpt = model()
    (completion,) = Generator(gpt).complete([[3, 1]], temperature=2.0, top_k=2, max_new_tokens=8, logprobs=3)
    ids = [3, 1, *completion.ids]
    logits = gpt.logits([ids])[0].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for step, (token, logprob, top) in enumerate(zip(completion.ids, completion.logprobs, completion.top, strict=True)):
        want = logprobs[1 + step]
        assert logprob == pytest.approx(want[token], abs=1e-4)  # float32
        assert [i for i, _ in top] == list(np.argsort(-want)[:3])
        np.testing.assert_allclose([p for _, p in top], want[[i for i, _ in top]], atol=1e-4)


def test_text_comes_in_pieces_that_make_the_whole():
    tokenizer, gpt = ByteTokenizer(), model(vocab_size=256)
    generator = Generator(gpt, tokenizer)
    (completion,) = generator.complete(["中"], max_new_tokens=9, seed=1)
    assert completion.prompt_ids == tuple("中".encode())
    assert "".join(generator.stream("中", max_new_tokens=9, seed=1)) == completion.text
    assert completion.text == tokenizer.decode(completion.ids)


def test_a_closed_stream_leaves_its_slot():
    generator = Generator(model(vocab_size=256), ByteTokenizer(), slots=1)
    stream = generator.stream("a", max_new_tokens=100, seed=2)
    next(stream)
    stream.close()
    never = generator.stream("a")  # no slot is taken for what nobody asks for
    assert len(generator.complete(["b"], max_new_tokens=3)[0].ids) == 3
    assert not generator.busy
    never.close()
    assert not generator.busy


def test_an_end_token_ends_a_text_and_is_not_in_it():
    gpt = model(vocab_size=256)
    plain = Generator(gpt, ByteTokenizer()).complete(["a"], max_new_tokens=9, temperature=0)[0]
    end = plain.ids[4]
    found = Generator(gpt, ByteTokenizer()).complete(["a"], max_new_tokens=9, temperature=0, stop_ids=end)[0]
    n = plain.ids.index(end)
    assert found.ids == plain.ids[: n + 1]
    assert found.text == ByteTokenizer().decode(plain.ids[:n])
    assert (found.finish_reason, plain.finish_reason) == ("stop", "length")


def test_a_request_can_be_cancelled_and_has_a_deadline():
    generator = Generator(model(), slots=1)
    first = generator.submit([1], Sampling(max_new_tokens=50))
    late = generator.submit([1], deadline=0.001)
    last = generator.submit([2], Sampling(max_new_tokens=2))
    with pytest.raises(ValueError, match="has not ended"):
        first.completion  # noqa: B018, it raises
    generator.step()
    time.sleep(0.002)
    assert generator.step() == [late, first]
    first.cancel()
    while generator.busy:
        generator.step()
    assert [r.completion.finish_reason for r in (first, late, last)] == ["cancelled", "deadline", "length"]
    assert [len(r.completion.ids) for r in (first, late, last)] == [2, 0, 2]


@pytest.mark.parametrize(
    ("prompt", "settings", "match"),
    [
        ([], {}, "prompt is empty"),
        ("", {}, "prompt is empty"),
        ([256], {}, "the prompt has the id 256, which is outside the vocabulary of 256"),
        ([-1], {}, "id -1"),
        ([1], {"stop_ids": [256]}, "stop_ids has the id 256"),
        ([1], {"logit_bias": {256: 1.0}}, "logit_bias has the id 256"),
        ([1] * 12, {"max_new_tokens": None}, r"12 tokens, .* max_new_tokens=None .* 12 must"),
        ([1] * 12, {"context": "stop"}, r"12 tokens, .* context='stop' .* 12 must"),
        ([1], {"topk": 1}, "did you mean 'top_k'"),
    ],
)
def test_what_cannot_be_is_refused_at_once(prompt, settings, match):
    generator = Generator(model(vocab_size=256), ByteTokenizer())
    with pytest.raises(ValueError, match=match):
        generator.stream(prompt, **settings)
    assert not generator.busy


@pytest.mark.parametrize("deadline", [0, -1.0, float("nan"), float("inf")])
def test_a_deadline_is_in_the_future(deadline):
    with pytest.raises(ValueError, match=f"deadline={deadline} must be seconds above 0"):
        Generator(model()).submit([1], deadline=deadline)


def test_text_needs_a_tokenizer():
    with pytest.raises(ValueError, match=r"'abc' is a text: give the generator a tokenizer"):
        Generator(model()).submit("abc")
    with pytest.raises(ValueError, match="a stream is text"):
        Generator(model()).stream([1])
    with pytest.raises(ValueError, match="slots=0"):
        Generator(model(), slots=0)
    with pytest.raises(ValueError, match="n=2 texts at temperature 0"):
        Generator(model()).complete([[1]], n=2, temperature=0)


@pytest.mark.parametrize("prompt", [[1], [1, 2, 3], list(range(11)), [4] * 12, [*range(11)] * 3])
def test_past_the_context_a_quarter_is_dropped_and_the_rest_is_read_again(prompt):
    gpt = model()
    window = prompt[-12:]
    for token in itertools.islice(generate(gpt, prompt, 40, temperature=0), 40):
        assert token == gpt.logits([window])[0, -1].argmax()
        window = [*(window if len(window) < 12 else window[3:]), token]


def test_a_context_that_stops_ends_the_text():
    gpt = model()
    (completion,) = Generator(gpt).complete([[1, 2, 3]], context="stop", temperature=0)
    assert (len(completion.ids), completion.finish_reason) == (9, "context")
    assert completion.ids == tuple(generate(gpt, [1, 2, 3], 9, temperature=0))
    (completion,) = Generator(gpt).complete([[1, 2, 3]], max_new_tokens=None, temperature=0)
    assert (len(completion.ids), completion.finish_reason) == (9, "length")


def test_lent_slots_are_empty_and_come_back():
    generator = Generator(model(), slots=3)
    request = generator.submit([1, 2, 3], Sampling(max_new_tokens=4, temperature=0))
    generator.step()
    with generator.lent(2) as slots:
        assert list(generator.decoder.lengths[slots]) == [0, 0]
        with pytest.raises(ValueError, match="2 slots are needed, but 0 are free"), generator.lent(2):
            pass
        while not request.done:
            generator.step()
    assert request.completion == alone(generator.model, [1, 2, 3], request.sampling)
    with generator.lent(3) as slots:
        assert sorted(slots) == [0, 1, 2]
