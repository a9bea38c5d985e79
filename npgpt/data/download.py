"""Named public-domain texts, downloaded into the user's cache folder. Each is identified by its SHA-256, so a download
with other content never takes its place."""

import dataclasses
import hashlib
import http.client
import string
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npgpt.support.files import naming, user_cache, write_atomically
from npgpt.support.hints import nearest

TIMEOUT = 30  # seconds without a byte
PIECE = 2**16


@dataclasses.dataclass(frozen=True)
class Text:
    """A text and its address, with its size in bytes, its SHA-256, and the reason why anyone may use it."""

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
        "詩經, the Book of Songs, in traditional characters; poems are separated by lines with %",
        "Chinese",
        134_797,
        "61798f5227bf415b82fe3106f32b6ad0de7e223a917225fbcdf6ed0d51cca92a",
        "https://raw.githubusercontent.com/debiancn/fortune-zh/226b6fa46502958191e09b5cac9bff3ad73dbb74/"
        "literature.d/shijing.cookie",
        "public domain: written before 600 BC",
    ),
}


def find(name: str) -> Text:
    """Return a text by its name. Raises ValueError for an unknown name."""
    if name not in TEXTS:
        raise ValueError(f"no text is called {name!r}{nearest(name, TEXTS)}")
    return TEXTS[name]


def fetch(name: str, url: str | None = None, progress: Callable[[int], object] = lambda have: None) -> Path:
    """Return the path of a text in the cache folder, after downloading what is missing of it.

    url       an address to use instead of the text's own; the text must be the same
    progress  is called with the number of bytes present so far

    An interrupted download keeps its bytes in a .part file, and the next one continues from there. Raises OSError if
    there is no connection or it is cut, and ValueError if the download is another text.
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
        if getattr(error, "filename", None):  # an error of the file, not of the connection
            raise
        raise OSError(_interrupted(url, _reason(error), part)) from None
    data = (
        part.read_bytes()
    )  # the bytes that are checked are the bytes that are written, even if another process adds to the part
    if sha256(data) != text.sha256:
        part.unlink()
        raise ValueError(
            f"{url}: not the text that is known as {name!r}: its SHA-256 is {sha256(data)}, expected {text.sha256}; "
            "the download was removed: try again, or give another address with --url"
        )
    write_atomically(path, lambda file: file.write_bytes(data))
    part.unlink(missing_ok=True)
    return path


def cache_folder() -> Path:
    """Return the folder of the texts: npgpt/data in the user's cache folder. Raises ValueError if there is none."""
    cache = user_cache()
    if cache is None:
        raise ValueError("there is no home folder to keep the text in: set HOME, or XDG_CACHE_HOME to a folder")
    return cache / "npgpt" / "data"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _download(url: str, part: Path, size: int, progress: Callable[[int], object]) -> None:
    """Download the missing bytes of a file of `size` bytes. Raises OSError if the connection ends before the last."""
    have = part.stat().st_size if part.is_file() else 0
    if have > size:  # not a part of this text
        have = 0
    if have == size:  # the download was complete when it was interrupted: the checksum decides
        return
    with _open(url, have) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # the server sends the whole file
            have = 0
        with part.open("ab" if have else "wb") as file:
            progress(have)
            while piece := response.read1(
                min(PIECE, size - have)
            ):  # read no more than is missing, however much is sent
                with naming(part):  # a full disk is no broken connection
                    file.write(piece)
                    file.flush()
                have += len(piece)
                progress(have)
    if have < size:
        raise ConnectionError("the connection was cut")


def _open(url: str, start: int) -> Any:
    """Request a file from byte `start` on, or all of it if the server says that the file is not that long."""
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
    """Return the cause of a connection's error, without the classes and numbers that wrap it."""
    if isinstance(error, http.client.HTTPException):
        return f"a broken answer: {error}"
    cause = getattr(error, "reason", error)
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return f"no connection: {reason}" if isinstance(error, urllib.error.URLError) else reason


def _interrupted(url: str, reason: str, part: Path) -> str:
    have = part.stat().st_size if part.is_file() else 0
    kept = f"{have:,} bytes are kept, and the same command continues from there; " if have else ""
    return f"{url}: {reason}; {kept}try again later, or give another address with --url"
