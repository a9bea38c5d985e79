"""The vocabulary of a byte-level BPE as plain data, and the rules it must meet."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from npgpt.tokenizer.base import to_utf8
from npgpt.tokenizer.bytes import unshown
from npgpt.tokenizer.definition import Pair

MOST_IDS = 1 << 21  # more than any vocabulary has: a larger id is a mistake, and would need memory


class MergesError(ValueError):
    """What is wrong with the merges of a vocabulary, not with its tokens."""


class Vocabulary(NamedTuple):
    """What BPETokenizer takes, in the same order, and what every file format is translated to and from.

    tokens          the bytes of each id; b"" for an id without a token. A text can be encoded if its single bytes are
                    among them
    merges          pairs of ids in the order in which they merge; or {pair: rank}, the lowest rank first
    pattern         "gpt2", "gpt4", "chinese", or a regular expression: the pre-tokens
    special_tokens  {name: id}; an id's bytes are its name
    whole           whether a pre-token that is a token skips the merges, which may not lead to it
    added_tokens    {name: id} of tokens that are not special, but are found in a text before it is cut into pre-tokens
    """

    tokens: Sequence[bytes]
    merges: Sequence[Pair] | Mapping[Pair, int]
    pattern: str = "gpt2"
    special_tokens: Mapping[str, int] | None = None
    whole: bool = False
    added_tokens: Mapping[str, int] | None = None


def tokens_by_id(tokens: Mapping[int, bytes]) -> list[bytes]:
    """Return the bytes of each id, b"" for one that has no token: {0: b"a", 2: b"c"} gives [b"a", b"", b"c"].

    Raises ValueError for an id that is negative, or far larger than vocabularies are.
    """
    for i, token in tokens.items():
        if not 0 <= i < MOST_IDS:
            raise ValueError(f"the token {token!r} has the id {i}, and ids must be in 0..{MOST_IDS - 1}")
    return [tokens.get(i, b"") for i in range(max(tokens, default=-1) + 1)]


def text_tokens(
    tokens: Sequence[bytes], special_tokens: Mapping[str, int], added_tokens: Mapping[str, int]
) -> dict[bytes, int]:
    """Return {bytes: id} of the tokens of text, which are all but the special ones.

    An added token may be a token of text as well.

    Raises ValueError for a special or added token whose id has other bytes, or that has the name which a token of text
    has in files, and for a token of text that is there twice.
    """
    for kind, named in ("special", special_tokens), ("added", added_tokens):
        for name, i in named.items():
            if not name or not 0 <= i < len(tokens) or tokens[i] != to_utf8(name):
                raise ValueError(f"the {kind} token {name!r} is not the token of its id {i}")
    outside = {*special_tokens.values(), *added_tokens.values()}
    of_text: dict[bytes, int] = {}
    for i, token in enumerate(tokens):
        if token and i not in outside and of_text.setdefault(token, i) != i:
            raise ValueError(f"the token {token!r} is twice in the vocabulary")
    for name, i in [*special_tokens.items(), *added_tokens.items()]:
        if (same := of_text.get(unshown(name) or b"")) is not None:
            raise ValueError(f"the special or added token {name!r} with id {i} has the name of token {same} of text")
    for i in added_tokens.values():
        of_text.setdefault(tokens[i], i)
    if not of_text:
        raise ValueError("the vocabulary has no token of text")
    return of_text


def ranked_merges(
    merges: Sequence[Pair] | Mapping[Pair, int], tokens: Sequence[bytes], of_text: Mapping[bytes, int]
) -> dict[Pair, tuple[int, int]]:
    """Return {pair: (rank, id of the merged token)}, which is what definition.merge takes.

    Example: if (97, 98) is merge 0 and token 256 is b"ab", the result is {(97, 98): (0, 256)}.

    Raises ValueError for a repeated merge, and for one that joins or makes what is not a token of text.
    """
    ranks = merges if isinstance(merges, Mapping) else {pair: rank for rank, pair in enumerate(merges)}
    if len(ranks) < len(merges):
        raise MergesError(f"a merge is twice in the list of {len(merges)}")
    ids_of_text = set(of_text.values())
    ranked = {}
    for (left, right), rank in ranks.items():
        for part in (left, right):
            if part not in ids_of_text:
                raise MergesError(f"merge {rank} joins {left} and {right}, but {part} is no token of text")
        joined = tokens[left] + tokens[right]
        if joined not in of_text:
            raise MergesError(f"merge {rank} makes {joined!r}, which is not in the vocabulary")
        ranked[left, right] = rank, of_text[joined]
    return ranked
