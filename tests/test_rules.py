"""The rules of generation: each against its formula, written another way."""

import doctest
import importlib
import math
from collections import Counter

import numpy as np
import pytest

from npgpt import Tokenizer
from npgpt.generation.rules import (
    Rules,
    add_bias,
    apply_temperature,
    cut_epsilon,
    cut_eta,
    draw,
    exclude_repeated_ngrams,
    exclude_sequences,
    guide,
    keep_min_p,
    keep_surprise,
    keep_top_k,
    keep_top_n_sigma,
    keep_top_p,
    keep_typical,
    log_softmax,
    penalize_dry,
    penalize_presence,
    penalize_repetition,
    softmax,
)
from npgpt.generation.rules.spelling import spelling_of
from npgpt.generation.settings import ORDER, Sampling
from npgpt.tokenizer import ByteTokenizer, CharTokenizer

INF = math.inf
FILES = ("distribution", "truncation", "penalties", "steering", "spelling", "mirostat")
TEXT = "中文 party 👩‍👩‍👧 e\u0301\r\nparty bar, barb 中中文\r\n" * 3
TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "chars": CharTokenizer([TEXT]),
    "bpe": Tokenizer.train([TEXT], vocab_size=280, fast=False),
}


@pytest.mark.parametrize("name", FILES)
def test_the_examples_are_true(name):
    assert doctest.testmod(importlib.import_module(f"npgpt.generation.rules.{name}")).failed == 0


def cases():
    """Yield logits of all kinds: few and many, spread and flat, with equal ones and excluded ones."""
    rng = np.random.default_rng(5)
    for size in (1, 2, 7, 40, 2600):
        for spread in (0.0, 0.3, 3.0, 40.0):
            logits = spread * rng.standard_normal(size)
            yield logits
            yield np.round(logits)  # many are equal
            some = logits.copy()
            some[rng.random(size) < 0.4] = -INF
            some[rng.integers(size)] = 1.0
            yield some


ALL = list(cases())


def kept(logits):
    return set(np.flatnonzero(logits > -INF).tolist())


def likeliest_first(logits):
    return sorted(kept(logits), key=lambda i: (-logits[i], i))


def probabilities(logits):
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def entropy(probs):
    return -math.fsum(p * math.log(p) for p in probs if p > 0)


def holds(rule, value, expected):
    """Check which tokens a rule keeps, and that it neither changes their logits nor its argument."""
    for logits in ALL:
        before = logits.copy()
        found = rule(logits, value)
        np.testing.assert_array_equal(logits, before)
        assert kept(found) == set(expected(logits, value))
        np.testing.assert_array_equal(found[found > -INF], logits[found > -INF])


@pytest.mark.parametrize("k", [1, 2, 6, 250, 300, 6000])
def test_top_k_keeps_the_first_of_the_sorted(k):
    holds(keep_top_k, k, lambda logits, k: likeliest_first(logits)[:k])


@pytest.mark.parametrize("p", [1e-9, 0.3, 0.83, 0.999])
def test_top_p_adds_up_until_it_is_enough(p):
    def enough(logits, p):
        probs, total, out = softmax(logits), 0.0, []
        for i in likeliest_first(logits):
            if total >= p:
                break
            out.append(i)
            total += probs[i]
        return out

    holds(keep_top_p, p, enough)


def test_top_p_decides_a_tie_by_the_order_of_the_sum():
    # 0.1 + 0.1 + 0.1 is above 0.3 in this order; a hundred of 4096 equal ones reach their share exactly
    assert len(kept(keep_top_p(np.zeros(10), 0.3))) == 3
    assert kept(keep_top_p(np.zeros(4096), 100 / 4096)) == set(range(100))
    steps = np.repeat([1.0, 0.0], [4096, 4096])
    share = 4096 * softmax(steps)[0]
    assert 4095 <= len(kept(keep_top_p(steps, share))) <= 4097


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_min_p_is_a_share_of_the_largest_probability(share):
    def large(logits, share):
        probs = probabilities(logits)
        least = share * max(probs) * (1 - 1e-12)
        return [i for i, p in enumerate(probs) if p >= least and logits[i] > -INF]

    holds(keep_min_p, share, large)


@pytest.mark.parametrize("mass", [0.1, 0.55, 0.95])
def test_typical_tokens_are_those_of_expected_surprise(mass):
    def typical(logits, mass):
        probs = probabilities(logits)
        mean = entropy(probs)
        distance = {i: abs(-math.log(p) - mean) for i, p in enumerate(probs) if p > 0}
        order = sorted(distance, key=distance.get)
        total, last = 0.0, order[0]
        for i in order:
            last = i
            total += probs[i]
            if total >= mass - 1e-12:
                break
        return [i for i in distance if distance[i] <= distance[last] + 1e-9]

    holds(keep_typical, mass, typical)


@pytest.mark.parametrize("epsilon", [3e-4, 0.09, 0.7])
def test_epsilon_and_eta_are_limits_of_probability(epsilon):
    def above(limit):
        def expected(logits, epsilon):
            probs = probabilities(logits)
            least, top = limit(epsilon, entropy(probs)) - 1e-13, max(logits)
            return [i for i, p in enumerate(probs) if p >= least or logits[i] == top]

        return expected

    holds(cut_epsilon, epsilon, above(lambda epsilon, h: epsilon))
    holds(cut_eta, epsilon, above(lambda epsilon, h: min(epsilon, epsilon**0.5 / math.exp(h))))


@pytest.mark.parametrize("n", [0.1, 1.0, 2.5])
def test_top_n_sigma_measures_the_spread(n):
    def near(logits, n):
        finite = [logit for logit in logits if logit > -INF]
        mean, top = math.fsum(finite) / len(finite), max(finite)
        sigma = math.sqrt(math.fsum((logit - mean) ** 2 for logit in finite) / len(finite))
        return [i for i, logit in enumerate(logits) if top - logit <= n * sigma + 1e-12]

    holds(keep_top_n_sigma, n, near)


def test_mirostat_is_a_limit_of_surprise():
    def expected(logits, most):
        top = max(logits)
        return [i for i, p in enumerate(probabilities(logits)) if p >= math.exp(-most) or logits[i] == top]

    for most in (-1.0, 0.5, 3.0):
        holds(keep_surprise, most, expected)


def test_temperature_divides_and_zero_takes_the_likeliest():
    for logits in ALL:
        powers = softmax(logits) ** 0.5  # p ** (1 / T)
        np.testing.assert_allclose(softmax(apply_temperature(logits, 2.0)), powers / powers.sum(), atol=1e-12)
        assert kept(apply_temperature(logits, 0)) == {int(logits.argmax())}


def test_a_draw_is_that_of_choice_bit_for_bit():
    for i, logits in enumerate(ALL * 3):
        found, expected = np.random.default_rng(i), np.random.default_rng(i)
        for _ in range(5):
            assert draw(logits, found) == expected.choice(len(logits), p=softmax(logits))
        assert found.random() == expected.random()


def test_a_text_today_is_the_text_of_before():
    # the rules as they were: full sorts, and rng.choice
    def before(logits, temperature, k, p, rng):
        logits = (logits - logits.max()) / temperature
        for n in (k, None):
            order = np.argsort(-logits, kind="stable")
            if n is None:
                exp = np.exp(logits - logits.max())
                sums = np.cumsum((exp / exp.sum())[order])
                n = int((np.concatenate(([0.0], sums[:-1])) < p).sum())
            out = np.full_like(logits, -INF)
            out[order[:n]] = logits[order[:n]]
            logits = out
        exp = np.exp(logits - logits.max())
        return rng.choice(len(logits), p=exp / exp.sum())

    rng = np.random.default_rng(9)
    for seed in range(60):
        logits = rng.choice([0.5, 3.0]) * rng.standard_normal(6000)
        k, p = int(rng.choice([3, 200, 5999])), float(rng.choice([0.2, 0.9]))
        rules = Rules(Sampling(temperature=0.7, top_k=k, top_p=p), None, 6000, (), 1)
        found = draw(rules.apply(np.array([0]), logits), np.random.default_rng(seed))
        assert found == before(logits, 0.7, k, p, np.random.default_rng(seed))


def repetitive(rng, size, length):
    """Return ids in which sequences repeat, some of them beyond the logits."""
    ids = rng.integers(0, size + 2, length)
    for _ in range(3):
        start, n = rng.integers(0, length // 2), rng.integers(1, length // 3 + 1)
        ids[-n:] = ids[start : start + n]
    return ids


def test_penalties_count_tokens():
    rng = np.random.default_rng(3)
    for _ in range(50):
        ids, logits = repetitive(rng, 9, 20), rng.standard_normal(9)
        counts = Counter(ids.tolist())
        once = [(x / 1.3 if x > 0 else x * 1.3) if counts[i] else x for i, x in enumerate(logits)]
        np.testing.assert_allclose(penalize_repetition(ids, logits, 1.3), once, rtol=1e-15)
        often = [x - 0.4 * min(counts[i], 1) - 0.1 * counts[i] for i, x in enumerate(logits)]
        np.testing.assert_allclose(penalize_presence(ids, logits, 0.4, 0.1), often, rtol=1e-12, atol=1e-12)


def test_dry_penalises_the_longest_sequence_that_goes_on():
    rng = np.random.default_rng(3)
    lengths = set()
    for _ in range(40):
        size = int(rng.integers(2, 7))
        ids, logits = repetitive(rng, size, 24), rng.standard_normal(size)
        breaks = np.isin(ids, rng.integers(0, 40, 3))
        expected = logits.copy()
        listed, longest_of = ids.tolist(), Counter()
        for n in range(1, 24):  # every sequence of n tokens at the end, and everywhere
            for start in range(24 - n):
                free = not breaks[24 - n :].any() and not breaks[start + n]
                if free and listed[start : start + n] == listed[24 - n :]:
                    longest_of[listed[start + n]] = n
        for token in range(size):
            longest = longest_of[token]
            lengths.add(longest)
            if longest >= 2:
                expected[token] -= 0.8 * 1.75 ** (longest - 2)
        np.testing.assert_allclose(penalize_dry(ids, logits, 0.8, 1.75, 2, breaks), expected, rtol=1e-12)
    assert {0, 1, 2, 3, 4} <= lengths


def test_no_ngram_comes_twice():
    rng = np.random.default_rng(3)
    for n in (1, 2, 3, 5):
        for _ in range(30):
            ids = repetitive(rng, 6, int(rng.integers(3, 20)))
            seen = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
            end = tuple(ids[len(ids) - n + 1 :]) if n > 1 else ()
            expected = {i for i in range(6) if (*end, i) not in seen}
            assert kept(exclude_repeated_ngrams(ids, np.zeros(6), n)) == expected
    assert kept(exclude_repeated_ngrams(np.array([], np.int64), np.zeros(3), 2)) == {0, 1, 2}


def test_guidance_is_a_ratio_of_probabilities():
    rng = np.random.default_rng(3)
    logits, negative = rng.standard_normal((2, 50))
    p, q = softmax(logits), softmax(negative)
    np.testing.assert_allclose(np.exp(guide(logits, negative, 1.5)), p * (p / q) ** 0.5, rtol=1e-12)
    logits[3], negative[4] = -INF, -INF
    assert kept(guide(logits, negative, 1.5)) == set(range(50)) - {3, 4}


def test_bias_and_sequences_change_single_tokens():
    np.testing.assert_array_equal(add_bias(np.ones(3), {1: 2.0, 2: -INF}), [1, 3, -INF])
    assert kept(exclude_sequences(np.array([4]), np.zeros(6), [(5, 4, 1), (4, 4, 2), (4, 3), (0,)])) == {1, 2, 4, 5}


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


def test_log_softmax_is_the_logarithm_of_softmax():
    for logits in ALL:
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(np.exp(log_softmax(logits)), softmax(logits), atol=1e-13)
        np.testing.assert_allclose(softmax(logits), probabilities(logits), atol=1e-13)
