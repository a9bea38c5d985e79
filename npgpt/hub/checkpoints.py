"""The tensors of a folder, in one safetensors file or in shards: checked by their headers, then read into their places.

Nothing in a file is trusted. No byte of data is read, and no memory allocated for it, before the headers agree with the
lengths of the files, with each other and, in npgpt.hub.layouts, with the model.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from npgpt.hub.seeming import shown
from npgpt.hub.tensors import CHECKSUM, DAMAGED, NUMPY, require_file
from npgpt.support.files import parse_json

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BYTES = {name: np.dtype(dtype).itemsize for name, dtype in NUMPY.items()} | {"BF16": 2}
FLOATS = ("F64", "F32", "F16", "BF16")
PIECE = 2**20  # bytes that are read at a time
# Limits on what is parsed before anything is known: those of GPT-2 XL are 60 kB, 580 tensors and names of 30 characters
MOST_HEADER = 2**24
MOST_NAME = 200
MOST_FILES = 500  # all are open at once


class Entry(NamedTuple):
    """A tensor of a file: its type under safetensors' name, its shape, and its bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


class Checkpoint:
    """The tensors of a folder, by their names in its files, which stay open: to be used in a `with`.

    path      what messages name: the file, or the index of several
    entries   {name: Entry}
    metadata  that of a single file, without the checksum; {} of several
    written   the checksum, if npgpt has written the file
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.metadata: dict[str, str] = {}
        self._opened: dict[Path, BufferedReader] = {}
        with ExitStack() as stack:
            for file in files:
                self._opened[file] = stack.enter_context(file.open("rb"))
                entries, self.metadata = read_header(file, self._opened[file])
                if twice := next((name for name in entries if name in self.entries), None):
                    raise ValueError(f"{file}: {twice} is in {self.entries[twice].file.name}, too")
                self.entries |= entries
            self._stack = stack.pop_all()
        self.metadata = self.metadata if files == [path] else {}
        self.written = self.metadata.pop(CHECKSUM, None)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Yield the bytes of a tensor, some whole rows at a time; each piece is overwritten by the next."""
        entry = self.entries[name]
        rows = entry.shape[0] if entry.shape else 1
        row = entry.nbytes // max(rows, 1)
        buffer = np.empty(min(max(PIECE // max(row, 1), 1) * row, entry.nbytes), np.uint8)
        file = self._opened[entry.file]
        for start in range(0, entry.nbytes, max(len(buffer), 1)):
            piece = buffer[: entry.nbytes - start]
            file.seek(entry.start + start)
            if file.readinto(piece.data) != len(piece):
                raise ValueError(f"{entry.file}: ends within {name}: {DAMAGED}")
            yield piece

    def is_zero(self, name: str) -> bool:
        """Say whether all numbers of a tensor are zero."""
        return not any(floats(piece, self.entries[name].dtype).any() for piece in self.pieces(name))

    def are_equal(self, name: str, other: str) -> bool:
        """Say whether two tensors of one shape have the same numbers."""
        one, two = self.entries[name], self.entries[other]
        if one.shape != two.shape:
            return False
        if BYTES[one.dtype] != BYTES[two.dtype]:  # pieces of other rows; nobody writes that
            return False
        both = zip(self.pieces(name), self.pieces(other), strict=True)
        return all(np.array_equal(floats(a, one.dtype), floats(b, two.dtype)) for a, b in both)

    def read_into(self, places: Mapping[str, np.ndarray]) -> None:
        """Read tensors into arrays of their shapes, by their names in the file.

        Raises ValueError, naming the file, for a weight that is not finite, and if npgpt's checksum, which is computed
        from all tensors on the way, does not match.
        """
        digest = self._digest()
        names = sorted(self.entries) if self.written else sorted(places, key=lambda name: self.entries[name][3:])
        infinite = None
        for name in names:
            if self.written:
                digest.update(self._described(name))
            place, row = places.get(name), 0
            for piece in self.pieces(name):
                if self.written:
                    # npgpt's checksum of bfloat16 is that of the numbers as float32
                    wide = self.entries[name].dtype == "BF16"
                    digest.update((np.ascontiguousarray(floats(piece, "BF16")) if wide else piece).data)
                if place is None:
                    continue
                shape = self.entries[name].shape
                with np.errstate(over="ignore", invalid="ignore"):  # such a weight is reported below
                    rows = floats(piece, self.entries[name].dtype).astype(place.dtype, copy=False)
                if infinite is None and not np.isfinite(rows).all():
                    infinite = name
                rows = rows.reshape(-1, *shape[1:])
                place[row : row + len(rows)] = rows
                row += len(rows)
        if self.written:
            self._require(digest.hexdigest())
        if infinite is not None:
            kind = places[infinite].dtype
            raise ValueError(f"{self.entries[infinite].file}: {infinite} has a weight that is not a finite {kind}")

    def verify(self) -> None:
        """Raise ValueError, naming the file, if it is npgpt's and not as it was written."""
        if self.written:
            self.read_into({})

    def _require(self, found: str) -> None:
        if found != self.written:
            raise ValueError(f"{self.path}: its checksum does not match: {DAMAGED}")

    def _digest(self) -> Any:
        """Return npgpt.hub.tensors.checksum of no tensor yet."""
        return hashlib.sha256(repr(sorted(self.metadata.items())).encode())

    def _described(self, name: str) -> bytes:
        entry = self.entries[name]
        dtype = (
            np.dtype("<f4" if entry.dtype == "BF16" else NUMPY[entry.dtype]).str
            if entry.dtype in {*NUMPY, "BF16"}
            else entry.dtype
        )
        return f"{name} {dtype} {entry.shape}".encode()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open the tensors of a folder: those of model.safetensors, or else of the shards that its index lists.

    Raises FileNotFoundError, or ValueError, naming the file, for one that is not whole.
    """
    path, index = folder / WHOLE, folder / INDEX
    if path.is_file() or not index.is_file():
        require_file(path)
        return Checkpoint(path, [path])
    listed = read_index(index)
    checkpoint = Checkpoint(index, [folder / name for name in sorted(set(listed.values()))])
    try:
        require_listed(listed, checkpoint)
    except ValueError:
        checkpoint.__exit__()
        raise
    return checkpoint


def read_index(path: Path) -> dict[str, str]:
    """Read the index of a model in several files: {tensor: file}.

    Raises ValueError, naming the index, for one that does not map tensors to files in its own folder.
    """
    if path.stat().st_size > MOST_HEADER:
        raise ValueError(f"{path}: longer than {MOST_HEADER:,} bytes")
    listed = parse_json(path, path.read_bytes(), unique=True).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{path}: has no weight_map, which says which tensor is in which file")
    files = {file if isinstance(file, str) else None for file in listed.values()}
    if len(files) > MOST_FILES:
        raise ValueError(f"{path}: lists {len(files):,} files, more than {MOST_FILES}")
    for file in sorted(files, key=str):
        require_inside(path, file)
    return listed


def require_inside(index: Path, name: str | None) -> None:
    """Raise ValueError or FileNotFoundError unless an index names a safetensors file in its own folder.

    A snapshot in huggingface_hub's cache consists of links into the `blobs` beside it, so those are inside, too.
    """
    folder = index.parent
    if not name or not name.isprintable() or name != Path(name).name or not name.endswith(".safetensors"):
        raise ValueError(f"{index}: lists {shown(name)}, which is no name of a safetensors file in its folder")
    home = folder.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    target = (folder / name).resolve()
    if not any(target.is_relative_to(home) for home in homes):
        raise ValueError(f"{folder / name} is a link that leaves the folder, to {shown(str(target))}")
    if not target.is_file():
        raise FileNotFoundError(f"{index}: lists {name}, which is not there: the download or copy is not complete")


def require_listed(listed: Mapping[str, str], checkpoint: Checkpoint) -> None:
    """Raise ValueError unless the shards have just the tensors that their index lists, each in its file."""
    for name, file in listed.items():
        entry = checkpoint.entries.get(name)
        if entry is None or entry.file.name != file:
            raise ValueError(f"{checkpoint.path}: lists {shown(name)} in {file}, which does not have it")
    if extra := next((name for name in checkpoint.entries if name not in listed), None):
        raise ValueError(f"{checkpoint.path}: does not list {extra}, which is in {checkpoint.entries[extra].file.name}")


def read_header(path: Path, file: BufferedReader) -> tuple[dict[str, Entry], dict[str, str]]:
    """Read what a safetensors file says of its tensors, and its metadata.

    Raises ValueError for a file whose tensors do not fill it, one after another, without gaps. The library safetensors
    checks that, too, but not that no name comes twice; and it opens the file by name, which may be another by now.
    """
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    why = f"{path}: not a whole safetensors file that NumPy can read: "
    if not 2 <= length <= min(size - 8, MOST_HEADER):
        raise ValueError(f"{why}its header would have {length:,} bytes, of {size:,} (at most {MOST_HEADER:,} are read)")
    text = file.read(length)
    try:
        with safe_open(path, framework="numpy") as opened:
            metadata = dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(why + shown(error)) from None
    header = parse_json(path, text, unique=True)
    header.pop("__metadata__", None)
    try:
        entries = dict(_entries(path, header, 8 + length, size))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(why + shown(error)) from None
    return entries, metadata


def _entries(path: Path, header: Mapping[str, Any], start: int, end: int) -> Iterator[tuple[str, Entry]]:
    """Yield the tensors of a header in the order of their data, which begin at start and fill the file."""
    at = start
    for name, entry in sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0])):
        if len(name) > MOST_NAME or not name.isprintable():
            raise ValueError(f"the name {shown(name)} of a tensor is too long, or cannot be printed")
        dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        nbytes = last - first
        whole = dtype not in BYTES or nbytes == math.prod(shape) * BYTES[dtype]
        if start + first != at or nbytes < 0 or not whole or min(shape, default=0) < 0:
            raise ValueError(f"{name} is at {first}..{last} of {end - start} bytes, in {list(shape)[:9]}")
        yield name, Entry(path, dtype, shape, at, nbytes)
        at += nbytes
    if at != end:
        raise ValueError(f"its tensors end at {at - start} of {end - start} bytes")


def floats(piece: np.ndarray, dtype: str) -> np.ndarray:
    """Return bytes as numbers of this type; bfloat16, which NumPy lacks, is the upper half of a float32."""
    if dtype == "BF16":
        wide = piece.view("<u2").astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return piece.view(NUMPY[dtype])
