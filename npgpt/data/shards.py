"""Token shards: a text tokenized once, as arrays on disk that are mapped into memory, whatever their size.

A folder holds train.tokens, val.tokens and the tokenizer. A shard is a header of 128 bytes and the ids after it:

    16 bytes   b"npgpt tokens 1\\n\\0"
     4 bytes   bytes of an id, 2 or 4; little-endian, as everything here
     4 bytes   vocab_size
     8 bytes   number of ids
    32 bytes   SHA-256 of the ids
    32 bytes   the tokenizer's fingerprint
    32 bytes   zeros
"""

import functools
import hashlib
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt.data.splitting import copy, encode_texts, id_type
from npgpt.data.text import BLOCK
from npgpt.support.files import begun, is_cut_short, naming, remove_files, remove_parts, write_atomically
from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.base import FILES as TOKENIZER_FILES
from npgpt.tokenizer.stream import TextFile

MAGIC = b"npgpt tokens 1\n\0"
HEADER = struct.Struct("<16sIIQ32s32s32x")
NAMES = ("train.tokens", "val.tokens")
FILES = (*TOKENIZER_FILES, *NAMES)


def is_prepared(folder: str | Path) -> bool:
    """Say whether a path is a folder with shards."""
    return any((Path(folder) / name).is_file() for name in NAMES)


def prepare(
    files: Iterable[str | Path | TextFile],
    folder: str | Path,
    tokenizer: Tokenizer,
    progress: Callable[[int], object] = lambda n: None,
) -> tuple[int, int]:
    """Tokenize text files into a folder: the first 90% of each file's tokens for training, the rest for validation.

    Documents are recognised, and parted, as in data/splitting.py. Memory does not grow with the files. `progress` is
    called with the number of ids of each part. Returns the number of ids for training and for validation. Raises
    ValueError, naming the file, for a text that is empty or cannot be encoded, and then leaves no shards.
    """
    folder = Path(folder)
    with begun(folder, FILES), naming(folder):
        return _prepare(files, folder, tokenizer, progress)


def _prepare(
    files: Iterable[str | Path | TextFile], folder: Path, tokenizer: Tokenizer, progress: Callable[[int], object]
) -> tuple[int, int]:
    dtype = id_type(tokenizer)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".prepare-") as room:
        parts = [Path(room) / name for name in NAMES]
        with parts[0].open("wb") as train, parts[1].open("wb") as val:
            new_file = functools.partial(tempfile.TemporaryFile, dir=room)
            counts = encode_texts(files, tokenizer, train, val, new_file, progress)
        if min(counts) < 2:
            raise ValueError(
                f"the text is too short: {counts[0]} tokens to train on and {counts[1]} for validation, but training "
                "needs at least 2 and 2"
            )
        tokenizer.save_pretrained(folder)
        for name, part, count in zip(NAMES, parts, counts, strict=True):
            header = HEADER.pack(
                MAGIC,
                dtype.itemsize,
                tokenizer.vocab_size,
                count,
                sha256(part, 0),
                bytes.fromhex(tokenizer.fingerprint()),
            )
            write_atomically(folder / name, functools.partial(join, header, part))
    return counts


def remove_unfinished(folder: Path) -> None:
    """Remove what a `prepare` that was killed has left in a folder, whose lock is held."""
    if is_cut_short(folder, NAMES[-1]):
        remove_files(folder, FILES)
    remove_parts(folder, FILES)
    for room in folder.glob(".prepare-*"):
        if re.fullmatch(r"\.prepare-\w{8}", room.name):
            shutil.rmtree(room, ignore_errors=True)


def join(header: bytes, part: Path, path: Path) -> None:
    with path.open("wb") as target, part.open("rb") as source:
        target.write(header)
        copy(source, target, part.stat().st_size)


def sha256(path: Path, start: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.digest()


class Prepared(NamedTuple):
    """A folder of npgpt prepare: ids, read-only and mapped into memory, their tokenizer, and a SHA-256 of all of it."""

    train_ids: np.ndarray
    val_ids: np.ndarray
    tokenizer: Tokenizer
    sha256: str


def open_prepared(folder: str | Path) -> Prepared:
    """Open a folder of npgpt prepare.

    Raises FileNotFoundError for a missing file, and ValueError for a shard that is cut off, damaged, or made with
    another tokenizer than the folder's.
    """
    folder = Path(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    digest = hashlib.sha256()
    shards = []
    for name in NAMES:
        ids, checksum = open_shard(folder / name, tokenizer)
        shards.append(ids)
        digest.update(checksum)
    digest.update(bytes.fromhex(tokenizer.fingerprint()))
    return Prepared(shards[0], shards[1], tokenizer, digest.hexdigest())


def open_shard(path: Path, tokenizer: Tokenizer) -> tuple[np.ndarray, bytes]:
    """Return a shard's ids, read-only and mapped into memory, and their SHA-256, which has been checked."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; npgpt prepare writes it")
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        raise ValueError(f"{path}: not a token shard of npgpt")
    _, item, vocab_size, count, checksum, fingerprint = HEADER.unpack(header)
    if item not in (2, 4) or any(header[-32:]):
        raise ValueError(f"{path}: ids of {item} bytes, expected 2 or 4, or a header of another kind: it is damaged")
    if size != HEADER.size + item * count:
        raise ValueError(
            f"{path}: {size:,} bytes, expected {HEADER.size + item * count:,} for {count:,} ids: the file is cut off, "
            "or longer than it was; run npgpt prepare again"
        )
    if fingerprint.hex() != tokenizer.fingerprint() or vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"{path}: made with another tokenizer than the one beside it: its fingerprint is {fingerprint.hex()[:12]}, "
            f"expected {tokenizer.fingerprint()[:12]}; run npgpt prepare again"
        )
    if sha256(path, HEADER.size) != checksum:
        raise ValueError(f"{path}: the checksum is wrong: the file is damaged; run npgpt prepare again")
    if not count:
        return np.empty(0, f"<u{item}"), checksum
    return np.asarray(np.memmap(path, f"<u{item}", "r", HEADER.size, (count,))), checksum
