"""The vocabulary of a byte-level BPE as plain data, and the rules it must meet."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from npgpt.tokenizer.base import to_utf8
from npgpt.tokenizer.definition import Pair


class Vocabulary(NamedTuple):
    """What BPETokenizer takes, in the same order, and what every file format is translated to and from.

    tokens          the bytes of each id; all 256 single bytes are among them
    merges          pairs of ids in the order in which they merge; or {pair: rank}, the lowest rank first
    pattern         "gpt2", "gpt4", "chinese", or a regular expression: the pre-tokens
    special_tokens  {name: id}; an id's bytes are its name
    whole           whether a pre-token that is a token skips the merges, which may not lead to it
    """

    tokens: Sequence[bytes]
    merges: Sequence[Pair] | Mapping[Pair, int]
    pattern: str = "gpt2"
    special_tokens: Mapping[str, int] | None = None
    whole: bool = False


def text_tokens(tokens: Sequence[bytes], special_tokens: Mapping[str, int]) -> dict[bytes, int]:
    """Return {bytes: id} of the tokens of text, which are all but the special ones.

    Raises ValueError for a special token whose id has other bytes, for an empty or repeated token of text, and for a
    single byte that is missing.
    """
    for name, i in special_tokens.items():
        if not name or not 0 <= i < len(tokens) or tokens[i] != to_utf8(name):
            raise ValueError(f"the special token {name!r} is not the token of its id {i}")
    special = set(special_tokens.values())
    of_text: dict[bytes, int] = {}
    for i, token in enumerate(tokens):
        if i not in special and of_text.setdefault(token, i) != i:
            raise ValueError(f"the token {token!r} is twice in the vocabulary")
    for byte in range(256):
        if bytes([byte]) not in of_text:
            raise ValueError(f"the byte 0x{byte:02x} is not in the vocabulary, which needs all 256")
    if b"" in of_text:
        raise ValueError(f"token {of_text[b'']} is empty")
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
        raise ValueError(f"a merge is twice in the list of {len(merges)}")
    ids_of_text = set(of_text.values())
    ranked = {}
    for (left, right), rank in ranks.items():
        for part in (left, right):
            if part not in ids_of_text:
                raise ValueError(f"merge {rank} joins {left} and {right}, but {part} is no token of text")
        joined = tokens[left] + tokens[right]
        if joined not in of_text:
            raise ValueError(f"merge {rank} makes {joined!r}, which is not in the vocabulary")
        ranked[left, right] = rank, of_text[joined]
    return ranked
