"""Shards: the same tokens as from the text itself, and refused when anything about them is not as it was."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npgpt import Tokenizer
from npgpt.data import make_tokenizer, open_prepared, prepare, read_text
from npgpt.data.shards import HEADER, MAGIC
from npgpt.tokenizer import BPETokenizer, ByteTokenizer, stream

TEXTS = {"a.txt": "the theme of these themes, 人工智能，人工。\n" * 40, "b.txt": "\ufeffother words\n" * 30}


@pytest.fixture
def files(tmp_path):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return [tmp_path / name for name in TEXTS]


@pytest.mark.parametrize("name", ["bytes", "chars", "bpe:280"])
def test_the_tokens_are_those_of_the_texts(tmp_path, files, name, monkeypatch):
    monkeypatch.setattr(stream.read_parts, "__defaults__", (50,))
    tokenizer = make_tokenizer(name, files)
    seen = []
    counts = prepare(files, tmp_path / "out", tokenizer, seen.append)
    shards = open_prepared(tmp_path / "out")
    whole = [tokenizer.encode(read_text(file)) for file in files]
    cuts = [int(0.9 * len(ids)) for ids in whole]
    expected = (
        np.concatenate([ids[:cut] for ids, cut in zip(whole, cuts, strict=True)]),
        np.concatenate([ids[cut:] for ids, cut in zip(whole, cuts, strict=True)]),
    )
    for ids, wanted in zip(shards[:2], expected, strict=True):
        assert ids.dtype == np.uint16
        assert np.array_equal(ids, wanted)
        assert not ids.flags.writeable
    assert counts == tuple(map(len, expected))
    assert sum(seen) == sum(counts)
    assert shards.tokenizer.fingerprint() == tokenizer.fingerprint()
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tokens")) == ["train.tokens", "val.tokens"]
    assert not list((tmp_path / "out").glob(".prepare-*"))


def test_a_large_vocabulary_takes_four_bytes_an_id(tmp_path, files):
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    big = BPETokenizer([*(bytes([b]) for b in range(256)), *pairs], [(97, 98)])
    prepare(files, tmp_path / "out", big)
    shards = open_prepared(tmp_path / "out")
    assert shards.train_ids.dtype == np.uint32
    assert big.vocab_size > 2**16


def test_the_fingerprint_is_that_of_the_ids(files):
    one, again, other = (Tokenizer.train(files, size) for size in (280, 280, 281))
    assert one.fingerprint() == again.fingerprint()
    assert len({one.fingerprint(), other.fingerprint(), ByteTokenizer().fingerprint()}) == 3
    assert Tokenizer.train(files, 280, "gpt4").fingerprint() != one.fingerprint()


def change(position, value):
    def edit(data):
        return data[:position] + value + data[position + len(value) :]

    return edit


DAMAGES = {
    "cut off by a byte": (lambda data: data[:-1], "the file is cut off"),
    "cut off in half": (lambda data: data[: len(data) // 2], "the file is cut off"),
    "cut off in its header": (lambda data: data[:100], "not a token shard"),
    "empty": (lambda data: b"", "not a token shard"),
    "longer": (lambda data: data + b"\0\0", "the file is cut off, or longer"),
    "a bit flipped": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "the checksum is wrong"),
    "another first id": (change(HEADER.size, b"\1\1"), "the checksum is wrong"),
    "another kind": (change(0, b"x"), "not a token shard"),
    "ids of 3 bytes": (change(len(MAGIC), struct.pack("<I", 3)), "ids of 3 bytes"),
    "another count": (change(24, struct.pack("<Q", 2**60)), "for 1,152,921,504,606,846,976 ids"),
    "another vocabulary": (change(20, struct.pack("<I", 7)), "made with another tokenizer"),
    "another checksum": (change(32, bytes(32)), "the checksum is wrong"),
    "another fingerprint": (change(64, bytes(32)), "its fingerprint is 000000000000, expected "),
}


@pytest.mark.parametrize("name", ["train.tokens", "val.tokens"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_refused(tmp_path, files, name, damage):
    edit, message = DAMAGES[damage]
    prepare(files, tmp_path / "out", ByteTokenizer())
    path = tmp_path / "out" / name
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{name}: ") as caught:
        open_prepared(tmp_path / "out")
    assert message in str(caught.value)


def test_a_shard_that_is_missing_and_another_tokenizer_are_refused(tmp_path, files):
    prepare(files, tmp_path / "out", ByteTokenizer())
    Tokenizer.train(files, 256, special_tokens=()).save_pretrained(tmp_path / "out")  # of the same size
    with pytest.raises(ValueError, match="made with another tokenizer"):
        open_prepared(tmp_path / "out")
    (tmp_path / "out" / "val.tokens").unlink()
    ByteTokenizer().save_pretrained(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"val\.tokens: no such file"):
        open_prepared(tmp_path / "out")


def test_a_text_that_cannot_be_encoded_leaves_no_shard(tmp_path, files):
    (tmp_path / "c.txt").write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=r"c\.txt: not UTF-8: byte 0xff at offset 3"):
        prepare([*files, tmp_path / "c.txt"], tmp_path / "out", ByteTokenizer())
    assert not list((tmp_path / "out").rglob("*"))
    chars = make_tokenizer("chars", files[:1])
    with pytest.raises(ValueError, match=r"b\.txt: character 'r'"):
        prepare(files, tmp_path / "out", chars)


MEMORY = """
import re, sys
from pathlib import Path
from npgpt.data import make_tokenizer, open_prepared, prepare
from npgpt.data.batch import random_batch, windows
import numpy as np
file, out = sys.argv[1:]
tokenizer = make_tokenizer(sys.argv[3] if len(sys.argv) > 3 else "bpe:1000", [file])
prepare([file], out, tokenizer)
shards = open_prepared(out)
random_batch(shards.train_ids, 12, 64, np.random.default_rng(0))
n = sum(batch.ids.size for batch in windows(shards.val_ids, 64, 128))
# not getrusage's ru_maxrss, in which Linux counts the process that this one was started from
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(peak // 1024, len(shards.train_ids) + len(shards.val_ids), n)
"""


@pytest.mark.big
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_gigabyte_is_prepared_in_half_a_gigabyte(tmp_path):
    """Words of random letters: many more distinct pre-tokens than a text of that length has."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, 97 + rng.integers(0, 26, rng.integers(1, 9)))) for _ in range(100_000)]
    with (tmp_path / "big.txt").open("w") as file:
        for _ in range(180):
            file.write(" ".join(rng.choice(words, 1_000_000)) + "\n")
    assert (tmp_path / "big.txt").stat().st_size > 900_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "big.txt"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    megabytes = int(done.stdout.split()[0])
    assert megabytes < 500
