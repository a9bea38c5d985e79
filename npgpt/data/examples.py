"""Examples for fine-tuning, read from JSON lines: a prompt that the model reads, and a completion that it learns."""

import codecs
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.config import TextConfig
from npgpt.data.dialects import PAIRS, Example, Kind, kind_of, read_object, read_value, require_object
from npgpt.data.packing import Packed, pack, pack_in_order, too_long
from npgpt.data.templates import AS_GIVEN, Template, encoded, turn_parts
from npgpt.data.text import amount, full_names, open_texts
from npgpt.support.notices import notice
from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.stream import AS_IT_IS, TextFile, first_object, lines_of, read_parts, text_file

VALIDATE = 0.1  # the share of the examples that is kept for validation
MOST_TO_VALIDATE = 1000  # and the most examples that are
FRAME = "to_json(NEW, orient='records', lines=True, force_ascii=False)"
TABLES = {  # by their suffix: how pandas writes them as JSON lines
    ".csv": f"pandas.read_csv(FILE).{FRAME}",
    ".tsv": f"pandas.read_csv(FILE, sep='\\t').{FRAME}",
    ".parquet": f"pandas.read_parquet(FILE).{FRAME}",
    ".arrow": f"pandas.read_feather(FILE).{FRAME}",
    ".xlsx": f"pandas.read_excel(FILE).{FRAME}",
}


class Lines(NamedTuple):
    """The examples of some files, which are all of one kind."""

    kind: Kind
    examples: list[Example]


def read_examples(files: Sequence[str | Path | TextFile], completions: bool = True) -> list[Example]:
    """Read JSON lines, each an object with the strings `prompt` and `completion`, or of another kind of KINDS.

    `prompt` and `completion` may be lists of equal length, the turns of a conversation. The model reads all earlier
    turns before a prompt. Other keys are ignored. A file may also be one list of such objects.

    completions  whether each line must have one; if not, a missing completion is read as ""

    Blank lines are ignored, and strings are kept as they are, line ends included. Raises FileNotFoundError, or
    ValueError that names file and line for a line that is not such an object or has an empty completion, for a line of
    another kind than the first, for a file that is not in its encoding, and for files without any example.
    """
    return read_lines(files, completions).examples


def read_lines(files: Sequence[str | Path | TextFile], completions: bool = True) -> Lines:
    """Read examples as read_examples does, and return their kind, too. A notice says it, unless it is the usual one.

    A chat that ends with the user has nothing to learn there. If completions are asked for, that last message is left
    out, and the notice says how often.
    """
    examples: list[Example] = []
    kind, cut = None, 0
    for file in map(text_file, files):
        for where, value in objects_of(file):
            found = kind_of(value, completions)
            kind = kind or found or PAIRS
            if found not in (None, kind) and not kind.has(value, completions):
                raise ValueError(
                    f"{where}: {found.what}, but {examples[0].where} has {kind.what}: give lines of one kind"
                )
            example = read_value(value, kind, where, completions)
            if completions and not example.turns()[-1][1]:  # of a chat: others are refused
                example, cut = without_last(example), cut + 1
            examples.append(example)
    if kind is None:
        raise ValueError(f"{', '.join(map(str, files))}: there is no example to learn")
    if kind is not PAIRS:
        names = str(files[0]) if len(files) == 1 else f"{len(files):,} files"
        left_out = f"; {cut:,} of them end with the user, and that last message is left out" if cut else ""
        notice(f"{names}: {kind.what}, {amount(len(examples), 'line')}{left_out}")
    return Lines(kind, examples)


def without_last(example: Example) -> Example:
    """Return a chat without its last turn. Raises ValueError if it has no other."""
    if not example.more:
        raise ValueError(f"{example.where}: no message of the assistant: there would be nothing to learn")
    return example._replace(more=example.more[:-1])


def objects_of(file: TextFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines, or of one list in JSON, with their places.

    Raises ValueError for a line, or an entry of the list, that is no object, and for a table, which is read elsewhere.
    """
    if file.path.suffix in TABLES:
        raise ValueError(f"{file}: a table: write it as JSON lines first, with {TABLES[file.path.suffix]}")
    parts = read_parts(as_it_is(file))
    first = next(parts, b"")
    parts = itertools.chain((first,), parts)
    if is_list(first):
        yield from entries_of(file, b"".join(parts))
        return
    for number, line in enumerate(lines_of(parts), 1):
        line = line.removeprefix(codecs.BOM_UTF8)  # of files that were joined
        if line.strip():
            where = f"{file}:{number}"
            yield where, read_object(line, where)


def as_it_is(file: TextFile) -> TextFile:
    """Return a file that is read with its line ends, and not as documents."""
    return dataclasses.replace(file, config=dataclasses.replace(AS_IT_IS, encoding=file.config.encoding))


def is_list(start: bytes) -> bool:
    """Say whether a file that begins so is one list of objects in JSON."""
    return re.match(rb"\s*\[\s*(\{|\]|$)", start.removeprefix(codecs.BOM_UTF8)) is not None


def entries_of(file: TextFile, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the entries of a list in JSON with their places, the first of which is entry 1."""
    try:
        values = json.loads(data.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a list in JSON: {error}") from None
    for number, value in enumerate(values, 1):
        where = f"{file}: entry {number}"
        yield where, require_object(value, where)


def has_examples(file: TextFile) -> bool:
    """Say whether a file's first object is an example, whatever the file is called. With a text it must be a pair."""
    value = first_object(file) or first_entry(file) or {}
    kind = kind_of(value)
    return kind is PAIRS or (kind is not None and "text" not in value)


def first_entry(file: TextFile) -> dict[str, Any] | None:
    """Return the first object of a list in a file named *.json; None if the file is no such list."""
    if file.path.suffix != ".json" or not is_list(next(read_parts(as_it_is(file)), b"")):
        return None
    return next((value for _, value in objects_of(file)), None)


def pack_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    n_positions: int,
    in_order: bool = False,
    template: Template = AS_GIVEN,
) -> Packed:
    """Pack examples into rows of a model's context. Raises ValueError, naming the line, for one that is too long.

    in_order  whether the first examples are to be learned first
    template  how they are read

    Prompts and completions are encoded separately, so a prompt has the same tokens in training as when it is asked.
    """
    ids, prompts = encode_examples(examples, tokenizer, template)
    long = too_long(ids, n_positions)
    if long.size:
        raise ValueError(f"{examples[long[0]].where}: {too_long_message(len(ids[long[0]]), n_positions)}")
    return (pack_in_order if in_order else pack)(ids, n_positions, tokenizer.require_end_id(), prompts)


def encode_examples(
    examples: Sequence[Example], tokenizer: Tokenizer, template: Template = AS_GIVEN
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the tokens of each example, with the end token between turns, and which tokens belong to a prompt."""
    tokenizer.require_end_id()
    parts = [turn_parts(template, tokenizer, one.turns(), one.system, one.input) for one in examples]
    return encoded(parts, tokenizer)


def too_long_message(size: int, n_positions: int) -> str:
    return f"{size} tokens and the end token do not fit into the model's context of {n_positions}"


class ExamplesSource:
    """Files of JSON lines to fine-tune on.

    files     absolute paths, from which --resume reads them again
    examples  in the order of the files, without those that were left out
    skipped   how many were left out because they are too long
    template  how they are read: the one that is given, or that of their kind
    """

    def __init__(self, names: Sequence[str], encoding: str = "utf-8", template: Template | None = None) -> None:
        texts = open_texts(names, TextConfig(encoding=encoding), kind="*.jsonl")
        self.files = full_names(names)
        self.kind, self.examples = read_lines(texts.files)
        self.template = template or self.kind.template
        for line in texts.found:
            notice(line)
        self.skipped = 0

    def skip_long(self, tokenizer: Tokenizer, n_positions: int) -> None:
        """Leave out the examples that do not fit. Raises ValueError if none fits."""
        ids, _ = encode_examples(self.examples, tokenizer, self.template)
        long = set(too_long(ids, n_positions).tolist())
        if len(long) == len(ids):
            shortest = min(map(len, ids))
            raise ValueError(f"no example fits: the shortest has {too_long_message(shortest, n_positions)}")
        self.examples = [example for number, example in enumerate(self.examples) if number not in long]
        self.skipped = len(long)

    def split(self, seed: int, in_order: bool = False) -> tuple[list[Example], list[Example]]:
        """Return the examples to train on, and those for validation: a random tenth, at most 1,000.

        in_order  whether the examples are a course. Then the last ones, which it leads up to, are for validation

        Raises ValueError for fewer than two examples.
        """
        n = len(self.examples)
        if n < 2:
            raise ValueError(f"{n} example is too few: at least one to train on and one for validation are needed")
        n_val = min(MOST_TO_VALIDATE, max(1, int(VALIDATE * n)))
        order = np.arange(n)[::-1] if in_order else np.random.default_rng(seed).permutation(n)
        val = set(order[:n_val].tolist())
        parts: tuple[list[Example], list[Example]] = [], []
        for number, example in enumerate(self.examples):
            parts[number in val].append(example)
        return parts

    def digest(self) -> str:
        """Return a SHA-256 of all prompts, as the template has them, and completions."""
        sha = hashlib.sha256()
        for example in self.examples:
            (_, completion), *more = example.turns()
            prompt = self.template.shown(example.prompt, example.system, example.input)
            framed = ((self.template.shown(asked), said) for asked, said in more)
            for text in itertools.chain((prompt, completion), *framed):
                data = text.encode("utf-8")
                sha.update(f"{len(data)} ".encode() + data)
        return sha.hexdigest()

    def settings(self) -> dict[str, Any]:
        """Return what train.json records about the examples."""
        return {"files": self.files, "sha256": self.digest(), "examples": True, "template": self.template.text}
