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
from npgpt.generation.settings import Sampling
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
    longer = [(3, 4, 1), (4, 2), (2, 4, 5)]  # of different lengths: each is compared with as many of the last ids
    assert kept(exclude_sequences(np.array([3, 4]), np.zeros(6), longer)) == {0, 3, 4, 5}


def test_log_softmax_is_the_logarithm_of_softmax():
    for logits in ALL:
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(np.exp(log_softmax(logits)), softmax(logits), atol=1e-13)
        np.testing.assert_allclose(softmax(logits), probabilities(logits), atol=1e-13)
