"""A model and its vocabulary as one GGUF file of the architecture gpt2, which llama.cpp and Ollama run.

Imported only where it is asked for: the package gguf is an extra. Tensors are written one after another, so that no
second copy of the model is ever in memory.

Source: GGUFWriter and the name map of the package gguf, and convert_hf_to_gguf.py of llama.cpp, whose choice of a dtype
for each tensor `dtype_of` follows.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.support.files import write_atomically

DTYPES = ("f32", "f16", "q8_0")
BLOCK = 32  # weights of q8_0 that share a scale
# parts of a model's name at which llama.cpp strips spaces around special tokens, because Phi-3 wants it
MISLEADING = ("phi-3", "phi3", "modern-bert")

Make = Callable[[], np.ndarray]


def require_gguf() -> Any:
    """Return the package gguf. Raises ValueError, naming the extra, if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise ValueError("the format gguf needs a package: pip install 'npgpt[gguf]'") from None
    return gguf


def require_computable(config: GPTConfig) -> None:
    """Raise ValueError for a model that llama.cpp would compute otherwise."""
    if config.activation_function != "gelu_new":
        raise ValueError(
            f"activation_function={config.activation_function!r} cannot be exported as gguf: llama.cpp computes the "
            "tanh form of GELU in every GPT-2, so the file would be another model. Train with gelu_new, or export "
            "with --format safetensors"
        )


def write_gguf(
    path: Path,
    config: GPTConfig,
    params: Mapping[str, np.ndarray],
    vocabulary: Mapping[str, Any],
    dtype: str = "f32",
    name: str = "npgpt",
) -> dict[str, list[str]]:
    """Write a GGUF file atomically; return {dtype: names of tensors} of what was written.

    params      GPT-2's, by npgpt's names
    vocabulary  {key after "tokenizer.ggml.": value}
    dtype       f32, f16 or q8_0, of the matrices and the token embedding; norms, biases and positions are f32 always,
                and in q8_0 a matrix whose rows are no multiple of 32 long is f16
    name        general.name

    Raises ValueError for a model that llama.cpp would compute otherwise, and for a weight that a dtype cannot hold.
    """
    gguf = require_gguf()
    require_computable(config)
    if len(vocabulary["tokens"]) != config.vocab_size:
        raise ValueError(f"the vocabulary has {len(vocabulary['tokens'])} tokens, the model {config.vocab_size}")
    tensors = dict(tensors_of(config, params))
    chosen = {name: dtype_of(name, shape, dtype) for name, (shape, _) in tensors.items()}

    def write(part: Path) -> None:
        writer = gguf.GGUFWriter(part, "gpt2")
        try:
            add_keys(gguf, writer, config, vocabulary, dtype, name)
            for tensor, (shape, _) in tensors.items():
                add_info(gguf, writer, tensor, shape, chosen[tensor])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor, (_, make) in tensors.items():
                writer.write_tensor_data(rounded(gguf, tensor, make(), chosen[tensor]))
        finally:
            writer.close()

    write_atomically(path, write)
    return {kind: [name for name in chosen if chosen[name] == kind] for kind in DTYPES if kind in chosen.values()}


def tensors_of(config: GPTConfig, params: Mapping[str, np.ndarray]) -> Iterator[tuple[str, tuple[tuple, Make]]]:
    """Yield each tensor of the file: its name, its shape and what makes it, in (out, in) as llama.cpp has matrices.

    A tied head is left out: llama.cpp then takes the token embedding.
    """
    gguf = require_gguf()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config.n_layer)
    sizes = {"ln_1": config.n_embd, "ln_2": config.n_embd, "attn.c_attn": 3 * config.n_embd}
    sizes |= {
        "attn.c_proj": config.n_embd,
        "mlp.c_fc": config.n_inner or 4 * config.n_embd,
        "mlp.c_proj": config.n_embd,
    }
    for own in ("wte", "wpe"):
        yield named(names, own, "weight"), plain(params[f"{own}.weight"])
    layers = [(f"h.{i}.{layer}", size) for i in range(config.n_layer) for layer, size in sizes.items()]
    for own, size in [*layers, ("ln_f", config.n_embd)]:
        weight = params[f"{own}.weight"]
        yield named(names, own, "weight"), plain(weight.T if weight.ndim == 2 else weight)
        yield named(names, own, "bias"), plain(params.get(f"{own}.bias", np.broadcast_to(np.float32(0), size)))
    if not config.tie_word_embeddings:
        yield named(names, "lm_head", "weight"), plain(params["lm_head.weight"])


def named(names: Any, own: str, part: str) -> str:
    """Return the file's name of a layer's weight or bias: "h.0.ln_1" and "bias" give "blk.0.attn_norm.bias"."""
    return f"{names.get_name(own)}.{part}"


def plain(array: np.ndarray) -> tuple[tuple, Make]:
    """Return the shape of an array, and what makes it a contiguous one of float32."""
    return array.shape, lambda: np.ascontiguousarray(array, np.float32)


def dtype_of(name: str, shape: tuple, dtype: str) -> str:
    """Return the dtype of a tensor: f32 for vectors and positions, f16 where q8_0's blocks do not fit the rows."""
    if len(shape) < 2 or name.startswith("position_embd"):
        return "f32"
    return "f16" if dtype == "q8_0" and shape[-1] % BLOCK else dtype


def add_info(gguf: Any, writer: Any, name: str, shape: tuple, dtype: str) -> None:
    """Announce a tensor, whose data come later."""
    kind = getattr(gguf.GGMLQuantizationType, dtype.upper())
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = int(np.prod(shape)) // block * size
    writer.add_tensor_info(name, shape, np.dtype(np.float32), count, raw_dtype=kind)


def rounded(gguf: Any, name: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    """Return a tensor in a dtype of GGUF. Raises ValueError, naming it, if a number is too large for that."""
    largest = float(np.abs(tensor).max()) if tensor.size else 0.0
    # a scale of q8_0 is a float16 too, that of 127 steps
    most = {"f32": float(np.finfo(np.float32).max), "f16": 65504.0, "q8_0": 65504.0 * 127}[dtype]
    if not largest <= most:
        raise ValueError(f"{name} has the weight {largest:g}, and {dtype} holds at most {most:g}: use --dtype f32")
    return gguf.quants.quantize(tensor, getattr(gguf.GGMLQuantizationType, dtype.upper()))


def add_keys(gguf: Any, writer: Any, config: GPTConfig, vocabulary: Mapping[str, Any], dtype: str, name: str) -> None:
    """Add what is no tensor: the configuration and the vocabulary."""
    kinds = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_type("model")
    writer.add_name("npgpt" if any(part in name.lower() for part in MISLEADING) else name)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(getattr(gguf.LlamaFileType, kinds[dtype]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in vocabulary.items():
        full = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            writer.add_bool(full, value)
        elif isinstance(value, int):
            writer.add_uint32(full, value)
        elif isinstance(value, str):
            writer.add_string(full, value)
        else:
            writer.add_array(full, value)
