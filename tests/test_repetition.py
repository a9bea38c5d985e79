"""Figures of repetition, each against its definition written another way, and loops by examples."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.generation.repetition import distinct, loop_start, repeated, repetition, self_bleu, words_of

WORDS = st.lists(st.lists(st.sampled_from("abcde"), max_size=14), max_size=6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \r\n\t ", []),
        ("I'm 18... 你好!!", ["I", "'", "m", "18", ".", "你", "好", "!"]),
        ("床前明月光，疑是", ["床", "前", "明", "月", "光", "，", "疑", "是"]),
        ("ひらカタ한국어", ["ひ", "ら", "カ", "タ", "한국어"]),
        ("cafe\u0301 na\u00efve", ["caf\u00e9", "na\u00efve"]),
        ("हिन्दी", ["हिन्दी"]),  # its vowels are marks
        ("a.b . . ..x", ["a", ".", "b", ".", ".", ".", "x"]),
        ("🙂🙂👍🏽", ["🙂", "👍", "🏽"]),
        ("one\ufffdtwo", ["one", "\ufffd", "two"]),
    ],
)
def test_words_are_what_a_reader_counts(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("", None),
        ("a", None),
        ("a a", None),
        ("a a a", 0),
        ("b a a a a c", 1),
        ("he ran and ran and ran and fell", 1),
        ("he ran and ran and ran", None),
        ("x a b c a b c a b", None),
        ("x a b c a b c a b c", 1),
        ("x a a b a a b a a b y y y", 1),
        ("c a b a b a b d d d", 1),
    ],
)
def test_a_loop_begins_where_a_cycle_is_said_three_times(text, start):
    assert loop_start(text.split()) == start


def test_a_cycle_that_is_too_long_is_no_loop():
    cycle = [str(i) for i in range(7)]
    assert loop_start(["x", *cycle * 3], longest=7) == 1
    assert loop_start(["x", *cycle * 3], longest=6) is None
    assert loop_start(cycle * 3, times=4) is None


@given(st.lists(st.sampled_from("ab"), max_size=24), st.integers(1, 5), st.integers(2, 4))
def test_no_loop_begins_before_the_one_that_is_found(words, longest, times):
    found = [
        i
        for i in range(len(words))
        for size in range(1, longest + 1)
        if i + times * size <= len(words) and words[i : i + size] * times == words[i : i + times * size]
    ]
    assert loop_start(words, longest, times) == (min(found) if found else None)


@given(WORDS, st.integers(1, 4))
def test_distinct_and_repeated_ngrams_are_those_of_a_set(texts, n):
    grams = [" ".join(words[i : i + n]) for words in texts for i in range(len(words)) if i + n <= len(words)]
    expected = len(set(grams)) / len(grams) if grams else math.nan
    assert distinct(texts, n) == pytest.approx(expected, nan_ok=True)
    for words in texts:
        own = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
        assert repeated(words) == pytest.approx(1 - len(set(own)) / len(own) if own else math.nan, nan_ok=True)


def bleu(candidate, references):
    """BLEU-4 as Papineni et al. write it, text by text."""
    score = 1.0
    for n in range(1, 5):
        grams = [tuple(candidate[i : i + n]) for i in range(len(candidate) - n + 1)]
        clipped = 0
        for gram in set(grams):
            best = max(sum(tuple(r[i : i + n]) == gram for i in range(len(r))) for r in references)
            clipped += min(grams.count(gram), best)
        score *= (clipped if clipped else 0.1) / max(1, len(grams))
    near = min((abs(len(r) - len(candidate)), len(r)) for r in references)[1]
    return score**0.25 * (1 if len(candidate) >= near else math.exp(1 - near / len(candidate)))


@given(WORDS)
def test_self_bleu_is_the_mean_bleu_against_all_other_texts(texts):
    full = [words for words in texts if words]
    mean = math.nan
    if len(full) > 1:
        mean = sum(bleu(words, full[:i] + full[i + 1 :]) for i, words in enumerate(full)) / len(full)
    assert self_bleu(texts) == pytest.approx(mean, nan_ok=True)


def test_equal_texts_have_a_self_bleu_of_one():
    assert self_bleu([["a", "b", "c", "d", "e"]] * 3) == pytest.approx(1)


def test_the_figures_of_some_texts():
    found = repetition(["a b a b a b c", "床前明月光", "a b"])
    assert (found.texts, found.words) == (3, 14)
    assert found.distinct == (8 / 14, 7 / 11, 6 / 8)
    assert found.repeated == pytest.approx((1 / 4 + 0) / 2)  # the third has no four words
    assert (found.loops, found.loop_free) == (pytest.approx(1 / 3), pytest.approx((0 + 5 + 2) / 3))
    assert found.self_bleu == self_bleu([words_of(text) for text in ("a b a b a b c", "床前明月光", "a b")])


def test_what_no_text_is_long_enough_for_is_not_a_number():
    found = repetition(["", "a"])
    assert (found.words, found.distinct[0], found.loop_free) == (1, 1, 0.5)
    assert all(math.isnan(value) for value in (*found.distinct[1:], found.self_bleu, found.repeated))
    with pytest.raises(ValueError, match="no text"):
        repetition([])
