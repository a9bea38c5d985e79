"""Text files read in parts."""

import codecs
from collections.abc import Iterator
from pathlib import Path

PART = 1 << 22  # bytes


def require_file(path: str | Path) -> None:
    """Raise FileNotFoundError, or ValueError for a folder, if path is no file."""
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; give the text files in it")
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")


def read_parts(path: str | Path, part: int = PART) -> Iterator[bytes]:
    """Yield a UTF-8 text file in parts of whole characters, a byte order mark left out.

    Raises FileNotFoundError, or ValueError for a file that is not UTF-8, with the offset of the first wrong byte.
    """
    path = Path(path)
    require_file(path)
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, read = b"", 0  # half a character, and the bytes read before it
    with path.open("rb") as file:
        while held or (data := file.read(part)):
            data = held + file.read(part) if held else data
            try:
                decoder.reset()
                decoder.decode(data, final=len(data) == len(held))
            except UnicodeDecodeError as error:
                wrong, where = data[error.start], read + error.start
                raise ValueError(f"{path}: not UTF-8: byte 0x{wrong:02x} at offset {where}; save it as UTF-8") from None
            held = decoder.getstate()[0]
            whole = data[: len(data) - len(held)]
            yield whole if read else whole.removeprefix(codecs.BOM_UTF8)
            read += len(whole)
