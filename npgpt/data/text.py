"""Text files: which ones a name stands for, and what is said about them."""

import dataclasses
import fnmatch
import glob
import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

from npgpt.config import TextConfig
from npgpt.support.files import naming
from npgpt.support.notices import notice
from npgpt.tokenizer.stream import END, NO_TEXT, Spool, TextFile, first_object, read_parts, require_file

BLOCK = 1 << 22  # bytes read at once
# names of what this process was given, which is something else in another process
DESCRIPTORS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
ONCE = "read once: "  # begins the names in train.json of what a later run cannot read again

Named = str | Path | TextFile


class Texts(NamedTuple):
    """The text files that some names stand for, and lines that say what was found under a name."""

    files: list[TextFile]
    found: list[str]

    def report(self, end: str | None) -> None:
        """Give notice of what was found, and of what the last reading has changed or left out.

        end  the text of the tokenizer's end token; None if it has none
        """
        seen: Counter[str] = sum((file.seen for file in self.files), Counter())
        where = self.files[0].name if len(self.files) == 1 else f"{len(self.files):,} files"
        lines = list(self.found)
        if n := seen["line ends"]:
            lines.append(f"{where}: {amount(n, 'line end')} (CRLF or CR) read as LF; newline=keep keeps them")
        if n := seen["marks"]:
            lines.append(f"{where}: {amount(n, 'byte-order mark')} inside the text left out; newline=keep keeps them")
        if n := seen["empty"]:
            lines.append(f"{where}: {amount(n, 'empty document')} left out")
        if n := seen["documents"]:
            how = f"each ended by {end}" if end else "one after another, because the tokenizer has no end token"
            lines.append(f"{where}: {amount(n, 'document')}, {how}")
        if n := seen["cut"]:
            text, each = (where, "") if len(self.files) == 1 else (amount(n, "text"), " of each" if n > 1 else "")
            cut = f"one document{each} is cut between training and validation"
            lines.append(f"no document ends near 90% of {text}, so {cut}")
        if end and (separator := self.missing_separator()):
            lines.append(f"{where}: document_separator='{separator}' is nowhere in the text")
        if n := seen["plain ends"]:
            lines.append(f"{where}: {END}, found {amount(n, 'time')}, read as plain text{self.why_plain(end)}")
        for line in lines + about_json_lines(self.files, where):
            notice(line)

    def why_plain(self, end: str | None) -> str:
        """Return why the usual end token was read as text, or what to do about it, as the end of a line."""
        if end is None:
            return ", because the tokenizer has no end token"
        if self.files[0].config.document_separator == "none":
            return ", because document_separator is none"
        return f", because the end token is {end}; document_separator='{END}' ends documents there"

    def missing_separator(self) -> str | None:
        """Return the text that is to separate documents, if the last reading for an end token has not met it."""
        separator = self.files[0].config.document_separator
        met = any(file.seen["separators"] or file.is_json_lines for file in self.files)
        return None if separator in NO_TEXT or met else separator


def about_json_lines(files: Sequence[TextFile], where: str) -> list[str]:
    """Return what is to be said about JSON lines in files that are read as plain text, and about a field of none."""
    field = files[0].config.text_field
    if field is not None:
        found = field == "none" or any(file.is_json_lines for file in files)
        return [] if found else [f"{where}: text_field={field} has no effect, because there are no JSON lines"]
    objects = [file for file in files if not file.is_json_lines and first_object(file)]
    if not objects:
        return []
    others = f" and {amount(len(objects) - 1, 'other file')} look" if objects[1:] else " looks"
    return [f"{objects[0]}{others} like JSON lines, read as plain text; text_field=NAME reads one field"]


def amount(n: int, what: str) -> str:
    """Return a number of things in words: amount(1, "file") is "1 file", amount(2000, "file") "2,000 files"."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def open_texts(names: Sequence[str | Path], config: TextConfig | None = None, kind: str = "*.txt") -> Texts:
    """Return the text files that names stand for: a file, - or a pipe, a folder (its files of a kind), or a glob.

    What can be read only once is copied to a temporary file. Raises FileNotFoundError for a name without any file, and
    ValueError for an empty file or a device.
    """
    config = config or TextConfig()
    texts = Texts([], [])
    for name in map(str, names):
        path = Path(name)
        if not name:
            raise ValueError("a name is empty: give a text file, a folder of them, or - for standard input")
        if is_read_once(name):
            texts.files.append(spooled(name, config))
            texts.found.append(f"{texts.files[-1]}: {texts.files[-1].size:,} bytes, kept in a temporary file")
        elif path.is_dir() or (not path.exists() and any(sign in name for sign in "*?[")):
            files = [TextFile(file, Path(file), config) for file in matching(name, kind)]
            full = [file for file in files if file.path.stat().st_size]
            texts.files.extend(full)
            empty = f", {amount(len(files) - len(full), 'empty one')} left out" if len(full) < len(files) else ""
            which = f" {kind}" if path.is_dir() else ""
            texts.found.append(f"{name}: {amount(len(full), 'file')}{which}{empty}")
        else:
            require_file(path)
            texts.files.append(TextFile(name, path, config))
        if not texts.files or not texts.files[-1].size:
            raise ValueError(f"{texts.files[-1] if texts.files else name}: the file is empty")
    return texts


def require_text(given: Container[str], name: str, what: str = "is none", *, but: str = "") -> None:
    """Raise ValueError if a setting about text files is given, and what `name` stands for is read otherwise.

    what  why it has no effect there
    but   a setting that has an effect all the same
    """
    for field in dataclasses.fields(TextConfig):
        if field.name in given and field.name != but:
            flag = f"--{field.name.replace('_', '-')}"
            raise ValueError(f"{flag} is about text files, and {name} {what}: leave {flag} out")


def full_names(names: Sequence[str | Path]) -> list[str]:
    """Return names that mean the same in every folder, so that --resume can read them; - and pipes are marked."""
    return [ONCE * (name != "-") + name if is_gone(name) else str(Path(name).resolve()) for name in map(str, names)]


def is_gone(name: str) -> bool:
    """Say whether what a name gives, or has given a run that recorded it, cannot be read a second time."""
    if name == "-" or name.startswith((ONCE, *DESCRIPTORS)):
        return True
    return os.path.exists(name) and not os.path.isdir(name) and not os.path.isfile(name)


def matching(name: str, kind: str) -> list[str]:
    """Return the files of a kind in a folder and the folders in it, or those that a glob names, sorted.

    Hidden files are left out, as a shell does, and links to folders are not followed, because they may be circles.
    """
    if not os.path.isdir(name):
        files = sorted(file for file in glob.glob(name, recursive=True) if os.path.isfile(file))
        if not files:
            raise FileNotFoundError(f"{name}: no file has such a name")
        return files
    files = []
    for folder, inside, names in os.walk(name):
        inside[:] = [part for part in inside if not part.startswith(".")]
        files += [os.path.join(folder, file) for file in fnmatch.filter(names, kind) if not file.startswith(".")]
    if not files:
        raise FileNotFoundError(f"{name} is a folder without any {kind}; for others give a glob, as in '{name}/*.md'")
    return sorted(files)


def is_read_once(name: str) -> bool:
    """Say whether a name is standard input or a pipe. Raises ValueError for a terminal or another device."""
    if name == "-":
        is_device = sys.stdin is None or sys.stdin.isatty()
    elif not os.path.exists(name) or os.path.isdir(name):
        return False
    else:
        mode = os.stat(name).st_mode
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    if is_device:
        raise ValueError(f"{name} is a terminal or a device: give a text file, or pipe a text in")
    return is_gone(name)


def spooled(name: str, config: TextConfig) -> TextFile:
    """Copy what can be read only once to a temporary file."""
    with naming(Path(tempfile.gettempdir())):  # it may be full
        if name == "-":
            spool = Spool(sys.stdin.buffer)
        else:
            with open(name, "rb") as source:
                spool = Spool(source)
    return TextFile("standard input" if name in ("-", "/dev/stdin") else name, Path(name), config, spool)


def read_text(file: Named) -> str:
    """Read a whole text file, without the byte-order mark that it may begin with.

    Raises FileNotFoundError, or ValueError for a file that is empty, not in its encoding (with the offset of the first
    wrong byte), or no text.
    """
    text = b"".join(read_parts(file)).decode("utf-8")
    if not text:
        raise ValueError(f"{file}: the file is empty")
    return text
