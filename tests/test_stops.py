"""Where a text ends: what is shown is the text before its first stop, however it is cut into tokens."""

import re
from itertools import pairwise

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tokenizer
from npgpt.generation.settings import Sampling
from npgpt.generation.stops import Stops
from npgpt.tokenizer.bytes import ByteTokenizer
from npgpt.tokenizer.chars import CharTokenizer

BYTES = ByteTokenizer()
PIECES = ["a", "b", "\n", "\r\n", "中", "文", "é", "e\u0301", "😀", " "]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text("ab", max_size=12)  # of two, they overlap


class Cut:
    """A tokenizer whose tokens are the pieces into which a text was cut, anywhere between two bytes."""

    def __init__(self, data, cuts):
        edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        self.tokens = [data[start:end] for start, end in pairwise(edges)]

    def decode_bytes(self, ids):
        return b"".join(self.tokens[i] for i in ids)


def stopped(tokens, stops):
    """Return the pieces that are shown of tokens, and what is held back at the end."""
    shown = [stops.feed(token) for token in tokens]
    return [*shown, stops.finish()]


def plainly(text, strings=(), pattern=None):
    """Return the text before its first stop: the shortest beginning of the text that contains one is cut there."""
    for end in range(1, len(text) + 1):
        here = text[:end]
        starts = [end - len(string) for string in strings if here.endswith(string)]
        if pattern and (match := regex.search(pattern, here)):
            starts.append(match.start())
        if starts:
            return here[: min(starts)], True
    return text, False


@given(texts, st.lists(st.integers(0, 99)), st.lists(texts.filter(len), max_size=3))
def test_shown_pieces_are_the_text_before_the_first_stop_string(text, cuts, strings):
    tokenizer = Cut(text.encode(), cuts)
    stops = Stops(Sampling(stop=strings), tokenizer, ends=())
    shown = stopped(range(len(tokenizer.tokens)), stops)
    assert ("".join(shown), stops.stopped == "stop") == plainly(text, strings)
    assert stops.text == "".join(shown)


PATTERNS = [
    "ab+\n",
    "a(?=b)",
    "(?<=a)b",
    "b{2,}",
    "[^a ]{3}",
    "(a|ab)中",
    "(?s)a.*b",
    "^b",
    "(.)\\1",
    "(?<!a)\n",
    "a?b?中",
]
PATTERNS += [
    "(?m)^ ",
    "(?>a+)b",
    "(?i)É",
    "\\r?\\n",
    "(?<=\n)",
    "a(?!b)",
    "(a|b)(?<=b)文",
    "\\p{Han}{2}",
    "\\X\\X\\X",
    "b$",
    "a\\b",
]


@given(texts, st.lists(st.integers(0, 99)), st.lists(texts.filter(len), max_size=1), st.sampled_from(PATTERNS))
def test_shown_pieces_are_the_text_before_the_first_match(text, cuts, strings, pattern):
    tokenizer = Cut(text.encode(), cuts)
    stops = Stops(Sampling(stop=strings, stop_regex=pattern), tokenizer, ends=())
    shown = stopped(range(len(tokenizer.tokens)), stops)
    assert ("".join(shown), stops.stopped == "stop") == plainly(text, strings, pattern)


@given(texts, st.lists(texts.filter(len), min_size=1, max_size=3))
def test_exactly_what_may_become_a_stop_string_is_held_back(text, strings):
    text = plainly(text, strings)[0]
    stops = Stops(Sampling(stop=strings), BYTES, ends=())
    shown = "".join(stops.feed(token) for token in text.encode())
    held = text.removeprefix(shown)
    ends = {string[:n] for string in strings for n in range(len(string))}
    assert held == max((end for end in ends if text.endswith(end)), key=len)


@pytest.mark.parametrize("settings", [{}, {"stop": "a" * 40}, {"stop_regex": "x"}])
def test_half_a_character_is_held_back_and_shown_at_the_end_as_decode_shows_it(settings):
    stops = Stops(Sampling(**settings), BYTES, ends=())
    data = "中文".encode()[:-1]
    assert stopped(data, stops) == ["", "", "中", "", "", "�"]
    assert stops.text == BYTES.decode(data)
    assert stops.stopped is None


def test_an_end_token_is_not_shown_and_shows_what_was_held_back():
    tokenizer = Tokenizer.train(["ab" * 9], 258)
    stops = Stops(Sampling(stop="abc"), tokenizer, ends=(7, tokenizer.end_id))
    ids = tokenizer.encode("xab").tolist()
    assert stopped([*ids, tokenizer.end_id, *ids], stops)[-4:] == ["ab", "", "", ""]
    assert (stops.text, stops.stopped) == ("xab", "stop")


def test_another_special_token_is_text():
    tokenizer = Tokenizer.train(["ab" * 9], 259, special_tokens=("<|end|>", "<|user|>"))
    user, end = tokenizer.special_tokens["<|user|>"], tokenizer.special_tokens["<|end|>"]
    assert stopped([user, end], Stops(Sampling(), tokenizer, ends=(end,))) == ["<|user|>", "", ""]
    stops = Stops(Sampling(stop="<|user|>"), tokenizer, ends=(end,))
    assert stopped([97, user, 97], stops) == ["a", "", "", ""]
    assert stops.stopped == "stop"


def test_a_stop_inside_a_token_leaves_the_beginning_of_the_token():
    tokenizer = CharTokenizer(["abc"])
    assert stopped(tokenizer.encode("abcab"), Stops(Sampling(stop="ca"), tokenizer, ())) == ["a", "b", "", "", "", ""]
    stops = Stops(Sampling(stop="ca"), Cut(b"abcab", [4]), ())
    assert stopped([0, 1], stops) == ["ab", "", ""]


@pytest.mark.parametrize(
    ("strings", "text", "before"),
    [
        (("aabaaa", "ab" * 9), "aabaabaaa", "aab"),
        (("abab", "ba" * 9), "xababab", "x"),
        (("abc", "b"), "abc", "a"),
        (("bc", "abc", "c"), "xabc", "x"),
        (("abcd", "c"), "xabc", "xab"),
    ],
)
def test_the_string_that_ends_first_counts_and_of_those_the_longest(strings, text, before):
    assert "".join(stopped(text.encode(), Stops(Sampling(stop=strings), BYTES, ()))) == before


def test_what_never_became_a_stop_is_shown_at_the_end():
    stops = Stops(Sampling(stop="\n\n\n", stop_regex="(?s)b.*c"), BYTES, ())
    assert stopped(b"ab12\n\n", stops) == ["a", "", "", "", "", "", "b12\n\n"]
    assert stops.finish() == ""
    assert (stops.text, stops.stopped) == ("ab12\n\n", None)


def test_an_unfinished_character_at_the_end_may_complete_a_stop():
    stops = Stops(Sampling(stop="a�"), BYTES, ())
    assert stopped(b"xa\xe4", stops) == ["x", "", "", ""]
    assert stops.stopped == "stop"


def test_the_empty_text_and_no_tokenizer():
    assert Stops(Sampling(stop="a"), BYTES, ()).finish() == ""
    stops = Stops(Sampling(), None, (3,))
    assert stopped([1, 2, 3], stops) == ["", "", "", ""]
    assert stops.stopped == "stop"
    with pytest.raises(ValueError, match="need a tokenizer"):
        Stops(Sampling(stop_regex="a"), None, ())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", re.escape("stop_regex='(' is no regular expression: missing )")),
        ("a*", "matches the empty text"),
        ("", "matches the empty text"),
        ("$", "matches the empty text"),
        ("(?r)ab", "searches backwards"),
    ],
)
def test_a_pattern_that_cannot_stop_a_text_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message) as raised:
        Stops(Sampling(stop_regex=pattern), BYTES, ())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("pattern", "text", "before"),
    [
        (r"END\b", "ENDING", ""),
        ("\n(?! )", "a\n b", "a"),
        (r"\d+", "n 123", "n "),
        ("(?<=\n)", "a\nb", "a\n"),
        (r"[.!?]\s", "a 1.5. b", "a 1.5"),
        (r"(?<=[.!?])\s", "a 1.5. b", "a 1.5."),
    ],
)
def test_the_cases_of_the_documentation(pattern, text, before):
    assert "".join(stopped(text.encode(), Stops(Sampling(stop_regex=pattern), BYTES, ()))) == before


def test_a_match_may_be_empty_where_it_looks_around_itself():
    """So a text can end after what it stops at, not before."""
    assert "".join(stopped(b"ab\ncd", Stops(Sampling(stop_regex="(?<=\n)"), BYTES, ()))) == "ab\n"


def test_each_character_of_a_long_text_is_looked_up_a_few_times():
    stops = Stops(Sampling(stop=("a" * 300 + "b", "a" * 299 + "c")), BYTES, ())
    (strings,) = stops._finders
    lookups = 0

    class Counted(list):
        def __getitem__(self, node):
            nonlocal lookups
            lookups += 1
            return super().__getitem__(node)

    strings._next = Counted(strings._next)
    text = b"a" * 2000 + b"x" + b"a" * 2000
    assert "".join(stopped(text, stops)) == text.decode()
    assert lookups < 5 * len(text)  # one a character, and two for each that is let go


def test_a_string_that_no_text_can_have_is_refused():
    with pytest.raises(ValueError, match=r"lone surrogate U\+D83D"):
        Stops(Sampling(stop="a\ud83d"), ByteTokenizer(), ())
