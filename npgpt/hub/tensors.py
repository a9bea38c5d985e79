"""safetensors files, written whole and with a checksum, and verified when they are read, or when a map of one is.

The metadata also holds the configuration that the tensors belong to, because the same tensors under another number of
heads are another model, and the id of their run, because another run's tensors may have the same shapes.
"""

import hashlib
import json
import math
import mmap
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from npgpt.hub.seeming import unreadable
from npgpt.support.files import read_json, read_sealed_json, write_atomically
from npgpt.support.parameters import Shapes

CHECKSUM = "npgpt_sha256"
CONFIG = "npgpt_config"
RUN = "npgpt_run"
DTYPES = {"f2": "F16", "f4": "F32", "f8": "F64", "b1": "BOOL", "i1": "I8", "u1": "U8", "i4": "I32", "i8": "I64"}
NUMPY = {name: f"<{dtype}" for dtype, name in DTYPES.items()}
PIECE = 2**18  # numbers that are looked at together
ROUNDED = ("float32", "float16", "bfloat16")
LINE = 64  # bytes of a cache line, where the data begin
DAMAGED = "the file was damaged or changed after it was written"


def save_tensors(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    **metadata: str,
) -> None:
    """Write a safetensors file atomically, with a checksum of its tensors and metadata.

    config  what the tensors belong to, for require_config
    dtype   round them to this one of ROUNDED. Raises ValueError, naming the tensor, for a number too large for it

    Equal tensors and metadata give equal files, which the writer of the library safetensors does not promise.
    """
    contiguous = {name: np.asarray(rounded(name, tensor, dtype), order="C") for name, tensor in tensors.items()}
    # transformers requires a format; for tensors in C order, "pt" and "np" mean the same
    header = {"format": "pt", **metadata, **run_of(path.parent)}
    if config is not None:
        header[CONFIG] = json.dumps(config, sort_keys=True)
    header[CHECKSUM] = checksum(contiguous, header)
    write_atomically(path, lambda part: _write(part, contiguous, header, dtype == "bfloat16"))


def rounded(name: str, tensor: np.ndarray, dtype: str | None) -> np.ndarray:
    """Return a tensor in another dtype, rounded to nearest even; in bfloat16, which NumPy lacks, as float32.

    Raises ValueError, naming the tensor, for a number that is too large.
    """
    if dtype is None:
        return tensor
    if dtype == "bfloat16":  # the upper half of a float32
        bits = np.ascontiguousarray(tensor, np.float32).view(np.uint32)
        found = ((bits + (0x7FFF + (bits >> 16 & 1))) & np.uint32(0xFFFF0000)).view(np.float32)
    else:
        with np.errstate(over="ignore"):
            found = tensor.astype(dtype, copy=False)
    if not np.isfinite(found).all() and np.isfinite(tensor).all():
        other = "float32" if dtype == "bfloat16" else "bfloat16"
        raise ValueError(f"{name} has the number {np.abs(tensor).max():g}, too large for {dtype}: use {other}")
    return found


def _write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], bfloat16: bool) -> None:
    """Write the format: the length of the header in 8 bytes, the header as JSON, the tensors one after another.

    bfloat16  of the tensors, which are float32, write the upper halves
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # the widest first: all are aligned
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name in names:
        tensor = tensors[name]
        place = [start, start := start + tensor.nbytes // (2 if bfloat16 else 1)]
        kind = "BF16" if bfloat16 else DTYPES[tensor.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": place}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % LINE)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            data = tensors[name].reshape(-1)
            data = (data.view(np.uint32) >> 16).astype(np.uint16) if bfloat16 else data
            file.write(data.view(np.uint8).data)


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata.

    Raises FileNotFoundError, or ValueError for a file that is incomplete or was changed after it was written.
    """
    require_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            bfloat16 = any(file.get_slice(name).get_dtype() == "BF16" for name in file.keys())  # noqa: SIM118
            if not bfloat16:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        if bfloat16:
            tensors = dict(_with_bfloat16(path.read_bytes()))
    except (SafetensorError, TypeError, ValueError, AttributeError, KeyError) as error:
        # TypeError and AttributeError: a dtype that NumPy does not have
        raise ValueError(f"{path}: not a whole safetensors file that NumPy can read: {error}") from None
    written = metadata.pop(CHECKSUM, None)
    if written is not None and written != checksum(tensors, metadata):
        raise ValueError(f"{path}: its checksum does not match: {DAMAGED}")
    return tensors, metadata


def require_file(path: Path) -> None:
    """Raise FileNotFoundError for a file that is not there, and say what is there instead."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file{unreadable(path.parent)}")


class MappedFile:
    """A safetensors file as a part of memory: the system reads a page of it from disk when the page is first used.

    tensors   {name: array}, views of the file. What is written to one stays in memory and never reaches the file
    flat      all data of the file as one array of float32, whatever they are
    metadata  as read_tensors returns it
    used      the tensors whose numbers must be finite

    What the file says of its tensors is checked when it is mapped, but not its checksum, because that takes all of its
    bytes: `verify` does it. A file that is replaced by another, as npgpt replaces files, stays mapped as it was. One
    that is changed in place may change in memory, too; one that is cut short in place ends the process (SIGBUS) at the
    next use of a page that is no longer there.
    """

    def __init__(self, path: Path, pages: mmap.mmap, metadata: dict[str, str]) -> None:
        self.path, self.pages, self.metadata = path, pages, metadata
        self.used: Collection[str] = ()
        self._written = metadata.pop(CHECKSUM, None)
        start = 8 + int.from_bytes(pages[:8], "little")
        data = np.frombuffer(pages, np.uint8, offset=start)
        self.tensors = dict(_views(data, json.loads(pages[8:start])))
        self.flat = data[: len(data) // 4 * 4].view(np.float32)

    def verify(self) -> None:
        """Raise ValueError, naming the file, if the arrays are not what was written to it: it was damaged or changed.

        That of another library has no checksum; of it, and of npgpt's, a weight that is not finite is refused.
        """
        if self.pages.size() != len(self.pages):  # to read what is no longer there would end the process
            raise ValueError(
                f"{self.path}: {self.pages.size():,} bytes long, and it was {len(self.pages):,}: {DAMAGED}"
            )
        if self._written is not None and self._written != checksum(self.tensors, self.metadata):
            raise ValueError(f"{self.path}: its checksum does not match: {DAMAGED}")
        for name in self.used:
            flat = self.tensors[name].reshape(-1)
            if not all(np.isfinite(flat[i : i + PIECE]).all() for i in range(0, flat.size, PIECE)):
                raise ValueError(f"{self.path}: {name} has a weight that is not a finite {flat.dtype}")

    def starts(self, tensors: Mapping[str, np.ndarray]) -> dict[str, int] | None:
        """Return where in `flat` each of these views begins; None if one of them is not float32, or not aligned."""
        first = self.flat.ctypes.data
        if first % 4 or not all(t.dtype == np.float32 and t.ctypes.data % 4 == 0 for t in tensors.values()):
            return None
        return {name: (tensor.ctypes.data - first) // 4 for name, tensor in tensors.items()}

    def __reduce__(self) -> tuple:
        return type(None), ()  # a copy of a model is in memory, and needs no file


def map_tensors(path: Path) -> MappedFile | None:
    """Map a safetensors file; None where it must be read instead: on Windows, which locks it, or for other dtypes.

    Raises FileNotFoundError, or ValueError for a file that is not whole.
    """
    require_file(path)
    try:
        with safe_open(path, framework="numpy") as file:  # the library compares the header with the file's length
            metadata = dict(file.metadata() or {})
        if sys.platform == "win32" or sys.byteorder != "little":
            return None
        with path.open("rb") as opened:
            pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        if hasattr(mmap, "MADV_WILLNEED"):  # read all of it meanwhile: page by page, a file that is not cached is slow
            pages.madvise(mmap.MADV_WILLNEED)
        return MappedFile(path, pages, metadata)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a whole safetensors file that NumPy can read: {error}") from None
    except (KeyError, OSError):  # of a dtype that NumPy does not have, or of a file system without maps
        return None


def _views(data: np.ndarray, header: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of a header as views of the data, none of which is outside."""
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, (start, stop) = np.dtype(NUMPY[entry["dtype"]]), entry["data_offsets"]
        if not 0 <= start <= stop <= len(data) or stop - start != math.prod(entry["shape"]) * dtype.itemsize:
            raise ValueError(f"{name} is at {start}..{stop} of {len(data)} bytes, in {entry['shape']}")
        yield name, data[start:stop].view(dtype).reshape(entry["shape"])


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file alone. Raises ValueError for a file that is incomplete."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from None


def is_own(path: Path) -> bool:
    """Say whether npgpt has written a safetensors file."""
    return path.is_file() and CHECKSUM in read_metadata(path)


def _with_bfloat16(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Read a safetensors file with bfloat16, which NumPy does not have: it is the upper half of a float32."""
    for name, tensor in deserialize(data):
        if tensor["dtype"] == "BF16":
            wide = np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16
            yield name, wide.view(np.float32).reshape(tensor["shape"])
        else:
            yield name, np.frombuffer(tensor["data"], NUMPY[tensor["dtype"]]).reshape(tensor["shape"])


def require_config(path: Path, metadata: Mapping[str, str], config: Mapping[str, Any], source: Path) -> None:
    """Raise ValueError, naming the key, if `config`, read from `source`, is not the one that tensors were saved with.

    Files from other libraries, and those of earlier versions, do not say what they were saved with.
    """
    if CONFIG not in metadata:
        return
    found = json.loads(json.dumps(config))  # tuples become lists, as in the file
    for name, value in json.loads(metadata[CONFIG]).items():
        if name in found and found[name] != value:
            raise ValueError(
                f"{source}: {name} is {found[name]!r}, but {path.name} was saved with {value!r}: {DAMAGED}"
            )


def run_of(folder: Path) -> dict[str, str]:
    """Return the metadata that says to which run the files of a folder belong; nothing if its train.json names none."""
    path = folder / "train.json"
    try:
        run = read_json(path).get("run") if path.is_file() else None
    except ValueError:  # which is no reason to lose what has been trained
        run = None
    return {} if run is None else {RUN: str(run)}


def require_run(path: Path) -> None:
    """Raise ValueError if npgpt wrote a safetensors file for another run than that of the train.json beside it.

    Files of earlier versions do not name their run.
    """
    train, metadata = path.with_name("train.json"), read_metadata(path) if path.is_file() else {}
    if CHECKSUM not in metadata or not train.is_file():
        return
    if metadata.get(RUN) != read_sealed_json(train, sealed=CONFIG in metadata).get("run"):
        raise ValueError(f"{path} and {train.name} are of two runs: copy the folder of a run as a whole")


def checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Return a SHA-256 of tensors and metadata that does not depend on their order."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def require_shapes(
    tensors: Mapping[str, np.ndarray],
    shapes: Shapes,
    path: Path,
    config: str,
    of: str = "",
    int8: Collection[str] = (),
) -> None:
    """Raise ValueError for a missing or extra tensor, one that is not floats, and one of another shape than `shapes`.

    config  what the shapes follow from
    of      what a missing tensor's name begins with in the file
    int8    those that must be integers of 8 bits
    """
    for name in shapes:
        if name not in tensors:
            raise ValueError(f"{path}: the tensor {of}{name} is missing")
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ValueError(f"{path}: the tensor {name} does not belong to the model of {config}")
        if tensor.dtype != np.int8 if name in int8 else tensor.dtype.kind != "f":
            expected = "int8" if name in int8 else "floats"
            raise ValueError(f"{path}: {name} has the dtype {tensor.dtype}, expected {expected}")
        if tensor.shape != shapes[name]:
            raise ValueError(f"{path}: {name} has the shape {tensor.shape}, expected {shapes[name]} by {config}")
