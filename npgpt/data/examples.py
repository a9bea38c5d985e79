"""Prompts and completions from JSON lines, as examples to learn: a prompt is read, its completion is learned."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.data.packing import Packed, pack, pack_in_order, too_long
from npgpt.tokenizer import Tokenizer

VALIDATE = 0.1  # the share of the examples
MOST_TO_VALIDATE = 1000  # and their number, at most


class Example(NamedTuple):
    """A prompt and its completion, where they stand: "file:line", and what prompts and completions follow them."""

    prompt: str
    completion: str
    where: str = ""
    more: tuple[tuple[str, str], ...] = ()

    def turns(self) -> tuple[tuple[str, str], ...]:
        """Return all pairs of a prompt and its completion."""
        return ((self.prompt, self.completion), *self.more)


def read_examples(files: Sequence[str | Path], completions: bool = True) -> list[Example]:
    """Read JSON lines, each an object with the strings `prompt` and `completion`; other keys are not looked at.

    Both may be lists of as many strings, the turns of a conversation: the model reads all of it up to a prompt.

    completions  whether each must have one; a line without has the completion ""

    A blank line is passed over. Raises FileNotFoundError, or ValueError that names file and line for one that is not
    such an object, is not UTF-8, or has an empty completion, and for files without any example.
    """
    examples = []
    for file in files:
        if Path(file).is_dir():
            raise ValueError(f"{file} is a folder; give a file of JSON lines")
        if not Path(file).exists():
            raise FileNotFoundError(f"{file}: no such file")
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    examples.append(read_line(line, f"{file}:{number}", completions))
    if not examples:
        raise ValueError(f"{', '.join(map(str, files))}: there is no example in it")
    return examples


def read_line(line: bytes, where: str, completions: bool = True) -> Example:
    """Read one line. Raises ValueError, beginning with `where`, for one that is no example."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8: byte 0x{line[error.start]:02x}; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object with prompt and completion, got {type(value).__name__}")
    if not completions and "completion" not in value:
        prompts = value.get("prompt")
        value["completion"] = [""] * len(prompts) if isinstance(prompts, list) else ""
    texts: dict[str, list[str]] = {}
    for key in ("prompt", "completion"):
        if key not in value:
            raise ValueError(f"{where}: {key!r} is missing")
        texts[key] = several = value[key] if isinstance(value[key], list) else [value[key]]
        for text in several:
            if not isinstance(text, str):
                raise ValueError(f"{where}: {key!r} is {text!r}, not a string")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                code = ord(text[error.start])
                raise ValueError(f"{where}: {key!r} has the lone surrogate U+{code:04X}, half a character") from None
    n, n_completions = len(texts["prompt"]), len(texts["completion"])
    if n != n_completions:
        raise ValueError(f"{where}: there are {n} prompts, but {n_completions} completions")
    if not n:
        raise ValueError(f"{where}: there is no prompt")
    if completions and not all(texts["completion"]):
        raise ValueError(f"{where}: 'completion' is empty: there would be nothing to learn")
    first, *more = zip(texts["prompt"], texts["completion"], strict=True)
    return Example(*first, where, tuple(more))


def pack_examples(
    examples: Sequence[Example], tokenizer: Tokenizer, n_positions: int, in_order: bool = False
) -> Packed:
    """Return examples as rows of a model's context. Raises ValueError, naming the line, for one that is too long.

    in_order  whether the first of the examples are to be learned first

    Every prompt and completion is encoded by itself: so a prompt's tokens are those that the model is asked with.
    """
    ids, prompts = encode_examples(examples, tokenizer)
    long = too_long(ids, n_positions)
    if long.size:
        raise ValueError(f"{examples[long[0]].where}: {too_long_message(len(ids[long[0]]), n_positions)}")
    return (pack_in_order if in_order else pack)(ids, n_positions, tokenizer.require_end_id(), prompts)


def encode_examples(examples: Sequence[Example], tokenizer: Tokenizer) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the tokens of each example, the end token between its turns, and which of them belong to a prompt."""
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
    return f"{size} tokens and the one that ends them do not fit into the model's context of {n_positions}"


class ExamplesSource:
    """Files of JSON lines to fine-tune on.

    files     how --data names them, for --resume
    examples  in the order of the files, without those that were left out
    skipped   how many were too long, and left out
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.files = [str(Path(name).resolve()) for name in names]
        self.examples = read_examples(names)
        self.skipped = 0

    def skip_long(self, tokenizer: Tokenizer, n_positions: int) -> None:
        """Leave out the examples that do not fit. Raises ValueError where none does."""
        ids, _ = encode_examples(self.examples, tokenizer)
        long = set(too_long(ids, n_positions).tolist())
        if len(long) == len(ids):
            shortest = min(map(len, ids))
            raise ValueError(f"no example fits: the shortest has {too_long_message(shortest, n_positions)}")
        self.examples = [example for number, example in enumerate(self.examples) if number not in long]
        self.skipped = len(long)

    def split(self, seed: int, in_order: bool = False) -> tuple[list[Example], list[Example]]:
        """Return the examples to train on, and those to validate: a random tenth, 1,000 at the most.

        in_order  whether they are a course, whose last examples are what it leads to: then the last ones validate

        Raises ValueError for fewer than two examples.
        """
        n = len(self.examples)
        if n < 2:
            raise ValueError(f"{n} example is too few: it takes one to train on and one to validate")
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
        """Return what train.json keeps of it."""
        return {"files": self.files, "sha256": self.digest(), "examples": True}
