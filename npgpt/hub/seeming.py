"""What a model file from another library seems to be, so that an error can say what to do with it."""

import glob
from collections.abc import Collection
from pathlib import Path

PREFIXES = {
    "base_model.model.": "PEFT saves them: merge the adapters first, with merge_and_unload()",
}
# parts of names that no GPT-2 has
ARCHITECTURES = {
    ".self_attn.q_proj.": "a Llama, Qwen, Mistral or OPT",
    "gpt_neox.": "a GPT-NeoX or Pythia",
    ".attn.attention.": "a GPT-Neo",
    ".self_attention.": "a BLOOM or Falcon",
    "encoder.layer.": "a BERT",
    ".lora_A.": "the adapters of a model, not the model",
    ".attn.key.": "a minGPT of before August 2022, whose blocks have separate queries, keys and values",
    ".attn.q_proj.": "a GPT-J",
    ".crossattention.": "a GPT-2 with cross-attention, the decoder of an encoder-decoder model",
    ".tokens_embed.": "the first GPT of 2018",
    ".mixer.": "a Mamba",
    ".Wqkv.": "an MPT",
}
FOREIGN = (".attn.q_proj.", ".crossattention.", ".lora_A.")  # those that have a GPT-2's embeddings, too
# pickles, by their names: what seems to have written them, and the Python that converts them
IMPORT = "import torch, safetensors.torch as s"
LOAD = "c = torch.load({path!r}, map_location='cpu', weights_only=True)"
SAVE = "s.save_file({{n: t.contiguous().clone() for n, t in {tensors}.items()}}, {out!r})"
WHOLE = f"{IMPORT}; {LOAD}; {SAVE}"
PICKLES = {
    "pytorch_model.bin": ("one of transformers", WHOLE, "c", "model.safetensors"),
    "adapter_model.bin": ("one of PEFT", WHOLE, "c", "adapter_model.safetensors"),
    "ckpt.pt": (
        "one of nanoGPT",
        f"{WHOLE}; import json; json.dump(c['model_args'], open({{config!r}}, 'w'))",
        "c['model']",
        "model.safetensors",
    ),
    "model.pt": ("one of PyTorch", WHOLE, "c.get('model', c)", "model.safetensors"),
    "model.pth": ("one of PyTorch", WHOLE, "c.get('model', c)", "model.safetensors"),
    "pytorch_model.bin.index.json": (
        "the index of several of transformers",
        f"import glob; {IMPORT}; c = {{{{n: t for f in sorted(glob.glob({{shards!r}})) for n, t in torch.load(f, "
        f"map_location='cpu', weights_only=True).items()}}}}; {SAVE}",
        "c",
        "model.safetensors",
    ),
}
# files of other formats, by the ends of their names
FORMATS = {
    "tf_model.h5": "weights for TensorFlow: transformers before version 5 converts them, by "
    "GPT2LMHeadModel.from_pretrained(FOLDER, from_tf=True).save_pretrained(OUT)",
    "flax_model.msgpack": "weights for Flax: transformers before version 5 converts them, by "
    "GPT2LMHeadModel.from_pretrained(FOLDER, from_flax=True).save_pretrained(OUT)",
    ".gguf": "a model for llama.cpp: transformers converts it, by "
    "AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=NAME).save_pretrained(OUT)",
    ".onnx": "a program for onnxruntime: take the model that it was exported from",
    ".ckpt": "a checkpoint of Lightning, a pickle: save its state_dict with safetensors.torch.save_file",
}


def shown(value: object) -> str:
    """Return what a file says, which may be anything, as one short line."""
    text = str(value)
    return text if text.isprintable() and len(text) <= 200 else f"{text[:80]!a}..."


def seems(names: Collection[str]) -> str:
    """Return what tensors of these names seem to be if they are not a GPT-2's, and what to do; else ""."""
    for part, what in ARCHITECTURES.items():
        found = next((name for name in names if part in f".{name}"), None)
        if found is not None and ("wte.weight" not in names or part in FOREIGN):
            return f"the tensor {found} is that of {what}, and npgpt opens GPT-2 only"
    if "wte.weight" not in names and (name := next((name for name in names if name.endswith(".wte.weight")), None)):
        return begins_with(name.removesuffix("wte.weight"))
    return ""


def begins_with(prefix: str) -> str:
    """Return what to do with names that begin with a prefix."""
    first = next((known for known in PREFIXES if prefix.startswith(known)), None)
    how = f", as {PREFIXES[first]}" if first else ""
    extra = first or prefix
    return (
        f"the names of its tensors begin with {extra}{how}; save them without it: "
        f"{{name.removeprefix({extra!r}): tensor for name, tensor in tensors.items()}}"
    )


def unreadable(folder: Path) -> str:
    """Return what is in a folder in place of a model.safetensors that npgpt could read, and what to do; else ""."""
    for name, (what, code, tensors, out) in PICKLES.items():
        if (folder / name).exists():
            lines = code.format(
                path=str(folder / name),
                tensors=tensors,
                out=str(folder / out),
                config=str(folder / "config.json"),
                shards=str(Path(glob.escape(str(folder))) / "pytorch_model-*.bin"),
            )
            is_pickle = f"{name} is a pickle, which npgpt never opens (it seems to be {what})"
            return f"; {is_pickle}: convert it in Python with PyTorch: {lines}"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    for end, what in FORMATS.items():
        if (found := next((name for name in names if name.endswith(end)), None)) is not None:
            return f"; {shown(found)} is {what}"
    others = [n for n in names if n.endswith(".safetensors") and not n.startswith(("adapter_", "training_state"))]
    if len(others) == 1 and others != ["model.safetensors"]:
        return f"; if {shown(others[0])} is the model, rename it to model.safetensors"
    return ""
