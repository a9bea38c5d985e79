"""Speculative decoding: the ids of greedy decoding, and the distribution of draws, whatever the draft is."""

import itertools
import re
from contextlib import nullcontext
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest

from npgpt import GPT, Generator, GPTConfig, Sampling
from npgpt.generation.requests import Completion
from npgpt.generation.rules import Rules, softmax
from npgpt.generation.search import speculative
from npgpt.generation.search.drafting import Lookahead, keep_or_draw, pick
from npgpt.tokenizer import ByteTokenizer, CharTokenizer

V = 4


class Table:
    """A model whose next token depends on the last one alone: as fast as thousands of draws need."""

    def __init__(self, seed, flops=1.0):
        self.config = SimpleNamespace(vocab_size=V, n_positions=16, eos_token_id=None)
        self.table = 1.2 * np.random.default_rng(seed).standard_normal((V, V))
        self.dtype, self.size, self.flops_per_token = self.table.dtype, self.table.size, flops

    def describe(self):
        return "a table"

    def tap_names(self):
        return []

    def new_past(self, batch_size=1):
        return SimpleNamespace(length=0)

    def forward(self, ids, past=None, taps=None, last=False):
        past.length += ids.shape[1]
        return self.table[ids][:, -1 if last else 0 :]


def gpt(seed=1, **changes):
    sizes = {"vocab_size": 11, "n_positions": 12, "n_embd": 8, "n_layer": 2, "n_head": 2, "eos_token_id": 4}
    model = GPT(GPTConfig(**sizes | changes), dtype="float64", ops="reference")
    rng = np.random.default_rng(seed)
    for name, array in model.params.items():
        model.params[name] = rng.standard_normal(array.shape) * (2.5 if name[:3] in ("wte", "wpe") else 0.8)
    return model


RULES = [{}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}, {"logit_bias": {4: 3.0}, "min_new_tokens": 5}]


@pytest.mark.parametrize(("context", "rules"), list(zip(["block", "slide", "stop"], RULES, strict=True)))
@pytest.mark.parametrize("lookahead", [None, 1, 5])
def test_greedy_ids_are_those_without_a_draft(context, rules, lookahead):
    model = gpt()
    sampling = Sampling(max_new_tokens=25, temperature=0, context=context, logprobs=2, **rules)
    (want,) = Generator(model).complete([[1, 2, 3]], sampling)
    drafts = (gpt(1), gpt(2), gpt(3, n_layer=1, n_positions=5, n_embd=4, n_head=1))
    for draft in drafts:
        found = speculative(Generator(model), draft, [1, 2, 3], sampling, lookahead)
        assert (found.ids, found.text, found.finish_reason) == (want.ids, want.text, want.finish_reason)
        np.testing.assert_allclose(found.logprobs, want.logprobs, rtol=1e-9)
        assert [[i for i, _ in row] for row in found.top] == [[i for i, _ in row] for row in want.top]
        assert found.accepted <= found.drafted
        assert found.reads <= len(found.ids)
        assert found.accepted + found.reads >= len(found.ids)  # each call gives one token of the large model's own


def test_greedy_texts_of_the_compiled_decoder_are_the_same_to_the_last_bit():
    sizes = {"vocab_size": 17, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model, draft = GPT(GPTConfig(**sizes)), GPT(GPTConfig(**sizes | {"n_layer": 1}))
    model.params.flat[:] *= 20  # far from uniform
    draft.params |= {name: array for name, array in model.params.items() if name in draft.params}
    sampling = Sampling(max_new_tokens=40, temperature=0, logprobs=3)
    (want,) = Generator(model).complete([[1, 2, 3]], sampling)
    found = speculative(Generator(model), draft, [1, 2, 3], sampling, lookahead=4)
    assert Completion(**{field.name: getattr(found, field.name) for field in fields(Completion)}) == want
    assert 0 < found.accepted < found.drafted


def test_a_draft_of_the_same_weights_is_kept_whole():
    model = gpt(n_positions=32, eos_token_id=None)
    found = speculative(Generator(model), model, [1, 2], Sampling(max_new_tokens=24, temperature=0), lookahead=5)
    assert (found.drafted, found.accepted, found.reads) == (20, 20, 4)
    drawn = speculative(Generator(model), model, [1, 2], Sampling(max_new_tokens=24, top_p=0.9), lookahead=5)
    assert (drawn.drafted, drawn.accepted, drawn.reads) == (20, 20, 4)


@pytest.mark.parametrize(
    ("sampling", "lookahead"),
    [
        (Sampling(), 2),
        pytest.param(Sampling(temperature=0.8, top_k=3, repetition_penalty=1.2), None, marks=pytest.mark.big),
    ],
)
def test_draws_of_three_tokens_have_the_joint_distribution_of_the_large_model(sampling, lookahead):
    chi, cells = statistic(sampling, lookahead, keep_or_draw)
    assert chi < QUANTILE[cells]


def test_draws_under_a_constraint_have_the_joint_distribution_of_the_large_model():
    pytest.importorskip("llguidance", reason="constraints need npgpt[constrain]")
    chi, cells = statistic(Sampling(regex="(a[bc]|[bd]c)[a-d]"), 2, keep_or_draw, 500)
    assert chi < QUANTILE[cells]


def test_the_statistic_catches_a_rejected_token_that_is_drawn_from_p():
    def wrong(token, q, p, rng):
        return token if rng.random() * q[token] < p[token] else pick(p, rng)

    chi, cells = statistic(Sampling(), 2, wrong)
    assert chi > 2 * QUANTILE[cells]


# the value that chi-square passes once in a thousand, by the number of outcomes less one
QUANTILE = {n: (n - 1) * (1 - 2 / (9 * (n - 1)) + 3.0902 * np.sqrt(2 / (9 * (n - 1)))) ** 3 for n in range(2, 65)}
N = 1500


def statistic(sampling, lookahead, rule, N=N):
    """Return chi-square of N texts against the exact distribution, and the number of outcomes that are possible."""
    tokenizer = CharTokenizer(["abcd"])
    model, draft = (Generator(table, tokenizer, slots=1) for table in (Table(0), Table(7, flops=0.01)))
    rules = Rules(sampling, None, V, (), 1)
    texts = [*itertools.product(range(V), repeat=3)]
    right = [text for text in texts if sampling.regex is None or re.fullmatch(sampling.regex, tokenizer.decode(text))]
    exact = {}
    for text in texts:
        ids = np.array([0, *text])
        p = []
        for i in range(3):
            allowed = np.isin(range(V), [other[i] for other in right if other[:i] == text[:i]] or range(V))
            logits = np.where(allowed, model.model.table[ids[i]], -np.inf)
            p.append(softmax(rules.apply(ids[: i + 1], logits)))
        exact[text] = np.prod([row[i] for row, i in zip(p, text, strict=True)])
    assert sum(exact.values()) == pytest.approx(1)
    counts = dict.fromkeys(exact, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("npgpt.generation.search.drafting.keep_or_draw", rule)
        patch.setattr("npgpt.generation.decoder.blas_threads", lambda model, n: nullcontext())  # most of the time
        for seed in range(N):
            settings = {"max_new_tokens": 3, "seed": seed}
            counts[speculative(model, draft, [0], replace(sampling, **settings), lookahead).ids] += 1
    assert all(exact[text] > 0 for text in counts if counts[text])
    # outcomes of which fewer than 5 are expected count as one
    rare = [text for text in exact if N * exact[text] < 5]
    pairs = [(counts[text], N * exact[text]) for text in exact if text not in rare]
    if rare and sum(exact[text] for text in rare) > 0:
        pairs.append((sum(counts[text] for text in rare), N * sum(exact[text] for text in rare)))
    return sum((got - want) ** 2 / want for got, want in pairs), len(pairs)


def test_the_lookahead_follows_what_was_kept_and_what_a_draft_costs():
    cheap, dear = Lookahead(0.05), Lookahead(2.0)
    assert cheap() > 1
    for _ in range(30):
        cheap.learn(0, 1)
    # nothing was kept: no draft pays, and one in every 16 calls tries again
    assert [cheap() for _ in range(32)] == [*[0] * 15, 1, *[0] * 15, 1]
    for _ in range(60):
        cheap.learn(8, 8)
    assert cheap() == 8
    assert dear() == 0


def test_a_draft_of_another_vocabulary_is_refused():
    model = gpt()
    with pytest.raises(ValueError, match="the draft has a vocabulary of 12, and the model one of 11"):
        speculative(Generator(model), gpt(vocab_size=12), [1])
    chars, others = CharTokenizer(["abc"]), CharTokenizer(["abd"])
    with pytest.raises(
        ValueError, match=r"another tokenizer.*3 tokens, fingerprint \w{12}, and the model 3, fingerprint"
    ):
        speculative(Generator(gpt(), chars), Generator(gpt(), others), "a")
    with pytest.raises(ValueError, match="the draft draws from 11 tokens, and the model from 3"):
        speculative(Generator(gpt(), chars), Generator(gpt()), "a")
    # padded vocabularies of the same tokenizer
    found = speculative(
        Generator(gpt(), chars), Generator(gpt(2, vocab_size=7), chars), "a", Sampling(max_new_tokens=9)
    )
    assert set(found.ids) <= {0, 1, 2}


def test_stop_strings_end_a_text_within_a_draft():
    model, tokenizer = gpt(vocab_size=256, eos_token_id=None), ByteTokenizer()
    plain = Sampling(max_new_tokens=12, temperature=0)
    (text,) = Generator(model, tokenizer).complete(["é"], plain)
    stop = text.text[2:4]
    sampling = replace(plain, stop=(stop,))
    (want,) = Generator(model, tokenizer).complete(["é"], sampling)
    found = speculative(Generator(model, tokenizer), model, "é", sampling, lookahead=6)
    assert (found.text, found.ids, found.finish_reason) == (want.text, want.ids, "stop")
    assert stop not in found.text


def test_what_cannot_be_is_refused():
    generator = Generator(gpt(), slots=2)
    with pytest.raises(ValueError, match="lookahead=0 must be at least 1"):
        speculative(generator, gpt(), [1], lookahead=0)
    with pytest.raises(ValueError, match=r"guidance_scale=1.5 cannot be used"):
        speculative(generator, gpt(), [1], Sampling(guidance_scale=1.5, negative_prompt=""))
    broken = gpt()
    broken.params.flat[:] = np.nan
    for temperature in (0, 1):
        with pytest.raises(ValueError, match="the draft's logits are NaN"):
            speculative(generator, broken, [1], Sampling(temperature=temperature))
    with generator.lent(2):  # what was lent has come back
        pass


def test_a_deadline_ends_the_text():
    found = speculative(Generator(gpt()), gpt(2), [1], Sampling(max_new_tokens=10**6, stop_ids=()), deadline=0.02)
    assert found.finish_reason == "deadline"
    assert 0 < len(found.ids) < 10**6


def test_drafts_that_are_always_kept_become_as_long_as_they_may_and_stay_so():
    """The share of kept tokens comes to be 1 by rounding, where the sum of a geometric series has no closed form."""
    length = Lookahead(0.01)
    for _ in range(2000):
        length.learn(8, 8)
    assert length.kept / length.tried == 1
    assert length() == 8
