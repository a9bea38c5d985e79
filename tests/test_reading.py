"""How texts are read a second time, and what is said about what is in them."""

import json
import os
import tempfile
import threading
from pathlib import Path

import pytest

from npgpt.config import TextConfig
from npgpt.support.files import read_sealed_json, write_sealed_json
from tests.test_cli import command
from tests.test_cli_train import TINY
from tests.test_text import CHINESE, SIMPLIFIED, write

END = "<|endoftext|>"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(capsys, caplog, *words) -> tuple[str, str]:
    caplog.clear()
    code, out, _ = command(capsys, "eval", *words)
    assert code == 0
    return out, caplog.text


def test_eval_reads_the_text_as_the_run_did(here, capsys, caplog):
    """It scored other text than that of the training, without a word."""
    write("\r\n---\n".join([SIMPLIFIED.strip()] * 60) + "\r\n")
    flags = ("--newline", "keep", "--document-separator", r"\n---\n")
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY, "--tokenizer", "bpe:300", *flags)[0] == 0
    wanted, said = score(capsys, caplog, "r", "--data", "a.txt", *flags)
    assert "is read as" not in said
    out, said = score(capsys, caplog, "r", "--data", "a.txt")
    assert out == wanted
    assert r"a.txt is read as the text of r was: --newline keep --document-separator '\n---\n'" in said
    out, said = score(capsys, caplog, "r", "--data", "a.txt", "--newline", "lf")
    assert out != wanted
    assert r"as the text of r was: --document-separator '\n---\n'" in said
    write('{"prompt": "a", "completion": "b"}\n', "examples.jsonl")
    assert "is read as" not in score(capsys, caplog, "r", "--data", "examples.jsonl")[1]
    Path("r/train.json").unlink()
    assert score(capsys, caplog, "r", "--data", "a.txt")[0] != wanted


def test_eval_reads_the_text_as_an_old_run_did(here, capsys, caplog):
    write(CHINESE.replace("\n", "\r\n") * 30)
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY, "--newline", "keep")[0] == 0
    wanted = score(capsys, caplog, "r", "--data", "a.txt")[0]
    content = read_sealed_json(Path("r/train.json"))
    del content["data"]["reading"], content["data"]["documents"]
    write_sealed_json(Path("r/train.json"), content)
    out, said = score(capsys, caplog, "r", "--data", "a.txt")
    assert out == wanted
    assert "as the text of r was: --newline keep --document-separator none --text-field none" in said


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="/dev/shm is needed")
def test_a_file_in_memory_is_a_file(here, capsys, caplog):
    with tempfile.NamedTemporaryFile(dir="/dev/shm", suffix=".txt") as file:
        file.write(CHINESE.encode() * 30)
        file.flush()
        assert command(capsys, "train", "--data", file.name, "--out", "r", *TINY)[0] == 0
        assert "temporary file" not in caplog.text
        assert command(capsys, "train", "--resume", "--out", "r", "--max-steps", 7)[0] == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a named pipe is needed")
@pytest.mark.parametrize("gone", [False, True])
def test_a_run_of_a_named_pipe_asks_for_its_text(here, capsys, gone):
    """--resume waited for somebody who writes into the pipe."""
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_bytes(CHINESE.encode() * 30))
    writer.start()
    assert command(capsys, "train", "--data", "pipe", "--out", "r", *TINY)[0] == 0
    writer.join()
    if gone:
        Path("pipe").unlink()
    code, _, err = command(capsys, "train", "--resume", "--out", "r", "--max-steps", 7)
    assert (code, err.count("\n")) == (2, 1)
    assert "r was trained on what pipe gave, which is not kept: give the same text again with --data" in err
    write(CHINESE * 30)
    assert command(capsys, "train", "--resume", "--out", "r", "--max-steps", 7, "--data", "a.txt")[0] == 0


@pytest.mark.parametrize("between", ["\n\n", END])
def test_a_separator_that_the_text_lacks_is_said(here, capsys, caplog, between):
    """A typo looked like a success where the end token's own text parted the documents."""
    write(between.join([SIMPLIFIED.strip()] * 60))
    flags = (*TINY, "--tokenizer", "bpe:300", "--document-separator", r"\n--\n")
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *flags)[0] == 0
    assert r"a.txt: document_separator='\n--\n' is nowhere in the text" in caplog.text
    caplog.clear()
    assert command(capsys, "prepare", "a.txt", "--out", "p", "--tokenizer", "r", *flags[-2:])[0] == 0
    assert "is nowhere in the text" in caplog.text
    code, _, err = command(capsys, "train", "--data", "a.txt", "--out", "s", *flags, "--pack")
    assert (code, err.count("\n")) == (2, 1)
    assert r"--pack: --document-separator '\n--\n' is nowhere in the text: it has no documents" in err
    write("\n--\n".join([SIMPLIFIED.strip()] * 60))
    caplog.clear()
    assert command(capsys, "train", "--data", "a.txt", "--out", "t", *flags, "--pack")[0] == 0
    assert "nowhere" not in caplog.text


def test_the_usual_end_marker_is_named_where_another_ends_a_text(here, capsys, caplog):
    write(END.join([SIMPLIFIED.strip()] * 60))
    flags = (*TINY, "--tokenizer", "bpe:300", "--end-token", "</s>")
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *flags)[0] == 0
    assert (
        f"a.txt: {END}, found 59 times, read as plain text, because the end token is </s>; "
        f"document_separator='{END}' ends documents there\n"
    ) in caplog.text
    caplog.clear()
    assert command(capsys, "train", "--data", "a.txt", "--out", "s", *flags, "--document-separator", END)[0] == 0
    assert "a.txt: 60 documents, each ended by </s>" in caplog.text
    assert "plain text" not in caplog.text


def test_lines_without_an_end_token_are_not_said_to_be_cut(here, capsys, caplog):
    """Documents that nothing ends are one text, of which no document is too long."""
    write("\n".join([json.dumps({"text": SIMPLIFIED})] * 60), "a.jsonl")
    assert command(capsys, "train", "--data", "a.jsonl", "--out", "r", *TINY)[0] == 0
    assert "60 documents, one after another" in caplog.text
    assert "cut" not in caplog.text


@pytest.mark.parametrize("text", ["\n", "\n中", "中🙂e\u0301"])
def test_a_text_too_short_to_train_on_is_not_prepared(here, capsys, text):
    write(text)
    code, out, err = command(capsys, "prepare", "a.txt", "--out", "p", "--tokenizer", "chars")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the text is too short" in err
    assert not Path("p").exists()


@pytest.mark.parametrize("text", [SIMPLIFIED, "Il était une fée très âgée.\n", "so 🙂 and 👍🏽\n", "e\u0301a\n"])
@pytest.mark.parametrize("at", [0, 1, 3, 100])
def test_one_nul_in_a_text_is_not_taken_for_another_encoding(here, capsys, text, at):
    """A text in UTF-8 with a NUL looked like Latin-1."""
    data = (text * 20).encode()
    write(data[:at].decode(errors="ignore").encode() + b"\0" + (text * 20).encode())
    code, _, err = command(capsys, "prepare", "a.txt", "--out", "p", "--tokenizer", "bytes")
    assert (code, err.count("\n")) == (2, 1)
    assert "a NUL byte at offset" in err
    assert "tr -d" in err


@pytest.mark.parametrize("before", [90_000, 5_000_000])
def test_control_characters_are_seen_wherever_they_are(here, capsys, before):
    line = SIMPLIFIED.encode()
    write(line * (before // len(line)) + bytes(range(1, 8)) * 30_000 + line)
    code, _, err = command(capsys, "prepare", "a.txt", "--out", "p", "--tokenizer", "bytes")
    assert (code, err.count("\n")) == (2, 1)
    assert "binary data, not text from byte" in err
    assert not Path("p").exists()


def test_a_few_control_characters_anywhere_are_text(here, capsys):
    write(("x" * 65_530 + "\x01\x02\x03\x04\x05\x06") * 3 + "\x07" * 100)
    assert command(capsys, "prepare", "a.txt", "--out", "p", "--tokenizer", "bytes")[0] == 0


def test_ids_that_look_like_text_are_told_by_their_name(here, capsys):
    write(b"eHlo wrdl" * 100, "train.bin")
    code, _, err = command(capsys, "prepare", "train.bin", "--out", "p", "--tokenizer", "bytes")
    assert (code, err.count("\n")) == (2, 1)
    assert "train.bin: binary data; nanoGPT's token ids have such a name" in err
    assert "if it is a text, rename it" in err


@pytest.mark.parametrize("name", ["unicode_escape", "raw_unicode_escape", "utf-7", "UTF7", "idna", "punycode"])
def test_notations_of_strings_are_no_encodings(name):
    with pytest.raises(ValueError, match=f"encoding='{name}' is unknown"):
        TextConfig(encoding=name)
