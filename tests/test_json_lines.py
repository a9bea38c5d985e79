"""JSON lines in files that are called text: what is read of them, and what is said."""

import pytest

from npgpt.config import TextConfig
from npgpt.data import open_texts, read_text

LINES = '{"prompt": "天?", "completion": "地"}\n{"prompt": "e\u0301 🙂", "completion": "b"}\n'


@pytest.mark.parametrize("content", [LINES, "\n" + LINES, '\ufeff{"text": "天"}\r\n{"text": "地"}'])
def test_json_lines_in_a_text_file_are_read_as_text_and_a_line_says_so(tmp_path, caplog, content):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(content.encode())
    texts = open_texts([tmp_path / "a.txt"])
    assert read_text(texts.files[0]).startswith(content.lstrip("\ufeff")[:3])
    texts.report(None)
    hint = f"{tmp_path / 'a.txt'} looks like JSON lines, read as plain text; text_field=NAME reads one field"
    assert hint in caplog.messages
    caplog.clear()
    open_texts([tmp_path / "a.txt"], TextConfig(text_field="none")).report(None)
    assert caplog.messages == []
    open_texts([tmp_path]).report(None)
    assert any("a.txt and 1 other file look like JSON lines" in line for line in caplog.messages)


@pytest.mark.parametrize("content", ["{", "{}\n", "[1]\n", "天 {}\n", "{天}\n" * 3, "{" * 3000])
def test_other_text_looks_like_no_json_lines(tmp_path, caplog, content):
    (tmp_path / "a.txt").write_text(content, "utf-8")
    open_texts([tmp_path / "a.txt"]).report(None)
    assert caplog.messages == []


def test_a_field_that_is_named_is_read_from_a_text_file_too(tmp_path, caplog):
    (tmp_path / "a.txt").write_text(LINES, "utf-8")
    (tmp_path / "b.txt").write_text("plain", "utf-8")
    config = TextConfig(text_field="prompt")
    found = [read_text(file) for file in open_texts([tmp_path / "a.txt", tmp_path / "b.txt"], config).files]
    assert found == ["天?\ne\u0301 🙂\n", "plain"]
    open_texts([tmp_path / "a.txt", tmp_path / "b.txt"], config).report(None)
    assert caplog.messages == []
    open_texts([tmp_path / "b.txt"], config).report(None)
    assert caplog.messages == [
        f"{tmp_path / 'b.txt'}: text_field=prompt has no effect, because there are no JSON lines"
    ]
