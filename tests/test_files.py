"""A file is written whole or not at all, and JSON that is broken is an error that names the file."""

import errno
import json
import os
from pathlib import Path

import pytest

from npgpt.support import files
from npgpt.support.files import read_json, write_atomically, write_json, write_text

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raising(error):
    def function(*args):
        raise error

    return function


def half_then(error):
    """Return a writer that fails when half of the file is written."""

    def write(part: Path) -> None:
        part.write_bytes(b"half of the ne")
        raise error

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_content_stands_in_place_of_the_old(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old, and longer than the new")
    write_atomically(path, lambda part: part.write_bytes(b"new\x00\r\n"))
    assert path.read_bytes() == b"new\x00\r\n"
    assert names(tmp_path) == ["a.bin"]


def test_until_it_is_whole_readers_see_the_old_content(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    seen = []

    def write(part: Path) -> None:
        assert part.parent == path.parent, "a rename is atomic within one file system alone"
        part.write_bytes(b"new")
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [FULL, ValueError("no"), KeyboardInterrupt()], ids=["full", "error", "ctrl-c"])
@pytest.mark.parametrize("before", [b"old", None], ids=["over a file", "new file"])
def test_a_writer_that_fails_changes_nothing(tmp_path, error, before):
    path = tmp_path / "a.bin"
    if before:
        path.write_bytes(before)
    with pytest.raises(type(error)):
        write_atomically(path, half_then(error))
    assert names(tmp_path) == (["a.bin"] if before else [])
    assert not before or path.read_bytes() == before


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("before", [b"old", None], ids=["over a file", "new file"])
def test_a_disk_that_fills_at_the_end_changes_nothing(tmp_path, monkeypatch, function, before):
    path = tmp_path / "a.bin"
    if before:
        path.write_bytes(before)
    monkeypatch.setattr(files.os, function, raising(FULL))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, lambda part: part.write_bytes(b"new"))
    assert names(tmp_path) == (["a.bin"] if before else [])
    assert not before or path.read_bytes() == before


def test_content_reaches_the_disk_before_the_name_does(tmp_path, monkeypatch):
    """A rename that a power cut keeps, over data that it loses, would leave an empty file."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        calls.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def spy_replace(source, target):
        calls.append(("replace", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", spy_fsync)
    monkeypatch.setattr(files.os, "replace", spy_replace)
    path = tmp_path / "a.bin"
    write_atomically(path, lambda part: part.write_bytes(b"new"))
    content, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert calls == [("fsync", content), ("replace", content), ("fsync", folder)]


def owners_alone(part: Path) -> None:
    """Write as a library does that replaces the file by one of mode 0600."""
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("write", [owners_alone, lambda part: part.write_bytes(b"x")], ids=["0600", "plain"])
def test_the_mode_is_as_the_umask_has_it(tmp_path, umask, write):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a.bin", write)
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o666 & ~umask


def test_folders_on_the_way_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_text_is_utf8_with_its_line_ends_as_they_are(tmp_path):
    text = "中 e\u0301 🙂\r\nnext\rlast\n"
    write_text(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_bytes() == text.encode("utf-8")


def test_text_that_is_not_unicode_changes_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ValueError, match="surrogates not allowed"):
        write_text(tmp_path / "a.txt", "\ud800")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_json_is_readable_and_comes_back(tmp_path):
    value = {"a": [1, 2.5, None, True], "字": "é\u2028"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert '\n  "字": "é' in text, "a line a key, and text as it is"
    assert text.endswith("}\n")


BROKEN = {
    "empty": b"",
    "half": b'{"a": ',
    "two": b"{} {}",
    "binary": bytes(range(256)),
    "not UTF-8": b'{"a": "\xff"}',
    "too deep": b"[" * 200_000,
    "a number of 5000 digits": b'{"a": ' + b"1" * 5000 + b"}",
}
OTHER = {"a list": b"[1]", "a number": b"3", "null": b"null", "a string": b'"{}"'}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_is_not_json_is_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON"):
        read_json(path)


@pytest.mark.parametrize("content", OTHER.values(), ids=OTHER)
def test_json_that_is_not_an_object_is_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON object, got " + type_name(content)):
        read_json(path)


def type_name(content: bytes) -> str:
    return type(json.loads(content)).__name__
