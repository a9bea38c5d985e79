"""A trained model to go on from with other text: what it decides for the run, and the tokens that are added to it."""

import copy
import dataclasses
import hashlib
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.config import GPTConfig, TrainConfig
from npgpt.data.source import PreparedSource, Source, TalesSource, TextSource
from npgpt.data.vocabulary import characters_of
from npgpt.hub.folders import find_folder
from npgpt.models.base import Model, end_ids
from npgpt.models.registry import open_model, refuse_generator, require_trainable, resized_model
from npgpt.support.fields import split_fields
from npgpt.support.notices import notice
from npgpt.tokenizer import BPETokenizer, CharTokenizer, Tokenizer
from npgpt.training.checkpoint import say_if_unevaluated
from npgpt.training.recipes import DROPOUTS, rate_of
from npgpt.training.run import open_tokenizer

# what a model to go on from brings along or has no use for, and why
REFUSED = {
    "tokenizer": "the model's tokenizer comes along",
    "preset": "the sizes are the model's",
    "init": "the weights are the model's",
    "pretrain": "the model has learned already",
}
FREE = (*DROPOUTS, "n_positions")  # of GPTConfig: what another run may have otherwise
OWN_ENDS = ("bos_token_id", "eos_token_id")
# The rate from random weights is so many times as large. A model of 96 channels, trained on Shakespeare, read 54 kB of
# English prose in 300 steps: at 2.4e-3, the rate from random weights, its loss is 1.87 and Shakespeare then costs it
# 3.58 bits per byte, 2.49 before; at a quarter 2.13 and 3.13, at an eighth 2.36 and 2.95.
GENTLER = 4
FURTHER: dict[str, Any] = {"max_steps": 1000, **dict.fromkeys(DROPOUTS, 0.0)}
TEXT = "text"  # the --vocab of the text's own characters
SOME = 10  # characters that an error shows


class Start(NamedTuple):
    """A model to go on from.

    name    as it was given
    record  what train.json says of it: its name and the SHA-256 of its weights, and what was added to its vocabulary
    """

    name: str
    record: dict[str, str | None]
    model: Model
    tokenizer: Tokenizer


def recorded_name(name: str) -> str:
    """Return how train.json names a model: the whole path of a folder, or the name on the hub."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def open_start(name: str, given: Mapping[str, Any]) -> Start:
    """Open a model to go on from. Raises FileNotFoundError or ValueError if that is not possible with what is given."""
    for other, reason in REFUSED.items():
        if other in given:
            raise ValueError(f"--{other} {given[other]} and --from {name}: {reason}; leave --{other} out")
    if not given.get("data"):
        raise ValueError(f"--from {name}: --data is missing: give the text to go on with")
    config = TrainConfig(**split_fields(given, TrainConfig, also=given)[0])
    folder = find_folder(name)
    model = open_model(folder, config.dtype, config.ops)
    require_trainable(model, name)
    refuse_generator(model, name, "give the GPT that its encoder was made from, or train it with npgpt train-generator")
    tokenizer = open_tokenizer(folder, model)
    say_if_unevaluated(folder)
    require_sizes_of(name, model.config, given)
    sha256 = hashlib.sha256(model.params.flat.tobytes()).hexdigest()
    record = {"name": recorded_name(name), "sha256": sha256, "vocab": given.get("vocab")}
    return Start(name, record, model, tokenizer)


def require_same_start(folder: Path, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError for another model to begin with, or other new tokens, than those that a run began with."""
    began = saved.get("from", {})
    before, name, vocab = began.get("name"), given.get("from"), given.get("vocab")
    if name is not None and recorded_name(name) != before:
        raise ValueError(
            f"--from {name}: {folder} began with {before or 'new weights'}, and --resume goes on from its own state: "
            "leave --from out"
        )
    if vocab is not None and vocab != began.get("vocab"):
        raise ValueError(f"--vocab {vocab}: the vocabulary of {folder} cannot change with --resume; leave --vocab out")


def require_sizes_of(name: str, config: GPTConfig, given: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that says otherwise what a trained model is."""
    for field in dataclasses.fields(GPTConfig):
        there = getattr(config, field.name)
        same = (there, config.mlp_width) if field.name == "n_inner" else (there,)
        if field.name not in given or field.name in FREE or given[field.name] in same:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        instead = "give --end-token, or leave it out" if field.name in OWN_ENDS else f"leave {flag} out"
        raise ValueError(f"{flag} {given[field.name]}: {field.name} of {name} is {there}, and stays so; {instead}")


def recipe_from(start: Start, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that suit a run from trained weights: their sizes, no dropout, and a lower learning rate."""
    config = start.model.config
    say_dropout(start, given)
    rate = float(f"{rate_of(config.n_embd, given.get('optimizer', 'adamw')) / GENTLER:.2g}")
    rates = {"learning_rate": rate, "min_lr": rate / 10}
    return {**dataclasses.asdict(config), **FURTHER, **rates, "tokenizer": recorded_name(start.name)}


def settled_from(model: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return what a run with minutes from a trained model does not choose: its sizes, its dropout and its rate."""
    names = ("optimizer", "learning_rate", "min_lr", "init")
    return {**model, **{name: getattr(config, name) for name in names}}


def say_dropout(start: Start, given: Collection[str]) -> None:
    """Give notice of a dropout that the model was trained with, and the run is not."""
    before = max(getattr(start.model.config, name) for name in DROPOUTS)
    if before and not {"dropout", *DROPOUTS} & {*given}:
        notice(f"dropout is 0 instead of the {before:g} of {start.name}; --dropout {before:g} keeps it")


def tokenizer_from(start: Start, source: Source, vocab: str | None, end_token: str | None) -> Tokenizer:
    """Return the model's tokenizer, with the tokens that --vocab adds, and the end token that is given.

    Raises ValueError if it cannot have them, or cannot encode the text.
    """
    tokenizer = start.tokenizer
    if isinstance(source, PreparedSource):
        return tokenizer_of_prepared(start, source, vocab, end_token)
    if vocab is not None:
        tokenizer = added(tokenizer, vocab, source)
    elif lacking := lacking_characters(tokenizer, source):
        raise ValueError(
            f"the text has {in_words(lacking)} that the tokenizer of {start.name} lacks: --vocab {TEXT} adds them to it"
        )
    if end_token is not None:
        tokenizer = tokenizer.ending_with(end_token)
    if isinstance(source, TalesSource):
        tokenizer.require_end_id()
    return tokenizer


def tokenizer_of_prepared(start: Start, source: PreparedSource, vocab: str | None, end_token: str | None) -> Tokenizer:
    """Return the tokenizer of a prepared folder. Raises ValueError if it is not that of the model."""
    name = source.tokenizer_name
    if vocab is not None:
        raise ValueError(f"--vocab {vocab}: {name} is tokenized already; leave --vocab out")
    tokenizer = source.make_tokenizer("", end_token)
    if tokenizer.to_json() != start.tokenizer.to_json():
        raise ValueError(
            f"{name} was prepared with another tokenizer than that of {start.name}; prepare it again: "
            f"npgpt prepare FILE --tokenizer {start.name} --out NEW"
        )
    size = start.model.config.vocab_size
    for ids in (source.prepared.train_ids, source.prepared.val_ids) if start.tokenizer.beyond else ():
        if len(ids) and ids.max() >= size:
            raise ValueError(f"{name} has the token {ids.max()}, and the model {start.name} only {size}")
    return tokenizer.below(size)


def lacking_characters(tokenizer: Tokenizer, source: Source) -> list[str]:
    """Return the characters of a text that a tokenizer of characters lacks, in the order of their code points."""
    if not (isinstance(tokenizer, CharTokenizer) and isinstance(source, TextSource)):
        return []
    return sorted(characters_of(source.texts.files) - {*tokenizer.characters})


def in_words(characters: Collection[str]) -> str:
    """Return how many characters there are, and the first of them: "3 characters ('a', 'b', 'c')"."""
    shown = (f"U+{ord(c):04X}" if unicodedata.combining(c) else repr(c) for c in [*characters][:SOME])
    some = ", ".join(shown) + (", ..." if len(characters) > SOME else "")
    return f"{len(characters):,} character{'s' if len(characters) > 1 else ''} ({some})"


def added(tokenizer: Tokenizer, vocab: str, source: Source) -> Tokenizer:
    """Return a tokenizer with the tokens of --vocab, after those that it has. Raises ValueError if it can have none."""
    if isinstance(tokenizer, CharTokenizer):
        if vocab == TEXT:
            new = lacking_characters(tokenizer, source)
        else:
            new = sorted({*"".join(lines_of(vocab))} - {*tokenizer.characters})
        notice(f"{in_words(new)} added to the vocabulary" if new else "the vocabulary lacks no character")
        return tokenizer.with_characters(new)
    if not isinstance(tokenizer, BPETokenizer):
        raise ValueError(f"--vocab {vocab}: {tokenizer.kind} can encode every text, and get no more; leave --vocab out")
    if vocab == TEXT:
        raise ValueError(
            f"--vocab {TEXT} adds characters to a vocabulary of characters, and this one is of byte-level BPE, which "
            "can encode every text: leave --vocab out, or give a file with tokens, one in each line"
        )
    before = tokenizer.vocabulary
    known = {*before.tokens}
    names = [name for name in lines_of(vocab) if name.encode() not in known]
    tokens, tokens_before = [*before.tokens, *(name.encode() for name in names)], len(before.tokens)
    ids = {name: tokens_before + i for i, name in enumerate(names)}
    try:
        found = BPETokenizer(*before._replace(tokens=tokens, added_tokens={**(before.added_tokens or {}), **ids}))
    except ValueError as error:
        raise ValueError(f"--vocab {vocab}: {error}") from None
    notice(f"{len(names):,} tokens added to the vocabulary")
    return found if tokenizer.end_token is None else found.ending_with(tokenizer.end_token)


def lines_of(vocab: str) -> list[str]:
    """Return the lines of a file of tokens, each once."""
    path = Path(vocab)
    if not path.is_file():
        raise FileNotFoundError(f"--vocab {vocab}: no such file; give {TEXT}, or a file with a token in each line")
    try:
        found = [line for line in dict.fromkeys(path.read_text(encoding="utf-8-sig").splitlines()) if line]
    except UnicodeDecodeError as error:
        raise ValueError(f"{vocab}: byte {error.start} is not UTF-8") from None
    if not found:
        raise ValueError(f"{vocab}: the file is empty")
    return found


def model_fields(start: Start, tokenizer: Tokenizer, end_token: str | None) -> dict[str, Any]:
    """Return the fields of GPTConfig that the tokens of a run decide."""
    config = start.model.config
    fields: dict[str, Any] = {"vocab_size": max(config.vocab_size, tokenizer.vocab_size)}
    if end_token is not None and tokenizer.end_id not in end_ids(config):
        fields |= dict.fromkeys(OWN_ENDS, tokenizer.end_id)
    return fields


def model_from(start: Start, config: GPTConfig, tokenizer: Tokenizer) -> Model:
    """Return the model to train, and say how its context differs from that of the model to go on from."""
    before, now = start.model.config.n_positions, config.n_positions
    if now != before:
        how = "its first positions stay as they were"
        if now > before:
            how = "its positions are interpolated, so the model has to get used to them"
        notice(f"the context is {now:,} tokens instead of the {before:,} of {start.name}: {how}")
    learned = np.setdiff1d(np.arange(start.tokenizer.vocab_size), start.tokenizer.holes)
    new = np.setdiff1d(np.arange(start.tokenizer.vocab_size, tokenizer.vocab_size), tokenizer.holes)
    return resized_model(copy.copy(start.model), config, learned, new)
