"""Byte-level BPE in the files of others: tokenizer.json, vocab.json with merges.txt, tiktoken's ranks.

What a file asks for and npgpt does not do is refused by name: ids that differ a little are worse than none.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from npgpt.support.files import read_json, write_json, write_text
from npgpt.tokenizer.bpe import BPETokenizer
from npgpt.tokenizer.bytes import byte_characters
from npgpt.tokenizer.patterns import ALSO, GPT2, PATTERNS

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
CHARACTERS = byte_characters()
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}
TO_CHARACTERS = dict(enumerate(CHARACTERS))


def shown(token: bytes) -> str:
    """Return a token in GPT-2's characters for bytes."""
    return token.decode("latin-1").translate(TO_CHARACTERS)


def unshown(text: str) -> bytes | None:
    """Return the bytes that GPT-2's characters stand for, None for text that is not made of them."""
    try:
        return bytes([BYTES[character] for character in text])
    except KeyError:
        return None


# --- tokenizer.json


def bpe_to_json(tokenizer: BPETokenizer) -> dict[str, Any]:
    """Return the tokenizer.json of a byte-level BPE, as Hugging Face's `tokenizers` reads it."""
    split = {
        "type": "Split",
        "pattern": {"Regex": tokenizer.pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    by_pattern = {"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL | {"use_regex": False}]}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, "content": name, **flags} for name, token in special],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL if tokenizer.pattern == GPT2 else by_pattern,
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.whole,
            "vocab": vocabulary(tokenizer),
            "merges": merge_list(tokenizer),
        },
    }


def vocabulary(tokenizer: BPETokenizer) -> dict[str, int]:
    """Return {token in GPT-2's characters: id}; special tokens under their names."""
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    return {names.get(i) or shown(token): i for i, token in enumerate(tokenizer.tokens)}


def merge_list(tokenizer: BPETokenizer) -> list[list[str]]:
    """Return the merges in GPT-2's characters, those to merge first in front."""
    ordered = sorted(tokenizer.merges, key=lambda pair: (tokenizer.merges[pair][0], pair))
    return [[shown(tokenizer.tokens[left]), shown(tokenizer.tokens[right])] for left, right in ordered]


def bpe_from_json(content: dict[str, Any]) -> BPETokenizer | None:
    """Return the tokenizer of a tokenizer.json, None if its model is not BPE.

    Raises ValueError, naming it, for a setting under which npgpt would encode differently, or a wrong type.
    """
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        return None
    for name in ("normalizer", "post_processor"):
        kind = _kind(content.get(name))
        if kind is not None and (name, kind) != ("post_processor", "ByteLevel"):  # this one moves offsets only
            raise ValueError(f"the {name} {kind} is not supported, only byte-level BPE without one")
    if _kind(content.get("decoder")) != "ByteLevel":
        raise ValueError(f"the decoder {_kind(content.get('decoder'))} is not supported, only ByteLevel")
    for name, plain in (
        ("dropout", (None, 0, 0.0)),
        ("continuing_subword_prefix", (None, "")),
        ("end_of_word_suffix", (None, "")),
        ("byte_fallback", (None, False)),
    ):
        if model.get(name) not in plain:
            raise ValueError(f"the model's {name}={model[name]!r} is not supported, only {plain[-1]!r}")
    whole = model.get("ignore_merges") or False
    if not isinstance(whole, bool):
        raise ValueError(f"the model's ignore_merges={whole!r} must be true or false")
    pattern = _pattern(content.get("pre_tokenizer"))
    vocab = _vocab(model.get("vocab"))
    special = _added_tokens(content.get("added_tokens") or [], vocab)
    return _from_characters(vocab, _merge_pairs(model.get("merges")), pattern, special, whole)


def _kind(part: Any) -> str | None:
    if part is None:
        return None
    return str(part.get("type")) if isinstance(part, dict) else json.dumps(part)


def _pattern(part: Any) -> str:
    """Return the pattern of a pre_tokenizer. Raises ValueError for one that is more than a pattern over bytes."""
    steps = part.get("pretokenizers") if _kind(part) == "Sequence" else [part]
    if not isinstance(steps, list) or not steps:
        raise ValueError("the pre_tokenizer Sequence has no list of steps")
    *before, last = steps
    if _kind(last) != "ByteLevel":
        raise ValueError(
            f"the pre_tokenizer {_kind(last)} is not supported, only ByteLevel, by itself or after one Split"
        )
    if last.get("add_prefix_space") is not False:
        raise ValueError("add_prefix_space of the pre_tokenizer is not supported: it must be false")
    use_regex = last.get("use_regex", True)
    if use_regex is True and not before:
        return "gpt2"
    if use_regex is False and not before:
        return r"[\s\S]+"
    if use_regex is not False or len(before) != 1 or _kind(before[0]) != "Split":
        kinds = ", ".join(str(_kind(step)) for step in steps)
        raise ValueError(f"the pre_tokenizer {kinds} is not supported, only ByteLevel, by itself or after one Split")
    expression = before[0].get("pattern")
    text = expression.get("Regex") if isinstance(expression, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"the Split by {json.dumps(expression)} is not supported, only one by a Regex")
    how = before[0].get("behavior"), before[0].get("invert")
    # the named patterns leave nothing between two matches, so that removing it is the same
    complete = ALSO.get(text, text) in PATTERNS.values()
    if how != ("Isolated", False) and not (complete and how == ("Removed", True)):
        raise ValueError(
            f"the Split with behavior={how[0]!r}, invert={how[1]!r} is not supported, only Isolated, false"
        )
    return text


def _vocab(vocab: Any) -> dict[str, int]:
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise ValueError("the vocabulary must be an object of tokens and their ids")
    return vocab


def _added_tokens(added: Any, vocab: Mapping[str, int]) -> dict[str, int]:
    """Return the special tokens {name: id}. Raises ValueError for one that does more than to stand for its name."""
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ValueError("added_tokens must be a list of objects")
    special: dict[str, int] = {}
    for token in added:
        name, i = token.get("content"), token.get("id")
        if not isinstance(name, str) or not name or type(i) is not int or vocab.get(name, i) != i:
            raise ValueError(f"the added token {name!r} with id {i!r} does not fit the vocabulary")
        for flag in ("single_word", "lstrip", "rstrip"):
            if token.get(flag, False) is not False:
                raise ValueError(f"the added token {name!r} has {flag}, which is not supported")
        if token.get("special") is not True:
            raise ValueError(f"the added token {name!r} is not special, which is not supported")
        special[name] = i
    return special


def _merge_pairs(merges: Any) -> list[tuple[str, str]]:
    """Return merges given as ["a", "b"] or "a b"."""
    if not isinstance(merges, list):
        raise ValueError("the merges must be a list")
    pairs = []
    for rank, pair in enumerate(merges):
        parts = pair.split(" ") if isinstance(pair, str) else pair
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise ValueError(f"merge {rank} is {pair!r}, not a pair of tokens")
        pairs.append((parts[0], parts[1]))
    return pairs


def _from_characters(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], pattern: str, special: Mapping[str, int], whole: bool
) -> BPETokenizer:
    names = {i: name for name, i in special.items()}
    everything = {**vocab, **special}
    tokens: list[bytes] = [b""] * len(everything)
    seen = [False] * len(everything)
    for text, i in everything.items():
        if not 0 <= i < len(everything) or seen[i]:
            raise ValueError(f"the ids must be 0..{len(everything) - 1}, each once: {text!r} has {i}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"the token {text!r} has a lone surrogate")
        token = text.encode("utf-8") if i in names else unshown(text)
        if token is None:
            raise ValueError(f"the token {text!r} is not made of GPT-2's characters for bytes: no byte-level BPE")
        tokens[i], seen[i] = token, True
    pairs = []
    for rank, pair in enumerate(merges):
        for part in pair:
            if part not in vocab:
                raise ValueError(
                    f"merge {rank} joins {pair[0]!r} and {pair[1]!r}, but {part!r} is not in the vocabulary"
                )
        pairs.append((vocab[pair[0]], vocab[pair[1]]))
    return BPETokenizer(tokens, pairs, pattern, special, whole)


# --- vocab.json and merges.txt


def write_vocab_and_merges(tokenizer: BPETokenizer, folder: Path) -> None:
    """Write GPT-2's two files, if they can say it: they know GPT-2's pattern alone, and no whole pre-tokens."""
    if tokenizer.pattern == GPT2 and not tokenizer.whole:
        write_json(folder / "vocab.json", vocabulary(tokenizer))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merge_list(tokenizer))]
        write_text(folder / "merges.txt", "\n".join(lines) + "\n")


def read_vocab_and_merges(folder: Path) -> BPETokenizer:
    """Read GPT-2's two files from a folder. What is neither a byte nor made by a merge is a special token.

    Raises FileNotFoundError, or ValueError, naming the file, for one that is broken.
    """
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; vocab.json and merges.txt belong together")
    vocab_file, merges_file = folder / "vocab.json", folder / "merges.txt"
    content = read_json(vocab_file)
    try:
        vocab = _vocab(content)
    except ValueError as error:
        raise ValueError(f"{vocab_file}: {error}") from None
    try:
        lines = merges_file.read_text(encoding="utf-8").split("\n")
        lines = lines[1:] if lines[0].startswith("#version") else lines
        merges = _merge_pairs([line for line in lines if line])
        made = {*CHARACTERS, *(left + right for left, right in merges)}
        return _from_characters(vocab, merges, "gpt2", {t: i for t, i in vocab.items() if t not in made}, False)
    except ValueError as error:
        raise ValueError(f"{folder / 'merges.txt'}: {error}") from None


# --- tiktoken


def from_tiktoken(
    path: str | Path, pattern: str, special_tokens: Sequence[str] | Mapping[str, int] = ()
) -> BPETokenizer:
    """Read tiktoken's file of ranks: a token in base64 and its rank a line.

    Two neighbours may merge if their bytes together are a token, and its rank says which go first; a pre-token that is
    a token is taken as it is.

    pattern         "gpt2", "gpt4" or another, which the file does not say
    special_tokens  names, which get the ids after the last; or {name: id}

    Raises FileNotFoundError, or ValueError, naming the line, for a file that is broken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            if token in ranks or not rank.isdigit():
                raise ValueError
            ranks[token] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(
                f"{path}: line {number}: expected a token in base64 and its rank, got {line[:80]!r}"
            ) from None
    try:
        return from_ranks(ranks, pattern, special_tokens)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def from_ranks(
    ranks: Mapping[bytes, int], pattern: str, special_tokens: Sequence[str] | Mapping[str, int] = ()
) -> BPETokenizer:
    """Return the tokenizer of tiktoken's mergeable ranks {token: rank}, as from_tiktoken describes it."""
    if not isinstance(special_tokens, Mapping):
        special_tokens = {name: len(ranks) + i for i, name in enumerate(special_tokens)}
    tokens = {rank: token for token, rank in ranks.items()} | {i: n.encode() for n, i in special_tokens.items()}
    wanted = range(len(ranks) + len(special_tokens))
    if missing := [i for i in wanted if i not in tokens]:
        raise ValueError(f"no token has the rank {missing[0]}, and they must be 0..{len(wanted) - 1}, each once")
    merges = {
        (ranks[token[:cut]], ranks[token[cut:]]): rank
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    }
    return BPETokenizer([tokens[i] for i in wanted], merges, pattern, special_tokens, whole=True)
