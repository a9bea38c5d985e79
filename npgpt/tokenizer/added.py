"""The added tokens of a tokenizer.json, which are found in a text before it is cut into pre-tokens.

Special ones, such as those that end a text or a turn, npgpt finds only where they are allowed.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

FLAGS = ("single_word", "lstrip", "rstrip")  # which npgpt does not support


def added_tokens(tokens: Any, vocab: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the special tokens and the others, both {name: id}, of the added_tokens of a tokenizer.json.

    Raises ValueError for one that has further settings, or does not fit the vocabulary.
    """
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise ValueError("added_tokens must be a list of objects")
    found: tuple[dict[str, int], dict[str, int]] = {}, {}
    for token in tokens:
        name, i = token.get("content"), token.get("id")
        if not isinstance(name, str) or not name or type(i) is not int or vocab.get(name, i) != i:
            raise ValueError(f"the added token {name!r} with id {i!r} does not fit the vocabulary")
        for flag in FLAGS:
            if token.get(flag, False) is not False:
                raise ValueError(
                    f"the added token {name!r} has {flag}={token[flag]!r}, which is not supported, only false"
                )
        found[not is_special(token)][name] = i
    for one, other in product([token for token in tokens if is_special(token) == is_normalized(token)], tokens):
        order, ours = is_normalized(one) - is_normalized(other), is_special(other) - is_special(one)
        if order != ours and overlap(one["content"], other["content"]):
            raise ValueError(
                f"the added tokens {one['content']!r} and {other['content']!r} overlap, and normalized="
                f"{is_normalized(one)} of the first is not supported: it decides which is found where both are"
            )
    return found


def is_special(token: Mapping[str, Any]) -> bool:
    return token.get("special") is True


def is_normalized(token: Mapping[str, Any]) -> bool:
    """Say whether `tokenizers` looks for a token after all those that are not normalized."""
    return bool(token.get("normalized", not is_special(token)))


def overlap(one: str, other: str) -> bool:
    """Say whether two different names can share characters of a text: "ab" and "bc" can in "abc"."""
    if one == other:
        return False
    return one in other or other in one or ends_in(one, other) or ends_in(other, one)


def ends_in(one: str, other: str) -> bool:
    """Say whether the end of one is the beginning of the other."""
    return any(one.endswith(other[:size]) for size in range(1, min(len(one), len(other))))


def is_text(name: str, merges: Any) -> bool:
    """Say whether a token of a vocabulary is one of text, that is, a character or made by one of the merges."""
    pairs = merges if isinstance(merges, list) else []
    spelt = (pair.split(" ") if isinstance(pair, str) else pair for pair in pairs)
    return len(name) == 1 or any("".join(map(str, pair)) == name for pair in spelt if isinstance(pair, list | tuple))
