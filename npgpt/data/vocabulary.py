"""The tokenizer that --tokenizer names."""

from collections.abc import Sequence
from pathlib import Path

from npgpt.support.hints import nearest
from npgpt.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from npgpt.tokenizer.stream import END, TextFile, read_parts, text_file


def make_tokenizer(name: str, files: Sequence[str | Path | TextFile]) -> Tokenizer:
    """Return the tokenizer of a --tokenizer: "chars", "bytes", "bpe:SIZE", or a folder that holds one.

    Characters and BPE learn their vocabulary from the files, which are read part by part. Raises ValueError for any
    other name.
    """
    if name == "bytes":
        return ByteTokenizer()
    if name == "chars":
        found: set[str] = set()
        for file in files:
            for part in read_parts(file):
                found.update(part.decode("utf-8"))
        if not found:
            raise ValueError(f"{', '.join(map(str, files))}: the file is empty")
        return CharTokenizer(["".join(found)])
    kind, _, size = name.partition(":")
    if kind == "bpe":
        if not size.isdecimal():
            raise ValueError(f"--tokenizer {name}: expected bpe:SIZE, the size of the vocabulary, as in bpe:4096")
        return Tokenizer.train((text_file(file).ending(END) for file in files), int(size))
    if not Path(name).exists():
        hint = nearest(name, ["chars", "bytes", "bpe:SIZE", "or a folder with a tokenizer.json"])
        raise ValueError(f"--tokenizer {name}: no such folder{hint}")
    return Tokenizer.from_pretrained(name)
