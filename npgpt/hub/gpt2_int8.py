"""A GPT-2 with weights of 8 bits as a folder: config.json, generation_config.json and model.safetensors.

The weights bear GPT-2's names, the scales those with `_scale` after them. The model_type is npgpt's own, so that no
other library takes the integers for weights.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.folders import find_folder
from npgpt.hub.gpt2 import ShapesOf, read_config, with_ends, write_configs
from npgpt.hub.tensors import CONFIG, read_tensors, require_config, require_shapes, save_tensors

MODEL_TYPE = "npgpt_gpt2_int8"
SCALE = "_scale"  # at the end of the name of a scale


def write_int8(
    folder: Path,
    config: GPTConfig,
    params: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    scales: Mapping[str, np.ndarray],
) -> None:
    """Write a model's three files into folder, each whole or not at all."""
    named = {f"{name}{SCALE}": scale for name, scale in scales.items()}
    save_tensors(folder / "model.safetensors", {**params, **weights, **named}, dataclasses.asdict(config))
    write_configs(folder, config, params["wpe.weight"].dtype.name, MODEL_TYPE)


def read_int8(name: str | Path, shapes_of: ShapesOf) -> tuple[GPTConfig, dict[str, np.ndarray]]:
    """Read a model of write_int8 from a folder: its configuration, and the tensors that shapes_of lists for it.

    Those with a scale are int8, the others floats. Raises FileNotFoundError or ValueError, naming the file, if a file
    is missing or not what write_int8 has written.
    """
    folder = find_folder(name)
    path = folder / "model.safetensors"
    tensors, metadata = read_tensors(path)
    config = read_config(folder / "config.json", json.loads(metadata.get(CONFIG, "{}")), MODEL_TYPE)
    require_config(path, metadata, dataclasses.asdict(config), folder / "config.json")
    config = with_ends(folder / "generation_config.json", config, own=CONFIG in metadata)
    shapes = shapes_of(config)
    weights = {name for name in shapes if f"{name}{SCALE}" in shapes}
    require_shapes(tensors, shapes, path, "config.json", int8=weights)
    for name in weights:
        scale = tensors[f"{name}{SCALE}"]
        if not (np.isfinite(scale) & (scale >= 0)).all():
            raise ValueError(f"{path}: {name}{SCALE} has a number that is no scale")
    return config, tensors
