"""What --data names: text files, a folder of npgpt prepare, or the tales."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from npgpt.config import TextConfig, TrainConfig
from npgpt.data.batch import Dataset, Text
from npgpt.data.documents import pack_documents
from npgpt.data.packing import Packed
from npgpt.data.shards import Prepared, is_prepared, open_prepared
from npgpt.data.splitting import digest_of, end_of, require_enough, split_texts
from npgpt.data.tales.corpus import TRAIN, VALIDATE, VALIDATION_TALES, Floor, TalesCorpus, langs_of
from npgpt.data.text import full_names, open_texts
from npgpt.data.vocabulary import make_tokenizer
from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.stream import END, TextFile

TOKENIZER_TALES = 20_000  # tales from which a vocabulary is learned


class Source(Protocol):
    """Where training data comes from.

    files           names for --data, which --resume reads
    tokenizer_name  the name of the tokenizer that it comes with; None if one must be made
    """

    files: list[str]

    @property
    def tokenizer_name(self) -> str | None: ...

    def make_tokenizer(self, name: str, end_token: str | None = None) -> Tokenizer:
        """Return the tokenizer that --tokenizer and --end-token name.

        A vocabulary that must be learned is learned from this data.
        """

    def split(self, tokenizer: Tokenizer, n_positions: int, config: TrainConfig) -> tuple[Dataset, Dataset]:
        """Return the data for training and for validation."""

    def digest(self) -> str:
        """Return a SHA-256 of the data, from which a resumed run can tell that it is the same."""

    def settings(self) -> dict[str, Any]:
        """Return what train.json records about the data. Call it after split."""


def datasets(
    train_ids: np.ndarray, val_ids: np.ndarray, tokenizer: Tokenizer, n_positions: int, config: TrainConfig
) -> tuple[Dataset, Dataset]:
    """Return what the ids of a text are drawn from: running text or, with config.pack, its documents."""
    if not config.pack:
        return Text(train_ids, n_positions), Text(val_ids, n_positions)
    try:
        end_id = tokenizer.require_end_id()
        return pack_documents(train_ids, n_positions, end_id), pack_documents(val_ids, n_positions, end_id)
    except ValueError as error:
        raise ValueError(f"--pack: {error}; see --document-separator") from None


class TextSource:
    """Text files.

    beside  other texts, which are no part of the data, but from which a vocabulary is learned, too
    """

    tokenizer_name = None

    def __init__(self, names: Sequence[str], config: TextConfig) -> None:
        self.config = config
        self.files = full_names(names)
        self.texts = open_texts(names, config)
        self.beside: list[TextFile] = []
        self.packed = False

    def make_tokenizer(self, name: str, end_token: str | None = None) -> Tokenizer:
        return make_tokenizer(name, [*self.texts.files, *self.beside], end_token)

    def split(self, tokenizer: Tokenizer, n_positions: int, config: TrainConfig) -> tuple[Dataset, Dataset]:
        parts = split_texts(self.texts.files, tokenizer)
        require_enough(*parts, n_positions)
        if config.pack and (separator := self.texts.missing_separator()):
            raise ValueError(f"--pack: --document-separator '{separator}' is nowhere in the text: it has no documents")
        self.texts.report(end_of(tokenizer))
        self.packed = config.pack
        return datasets(*parts, tokenizer, n_positions, config)

    def digest(self) -> str:
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        return digest_of(self.texts.files)

    def settings(self) -> dict[str, Any]:
        data = {"files": self.files, "sha256": self.digest(), "reading": dataclasses.asdict(self.config)}
        return data | ({"examples": True} if self.packed else {})


class PreparedSource:
    """A folder of npgpt prepare, which comes with its tokenizer."""

    def __init__(self, name: str) -> None:
        self.tokenizer_name = str(name)
        self.files = [str(Path(name).resolve())]
        self.prepared: Prepared = open_prepared(name)
        self.packed = False

    def make_tokenizer(self, name: str, end_token: str | None = None) -> Tokenizer:
        if end_token not in (None, self.prepared.tokenizer.end_token):
            raise ValueError(f"--end-token {end_token}: {self.files[0]} is tokenized already; leave --end-token out")
        return self.prepared.tokenizer

    def split(self, tokenizer: Tokenizer, n_positions: int, config: TrainConfig) -> tuple[Dataset, Dataset]:
        parts = self.prepared.train_ids, self.prepared.val_ids
        require_enough(*parts, n_positions)
        self.packed = config.pack
        return datasets(*parts, tokenizer, n_positions, config)

    def digest(self) -> str:
        return self.prepared.sha256

    def settings(self) -> dict[str, Any]:
        data = {"files": self.files, "sha256": self.digest()}
        return data | ({"examples": True} if self.packed else {})


class TalesSource:
    """The tales that come with npgpt, as many as the run will use."""

    tokenizer_name = None

    def __init__(self, name: str, langs: tuple[str, ...], seed: int) -> None:
        self.files = [name]
        self.corpus = TalesCorpus(langs, seed)
        self.n_train = 0
        self.val_tokens = 0

    def make_tokenizer(self, name: str, end_token: str | None = None) -> Tokenizer:
        kind, _, size = name.partition(":")
        if kind == "bpe" and size.isdecimal():
            end = end_token or END
            texts = self.corpus.texts(TOKENIZER_TALES, TRAIN)
            return Tokenizer.train(texts, int(size), special_tokens=(end,)).ending_with(end)
        if name in ("chars", "bytes"):
            raise ValueError(
                f"--tokenizer {name}: tales need a token that ends them, which {name} do not have; give bpe:SIZE"
            )
        return make_tokenizer(name, [], end_token)

    def split(self, tokenizer: Tokenizer, n_positions: int, config: TrainConfig) -> tuple[Packed, Packed]:
        n_rows = config.batch_size * config.gradient_accumulation_steps * config.max_steps
        self.n_train = self.corpus.n_tales(tokenizer, n_rows, n_positions)
        train = self.corpus.packed(tokenizer, self.n_train, TRAIN, n_positions)
        val = self.corpus.packed(tokenizer, VALIDATION_TALES, VALIDATE, n_positions)
        self.val_tokens = val.size
        return train, val

    def floor(self) -> Floor:
        """Return the floor of the validation tales."""
        return self.corpus.floor(VALIDATION_TALES)

    def floor_a_token(self) -> float:
        """Return the floor of the loss on the validation tales, in nats per token."""
        return self.floor().nats / self.val_tokens

    def digest(self) -> str:
        return self.corpus.digest()

    def settings(self) -> dict[str, Any]:
        """Return what train.json records: also that the run learns texts with an end, and the floor of its loss."""
        data = {"files": self.files, "sha256": self.digest()}
        return data | {"examples": True, "floor": self.floor_a_token()}


def open_source(names: Sequence[str], seed: int, config: TextConfig | None = None) -> Source:
    """Open what --data names; config says how text files are read.

    Raises FileNotFoundError or ValueError if it cannot be read or combined.
    """
    for name in names:
        langs = langs_of(name)
        if langs and len(names) > 1:
            raise ValueError(f"{name}: tales must be the only --data; to read a file of this name, give ./{name}")
        if langs:
            return TalesSource(name, langs, seed)
        if is_prepared(name) and len(names) > 1:
            raise ValueError(f"{name} is a folder of npgpt prepare, which must be the only --data")
        if is_prepared(name):
            return PreparedSource(name)
    return TextSource(names, config or TextConfig())
