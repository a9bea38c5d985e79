"""The folder that a name stands for: one that is here, or a model of the Hugging Face hub."""

import re
from pathlib import Path


def find_folder(name: str | Path) -> Path:
    """Return the folder of that name, or download the hub's model of that name into huggingface_hub's cache."""
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
    files = ["config.json", "generation_config.json", "model.safetensors", "tokenizer*.json", "vocab.json"]
    files += ["merges.txt", "added_tokens.json", "special_tokens_map.json"]
    try:
        return Path(snapshot_download(str(name), allow_patterns=files))
    except Exception as error:  # errors of the library and of its transport, of many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(f"{name}: no such folder, and not on the Hugging Face hub: {reason}") from None
