"""Text files as people have them: other encodings, line ends, joined files, pipes, folders, and what is no text."""

import contextlib
import io
import itertools
import json
import os
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from npgpt import Tokenizer
from npgpt.config import TextConfig
from npgpt.data import make_tokenizer, open_texts, read_text
from npgpt.data.examples import read_examples
from npgpt.support.files import read_sealed_json, write_sealed_json
from npgpt.tokenizer import stream
from npgpt.tokenizer.seeming import guess
from npgpt.tokenizer.stream import TextFile, read_parts
from tests.test_cli import command
from tests.test_cli_train import TINY, saved

CHINESE = "床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。\n"
SIMPLIFIED = "从前有一个人，他在山上住着。人工智能说：“我们都喜欢这个地方。”\n"
FRENCH = "Il était une fée très âgée. Ça n'était pas la peine d'y aller, où qu'elle fût.\n"
RUSSIAN = "Жил-был старик со своею старухой у самого синего моря.\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
KOREAN = "옛날 옛적에 호랑이가 담배를 피우던 시절의 이야기입니다. 그는 산으로 갔다.\n"
MIXED = "a中🙂e\u0301\n\nb\u2028c \t\x0c"  # a character of each length, a combining mark, a separator, a form feed


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(content: bytes | str, name: str = "a.txt") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(content: bytes | str, part: int = 1 << 22, name: str = "a.txt", end: str | None = None, **settings) -> str:
    file = TextFile(name, write(content, name), TextConfig(**settings), end=end)
    return b"".join(read_parts(file, part)).decode()


@pytest.mark.parametrize("part", [1, 2, 3, 4, 5, 7, 1000])
def test_line_ends_become_line_feeds_wherever_a_part_ends(here, part):
    text = "中\r\na\rb\r\r\n\n\rc🙂\r\n\r"
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    file = TextFile("a.txt", write("\ufeff" + text))
    assert b"".join(read_parts(file, part)).decode() == plain
    assert file.seen["line ends"] == text.count("\r")
    assert read(text, part, newline="keep") == text
    assert read(MIXED, part) == MIXED


@pytest.mark.parametrize("part", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "gb18030", "big5", "shift_jis"])
def test_a_text_in_its_encoding_is_the_text(here, encoding, part):
    text = {"shift_jis": JAPANESE, "big5": CHINESE}.get(encoding, SIMPLIFIED + MIXED + "\r\n")
    assert read(text.encode(encoding), part, encoding=encoding) == text.replace("\r\n", "\n")


@pytest.mark.parametrize("part", [1, 3, 1000])
def test_marks_of_joined_files_are_left_out_and_counted(here, part):
    file = TextFile("a.txt", write("\ufeff中\n\ufeffb\ufeff"))
    assert b"".join(read_parts(file, part)).decode() == "中\nb"
    assert file.seen["marks"] == 2
    assert read("\ufeff中\n\ufeffb", newline="keep") == "中\n\ufeffb"


@pytest.mark.parametrize("part", [1, 2, 3, 4, 6, 1000])
@pytest.mark.parametrize("separator", ["aa", "aab", "--", "中\\n", "\\n\\n"])
def test_a_separator_is_found_wherever_a_part_ends(here, separator, part):
    text = "aaab--a---\n中\n\n\n\n中中\n-aaaaab"
    plain = text.replace(separator.replace("\\n", "\n"), "<E>")
    assert read(text, part, end="<E>", document_separator=separator) == plain
    assert read(text, part, document_separator=separator) == text  # nobody can end a document


@pytest.mark.parametrize("part", [1, 5, 1000])
def test_json_lines_are_documents(here, part):
    lines = [{"text": "a\r\n中", "n": 1}, {"text": ""}, {"text": "🙂\n"}]
    content = "\ufeff" + "\r\n\n".join(json.dumps(line) for line in lines)
    assert read(content, part, "a.jsonl", end="<E>") == "a\n中<E>🙂\n<E>"
    assert read(content, part, "a.jsonl") == "a\n中\n🙂\n"
    assert (
        read(content, part, "a.jsonl", text_field="none", newline="keep") == content[1:]
    )  # plain text, as it was once
    other = json.dumps({"content": "中"}, ensure_ascii=False)
    assert read(other, part, "a.dat", end="<E>", text_field="content") == "中<E>"
    assert read(other, part, "a.txt", end="<E>", text_field="content") == "中<E>"
    assert read("{plain 中", part, "a.txt", end="<E>", text_field="content") == "{plain 中"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "a.jsonl:2: not JSON"),
        ("[1]", "a.jsonl:2: expected an object with 'text', got list"),
        ('{"text": 3}', "a.jsonl:2: 'text' is 3, not a string"),
        ('{"prompt": "a", "completion": "b"}', "npgpt finetune learns such lines"),
        ('{"body": "a"}', "'text' is missing, and there is 'body': give --text-field NAME"),
        ('{"text": "\\ud800"}', "a lone surrogate"),
        ("[" * 100_000, "a.jsonl:2: not JSON"),
    ],
)
def test_a_wrong_line_is_named(here, line, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        read(f'{{"text": "a"}}\n{line}\n', name="a.jsonl")


ENCODED = {
    "gb18030": [(SIMPLIFIED, "gbk"), (CHINESE, "gb18030"), ("人工智能", "gbk")],
    "big5": [(CHINESE, "big5"), ("從前有一個人", "big5")],
    "cp1252": [(FRENCH, "latin-1"), ("caf\xe9", "latin-1"), ("\x93quoted\x94", "latin-1")],
    "cp1251": [(RUSSIAN, "cp1251")],
    "shift_jis": [(JAPANESE, "shift_jis")],
    "euc_jp": [(JAPANESE, "euc_jp")],
    "euc_kr": [(KOREAN, "euc_kr")],
    "utf-16": [(text, "utf-16") for text in ("plain words", SIMPLIFIED)],
    "utf-32": [("plain words", "utf-32")],
    **{
        f"{kind}-{order}": [(text, f"{kind}-{order}") for text in ("plain words\n", SIMPLIFIED, RUSSIAN, "人工智能\n")]
        for kind, order in itertools.product(("utf-16", "utf-32"), ("le", "be"))
    },
}


@pytest.mark.parametrize("name", ENCODED)
def test_a_wrong_encoding_is_named_with_the_flag_that_reads_it(here, capsys, name):
    for text, encoding in ENCODED[name]:
        write((text * 20).encode(encoding))
        code, out, err = command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"--encoding {name}\n" in err
        assert not Path("r").exists()
        config = TextConfig(encoding=name)
        assert read_text(TextFile("a.txt", Path("a.txt"), config)) == (text * 20).encode(encoding).decode(name).lstrip(
            "\ufeff"
        )


def test_a_damaged_place_and_noise_are_not_taken_for_another_encoding():
    text = SIMPLIFIED.encode() * 20
    assert guess(text[:600] + b"\xff" + text[600:]) is None
    assert guess(text) is guess(text[:-2]) is None
    noise = np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8).tobytes()
    assert guess(noise) is None


TOKENS = np.random.default_rng(0).integers(0, 65, 3000)
NO_TEXT = {
    "train.bin": (TOKENS.astype("<u2").tobytes(), ["nanoGPT's token ids", "meta.pkl is beside it", "npgpt prepare"]),
    "val.bin": ((TOKENS * 700).astype("<u2").tobytes(), ["nanoGPT's token ids", "npgpt prepare"]),
    "small": (np.maximum(TOKENS, 1).astype("u1").tobytes(), ["binary data", "control characters"]),
    "meta.pkl": (b"\x80\x04\x95" + bytes(range(20)), ["a pickle of Python", "nanoGPT"]),
    "nul.txt": (b"plain\0words", ["a NUL byte at offset 5", "tr -d"]),
    "a.txt.gz": (b"\x1f\x8b\x08\0", ["gzip", "unpack"]),
    "a.parquet": (b"PAR1\x15\x04", ["Parquet", "JSON lines"]),
    "a.pdf": (b"%PDF-1.7\n1 0 obj", ["a PDF"]),
}


@pytest.mark.parametrize("name", NO_TEXT)
def test_what_is_no_text_is_refused_by_its_name(here, capsys, name):
    content, words = NO_TEXT[name]
    write(content, name)
    if name == "train.bin":
        write(b"\x80\x04", "meta.pkl")
    for line in (f"train --data {name} --out r", f"prepare {name} --out r --tokenizer bytes"):
        code, out, err = command(capsys, *line.split())
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert all(word in err for word in [name, *words]), err
        assert not Path("r").exists()


def test_a_text_with_some_control_characters_is_read(here):
    text = "\x1b[1mcolours\x1b[0m\x0c\x08 and \x01\x02\x7f in a longer text: " + SIMPLIFIED + "\x1a"
    assert read(text) == text
    assert read("\x01\x02") == "\x01\x02"


def test_a_folder_and_a_glob_are_their_files_sorted(here):
    for name in ("d/b.txt", "d/a.txt", "d/sub/c.txt", "d/note.md", "d/.hidden.txt", "d/empty.txt"):
        write("" if "empty" in name else name, name)
    texts = open_texts(["d"])
    assert [str(file) for file in texts.files] == [
        os.path.join("d", *n.split("/")) for n in ("a.txt", "b.txt", "sub/c.txt")
    ]
    assert texts.found == ["d: 3 files *.txt, 1 empty one left out"]
    assert [str(file) for file in open_texts(["d/*.md", "d/a.txt"]).files] == ["d/note.md", "d/a.txt"]
    with contextlib.suppress(OSError, NotImplementedError):  # Windows lets few users make links
        Path("d/sub/again").symlink_to(Path("d").absolute(), target_is_directory=True)
    assert len(open_texts(["d"]).files) == 3
    write("named like a glob", "[a].txt")
    assert [str(file) for file in open_texts(["[a].txt"]).files] == ["[a].txt"]
    write("x", "e/note.md")
    for name in ("e", "d/*.rst", "nosuch.txt"):
        with pytest.raises(FileNotFoundError, match=name.replace("*", r"\*")):
            open_texts([name])
    for name in ("d/empty.txt", os.devnull, ""):
        with pytest.raises(ValueError, match=r"empty|a device"):
            open_texts([name])


class Stdin:
    """Standard input as a pipe is: it can be read once."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("tokenizer", ["chars", "bpe:270"])
def test_standard_input_trains_as_the_file_does(here, capsys, caplog, monkeypatch, tokenizer):
    """A vocabulary was learned from it, and nothing was left for the training, or the other way round."""
    write(SIMPLIFIED * 40)
    assert command(capsys, "train", "--data", "a.txt", "--out", "f", "--tokenizer", tokenizer, *TINY)[0] == 0
    monkeypatch.setattr(sys, "stdin", Stdin(SIMPLIFIED.encode() * 40))
    assert command(capsys, "train", "--data", "-", "--out", "p", "--tokenizer", tokenizer, *TINY)[0] == 0
    assert f"standard input: {len(SIMPLIFIED.encode()) * 40:,} bytes, kept in a temporary file\n" in caplog.text
    left, right = saved(here / "f"), saved(here / "p")
    assert {k: v for k, v in left.items() if k != "train.json"} == {k: v for k, v in right.items() if k != "train.json"}
    code, _, err = command(capsys, "train", "--resume", "--out", "p", "--max-steps", 7)
    assert code == 2
    assert "give the same text again with --data" in err
    assert command(capsys, "train", "--resume", "--out", "p", "--max-steps", 7, "--data", "a.txt")[0] == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a named pipe is needed")
def test_a_pipe_is_read_once(here):
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_bytes(CHINESE.encode() * 3))
    writer.start()
    texts = open_texts(["pipe"])
    writer.join()
    assert texts.found == [f"pipe: {len(CHINESE.encode()) * 3} bytes, kept in a temporary file"]
    assert [read_text(file) for file in texts.files * 2] == [CHINESE * 3] * 2
    assert make_tokenizer("bpe:270", texts.files).vocab_size == 270


def test_an_empty_pipe_and_a_terminal_are_refused(here, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stdin(b""))
    assert "standard input: the file is empty" in command(capsys, "train", "--data", "-", "--out", "r")[2]
    monkeypatch.setattr(Stdin, "isatty", lambda self: True)
    assert "a terminal" in command(capsys, "train", "--data", "-", "--out", "r")[2]
    monkeypatch.setattr(sys, "stdin", None)
    assert "pipe a text in" in command(capsys, "prepare", "-", "--out", "r")[2]
    assert not Path("r").exists()


def test_crlf_trains_as_lf_and_says_so(here, capsys, caplog):
    write(CHINESE * 30, "lf.txt")
    write(CHINESE.replace("\n", "\r\n") * 30, "crlf.txt")
    runs = {}
    for name, flags in {"lf": (), "crlf": (), "keep": ("--newline", "keep")}.items():
        file = "lf.txt" if name == "lf" else "crlf.txt"
        caplog.clear()
        assert command(capsys, "train", "--data", file, "--out", name, *TINY, *flags)[0] == 0
        said = "crlf.txt: 60 line ends (CRLF or CR) read as LF; newline=keep keeps them\n"
        assert (said in caplog.text) == (name == "crlf")
        runs[name] = saved(here / name)
    assert all(runs["lf"][key] == runs["crlf"][key] for key in runs["lf"] if key != "train.json")
    assert len(json.loads(runs["keep"]["tokenizer.json"])["model"]["vocab"]) == 1 + len(set(CHINESE))


def test_resume_reads_the_text_as_the_run_did(here, capsys):
    write((SIMPLIFIED.replace("\n", "\r\n") * 30).encode("gbk"))
    flags = ("--encoding", "gbk", "--newline", "keep", "--document-separator", "none")
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY, *flags)[0] == 0
    reading = json.loads(Path("r/train.json").read_text())["data"]["reading"]
    assert reading == {"encoding": "gbk", "newline": "keep", "document_separator": "none", "text_field": None}
    code, _, err = command(capsys, "train", "--resume", "--out", "r", "--max-steps", 7, "--newline", "lf")
    assert code == 2
    assert "newline is 'keep' in r and cannot become 'lf' with --resume" in err
    assert command(capsys, "train", "--resume", "--out", "r", "--max-steps", 7)[0] == 0


def test_a_run_from_before_the_settings_resumes_with_its_text_as_it_was(here, capsys):
    """Its train.json says nothing of line ends, of documents or of JSON lines, which were all plain text."""
    write("\ufeff" + '{"text": "a\ufeffb<|endoftext|>"}\r\n' * 40, "a.jsonl")
    flags = ("--newline", "keep", "--document-separator", "none", "--text-field", "none", "--tokenizer", "bpe:300")
    for out in ("r", "whole"):
        assert command(capsys, "train", "--data", "a.jsonl", "--out", out, *TINY, *flags)[0] == 0
    content = read_sealed_json(Path("r/train.json"))
    del content["data"]["reading"]
    write_sealed_json(Path("r/train.json"), content)
    for out in ("r", "whole"):
        assert command(capsys, "train", "--resume", "--out", out, "--max-steps", 9)[0] == 0
    assert saved(here / "r") == saved(here / "whole")


def test_settings_of_texts_are_refused_where_there_is_no_text(here, capsys):
    write(SIMPLIFIED * 30)
    assert command(capsys, "prepare", "a.txt", "--out", "p", "--tokenizer", "bytes")[0] == 0
    for data, flag in itertools.product(("tales:en", "p"), (("--encoding", "big5"), ("--newline", "lf"))):
        code, _, err = command(capsys, "train", "--data", data, "--out", "r", *flag)
        assert code == 2
        assert f"{flag[0]} is about text files, and {data} is none" in err
    for flags, says in {
        ("--encoding", "gb2313"): "encoding='gb2313' is unknown; did you mean 'gb18030'?",
        ("--encoding", "rot13"): "encoding='rot13' is unknown",
        ("--document-separator", ""): "--document-separator: it is empty",
    }.items():
        for line in (("train", "--data", "a.txt"), ("prepare", "a.txt")):
            code, _, err = command(capsys, *line, "--out", "r", *flags)
            assert (code, err.count("\n")) == (2, 1)
            assert says in err
    assert not Path("r").exists()


def test_examples_are_read_in_other_encodings_and_their_strings_stay(here):
    line = '{"prompt": "a\\r\\n\ufeff中", "completion": "b\\r"}'
    for text, encoding in ((line + "\r\n" + line, "gb18030"), ("\ufeff" + line + "\r", "utf-8"), (line, "utf-16")):
        path = write(text.encode(encoding), "a.jsonl")
        examples = read_examples(open_texts([path], TextConfig(encoding=encoding)).files)
        assert {(example.prompt, example.completion) for example in examples} == {("a\r\n\ufeff中", "b\r")}


def test_parts_are_of_the_size_that_is_asked_for(here):
    write("a" * 100)
    assert [len(part) for part in read_parts("a.txt", 30)] == [30, 30, 30, 10]
    assert stream.PART == 1 << 22


def test_a_vocabulary_is_learned_from_any_source(here, capsys, monkeypatch):
    write((SIMPLIFIED * 20).encode("gbk"), "d/a.txt")
    write(SIMPLIFIED.replace("\n", "\r\n") * 20, "crlf.txt")
    write("\n".join([json.dumps({"text": SIMPLIFIED.strip()})] * 20), "a.jsonl")
    monkeypatch.setattr(sys, "stdin", Stdin(SIMPLIFIED.encode() * 20))
    learned = {}
    for out, words in {
        "folder": ("d", "--encoding", "gbk"),
        "line ends": ("crlf.txt",),
        "lines": ("a.jsonl",),
        "pipe": ("-",),
    }.items():
        assert command(capsys, "tokenizer", "train", *words, "--vocab-size", "290", "--out", out)[0] == 0
        learned[out] = Tokenizer.from_pretrained(out).tokens
    assert learned["folder"] == learned["line ends"] == learned["pipe"]
    assert not any(b"\r" in token for token in learned["pipe"][256:])
    assert not any(b'"' in token for token in learned["lines"][256:])
    printed = {
        command(capsys, "tokenizer", "stats", "pipe", *words)[1]
        for words in (("crlf.txt",), ("d/*", "--encoding", "gbk"))
    }
    assert len(printed) == 1
    assert f" for {len(SIMPLIFIED.encode()) * 20:,} bytes" in printed.pop()


def test_a_file_of_another_encoding_is_named_wherever_text_is_read(here, capsys):
    write((SIMPLIFIED * 20).encode("gbk"))
    write((SIMPLIFIED * 20).encode(), "b.txt")
    assert command(capsys, "tokenizer", "train", "b.txt", "--vocab-size", "270", "--out", "t")[0] == 0
    for line in (
        "train --data a.txt --out r",
        "prepare a.txt --out r",
        "tokenizer train a.txt --out r",
        "tokenizer stats t a.txt",
        "tokenizer encode t --file a.txt",
    ):
        code, out, err = command(capsys, *line.split())
        assert (code, out, err.count("\n")) == (2, "", 1), line
        assert "it looks like GBK: give --encoding gb18030" in err
        assert not Path("r").exists()
    wanted = command(capsys, "tokenizer", "encode", "t", "--file", "b.txt")[1]
    assert command(capsys, "tokenizer", "encode", "t", "--file", "a.txt", "--encoding", "gbk") == (0, wanted, "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a named pipe is needed")
def test_what_is_read_only_once_loses_no_byte(here):
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_bytes(CHINESE.encode() * 3))
    writer.start()
    assert b"".join(read_parts("pipe")).decode() == CHINESE * 3
    writer.join()


@pytest.mark.parametrize("encoding", ["utf-16", "big5", "gbk", "cp932"])
def test_utf8_that_is_called_something_else_is_recognised(here, encoding):
    write("这些主题 the theme of these 👍🏽 e\u0301\r\n" * 60)
    with pytest.raises(ValueError, match=r"it looks like UTF-8: leave --encoding out$"):
        read_text(open_texts(["a.txt"], TextConfig(encoding=encoding)).files[0])
