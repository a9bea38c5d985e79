"""A request: a text that is being written, from its prompt to its completion."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.generation.constraints import Constraint
from npgpt.generation.rules import Rules, draw, likeliest
from npgpt.generation.settings import Sampling
from npgpt.generation.stops import Stops


@dataclass(frozen=True)
class Completion:
    """A text that was written.

    prompt_ids     what it continues
    ids            the tokens that were drawn, with the end token if one was drawn
    text           what they say, without end token and stop string; empty without a tokenizer
    logprobs       the model's own log-probability of each of ids, before any rule, in nats: among all of its tokens,
                   those that pad its vocabulary and cannot be drawn included
    top            for each of ids, the likeliest tokens that can be drawn and their log-probabilities, as many as
                   Sampling.logprobs says
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
    """Ids that are to be read in a slot: `ids[start:n]`, of which the decoder has the first `lengths[slot]`.

    follows  another text, where it began, and how many ids the two have in common: those are copied, once that text has
             read them
    logits   of a request of several texts, the logits after the last id, once that has been read
    """

    def __init__(self, request: "Request", ids: Collection[int], n_positions: int) -> None:
        self.request = request
        self.ids = np.empty(len(ids) + 16, np.int64)
        self.ids[: len(ids)] = tuple(ids)
        self.n = len(ids)
        self.start = max(0, self.n - n_positions)
        self.slot = -1
        self.follows: tuple[Text, int, int] | None = None
        self.logits: np.ndarray | None = None

    @property
    def window(self) -> np.ndarray:
        """The ids that fit into the context."""
        return self.ids[self.start : self.n]

    def append(self, token: int) -> None:
        if self.n == len(self.ids):
            self.ids = np.concatenate((self.ids, np.empty_like(self.ids)))
        self.ids[self.n] = token
        self.n += 1


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
        rules: Rules,
        stops: Stops,
        constraint: Constraint | None,
        negative: tuple[int, ...] | None,
        rng: np.random.Generator,
        deadline: float | None,
    ) -> None:
        self.prompt_ids, self.sampling, self.ends = prompt, sampling, tuple(ends)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.top: list[tuple[tuple[int, float], ...]] = []
        self.pieces: list[str] = []  # the text so far, as it may be shown
        self.error: BaseException | None = None
        self._reason: str | None = None
        self.most, self._n_positions = most, n_positions
        self.rules, self.stops, self.constraint, self.rng = rules, stops, constraint, rng
        self._until = math.inf if deadline is None else time.monotonic() + deadline
        self.likeliest = sampling.temperature == 0 and constraint is None and {*rules.rules} <= {"temperature"}
        self.draw: Callable[[np.ndarray, np.random.Generator], int] = draw  # a search puts another in place
        self.texts = [Text(self, ids, n_positions) for ids in (prompt, negative) if ids is not None]
        self._end_where_it_must()

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
            reason = self.stops.stopped or reason  # half a character at the end may complete a stop string
            if self.constraint is not None and reason != "cancelled" and not self.constraint.matches(self.stops.text):
                reason = "unfinished"
            self._reason = reason

    def fail(self, error: BaseException) -> None:
        """End the text with an error."""
        if not self.done:
            self.error = error

    def expire(self, now: float) -> bool:
        """End the text if its time is over; return whether it was."""
        if now < self._until or self.done:
            return False
        self.end("deadline")
        return True

    def offer(self, text: Text, logits: np.ndarray, scratch: "Scratch") -> bool:
        """Take the logits (V,) after the last token of one of the texts; return whether they led to a token or an end.

        Where there is a negative prompt, they do once both texts have theirs.
        """
        if len(self.texts) == 1:
            self.advance(logits, scratch)
            return True
        text.logits = logits.copy()
        own, negative = (text.logits for text in self.texts)
        if own is None or negative is None:
            return False
        for text in self.texts:
            text.logits = None
        self.advance(own, scratch, negative)
        return True

    def advance(self, logits: np.ndarray, scratch: "Scratch", negative: np.ndarray | None = None) -> None:
        """Choose a token by the logits (V,) after the last one, and end the text if it has to end."""
        first = int(logits.argmax())  # of NaN and numbers, NaN
        peak = float(logits[first])
        if not math.isfinite(peak):
            what = "NaN" if math.isnan(peak) else "infinite"
            raise ValueError(f"the model's logits are {what}: its weights are damaged, or training diverged")
        if self.constraint is not None and not self.constraint.mask().any():
            self.end("unfinished")
            return
        known = self.likeliest and first < scratch.size and first not in self.rules.holes
        token = first if known else self._choose(logits, negative, scratch)
        total = scratch.log_sum_exp(logits, peak)
        self.logprobs.append(float(logits[token]) - total)
        if self.sampling.logprobs:
            self.top.append(top(logits[: scratch.size], total, self.sampling.logprobs))
        self.ids.append(token)
        for text in self.texts:
            text.append(token)
        if self.constraint is not None:
            self.constraint.accept(token)
        self._show(self.stops.feed(token))
        self._end_where_it_must()

    def _choose(self, logits: np.ndarray, negative: np.ndarray | None, scratch: "Scratch") -> int:
        """Return a token by the rules."""
        row, text = scratch.row, self.texts[0]
        np.copyto(row, logits[: scratch.size])
        if negative is not None:
            negative = negative[: scratch.size].astype(np.float64)
        if self.constraint is not None:
            row[~self.constraint.mask()] = -np.inf
        found = self.rules.apply(text.ids[: text.n], row, negative)
        if not found.max() > -math.inf:
            raise ValueError(f"no token is left to draw after {text.n} tokens")
        token = int(found.argmax()) if self.sampling.temperature == 0 else self.draw(found, self.rng)
        self.rules.chosen(token, found)
        return token

    def _end_where_it_must(self) -> None:
        if self.stops.stopped is not None:
            self.end(self.stops.stopped)
        elif self.constraint is not None and self.constraint.over:
            self.end("constraint")
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


def top(logits: np.ndarray, total: float, n: int) -> tuple[tuple[int, float], ...]:
    """Return the n likeliest tokens with their log-probabilities; of equally likely ones the first.

    >>> top(np.log([0.2, 0.5, 0.3]), 0.0, 2)
    ((1, -0.6931471805599453), (2, -1.2039728043259361))
    """
    return tuple((int(i), float(logits[i]) - total) for i in likeliest(logits, n))
