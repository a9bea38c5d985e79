"""Files that are written whole or not at all, and JSON that is read with errors that a user can act on."""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BEGUN = ".npgpt-begun"  # in a folder while its first files are written


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside path, fsync it, and rename it to path.

    If anything fails, such as on a full disk, path stays as it was and the temporary file is removed. An OSError names
    path. What is no regular file, such as /dev/stdout, is written to directly.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file() and not path.is_dir():
        with naming(path):
            write(path)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path, instead=part):
            part.touch()
            # as the user's umask sets it: some libraries write files that only the owner can read
            mode = part.stat().st_mode
            write(part)
            part.chmod(mode)
            _fsync(part, os.O_RDWR)  # Windows refuses to flush what is open for reading
            _replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if sys.platform != "win32":  # the folder records the rename; Windows cannot open a folder
        with naming(path):
            _fsync(path.parent, os.O_RDONLY)


@contextmanager
def naming(path: Path, instead: Path | None = None) -> Iterator[None]:
    """Name path in an OSError raised inside that names no file, such as that of a full disk, or names `instead`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, *([str(instead)] if instead else [])):
            error.filename, error.filename2 = str(path), None
        raise


def remove_parts(folder: Path, names: Iterable[str]) -> None:
    """Remove what write_atomically has left of files of these names where its process was killed.

    Only who holds the folder's lock may call it: others may be writing. The number in such a name is no help, because
    the system gives it to another process some day.
    """
    pattern = re.compile(r"\.(" + "|".join(map(re.escape, names)) + r")\.\d+\.part")
    for path in folder.glob(".*.part"):
        if pattern.fullmatch(path.name):
            path.unlink(missing_ok=True)


def begin(folder: Path) -> None:
    """Mark a folder as begun, before its first file is written. The mark goes when the last one is there: `finish`.

    A process that is killed in between leaves the mark, so that the next one knows the files as what it may remove.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEGUN).touch()


def finish(folder: Path) -> None:
    """Remove the mark of a folder that was begun."""
    (folder / BEGUN).unlink(missing_ok=True)


def is_begun(folder: Path) -> bool:
    """Say whether a folder has the mark."""
    return (folder / BEGUN).exists()


def is_cut_short(folder: Path, last: str) -> bool:
    """Say whether a folder was begun but lacks the last of its first files."""
    return is_begun(folder) and not (folder / last).exists()


@contextmanager
def begun(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Write the first files of a folder inside: marked as begun, and if it fails, without those of these names."""
    new = [name for name in names if not (folder / name).exists()]
    begin(folder)
    try:
        yield
    except BaseException:
        remove_files(folder, new)
        raise
    finish(folder)


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files of a folder that was cut short, and then the mark."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    finish(folder)


def user_cache() -> Path | None:
    """Return the folder for what can be made again; None for a user without a home."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    try:
        return Path("~/.cache").expanduser()
    except RuntimeError:
        return None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_atomically(path, lambda part: part.write_bytes(text.encode("utf-8")))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented and with unescaped text."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in text):  # from a file name that is not UTF-8
        text = json.dumps(value, indent=2)
    write_text(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError, naming the file, for anything else."""
    return parse_json(path, path.read_bytes())


def parse_json(path: Path, text: bytes, unique: bool = False) -> dict[str, Any]:
    """Return the JSON object in the text of a file, as read_json does.

    unique  raise ValueError for a key that comes twice, too: of its two values, readers would take one or the other
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"{key[:80]!r} is in it twice")
        value[key] = item
    return value


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object atomically, with a checksum of itself under the key sha256, which must not be taken."""
    write_json(path, value | {"sha256": _digest(value)})


def read_sealed_json(path: Path, sealed: bool = False) -> dict[str, Any]:
    """Read a JSON object without its checksum. A file without one, of an earlier version, is read as it is.

    sealed  whether the file must have a checksum, because the version that wrote it writes one

    Raises ValueError, naming the file, for one that was damaged or changed after it was written.
    """
    value = read_json(path)
    # by what it looks like, because its key may be what is damaged
    seals = {key: value.pop(key) for key in list(value) if isinstance(value[key], str) and len(value[key]) > 50}
    if sealed and not seals:
        raise ValueError(f"{path}: sha256 is missing: the file was damaged or changed after it was written")
    if seals and seals != {"sha256": _digest(value)}:
        raise ValueError(f"{path}: its checksum does not match: the file was damaged or changed after it was written")
    return value


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a small file; that of nothing for one that is missing."""
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _replace(part: Path, path: Path) -> None:
    """Rename part to path. On Windows this fails while another process reads path, which is over in a moment."""
    for wait in (0.01, 0.1, 1.0) if sys.platform == "win32" else ():
        try:
            os.replace(part, path)
            return
        except PermissionError:
            time.sleep(wait)
    os.replace(part, path)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
