"""Checks of flags that several commands have. Each raises ValueError that names the flag and says what to give."""

import os
from pathlib import Path


def require_at_least(least: int, flag: str, value: int | None) -> None:
    """Raise ValueError for a number below the least one; None, a flag that is not given, is fine."""
    if value is not None and value < least:
        raise ValueError(f"{flag}={value} must be at least {least}")


def require_given(flag: str, value: str | None, what: str) -> None:
    """Raise ValueError for an empty value; None, a flag that is not given, is fine."""
    if value == "":
        raise ValueError(f"{flag} is empty: give {what}")


def out_folder(name: str) -> Path:
    """Return the folder that --out names. Raises ValueError for that of a file, or one that cannot be written to."""
    require_given("--out", name, "a folder")
    path = Path(name)
    if path.is_file():
        raise ValueError(f"--out {name} is a file: give a folder")
    _require_writable(f"--out {name}", [path, *path.absolute().parents])
    return path


def out_file(name: str, flag: str = "--out") -> Path:
    """Return the file that a flag names. Raises ValueError for that of a folder, or one that cannot be written."""
    require_given(flag, name, "a file")
    path = Path(name)
    if path.is_dir():
        raise ValueError(f"{flag} {name} is a folder: give a file")
    if path.is_file() or not path.exists():  # not /dev/stdout
        _require_writable(f"{flag} {name}", list(path.absolute().parents))
    return path


def out_picture(name: str, flag: str = "--out") -> Path:
    """Return the picture that a flag names. Raises ValueError like out_file, and for a format that is not known."""
    path = out_file(name, flag)
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise ValueError("pictures need matplotlib: pip install 'npgpt[plot]'") from None
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in known:
        raise ValueError(f"{flag} {name}: a picture cannot have the ending {path.suffix}; known are {', '.join(known)}")
    return path


def _require_writable(what: str, folders: list[Path]) -> None:
    """Raise ValueError if the first of these folders that exists is none, or cannot be written to."""
    folder = next(path for path in folders if path.exists())
    if not folder.is_dir():
        raise ValueError(f"{what}: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{what}: the folder {folder} cannot be written to")
