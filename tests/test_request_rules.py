"""The rules of a request: what they spell and count, their order, and what they refuse."""

import math

import numpy as np
import pytest

from npgpt.generation.rules import Rules, draw
from npgpt.generation.rules.spelling import spelling_of
from npgpt.generation.settings import ORDER, Sampling
from tests.test_rules import INF, TEXT, TOKENIZERS, kept


def rules(tokenizer=None, size=None, ends=(), prompt_length=0, **settings):
    size = tokenizer.vocab_size if size is None else size
    return Rules(Sampling(**settings), tokenizer, size, ends, prompt_length)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_banned_word_is_excluded_at_its_last_byte_however_it_is_cut(name):
    tokenizer = TOKENIZERS[name]
    words = ["party", "中文", "👩‍👩", "bar", "\r\n", "é".replace("é", "e\u0301"), "aa"]
    some = rules(tokenizer, banned=words)
    banned = [word.encode() for word in words]
    rng = np.random.default_rng(4)
    pieces = [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)]
    text = np.array(tokenizer.encode(TEXT))
    seen = 0
    for _ in range(60):
        end = int(rng.integers(0, len(text)))
        ids = np.append(text[:end], rng.integers(0, tokenizer.vocab_size, rng.integers(0, 2)))
        data = tokenizer.decode_bytes(ids)
        left_out = {
            i for i, piece in enumerate(pieces) if sum(map((data + piece).count, banned)) > sum(map(data.count, banned))
        }
        found = set(range(len(pieces))) - kept(some.apply(ids, np.zeros(len(pieces))))
        assert found == left_out
        seen += len(found)
    assert seen


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_without_banned_words_can_still_be_written(name):
    tokenizer, rng = TOKENIZERS[name], np.random.default_rng(0)
    some = rules(tokenizer, banned=["a", "中", "pt"])
    ids = np.array(tokenizer.encode("p"))
    for _ in range(300):
        ids = np.append(ids, draw(some.apply(ids, np.zeros(tokenizer.vocab_size)), rng))
    text = tokenizer.decode_bytes(ids)
    assert not any(word.encode() in text for word in ("a", "中", "pt"))


def test_an_end_token_is_no_text_and_ends_a_word():
    tokenizer = TOKENIZERS["bpe"]
    end = tokenizer.end_id
    some = rules(tokenizer, ends=(end,), banned=["end", "text", "xy"])
    zeros = np.zeros(tokenizer.vocab_size)
    assert some.apply(np.array([1]), zeros)[end] == 0
    x, y = tokenizer.encode("xy")
    assert some.apply(np.array([x]), zeros)[y] == -INF
    assert some.apply(np.array([x, end]), zeros)[y] == 0


@pytest.mark.parametrize("name", TOKENIZERS)
def test_any_tokens_that_spell_a_prefix_can_be_drawn_and_no_others(name):
    tokenizer, prefix = TOKENIZERS[name], "party 中"
    pieces = [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)]
    some = rules(tokenizer, prompt_length=2, prefix=prefix)
    rng = np.random.default_rng(0)
    cuts = set()
    for _ in range(20):
        ids = np.array([3, 4])
        while not (done := tokenizer.decode_bytes(ids[2:])).startswith(prefix.encode()):
            found = kept(some.apply(ids, np.zeros(len(pieces))))
            rest = prefix.encode()[len(done) :]
            special = tokenizer.special_tokens.values()
            assert found == {
                i for i, p in enumerate(pieces) if p and i not in special and (rest.startswith(p) or p.startswith(rest))
            }
            ids = np.append(ids, rng.choice(sorted(found)))
        cuts.add(tuple(ids))
        assert kept(some.apply(ids, np.zeros(len(pieces)))) == set(range(len(pieces)))
    assert len(cuts) > 1 or name != "bpe"


def test_ids_force_a_prefix_too():
    some = rules(None, 5, prompt_length=1, prefix=(3, 1))
    assert kept(some.apply(np.array([0]), np.zeros(5))) == {3}
    assert kept(some.apply(np.array([0, 3]), np.zeros(5))) == {1}
    assert kept(some.apply(np.array([0, 3, 1]), np.zeros(5))) == {0, 1, 2, 3, 4}


def test_no_end_token_before_the_minimum():
    some = rules(None, 5, ends=(2, 4, 9), prompt_length=3, min_new_tokens=2)
    assert kept(some.apply(np.zeros(4, int), np.zeros(5))) == {0, 1, 3}
    assert kept(some.apply(np.zeros(5, int), np.zeros(5))) == {0, 1, 2, 3, 4}


def test_the_prompt_and_old_tokens_count_only_if_asked():
    ids = np.array([0, 1, 2, 3, 4])
    for settings, seen in [
        ({}, {0, 1, 2, 3, 4}),
        ({"penalize_prompt": False}, {2, 3, 4}),
        ({"penalty_window": 2}, {3, 4}),
        ({"penalize_prompt": False, "penalty_window": 4}, {2, 3, 4}),
    ]:
        some = rules(None, 6, prompt_length=2, presence_penalty=1.0, **settings)
        assert set(np.flatnonzero(some.apply(ids, np.zeros(6)) < 0).tolist()) == seen
    assert kept(rules(None, 6, no_repeat_ngram_size=1, penalty_window=1).apply(ids, np.zeros(6))) == {0, 1, 2, 3, 5}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_breaker_ends_the_sequences_of_dry_however_it_is_cut(name):
    tokenizer = TOKENIZERS[name]
    ids = np.array(tokenizer.encode("bar中party bar中"))
    zeros = np.zeros(tokenizer.vocab_size)
    for breakers, penalised in [((), True), (("中",), False), (("bar",), True), (("中", "bar"), False)]:
        some = rules(tokenizer, dry_multiplier=1.0, dry_allowed_length=1, dry_breakers=breakers)
        assert bool(some.apply(ids, zeros).min() < 0) is penalised


def test_mirostat_follows_what_was_drawn():
    some = rules(None, 4, mirostat_tau=1.0, mirostat_eta=0.5)
    logits = np.log([0.5, 0.3, 0.15, 0.05])  # surprises 0.69, 1.20, 1.90, 3.00; the limit begins at 2
    found = some.apply(np.array([0]), logits)
    assert kept(found) == {0, 1, 2}
    some.chosen(2, found)  # of surprise -ln(0.15 / 0.95) = 1.85, so the limit falls by 0.42
    assert kept(some.apply(np.array([0]), logits)) == {0, 1}
    for _ in range(9):
        some.chosen(0, found)
    assert kept(some.apply(np.array([0]), logits)) == {0, 1, 2, 3}


def test_what_changes_nothing_is_left_out():
    neutral = Sampling(top_p=1.0, min_p=0.0, typical_p=1.0, epsilon_cutoff=0.0, eta_cutoff=0.0, logit_bias={})
    for sampling in (Sampling(), neutral):
        some = Rules(sampling, None, 5, (), 0)
        logits = np.zeros(5)
        assert not some.rules
        assert some.apply(np.array([1]), logits) is logits


def test_rules_work_in_the_order_of_the_settings():
    tokenizer = TOKENIZERS["bytes"]
    settings = {
        "guidance_scale": 2.0, "negative_prompt": "", "logit_bias": {1: 1.0}, "repetition_penalty": 1.1,
        "frequency_penalty": 0.1, "dry_multiplier": 1.0, "no_repeat_ngram_size": 2, "banned": "a", "min_new_tokens": 1,
        "prefix": "b", "temperature": 0.5, "top_n_sigma": 1.0, "top_k": 5, "top_p": 0.5, "min_p": 0.1,
        "typical_p": 0.9, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1, "mirostat_tau": 3.0,
    }  # fmt: skip
    assert tuple(rules(tokenizer, **settings).rules) == ORDER
    assert tuple(rules(tokenizer, **settings, order=ORDER[::-1]).rules) == ORDER[::-1]
    logits = np.log([0.4, 0.3, 0.3])
    assert kept(rules(None, 3, top_p=0.5, temperature=0.1, order=("top_p", "temperature")).apply([], logits)) == {0, 1}
    assert kept(rules(None, 3, top_p=0.5, temperature=0.1).apply([], logits)) == {0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logit_bias": {6: 1.0}}, "logit_bias has the id 6, which is outside the vocabulary of 6"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias has the id -1"),
        ({"banned": [(1, 6)]}, "banned has the id 6"),
        ({"prefix": (6,)}, "prefix has the id 6"),
        ({"banned": ["a"]}, "banned needs a tokenizer"),
        ({"prefix": "a"}, "prefix needs a tokenizer"),
        ({"dry_multiplier": 1.0}, "dry_breakers needs a tokenizer"),
        ({"top_p": 0.5, "min_p": 0.1, "order": ("top_p",)}, "order leaves out min_p"),
    ],
)
def test_what_cannot_work_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        rules(None, 6, **settings)


def test_a_prefix_of_unknown_characters_is_refused():
    with pytest.raises(ValueError, match="'z'"):
        rules(TOKENIZERS["chars"], prefix="z")


def test_damaged_logits_and_guidance_without_them_are_refused():
    some = rules(None, 3, top_k=2)
    for value, word in [(math.nan, "NaN"), (INF, "infinite")]:
        with pytest.raises(ValueError, match=f"logits are {word}"):
            some.apply(np.array([1]), np.array([0.0, value, 1.0]))
    with pytest.raises(ValueError, match="negative prompt"):
        rules(None, 3, guidance_scale=2.0, negative_prompt="").apply(np.array([1]), np.zeros(3))


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"frequency_penalty": -1e308}, "presence"), ({"repetition_penalty": 1e-320}, "repetition")],
)
def test_a_rule_that_leads_out_of_the_numbers_is_named(settings, name):
    with pytest.raises(ValueError, match=f"{name} leads to logits that are not finite"), np.errstate(over="ignore"):
        rules(None, 3, **settings).apply(np.array([1, 1]), np.array([0.0, 5.0, 1.0]))


def test_when_no_token_is_left_the_error_names_the_rules():
    some = rules(None, 3, banned=[(0,), (1,)], min_new_tokens=4, ends=(2,), top_k=1)
    with pytest.raises(
        ValueError, match=r"no token is left .* after 2 tokens: all are excluded by banned, min_length$"
    ):
        some.apply(np.array([1, 1]), np.zeros(3))
    with pytest.raises(ValueError, match="no token is left"):
        rules(None, 3, top_k=1).apply(np.array([1]), np.full(3, -INF))


def test_ids_of_a_padded_vocabulary_spell_nothing():
    tokenizer = TOKENIZERS["bytes"]
    some = rules(tokenizer, 300, banned=["ab"], dry_multiplier=1.0, presence_penalty=1.0)
    ids = np.array([299, ord("a"), 298])
    assert some.apply(ids, np.zeros(300))[ord("b")] == -INF
    few = rules(tokenizer, 98, banned=["ab", "bc"], repetition_penalty=2.0)
    assert kept(few.apply(np.array([200, ord("a")]), np.zeros(98))) == set(range(98))


def test_the_spelling_of_a_tokenizer_is_made_once():
    assert spelling_of(TOKENIZERS["bpe"]) is spelling_of(TOKENIZERS["bpe"])
