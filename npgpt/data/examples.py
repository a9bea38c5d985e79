"""Examples for fine-tuning, read from JSON lines: a prompt that the model reads, and a completion that it learns."""

import codecs
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.config import TextConfig
from npgpt.data.dialects import seems, seems_a_list
from npgpt.data.packing import Packed, pack, pack_in_order, too_long
from npgpt.data.text import full_names, open_texts
from npgpt.support.notices import notice
from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.stream import AS_IT_IS, TextFile, first_object, lines_of, read_parts, text_file

VALIDATE = 0.1  # the share of the examples that is kept for validation
MOST_TO_VALIDATE = 1000  # and the most examples that are


class Example(NamedTuple):
    """A prompt and its completion, their place as "file:line", and the prompts and completions that follow."""

    prompt: str
    completion: str
    where: str = ""
    more: tuple[tuple[str, str], ...] = ()

    def turns(self) -> tuple[tuple[str, str], ...]:
        """Return all pairs of a prompt and its completion, in order."""
        return ((self.prompt, self.completion), *self.more)


def read_examples(files: Sequence[str | Path | TextFile], completions: bool = True) -> list[Example]:
    """Read JSON lines, each an object with the strings `prompt` and `completion`; other keys are ignored.

    Both may be lists of equal length, the turns of a conversation. The model reads all earlier turns before a prompt.

    completions  whether each line must have one; if not, a missing completion is read as ""

    Blank lines are ignored, and strings are kept as they are, line ends included. Raises FileNotFoundError, or
    ValueError that names file and line for a line that is not such an object or has an empty completion, for a file
    that is not in its encoding, and for files without any example.
    """
    examples = []
    for file in map(text_file, files):
        plain = dataclasses.replace(file, config=dataclasses.replace(AS_IT_IS, encoding=file.config.encoding))
        for number, line in enumerate(lines_of(read_parts(plain)), 1):
            line = line.removeprefix(codecs.BOM_UTF8)  # of files that were joined
            if line.strip():
                examples.append(read_line(line, f"{file}:{number}", completions))
    if not examples:
        raise ValueError(f"{', '.join(map(str, files))}: there is no example to learn")
    return examples


def has_examples(file: TextFile) -> bool:
    """Say whether a file's first line is an object with prompt and completion, whatever the file is called."""
    return {"prompt", "completion"} <= (first_object(file) or {}).keys()


def read_line(line: bytes, where: str, completions: bool = True) -> Example:
    """Read one line. Raises ValueError, beginning with `where`, for a line that is not an example.

    Example: b'{"prompt": "1 + 1 = ", "completion": "2"}' gives Example("1 + 1 = ", "2", where).
    """
    value = read_object(line, where)
    for key in ("prompt", "completion") if completions else ("prompt",):
        if key not in value:
            raise ValueError(f"{where}: {key!r} is missing{seems(value)}")
    if not completions and "completion" not in value:
        prompts = value.get("prompt")
        value["completion"] = [""] * len(prompts) if isinstance(prompts, list) else ""
    prompts, learned = (strings(value, key, where) for key in ("prompt", "completion"))
    if len(prompts) != len(learned):
        raise ValueError(f"{where}: there are {len(prompts)} prompts, but {len(learned)} completions")
    if not prompts:
        raise ValueError(f"{where}: there is no prompt")
    if completions and not all(learned):
        raise ValueError(f"{where}: 'completion' is empty: there would be nothing to learn")
    first, *more = zip(prompts, learned, strict=True)
    return Example(*first, where, tuple(more))


def read_object(line: bytes, where: str) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError, beginning with `where`, for anything else."""
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        hint = seems_a_list(line) or "; each line must be a JSON object with prompt and completion"
        raise ValueError(f"{where}: not JSON: {error}{hint}") from None
    if not isinstance(value, dict):
        raise ValueError(
            f"{where}: expected an object with prompt and completion, got {type(value).__name__}{seems_a_list(line)}"
        )
    return value


def strings(value: dict[str, Any], key: str, where: str) -> list[str]:
    """Return the strings of a key, whose value is one or a list of them. Raises ValueError if it is anything else."""
    texts = value[key] if isinstance(value[key], list) else [value[key]]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{where}: {key!r} is {text!r}, not a string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise ValueError(f"{where}: {key!r} has the lone surrogate U+{code:04X}, half a character") from None
    return texts


def pack_examples(
    examples: Sequence[Example], tokenizer: Tokenizer, n_positions: int, in_order: bool = False
) -> Packed:
    """Pack examples into rows of a model's context. Raises ValueError, naming the line, for one that is too long.

    in_order  whether the first examples are to be learned first

    Prompts and completions are encoded separately, so a prompt has the same tokens in training as when it is asked.
    """
    ids, prompts = encode_examples(examples, tokenizer)
    long = too_long(ids, n_positions)
    if long.size:
        raise ValueError(f"{examples[long[0]].where}: {too_long_message(len(ids[long[0]]), n_positions)}")
    return (pack_in_order if in_order else pack)(ids, n_positions, tokenizer.require_end_id(), prompts)


def encode_examples(examples: Sequence[Example], tokenizer: Tokenizer) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the tokens of each example, with the end token between turns, and which tokens belong to a prompt."""
    turns = [example.turns() for example in examples]
    texts = tokenizer.encode_batch(text for pairs in turns for pair in pairs for text in pair)
    end = np.array([tokenizer.require_end_id()])
    ids, prompts, encoded = [], [], iter(texts)
    for pairs in turns:
        parts: list[tuple[np.ndarray, bool]] = []
        for number in range(len(pairs)):
            if number:
                parts.append((end, False))
            parts += [(next(encoded), True), (next(encoded), False)]
        ids.append(np.concatenate([part for part, _ in parts]))
        prompts.append(np.repeat([asked for _, asked in parts], [len(part) for part, _ in parts]))
    return ids, prompts


def too_long_message(size: int, n_positions: int) -> str:
    return f"{size} tokens and the end token do not fit into the model's context of {n_positions}"


class ExamplesSource:
    """Files of JSON lines to fine-tune on.

    files     absolute paths, from which --resume reads them again
    examples  in the order of the files, without those that were left out
    skipped   how many were left out because they are too long
    """

    def __init__(self, names: Sequence[str], encoding: str = "utf-8") -> None:
        texts = open_texts(names, TextConfig(encoding=encoding), kind="*.jsonl")
        self.files = full_names(names)
        self.examples = read_examples(texts.files)
        for line in texts.found:
            notice(line)
        self.skipped = 0

    def skip_long(self, tokenizer: Tokenizer, n_positions: int) -> None:
        """Leave out the examples that do not fit. Raises ValueError if none fits."""
        ids, _ = encode_examples(self.examples, tokenizer)
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
        """Return a SHA-256 of all prompts and completions."""
        sha = hashlib.sha256()
        for example in self.examples:
            for text in itertools.chain(*example.turns()):
                data = text.encode("utf-8")
                sha.update(f"{len(data)} ".encode() + data)
        return sha.hexdigest()

    def settings(self) -> dict[str, Any]:
        """Return what train.json records about the examples."""
        return {"files": self.files, "sha256": self.digest(), "examples": True}
