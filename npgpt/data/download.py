"""Named public-domain texts, downloaded into the user's cache folder. A text is known by its SHA-256: nothing else is
ever put into its place, wherever it comes from."""

import dataclasses
import hashlib
import http.client
import os
import string
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npgpt.support.files import write_atomically
from npgpt.support.hints import nearest

TIMEOUT = 30  # seconds without a byte
PIECE = 2**16


@dataclasses.dataclass(frozen=True)
class Text:
    """A text and where it lies: its size in bytes, the SHA-256 of them, and why anybody may use it."""

    title: str
    language: str
    size: int
    sha256: str
    url: str
    licence: str


TEXTS = {
    "shakespeare": Text(
        "scenes from Shakespeare's plays, known as tiny Shakespeare",
        "English",
        1_115_394,
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "public domain: written around 1600",
    ),
    "shijing": Text(
        "詩經, the Book of Songs, in traditional characters; a line with % between two poems",
        "Chinese",
        134_797,
        "61798f5227bf415b82fe3106f32b6ad0de7e223a917225fbcdf6ed0d51cca92a",
        "https://raw.githubusercontent.com/debiancn/fortune-zh/226b6fa46502958191e09b5cac9bff3ad73dbb74/"
        "literature.d/shijing.cookie",
        "public domain: written before 600 BC",
    ),
}


def find(name: str) -> Text:
    """Return a text by its name. Raises ValueError for a name that is not known."""
    if name not in TEXTS:
        raise ValueError(f"no text is called {name!r}{nearest(name, TEXTS)}")
    return TEXTS[name]


def fetch(name: str, url: str | None = None, progress: Callable[[int], object] = lambda have: None) -> Path:
    """Return the path of a text in the cache folder, after downloading what is missing of it.

    url       where to download it from in place of its own address; the text must be the same
    progress  is called with the number of bytes that are there

    What has come of an interrupted download is kept beside its place, and the next one goes on from there. Raises
    OSError, saying so, when there is no connection or it is cut, and ValueError when what has come is another text.
    """
    text = find(name)
    url = url or text.url
    path = cache_folder() / f"{name}.txt"
    if path.is_file() and sha256(path.read_bytes()) == text.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        _download(url, part, text.size, progress)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(_interrupted(url, f"{error.code} {error.reason}", part)) from None
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "filename", None):  # of the file, not of the connection
            raise
        raise OSError(_interrupted(url, _reason(error), part)) from None
    data = part.read_bytes()  # what is checked is what is written, even if somebody else goes on with the part
    if sha256(data) != text.sha256:
        part.unlink()
        raise ValueError(
            f"{url}: not the text that is known as {name!r}: its SHA-256 is {sha256(data)}, expected {text.sha256}; "
            "what came was removed: try again, or give another address with --url"
        )
    write_atomically(path, lambda file: file.write_bytes(data))
    part.unlink(missing_ok=True)
    return path


def cache_folder() -> Path:
    """Return where the texts are kept: npgpt/data in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "npgpt" / "data"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _download(url: str, part: Path, size: int, progress: Callable[[int], object]) -> None:
    """Add to a file what is missing of its `size` bytes. Raises OSError if the connection ends before that."""
    have = part.stat().st_size if part.is_file() else 0
    if have > size:  # this was never a part of it
        have = 0
    if have == size:  # all was there when it was interrupted: the checksum decides
        return
    with _open(url, have) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # it sends the whole file
            have = 0
        with part.open("ab" if have else "wb") as file:
            progress(have)
            while piece := response.read1(min(PIECE, size - have)):  # no more than is wanted, however much is sent
                file.write(piece)
                have += len(piece)
                progress(have)
    if have < size:
        raise ConnectionError("the connection was cut")


def _open(url: str, start: int) -> Any:
    """Ask for a file from byte `start` on, or for all of it where the server says that it is not that long."""
    request = urllib.request.Request(urllib.parse.quote(url, safe=string.punctuation), headers={"User-Agent": "npgpt"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if not start or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        return _open(url, 0)


def _reason(error: BaseException) -> str:
    """Return what went wrong with a connection, without the classes and numbers that it is wrapped in."""
    if isinstance(error, http.client.HTTPException):
        return f"a broken answer: {error}"
    cause = getattr(error, "reason", error)
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return f"no connection: {reason}" if isinstance(error, urllib.error.URLError) else reason


def _interrupted(url: str, reason: str, part: Path) -> str:
    have = part.stat().st_size if part.is_file() else 0
    kept = f"{have:,} bytes are kept, and the same command goes on from there; " if have else ""
    return f"{url}: {reason}; {kept}try again later, or give another address with --url"
