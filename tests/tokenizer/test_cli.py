"""The commands around tokenizers, as a user types them."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from npgpt import Tokenizer
from npgpt.cli import main
from npgpt.tokenizer import CharTokenizer

TEXT = "the theme of these themes, 人工智能，人工。\n" * 30
TINY = "--n-layer 1 --n-head 2 --n-embd 8 --n-positions 8 --batch-size 2 --eval-batches 1 --threads 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text, and a vocabulary learned from it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    (folder / "b.txt").write_text("more\n" * 40, encoding="utf-8")
    words = ["tokenizer", "train", "a.txt", "b.txt", "--vocab-size", "280", "--special", "<a>", "<b>", "--out", "t"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(words) == 0
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def pipe(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(data)))


def test_train_learns_what_the_library_learns(capsys, here):
    tokenizer = Tokenizer.from_pretrained("t")
    assert tokenizer.tokens == Tokenizer.train([TEXT, "more\n" * 40], 280, "gpt2", ["<a>", "<b>"]).tokens
    assert tokenizer.special_tokens == {"<a>": 278, "<b>": 279}
    out = run(capsys, "tokenizer", "train", "b.txt", "--vocab-size", 9999, "--pattern", r"\w+|\s", "--out", "u")
    assert "fewer than 9,999: no more pairs of tokens occur twice" in out
    assert Tokenizer.from_pretrained("u").special_tokens == {"<|endoftext|>": 256 + 3}


def test_encode_and_decode(capsys, here, monkeypatch):
    ids = Tokenizer.from_pretrained("t").encode("the 人\n").tolist()
    assert run(capsys, "tokenizer", "encode", "t", "the 人\n") == " ".join(map(str, ids)) + "\n"
    assert run(capsys, "tokenizer", "decode", "t", *ids) == "the 人\n"
    pipe(monkeypatch, "the 人\n".encode())
    assert run(capsys, "tokenizer", "encode", "t") == " ".join(map(str, ids)) + "\n"
    pipe(monkeypatch, " ".join(map(str, ids)).encode())
    assert run(capsys, "tokenizer", "decode", "t") == "the 人\n"
    assert run(capsys, "tokenizer", "encode", "t", "<a>", "--special") == "278\n"
    assert "278" not in run(capsys, "tokenizer", "encode", "t", "<a>")


@pytest.mark.parametrize("data", [b"\xff", b"abc\xff"])
def test_what_is_piped_in_must_be_text(capsys, here, monkeypatch, data):
    pipe(monkeypatch, data)
    assert main(["tokenizer", "encode", "t"]) == 2
    assert f"not UTF-8: byte 0xff at offset {len(data) - 1}" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert main(["tokenizer", "encode", "t"]) == 2
    assert (
        capsys.readouterr().err
        == "npgpt tokenizer: error: nothing to read: give it as an argument or with --file, or pipe it in\n"
    )


def test_show_with_brackets_and_in_colours(capsys, here, monkeypatch):
    out = run(capsys, "tokenizer", "show", "t", "these\n<a>中", "--special").splitlines()
    assert out[0] == r"[the][se][\n][<a>][\xe4][\xb8][\xad]"
    assert out[2].split() == ["id", "bytes", "token"]
    assert [line.split() for line in out[-4:-3]] == [["278", "3", "<a>"]]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    out = run(capsys, "tokenizer", "show", "t", "these")
    assert out.startswith("\033[44;30mthe\033[0m\033[42;30mse\033[0m\n")


def test_stats(capsys, here, tmp_path):
    pytest.importorskip("matplotlib")
    out = run(capsys, "tokenizer", "stats", "t", "a.txt", "--plot", tmp_path / "plot.png")
    ids = Tokenizer.from_pretrained("t").encode(TEXT)
    n = len(TEXT.encode())
    assert f"{len(ids):,} tokens for {n:,} bytes: {n / len(ids):.2f} bytes per token" in out
    assert f"{len(set(ids.tolist()))} of 280 tokens are used" in out
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert main(["tokenizer", "stats", "t", "a.txt", "--plot", str(tmp_path / "plot.xyz")]) == 2
    assert "plot.xyz" in capsys.readouterr().err


@pytest.mark.parametrize("tokenizer", ["bpe:280", "t", "bytes"])
def test_train_on_a_text_and_on_its_shards_to_the_same_bits(capsys, here, tmp_path, tokenizer):
    options = [*TINY.split(), "--max-steps", "4", "--sample-tokens", "5"]
    run(capsys, "train", "--data", "a.txt", "b.txt", "--tokenizer", tokenizer, "--out", tmp_path / "one", *options)
    out = run(capsys, "prepare", "a.txt", "b.txt", "--tokenizer", tokenizer, "--out", tmp_path / "data")
    assert f"train on it with: npgpt train --data {tmp_path / 'data'}" in out
    run(capsys, "train", "--data", tmp_path / "data", "--out", tmp_path / "two", *options)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in {*one, *two})
    saved = json.loads((tmp_path / "two" / "train.json").read_text())
    assert saved["train"]["tokenizer"] == str(tmp_path / "data")
    run(capsys, "train", "--resume", "--out", tmp_path / "two", "--max-steps", "6")
    run(capsys, "train", "--resume", "--out", tmp_path / "one", "--max-steps", "6")
    CharTokenizer([TEXT]).save_pretrained(tmp_path / "two")
    assert main(["train", "--resume", "--out", str(tmp_path / "two"), "--max-steps", "8"]) == 2


def test_a_run_with_bpe_is_sampled_evaluated_and_opened(capsys, here, tmp_path):
    run(
        capsys,
        "train",
        "--data",
        "a.txt",
        "--tokenizer",
        "bpe:280",
        "--out",
        tmp_path / "r",
        "--max-steps",
        3,
        *TINY.split(),
    )
    out = run(capsys, "sample", tmp_path / "r", "--prompt", "the 人", "--max-new-tokens", 30)
    assert out.startswith("the 人")
    bits = {}
    run(
        capsys,
        "train",
        "--data",
        "a.txt",
        "--tokenizer",
        "bytes",
        "--out",
        tmp_path / "s",
        "--max-steps",
        3,
        *TINY.split(),
    )
    for name in "rs":
        lines = run(capsys, "eval", tmp_path / name, "--data", "a.txt").splitlines()
        bits[name] = dict(line.split(maxsplit=1) for line in lines)
    # nearly untrained: the loss is log V a token, so the bits a byte say how long the tokens are
    assert float(bits["r"]["bits/byte"]) < 0.7 * float(bits["s"]["bits/byte"])
    assert "parameters" in run(capsys, "info", tmp_path / "r")
    assert run(capsys, "tokenizer", "show", tmp_path / "r", "the").startswith("[")


def test_a_damaged_shard_is_refused_by_train(capsys, here, tmp_path):
    run(capsys, "prepare", "a.txt", "--tokenizer", "bytes", "--out", tmp_path / "data")
    path = tmp_path / "data" / "train.tokens"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "r"), *TINY.split()]) == 2
    err = capsys.readouterr().err
    assert "train.tokens" in err
    assert "cut off" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("command", [["tokenizer", "train"], ["prepare"]], ids=" ".join)
def test_what_is_no_text_to_learn_from_is_named(capsys, tmp_path, command):
    (tmp_path / "empty.txt").touch()
    for file, message in (
        (tmp_path, "the file is empty"),
        (tmp_path / "empty.txt", "empty.txt"),
        ("none.txt", "no such file"),
    ):
        assert main([*command, str(file), "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "out").exists()
