"""The engine: each of many texts is the one that it is alone, whenever the others begin, end or fail."""

import itertools
import tracemalloc

import numpy as np
import pytest

from npgpt import GPT, Generator, GPTConfig, Sampling, generate
from npgpt.generation import engine
from npgpt.generation.search import beam_search
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
    late = generator.submit([1], deadline=60)
    last = generator.submit([2], Sampling(max_new_tokens=2))
    with pytest.raises(ValueError, match="has not ended"):
        first.completion  # noqa: B018, it raises
    generator.step()
    late._until = 0
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


class Counted:
    """A model whose decoder needs no products: logits depend on all ids in a slot, and are exact whatever the parts."""

    dtype, size = np.dtype(np.float32), 0

    def __init__(self, vocab_size=11, n_positions=12):
        self.config = GPTConfig(vocab_size=vocab_size, n_positions=n_positions, n_embd=8, n_layer=1, n_head=1)
        self.read_ids, self.copied, self.calls = 0, 0, 0

    def decoder(self, slots, rows, weights, threads):
        self.lengths, self.rows = np.zeros(slots, np.int64), rows
        self.held = np.full((slots, self.config.n_positions), -1)
        self.fails = iter(())
        return self

    def read(self, slots, ids, wanted):
        self.calls += 1
        self.read_ids += len(ids)
        logits = []
        for row, (slot, i) in enumerate(zip(slots, ids, strict=True)):
            self.held[slot, self.lengths[slot]] = i
            self.lengths[slot] += 1
            if row in wanted:
                logits.append(self.after(self.held[slot, : self.lengths[slot]]))
            error = next(self.fails, None)
            if error is not None:
                raise error
        assert len(ids) <= self.rows
        return np.array(logits, np.float32).reshape(len(wanted), self.config.vocab_size)

    def after(self, ids):
        seed = [int(i) for i in ids]
        return np.random.default_rng(seed).standard_normal(self.config.vocab_size).astype(np.float32)

    def copy(self, source, target, length):
        self.copied += length
        self.held[target, :length] = self.held[source, :length]
        self.lengths[target] = length


def random_sampling(rng, seed):
    return Sampling(
        seed=seed,
        temperature=float(rng.choice([0, 0.7, 1.5])),
        top_k=[None, 3][rng.integers(2)],
        max_new_tokens=int(rng.integers(0, 40)),
        context=str(rng.choice(["block", "slide"])),
        logprobs=int(rng.integers(3)),
        stop_ids=[(), (3,), None][rng.integers(3)],
    )


@pytest.mark.parametrize(("make", "seed"), [*((Counted, i) for i in range(6)), *((model, i) for i in range(2))])
def test_random_arrivals_change_nothing(make, seed):
    rng = np.random.default_rng(seed)
    gpt = make(n_positions=60)
    generator = Generator(gpt, slots=int(rng.integers(1, 5)))
    stems = [rng.integers(0, 11, 50).tolist() for _ in range(2)]
    waiting, requests = 14, []
    while waiting or generator.busy:
        for _ in range(min(waiting, rng.poisson(0.4))):
            waiting -= 1
            prompt = stems[rng.integers(2)][: rng.integers(1, 50)] + rng.integers(0, 11, rng.integers(0, 30)).tolist()
            requests.append(generator.submit(prompt, random_sampling(rng, waiting)))
        if requests and rng.random() < 0.02:
            requests[rng.integers(len(requests))].cancel()
        generator.step()
    assert len(requests) == 14
    for request in requests:
        found = request.completion
        want = alone(make(n_positions=60), request.prompt_ids, request.sampling)
        if found.finish_reason == "cancelled":
            n = len(found.ids)
            assert (found.ids, found.logprobs, found.top) == (want.ids[:n], want.logprobs[:n], want.top[:n])
        else:
            assert found == want


def test_a_prompt_longer_than_a_call_is_read_in_parts_beside_a_text():
    gpt = Counted(n_positions=1000)
    generator = Generator(gpt, slots=2)
    short = generator.submit([1], Sampling(max_new_tokens=50))
    generator.step()
    long = generator.submit([*range(10)] * 60, Sampling(max_new_tokens=2))
    steps = 0
    while not long.done:
        generator.step()
        steps += 1
    assert steps == 5 + 1  # 600 tokens are 4 parts of 128 and one of 88, after which there is the first token
    assert len(short.ids) == 1 + steps  # it did not wait
    for request in (short, long):
        request.cancel()
        assert request.completion.ids == alone(Counted(n_positions=1000), request.prompt_ids, request.sampling).ids[:7]


def test_a_shared_prefix_is_read_once():
    prefix = [1, 2, 3, 4, 5] * 40
    gpt = Counted(n_positions=300)
    generator = Generator(gpt, slots=4)
    found = generator.complete([prefix], n=4, max_new_tokens=1)
    assert gpt.read_ids == 200 + 3  # the others read the last token of the prompt
    assert len({completion.ids for completion in found}) > 1
    generator.complete([[*prefix, 6]], max_new_tokens=1)
    assert gpt.read_ids == 200 + 3 + 1  # a slot that was left still holds it
    generator.complete([[7, *prefix]], max_new_tokens=1)
    assert gpt.read_ids == 200 + 3 + 1 + 201
    assert gpt.copied == 3 * 199


def test_a_text_whose_forerunner_is_cancelled_reads_the_rest():
    gpt = Counted(n_positions=600)
    generator = Generator(gpt, slots=2)
    prompt = [1, 2, 3, 4, 5] * 100
    first, second = (generator.submit([*prompt, i], Sampling(max_new_tokens=3, temperature=0)) for i in (6, 7))
    generator.step()
    first.cancel()
    while generator.busy:
        generator.step()
    assert gpt.copied == 128
    assert second.completion == alone(Counted(n_positions=600), [*prompt, 7], second.sampling)


@pytest.mark.parametrize(("context", "tokens"), [("block", 4 * 200), ("slide", 1 + 40 * 199)])
def test_what_200_tokens_past_the_context_read(context, tokens):
    """For each quarter of new tokens, block reads the other three quarters once more: 4 tokens for a new one."""
    gpt = Counted(n_positions=40)
    Generator(gpt, slots=1).complete([[1] * 39], max_new_tokens=1, context=context)
    before, gpt.read_ids = gpt.read_ids, 0
    Generator(gpt, slots=1).complete([[1] * 39], max_new_tokens=1 + 200, context=context)
    assert before == 39
    assert gpt.read_ids == 39 + tokens


def test_a_negative_prompt_is_read_in_a_slot_of_its_own():
    tokenizer, gpt = ByteTokenizer(), model(vocab_size=256, n_positions=60)
    settings = {"guidance_scale": 1.7, "temperature": 0, "max_new_tokens": 20}
    guided = Generator(gpt, tokenizer, slots=3).complete(["ab", "c"], negative_prompt="x" * 30, **settings)
    for prompt, completion in zip(["ab", "c"], guided, strict=True):
        text, negative = list(prompt.encode()), [ord("x")] * 30
        for token in completion.ids:
            own, other = (gpt.logits([ids])[0, -1].astype(np.float64) for ids in (text, negative))
            own, other = (x - np.log(np.exp(x).sum()) for x in (own, other))
            assert token == (other + 1.7 * (own - other)).argmax()
            text.append(token)
            negative.append(token)
    empty, last = (
        Generator(gpt, tokenizer).complete(["ab"], negative_prompt=negative, **settings) for negative in ("", "b")
    )
    assert empty[0].ids == last[0].ids
    with pytest.raises(ValueError, match="slots=2 or more"):
        Generator(gpt, tokenizer, slots=1).submit("a", Sampling(guidance_scale=2, negative_prompt=""))


class OneOf:
    """The constraint that a text is one of some."""

    def __init__(self, *texts):
        self.texts, self.so_far = [text.encode() for text in texts], b""

    def mask(self):
        mask = np.zeros(256, bool)
        n = len(self.so_far)
        mask[[text[n] for text in self.texts if text.startswith(self.so_far) and len(text) > n]] = True
        mask[0] = self.so_far in self.texts  # the end token
        return mask

    def accept(self, token):
        self.so_far += bytes([token] if token else [])

    def matches(self, text):
        return text.encode() in self.texts

    @property
    def over(self):
        return self.so_far in self.texts and not self.mask()[1:].any()


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_constrained_text_matches_or_is_said_not_to(monkeypatch, temperature):
    texts = ["yes", "yes, sir", "no", "中文"]
    monkeypatch.setattr(engine, "constraint_of", lambda *args: OneOf(*texts))
    generator = Generator(model(vocab_size=256), ByteTokenizer())
    seen = set()
    for seed in range(12):
        for most in (2, 99):
            (found,) = generator.complete(
                ["?"], seed=seed, temperature=temperature, max_new_tokens=most, stop_ids=0, top_k=3
            )
            seen.add(found.finish_reason)
            assert (found.text in texts) == (found.finish_reason in ("constraint", "stop", "length"))
            assert any(text.startswith(found.text.rstrip("\ufffd")) for text in texts)
    assert seen >= {"constraint", "unfinished"}
    monkeypatch.setattr(engine, "constraint_of", lambda *args: OneOf("yes"))
    (found,) = generator.complete(["?"], stop="s")
    assert (found.text, found.finish_reason) == ("ye", "unfinished")


def test_a_text_that_can_neither_go_on_nor_end_is_unfinished(monkeypatch):
    constraint = OneOf("yes")
    monkeypatch.setattr(engine, "constraint_of", lambda *args: constraint)
    monkeypatch.setattr(constraint, "mask", lambda: np.zeros(256, bool))
    (found,) = Generator(model(vocab_size=256), ByteTokenizer()).complete(["?"])
    assert (found.text, found.finish_reason) == ("", "unfinished")


def test_half_a_character_at_the_end_completes_a_stop_string():
    generator = Generator(model(vocab_size=256, n_positions=64), ByteTokenizer())
    sampling = Sampling(max_new_tokens=3, prefix=tuple(b"ab\xe4"), stop="\ufffd")
    (found,) = generator.complete(["a"], sampling)
    assert (found.text, found.finish_reason) == ("ab", "stop")


def test_a_stop_string_is_never_shown():
    gpt = model(vocab_size=256)
    generator = Generator(gpt, ByteTokenizer())
    whole = generator.complete(["a"], seed=3, max_new_tokens=40)[0].text
    stop = whole[5:8]
    found = generator.complete(["a"], seed=3, max_new_tokens=40, stop=stop)[0]
    assert (found.text, found.finish_reason) == (whole[: whole.index(stop)], "stop")
    pieces = generator.stream("a", seed=3, max_new_tokens=40, stop=stop)
    assert "".join(pieces) == found.text


@pytest.mark.parametrize("slots", [1, 4])
def test_a_steady_step_allocates_nothing_of_the_size_of_the_vocabulary(slots):
    size = 50_000
    gpt = Counted(vocab_size=size, n_positions=1000)
    logits = np.random.default_rng(0).standard_normal((slots, size)).astype(np.float32)
    generator = Generator(gpt, slots=slots)

    def read(slots, ids, wanted):
        gpt.lengths[slots] += 1
        return logits[: len(wanted)]

    gpt.read = read
    requests = [generator.submit([1], Sampling(temperature=0, max_new_tokens=200)) for _ in range(slots)]
    for _ in range(10):
        generator.step()
    tracemalloc.start()
    generator.step()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(100):
        generator.step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(len(request.ids) == 111 for request in requests)
    # ids and log-probabilities grow: two Python numbers and their places in lists, for each of 100 steps. An array
    # with a byte for each token of the vocabulary would be as large as half of it
    assert peak - before < min(size, 100 * slots * 150)


def test_the_likeliest_tokens_are_those_of_the_tokenizer():
    gpt = model(vocab_size=260)
    generator = Generator(gpt, ByteTokenizer())
    sampling = Sampling(max_new_tokens=1, logprobs=300)
    (drawn,) = generator.complete(["a"], sampling)
    (beam,) = beam_search(generator, "a", sampling=sampling)
    logits = gpt.forward(np.array([[97]]))[0, -1].astype(np.float64)
    want = logits - np.log(np.exp(logits).sum())  # among all tokens of the model
    for (found,) in (drawn.top, beam.top):
        assert sorted(token for token, _ in found) == [*range(256)]
        np.testing.assert_allclose([value for _, value in found], want[[token for token, _ in found]], atol=1e-5)
