"""Features: texts as vectors, the hidden states of a layer. Any model with taps; a GPT through its compiled decoder."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from npgpt.generation.decoder import ROWS
from npgpt.generation.prompts import Framed, new_text
from npgpt.generation.scores import calls, strings, windows
from npgpt.models.base import Decoder, Model
from npgpt.models.registry import refuse_generator
from npgpt.models.taps import Taps
from npgpt.tokenizer import Tokenizer
from npgpt.training.blas import blas_threads

POOLS = ("mean", "last", "none")
AFTER = ("end", "line", "nothing")  # what a text may be read after
SIDE_BY_SIDE = 1024  # tokens that the slots of a decoder hold together; of gpt2 they take 75 MB
MOST_SLOTS = 32

Read = Callable[[list[np.ndarray]], list[np.ndarray]]


def features(
    model: Model,
    tokenizer: Tokenizer,
    texts: str | Sequence[str],
    pool: str = "mean",
    layer: int | None = None,
    *,
    after: str | None = None,
    special: bool = False,
    threads: int = 0,
) -> Any:
    """Return texts as vectors, (N, C) float32, or with pool="none" a list of N arrays (T, C), T the tokens of a text.

    texts    texts, which are read together; each gets, bit for bit, the vector that it has alone, in whatever order and
             by however many threads. One string gives one vector (C,), or (T, C)
    pool     "mean" of the states of a text's tokens, or that of the "last" token, or "none" for all of them
    layer    whose states: 0 for the embeddings, i for the output of block i, n_layer for what follows the final layer
             norm, which is the default; negative numbers count from the end, -1 is n_layer. So it is the index of
             `hidden_states` in transformers
    after    what each text is read after: "end", the end token; "line", a line end; or "nothing". None for the end
             token if the tokenizer has one, else a line end if it has one. Its own state is not pooled
    special  whether special tokens in the texts are encoded as such, not as plain text
    threads  0 for as many as pay

    >>> vectors = features(model, tokenizer, ["The fox ran home.", "The fox went home."])
    >>> vectors.shape
    (2, 128)

    The vector of an empty text is the state of what it is read after. A text that is longer than the context is read in
    windows of n_positions tokens, as by npgpt.score: a token's state is that of the first window that reaches it.

    Raises ValueError for an unknown pool, layer or `after`, an empty text after nothing, a text that the tokenizer
    cannot encode, a model without hidden states, and states that are not finite.
    """
    before = tokens_before(tokenizer, after)
    framed = [framed_text(tokenizer, text, before, pool, special) for text in strings("texts", texts)]
    layer = layer_of(model, layer)
    found = dict(vectors(model, framed, pool, layer, threads))
    in_order = [found[i] for i in range(len(framed))]
    if isinstance(texts, str):
        return in_order[0]
    if pool == "none":
        return in_order
    return np.array(in_order) if in_order else np.zeros((0, model.config.n_embd), np.float32)


def tokens_before(tokenizer: Tokenizer, after: str | None, ends: bool = True) -> list[int]:
    """Return the tokens that each text is read after.

    ends  whether the model has learned texts that begin after the end token; what `after=None` follows
    """
    if after not in (None, *AFTER):
        raise ValueError(f"after={after!r} must be one of {', '.join(AFTER)}")
    if after is None:
        return new_text(tokenizer, ends)
    return {
        "end": lambda: [tokenizer.require_end_id()],
        "line": lambda: tokenizer.encode_prompt("\n"),
        "nothing": list,
    }[after]()


def framed_text(tokenizer: Tokenizer, text: str, before: list[int], pool: str, special: bool = False) -> Framed:
    """Return the tokens of a text after `before`; `first` is the first whose state counts."""
    if pool not in POOLS:
        raise ValueError(f"pool={pool!r} must be one of {', '.join(POOLS)}")
    ids = tokenizer.encode_prompt(text, special)
    if ids or pool == "none":
        return Framed([*before, *ids], len(before))
    if not before:
        raise ValueError("an empty text after nothing has no token, and so no vector")
    return Framed(list(before), len(before) - 1)


def n_layers(model: Model) -> int:
    """Return the number of a model's blocks. Raises ValueError for a model that shows no hidden states."""
    refuse_generator(
        model, "the model", "its features are those of the GPT that its encoder was made from: give that one"
    )
    names = set(model.tap_names())
    if "ln_f" not in names or "h.0.in" not in names:
        raise ValueError(f"{model.describe()}: such a model has no hidden states to make vectors of")
    return next(i for i in itertools.count() if f"h.{i}.out" not in names)


def layer_of(model: Model, layer: int | None) -> int:
    """Return the number of a layer from 0. Raises ValueError if there is no such layer."""
    n = n_layers(model)
    layer = n if layer is None else layer
    if not -n - 1 <= layer <= n:
        raise ValueError(f"layer={layer} must be in {-n - 1}..{n}: 0 is the embeddings, {n} the final states")
    return layer % (n + 1)


def vectors(
    model: Model, texts: Sequence[Framed], pool: str, layer: int, threads: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each text, and its vector or, for pool="none", its states; short texts first."""
    for i, states in read_states(model, texts, layer, threads):
        if not np.isfinite(states).all():
            raise ValueError("the model's hidden states are not finite: its weights are damaged, or training diverged")
        if pool == "none":
            yield i, states.astype(np.float32)
        else:
            vector = states[-1] if pool == "last" else states.mean(axis=0, dtype=np.float64)
            yield i, vector.astype(np.float32)


def read_states(
    model: Model, texts: Sequence[Framed], layer: int, threads: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each text and the states of its tokens that count; texts of about one length together."""
    P = model.config.n_positions

    def room(i: int) -> int:  # a power of 2, so that there are few kinds
        return min(P, max(16, 1 << (len(texts[i].ids) - 1).bit_length()))

    found: list[np.ndarray] = []
    for length, numbers in itertools.groupby(sorted(range(len(texts)), key=room), key=room):
        slots = max(1, min(MOST_SLOTS, SIDE_BY_SIDE // length))
        read = side_by_side(model, slots, length, layer, threads)
        several = [i for i in numbers if texts[i].ids]
        # windows are those of a text whose last token is only predicted: here one more would be
        parts = [w for i in several for w in windows(i, Framed([*texts[i].ids, 0], texts[i].first + 1), P)]
        for begin in range(0, len(parts), slots):
            group = parts[begin : begin + slots]
            states = read([np.array(texts[w.text].ids[w.start : w.stop], np.int64) for w in group])
            for window, rows in zip(group, states, strict=True):
                found.append(rows[window.new - window.start :])
                if window.stop == len(texts[window.text].ids):
                    yield window.text, np.concatenate(found)
                    found = []
    for i, text in enumerate(texts):
        if not text.ids:
            yield i, np.zeros((0, model.config.n_embd), model.dtype)


def side_by_side(model: Model, slots: int, length: int, layer: int, threads: int) -> Read:
    """Return what turns the tokens of up to `slots` texts, of at most `length` tokens each, into their states."""
    make = getattr(model, "reader", None)
    decoder = make(slots, ROWS, length, layer, threads) if make else None
    if decoder is not None:
        return lambda texts: read_slots(decoder, texts)
    name = "ln_f" if layer == n_layers(model) else f"h.{layer - 1}.out" if layer else "h.0.in"
    return lambda texts: [read_alone(model, name, ids) for ids in texts]


def read_slots(decoder: Decoder, texts: list[np.ndarray]) -> list[np.ndarray]:
    """Return the states of each text's tokens, each text in a slot of a decoder."""
    decoder.lengths[:] = 0
    sizes = [len(ids) for ids in texts]
    slots, ids = np.repeat(np.arange(len(texts)), sizes), np.concatenate(texts)
    found = []
    for part in calls(sizes, decoder.rows):
        decoder.read(slots[part], ids[part], np.arange(part.stop - part.start))
        found.append(decoder.hidden().copy())
    return np.split(np.concatenate(found), np.cumsum(sizes)[:-1])


def read_alone(model: Model, name: str, ids: np.ndarray) -> np.ndarray:
    """Return the states of a text's tokens by a forward of its own."""
    taps = Taps(name)
    with blas_threads(model, 0):  # one: several add up in another order
        model.forward(ids[None], taps=taps, last=True)
    return taps[name][0]


def cosines(vectors: np.ndarray, query: np.ndarray, center: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the cosine of each of N vectors with a query, (N,) float64; NaN for a vector of zeros.

        (v - center) . (q - center) / (|v - center| |q - center|)

    center  what is subtracted from all of them first, such as the mean of the vectors
    """
    found = np.empty(len(vectors))
    query = query.astype(np.float64) - center
    for start in range(0, len(vectors), SIDE_BY_SIDE):  # in float64, but not all at once
        v = vectors[start : start + SIDE_BY_SIDE].astype(np.float64) - center
        with np.errstate(invalid="ignore"):
            norms = np.sqrt((v * v).sum(axis=1)) * np.sqrt((query * query).sum())
            found[start : start + SIDE_BY_SIDE] = (v * query).sum(axis=1) / norms
    return found
