"""Scores: how likely a text is to a model, token by token. Any model of the protocol, through its decoder."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from npgpt.generation.decoder import new_decoder
from npgpt.generation.prompts import Framed, Framing, usual_template
from npgpt.generation.rules import likeliest
from npgpt.models.base import Decoder, Model
from npgpt.tokenizer import Tokenizer

SLOTS = 8  # windows that one call of the decoder reads side by side
PER = ("token", "byte", "text")  # what choices of different lengths are compared by


@dataclass(frozen=True, eq=False)
class Score:
    """How likely a text is to a model: the figures of each of its N scored tokens.

    prompt_ids  the tokens before the first that is scored, with the end token that a text begins after
    ids         (N,), the tokens
    logprobs    (N,) float64, the natural logarithm of each token's probability
    ranks       (N,), 1 for the likeliest token: one more than the number of tokens that are likelier
    contexts    (N,), how many tokens each was predicted from
    top_ids     (N, n), the n likeliest tokens in the place of each, the likeliest first
    top_logprobs  (N, n) float64, the logarithms of their probabilities
    n_bytes     bytes of text that the scored tokens stand for; an end token is no text
    """

    prompt_ids: tuple[int, ...]
    ids: np.ndarray
    logprobs: np.ndarray
    ranks: np.ndarray
    contexts: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    n_bytes: int

    @property
    def nats(self) -> float:
        """The sum of -logprobs."""
        return -math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp(nats / N), or infinity where a float cannot hold it."""
        return perplexity(self.nats, len(self.ids))

    @property
    def bits_per_byte(self) -> float:
        """Nats / log(2) / n_bytes, which can be compared between tokenizers; NaN for an end token alone."""
        return self.nats / math.log(2) / self.n_bytes if self.n_bytes else math.nan

    def mean(self, per: str) -> float:
        """Return the nats per "token", per "byte", or of the whole "text"."""
        if per not in PER:
            raise ValueError(f"per={per!r} must be one of {', '.join(PER)}")
        return self.nats / {"token": len(self.ids), "byte": max(1, self.n_bytes), "text": 1}[per]


def perplexity(nats: float, n_tokens: int) -> float:
    """Return exp(nats / n_tokens), or infinity."""
    return math.exp(nats / n_tokens) if nats / n_tokens < 700 else math.inf


@overload
def score(
    model: Model,
    tokenizer: Tokenizer,
    text: str | None = None,
    *,
    prompt: str | None = None,
    completion: str | None = None,
    top: int = 0,
    after_end: bool | None = None,
    end: bool = False,
    special: bool = False,
) -> Score: ...
@overload
def score(
    model: Model,
    tokenizer: Tokenizer,
    text: Sequence[str] | None = None,
    *,
    prompt: str | Sequence[str] | None = None,
    completion: str | Sequence[str] | None = None,
    top: int = 0,
    after_end: bool | None = None,
    end: bool = False,
    special: bool = False,
) -> list[Score]: ...
def score(
    model: Model,
    tokenizer: Tokenizer,
    text: str | Sequence[str] | None = None,
    *,
    prompt: str | Sequence[str] | None = None,
    completion: str | Sequence[str] | None = None,
    top: int = 0,
    after_end: bool | None = None,
    end: bool = False,
    special: bool = False,
) -> Score | list[Score]:
    """Return how likely a text is, or a completion of a prompt: of each token the probability, its rank, and the n
    likeliest tokens.

        logprob = logit - logsumexp(logits), in float64

    text        a text, or several, which are read together; each gets the figures that it has alone
    prompt      in place of text: what is read and not scored, one for all completions or one for each
    completion  what is scored after the prompt, encoded by itself as in training; several give a list
    top         n, how many of the likeliest tokens to tell of
    after_end   whether what is scored begins after the end token, as in training on examples or documents; None where
                the tokenizer has one. Otherwise a text begins after a line end, as one does that is sampled. If it
                cannot, its first token is not scored
    end         whether the end token that follows is scored, too
    special     whether special tokens in the texts are encoded as such, not as plain text

    >>> a, b = score(model, tokenizer, prompt="1 + 1 = ", completion=["2", "3"])
    >>> a.nats < b.nats

    A text that is longer than the context is read in windows of n_positions tokens, each of which begins half of a
    context after the one before. A token is scored in the first window that reaches it, so each token but those of the
    first window is predicted from at least n_positions // 2 others. A prompt must fit with its completion.

    Raises ValueError for a text without a token to score, for one that the tokenizer cannot encode, for a completion
    that does not fit, and for logits that are not finite.
    """
    if top < 0 or top > tokenizer.vocab_size:
        raise ValueError(f"top={top} must be in 0..{tokenizer.vocab_size}, the size of the vocabulary")
    after_end = tokenizer.end_id is not None if after_end is None else after_end
    framing = Framing(tokenizer, after_end, end, special, usual_template(model))
    if (text is None) == (prompt is None) or (prompt is None) != (completion is None):
        raise ValueError("give a text, or a prompt and a completion")
    if text is not None:
        framed = [framing.text(one) for one in strings("text", text)]
    else:
        assert prompt is not None and completion is not None  # noqa: PT018, for the type checker
        framed = pairs_of(framing, prompt, completion, model.config.n_positions)
    found = list(score_framed(model, tokenizer, framed, top))
    return found[0] if all(isinstance(value, str | None) for value in (text, prompt, completion)) else found


def strings(name: str, value: str | Sequence[str]) -> list[str]:
    """Return one text or several as a list. Raises TypeError for anything else."""
    values = [value] if isinstance(value, str) else list(value)
    for one in values:
        if not isinstance(one, str):
            raise TypeError(f"{name} has {one!r}, which is no text")
    return values


def pairs_of(
    framing: Framing, prompt: str | Sequence[str], completion: str | Sequence[str], n_positions: int
) -> list[Framed]:
    """Return prompts and completions as tokens; one prompt, or one completion, serves for all of the others."""
    prompts, completions = strings("prompt", prompt), strings("completion", completion)
    n = max(len(prompts), len(completions))
    if isinstance(prompt, str):
        prompts *= len(completions)
    elif isinstance(completion, str):
        completions *= len(prompts)
    if len(prompts) != len(completions):
        raise ValueError(f"there are {len(prompts)} prompts, but {len(completions)} completions")
    return [framing.completion(*pair, n_positions) for pair in zip(prompts[:n], completions[:n], strict=True)]


class Window(NamedTuple):
    """A part of a text that is read at once: tokens start..stop; those before `new` were predicted by the last one."""

    text: int
    start: int
    stop: int
    new: int


def windows(text: int, framed: Framed, n_positions: int) -> Iterator[Window]:
    """Yield the windows of a text: which tokens each reads, and from which on it predicts the next one.

    >>> [window[1:] for window in windows(0, Framed(list(range(10)), first=1), n_positions=4)]
    [(0, 4, 0), (2, 6, 4), (4, 8, 6), (6, 9, 8)]
    """
    start, new, last = 0, framed.first - 1, len(framed.ids) - 1  # the last token is only predicted
    while True:
        stop = min(start + n_positions, last)
        yield Window(text, start, stop, new)
        if stop == last:
            return
        new, start = stop, start + max(1, n_positions // 2)


def score_framed(model: Model, tokenizer: Tokenizer, texts: Sequence[Framed], top: int = 0) -> Iterator[Score]:
    """Yield the scores of texts that are tokens already, in their order."""
    parts = [window for i, text in enumerate(texts) for window in windows(i, text, model.config.n_positions)]
    decoder = new_decoder(model, SLOTS)
    found: list[list[np.ndarray]] = []
    for begin in range(0, len(parts), SLOTS):
        group = parts[begin : begin + SLOTS]
        for window, figures in zip(group, read_windows(decoder, texts, group, tokenizer.vocab_size, top), strict=True):
            found.append([*figures, np.arange(window.new, window.stop) - window.start + 1])
            text = texts[window.text]
            if window.stop == len(text.ids) - 1:
                yield joined(tokenizer, text, *map(np.concatenate, zip(*found, strict=True)))
                found = []


def joined(tokenizer: Tokenizer, text: Framed, logprobs: Any, ranks: Any, ids: Any, top: Any, contexts: Any) -> Score:
    """Return the score of a text from the figures of its tokens."""
    scored = np.array(text.ids[text.first :])
    n_bytes = int(tokenizer.sizes(scored[scored != tokenizer.end_id]).sum())
    return Score(tuple(text.ids[: text.first]), scored, logprobs, ranks, contexts, ids, top, n_bytes)


def read_windows(
    decoder: Decoder, texts: Sequence[Framed], group: Sequence[Window], size: int, top: int
) -> list[list[np.ndarray]]:
    """Return the figures of the tokens that each window of a group predicts; each window is read in a slot."""
    decoder.lengths[:] = 0
    slots = np.repeat(np.arange(len(group)), [window.stop - window.start for window in group])
    ids, targets = (
        np.concatenate([texts[w.text].ids[w.start + shift : w.stop + shift] for w in group]).astype(np.int64)
        for shift in (0, 1)
    )
    scored = np.concatenate([np.arange(window.start, window.stop) >= window.new for window in group])
    found = []
    for part in calls([window.stop - window.start for window in group], decoder.rows):
        wanted = np.flatnonzero(scored[part])
        logits = decoder.read(slots[part], ids[part], wanted)
        found.append(figures(logits, targets[part][wanted], size, top))
    borders = np.cumsum([window.stop - window.new for window in group])[:-1]
    by_window = zip(*(np.split(np.concatenate(arrays), borders) for arrays in zip(*found, strict=True)), strict=True)
    return [list(arrays) for arrays in by_window]


def calls(sizes: Sequence[int], rows: int) -> list[slice]:
    """Return which tokens of windows each call of a decoder reads: at most `rows`, and a window in the parts that it is
    read in alone. So its products have the same shapes, and its figures the same bits, whatever is read beside it.

    >>> calls([3, 6, 1], rows=4)
    [slice(0, 3, None), slice(3, 7, None), slice(7, 10, None)]
    """
    parts = [min(rows, size - start) for size in sizes for start in range(0, size, rows)]
    borders, filled = [0], 0
    for part in parts:
        if filled + part > rows:
            borders.append(borders[-1] + filled)
            filled = 0
        filled += part
    borders.append(borders[-1] + filled)
    return [slice(*pair) for pair in itertools.pairwise(borders)]


def figures(logits: np.ndarray, targets: np.ndarray, size: int, top: int) -> tuple[np.ndarray, ...]:
    """Return logprobs (N,), ranks (N,), and the ids and logprobs (N, top) of the likeliest tokens, for logits (N, V).

    size  how many of the V are tokens; others, which pad a vocabulary, have a probability, but no rank

    Of equally likely tokens the first ones are told.
    """
    logits = logits.astype(np.float64)
    highest = logits.max(axis=1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError("the model's logits are not finite: its weights are damaged, or training diverged")
    logprobs = logits - highest
    logprobs -= np.log(np.exp(logprobs).sum(axis=1, keepdims=True))
    logits = logits[:, :size]
    chosen = logits[np.arange(len(targets)), targets]
    ranks = 1 + np.count_nonzero(logits > chosen[:, None], axis=1)
    ids = np.array([likeliest(row, top) for row in logits], np.int64).reshape(len(targets), top)
    return (
        logprobs[np.arange(len(targets)), targets],
        ranks,
        ids,
        np.take_along_axis(logprobs, ids, axis=1),
    )
