"""Which tensor of a file is which parameter of a GPT-2, whoever wrote it: by names, types, shapes and config.json.

Nothing here sees a weight. What only the weights can say, such as whether a head is the embedding that it is tied to,
is left open in the Layout, and decided by npgpt.hub.gpt2.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol

from npgpt.config import GPTConfig
from npgpt.hub.seeming import seems, shown
from npgpt.support.parameters import Shapes

ShapesOf = Callable[[GPTConfig], Shapes]
PREFIXES = ("transformer.", "module.", "_orig_mod.", "model.")
# the causal mask, which older libraries save; GPT-2 has no such parameter
MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
HEAD, EMBEDDING = "lm_head.weight", "wte.weight"
# heads for other tasks, which classes of transformers put beside or in the place of the language model's
OTHER_HEADS = {
    "multiple_choice_head.": "GPT2DoubleHeadsModel",
    "score.": "GPT2ForSequenceClassification",
    "classifier.": "GPT2ForTokenClassification",
    "qa_outputs.": "GPT2ForQuestionAnswering",
}
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
FLOATS = ("F64", "F32", "F16", "BF16")
PACKED = "weights packed into few bits: save them unpacked, in transformers with model.dequantize()"

# names of functions of transformers that compute the same as npgpt's, to 1e-6
ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_python": "gelu",
}
# other names for settings of GPT2Config, which transformers reads, too
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
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
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
# a config.json of nanoGPT's model_args or minGPT's config must have these
NANOGPT = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
WITHOUT_EFFECT = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version")
GPT2_END = 50256  # <|endoftext|> in GPT-2's vocabulary

# what tensors do not show: if a file leaves one of these out, its writer's default is taken, and a notice says so
INVISIBLE = ("n_head", "activation_function", "layer_norm_epsilon", *DROPOUTS, "eos_token_id")


class Tensor(Protocol):
    """What is asked of an entry of a file."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class Layout(NamedTuple):
    """How to read a model: its configuration, and where each parameter is.

    sources     {parameter: name in the file}
    transposed  the parameters that the file stores (out, in)
    head        the file's name of a head beside an embedding that it is tied to; one that differs is the model's own
    biases      biases in the file that a configuration without them leaves out, if they are zero
    notices     what was assumed or changed
    """

    config: GPTConfig
    sources: dict[str, str]
    transposed: frozenset[str]
    head: str | None
    biases: tuple[str, ...]
    notices: tuple[str, ...]


def writer_of(content: Mapping[str, Any]) -> str:
    """Return whose config.json it is. nanoGPT's model_args have `dropout` and `bias`; minGPT's has GPT-2's dropouts."""
    if "block_size" not in content or "n_positions" in content:
        return "GPT-2"
    return "nanoGPT" if {"dropout", "bias"} & content.keys() else "minGPT"


def settings_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return GPTConfig's settings, some of which may not be possible, by the content of a config.json.

    Raises ValueError, with the key and its value, for what npgpt cannot compute.
    """
    if packed := content.get("quantization_config"):
        method = packed.get("quant_method") if isinstance(packed, Mapping) else packed
        raise ValueError(f"quantization_config has {shown(method)}: {PACKED}")
    for key, value in UNSUPPORTED.items():
        if content.get(key, value) != value:
            raise ValueError(f"{key}={content[key]!r} is not supported, only {value!r}")
    content = dict(content)
    for alias, key in ALIASES.items():
        if alias in content and content.setdefault(key, content[alias]) != content[alias]:
            raise ValueError(f"{alias}={content[alias]!r}, but {key}={content[key]!r}")
    writer = writer_of(content)
    values = HUB_DEFAULTS | content if writer == "GPT-2" else _translated(content, writer)
    for name in DROPOUTS:
        values[name] = 0.0 if values[name] is None else values[name]
    activation = values.get("activation_function")
    if isinstance(activation, str) and activation in ACTIVATIONS:
        values["activation_function"] = ACTIVATIONS[activation]
    elif activation not in (None, "gelu_new", "gelu"):
        raise ValueError(
            f"activation_function={activation!r} is not supported, only gelu_new and gelu, and their other names "
            f"{', '.join(ACTIVATIONS)}"
        )
    known = {field.name for field in dataclasses.fields(GPTConfig)}
    return {key: value for key, value in values.items() if key in known}


def _translated(content: dict[str, Any], writer: str) -> dict[str, Any]:
    """Return a config.json of nanoGPT or minGPT with GPT-2's keys.

    nanoGPT's GELU is exact, minGPT's is the tanh form. Neither knows an end of a text; both are trained on GPT-2's
    tokens, which have one, or on characters. Raises ValueError for a key that changes the model in some fork of them.
    """
    for key in NANOGPT:
        if key not in content:
            raise ValueError(f"{key} is missing, and {writer} has no default for it that could be meant")
    known = {field.name for field in dataclasses.fields(GPTConfig)} | {*NANOGPT, *WITHOUT_EFFECT, *ALIASES, "dropout"}
    if strange := next((key for key, value in content.items() if value and key not in known), None):
        raise ValueError(f"{shown(strange)} is no setting of {writer}'s model, and its effect is unknown: delete it")
    size = content["vocab_size"]
    end = GPT2_END if isinstance(size, int) and size > GPT2_END else None
    defaults = {
        "activation_function": "gelu" if writer == "nanoGPT" else "gelu_new",
        **dict.fromkeys(DROPOUTS, content.get("dropout", 0.0 if writer == "nanoGPT" else 0.1)),
        "bos_token_id": end,
        "eos_token_id": end,
        "n_positions": content["block_size"],
    }
    return defaults | content


def arrange(
    tensors: Mapping[str, Tensor], config: GPTConfig, content: Mapping[str, Any], own: bool, shapes_of: ShapesOf
) -> Layout:
    """Find the parameters of a configuration among the tensors of a file.

    content  that of config.json, from which config was made
    own      whether npgpt wrote the file, so that it must be as the configuration says

    Raises ValueError for tensors that are not those of such a model: it says what they seem to be, and what to do.
    """
    sources = own_names(tensors)
    if what := seems(sources):
        raise ValueError(what)
    notices = leave_out_heads(sources)
    blocks = sum(name.endswith(".ln_1.weight") for name in sources)
    if blocks != config.n_layer:
        raise ValueError(f"{blocks} blocks, but config.json has n_layer={config.n_layer}")
    transposed: frozenset[str] = frozenset()
    if not own:
        named = {name: tensors[source].shape for name, source in sources.items()}
        transposed = stored_out_in(named, config)
        config, changes = adapted(config, content, named, transposed, any(map(is_mask, tensors)))
        notices += changes
    biases: tuple[str, ...] = ()
    shapes = shapes_of(config)
    if not config.bias:  # other libraries write biases, and train them, all the same
        full = shapes_of(dataclasses.replace(config, bias=True))
        biases = tuple(name for name in full if name.endswith(".bias") and name in sources)
        shapes = full if biases else shapes
    head = sources.get(HEAD) if config.tie_word_embeddings else None
    if head is not None:
        shapes = shapes | {HEAD: shapes[EMBEDDING]}
    require(tensors, sources, shapes, transposed)
    return Layout(config, sources, transposed, head, biases, tuple(notices))


def leave_out_heads(sources: dict[str, str]) -> list[str]:
    """Remove the heads for other tasks from {npgpt's name: name in the file}, and return notices."""
    notices = []
    for prefix, kind in OTHER_HEADS.items():
        if names := [name for name in sources if name.startswith(prefix)]:
            notices.append(f"left out {', '.join(map(sources.pop, names))}, the head of a {kind}")
    return notices


def own_names(names: Collection[str]) -> dict[str, str]:
    """Return {npgpt's name: name in the file}, without the masks.

    Names may begin with any of PREFIXES, in any order and number. Raises ValueError for two names that become one.

    Example: ["module.transformer.wte.weight"] gives {"wte.weight": "module.transformer.wte.weight"}.
    """
    found: dict[str, str] = {}
    for name in names:
        if is_mask(name):
            continue
        own = without_prefixes(name)
        if ending := re.fullmatch(r"(.*\bln_[12f])\.(gamma|beta)", own):  # as TensorFlow has them
            own = f"{ending[1]}.{'weight' if ending[2] == 'gamma' else 'bias'}"
        if own in found:
            raise ValueError(f"{found[own]} and {name} are both {own}: delete one of them")
        found[own] = name
    return found


def without_prefixes(name: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def is_mask(name: str) -> bool:
    return MASK.fullmatch(without_prefixes(name)) is not None


def is_float(tensor: Tensor) -> bool:
    return tensor.dtype in FLOATS


def stored_out_in(shapes: Mapping[str, tuple[int, ...]], config: GPTConfig) -> frozenset[str]:
    """Return which matrices are stored (out, in), as by nanoGPT and minGPT: all or none.

    c_attn tells: it has three times as many outputs as inputs.
    """
    shape = shapes.get("h.0.attn.c_attn.weight", ())
    if shape != (3 * config.n_embd, config.n_embd):
        return frozenset()
    return frozenset(name for name in shapes if name.startswith("h.") and name.endswith(TRANSPOSED))


def adapted(
    config: GPTConfig,
    content: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    transposed: Collection[str],
    masks: bool,
) -> tuple[GPTConfig, list[str]]:
    """Return the configuration as the tensors show it where they know better, and notices.

    They decide on the size of the vocabulary; where config.json does not say, also on biases and on the function that
    their writer's model has.
    """
    changes: dict[str, Any] = {}
    notices = []
    writer = writer_of(content)
    if transposed:
        if writer == "GPT-2":
            writer = "minGPT" if masks and HEAD in shapes else "nanoGPT"
            if "activation_function" not in content and writer == "nanoGPT":
                changes["activation_function"] = "gelu"
        notices.append(f"transposed {len(transposed)} matrices, which are stored (out, in) as by {writer}")
    rows = shapes.get(EMBEDDING, ())[:1]
    if rows and rows != (config.vocab_size,) and rows[0] > 0:
        changes["vocab_size"] = rows[0]
        notices.append(
            f"vocab_size={rows[0]}, because the embedding has {rows[0]:,} rows; config.json has {config.vocab_size}"
        )
    if "bias" not in content and not any(name.endswith(".bias") for name in shapes):
        changes["bias"] = False
        notices.append("bias=False, because no tensor is a bias")
    config = dataclasses.replace(config, **changes)
    assumed = [f"{name}={getattr(config, name)!r}" for name in INVISIBLE if not says(content, name)]
    if assumed:
        notices.append(f"assumed {', '.join(assumed)} as in {writer}, because config.json does not say")
    return config, notices


def says(content: Mapping[str, Any], name: str) -> bool:
    """Say whether a config.json has a setting, under any of its names."""
    other = {own: alias for alias, own in ALIASES.items()} | dict.fromkeys(DROPOUTS, "dropout")
    return name in content or other.get(name) in content


def require(
    tensors: Mapping[str, Tensor], sources: Mapping[str, str], shapes: Shapes, transposed: Collection[str]
) -> None:
    """Raise ValueError for a missing or extra tensor, for one that is not floats, and for one of another shape."""
    if missing := next((name for name in shapes if name not in sources), None):
        untied = f", and config.json unties it: write true for tie_word_embeddings if the head is {EMBEDDING}"
        raise ValueError(f"the tensor {missing} is missing{untied if missing == HEAD else ''}")
    for name, source in sources.items():
        if name not in shapes:
            raise ValueError(f"the tensor {source} does not belong to the model of config.json")
        if not is_float(tensors[source]):
            raise ValueError(wrong_dtype(source, tensors[source]))
        expected = shapes[name][::-1] if name in transposed else shapes[name]
        if tensors[source].shape != expected:
            raise ValueError(
                f"{source} has the shape {shown_shape(tensors[source].shape)}, expected {expected} by config.json"
            )


def wrong_dtype(name: str, tensor: Tensor) -> str:
    """Return what is wrong with a tensor that is not of floats."""
    bits = re.fullmatch(r"([IU])(8|16|32|64)", tensor.dtype)
    dtype = {"I": "int", "U": "uint"}[bits[1]] + bits[2] if bits else {"BOOL": "bool"}.get(tensor.dtype, tensor.dtype)
    packed = f"; it seems to be one of {PACKED}" if dtype in ("int8", "uint8", "int32") or "F8" in dtype else ""
    return f"{name} has the dtype {shown(dtype)}, expected floats of 16, 32 or 64 bits{packed}"


def shown_shape(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) < 9 else f"{str(shape[:9])[:-1]}, ...)"


def config_to_write(tensors: Mapping[str, Tensor]) -> str:
    """Return the config.json that a file of tensors lacks, as far as shapes show it; "" if they are not a GPT-2's."""
    try:
        shapes = {name: tensors[source].shape for name, source in own_names(tensors).items()}
        (vocabulary, width), (context, _) = shapes[EMBEDDING], shapes["wpe.weight"]
        fc = shapes["h.0.mlp.c_fc.weight"]
    except (ValueError, KeyError):
        return ""
    inner = next((size for size in fc if size != width), width)
    values = {
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_positions": context,
        "n_embd": width,
        "n_layer": sum(name.endswith(".ln_1.weight") for name in shapes),
        "n_inner": inner,
        "activation_function": "gelu" if shapes.get("h.0.attn.c_attn.weight") == (3 * width, width) else "gelu_new",
        "tie_word_embeddings": HEAD not in shapes,
        "eos_token_id": None,
    }
    if HEAD in shapes:
        del values["tie_word_embeddings"]  # the weights say it
    return f'{json.dumps(values)[:-1]}, "n_head": HEADS}}, with the number of heads, which no shape shows'
