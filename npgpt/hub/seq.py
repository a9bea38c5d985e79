"""A generator as a folder: config.json, generation_config.json and model.safetensors, all of npgpt's own kind."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.folders import find_folder
from npgpt.hub.gpt2 import with_ends
from npgpt.hub.seeming import shown, unreadable
from npgpt.hub.tensors import CONFIG, DAMAGED, read_tensors, require_config, require_shapes, save_tensors
from npgpt.support.files import read_json, write_json
from npgpt.support.parameters import Shapes

MODEL_TYPE = "npgpt_generator"

Fields = dict[str, Any]  # of a generator's configuration; "encoder" holds those of a GPTConfig


def write_seq(folder: Path, fields: Fields, params: Mapping[str, np.ndarray]) -> None:
    """Write a generator's three files into folder, each whole or not at all."""
    save_tensors(folder / "model.safetensors", params, fields)
    encoder = fields["encoder"]
    dtype = next(iter(params.values())).dtype.name
    write_json(folder / "config.json", {"model_type": MODEL_TYPE, "dtype": dtype, **fields})
    ids = {name: encoder[name] for name in ("bos_token_id", "eos_token_id")}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})


def read_seq(
    name: str | Path, known: tuple[str, ...], shapes_of: Callable[[Fields], Shapes]
) -> tuple[Fields, dict[str, np.ndarray]]:
    """Read a generator of write_seq from a folder: its configuration and its tensors.

    known      the fields of a configuration, which must all be there
    shapes_of  what makes {name: shape} of them; it raises ValueError for what is not possible

    Raises FileNotFoundError or ValueError, naming the file, if a file is missing or not what write_seq has written.
    """
    folder = find_folder(name)
    path, tensor_path = folder / "config.json", folder / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no config.json{unreadable(folder)}")
    content = read_json(path)
    if content.get("model_type") != MODEL_TYPE:
        raise ValueError(f"{path}: model_type {shown(repr(content.get('model_type')))} is not {MODEL_TYPE!r}")
    if missing := [field for field in known if field not in content]:
        raise ValueError(f"{path}: {missing[0]} is missing: {DAMAGED}")
    fields = {field: content[field] for field in known}
    tensors, metadata = read_tensors(tensor_path)
    if CONFIG not in metadata:
        raise ValueError(f"{tensor_path}: it does not say which generator it is of: {DAMAGED}")
    saved = json.loads(metadata[CONFIG])
    try:
        require_config(tensor_path, metadata, fields, path)
        encoder = GPTConfig(**saved["encoder"])
        fields["encoder"] = dataclasses.asdict(with_ends(folder / "generation_config.json", encoder, own=True))
        shapes = shapes_of(fields)
    except TypeError as error:
        raise ValueError(f"{path}: {shown(error)}") from None
    require_shapes(tensors, shapes, tensor_path, "config.json")
    return fields, tensors
