"""What searches share: reading several texts side by side, the best of many numbers, and settings that do not apply."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields

import numpy as np

from npgpt.generation.engine import Generator
from npgpt.generation.requests import Text
from npgpt.generation.rules import likeliest
from npgpt.generation.settings import Sampling
from npgpt.models.base import Decoder

# settings of what is drawn, which a search that draws nothing cannot have
DRAWS = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma",
    "mirostat_tau", "seed",
)  # fmt: skip
GUIDANCE = ("guidance_scale", "negative_prompt")
CONSTRAINTS = ("regex", "json_schema", "choices")


def refuse(sampling: Sampling, names: Collection[str], what: str) -> None:
    """Raise ValueError for a setting that is not its default, which `what` says why it cannot be used."""
    for field in fields(Sampling):
        value = getattr(sampling, field.name)
        if field.name in names and value != field.default:
            raise ValueError(f"{field.name}={value!r} cannot be used: {what}")


def unread(generator: Generator, text: Text) -> list[tuple[int, int]]:
    """Return the rows (slot, token) that the text's slot still lacks. The caller has made room for them."""
    held = text.start + int(generator.decoder.lengths[text.slot])
    return [(text.slot, token) for token in text.ids[held : text.n].tolist()]


def read(decoder: Decoder, rows: Sequence[tuple[int, int]], wanted: Sequence[int]) -> np.ndarray:
    """Append each row's token to its slot; return the logits (len(wanted), V) after the wanted rows, which increase."""
    return np.concatenate([logits.copy() for logits in parts(decoder, rows, wanted)])


def parts(decoder: Decoder, rows: Sequence[tuple[int, int]], wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Read rows in as many calls as the decoder needs; yield the logits of those that have wanted rows.

    They are memory that the next call overwrites.
    """
    slots, ids = np.array(rows, np.int64).T.copy()
    kept = np.asarray(wanted, np.int64)
    for start in range(0, len(rows), decoder.rows):
        stop = start + decoder.rows
        here = kept[(kept >= start) & (kept < stop)] - start
        logits = decoder.read(slots[start:stop], ids[start:stop], here)
        if len(here):
            yield logits


def best(values: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of the k largest of values (N,), the largest first; of equal ones the first. Never of -inf.

    >>> best(np.array([3.0, 5.0, -np.inf, 5.0]), 3)
    array([1, 3, 0])
    """
    found = likeliest(values, k)
    return found[values[found] > -np.inf]
