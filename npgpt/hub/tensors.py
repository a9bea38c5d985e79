"""safetensors files, written whole and with a checksum, and verified when they are read."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from npgpt.support.files import write_atomically
from npgpt.support.parameters import Shapes

CHECKSUM = "npgpt_sha256"


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], **metadata: str) -> None:
    """Write a safetensors file atomically, with a checksum of its tensors and metadata."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    # transformers requires a format; for tensors in C order, "pt" and "np" mean the same
    header = {"format": "pt", **metadata}
    header[CHECKSUM] = checksum(contiguous, header)

    def write(part: Path) -> None:
        try:
            save_file(contiguous, part, header)
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from None

    write_atomically(path, write)


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata.

    Raises FileNotFoundError, or ValueError for a file that is incomplete or was changed after it was written.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file{_unpickled(path.parent)}")
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
        raise ValueError(f"{path}: its checksum does not match: the file was damaged or changed after it was written")
    return tensors, metadata


def _with_bfloat16(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Read a safetensors file with bfloat16, which NumPy does not have: it is the upper half of a float32."""
    for name, tensor in deserialize(data):
        if tensor["dtype"] == "BF16":
            wide = np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16
            yield name, wide.view(np.float32).reshape(tensor["shape"])
        else:
            dtype = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?", "U8": "u1"}[tensor["dtype"]]
            yield name, np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])


def checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Return a SHA-256 of tensors and metadata that does not depend on their order."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _unpickled(folder: Path) -> str:
    pickled = [
        name for name in ("pytorch_model.bin", "adapter_model.bin", "model.pt", "ckpt.pt") if (folder / name).exists()
    ]
    if pickled:
        return f"; {pickled[0]} is a pickle, which npgpt never opens: convert it to safetensors"
    if (folder / "model.safetensors.index.json").exists():
        return "; a model in several files is not supported: save it as one"
    return ""


def require_shapes(tensors: Mapping[str, np.ndarray], shapes: Shapes, path: Path, config: str, of: str = "") -> None:
    """Raise ValueError for a missing or extra tensor, one that is not floats, and one of another shape than `shapes`.

    config  what the shapes follow from; of  what a missing tensor's name begins with in the file
    """
    for name in shapes:
        if name not in tensors:
            raise ValueError(f"{path}: the tensor {of}{name} is missing")
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ValueError(f"{path}: the tensor {name} does not belong to the model of {config}")
        if tensor.dtype.kind != "f":
            raise ValueError(f"{path}: {name} has the dtype {tensor.dtype}, expected floats")
        if tensor.shape != shapes[name]:
            raise ValueError(f"{path}: {name} has the shape {tensor.shape}, expected {shapes[name]} by {config}")
