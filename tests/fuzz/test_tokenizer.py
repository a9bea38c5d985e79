"""Vocabularies and shards with a byte changed, and any text: refused with an error a user can read, or right."""

import functools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tokenizer
from npgpt.data import open_prepared, prepare
from tests.tokenizer.helpers import PARTS, as_defined, nearly_utf8, texts

TEXT = "".join(PARTS) * 2 + "the theme of these, 人工智能，人工 "


@functools.cache
def trained(pattern="gpt2"):
    return Tokenizer.train([TEXT], 300, pattern)


@functools.cache
def whole():
    """Return the bytes of every file of a folder of npgpt prepare."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.txt"
        file.write_text(TEXT.replace("\0", "") * 3, encoding="utf-8")
        prepare([file], Path(folder) / "out", trained())
        return {path.name: path.read_bytes() for path in (Path(folder) / "out").iterdir()}


def opened(files, open_folder):
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return open_folder(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt", "train.tokens", "val.tokens"])
@given(data=st.data())
def test_a_changed_byte_or_a_cut(name, data):
    files = dict(whole())
    content = bytearray(files[name])
    where = data.draw(st.integers(0, len(content) - 1))
    content[where] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del content[where:]
    files[name] = bytes(content)
    if name in ("vocab.json", "merges.txt"):
        files = {n: files[n] for n in ("vocab.json", "merges.txt")}
    try:
        if name.endswith(".tokens"):
            opened(files, open_prepared)
            pytest.fail("a changed shard was opened")
        tokenizer = opened(files, Tokenizer.from_pretrained)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        return
    try:
        ids = tokenizer.encode(TEXT)
    except ValueError as error:  # a byte is no longer there
        assert "is not in this vocabulary" in str(error)
        return
    # another vocabulary, but a whole one
    assert tokenizer.decode(ids) == TEXT


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "chinese"])
@given(text=texts, data=nearly_utf8)
def test_any_text_is_encoded_as_defined_and_comes_back(pattern, text, data):
    tokenizer = trained(pattern)
    defined = as_defined(tokenizer)
    for part in (text.encode(), data, text.encode() + data):
        ids = tokenizer.encode_bytes(part)
        assert ids.tolist() == defined.encode_bytes(part).tolist()
        assert tokenizer.decode_bytes(ids) == part
