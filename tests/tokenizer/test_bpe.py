"""The tokenizer as it is used: special tokens, batches, files, bytes, offsets, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tokenizer
from npgpt.config import TextConfig
from npgpt.tokenizer import BPETokenizer, ByteTokenizer, stream
from npgpt.tokenizer.patterns import PATTERNS
from tests.tokenizer.helpers import as_defined, nearly_utf8, texts

TEXT = "the theme of these themes: 人工智能，人工。 don't, 12345\n\n  <|a|> <|endoftext|>" * 3
SPECIAL = ("<|endoftext|>", "<|a|>", "<|a|>b", "中文")
BPE = Tokenizer.train([TEXT], 290, special_tokens=SPECIAL)
TOKENIZERS = {"fast": BPE, "as defined": as_defined(BPE)}
both = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
ID = BPE.special_tokens


def test_the_vocabulary_is_bytes_then_merges_then_special_tokens():
    assert BPE.vocab_size == 290
    assert BPE.tokens[:256] == [bytes([byte]) for byte in range(256)]
    assert [ID[name] for name in SPECIAL] == [286, 287, 288, 289]
    assert len(BPE.merges) == 30


@both
@pytest.mark.parametrize(
    ("allowed", "text", "found"),
    [
        ((), "a<|a|>b", []),
        ("all", "a<|a|>c", ["<|a|>"]),
        ("all", "a<|a|>b", ["<|a|>b"]),  # the longest
        (["<|a|>"], "a<|a|>b", ["<|a|>"]),
        (["<|endoftext|>"], "<|a|><|endoftext|><|endoftext|>", ["<|endoftext|>"] * 2),
        ("all", "中文<|a|>中", ["中文", "<|a|>"]),
        ("all", "<|endoftext", []),
        ("all", "", []),
    ],
)
def test_special_tokens_by_name_or_as_text(tokenizer, allowed, text, found):
    ids = tokenizer.encode(text, allowed_special=allowed)
    assert [i for i in ids if i >= 286] == [ID[name] for name in found]
    assert tokenizer.decode(ids) == text


@both
def test_text_around_a_special_token_is_encoded_by_itself(tokenizer):
    ids = tokenizer.encode("the <|a|> the", allowed_special="all")
    assert ids.tolist() == [*tokenizer.encode("the "), ID["<|a|>"], *tokenizer.encode(" the")]


@both
def test_an_unknown_special_token_is_named(tokenizer):
    with pytest.raises(ValueError, match=r"'<\|endoftxt\|>' is no special token .* did you mean '<\|endoftext\|>'"):
        tokenizer.encode("a", allowed_special=["<|endoftxt|>"])
    with pytest.raises(ValueError, match=r"allowed_special='<\|a\|>' must be"):
        tokenizer.encode("a", allowed_special="<|a|>")


def test_special_tokens_are_not_learned_from():
    text = "<|x|>" * 50 + "ab ab"
    assert Tokenizer.train([text], 300, special_tokens=["<|x|>"]).tokens[256:] == [b"ab", b"<|x|>"]
    assert b"<|" in Tokenizer.train([text], 300, special_tokens=["<y>"]).tokens


@both
@given(batch=st.lists(texts, max_size=5), allowed=st.sampled_from(["all", (), ["<|a|>"]]))
def test_a_batch_is_its_texts_one_by_one(tokenizer, batch, allowed):
    batch = [text + "<|a|>" * (i % 3) + "the" for i, text in enumerate(batch)] + ["", "the", "<|a|>"]
    one_by_one = [tokenizer.encode(text, allowed).tolist() for text in batch]
    assert [ids.tolist() for ids in tokenizer.encode_batch(batch, allowed)] == one_by_one
    assert tokenizer.encode_batch([]) == []


@given(data=nearly_utf8)
def test_any_bytes_come_back(data):
    for tokenizer in TOKENIZERS.values():
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@both
def test_a_lone_surrogate_is_named(tokenizer):
    with pytest.raises(ValueError, match=r"character 1 is the lone surrogate U\+D800"):
        tokenizer.encode("a\ud800")


@both
@pytest.mark.parametrize("ids", [[-1], [290], np.array([5, 290]), [0] * 100 + [2**40]])
def test_an_id_outside_the_vocabulary_is_named(tokenizer, ids):
    with pytest.raises(ValueError, match=r"id -?\d+ is outside the vocabulary of 290"):
        tokenizer.decode(ids)
    with pytest.raises(ValueError, match="more than 64 bits is outside the vocabulary of 290"):
        tokenizer.decode([2**70])


@both
def test_the_stream_holds_back_half_characters(tokenizer):
    ids = tokenizer.encode("a😀中")
    pieces = list(tokenizer.decode_stream(ids))
    assert "".join(pieces) == "a😀中"
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(tokenizer.decode_stream(ids[:-1])).startswith("a😀")


@both
@given(text=texts)
def test_offsets_are_where_the_tokens_are(tokenizer, text):
    ids = tokenizer.encode(text)
    in_bytes, in_characters = tokenizer.offsets(ids)
    assert in_bytes.shape == in_characters.shape == (len(ids), 2)
    data = text.encode()
    for token, (start, end), (first, last) in zip(ids, in_bytes, in_characters, strict=True):
        assert data[start:end] == tokenizer.tokens[token]
        # the fewest characters that the token's bytes lie in
        assert len(text[:first].encode()) <= start < len(text[: first + 1].encode())
        assert len(text[: last - 1].encode()) < end <= len(text[:last].encode())


def test_offsets_by_hand():
    in_bytes, in_characters = ByteTokenizer().offsets("a中".encode())
    assert in_bytes.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert in_characters.tolist() == [[0, 1], [1, 2], [1, 2], [1, 2]]
    assert ByteTokenizer().offsets([])[0].shape == (0, 2)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("part", [1, 7, 50, 1000])
@pytest.mark.parametrize("fast", [True, False])
def test_a_file_read_in_parts_has_the_ids_of_the_whole(tmp_path, monkeypatch, pattern, part, fast):
    monkeypatch.setattr(stream.read_parts, "__defaults__", (part,))
    tokenizer = Tokenizer.train([TEXT], 290, pattern, SPECIAL, fast=fast)
    text = "we're \n \n  the  theme中文<|a|>b'll<|a|>" + "   " * 20 + "'re<|endoftext|" + "themes" * 30 + "\r\n\n 'v"
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    kept = stream.TextFile("text.txt", path, TextConfig(newline="keep"))
    for allowed in ("all", ()):
        ids = np.concatenate(list(tokenizer.encode_file(kept, allowed)))
        assert ids.tolist() == tokenizer.encode(text, allowed).tolist()
        ids = np.concatenate(list(tokenizer.encode_file(path, allowed)))
        assert ids.tolist() == tokenizer.encode(text.replace("\r\n", "\n"), allowed).tolist()
    learned = Tokenizer.train([kept], 290, pattern, SPECIAL, fast=fast)
    assert learned.tokens == Tokenizer.train([text], 290, pattern, SPECIAL).tokens


@pytest.mark.parametrize("part", [1, 2, 3, 100])
def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path, part):
    path = tmp_path / "text.txt"
    for data, where in ((b"ab\xe4\xb8\xad\xffcd", 5), (b"abc\xe4\xb8", 3), (b"\xe4\xb8\xe4\xb8\xad", 0)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"text\.txt: not UTF-8: byte 0x.. at offset {where};"):
            list(stream.read_parts(path, part))
    path.write_bytes("a中😀".encode())
    parts = list(stream.read_parts(path, part))
    assert b"".join(parts).decode() == "".join(p.decode() for p in parts) == "a中😀"


def test_no_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nosuch\.txt: no such file"):
        list(BPE.encode_file(tmp_path / "nosuch.txt"))
    with pytest.raises(ValueError, match="is a folder"):
        list(ByteTokenizer().encode_file(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 256}, "vocab_size=256 is too small for 256 bytes and 1 special tokens: give at least 257"),
        ({"pattern": "("}, r"the pattern '\(' is not one of gpt2, gpt4, chinese, nor a regular expression"),
        ({"pattern": ""}, "the pattern is empty"),
        ({"special_tokens": ["x", "x"]}, "twice"),
        ({"special_tokens": [""]}, "the special token ''"),
        ({"special_tokens": ["\ud800"]}, "surrogate"),
    ],
)
def test_what_cannot_be_trained_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.train(["ab"], **options)
    with pytest.raises(TypeError, match=r"give \[text\]"):
        Tokenizer.train("ab")


def test_a_text_too_short_for_the_vocabulary_gives_a_smaller_one():
    assert Tokenizer.train(["abc"], 4096).vocab_size == 257
    assert Tokenizer.train([], 4096).vocab_size == 257


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": [b"", b""]}, "the vocabulary has no token of text"),
        ({"tokens": [*BPE.tokens[:256], b"a"]}, "the token b'a' is twice"),
        ({"merges": [(97, 98)]}, "merge 0 makes b'ab', which is not in the vocabulary"),
        ({"tokens": [*BPE.tokens[:256], b"ab"], "merges": [(97, 98), (97, 98)]}, "twice in the list of 2"),
        ({"merges": [(97, 256)]}, "merge 0 joins 97 and 256, but 256 is no token of text"),
        ({"special_tokens": {"x": 256}}, "the special token 'x' is not the token of its id 256"),
        ({"special_tokens": {"x": 65}}, "the special token 'x' is not the token of its id 65"),
        ({"added_tokens": {"x": 65}}, "the added token 'x' is not the token of its id 65"),
        (
            {"tokens": [*BPE.tokens[:256], b"a"], "special_tokens": {"a": 256}},
            "'a' with id 256 has the name of token 97",
        ),
    ],
)
def test_a_vocabulary_that_does_not_hold_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BPETokenizer(**{"tokens": BPE.tokens[:256], "merges": []} | changes)


@pytest.mark.parametrize("fast", [True, False])
def test_training_tells_of_each_part_of_a_file(tmp_path, monkeypatch, fast):
    monkeypatch.setattr(stream.read_parts, "__defaults__", (100,))
    (tmp_path / "a.txt").write_text("the theme of 人工智能 " * 40, encoding="utf-8")
    told = []
    Tokenizer.train([tmp_path / "a.txt", "more", b""], 300, fast=fast, progress=told.append)
    assert sum(told) == (tmp_path / "a.txt").stat().st_size + 4
    assert len(told) > 8
