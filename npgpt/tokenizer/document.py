"""The layout of a tokenizer.json, as Hugging Face's `tokenizers` reads it."""

from collections.abc import Mapping, Sequence
from typing import Any


def byte_level(use_regex: bool) -> dict[str, Any]:
    """Return the ByteLevel part, which maps bytes to characters and can cut by GPT-2's pattern first."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split_by(pattern: str) -> dict[str, Any]:
    """Return the Split part, which makes every match of a regular expression a pre-token."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def bpe_model(vocab: Mapping[str, int], merges: Sequence[Sequence[str]], whole: bool = False) -> dict[str, Any]:
    """Return the model of a byte-level BPE.

    vocab   {token in GPT-2's characters: id}
    merges  pairs of such tokens, in the order in which they merge
    whole   whether a pre-token that is a token skips the merges
    """
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": whole,
        "vocab": vocab,
        "merges": merges,
    }


def added_token(i: int, name: str, special: bool) -> dict[str, Any]:
    """Return one of the added_tokens, with the flags that `tokenizers` gives it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return {"id": i, "content": name, **flags}


def document(
    pre_tokenizer: dict[str, Any],
    decoder: dict[str, Any],
    model: dict[str, Any],
    special_tokens: Mapping[str, int] | None = None,
    added_tokens: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return a whole tokenizer.json. special_tokens and added_tokens, which are not special, are {name: id}."""
    tokens = [(i, name, True) for name, i in (special_tokens or {}).items()]
    tokens += [(i, name, False) for name, i in (added_tokens or {}).items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(i, name, special) for i, name, special in sorted(tokens)],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def normalised(content: dict[str, Any]) -> dict[str, Any]:
    """Return a tokenizer.json without what does not change the ids of a text, and with the type of an old BPE.

    transformers saves the truncation and padding of the last call, a template that adds no tokens, and lists of no or
    one part.
    """
    content = content | {"truncation": None, "padding": None}
    for name, parts in ("normalizer", "normalizers"), ("decoder", "decoders"):
        content[name] = unwrapped(content.get(name), parts)
    part = content.get("post_processor")
    steps = part.get("processors") if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    if isinstance(steps, list):
        rest = [step for step in steps if not adds_nothing(step)]
        content["post_processor"] = None if not rest else rest[0] if len(rest) == 1 else part
    model = content.get("model")
    if isinstance(model, dict) and "type" not in model and "merges" in model:  # as early versions wrote it
        content["model"] = {"type": "BPE", **model}
    return content


def unwrapped(part: Any, parts: str) -> Any:
    """Return the only part of a Sequence, None for an empty one, and any other part as it is."""
    steps = part.get(parts) if isinstance(part, dict) and part.get("type") == "Sequence" else None
    if not isinstance(steps, list) or len(steps) > 1:
        return part
    return steps[0] if steps else None


def adds_nothing(step: Any) -> bool:
    """Say whether a post-processor adds no ids: ByteLevel moves offsets, and a template may be the text alone."""
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "TemplateProcessing":
        single = step.get("single")
        only_text = isinstance(single, list) and all(isinstance(one, dict) and "Sequence" in one for one in single)
        return step.get("special_tokens") == {} or (only_text and len(single) == 1)
    return step is None or kind == "ByteLevel"
