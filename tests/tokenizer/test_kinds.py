"""Kinds of tokenizers register with the base, which knows none of them, and their order does not matter."""

import ast
import json
from graphlib import CycleError, TopologicalSorter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from npgpt import Tokenizer
from npgpt import tokenizer as room
from npgpt.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, base

KINDS = (ByteTokenizer, CharTokenizer, BPETokenizer)
ROOM = Path(room.__file__).parent


def examples():
    return ByteTokenizer(), CharTokenizer(["ab"]), Tokenizer.train(["abab"], 258)


@pytest.mark.parametrize("order", list(permutations(KINDS)), ids=lambda order: " ".join(kind.kind for kind in order))
def test_the_order_of_registration_does_not_change_what_a_file_opens_as(tmp_path, monkeypatch, order):
    monkeypatch.setattr(base, "_KINDS", {})
    for kind in order:
        base.register(kind)
    for tokenizer in examples():
        tokenizer.save_pretrained(tmp_path)
        assert type(Tokenizer.from_pretrained(tmp_path)) is type(tokenizer)
    (tmp_path / "tokenizer.json").unlink()
    assert type(Tokenizer.from_pretrained(tmp_path)) is BPETokenizer  # from vocab.json and merges.txt


def test_bpe_alone_would_open_the_byte_tokenizers_file():
    """So the test above has something to find."""
    assert BPETokenizer.from_json(ByteTokenizer().to_json()).vocab_size == 256


class WordTokenizer(Tokenizer):
    """One token, whatever the text."""

    kind = "words"
    files = "one word"
    vocab_size = 1

    def encode(self, text):
        return np.zeros(1, np.int32)

    def decode_bytes(self, ids):
        return b"word" * len(list(ids))

    def to_json(self):
        return {"model": {"type": "Word"}}

    @classmethod
    def from_json(cls, content):
        return cls() if content["model"]["type"] == "Word" else None

    @classmethod
    def from_other_files(cls, folder):
        return cls() if (folder / "word.txt").exists() else None


def test_a_kind_is_found_once_it_is_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_KINDS", dict(base._KINDS))
    WordTokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match='the kind "Word" is not supported, only byte-level BPE, npgpt\'s characters, b'
    ):
        Tokenizer.from_pretrained(tmp_path)
    assert base.register(WordTokenizer) is WordTokenizer
    assert type(Tokenizer.from_pretrained(tmp_path)) is WordTokenizer
    for tokenizer in examples():
        tokenizer.save_pretrained(tmp_path)
        assert type(Tokenizer.from_pretrained(tmp_path)) is type(tokenizer)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Letter"}}))
    with pytest.raises(ValueError, match=r'the kind "Letter" is not supported, only .*, one word,'):
        Tokenizer.from_pretrained(tmp_path)


def test_a_kind_may_have_files_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_KINDS", dict(base._KINDS))
    base.register(WordTokenizer)
    (tmp_path / "word.txt").touch()
    assert type(Tokenizer.from_pretrained(tmp_path)) is WordTokenizer


def test_two_kinds_cannot_have_one_name():
    class Other(WordTokenizer):
        kind = "bytes"

    with pytest.raises(ValueError, match="the kind 'bytes' is registered already, as ByteTokenizer"):
        base.register(Other)
    assert base.register(ByteTokenizer) is ByteTokenizer  # twice is once
    assert set(base.kinds()) == set(KINDS)


def test_only_a_bpe_is_learned():
    with pytest.raises(NotImplementedError, match="of the kind bytes is not learned"):
        ByteTokenizer.learn([], 256, "gpt2", [], True, print)
    assert type(ByteTokenizer.train(["ab"], 257)) is BPETokenizer


def imports(file):
    """Return the files of the room that one of them imports, inside its functions as well."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = ROOM.parents[1].joinpath(*name.split("."))
            found |= {path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()}
    return {path for path in found if path.is_relative_to(ROOM)}


def test_no_file_of_the_room_imports_itself_by_way_of_others():
    graph = {file: imports(file) for file in ROOM.rglob("*.py")}
    assert ROOM / "fast" / "__init__.py" in graph[ROOM / "engine.py"]  # the lazy import is seen
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(str(file.relative_to(ROOM)) for file in reversed(error.args[1])))
    assert order.index(ROOM / "base.py") < min(order.index(ROOM / f"{kind.kind}.py") for kind in KINDS)
