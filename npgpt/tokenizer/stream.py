"""Text files, read in parts."""

import codecs
from collections.abc import Iterator
from pathlib import Path

PART = 1 << 22  # bytes


def require_file(path: str | Path) -> None:
    """Raise ValueError if path is a folder, and FileNotFoundError if it does not exist."""
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; give the text files in it")
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")


def read_parts(path: str | Path, part: int = PART) -> Iterator[bytes]:
    r"""Yield a UTF-8 text file in parts of whole characters, without its byte order mark.

    Example: a file b"a\xe4\xb8\xad" (a中) read two bytes at a time gives b"a", then b"\xe4\xb8\xad".

    Raises FileNotFoundError, or ValueError for a file that is not UTF-8, with the offset of the first wrong byte.
    """
    path = Path(path)
    require_file(path)
    decoder = codecs.getincrementaldecoder("utf-8")()
    held = b""  # the bytes of an incomplete character at the end of the last part
    offset = 0  # where they are in the file
    with path.open("rb") as file:
        while True:
            more = file.read(part)
            if not more and not held:
                return
            data = held + more
            try:
                decoder.reset()
                decoder.decode(data, final=not more)
            except UnicodeDecodeError as error:
                wrong, where = data[error.start], offset + error.start
                raise ValueError(f"{path}: not UTF-8: byte 0x{wrong:02x} at offset {where}; save it as UTF-8") from None
            held = decoder.getstate()[0]
            whole = data[: len(data) - len(held)]
            yield whole if offset else whole.removeprefix(codecs.BOM_UTF8)
            offset += len(whole)
