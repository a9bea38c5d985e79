"""A model as a Hugging Face GPT-2 folder: config.json, generation_config.json and model.safetensors."""

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from npgpt.config import GPTConfig
from npgpt.files import read_json, write_atomically, write_json
from npgpt.model import GPT
from npgpt.ops import Ops
from npgpt.parameters import parameter_shapes, zero_parameters

CHECKSUM = "npgpt_sha256"

# GPT2Config's defaults where GPTConfig's differ: a file that leaves the key out means these
HUB_DEFAULTS = {
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}

# keys of GPT2Config that change what the model computes, and the one value that npgpt computes
UNSUPPORTED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def save_model(model: GPT, folder: Path) -> None:
    """Write the model's three files into folder, each whole or not at all."""
    ids = {"bos_token_id": model.config.bos_token_id, "eos_token_id": model.config.eos_token_id}
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "dtype": model.dtype.name,
        **dataclasses.asdict(model.config),
    }
    tensors = dict(model.params)
    if not model.config.bias:
        # GPT-2 has biases: as zeros they change nothing, and other libraries find every tensor
        with_biases = dataclasses.replace(model.config, bias=True)
        for name, shape in parameter_shapes(with_biases).items():
            tensors.setdefault(name, np.zeros(shape, model.dtype))
    save_tensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})


def load_model(name: str | Path, dtype: str, ops: str | Ops) -> GPT:
    """Read a model from a folder or, where no such folder is, from the Hugging Face hub."""
    folder = _folder(name)
    config = read_config(folder / "config.json")
    path = folder / "model.safetensors"
    tensors, config = match_names(read_tensors(path)[0], config, path)
    check_shapes(tensors, config, path)
    params = zero_parameters(config, dtype)
    params |= tensors
    return GPT(config, dtype=dtype, ops=ops, params=params)


def read_config(path: Path) -> GPTConfig:
    """Read GPT-2's config.json. Raises ValueError for one that npgpt cannot compute, with the key and its value."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a run folder: it has no {path.name}")
    content = HUB_DEFAULTS | read_json(path)
    if content.get("model_type") != "gpt2":
        raise ValueError(f"{path}: model_type {content.get('model_type')!r} is not 'gpt2'")
    for key, value in UNSUPPORTED.items():
        if content.get(key, value) != value:
            raise ValueError(f"{path}: {key}={content[key]!r} is not supported, only {value!r}")
    if content.get("activation_function") == "gelu_pytorch_tanh":  # what newer files call gelu_new
        content["activation_function"] = "gelu_new"
    known = {field.name for field in dataclasses.fields(GPTConfig)}
    try:
        return GPTConfig(**{key: value for key, value in content.items() if key in known})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def match_names(
    tensors: dict[str, np.ndarray], config: GPTConfig, path: Path
) -> tuple[dict[str, np.ndarray], GPTConfig]:
    """Name a GPT-2 file's tensors as npgpt does, and say in the config whether there are biases.

    Raises ValueError for a head that differs from the embedding it is tied to.
    """
    # GPT2LMHeadModel's own files have a prefix, and old ones the causal mask
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors = {n: t for n, t in tensors.items() if not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", n)}
    if config.tie_word_embeddings:
        head = tensors.pop("lm_head.weight", None)
        if head is not None and not np.array_equal(head, tensors.get("wte.weight", 0)):
            raise ValueError(f"{path}: lm_head.weight is not wte.weight, but config.json ties them")
    if not config.bias:
        biases = [name for name in tensors if name.endswith(".bias")]
        if any(tensors[name].any() for name in biases):  # another library has trained them since
            config = dataclasses.replace(config, bias=True)
        else:
            tensors = {name: tensor for name, tensor in tensors.items() if name not in biases}
    return tensors, config


def check_shapes(tensors: dict[str, np.ndarray], config: GPTConfig, path: Path) -> None:
    """Raise ValueError for a tensor too few, too many or of another shape than config says.

    Before anything is allocated: a damaged config may ask for more memory than there is.
    """
    blocks = sum(name.endswith(".ln_1.weight") for name in tensors)
    if blocks != config.n_layer:
        raise ValueError(f"{path}: {blocks} blocks, but config.json has n_layer={config.n_layer}")
    shapes = parameter_shapes(config)
    for name in shapes:
        if name not in tensors:
            raise ValueError(f"{path}: the tensor {name} is missing")
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ValueError(f"{path}: the tensor {name} does not belong to the model of config.json")
        if tensor.dtype.kind != "f":
            raise ValueError(f"{path}: {name} has the dtype {tensor.dtype}, expected floats")
        if tensor.shape != shapes[name]:
            raise ValueError(f"{path}: {name} has the shape {tensor.shape}, but config.json asks for {shapes[name]}")


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], **metadata: str) -> None:
    """Write a safetensors file atomically, with a checksum of its tensors and metadata."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    # transformers asks every file for its format; for tensors in C order "pt" and "np" are the same
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

    Raises FileNotFoundError, or ValueError for a file that is not whole, or not as it was written.
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
    """Read a safetensors file whose tensors NumPy cannot hold all: bfloat16 is the upper half of float32."""
    for name, tensor in deserialize(data):
        if tensor["dtype"] == "BF16":
            wide = np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16
            yield name, wide.view(np.float32).reshape(tensor["shape"])
        else:
            dtype = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?", "U8": "u1"}[tensor["dtype"]]
            yield name, np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])


def checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of tensors and metadata, whatever their order."""
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


def _folder(name: str | Path) -> Path:
    """Return the folder itself, or the hub's model of that name in huggingface_hub's cache."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
        raise FileNotFoundError(f"{name}: no such folder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise FileNotFoundError(
            f"{name}: no such folder; to look for it on the Hugging Face hub, install npgpt[hub]"
        ) from None
    files = ["config.json", "generation_config.json", "model.safetensors", "tokenizer*.json"]
    try:
        return Path(snapshot_download(str(name), allow_patterns=files))
    except Exception as error:  # the library's own errors and its transport's, of many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(f"{name}: no such folder, and not on the Hugging Face hub: {reason}") from None
