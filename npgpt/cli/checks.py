"""Checks of flags that several commands have. Each raises ValueError that names the flag and says what to give."""

from pathlib import Path


def require_at_least(least: int, flag: str, value: int | None) -> None:
    """Raise ValueError for a number below the least one; None, a flag that is not given, is fine."""
    if value is not None and value < least:
        raise ValueError(f"{flag} {value} must be at least {least}")


def require_given(flag: str, value: str | None, what: str) -> None:
    """Raise ValueError for an empty value; None, a flag that is not given, is fine."""
    if value == "":
        raise ValueError(f"{flag} is empty: give {what}")


def out_folder(name: str) -> Path:
    """Return the folder that --out names. Raises ValueError for an empty name or that of a file."""
    require_given("--out", name, "a folder")
    if Path(name).is_file():
        raise ValueError(f"--out {name} is a file: give a folder")
    return Path(name)


def out_file(name: str) -> Path:
    """Return the file that --out names. Raises ValueError for an empty name or that of a folder."""
    require_given("--out", name, "a file")
    if Path(name).is_dir():
        raise ValueError(f"--out {name} is a folder: give a file")
    return Path(name)
