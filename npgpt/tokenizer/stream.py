"""Text files, read in parts: decoded, with one kind of line end, and with an end token's text after each document."""

import codecs
import dataclasses
import io
import itertools
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from npgpt.config import TextConfig
from npgpt.tokenizer.seeming import (
    SAMPLE,
    looks_like_utf8,
    refuse_controls,
    refuse_encoding,
    refuse_nul,
    refuse_start,
)

PART = 1 << 22  # bytes
FIRST = 1 << 16  # bytes that are read to look at the first line
UTF8 = TextConfig()
AS_IT_IS = TextConfig(newline="keep", document_separator="none", text_field="none")
NO_TEXT = ("auto", "file", "none")  # the names among what separates documents
END = "<|endoftext|>"  # the name of the token that ends a text, as in GPT-2's vocabulary
JSON_LINES = (".jsonl", ".ndjson")


class Spool:
    """A copy of what can be read only once, in a temporary file without a name. It goes when nobody needs it."""

    def __init__(self, source: BinaryIO) -> None:
        with tempfile.TemporaryFile() as file:
            shutil.copyfileobj(source, file, PART)
            file.flush()
            self.descriptor = os.dup(file.fileno())

    def open(self) -> BinaryIO:
        """Open the copy at its beginning."""
        file = os.fdopen(os.dup(self.descriptor), "rb")
        file.seek(0)
        return file

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclasses.dataclass(frozen=True, eq=False)
class TextFile:
    """A text file and how it is read.

    name    what messages call it
    path    where it is
    spool   a copy of what can be read only once, which is then read instead of path
    end     the text of the token that is to end each document; None if the tokenizer has none
    seen    what the last pass over the file has met and changed; see `Texts.report`
    """

    name: str
    path: Path
    config: TextConfig = UTF8
    spool: Spool | None = None
    end: str | None = None
    seen: Counter[str] = dataclasses.field(default_factory=Counter)

    def __str__(self) -> str:
        return self.name

    def ending(self, end: str | None) -> "TextFile":
        """Return the same file, its documents ended by another text. Both count into the same `seen`."""
        return dataclasses.replace(self, end=end)

    def open(self) -> BinaryIO:
        """Open the file at its beginning."""
        return self.path.open("rb") if self.spool is None else self.spool.open()

    @property
    def size(self) -> int:
        """The number of bytes."""
        with self.open() as file:
            return file.seek(0, io.SEEK_END)

    @property
    def is_json_lines(self) -> bool:
        """Whether each line is a JSON object with one document."""
        if self.config.text_field is None:
            return self.path.suffix in JSON_LINES
        # beside JSON lines, a .txt may be plain text
        return self.config.text_field != "none" and (self.path.suffix != ".txt" or first_object(self) is not None)


def text_file(file: str | Path | TextFile) -> TextFile:
    """Return a file with how it is read: a path is read as UTF-8, with LF line ends."""
    return file if isinstance(file, TextFile) else TextFile(str(file), Path(file))


def require_file(path: str | Path) -> None:
    """Raise ValueError if path is a folder, and FileNotFoundError if it does not exist."""
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; give the text files in it")
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")


def read_parts(file: str | Path | TextFile, part: int = PART) -> Iterator[bytes]:
    r"""Yield a text file as UTF-8, in parts of whole characters, without its byte-order mark.

    Example: a file b"a\xe4\xb8\xad" (a中) read two bytes at a time gives b"a", then b"\xe4\xb8\xad".

    A path is read with the defaults of TextConfig, so its line ends become LF. Raises FileNotFoundError, or ValueError
    for a file that is not in its encoding, with the offset of the first wrong byte, or that is no text. The message
    says what it looks like.
    """
    file = text_file(file)
    if file.spool is None:
        require_file(file.path)
    file.seen.clear()
    name = codecs.lookup(file.config.encoding).name
    parts = utf8_parts(file, part) if name in ("utf-8", "utf-8-sig") else decoded_parts(file, name, part)
    parts = one_text(parts, file)
    if file.is_json_lines:
        return json_texts(parts, file, part)
    separator = separator_text(file.config)
    if END not in (file.end, separator):
        parts = counting(parts, END.encode(), file.seen)
    if file.end is not None and separator not in NO_TEXT:
        return replacing(parts, separator.encode(), file.end.encode(), file.seen)
    return parts


def separator_text(config: TextConfig) -> str:
    r"""Return the text that separates documents, with \n and \t as a line end and a tab."""
    return config.document_separator.replace(r"\n", "\n").replace(r"\t", "\t")


def raw_parts(file: TextFile, part: int) -> Iterator[bytes]:
    """Yield the bytes of a file, and nothing at its end. It is opened once, because it may be a pipe."""
    with file.open() as source:
        more = source.read(part)
        refuse_start(file.name, file.path, more)
        while more:
            yield more
            more = source.read(part)
    yield b""


def utf8_parts(file: TextFile, part: int) -> Iterator[bytes]:
    """Yield the bytes of a UTF-8 file in parts of whole characters. They are checked, and not made again."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    held = b""  # the bytes of an incomplete character at the end of the last part
    offset = 0  # where they are in the file
    for more in raw_parts(file, part):
        data = held + more
        try:
            decoder.reset()
            decoder.decode(data, final=not more)
        except UnicodeDecodeError as error:
            refuse_encoding(file.name, file.path, error, offset)
        held = decoder.getstate()[0]
        yield data[: len(data) - len(held)]
        offset += len(data) - len(held)


def decoded_parts(file: TextFile, encoding: str, part: int) -> Iterator[bytes]:
    """Yield a file of another encoding as UTF-8."""
    decoder = codecs.getincrementaldecoder(encoding)()
    n_read = 0
    for more in raw_parts(file, part):
        n_read += len(more)
        try:
            yield decoder.decode(more, final=not more).encode("utf-8")
        except UnicodeDecodeError as error:
            refuse_encoding(file.name, file.path, error, n_read - len(error.object))
        except UnicodeError as error:  # a lone surrogate
            hint = "; it looks like UTF-8: leave --encoding out" if more and looks_like_utf8(more[:SAMPLE]) else ""
            raise ValueError(f"{file}: not {encoding}: {error}{hint}") from None


def one_text(parts: Iterable[bytes], file: TextFile) -> Iterator[bytes]:
    """Take out byte-order marks and, where line ends are to be LF, the CR of CRLF and marks of files joined to one."""
    held = b""  # a CR at the end of the last part, which may belong to a LF
    offset = 0
    for data in parts:
        refuse_controls(file.name, file.path, data, offset)
        if b"\0" in data:
            refuse_nul(file.name, file.path, data, offset)
        text = data if offset else data.removeprefix(codecs.BOM_UTF8)
        offset += len(data)
        if file.config.newline == "lf":
            if codecs.BOM_UTF8 in text:
                file.seen["marks"] += text.count(codecs.BOM_UTF8)
                text = text.replace(codecs.BOM_UTF8, b"")
            text = held + text
            held = b"\r" if text.endswith(b"\r") else b""
            text = text.removesuffix(held)
            if b"\r" in text:
                file.seen["line ends"] += text.count(b"\r")
                text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if text:
            yield text
    if held:
        file.seen["line ends"] += 1
        yield b"\n"


def counting(parts: Iterable[bytes], text: bytes, seen: Counter[str]) -> Iterator[bytes]:
    """Yield the parts, and count how often they hold a text that is to stay plain text."""
    held = b""
    for data in parts:
        seen["plain ends"] += (held + data).count(text)
        held = (held + data)[-len(text) + 1 :]
        yield data


def replacing(parts: Iterable[bytes], old: bytes, new: bytes, seen: Counter[str]) -> Iterator[bytes]:
    """Yield the parts with one text in place of another, also where it lies across two parts, and count them."""
    held = b""
    for data in parts:
        *whole, rest = (held + data).split(old)
        seen["separators"] += len(whole)
        n_held = next((n for n in range(min(len(old) - 1, len(rest)), 0, -1) if old.startswith(rest[-n:])), 0)
        held = rest[len(rest) - n_held :]
        yield b"".join([*(text + new for text in whole), rest[: len(rest) - n_held]])
    if held:
        yield held


def lines_of(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without their line ends."""
    held: list[bytes] = []
    for data in parts:
        first, *others = data.split(b"\n")
        held.append(first)
        for line in others:
            yield b"".join(held)
            held = [line]
    if any(held):
        yield b"".join(held)


def first_object(file: TextFile) -> dict[str, Any] | None:
    """Return the JSON object that a file's first line is, whatever the file is called; None if it is none."""
    config = dataclasses.replace(AS_IT_IS, encoding=file.config.encoding)
    parts = read_parts(dataclasses.replace(file, config=config, end=None, seen=Counter()), FIRST)
    try:
        first = next(parts, b"")
        if not first.lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"{"):
            return None  # without looking for the end of the line, which may be that of a large file
        lines = (line.removeprefix(codecs.BOM_UTF8) for line in lines_of(itertools.chain((first,), parts)))
        value = json.loads(next(filter(bytes.strip, lines), b""))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_texts(parts: Iterable[bytes], file: TextFile, part: int) -> Iterator[bytes]:
    """Yield the texts of JSON lines, one document after another. Raises ValueError that names a wrong line."""
    texts: list[bytes] = []
    size = 0  # of them together
    field = file.config.text_field or "text"
    for number, line in enumerate(lines_of(parts), 1):
        if not line.strip():
            continue
        text = json_text(line, field, f"{file}:{number}")
        if file.config.newline == "lf":
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        file.seen["documents" if text else "empty"] += 1
        if text:
            end = "" if file.end is None and text.endswith("\n") else file.end or "\n"
            texts.append((text + end).encode("utf-8"))
            size += len(texts[-1])
        if size >= part:
            yield b"".join(texts)
            texts, size = [], 0
    if texts:
        yield b"".join(texts)


def json_text(line: bytes, field: str, where: str) -> str:
    """Return a field of a line. Raises ValueError, beginning with `where`, if it is no object with such a string."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object with {field!r}, got {type(value).__name__}")
    text = value.get(field)
    if isinstance(text, str):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{where}: {field!r} has a lone surrogate, half a character")
        return text
    if field in value:
        raise ValueError(f"{where}: {field!r} is {text!r:.50}, not a string")
    names = ", ".join(map(repr, value)) or "nothing"
    hint = "npgpt finetune learns such lines" if {"prompt", "completion"} <= value.keys() else "give --text-field NAME"
    raise ValueError(f"{where}: {field!r} is missing, and there is {names}: {hint}")
