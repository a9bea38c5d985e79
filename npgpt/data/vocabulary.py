"""The tokenizer that --tokenizer names."""

from collections.abc import Sequence
from pathlib import Path

from npgpt.support.hints import nearest
from npgpt.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from npgpt.tokenizer.stream import END, TextFile, read_parts, text_file


def make_tokenizer(name: str, files: Sequence[str | Path | TextFile], end_token: str | None = None) -> Tokenizer:
    """Return the tokenizer of a --tokenizer: "chars", "bytes", "bpe:SIZE", or a folder that holds one.

    end_token  the special token that ends a text: BPE learns it in place of END, a folder's tokenizer must have it

    Characters and BPE learn their vocabulary from the files, which are read part by part. Raises ValueError for any
    other name.
    """
    if end_token is not None:
        return with_end(name, files, end_token)
    if name == "bytes":
        return ByteTokenizer()
    if name == "chars":
        return CharTokenizer(["".join(characters_of(files))])
    kind, _, size = name.partition(":")
    if kind == "bpe":
        if not size.isdecimal():
            raise ValueError(f"--tokenizer {name}: expected bpe:SIZE, the size of the vocabulary, as in bpe:4096")
        return learn(files, int(size), END)
    if not Path(name).exists():
        hint = nearest(name, ["chars", "bytes", "bpe:SIZE", "or a folder with a tokenizer.json"])
        raise ValueError(f"--tokenizer {name}: no such folder{hint}")
    return Tokenizer.from_pretrained(name)


def characters_of(files: Sequence[str | Path | TextFile]) -> set[str]:
    """Return all characters of some files, which are read part by part. Raises ValueError if there are none."""
    found: set[str] = set()
    for file in files:
        for part in read_parts(file):
            found.update(part.decode("utf-8"))
    if not found:
        raise ValueError(f"{', '.join(map(str, files))}: the file is empty")
    return found


def with_end(name: str, files: Sequence[str | Path | TextFile], end_token: str) -> Tokenizer:
    """Return the tokenizer of a --tokenizer with an --end-token. Raises ValueError if it cannot have it."""
    kind, _, size = name.partition(":")
    if kind == "bpe" and size.isdecimal():
        return learn(files, int(size), end_token)
    tokenizer = make_tokenizer(name, files)
    try:
        return tokenizer.ending_with(end_token)
    except ValueError as error:
        raise ValueError(f"--end-token: {error}; --tokenizer bpe:SIZE learns a vocabulary with it") from None


def learn(files: Sequence[str | Path | TextFile], size: int, end_token: str) -> Tokenizer:
    """Learn a BPE from files, with this end token, which separates the documents in them."""
    texts = (text_file(file).ending(end_token) for file in files)
    return Tokenizer.train(texts, size, special_tokens=(end_token,)).ending_with(end_token)
