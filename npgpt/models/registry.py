"""Which class a model is of: the one place that knows, besides the models themselves."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.hub.folders import find_folder
from npgpt.hub.gpt2 import with_ends, write_gpt2
from npgpt.hub.gpt2_int8 import MODEL_TYPE
from npgpt.hub.peft import first_with, folders_of, is_adapter, require_one
from npgpt.models.base import Model
from npgpt.models.distilled import Distilled, Teaching
from npgpt.models.gpt2 import GPT
from npgpt.models.gpt2_int8 import Int8GPT
from npgpt.models.gpt2_memory import floats_to_evaluate, floats_to_train
from npgpt.models.gpt2_parameters import init_parameters, parameter_shapes
from npgpt.models.gpt2_resized import resized
from npgpt.models.gpt2_shrunk import say_shrunk, shrunk, student_config
from npgpt.models.gpt2_sizes import Sizes, gpt_sizes
from npgpt.models.lora import merged, require_gpt
from npgpt.models.seq import Seq2Seq
from npgpt.models.seq_config import MODEL_TYPE as GENERATOR
from npgpt.models.seq_config import SeqConfig
from npgpt.ops import Ops
from npgpt.support.fields import flat_fields, split_fields
from npgpt.support.files import read_json
from npgpt.support.hints import nearest
from npgpt.support.parameters import Parameters

# by the model_type of config.json: what opens a folder, from its name, a dtype and ops
OPENERS: dict[str, Callable[[str | Path, str, str | Ops], Model]] = {
    "gpt2": GPT.from_pretrained,
    MODEL_TYPE: Int8GPT.from_pretrained,
    GENERATOR: Seq2Seq.from_pretrained,
}
WEIGHTS = ("int8",)
# what opens one without reading its weights, for models that can do so
MAPPING = {"gpt2": functools.partial(GPT.from_pretrained, mapped=True)}


def new_model(config: GPTConfig, seed: int, dtype: str, ops: str | Ops, init: str = "normal") -> Model:
    """Return an untrained model of this configuration, with the initial weights that `init` names."""
    return GPT(config, dtype=dtype, ops=ops, params=init_parameters(config, seed, dtype, init))


def new_generator(encoder: Model, seed: int = 0, **fields: Any) -> Seq2Seq:
    """Return an untrained generator whose encoder begins as a copy of a GPT.

    fields  those of SeqConfig (seq_config.py), without the encoder

    Raises ValueError for a model that is no GPT, and for fields that are not possible.
    """
    if not isinstance(encoder, GPT):
        raise ValueError(f"a generator's encoder is a GPT, which this is not: {encoder.describe()}")
    return Seq2Seq.of(encoder, seed, **fields)


def new_student(teacher: Model, seed: int, init: str, fresh: bool, **sizes: Any) -> tuple[Model, str]:
    """Return a student and in words what it begins with: what it can use of its teacher's weights, or new ones.

    fresh  whether all weights are new
    sizes  n_layer, n_embd, n_head and dropout, where they are not the teacher's (gpt2_shrunk.py)

    Raises ValueError for a model that is no GPT, and for sizes that are not possible.
    """
    if not isinstance(teacher, GPT):
        raise ValueError(f"only a GPT can be distilled, which this is not: {teacher.describe()}")
    config = student_config(teacher.config, **sizes)
    if fresh:
        return new_model(config, seed, teacher.dtype.name, teacher.ops, init), f"all weights are new, by init {init}"
    return shrunk(teacher, config, seed, init), say_shrunk(teacher.config, config)


def with_teacher(student: Model, teacher: Model, teaching: Teaching, seed: int) -> Distilled:
    """Return a student and its teacher as one model, whose loss is that of distillation (distilled.py)."""
    assert isinstance(student, GPT)
    assert isinstance(teacher, GPT)
    return Distilled(student, teacher, teaching, seed)


def resized_model(model: Model, config: GPTConfig, known: np.ndarray, new: np.ndarray) -> Model:
    """Return a trained model with another configuration, which may have more tokens and another context.

    known, new  the ids of tokens that the model has learned, and that it has not (gpt2_resized.py)
    """
    assert isinstance(model, GPT)
    before, params = model.config, model.params
    if len(new) or (before.vocab_size, before.n_positions) != (config.vocab_size, config.n_positions):
        params = resized(params, config, known, new)
    return GPT(config, ops=model.ops, params=params)


def shapes_of_model(config: GPTConfig) -> Model:
    """Return a model that has shapes and no memory: all its parameters are the same zero."""
    flat = np.broadcast_to(np.float32(0), config.n_parameters)
    return GPT(config, ops="reference", params=Parameters(parameter_shapes(config), flat))


def floats_per_token(config: GPTConfig, ops: str, learned: int, evaluated: int) -> tuple[float, float]:
    """Return the numbers that a step and an evaluation hold in memory for each token, besides weights and gradients.

    learned, evaluated  how many tokens a batch has
    """
    fast = ops == "fast"
    return floats_to_train(config, fast, learned), floats_to_evaluate(config, fast, evaluated)


def sizes_to_sample(config: GPTConfig) -> dict[str, Sizes]:
    """Return {kind of weights: the bytes of a model's file, and of the memory for one text of a full
    context}."""
    return gpt_sizes(config)


def open_model(
    name: str | Path,
    dtype: str = "float32",
    ops: str | Ops = "fast",
    mapped: bool = False,
    base: str | Path | None = None,
) -> Model:
    """Open a trained model: a folder, or the name of a GPT-2 on the Hugging Face hub (with the `hub` extra).

    mapped  the model is not to be trained: map its weights where that is possible. Whether its file is damaged,
            `verify` says
    base    if the folder is an adapter: what it adapts, in place of what its adapter_config.json names. The adapter is
            merged into it; such a model is never mapped

    Raises FileNotFoundError or ValueError, naming the file, for what is not there or not a whole model.
    """
    name = find_folder(name)
    require_one(name)
    *adapters, name = folders_of(name, base)
    if adapters:
        model = require_gpt(open_model(name, dtype, ops), adapters[-1])
        for folder in reversed([folder for folder in adapters if is_adapter(folder)]):
            model = merged(folder, model)
        path = first_with([*adapters, name], "generation_config.json") / "generation_config.json"
        model.config = with_ends(path, model.config, own=False)
        return model
    kind = model_type(name)
    opener = OPENERS.get(kind, OPENERS["gpt2"])  # whose error names a kind that nobody opens
    return (MAPPING.get(kind, opener) if mapped else opener)(name, dtype, ops)


def model_type(folder: Path) -> str:
    """Return the kind of model that a folder's config.json names."""
    path = folder / "config.json"
    return str(read_json(path).get("model_type")) if path.is_file() else "gpt2"


def holds_generator(folder: Path) -> bool:
    """Say whether a folder's model is a generator."""
    return model_type(folder) == GENERATOR


def is_generator(model: Model) -> bool:
    """Say whether a model reads a prompt with an encoder, up to an end token, and then writes with a decoder."""
    return isinstance(model.config, SeqConfig)


def refuse_generator(model: Model, name: str | Path, what: str) -> None:
    """Raise ValueError, which ends with `what`, if a model is a generator; `name` is where it was opened."""
    if is_generator(model):
        raise ValueError(f"{name} is a generator, an encoder with a decoder: {what}")


def fields_of(config: Any) -> dict[str, Any]:
    """Return {name: value} of a configuration of this registry's models, of a generator's encoder as encoder.NAME;
    nothing of another configuration.
    """
    return flat_fields(dataclasses.asdict(config)) if isinstance(config, GPTConfig | SeqConfig) else {}


def require_fields(fields: Mapping[str, Any]) -> None:
    """Raise ValueError for what is no field of a model's configuration, with the nearest name that is one."""
    encoder = fields.get("encoder")
    if encoder is None:
        split_fields(fields, GPTConfig)
    elif not isinstance(encoder, dict):
        raise ValueError(f"encoder={encoder!r:.60} must be the fields of a GPT")
    else:
        split_fields(encoder, GPTConfig)
        split_fields(fields, SeqConfig)


def with_weights(model: Model, weights: str | None) -> Model:
    """Return a model with weights of another kind, made from this one's: "int8". None returns it as it is.

    Raises ValueError for another kind, and for a model that cannot have such weights.
    """
    if weights is None or (weights == "int8" and isinstance(model, Int8GPT)):
        return model
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is unknown{nearest(str(weights), WEIGHTS)}")
    if not isinstance(model, GPT):
        raise ValueError(f"weights={weights!r}: {model.describe()} has no such weights")
    return Int8GPT.of(model)


def save_rounded(model: Model, folder: Path, dtype: str | None) -> None:
    """Write a model's folder with its weights in another dtype, one of npgpt.hub.tensors.ROUNDED.

    Raises ValueError for a model that is no GPT.
    """
    if not isinstance(model.config, GPTConfig):
        raise ValueError(f"no other library reads {model.describe()}: keep its folder as it is")
    write_gpt2(folder, model.config, model.params, parameter_shapes, dtype)


def is_trainable(model: Model) -> bool:
    """Say whether training can change a model's weights, which it cannot if they have 8 bits."""
    return not isinstance(model, Int8GPT)


def require_trainable(model: Model, name: str | Path) -> None:
    """Raise ValueError if a model cannot be trained; `name` is where it was opened."""
    if not is_trainable(model):
        raise ValueError(
            f"{name} has weights of 8 bits, which cannot be trained: give the run that they were made from"
        )


def verify(model: Model) -> None:
    """Raise ValueError, naming the file, if a model's weights are mapped from one that is damaged."""
    check = getattr(model, "verify", None)
    if check is not None:
        check()
