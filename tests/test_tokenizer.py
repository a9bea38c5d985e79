"""Bytes and characters: what goes in comes out, and what cannot is named."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tokenizer
from npgpt.tokenizer import ByteTokenizer, CharTokenizer
from npgpt.tokenizer.bytes import byte_characters

NASTY = ["", "a", "人工智能", "👩‍👩‍👧 🏳️‍🌈", "e\u0301 n\u0303", "\x00\t\r\n\n ", "  a  b  ", "𝔘𐍈", "\ufeffa", "\u2028"]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer(NASTY)], ids=["bytes", "chars"])
@pytest.mark.parametrize("text", NASTY)
def test_round_trip(tokenizer, text, tmp_path):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert "".join(tokenizer.decode_stream(ids)) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert ids.ndim == 1
    assert ids.dtype.kind in "iu"
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.vocab_size == tokenizer.vocab_size
    np.testing.assert_array_equal(again.encode(text), ids)


@given(st.text())
def test_bytes_round_trip_any_text(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert list(ids) == list(text.encode())
    assert tokenizer.decode(ids) == text


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_characters_round_trip_any_text(texts):
    tokenizer = CharTokenizer(texts)
    for text in texts:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text


def test_characters_are_sorted_by_code_point_whatever_their_order():
    one, two = CharTokenizer(["中b", "a𝔘"]), CharTokenizer(["𝔘ba中中"])
    assert one.characters == two.characters == ["a", "b", "中", "𝔘"]
    assert list(one.encode("𝔘a中b")) == [3, 0, 2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab中", "'中' (U+4E2D) at position 2"),
        ("c", "'c' (U+0063) at position 0"),
        ("a👍a", "'👍' (U+1F44D) at position 1"),
    ],
)
def test_an_unknown_character_is_named(text, message):
    with pytest.raises(ValueError, match="is not among the 2 characters") as caught:
        CharTokenizer(["ab"]).encode(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer(["ab"])], ids=["bytes", "chars"])
def test_a_lone_surrogate_is_named(tokenizer):
    with pytest.raises(ValueError, match=r"character 1 is the lone surrogate U\+D800"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer(["ab"])], ids=["bytes", "chars"])
@pytest.mark.parametrize("bad", [-1, 256])
def test_an_id_outside_the_vocabulary_is_named(tokenizer, bad):
    with pytest.raises(ValueError, match=f"id {bad} is outside"):
        tokenizer.decode([0, bad])


def test_characters_need_a_text():
    with pytest.raises(ValueError, match="at least one character"):
        CharTokenizer([""])


def test_stream_holds_back_half_characters():
    assert list(ByteTokenizer().decode_stream("中a".encode())) == ["", "", "中", "a", ""]
    assert list(ByteTokenizer().decode_stream("中".encode()[:2])) == ["", "", "\ufffd"]
    assert ByteTokenizer().decode([0xFF, 0x61]) == "\ufffda"


def test_byte_characters_are_gpt2s():
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert characters[ord("A")] == "A"
    assert characters[ord(" ")] == "Ġ"
    assert characters[ord("\n")] == "Ċ"
    assert characters[0] == "Ā"
    assert characters[0xAD] == "Ń"
    assert all(character.isprintable() and not character.isspace() for character in characters)


def saved(tmp_path, tokenizer=None, **changes):
    (tokenizer or CharTokenizer(["ab"])).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path


def test_another_kind_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match='the kind "WordPiece"'):
        Tokenizer.from_pretrained(saved(tmp_path, model={"type": "WordPiece", "vocab": {}}))


def test_bytes_with_a_merge_to_no_token_are_refused(tmp_path):
    model = ByteTokenizer().to_json()["model"] | {"merges": [["a", "b"]]}
    with pytest.raises(ValueError, match="merge 0 makes b'ab', which is not in the vocabulary"):
        Tokenizer.from_pretrained(saved(tmp_path, ByteTokenizer(), model=model))


@pytest.mark.parametrize("vocab", [{"a": 0, "b": 2}, {"a": 0, "b": "1"}, {"ab": 0}, [], {"a": None}])
def test_characters_with_other_ids_are_refused(tmp_path, vocab):
    model = CharTokenizer(["ab"]).to_json()["model"] | {"vocab": vocab}
    with pytest.raises(
        ValueError, match=r'tokenizer\.json: a tokenizer of the kind "WordLevel", of whole words, is not'
    ):
        Tokenizer.from_pretrained(saved(tmp_path, model=model))


def test_characters_keep_the_ids_of_their_file(tmp_path):
    model = CharTokenizer(["ab"]).to_json()["model"] | {"vocab": {"a": 1, "b": 0}}
    assert Tokenizer.from_pretrained(saved(tmp_path, model=model)).encode("aab").tolist() == [1, 1, 0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"a"', b"\xff", b"[" * 100000, b"null"])
def test_a_broken_file_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: no such file"):
        Tokenizer.from_pretrained(tmp_path)


def test_chinese_poems(shared_text):
    text = shared_text("tang.txt")
    tokenizer = CharTokenizer([text])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == len(set(text))
