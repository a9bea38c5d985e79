"""Tales as training data: some to train on, others to validate, and the floor of their loss."""

import hashlib
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from npgpt.data.packing import Packed, pack
from npgpt.data.splitting import ContextError
from npgpt.data.tales.entropy import nats
from npgpt.data.tales.generate import styles, tales, tell
from npgpt.data.tales.grammar import FILES
from npgpt.data.tales.words import LANGS
from npgpt.tokenizer import Tokenizer

NAME = "tales"
# parts of a seed: tales to train on and to validate with, and tales to make tasks from, to learn and to test
TRAIN, VALIDATE, LEARN, TEST = 0, 1, 2, 3
VALIDATION_TALES = 1000
MOST_TALES = 400_000  # some 300 MB of tokens in memory; a longer run repeats them


class Floor(NamedTuple):
    """The floor of some tales, below which no model's loss can get: the sum of -log p, and their length and number."""

    nats: float
    n_bytes: int
    n_tales: int

    @property
    def a_byte(self) -> float:
        return self.nats / self.n_bytes


def langs_of(name: str) -> tuple[str, ...] | None:
    """Return the languages of a --data such as tales, tales:en, tales:zh or tales:en+zh; None for a file.

    Example: "tales" gives ("en", "zh"), and "tales:zh" gives ("zh",).

    Raises ValueError for a language that the tales do not have, and for one that is given twice.
    """
    head, _, rest = name.partition(":")
    if head != NAME:
        return None
    langs = tuple(rest.split("+")) if rest else LANGS
    if not set(langs) <= set(LANGS) or len(set(langs)) != len(langs):
        raise ValueError(f"--data {name}: tales are told in {' and '.join(LANGS)}, as in tales:{'+'.join(LANGS)}")
    return langs


class TalesCorpus(NamedTuple):
    """The tales of a seed in some languages, which take turns: with en and zh, every second tale is in Chinese."""

    langs: tuple[str, ...]
    seed: int

    def texts(self, n: int, part: int) -> Iterator[str]:
        """Yield the texts of n tales."""
        us = {lang: styles(self.seed, lang, part) for lang in self.langs}
        told = zip(tales(self.seed, part), itertools.cycle(self.langs), strict=False)
        return (tell(tale, lang, us[lang]) for tale, lang in itertools.islice(told, n))

    def floor(self, n: int, part: int = VALIDATE) -> Floor:
        """Return the floor of n tales, with log(number of languages) per tale, as its language cannot be predicted."""
        told = zip(tales(self.seed, part), itertools.cycle(self.langs), strict=False)
        total = sum(nats(tale, lang) for tale, lang in itertools.islice(told, n)) + n * math.log(len(self.langs))
        return Floor(total, sum(len(text.encode()) for text in self.texts(n, part)), n)

    def packed(self, tokenizer: Tokenizer, n: int, part: int, n_positions: int) -> Packed:
        """Return n tales as rows of a model's context. Raises ContextError if the longest does not fit."""
        examples = tokenizer.encode_batch(self.texts(n, part))
        longest = max(map(len, examples)) + 1
        if longest > n_positions:
            raise ContextError(
                f"n_positions={n_positions} is too short: the longest of the tales has {longest} tokens, its end "
                "included; train with a larger n_positions, or a larger vocabulary",
                fits=2 * longest,  # room for two, as in the recipes
            )
        return pack(examples, n_positions, tokenizer.require_end_id())

    def n_tales(self, tokenizer: Tokenizer, n_rows: int, n_positions: int) -> int:
        """Return how many tales fill n_rows rows, estimated from 500 of them; at most MOST_TALES."""
        sizes = [len(ids) + 1 for ids in tokenizer.encode_batch(self.texts(500, TRAIN))]
        return min(MOST_TALES, int(1.05 * n_rows * n_positions * len(sizes) / sum(sizes)) + 1)

    def digest(self) -> str:
        """Return a SHA-256 of what determines the tales: languages, seed, and the grammar without its tasks."""
        sha = hashlib.sha256(f"{'+'.join(self.langs)} {self.seed}".encode())
        for file in FILES:
            for line in file.read_bytes().splitlines():
                if line[2:3] not in (b"?", b"="):  # questions and summaries
                    sha.update(line + b"\n")
        return sha.hexdigest()
