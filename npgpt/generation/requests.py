"""A request: a text that is being written, from its prompt to its completion."""

import codecs
import math
import time
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from npgpt.generation.rules import apply_temperature, draw, keep_top_k, keep_top_p
from npgpt.generation.settings import Sampling
from npgpt.tokenizer import Tokenizer

# settings that change nothing about which token is the likeliest
NO_RULES = {
    "max_new_tokens", "context", "temperature", "mirostat_eta", "penalty_window", "penalize_prompt", "dry_base",
    "dry_allowed_length", "dry_breakers", "order", "stop", "stop_regex", "stop_ids", "seed", "logprobs",
}  # fmt: skip


@dataclass(frozen=True)
class Completion:
    """A text that was written.

    prompt_ids     what it continues
    ids            the tokens that were drawn, with the end token if one was drawn
    text           what they say, without end token and stop string; empty without a tokenizer
    logprobs       the model's own log-probability of each of ids, before any rule, in nats
    top            for each of ids, the likeliest tokens and their log-probabilities, as many as Sampling.logprobs says
    finish_reason  why it ended:
                   "stop"        an end token was drawn, or a stop string or regular expression was met
                   "length"      max_new_tokens were drawn
                   "context"     the context is full, and Sampling.context is "stop"
                   "constraint"  it matches what constrains it, and nothing can follow
                   "unfinished"  it was cut off before it matched what constrains it
                   "deadline"    the time was over
                   "cancelled"   somebody cancelled it
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    finish_reason: str


class Text:
    """Ids that are to be read in a slot: `ids[start:n]`, of which the decoder has the first `lengths[slot]`."""

    def __init__(self, request: "Request", ids: Collection[int], n_positions: int) -> None:
        self.request = request
        self.ids = np.empty(len(ids) + 16, np.int64)
        self.ids[: len(ids)] = tuple(ids)
        self.n = len(ids)
        self.start = max(0, self.n - n_positions)
        self.slot = -1

    def append(self, token: int) -> None:
        if self.n == len(self.ids):
            self.ids = np.concatenate((self.ids, np.empty_like(self.ids)))
        self.ids[self.n] = token
        self.n += 1


class Judge(Protocol):
    """What decides where a text ends, and what of it can be shown (stops.py)."""

    stopped: str | None
    text: str

    def feed(self, token: int) -> str: ...

    def finish(self) -> str: ...


class Chooser(Protocol):
    """What changes logits before a token is drawn (rules.py)."""

    def apply(self, ids: np.ndarray, logits: np.ndarray, negative: np.ndarray | None = None) -> np.ndarray: ...

    def chosen(self, token: int, logits: np.ndarray) -> None: ...


class Request:
    """A text that a Generator writes; made by `Generator.submit`.

    done   whether it has ended
    error  what went wrong, if something did: then there is no completion
    ids    the tokens drawn so far
    ends   the tokens that end it
    """

    def __init__(
        self,
        prompt: tuple[int, ...],
        sampling: Sampling,
        ends: Collection[int],
        most: int,
        n_positions: int,
        rules: Chooser,
        stops: Judge,
        rng: np.random.Generator,
        deadline: float | None,
    ) -> None:
        self.prompt_ids, self.sampling, self.ends = prompt, sampling, tuple(ends)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.top: list[tuple[tuple[int, float], ...]] = []
        self.pieces: list[str] = []  # the text so far, as it may be shown
        self.error: Exception | None = None
        self._reason: str | None = None
        self.most, self._n_positions = most, n_positions
        self.rules, self.stops, self.rng = rules, stops, rng
        self._until = math.inf if deadline is None else time.monotonic() + deadline
        self.likeliest = sampling.temperature == 0 and not changes_logits(sampling)
        self.draw = draw  # a search puts another way of choosing in place
        self.texts = [Text(self, prompt, n_positions)]
        if most == 0:
            self.end("length")

    @property
    def done(self) -> bool:
        return self._reason is not None or self.error is not None

    @property
    def completion(self) -> Completion:
        """What was written. Raises the error that ended the text, or ValueError if it has not ended."""
        if self.error is not None:
            raise self.error
        if self._reason is None:
            raise ValueError("the text has not ended: call Generator.step until `done`")
        return Completion(
            self.prompt_ids, tuple(self.ids), self.stops.text, tuple(self.logprobs), tuple(self.top), self._reason
        )

    def cancel(self) -> None:
        """End the text where it is."""
        self.end("cancelled")

    def end(self, reason: str) -> None:
        """End the text, unless it has ended."""
        if not self.done:
            self._show(self.stops.finish())
            self._reason = reason

    def fail(self, error: Exception) -> None:
        """End the text with an error."""
        self.error = error

    def expire(self, now: float) -> bool:
        """End the text if its time is over; return whether it was."""
        if now < self._until or self.done:
            return False
        self.end("deadline")
        return True

    def advance(self, logits: np.ndarray, scratch: "Scratch") -> None:
        """Choose a token by the logits (V,) after the last one, and end the text if it has to end."""
        likeliest = int(logits.argmax())  # of NaN and numbers, NaN
        peak = float(logits[likeliest])
        if math.isnan(peak):
            raise ValueError("the model's logits are NaN: its weights are damaged, or training diverged")
        known = self.likeliest and likeliest < scratch.size
        token = likeliest if known else self._choose(logits, scratch)
        total = scratch.log_sum_exp(logits, peak)
        self.logprobs.append(float(logits[token]) - total)
        if self.sampling.logprobs:
            self.top.append(top(logits, total, self.sampling.logprobs))
        self._take(token)

    def _choose(self, logits: np.ndarray, scratch: "Scratch") -> int:
        """Draw a token by the rules."""
        row = scratch.row
        np.copyto(row, logits[: scratch.size])
        text = self.texts[0]
        found = self.rules.apply(text.ids[: text.n], row)
        if not found.max() > -math.inf:
            raise ValueError(f"the rules leave no token that could follow: {self.sampling}")
        token = int(found.argmax()) if self.sampling.temperature == 0 else self.draw(found, self.rng)
        self.rules.chosen(token, found)
        return token

    def _take(self, token: int) -> None:
        """Add a token to the text, and end the text if it has to end."""
        self.ids.append(token)
        for text in self.texts:
            text.append(token)
        self._show(self.stops.feed(token))
        if self.stops.stopped is not None:
            self.end(self.stops.stopped)
        elif len(self.ids) == self.most:
            self.end("length")
        elif self.sampling.context == "stop" and self.texts[0].n >= self._n_positions:
            self.end("context")

    def _show(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)


class Scratch:
    """Memory for one token's choice, which all requests use in turn."""

    def __init__(self, vocab_size: int, size: int, dtype: Any) -> None:
        self.size = size  # tokens that can be drawn, the first ones
        self.row = np.empty(size, np.float64)
        self._exps = np.empty(vocab_size, dtype)

    def log_sum_exp(self, logits: np.ndarray, peak: float) -> float:
        """Return log(sum(exp(logits))) by their largest number."""
        exps = self._exps
        np.subtract(logits, peak, out=exps)
        np.exp(exps, out=exps)
        return peak + math.log(exps.sum())


def changes_logits(sampling: Sampling) -> bool:
    """Say whether any setting may change which token is the likeliest."""
    return any(getattr(sampling, f.name) != f.default for f in fields(Sampling) if f.name not in NO_RULES)


def top(logits: np.ndarray, total: float, n: int) -> tuple[tuple[int, float], ...]:
    """Return the n likeliest tokens with their log-probabilities; of equally likely ones the first.

    >>> top(np.log([0.2, 0.5, 0.3]), 0.0, 2)
    ((1, -0.6931471805599453), (2, -1.2039728043259361))
    """
    n = min(n, len(logits))
    least = np.partition(logits, -n)[-n]
    some = np.flatnonzero(logits >= least)
    some = some[np.argsort(-logits[some], kind="stable")][:n]
    return tuple((int(i), float(logits[i]) - total) for i in some)


# Until rules and stops are there: the smallest of both


class Rules:
    """Temperature, top-k and top-p."""

    def __init__(self, sampling: Sampling, tokenizer: Any, vocab_size: int, ends: Any, prompt_length: int) -> None:
        self.sampling = sampling
        known = NO_RULES | {"top_k", "top_p"}
        for f in fields(Sampling):
            if f.name not in known and getattr(sampling, f.name) != f.default:
                raise ValueError(f"{f.name} is not supported yet")

    def apply(self, ids: np.ndarray, logits: np.ndarray, negative: np.ndarray | None = None) -> np.ndarray:
        logits = apply_temperature(logits, self.sampling.temperature)
        if self.sampling.top_k is not None:
            logits = keep_top_k(logits, self.sampling.top_k)
        return logits if self.sampling.top_p is None else keep_top_p(logits, self.sampling.top_p)

    def chosen(self, token: int, logits: np.ndarray) -> None:
        """Nothing is kept."""


class Stops:
    """End tokens."""

    def __init__(self, sampling: Sampling, tokenizer: Tokenizer | None, ends: Collection[int]) -> None:
        if sampling.stop or sampling.stop_regex:
            raise ValueError("stop strings are not supported yet")
        self.stopped: str | None = None
        self.text, self._ends, self._tokenizer = "", ends, tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        if token in self._ends:
            self.stopped = "stop"
            return ""
        return self._show(b"" if self._tokenizer is None else self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        return self._show(b"", final=True)

    def _show(self, data: bytes, final: bool = False) -> str:
        piece = self._decoder.decode(data, final)
        self.text += piece
        return piece
