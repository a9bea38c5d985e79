"""Texts encoded, and split into parts for training and for validation: between two documents, where there are any."""

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from npgpt.data.text import BLOCK, Named
from npgpt.support.files import naming
from npgpt.support.notices import notice
from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.stream import TextFile, read_parts, text_file

TRAIN_SHARE = 0.9
BORDERS = (0.8, 0.99)  # between which a text may be cut instead, so that it is cut between documents
LARGE = 1 << 26  # bytes of text whose ids are kept in a temporary file, not in memory


class ContextError(ValueError):
    """Data that do not suit n_positions.

    fits  the nearest n_positions that would do; None if none would
    """

    def __init__(self, message: str, fits: int | None) -> None:
        super().__init__(message)
        self.fits = fits


def end_of(tokenizer: Tokenizer) -> str | None:
    """Return the text of the token that ends a document; None if there is none."""
    return None if tokenizer.end_id is None else tokenizer.decode([tokenizer.end_id])


def encoded(file: Named, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Yield the ids of a text file, part by part. Each of its documents ends with the end token.

    Raises ValueError if the settings ask for documents, and the tokenizer has no end token.
    """
    text = text_file(file)
    separator, end_id = text.config.document_separator, tokenizer.end_id
    if end_id is None and separator not in ("auto", "none"):
        raise ValueError(
            f"--document-separator {separator}: a tokenizer of the kind {tokenizer.kind} has no token that ends a "
            "document; train with --tokenizer bpe:SIZE, as in bpe:4096"
        )
    if end_id is None or separator == "none":
        yield from tokenizer.encode_file(text.ending(None))
        return
    end = end_of(tokenizer)
    encode: Any = tokenizer.encode_file  # only tokenizers with an end token take allowed_special
    n = last = 0
    for ids in encode(text.ending(end), allowed_special=[end]):
        n += int(np.count_nonzero(ids == end_id))
        last = ids[-1] if len(ids) else last
        yield ids
    if (n or separator == "file") and last != end_id:
        n += 1
        yield np.array([end_id], np.int32)
    text.seen["documents"] = n


def encode_texts(
    files: Iterable[Named],
    tokenizer: Tokenizer,
    train: BinaryIO,
    val: BinaryIO,
    new_file: Callable[[], Any],
    progress: Callable[[int], object] = lambda n: None,
) -> tuple[int, int]:
    """Encode texts and write the first 90% of each to train, the rest to val, as id_type says.

    If each file is one document, all of them are one text. A text with documents is cut between two of them, if it can
    be cut so between 80% and 99%. `new_file` makes a file for the ids of one text. Returns the number of ids in train
    and in val. Raises ValueError, naming the file, for one that is empty or cannot be encoded.
    """
    dtype = id_type(tokenizer)
    texts = [[text_file(file)] for file in files]
    if texts and texts[0][0].config.document_separator == "file":
        texts = [[file for text in texts for file in text]]
    counts = [0, 0]
    for text in texts:
        with new_file() as ids_of_text:
            n = 0
            for file in text:
                before = n
                for ids in encoded(file, tokenizer):
                    ids_of_text.write(ids.astype(dtype).tobytes())
                    n += len(ids)
                    progress(len(ids))
                if n == before:
                    raise ValueError(f"{file}: the file is empty")
            ids = ids_in(ids_of_text, dtype)
            cut = where_to_cut(ids, tokenizer.end_id)
            if tokenizer.end_id is not None and text[0].seen["documents"] and ids[cut - 1] != tokenizer.end_id:
                text[0].seen["cut"] = 1
            ids_of_text.seek(0)
            copy(ids_of_text, train, cut * dtype.itemsize)
            copy(ids_of_text, val, (n - cut) * dtype.itemsize)
            counts[0] += cut
            counts[1] += n - cut
    return counts[0], counts[1]


def id_type(tokenizer: Tokenizer) -> np.dtype:
    """Return the smallest type in which ids are stored."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def where_to_cut(ids: np.ndarray, end_id: int | None) -> int:
    """Return where a text is cut: at 90%, or after the end token that is nearest to it between 80% and 99%.

    Example: 100 ids with end tokens at 79, 84 and 91 are cut at 92, after the last of them.
    """
    cut = int(TRAIN_SHARE * len(ids))
    first, stop = (int(share * len(ids)) for share in BORDERS)
    borders = [cut]
    for start in range(first, stop if end_id is not None else first, BLOCK):
        after = start + 1 + np.flatnonzero(ids[start : min(start + BLOCK, stop)] == end_id)
        borders += after[np.abs(after - cut).argsort()[:1]].tolist()
    return min(borders[1:] or borders, key=lambda border: abs(border - cut))


def copy(source: BinaryIO, target: BinaryIO, n_bytes: int) -> None:
    """Copy the next n_bytes of a file."""
    while n_bytes:
        block = source.read(min(BLOCK, n_bytes))
        target.write(block)
        n_bytes -= len(block)


def ids_in(file: BinaryIO, dtype: np.dtype) -> np.ndarray:
    """Return the ids in a file, read-only: those of a file on disk are mapped into memory."""
    file.flush()
    if not file.tell():
        return np.empty(0, dtype)
    if isinstance(file, io.BytesIO):
        return np.frombuffer(file.getvalue(), dtype)
    return np.asarray(np.memmap(file, dtype, "r"))


def split_texts(files: Sequence[TextFile], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids to train on and those for validation. Those of a large text are in a temporary file."""
    new_file = file_for_ids(files)
    with naming(Path(tempfile.gettempdir())), new_file() as train, new_file() as val:
        encode_texts(files, tokenizer, train, val, new_file)
        return ids_in(train, id_type(tokenizer)), ids_in(val, id_type(tokenizer))


def whole_texts(
    files: Sequence[TextFile], tokenizer: Tokenizer, progress: Callable[[int], object] = lambda n: None
) -> np.ndarray:
    """Return all ids of texts, one after another. Those of a large text are in a temporary file.

    progress  called with the number of ids so far
    """
    n = 0
    with naming(Path(tempfile.gettempdir())), file_for_ids(files)() as kept:
        for ids in (ids for file in files for ids in encoded(file, tokenizer)):
            kept.write(ids.astype(id_type(tokenizer)).tobytes())
            n += len(ids)
            progress(n)
        return ids_in(kept, id_type(tokenizer))


def file_for_ids(files: Sequence[TextFile]) -> Callable[[], Any]:
    """Return what makes a file for the ids of texts: one in memory or, if the texts are large, a temporary one."""
    size = sum(file.size for file in files)
    if size < LARGE:
        return io.BytesIO
    kept = f"{size / 1e6:,.0f} MB of text: its ids are kept in a temporary file in {tempfile.gettempdir()}"
    notice(f"{kept}; npgpt prepare writes them once for all runs")
    return tempfile.TemporaryFile


def digest_of(files: Iterable[TextFile]) -> str:
    """Return the SHA-256 of the texts, each with its length before it."""
    sha = hashlib.sha256()
    for file in files:
        plain = file.ending(None)
        sha.update(f"{sum(map(len, read_parts(plain)))} ".encode())
        for part in read_parts(plain):
            sha.update(part)
    return sha.hexdigest()


def require_enough(train_ids: np.ndarray, val_ids: np.ndarray, n_positions: int) -> None:
    """Raise ContextError for fewer than n_positions + 1 tokens to train on, or fewer than 2 for validation."""
    if len(train_ids) <= n_positions or len(val_ids) < 2:
        raise ContextError(
            f"the text is too short: {len(train_ids)} tokens to train on and {len(val_ids)} for validation, but "
            f"n_positions={n_positions} needs at least {n_positions + 1} and 2; "
            "give a longer text or a smaller n_positions",
            fits=len(train_ids) - 1 if len(train_ids) > 1 and len(val_ids) > 1 else None,
        )
