"""The fast twin is held against the definition: the same pre-tokens, the same ids, the same merges."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tokenizer
from npgpt.tokenizer import BPETokenizer, definition, fast
from npgpt.tokenizer.fast.classes import LETTER, NEWLINE, NUMBER, OTHER, SPACE, code_point_classes
from npgpt.tokenizer.patterns import PATTERNS, pattern_text
from tests.tokenizer.helpers import ALL_PATTERNS, PARTS, as_defined, nearly_utf8, texts

BYTES = [bytes([byte]) for byte in range(256)]
TRAINED = {p: Tokenizer.train(["".join(PARTS) * 2 + "the theme of these, 人工智能，人工"], 400, p) for p in PATTERNS}


def test_the_table_of_classes_is_that_of_regex():
    classes = code_point_classes()
    rng = np.random.default_rng(0)
    borders = np.flatnonzero(np.diff(classes))
    for code in {*range(0x300), *borders, *(borders + 1), *rng.integers(0, 0x110000, 2000)}:
        character = chr(code)
        kind = sum(
            bit
            for pattern, bit in ((r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE), (r"[\r\n]", NEWLINE))
            if regex.fullmatch(pattern, character)
        )
        assert classes[code] == (kind or OTHER), hex(code)


@pytest.mark.parametrize("pattern", ALL_PATTERNS)
@given(data=texts.map(str.encode) | nearly_utf8)
def test_the_same_pre_tokens(pattern, data):
    pattern = pattern_text(pattern)
    (ends,) = fast.split(fast.pad(data), pattern, [(0, len(data))])
    assert list(ends) == list(np.cumsum([len(piece) for piece in definition.split(data, pattern)]))


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_the_same_pre_tokens_for_every_short_text_of_what_the_patterns_name(pattern):
    pattern = pattern_text(pattern)
    alphabet = ["a", "s", "l", "'", "1", ".", " ", "\n", "\r", "\t", "\u3000", "中", "\u0301"]
    for text in [*alphabet, *(a + b for a in alphabet for b in alphabet)]:
        for middle in alphabet:
            data = (text + middle + text[0]).encode()
            (ends,) = fast.split(fast.pad(data), pattern, [(0, len(data))])
            assert list(ends) == list(np.cumsum([len(p) for p in definition.split(data, pattern)])), data


@pytest.mark.parametrize("pattern", PATTERNS)
@given(data=texts.map(str.encode) | nearly_utf8)
def test_the_same_ids(pattern, data):
    tokenizer = TRAINED[pattern]
    ids = tokenizer.encode_bytes(data)
    assert ids.dtype == np.int32
    assert ids.tolist() == as_defined(tokenizer).encode_bytes(data).tolist()
    assert tokenizer.decode_bytes(ids) == data


@st.composite
def vocabularies(draw):
    """Any merges of short strings of a and b in any order, as no training would give them."""
    strings = sorted({"".join(s) for n in (2, 3, 4) for s in np.array(np.meshgrid(*["ab"] * n)).T.reshape(-1, n)})
    made = draw(st.lists(st.sampled_from([s.encode() for s in strings]), unique=True, min_size=1, max_size=20))
    tokens = [*BYTES, *made]
    ids = {token: i for i, token in enumerate(tokens)}
    pairs = [(ids[t[:k]], ids[t[k:]]) for t in made for k in range(1, len(t)) if t[:k] in ids and t[k:] in ids]
    merges = draw(st.permutations(pairs))
    if draw(st.booleans()):
        order = draw(st.permutations(range(len(tokens))))
        return BPETokenizer.from_ranks({tokens[i]: rank for rank, i in enumerate(order)}, r"[\s\S]+")
    return BPETokenizer(tokens, merges, r"[\s\S]+")


@given(tokenizer=vocabularies(), data=st.data())
def test_the_same_ids_under_any_vocabulary_for_long_pre_tokens_and_short(tokenizer, data):
    """Also where a merge makes room for one that should have gone first, which no trained vocabulary has."""
    for size in (7, 64, 65, 200):
        text = (
            data.draw(st.text("ab", min_size=size, max_size=size)) if size < 100 else "ab" * 40 + "a" * 60 + "bab" * 20
        )
        assert tokenizer.encode(text).tolist() == as_defined(tokenizer).encode(text).tolist()


def test_a_pre_token_that_is_a_token_is_taken_whole():
    # merges lead from abc to a, bc: there is no ab, and bc goes first
    ranks = {token: i for i, token in enumerate([*BYTES, b"bc", b"abcd", b"xyz"])}
    tokenizer = BPETokenizer.from_ranks(ranks, r"\w+")
    for text, ids in (("abcd", [257]), ("xyz", [258]), ("xyza", [120, 121, 122, 97]), ("abc", [97, 256])):
        assert tokenizer.encode(text).tolist() == as_defined(tokenizer).encode(text).tolist() == ids
    long = BPETokenizer.from_ranks(ranks | {b"q" * 100: 259}, r"\w+")
    assert long.encode("q" * 100 + " " + "q" * 99).tolist() == [259, 32, *[ord("q")] * 99]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 130])
def test_pre_tokens_that_differ_in_one_byte_are_not_mistaken_for_each_other(length):
    tokenizer = Tokenizer.train(["ab" * 400], 300, special_tokens=())
    words = ["ab" * (length // 2) + "a" * (length % 2)]
    words += [words[0][:k] + "c" + words[0][k + 1 :] for k in range(length)]
    text = ".".join(words * 3)
    expected = []
    slow = as_defined(tokenizer)
    for word in words:
        expected += [*slow.encode(word).tolist(), ord(".")]
    assert tokenizer.encode(text).tolist() == (expected * 3)[:-1]


def test_a_full_cache_forgets_and_stays_right(monkeypatch):
    monkeypatch.setattr(fast, "CACHE_ROWS", 16)
    tokenizer = TRAINED["gpt2"]
    text = " ".join(f"the{i:x} theme{i * 7:o}" for i in range(300)) * 2
    assert tokenizer.encode(text).tolist() == as_defined(tokenizer).encode(text).tolist()


@pytest.mark.parametrize("pattern", ALL_PATTERNS)
@given(
    parts=st.lists(st.sampled_from(PARTS) | st.sampled_from(["ab", "aab", "aaa"]), max_size=50), size=st.integers(0, 60)
)
def test_the_same_merges(pattern, parts, size):
    text = "".join(parts)
    ours, defined = (Tokenizer.train([text, text[::2]], 256 + size, pattern, (), fast=f) for f in (True, False))
    assert list(ours.merges) == list(defined.merges)
    assert ours.tokens == defined.tokens


def test_training_grows_its_tables():
    """More distinct pre-tokens, bytes and pairs than the tables begin with."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, 0x4E00 + rng.integers(0, 3000, 4))) for _ in range(2500)]
    text = " ".join(words)
    pieces = fast.PieceCounts()
    data = text.encode()
    pieces.add(fast.pad(data), fast.split(fast.pad(data), PATTERNS["gpt2"], [(0, len(data))])[0])
    assert pieces.n_words == len({*words[:1], *(" " + word for word in words[1:])})
    ours = pieces.learn(12, 2)
    assert ours == definition.train(counted(data), 12)


def counted(data):
    counts = definition.PieceCounts()
    pieces = definition.split(data, PATTERNS["gpt2"])
    counts.add(np.frombuffer(data, np.uint8), np.cumsum([len(piece) for piece in pieces]))
    return counts.counts


def test_order_chunks_and_threads_make_no_difference():
    rng = np.random.default_rng(1)
    words = [" " + "".join(rng.choice(list("abcd"), 5)) for _ in range(400)]  # each is one pre-token, joined or not
    whole = Tokenizer.train(["".join(words)], 400)
    assert len(whole.tokens) == 400
    with ThreadPoolExecutor(2) as pool:
        in_threads = list(pool.map(lambda _: Tokenizer.train(words, 400), range(2)))
    for other in (*in_threads, Tokenizer.train(sorted(words), 400)):
        assert other.tokens == whole.tokens


SCRIPT = """
import sys
from npgpt import Tokenizer
text = "the theme of these 人工智能，人工 aaaa aaaaa don't 12345  \\n x" * 2
for pattern in ("gpt2", "gpt4"):
    ours, defined = (Tokenizer.train([text], 290, pattern, fast=fast) for fast in (True, False))
    assert ours.tokens == defined.tokens
    for part in (text, "a" * 100, "theme " * 9):
        assert ours.encode(part).tolist() == defined.encode(part).tolist()
        assert ours.decode(ours.encode(part)) == part
print(*(token.hex() for token in ours.tokens[256:]))
"""


def test_without_numba_and_with_other_hash_seeds_the_twin_is_the_same():
    def run(**environment):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(NUMBA_DISABLE_JIT="1", PYTHONHASHSEED="1") == run(PYTHONHASHSEED="2")


def test_a_long_pre_token_merged_window_by_window_is_the_same_as_at_once():
    """Against the definition on what is small enough for it and against one window on the rest."""
    rng = np.random.default_rng(2)
    text = "".join(rng.choice(["a", "aa", "ab", "b", "中", "theme"], 60_000))
    tokenizer = Tokenizer.train([text], 700, r"[\s\S]+", ())
    assert tokenizer._tables.proper
    texts = [text, "a" * 200_000, "ab" * 70_000 + text[:1000], "中" * 50_000 + "a" * 16_385]
    at_once = BPETokenizer(*tokenizer.vocabulary)
    at_once._tables = at_once._tables._replace(proper=False)
    for text in texts:
        assert np.array_equal(tokenizer.encode(text), at_once.encode(text))
    assert tokenizer.encode(texts[0][:900]).tolist() == as_defined(tokenizer).encode(texts[0][:900]).tolist()


def test_a_vocabulary_in_any_order_is_not_taken_for_a_proper_one():
    tokens = [*BYTES, b"ab", b"abc", b"bc"]
    assert BPETokenizer(tokens, [(97, 98), (256, 99)])._tables.proper
    assert not BPETokenizer(tokens, [(256, 99), (97, 98)])._tables.proper  # abc before ab
    # abc in two ways, and either comes before its parts
    assert not BPETokenizer(tokens, [(256, 99), (97, 258), (97, 98), (98, 99)])._tables.proper


def test_of_several_ways_to_a_token_the_one_that_is_taken_is_found():
    """tiktoken's ranks allow every cut of a token in two; each but one would slow down long pre-tokens."""
    text = "the theme of these themes is there, the others gather, aaaa aaaaaaa " * 3
    trained = Tokenizer.train([text], 256 + 50, r"[\s\S]+", ())
    ranked = BPETokenizer.from_ranks({token: i for i, token in enumerate(trained.tokens)}, trained.pattern)
    assert len(ranked.merges) > len(trained.merges)
    tables = ranked._tables
    assert tables.proper
    assert len(tables.merged) == len(trained.merges)
    for part in (text, text[5:90], "a" * 300):
        assert ranked.encode(part).tolist() == as_defined(ranked).encode(part).tolist()
        assert ranked.encode(part).tolist() == trained.encode(part).tolist()


def test_a_way_to_a_token_that_another_merge_forestalls_is_not_taken_for_it():
    tokens = [*BYTES, b"ab", b"bc", b"abc"]
    dead = BPETokenizer(tokens, [(97, 98), (98, 99), (97, 257)])  # abc is ab, c
    both = BPETokenizer(tokens, [(97, 98), (98, 99), (97, 257), (256, 99)])
    assert dead.encode("abc" * 40).tolist() == as_defined(dead).encode("abc" * 40).tolist() == [256, 99] * 40
    assert both.encode("abc" * 40).tolist() == as_defined(both).encode("abc" * 40).tolist() == [258] * 40
    assert both._tables.proper
