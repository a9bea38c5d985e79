"""What a model file from another library seems to be, so that an error can say what to do with it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

PREFIXES = {
    "_orig_mod.": "torch.compile saves them",
    "module.": "PyTorch's DataParallel saves them",
    "model.": "a module that holds the model saves them",
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
}
PICKLES = {
    "pytorch_model.bin": "one of transformers",
    "adapter_model.bin": "one of PEFT",
    "model.pt": "one of PyTorch",
    "ckpt.pt": "one of nanoGPT",
}


def seems(tensors: Mapping[str, np.ndarray], width: int) -> str:
    """Return what tensors seem to be if they are not those of a GPT-2 of this width, and what to do; else ""."""
    if "wte.weight" not in tensors:
        for part, what in ARCHITECTURES.items():
            if name := next((name for name in tensors if part in name), None):
                return f"the tensor {name} is that of {what}, and npgpt opens GPT-2 only"
        if name := next((name for name in tensors if name.endswith(".wte.weight")), None):
            return begins_with(name.removesuffix("wte.weight"))
    name = next((name for name in tensors if name.endswith("attn.c_attn.weight")), "")
    if name and width > 0 and tensors[name].shape == (3 * width, width):
        return (
            f"{name} has the shape {tensors[name].shape}, (out, in) as in nanoGPT, and GPT-2's are (in, out): "
            "transpose the weights of c_attn, c_proj and c_fc, and save them again"
        )
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
    for name, how in PICKLES.items():
        if (folder / name).exists():
            return f"; {name} is a pickle, which npgpt never opens (it seems to be {how}): convert it to safetensors"
    if (folder / "model.safetensors.index.json").exists():
        return "; a model in several files is not supported: save it as one"
    return ""
