"""Byte-level BPE in the files of other libraries: tokenizer.json, vocab.json with merges.txt, tiktoken's ranks.

Every function here translates between the content of files and a Vocabulary. A setting that npgpt does not support is
an error that names it: ids that differ a little would be worse than none.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from npgpt.support.files import read_json, write_json, write_text
from npgpt.tokenizer.added import added_tokens, is_text
from npgpt.tokenizer.base import errors_naming
from npgpt.tokenizer.bytes import CHARACTERS, shown, unshown
from npgpt.tokenizer.document import added_token, bpe_model, byte_level, document, split_by
from npgpt.tokenizer.patterns import ALSO, GPT2, PATTERNS, pattern_text
from npgpt.tokenizer.vocabulary import MergesError, Vocabulary, tokens_by_id

ONE_SPLIT = "only ByteLevel, by itself or after one Split"


# --- tokenizer.json


def json_of_vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the tokenizer.json of a vocabulary, as Hugging Face's `tokenizers` reads it."""
    pattern = pattern_text(vocabulary.pattern)
    by_pattern = {"type": "Sequence", "pretokenizers": [split_by(pattern), byte_level(use_regex=False)]}
    return document(
        byte_level(use_regex=True) if pattern == GPT2 else by_pattern,
        byte_level(use_regex=True),
        bpe_model(shown_tokens(vocabulary), shown_merges(vocabulary), vocabulary.whole),
        vocabulary.special_tokens,
        vocabulary.added_tokens,
    )


def shown_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    """Return {token in GPT-2's characters: id}, special and added tokens under their names."""
    named = [*(vocabulary.special_tokens or {}).items(), *(vocabulary.added_tokens or {}).items()]
    names = {i: name for name, i in named}
    return {names.get(i) or shown(token): i for i, token in enumerate(vocabulary.tokens) if token}


def shown_merges(vocabulary: Vocabulary) -> list[list[str]]:
    """Return the merges in GPT-2's characters, in the order in which they merge."""
    tokens, merges = vocabulary.tokens, vocabulary.merges
    ordered = sorted(merges, key=lambda pair: (merges[pair], pair)) if isinstance(merges, Mapping) else merges
    return [[shown(tokens[left]), shown(tokens[right])] for left, right in ordered]


def vocabulary_of_json(content: dict[str, Any]) -> Vocabulary | None:
    """Return the vocabulary of a tokenizer.json, or None if its model is not BPE.

    Raises ValueError for a wrong type, and for a setting under which npgpt would encode differently.
    """
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        return None
    for name in ("normalizer", "post_processor"):
        kind = _kind(content.get(name))
        # the post-processor ByteLevel only moves offsets
        if kind is not None and (name, kind) != ("post_processor", "ByteLevel"):
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
    special, added = added_tokens(content.get("added_tokens") or [], vocab)
    return _from_characters(vocab, _merge_pairs(model.get("merges")), pattern, special, whole, added)


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
        raise ValueError(f"the pre_tokenizer {_kind(last)} is not supported, {ONE_SPLIT}")
    if last.get("add_prefix_space") is not False:
        raise ValueError("add_prefix_space of the pre_tokenizer is not supported: it must be false")
    use_regex = last.get("use_regex", True)
    if not before and use_regex is True:
        return "gpt2"
    if not before and use_regex is False:
        return r"[\s\S]+"
    if len(before) == 1 and use_regex is False and _kind(before[0]) == "Split":
        return _split_pattern(before[0])
    kinds = ", ".join(str(_kind(step)) for step in steps)
    raise ValueError(f"the pre_tokenizer {kinds} is not supported, {ONE_SPLIT}")


def _split_pattern(split: dict[str, Any]) -> str:
    """Return the pattern of a Split. Raises ValueError for one that drops text or is no regular expression."""
    expression = split.get("pattern")
    text = expression.get("Regex") if isinstance(expression, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"the Split by {json.dumps(expression)} is not supported, only one by a Regex")
    behavior, invert = split.get("behavior"), split.get("invert")
    # removing what lies between two matches is harmless for the named patterns: they leave nothing there
    complete = ALSO.get(text, text) in PATTERNS.values()
    if (behavior, invert) != ("Isolated", False) and not (complete and (behavior, invert) == ("Removed", True)):
        raise ValueError(
            f"the Split with behavior={behavior!r}, invert={invert!r} is not supported, only Isolated, false"
        )
    return text


def _vocab(vocab: Any) -> dict[str, int]:
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise ValueError("the vocabulary must be an object of tokens and their ids")
    return vocab


def _merge_pairs(merges: Any) -> list[tuple[str, str]]:
    """Return merges given as ["a", "b"] or "a b"."""
    if not isinstance(merges, list):
        raise MergesError("the merges must be a list")
    pairs = []
    for rank, pair in enumerate(merges):
        parts = pair.split(" ") if isinstance(pair, str) else pair
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise MergesError(f"merge {rank} is {pair!r}, not a pair of tokens")
        pairs.append((parts[0], parts[1]))
    return pairs


def _from_characters(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    pattern: str,
    special: Mapping[str, int],
    whole: bool,
    added: Mapping[str, int],
) -> Vocabulary:
    """Return the vocabulary of tokens in GPT-2's characters. Raises ValueError for ids and merges that do not fit."""
    named = {*special, *added}
    tokens: dict[int, bytes] = {}
    for text, i in {**vocab, **special, **added}.items():
        if i in tokens:
            raise ValueError(f"each id must be that of one token: {text!r} has {i}, like {tokens[i]!r}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"the token {text!r} has a lone surrogate")
        token = text.encode("utf-8") if text in named else unshown(text)
        if token is None:
            raise ValueError(f"the token {text!r} is not made of GPT-2's characters for bytes: no byte-level BPE")
        if not token:
            raise ValueError(f"token {i} is empty")
        if text in added and text in vocab and unshown(text) not in (token, None) and is_text(text, merges):
            raise ValueError(f"the added token {text!r} has the id of the byte or bytes {unshown(text)!r} of text")
        tokens[i] = token
    pairs = []
    for rank, pair in enumerate(merges):
        for part in pair:
            if part not in vocab:
                raise MergesError(
                    f"merge {rank} joins {pair[0]!r} and {pair[1]!r}, but {part!r} is not in the vocabulary"
                )
        pairs.append((vocab[pair[0]], vocab[pair[1]]))
    return Vocabulary(tokens_by_id(tokens), pairs, pattern, special, whole, added)


# --- vocab.json and merges.txt


def write_vocab_and_merges(vocabulary: Vocabulary, folder: Path) -> None:
    """Write GPT-2's two files if they can express the vocabulary: they imply GPT-2's pattern, and `whole` false."""
    if pattern_text(vocabulary.pattern) == GPT2 and not vocabulary.whole:
        write_json(folder / "vocab.json", shown_tokens(vocabulary))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in shown_merges(vocabulary))]
        write_text(folder / "merges.txt", "\n".join(lines) + "\n")


def read_vocab_and_merges(folder: Path) -> dict[str, Any]:
    """Read GPT-2's two files from a folder, as the content of a tokenizer.json.

    Raises FileNotFoundError, or ValueError, naming the file, for one that is broken.
    """
    vocab_file, merges_file = folder / "vocab.json", folder / "merges.txt"
    for file in (vocab_file, merges_file):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; vocab.json and merges.txt belong together")
    content = read_json(vocab_file)
    with errors_naming(vocab_file):
        vocab = _vocab(content)
    with errors_naming(merges_file):
        lines = merges_file.read_text(encoding="utf-8").split("\n")
        lines = lines[1:] if lines[0].startswith("#version") else lines
        merges = [list(pair) for pair in _merge_pairs([line for line in lines if line])]
    return document(byte_level(use_regex=True), byte_level(use_regex=True), bpe_model(vocab, merges))


def with_unmade_special(content: dict[str, Any]) -> dict[str, Any]:
    """Add every token that is neither a byte nor made by a merge to the added tokens, as a special one."""
    model, added = content["model"], content["added_tokens"]
    made = {*CHARACTERS, *(left + right for left, right in model["merges"]), *(token["content"] for token in added)}
    others = [added_token(i, text, special=True) for text, i in model["vocab"].items() if text not in made]
    return content | {"added_tokens": [*added, *others]}


# --- tiktoken


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read tiktoken's file of ranks, {token: rank}: each line is a token in base64 and its rank.

    Raises FileNotFoundError, or ValueError, naming the line, for a file that is broken.
    """
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
    return ranks


def vocabulary_of_ranks(
    ranks: Mapping[bytes, int], pattern: str, special_tokens: Sequence[str] | Mapping[str, int] = ()
) -> Vocabulary:
    """Return the vocabulary of tiktoken's mergeable ranks {token: rank}; a token's rank is its id.

    Two neighbours may merge if their bytes together are a token, and the lowest rank merges first. A pre-token that is
    a token skips the merges. Example: a, b and c have the ranks 97 to 99. If b"ab" has rank 256 and b"abc" rank 257,
    the merges are {(97, 98): 256, (256, 99): 257}.

    special_tokens  names, which get the ids after the last rank; or {name: id}
    """
    if not isinstance(special_tokens, Mapping):
        first = max(ranks.values(), default=-1) + 1
        special_tokens = {name: first + i for i, name in enumerate(special_tokens)}
    tokens = {rank: token for token, rank in ranks.items()}
    if len(tokens) < len(ranks):
        raise ValueError("a rank is that of two tokens")
    for name, i in special_tokens.items():
        if i in tokens:
            raise ValueError(f"the special token {name!r} has the id {i}, like the token {tokens[i]!r}")
        tokens[i] = name.encode()
    merges = {
        (ranks[token[:cut]], ranks[token[cut:]]): rank
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    }
    return Vocabulary(tokens_by_id(tokens), merges, pattern, special_tokens, whole=True)
