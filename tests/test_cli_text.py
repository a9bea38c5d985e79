"""Text that commands read: arguments, files and standard input, and special tokens in it."""

import io
import json
from types import SimpleNamespace

import pytest

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.generation import engine
from npgpt.tokenizer import ByteTokenizer
from tests.test_cli import command

TEXT = "the theme of these themes, 人工智能，人工。\n" * 3
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder with an untrained model with byte pairs, one with bytes, and a text."""
    folder = tmp_path_factory.mktemp("text")
    bpe = Tokenizer.train([TEXT], 270, special_tokens=[END, "<中>"])
    for name, tokenizer in ("bpe", bpe), ("bytes", ByteTokenizer()):
        size, end = tokenizer.vocab_size, tokenizer.end_id
        GPT(GPTConfig(size, 40, 8, 1, 2, eos_token_id=end)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "静夜思.txt").write_text(TEXT, encoding="utf-8")
    (folder / "empty.txt").touch()
    (folder / "broken.txt").write_bytes(b"ab\xff")
    return folder


@pytest.fixture
def here(pristine, monkeypatch):
    monkeypatch.chdir(pristine)
    return pristine


@pytest.fixture
def read(monkeypatch):
    """The ids that the model has read before it wrote anything."""
    found = []
    real = engine.Request
    monkeypatch.setattr(engine, "Request", lambda ids, *rest: found.append([*ids]) or real(ids, *rest))
    return found


def pipe(monkeypatch, data):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(data)))


@pytest.mark.parametrize("action", ["encode", "show"])
def test_a_file_is_encoded_when_it_is_named_as_one(capsys, here, action):
    code, out, err = command(capsys, "tokenizer", action, "bpe", "静夜思.txt")
    assert (code, out) == (2, "")
    assert "静夜思.txt is a file" in err
    assert "--file 静夜思.txt" in err
    assert len(err.splitlines()) == 1
    code, out, err = command(capsys, "tokenizer", action, "bpe", "--file", "静夜思.txt")
    assert (code, err) == (0, "")
    assert out == command(capsys, "tokenizer", action, "bpe", TEXT)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--file", "静夜思.txt"], "TEXT 'a' and --file 静夜思.txt cannot be combined"),
        (["--file", "none.txt"], "none.txt: no such file"),
        (["--file", "."], ". is a folder"),
        (["--file", "broken.txt"], "broken.txt: not UTF-8: byte 0xff at offset 2"),
        (["--file", ""], "--file: it is empty"),
    ],
)
def test_what_cannot_be_read_is_named(capsys, here, words, message):
    code, out, err = command(capsys, "tokenizer", "encode", "bpe", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("text", ["a" * 5000, "a\0b", "bpe", "人/工"])
def test_text_that_is_no_file_is_text(capsys, here, text):
    ids = command(capsys, "tokenizer", "encode", "bpe", text)[1]
    assert ids.split() == [str(i) for i in Tokenizer.from_pretrained("bpe").encode(text)]


def test_no_text_has_no_ids_and_a_line_says_so(capsys, here, monkeypatch):
    pipe(monkeypatch, b"")
    for words in ([], [""], ["--file", "empty.txt"]):
        assert command(capsys, "tokenizer", "encode", "bpe", *words) == (0, "\n", "the text is empty: it has no ids\n")


def test_ask_without_any_prompt_is_a_mistake_and_with_an_empty_one_is_not(capsys, here, monkeypatch, read):
    for closed in (False, True):
        monkeypatch.setattr("sys.stdin", None) if closed else pipe(monkeypatch, b"")
        code, out, err = command(capsys, "ask", "bpe", "--max-new-tokens", 2)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "--prompt TEXT" in err
    assert not read
    assert command(capsys, "ask", "bpe", "--prompt", "", "--max-new-tokens", 2)[0] == 0
    pipe(monkeypatch, b"\n")
    assert command(capsys, "ask", "bpe", "--max-new-tokens", 2)[0] == 0
    end = Tokenizer.from_pretrained("bpe").end_id
    assert read == [[end], [end]]


def test_ask_reads_utf8_and_line_ends_of_windows(capsys, here, monkeypatch, read):
    pipe(monkeypatch, "学\r\n人\r\n".encode())
    assert command(capsys, "ask", "bpe", "--max-new-tokens", 1)[0] == 0
    tokenizer = Tokenizer.from_pretrained("bpe")
    assert read == [[tokenizer.end_id, *tokenizer.encode("学\n人")]]
    pipe(monkeypatch, b"a\xff")
    code, out, err = command(capsys, "ask", "bpe")
    assert (code, out) == (2, "")
    assert "standard input: not UTF-8: byte 0xff at offset 1" in err
    pipe(monkeypatch, "学\n人".encode("gb18030"))
    assert command(capsys, "ask", "bpe", "--max-new-tokens", 1, "--encoding", "gb18030")[0] == 0
    assert read[1] == read[0]


def test_special_tokens_in_prompts_are_text_unless_asked(capsys, here, read):
    tokenizer = Tokenizer.from_pretrained("bpe")
    prompt = "the <中>人👍🏽"
    with_special = tokenizer.encode(prompt, "all").tolist()
    plain = tokenizer.encode(prompt).tolist()
    assert with_special != plain
    (here / "prompts.jsonl").write_text(json.dumps({"prompt": [prompt, prompt]}) + "\n")
    for command_line, begin in (
        (["sample", "bpe", "--prompt", prompt, "--max-new-tokens", 1], []),
        (["ask", "bpe", "--prompt", prompt, "--max-new-tokens", 1], [tokenizer.end_id]),
    ):
        assert command(capsys, *command_line)[0] == 0
        assert command(capsys, *command_line, "--special")[0] == 0
        assert read[-2:] == [[*begin, *plain], [*begin, *with_special]]


def test_special_tokens_in_a_file_of_prompts(capsys, here, read):
    end, other = (Tokenizer.from_pretrained("bpe").special_tokens[name] for name in (END, "<中>"))
    (here / "prompts.jsonl").write_text(json.dumps({"prompt": ["<中>a", "<中>"]}) + "\n")
    assert command(capsys, "ask", "bpe", "--data", "prompts.jsonl", "--special", "--max-new-tokens", 1)[0] == 0
    assert read[0] == [end, other, 97]
    assert read[1][:3] == read[0]
    assert read[1][-2:] == [end, other]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample bytes --prompt a --special", "this bytes tokenizer has no special tokens"),
        ("sample bpe --special", "--special has no effect without --prompt"),
        ("ask bpe --task answer --special", "--special has no effect with --task"),
        ("tokenizer encode bytes a --special", "this bytes tokenizer has no special tokens"),
    ],
)
def test_special_without_effect_is_refused(capsys, here, words, message):
    code, out, err = command(capsys, *words.split())
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err
