"""A pattern of the user's own may take for ever: it is stopped, while the known ones run without a limit."""

import json

import pytest
import regex

from npgpt import Tokenizer
from npgpt.cli import main
from npgpt.tokenizer import patterns
from npgpt.tokenizer.patterns import GPT4O, LINEAR, LLAMA3, find_spans
from tests.tokenizer.helpers import as_defined

FOR_EVER = "(a|aa)+$"
ENDLESS = "a" * 60 + "b"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.02)
    monkeypatch.setattr(patterns, "SECONDS_PER_CHARACTER", 0)


def with_pattern(pattern):
    return Tokenizer.train(["ab 人工智能 👍🏽 ab"], 260, pattern)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("text", [ENDLESS, "人工智能👍🏽e\u0301" + ENDLESS])
def test_a_pattern_that_backtracks_for_ever_is_stopped(impatient, fast, text):
    tokenizer = with_pattern(FOR_EVER) if fast else as_defined(with_pattern(FOR_EVER))
    with pytest.raises(ValueError, match=rf"the pattern '\(a\|aa\)\+\$' .* {len(text)} characters.* simpler") as caught:
        tokenizer.encode(text)
    assert "\n" not in str(caught.value)
    assert tokenizer.decode(tokenizer.encode("aaa")) == "aaa"


def test_a_file_with_such_a_pattern_is_a_users_mistake(impatient, tmp_path, capsys):
    with_pattern(FOR_EVER).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    assert main(["tokenizer", "encode", str(tmp_path), ENDLESS]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_learning_with_such_a_pattern_is_stopped(impatient):
    with pytest.raises(ValueError, match="found no end"):
        Tokenizer.train([ENDLESS], 260, FOR_EVER)


def test_the_limit_grows_with_the_text(monkeypatch):
    limits = []

    class Spy:
        def finditer(self, text, timeout):
            limits.append(timeout)
            return regex.finditer("a", text)

    monkeypatch.setattr(patterns, "compiled", lambda pattern: Spy())
    assert find_spans("a", "aba") == [(0, 1), (2, 3)]
    find_spans("a", "a" * 1_000_000)
    assert limits == [pytest.approx(5, rel=0.01), pytest.approx(25)]


@pytest.mark.parametrize("pattern", sorted(LINEAR))
def test_the_known_patterns_run_without_a_limit(impatient, monkeypatch, pattern):
    class Spy:
        def finditer(self, text):  # takes no timeout
            return regex.finditer(pattern, text)

    monkeypatch.setattr(patterns, "compiled", lambda pattern: Spy())
    assert "".join("I'm 人工 12"[a:b] for a, b in find_spans(pattern, "I'm 人工 12")) == "I'm 人工 12"


# as the files of these models have them
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def test_the_patterns_of_others_are_those_that_they_use():
    assert {QWEN, O200K, LLAMA3} <= LINEAR
    assert GPT4O == O200K
    assert QWEN == LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
