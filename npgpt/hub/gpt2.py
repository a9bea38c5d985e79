"""A model as a Hugging Face GPT-2 folder: config.json, generation_config.json and model.safetensors.

The files become a configuration and arrays, and the other way round. The model decides which parameters a configuration
has: `shapes_of` is its function from the configuration to {name: shape}.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.folders import find_folder
from npgpt.hub.seeming import seems, unreadable
from npgpt.hub.tensors import (
    CONFIG,
    MappedFile,
    is_own,
    map_tensors,
    read_metadata,
    read_tensors,
    require_config,
    require_shapes,
    save_tensors,
)
from npgpt.support.files import read_json, write_json
from npgpt.support.notices import notice
from npgpt.support.parameters import Shapes

ShapesOf = Callable[[GPTConfig], Shapes]

# GPT2Config's defaults that differ from GPTConfig's or would adapt there: they hold if a file leaves the key out
HUB_DEFAULTS = {
    "n_embd": 768,
    "n_head": 12,
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}

# keys of GPT2Config that change what the model computes, and the one value that npgpt supports
UNSUPPORTED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")

# what tensors do not show: a file that leaves one of these out is read with GPT-2's default, and a notice says so
INVISIBLE = (
    "n_head",
    "activation_function",
    "layer_norm_epsilon",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "eos_token_id",
)


def write_gpt2(folder: Path, config: GPTConfig, params: Mapping[str, np.ndarray], shapes_of: ShapesOf) -> None:
    """Write a model's three files into folder, each whole or not at all."""
    dtype = next(iter(params.values())).dtype
    tensors = dict(params)
    if not config.bias:
        # GPT-2 has biases: zeros change nothing, and let other libraries find every tensor
        for name, shape in shapes_of(dataclasses.replace(config, bias=True)).items():
            tensors.setdefault(name, np.zeros(shape, dtype))
    save_tensors(folder / "model.safetensors", tensors, dataclasses.asdict(config))
    write_configs(folder, config, dtype, "gpt2", architectures=["GPT2LMHeadModel"])


def write_configs(folder: Path, config: GPTConfig, dtype: np.dtype, model_type: str, **more: Any) -> None:
    """Write config.json and generation_config.json."""
    content = {"model_type": model_type, **more, "dtype": dtype.name, **dataclasses.asdict(config)}
    write_json(folder / "config.json", content)
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})


def read_gpt2(
    name: str | Path, shapes_of: ShapesOf, mapped: bool = False
) -> tuple[GPTConfig, dict[str, np.ndarray], MappedFile | None]:
    """Read a model from a folder or, if there is no such folder, from the Hugging Face hub.

    mapped  map the file where that is possible, and leave it to the caller to verify it

    Returns its configuration, the tensors that shapes_of lists for it, and the file if they are views of it. A folder
    that npgpt has written must be as it was written; in one from another library, a notice says what was assumed.
    Raises FileNotFoundError or ValueError, naming the file, if a file is missing or not a whole GPT-2.
    """
    folder = find_folder(name)
    path = folder / "model.safetensors"
    try:
        own = json.loads(read_metadata(path).get(CONFIG, "{}")) if path.is_file() else {}
        config = read_config(folder / "config.json", own)
    except ValueError:
        if is_own(path):
            read_tensors(path)  # whose error comes first: the metadata may be what is damaged
        raise
    file = map_tensors(path) if mapped else None
    tensors, metadata = read_tensors(path) if file is None else (file.tensors, file.metadata)
    try:
        require_config(path, metadata, dataclasses.asdict(config), folder / "config.json")
        config = with_ends(folder / "generation_config.json", config, own=CONFIG in metadata)
        if CONFIG not in metadata:
            say_what_is_assumed(folder / "config.json", config)
        tensors, config = match_names(tensors, config, path)
        check_shapes(tensors, config, shapes_of, path)
    except ValueError:
        if file is not None:
            file.verify()  # as above
        raise
    return config, tensors, file


def read_config(path: Path, keys: Iterable[str] = (), model_type: str = "gpt2") -> GPTConfig:
    """Read GPT-2's config.json. Raises ValueError, with the key and its value, if npgpt cannot compute the model.

    keys        those that must be there, because npgpt wrote them
    model_type  what the file must say
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a run folder: it has no {path.name}{unreadable(path.parent)}")
    given = read_json(path)
    content = HUB_DEFAULTS | given
    if content.get("model_type") != model_type:
        raise ValueError(f"{path}: model_type {content.get('model_type')!r} is not {model_type!r}")
    for key in keys:
        if key not in given:
            raise ValueError(f"{path}: {key} is missing: the file was damaged or changed after it was written")
    for key, value in UNSUPPORTED.items():
        if content.get(key, value) != value:
            raise ValueError(f"{path}: {key}={content[key]!r} is not supported, only {value!r}")
    if content.get("activation_function") == "gelu_pytorch_tanh":  # what newer files call gelu_new
        content["activation_function"] = "gelu_new"
    known = {field.name for field in dataclasses.fields(GPTConfig)}
    try:
        return GPTConfig(**{key: value for key, value in content.items() if key in known})
    except ValueError as error:
        silent = [name for name in SIZES if name not in given]
        default = f" ({', '.join(silent)} by default, because the file does not say)" if silent else ""
        raise ValueError(f"{path}: {error}{default}") from None


def with_ends(path: Path, config: GPTConfig, own: bool) -> GPTConfig:
    """Return the configuration with the eos_token_id of generation_config.json, which decides where a text ends.

    own  whether npgpt has written the folder. Then the file must have the model's own tokens, and may have more

    Raises ValueError, naming the file.
    """
    content = read_json(path) if path.is_file() else {}
    for name in ("bos_token_id", "eos_token_id") if own else ():
        value, saved = content.get(name), getattr(config, name)
        if name in content and not {*listed(saved)} <= {*listed(value)}:
            raise ValueError(
                f"{path}: {name} is {value!r}, but the model was saved with {saved!r}: write that, "
                f"{'alone or in a list with others, ' if name == 'eos_token_id' else ''}or delete the line"
            )
    if content.get("eos_token_id") is None:
        return config
    try:
        found = dataclasses.replace(config, eos_token_id=content["eos_token_id"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    more = {*listed(found.eos_token_id)} - {*listed(config.eos_token_id)}
    outside = [i for i in more if not 0 <= int(i) < config.vocab_size]
    if own and outside:
        raise ValueError(f"{path}: eos_token_id has {outside[0]}, which is no id below {config.vocab_size}")
    return found


def listed(ids: Any) -> list[Any]:
    """Return one id, or several, as a list of what can be compared."""
    return [str(i) for i in (ids if isinstance(ids, list | tuple) else [ids])]


def say_what_is_assumed(path: Path, config: GPTConfig) -> None:
    """Report what a config.json leaves out and the tensors do not show."""
    content = read_json(path)
    assumed = [f"{name}={getattr(config, name)!r}" for name in INVISIBLE if name not in content]
    if assumed:
        notice(f"{path}: assumed {', '.join(assumed)} as in GPT-2, because the file does not say")


def match_names(
    tensors: dict[str, np.ndarray], config: GPTConfig, path: Path
) -> tuple[dict[str, np.ndarray], GPTConfig]:
    """Give a GPT-2 file's tensors npgpt's names, and set config.bias if the file has biases that matter.

    Raises ValueError for a head that differs from the embedding it is tied to.
    """
    # files of GPT2LMHeadModel have a prefix, and old ones contain the causal mask
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors = {n: t for n, t in tensors.items() if not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", n)}
    if config.tie_word_embeddings:
        head = tensors.pop("lm_head.weight", None)
        if head is not None and not np.array_equal(head, tensors.get("wte.weight", 0)):
            raise ValueError(f"{path}: lm_head.weight is not wte.weight, but config.json ties them")
    if not config.bias:
        biases = [name for name in tensors if name.endswith(".bias")]
        if any(tensors[name].any() for name in biases):  # another library has trained them
            config = dataclasses.replace(config, bias=True)
        else:
            tensors = {name: tensor for name, tensor in tensors.items() if name not in biases}
    return tensors, config


def check_shapes(tensors: dict[str, np.ndarray], config: GPTConfig, shapes_of: ShapesOf, path: Path) -> None:
    """Raise ValueError for a missing or extra tensor, and for one of another shape than config says.

    Nothing is allocated before this check: a damaged config may ask for more memory than there is.
    """
    if what := seems(tensors, config.n_embd):
        raise ValueError(f"{path}: {what}")
    blocks = sum(name.endswith(".ln_1.weight") for name in tensors)
    if blocks != config.n_layer:
        raise ValueError(f"{path}: {blocks} blocks, but config.json has n_layer={config.n_layer}")
    require_shapes(tensors, shapes_of(config), path, "config.json")
