"""A model as a Hugging Face GPT-2 folder: config.json, generation_config.json and model.safetensors.

The files become a configuration and arrays, and the other way round. The model decides which parameters a configuration
has: `shapes_of` is its function from the configuration to {name: shape}.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.checkpoints import INDEX, WHOLE, Checkpoint, open_checkpoint
from npgpt.hub.folders import find_folder
from npgpt.hub.layouts import Layout, ShapesOf, arrange, config_to_write, says, settings_of, writer_of
from npgpt.hub.nanogpt import ARGUMENTS
from npgpt.hub.seeming import shown, unreadable
from npgpt.hub.tensors import CONFIG, MappedFile, map_tensors, require_config, save_tensors
from npgpt.support.files import parse_json, read_json, write_json
from npgpt.support.notices import notice
from npgpt.support.parameters import Parameters, Shapes, zeros

SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")


def write_gpt2(
    folder: Path,
    config: GPTConfig,
    params: Mapping[str, np.ndarray],
    shapes_of: ShapesOf,
    rounded: str | None = None,
) -> None:
    """Write a model's three files into folder, each whole or not at all.

    rounded  the dtype to round the weights to, one of npgpt.hub.tensors.ROUNDED
    """
    dtype = next(iter(params.values())).dtype
    tensors = dict(params)
    if not config.bias:
        # GPT-2 has biases: zeros change nothing, and let other libraries find every tensor
        for name, shape in shapes_of(dataclasses.replace(config, bias=True)).items():
            tensors.setdefault(name, np.zeros(shape, dtype))
    save_tensors(folder / "model.safetensors", tensors, dataclasses.asdict(config), rounded)
    write_configs(folder, config, rounded or dtype.name, "gpt2", architectures=["GPT2LMHeadModel"])


def write_configs(folder: Path, config: GPTConfig, dtype: str, model_type: str, **more: Any) -> None:
    """Write config.json and generation_config.json."""
    content = {"model_type": model_type, **more, "dtype": dtype, **dataclasses.asdict(config)}
    write_json(folder / "config.json", content)
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})


def read_gpt2(
    name: str | Path, shapes_of: ShapesOf, dtype: str = "float32", mapped: bool = False
) -> tuple[GPTConfig, Parameters, MappedFile | None]:
    """Read a model from a folder or, if there is no such folder, from the Hugging Face hub.

    mapped  map the file where that is possible, and leave it to the caller to verify it

    Returns its configuration, the parameters that shapes_of lists for it, and the file if they are views of it. A
    folder that npgpt has written must be as it was written; of one from another library, notices say what was assumed
    and changed. Raises FileNotFoundError or ValueError, naming the file, if a file is missing or not a whole GPT-2.
    """
    folder = find_folder(name)
    require_configured(folder)
    with open_checkpoint(folder) as checkpoint:
        try:
            layout = decided(read_layout(folder, checkpoint, shapes_of), checkpoint)
        except ValueError:
            checkpoint.verify()  # whose error comes first: the metadata may be what is damaged
            raise
        for line in layout.notices:
            notice(f"{checkpoint.path}: {line}")
        shapes = shapes_of(layout.config)
        file = map_tensors(checkpoint.path) if mapped and can_be_mapped(layout, checkpoint, dtype) else None
        if file is not None and (starts := layout_in(file, layout, shapes)) is not None:
            return layout.config, Parameters(shapes, file.flat, starts), file
        params = zeros(shapes, dtype)
        places = {layout.sources[n]: p.T if n in layout.transposed else p for n, p in params.items()}
        checkpoint.read_into(places)
    return layout.config, params, None


def require_configured(folder: Path) -> None:
    """Raise FileNotFoundError for a folder without config.json; if it has tensors, say what to write there."""
    if (folder / "config.json").is_file():
        return
    what = unreadable(folder)
    if (folder / ARGUMENTS).is_file():
        what = (
            f": copy nanoGPT's {ARGUMENTS} to config.json; if the model has the tanh form of GELU, add "
            '"activation_function": "gelu_new"'
        )
    elif (folder / WHOLE).is_file() or (folder / INDEX).is_file():
        with open_checkpoint(folder) as checkpoint:
            lines = config_to_write(checkpoint.entries)
        what = f": write {lines}" if lines else what
    raise FileNotFoundError(f"{folder} is not a run folder: it has no config.json{what}")


def read_layout(folder: Path, checkpoint: Checkpoint, shapes_of: ShapesOf) -> Layout:
    """Read a model's configuration, and find its parameters in a checkpoint. Raises ValueError, naming the file."""
    path, metadata = folder / "config.json", checkpoint.metadata
    config = read_config(path, saved_config(metadata, checkpoint.path))
    require_config(checkpoint.path, metadata, dataclasses.asdict(config), path)
    config = with_ends(folder / "generation_config.json", config, own=CONFIG in metadata)
    try:
        return arrange(checkpoint.entries, config, read_json(path), CONFIG in metadata, shapes_of)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None


def decided(layout: Layout, checkpoint: Checkpoint) -> Layout:
    """Return a layout as the weights decide: a head that differs from the embedding, and biases that are not zero."""
    config, notices = layout.config, list(layout.notices)
    if layout.head is not None and not checkpoint.are_equal(layout.head, layout.sources["wte.weight"]):
        if CONFIG in checkpoint.metadata:
            raise ValueError(f"{checkpoint.path}: {layout.head} is not wte.weight, but config.json ties them")
        config = dataclasses.replace(config, tie_word_embeddings=False)
        notices.append(
            f"{layout.head} is not wte.weight, so it is a head of its own, as in transformers 5; set "
            '"tie_word_embeddings": false in config.json, because earlier versions leave it out'
        )
    if not all(checkpoint.is_zero(layout.sources[name]) for name in layout.biases):
        config = dataclasses.replace(config, bias=True)
    return layout._replace(config=config, notices=tuple(notices))


def can_be_mapped(layout: Layout, checkpoint: Checkpoint, dtype: str) -> bool:
    """Say whether a model's parameters are in one file as it computes with them."""
    used = (checkpoint.entries[source] for source in layout.sources.values())
    return (
        not layout.transposed
        and all(e.dtype == "F32" and e.file == checkpoint.path for e in used)
        and dtype == "float32"
    )


def layout_in(file: MappedFile, layout: Layout, shapes: Shapes) -> dict[str, int] | None:
    """Return where in a mapped file each parameter begins; None if one is not aligned, or it is another file by now."""
    tensors = {name: file.tensors.get(layout.sources[name]) for name in shapes}
    if any(t is None or t.shape != shapes[name] for name, t in tensors.items()):
        return None
    file.used = frozenset(layout.sources[name] for name in shapes)
    return file.starts({name: t for name, t in tensors.items() if t is not None})


def saved_config(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Return the configuration that npgpt has saved tensors with; {} for a file of another library."""
    return parse_json(path, metadata[CONFIG].encode()) if CONFIG in metadata else {}


def read_config(path: Path, keys: Iterable[str] = (), model_type: str = "gpt2") -> GPTConfig:
    """Read GPT-2's config.json. Raises ValueError, with the key and its value, if npgpt cannot compute the model.

    keys        those that must be there, because npgpt wrote them
    model_type  what the file must say; those of nanoGPT and minGPT need not
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a run folder: it has no {path.name}{unreadable(path.parent)}")
    given = read_json(path)
    if given.get("model_type") != model_type and (writer_of(given) == "GPT-2" or model_type != "gpt2"):
        if isinstance(given.get("model_args"), dict):
            raise ValueError(f"{path}: give the content of nanoGPT's model_args alone, without what is around it")
        raise ValueError(f"{path}: model_type {shown(repr(given.get('model_type')))} is not {model_type!r}")
    for key in keys:
        if key not in given:
            raise ValueError(f"{path}: {key} is missing: the file was damaged or changed after it was written")
    try:
        return GPTConfig(**settings_of(given))
    except ValueError as error:
        silent = [name for name in SIZES if not says(given, name)] if writer_of(given) == "GPT-2" else []
        default = f" ({', '.join(silent)} by default, because the file does not say)" if silent else ""
        raise ValueError(f"{path}: {shown(error)}{default}") from None


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
