"""The engine: one token after another, from a model's forward and its past."""

import math
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from npgpt.generation.rules import apply_temperature, draw, keep_top_k, keep_top_p
from npgpt.models.base import Model, end_ids
from npgpt.training.blas import blas_threads


def generate(
    model: Model,
    ids: Iterable[int],
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | np.random.Generator = 0,
    vocab_size: int | None = None,
    stop: int | Collection[int] | None = None,
) -> Iterator[int]:
    """Yield the tokens that follow ids, each as soon as it is drawn.

    ids          the prompt, at least one token. The model reads the last n_positions tokens of a longer one, and the
                 context slides when it is full
    temperature  divides the logits; 0 always takes the likeliest token
    top_k        draw from the k likeliest tokens only
    top_p        draw from the fewest tokens whose total probability is at least top_p
    seed         seed of the draws, or a generator
    vocab_size   draw from the first vocab_size tokens only, if the model's vocabulary is padded
    stop         the token that ends the text, or several; the model's eos_token_id if it is not given

    Raises ValueError for arguments outside these ranges, before the first token, and for logits that are NaN.
    """
    context = [int(i) for i in ids]
    size = model.config.vocab_size if vocab_size is None else vocab_size
    if not context:
        raise ValueError("the prompt is empty: give at least one token to continue from")
    if not all(0 <= i < model.config.vocab_size for i in context):
        raise ValueError(f"the prompt has ids outside the vocabulary of {model.config.vocab_size}")
    if not 1 <= size <= model.config.vocab_size:
        raise ValueError(f"vocab_size={size} must be in 1..{model.config.vocab_size}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 0")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature={temperature} must be a number of at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be in (0, 1]")
    ends = end_ids(model.config) if stop is None else stop if isinstance(stop, Collection) else (stop,)
    return _generate(model, context, max_new_tokens, temperature, top_k, top_p, seed, size, ends)


def _generate(
    model: Model,
    context: list[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | np.random.Generator,
    size: int,
    ends: Collection[int],
) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    n_positions = model.config.n_positions
    context = context[-n_positions:]
    past = model.new_past()
    for _ in range(max_new_tokens):
        if len(context) > n_positions:
            # positions are learned: when the window slides, each token moves to another one, and all keys change
            context, past = context[-n_positions:], model.new_past()
        unread = np.array([context[past.length :]])
        with blas_threads(model, unread.size):
            logits = model.forward(unread, past, last=True)
        logits = logits[0, -1, :size].astype(np.float64)
        if np.isnan(logits).any():
            raise ValueError("the model's logits are NaN: its weights are damaged, or training diverged")
        logits = apply_temperature(logits, temperature)
        if top_k is not None:
            logits = keep_top_k(logits, top_k)
        if top_p is not None:
            logits = keep_top_p(logits, top_p)
        token = draw(logits, rng)
        yield token
        if token in ends:
            return
        context.append(token)
