"""The definition of BPE, on examples worked out by hand and against one written once more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tokenizer
from npgpt.tokenizer import definition
from npgpt.tokenizer.patterns import PATTERNS, pattern_text
from tests.tokenizer.helpers import ALL_PATTERNS, naive_train, nearly_utf8, texts

A, B, C = b"abc"


def split(text, pattern):
    return [piece.decode() for piece in definition.split(text.encode(), pattern_text(pattern))]


@pytest.mark.parametrize(
    ("pattern", "text", "pieces"),
    [
        ("gpt2", "I'll say 'tis  12345 ok!!\n", ["I", "'ll", " say", " '", "tis", " ", " 12345", " ok", "!!", "\n"]),
        ("gpt2", "I'LL a\n\n b", ["I", "'", "LL", " a", "\n\n", " b"]),
        ("gpt2", "中文，12 ３", ["中文", "，", "12", " ３"]),
        ("gpt4", "I'LL say (x) 12345", ["I", "'LL", " say", " (", "x", ")", " ", "123", "45"]),
        ("gpt4", "1\r\n\r\n  end  ", ["1", "\r\n\r\n", " ", " end", "  "]),
        ("gpt4", "a.\n \n  b\n ", ["a", ".\n", " \n", " ", " b", "\n "]),
        ("gpt4", "it'ſ，人工", ["it", "'ſ", "，人工"]),
        ("chinese", "你好，人工智能abc(中)", ["你好", "，", "人工智能", "abc", "(", "中", ")"]),
        ("a+", "baab", ["b", "aa", "b"]),
    ],
)
def test_pre_tokens_by_hand(pattern, text, pieces):
    assert split(text, pattern) == pieces


@pytest.mark.parametrize("pattern", ALL_PATTERNS)
@given(data=texts.map(str.encode) | nearly_utf8)
def test_nothing_is_lost_between_pre_tokens(pattern, data):
    pieces = definition.split(data, pattern_text(pattern))
    assert b"".join(pieces) == data
    assert all(pieces)


def test_merges_by_hand():
    merges = {(A, B): (0, 300), (300, C): (1, 301), (B, C): (2, 302), (A, A): (3, 303)}
    assert definition.merge([A, B, C], merges) == [301]
    assert definition.merge([B, C, A, B], merges) == [302, 300]
    assert definition.merge([A, A, A], merges) == [303, A]  # the leftmost first
    assert definition.merge([A, A, B], merges) == [A, 300]
    assert definition.merge([], merges) == []


def test_training_by_hand():
    # ab 5 times, then (ab)c 3 times; then nothing is there twice but ca
    assert definition.train({b"abc": 3, b"ab": 2, b"ca": 2}, 9) == [(A, B), (256, C), (C, A)]
    # of (a, b) and (b, a), twice each, the smaller; then it cannot be met again
    assert definition.train({b"aba": 2}, 9) == [(A, B), (256, A)]
    # the pair in aaa is counted twice, and merged once
    assert definition.train({b"aaa": 1}, 9) == [(A, A)]
    assert definition.train({b"abc": 1}, 9) == []


@pytest.mark.parametrize("pattern", PATTERNS)
@given(parts=st.lists(st.sampled_from(["ab", "a", "aa", "b", " ", "中", "中文", "c", "'s", "\n"]), max_size=60))
def test_training_agrees_with_a_naive_one(pattern, parts):
    text = "".join(parts)
    tokenizer = Tokenizer.train([text], 256 + 30, pattern, special_tokens=(), fast=False)
    tokens = tokenizer.tokens
    expected = naive_train(definition.split(text.encode(), tokenizer.pattern), 30)
    assert [(tokens[a], tokens[b]) for a, b in tokenizer.merges] == expected
