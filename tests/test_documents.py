"""Documents: recognised, parted between training and validation, packed so that none meets another, and counted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npgpt import GPT, Tokenizer, TrainConfig
from npgpt.config import TextConfig
from npgpt.data import make_tokenizer, open_prepared, open_texts, prepare, splitting
from npgpt.data.documents import pack_documents
from npgpt.data.splitting import encoded, split_texts, where_to_cut
from tests.test_cli import command
from tests.test_cli_train import TINY

E = "<|endoftext|>"
DOCUMENTS = [f"Document {i}: 中文 e\u0301 🙂 and so on.\n" * (i % 5 + 1) for i in range(40)]
LONG = "one text without an end " * 60


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tokenizer():
    return Tokenizer.train(DOCUMENTS, 290)


def write(content: str, name: str = "a.txt") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content.encode())
    return name


def ids_of(tokenizer, names, **settings) -> list[int]:
    files = open_texts(names, TextConfig(**settings)).files
    return np.concatenate([np.concatenate(list(encoded(file, tokenizer))) for file in files]).tolist()


def expected(tokenizer, documents=DOCUMENTS) -> list[int]:
    return [i for text in documents for i in [*tokenizer.encode(text), tokenizer.end_id]]


def test_every_way_to_write_documents_gives_the_same_ids(here, tokenizer):
    wanted = expected(tokenizer)
    for content in (E.join(DOCUMENTS), E.join(DOCUMENTS) + E):
        assert ids_of(tokenizer, [write(content)]) == wanted
    for separator, flag in (("\n---\n", r"\n---\n"), ("]]", "]]")):
        assert ids_of(tokenizer, [write(separator.join(DOCUMENTS))], document_separator=flag) == wanted
    lines = [json.dumps({"text": text}) for text in ["", *DOCUMENTS]]
    assert ids_of(tokenizer, [write("\n".join(lines), "a.jsonl")]) == wanted
    for i, text in enumerate(DOCUMENTS):
        write(text, f"d/{i:02}.txt")
    assert ids_of(tokenizer, ["d"], document_separator="file") == wanted
    assert ids_of(tokenizer, ["d"]) == [i for text in DOCUMENTS for i in tokenizer.encode(text)]
    plain = tokenizer.encode(E.join(DOCUMENTS)).tolist()
    assert ids_of(tokenizer, [write(E.join(DOCUMENTS))], document_separator="none") == plain


def test_the_end_token_is_not_learned_as_text(here):
    plain = make_tokenizer("bpe:300", [write("\n".join(DOCUMENTS))])
    for content, flag in ((E.join(DOCUMENTS), "auto"), ("@@@@".join(DOCUMENTS), "@@@@")):
        files = open_texts([write(content)], TextConfig(document_separator=flag)).files
        found = make_tokenizer("bpe:300", files)
        assert not any(b"@@" in token or b"endof" in token for token in found.tokens if token != E.encode())
        assert found.end_id == plain.end_id


def test_a_text_is_cut_between_documents():
    end = np.zeros(100, int)
    for ends, cut in (([79, 84, 91], 92), ([84, 91, 99], 92), ([85, 96], 86), ([79, 99], 90), ([89], 90), ([80], 81)):
        ids = end.copy()
        ids[ends] = 7
        assert where_to_cut(ids, 7) == cut
        assert where_to_cut(ids, None) == 90
    assert where_to_cut(np.empty(0, int), 7) == 0


def test_training_and_validation_share_no_document(here, tokenizer, caplog):
    files = open_texts([write(E.join(DOCUMENTS))]).files
    train, val = split_texts(files, tokenizer)
    assert [*train, *val] == expected(tokenizer)
    assert train[-1] == val[-1] == tokenizer.end_id
    assert 0.8 < len(train) / len(expected(tokenizer)) < 0.99
    assert prepare(files, "p", tokenizer) == (len(train), len(val))
    shards = open_prepared("p")
    np.testing.assert_array_equal(shards.train_ids, train)
    np.testing.assert_array_equal(shards.val_ids, val)
    texts = open_texts([write(LONG + E + "a")])
    split_texts(texts.files, tokenizer)
    texts.report(E)
    assert "no document ends near 90% of a.txt, so one document is cut between training and validation" in caplog.text


@pytest.mark.parametrize("T", [1, 2, 3, 8, 50])
def test_packed_documents_are_whole_and_read_alone(T):
    end, rng = 9, np.random.default_rng(3)
    texts = [rng.integers(0, 9, n).tolist() for n in (3, 0, 1, T, T - 1, T + 1, 3 * T, 20, 0, 1, 2, 5)]
    for last in ([end], []):
        ids = np.array([i for text in texts for i in [*text, end]][:-1] + last, np.uint16)
        data = pack_documents(ids, T, end)
        found, rows = [], 0
        for batch in data.whole(2):
            for row, targets, starts in zip(batch.ids, batch.targets, batch.starts, strict=True):
                rows += 1
                where = 0
                while where < T and targets[where] != -100:
                    size = int((starts == where).sum())
                    assert (starts[where : where + size] == where).all()
                    found.append((row[where : where + size].tolist(), targets[where : where + size].tolist()))
                    where += size
                assert (targets[where:] == -100).all()
                assert (row[where:] == end).all()
                assert starts[where:].tolist() == list(range(where, T))
        wanted = []
        for number, text in enumerate(texts):
            stop = [end] if number < len(texts) - 1 else last
            inputs, targets = [end, *text][: len(text) + len(stop)], [*text, *stop]
            if text:
                wanted += [(inputs[k : k + T], targets[k : k + T]) for k in range(0, len(targets), T)]
        assert sorted(found) == sorted(wanted)
        assert data.size == sum(len(targets) for _, targets in wanted)
        assert data.n_rows == rows
        drawn = [data.draw(step, TrainConfig(batch_size=1))[0].targets.tolist() for step in range(rows)]
        assert sorted(drawn) == sorted(batch.targets.tolist() for batch in data.whole(1))


def test_a_text_without_documents_is_not_packed(here, capsys):
    for data, flags, says in (
        (LONG, ("--tokenizer", "bpe:290"), "there is no document, because the text has no end token"),
        (LONG, ("--tokenizer", "chars"), "has no token that ends an example"),
        (LONG, ("--tokenizer", "bpe:290", "--document-separator", "none"), "there is no document"),
    ):
        code, _, err = command(capsys, "train", "--data", write(data), "--out", "r", *TINY, "--pack", *flags)
        assert (code, err.count("\n")) == (2, 1)
        assert says in err
        assert not Path("r").exists()
    code, _, err = command(capsys, "train", "--data", "tales:en", "--out", "r", "--pack")
    assert code == 2
    assert "--pack has no effect on tales" in err


def test_train_packs_texts_and_prepared_folders_alike(here, capsys, caplog):
    flags = (*TINY, "--pack", "--max-steps", 4)
    write(E.join(DOCUMENTS))
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *flags, "--tokenizer", "bpe:290")[0] == 0
    assert f"a.txt: 40 documents, each ended by {E}" in caplog.text
    assert command(capsys, "prepare", "a.txt", "--out", "p", "--tokenizer", "bpe:290")[0] == 0
    assert command(capsys, "train", "--data", "p", "--out", "s", *flags)[0] == 0
    weights = [GPT.from_pretrained(run).params.flat.tobytes() for run in ("r", "s")]
    assert weights[0] == weights[1]
    for run in ("r", "s"):
        assert json.loads(Path(run, "train.json").read_text())["data"]["examples"] is True
        code, _, err = command(capsys, "train", "--resume", "--out", run, "--max-steps", 5, "--no-pack")
        assert code == 2
        assert "pack is True" in err
        assert command(capsys, "train", "--resume", "--out", run, "--max-steps", 5)[0] == 0


def test_characters_have_no_end_token_and_say_so(here, capsys, caplog):
    write(E.join(DOCUMENTS))
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY)[0] == 0
    assert f"a.txt: {E}, found 39 times, read as plain text, because the tokenizer has no" in caplog.text
    for separator in ("file", "Document"):
        flags = (*TINY, "--tokenizer", "chars", "--document-separator", separator)
        code, _, err = command(capsys, "train", "--data", "a.txt", "--out", "n", *flags)
        assert (code, err.count("\n")) == (2, 1)
        assert f"--document-separator {separator}: a tokenizer of the kind chars has no token that ends" in err
        assert not Path("n").exists()


def test_the_ids_of_a_large_text_are_the_same_in_a_file(here, tokenizer, caplog, monkeypatch):
    files = open_texts([write(E.join(DOCUMENTS)), write(LONG, "b.txt")]).files
    small = split_texts(files, tokenizer)
    assert not caplog.text
    monkeypatch.setattr(splitting, "LARGE", 1)
    large = split_texts(files, tokenizer)
    assert "MB of text: its ids are kept in a temporary file" in caplog.text
    for one, other in zip(small, large, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype == np.uint16
        assert isinstance(other.base, np.memmap) or isinstance(other.base.base, np.memmap)
    whole = splitting.whole_texts(files, tokenizer)
    assert isinstance(whole.base, np.memmap) or isinstance(whole.base.base, np.memmap)
    np.testing.assert_array_equal(whole, np.concatenate([ids for file in files for ids in encoded(file, tokenizer)]))


PEAK = """
import re, sys
from pathlib import Path
from npgpt.cli import main
assert main(sys.argv[1:]) == 0
# not getrusage's ru_maxrss, in which Linux counts the process that this one was started from
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.big
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("tokenizer", ["chars", "bpe:500"])
def test_a_large_text_trains_in_little_memory(tmp_path, tokenizer):
    """Once it took 15 to 21 times the text with characters, and 8 to 10 times with byte pairs."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, 97 + rng.integers(0, 26, rng.integers(1, 9)))) for _ in range(10_000)]
    with (tmp_path / "large.txt").open("w", encoding="utf-8") as file:
        for _ in range(20):
            file.write(" ".join(rng.choice(words, 1_000_000)) + " 中文。\n")
    size = (tmp_path / "large.txt").stat().st_size
    assert size > splitting.LARGE
    flags = [*TINY, "--max-steps", 1, "--tokenizer", tokenizer]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "train", "--data", "large.txt", "--out", "r", *map(str, flags)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    megabytes = int(done.stdout.split()[-1]) / 1024
    assert megabytes < 400
