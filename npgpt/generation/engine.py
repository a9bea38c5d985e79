"""The engine: many texts written side by side, and `generate`, one text written alone."""

import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np

from npgpt.generation.constraints import constraint_of
from npgpt.generation.decoder import ROWS, new_decoder
from npgpt.generation.requests import Completion, Request, Scratch, Text
from npgpt.generation.rules import Rules
from npgpt.generation.settings import Sampling, checked_ids, settings_of
from npgpt.generation.slots import Slots
from npgpt.generation.stops import Stops
from npgpt.models.base import Model, end_ids
from npgpt.models.registry import is_generator, verify
from npgpt.tokenizer import Tokenizer

DEFAULT = Sampling()


class Generator:
    """Writes many texts with a model, each in a slot of its own: they begin, end and are cancelled between steps.

    >>> generator = npgpt.Generator(model, tokenizer)
    >>> [completion.text for completion in generator.complete(["Once", "Yesterday"], max_new_tokens=20)]

    model      any model of the protocol
    tokenizer  for prompts that are texts, and for settings that speak of text; without it prompts are ids
    slots      texts that are written at once; more of them wait
    weights    None for the model's own, "int8" for weights of 8 bits
    threads    0 for as many as pay
    vocab_size draw from the first tokens only, if the model's vocabulary is padded; the tokenizer's, if there is one
    sampling   settings of texts that are given none, and under those that are given by their names

    A text gets bit for bit the tokens that it would get alone. Not for several threads at once.

    A model reads n_positions tokens at most. When a text has more, `Sampling.context` decides: "block" drops the oldest
    quarter of the tokens and reads the rest again, as a text that begins there, so that the next tokens cost no more
    than before; "slide" drops one token, and so reads all of the others again for each new one; "stop" ends the text.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None = None,
        slots: int = 8,
        weights: str | None = None,
        threads: int = 0,
        vocab_size: int | None = None,
        sampling: Sampling = DEFAULT,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots={slots} must be at least 1")
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self._verified = True
        config = model.config
        size = config.vocab_size
        if vocab_size is not None:
            size = vocab_size
            if not 1 <= size <= config.vocab_size:
                raise ValueError(f"vocab_size={size} must be in 1..{config.vocab_size}")
        elif tokenizer is not None:
            size = min(size, tokenizer.vocab_size)
        self.decoder = new_decoder(model, slots, ROWS + slots, weights, threads)
        self.vocab_size, self.n_positions = size, config.n_positions
        self.scratch = Scratch(config.vocab_size, size, model.dtype)
        own = None if tokenizer is None else tokenizer.end_id
        self.ends = (*end_ids(config), *(() if own is None or own in end_ids(config) else (own,)))
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._timed: list[Request] = []  # those with a deadline
        self._slots = Slots(self.decoder, slots, self.n_positions)

    @classmethod
    def from_pretrained(
        cls,
        run: str | Path,
        slots: int = 8,
        weights: str | None = None,
        threads: int = 0,
        last: bool = False,
        end_token: str | None = None,
        verified: bool = False,
    ) -> Self:
        """Open a run folder, or a GPT-2 of the hub by its name, to write with it by its generation_config.json.

        last       open the model of the last step, not the best one
        end_token  the name of the token that ends a text (default: the one that the folder names)
        verified   compare the weights with their checksum before anything is written. Otherwise that is done when the
                   first text has ended, and `step` or a search raises ValueError for a damaged file then, before it
                   returns

        Raises FileNotFoundError or ValueError, naming the file, for what is not there, damaged or not a whole model.
        """
        from npgpt.generation.defaults import defaults_of
        from npgpt.generation.opening import open_run
        from npgpt.hub.folders import find_folder

        run = find_folder(run)
        sampling = settings_of(defaults_of(run))
        model, tokenizer = open_run(run, last, end_token, verified)
        generator = cls(model, tokenizer, slots, weights, threads, sampling=sampling)
        generator._verified = verified
        return generator

    @property
    def busy(self) -> bool:
        """Whether a text waits or is being written."""
        return any(not request.done for request in chain(self._running, self._waiting))

    def submit(
        self,
        prompt: str | Iterable[int],
        sampling: Sampling | None = None,
        deadline: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> Request:
        """Let a text wait for a slot, and return it; `step` writes it.

        prompt    a text, in which nothing is a special token, or ids
        deadline  seconds from now, after which the text ends where it is
        rng       the generator of its draws, in place of one with sampling.seed

        Raises ValueError or TypeError for settings that this model and tokenizer cannot have, and for a prompt that is
        empty or leaves no room.
        """
        request = self.request(prompt, self.sampling if sampling is None else sampling, deadline, rng)
        self._waiting.append(request)
        if deadline is not None:
            self._timed.append(request)
        return request

    def step(self) -> list[Request]:
        """Give each text in a slot its next token, or read a part of its prompt; return those with a token or an end.

        Before that, texts that have ended leave their slots, and waiting ones take them.
        """
        news = self._expired()
        self._admit()
        texts, n = self._slots.gather(self._running)
        for text, logits in zip(texts, self._slots.read(n, len(texts)) if n else (), strict=True):
            request = text.request
            try:
                chosen = request.offer(text, logits, self.scratch)
            except BaseException as error:
                request.fail(error)
                if not isinstance(error, Exception):  # such as Ctrl-C
                    raise
                chosen = True  # the others go on
            if chosen:
                news.append(request)
        if any(request.done for request in news):
            self._verify()
        return news

    def _verify(self) -> None:
        """Compare the weights with their checksum, unless that has been done: what they wrote is about to be a result.

        Raises ValueError for a damaged file.
        """
        if not self._verified:
            verify(self.model)
            self._verified = True

    def complete(
        self, prompts: Iterable[str | Iterable[int]], sampling: Sampling | None = None, n: int = 1, **settings: Any
    ) -> list[Completion]:
        """Return the completions of prompts, n of each, those of one prompt after another.

        settings  those of Sampling by their names, instead of `sampling`

        The first text of a prompt gets its draws from default_rng(seed), text i from default_rng((seed, i)). Raises
        what `submit` raises, and the first error in a text; the other texts are cancelled then.
        """
        sampling = self._settings(sampling, settings)
        if n < 1:
            raise ValueError(f"n={n} must be at least 1")
        if n > 1 and sampling.temperature == 0:
            raise ValueError(f"n={n} texts at temperature 0 would all be the same: raise the temperature")
        if isinstance(prompts, str):
            raise TypeError(f"prompts={prompts!r} must be a list of prompts")
        requests = [self.request(prompt, sampling, None, draws(sampling, i)) for prompt in prompts for i in range(n)]
        self._waiting.extend(requests)
        try:
            for request in requests:
                while not request.done:
                    self.step()
            return [request.completion for request in requests]
        finally:
            for request in requests:
                request.cancel()

    def stream(self, prompt: str | Iterable[int], sampling: Sampling | None = None, **settings: Any) -> Iterator[str]:
        """Yield what follows a prompt, a piece as soon as it is known. Closing the iterator cancels the text.

        settings  those of Sampling by their names, instead of `sampling`

        Raises what `submit` raises, at once.
        """
        if self.tokenizer is None:
            raise ValueError("a stream is text: give the generator a tokenizer, or take ids from npgpt.generate")
        request = self.request(prompt, self._settings(sampling, settings))
        return self._followed(request, request.pieces)

    def _followed(self, request: Request, items: list) -> Iterator[Any]:
        """Yield the items of a list that a request appends to, each as soon as it is there."""
        self._waiting.append(request)
        shown = 0
        try:
            while True:
                while shown < len(items):
                    shown += 1
                    yield items[shown - 1]
                if request.error is not None:
                    raise request.error
                if request.done:
                    return
                self.step()
        finally:
            request.cancel()

    def _settings(self, sampling: Sampling | None, settings: dict[str, Any]) -> Sampling:
        """Return the settings that are given in one of two ways."""
        if sampling is not None and settings:
            raise ValueError(f"give {', '.join(settings)} in `sampling`, or leave `sampling` out")
        if sampling is None and settings:
            return settings_of({f.name: getattr(self.sampling, f.name) for f in fields(Sampling)} | settings)
        return self.sampling if sampling is None else sampling

    def request(
        self,
        prompt: str | Iterable[int],
        sampling: Sampling,
        deadline: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> Request:
        """Return what `submit` returns, without a place in the queue: a search writes it by itself."""
        ids = self._checked_prompt(prompt)
        if is_generator(self.model):  # a context that forgets its beginning would lose where the prompt ends
            sampling = replace(sampling, context="stop")
            if sampling.guidance_scale != 1:
                raise ValueError(f"guidance_scale={sampling.guidance_scale}: a generator has no guidance")
        room = self.n_positions - len(ids)
        if room < 1 and (sampling.max_new_tokens is None or sampling.context == "stop"):
            why = "max_new_tokens=None" if sampling.max_new_tokens is None else "context='stop'"
            raise ValueError(
                f"the prompt has {len(ids)} tokens, and with {why} the model's context of {self.n_positions} must "
                "also hold what follows"
            )
        if deadline is not None and not (math.isfinite(deadline) and deadline > 0):
            raise ValueError(f"deadline={deadline} must be seconds above 0")
        ends = self.ends if sampling.stop_ids is None else sampling.stop_ids
        check_vocabulary("stop_ids", ends if sampling.stop_ids is not None else (), self.vocab_size)
        check_vocabulary("logit_bias", sampling.logit_bias or (), self.vocab_size)
        most = room if sampling.max_new_tokens is None else sampling.max_new_tokens
        rules = Rules(sampling, self.tokenizer, self.vocab_size, ends, len(ids))
        stops = Stops(sampling, self.tokenizer, ends)
        constraint = constraint_of(sampling, self.tokenizer, self.vocab_size, ends)
        negative = self._negative_prompt(sampling, ids)
        rng = np.random.default_rng(sampling.seed) if rng is None else rng
        return Request(ids, sampling, ends, most, self.n_positions, rules, stops, constraint, negative, rng, deadline)

    def _negative_prompt(self, sampling: Sampling, ids: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the ids to guide away from: of an empty text the last one of the prompt, as in transformers."""
        if sampling.negative_prompt is None:
            return None
        if len(self._slots.texts) < 2:
            raise ValueError("a negative_prompt is read in a slot of its own: give the generator slots=2 or more")
        return self._checked_prompt(sampling.negative_prompt or ids[-1:])

    @contextmanager
    def lent(self, slots: int) -> Iterator[list[int]]:
        """Lend empty slots to a search. Raises ValueError if too few are free, and, at its end, for a damaged file."""
        self._admit()
        free = self._slots.free()
        if len(free) < slots:
            raise ValueError(f"{slots} slots are needed, but {len(free)} are free: make a Generator with more slots")
        lent = free[:slots]
        for slot in lent:
            self._slots.texts[slot] = None
        self.decoder.lengths[lent] = 0
        try:
            self._slots.lent |= {*lent}
            yield lent
            self._verify()
        finally:
            self._slots.lent -= {*lent}

    def _checked_prompt(self, prompt: str | Iterable[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise ValueError(f"the prompt {prompt[:40]!r} is a text: give the generator a tokenizer, or ids")
            ids = tuple(self.tokenizer.encode_prompt(prompt))
        else:
            ids = checked_ids("prompt", prompt)
        if not ids:
            raise ValueError("the prompt is empty: give at least one token to continue from")
        check_vocabulary("the prompt", ids, self.model.config.vocab_size)
        return ids

    def _expired(self) -> list[Request]:
        """End the texts whose time is over, and return them."""
        if not self._timed:
            return []
        now = time.monotonic()
        self._timed = [request for request in self._timed if not request.done]
        return [request for request in self._timed if request.expire(now)]

    def make_room(self, text: Text) -> int:
        """Drop the oldest tokens of a text that a search writes, as `step` does; return the number left, 0."""
        return self._slots.make_room(text)

    def _admit(self) -> None:
        """Take the slots of texts that have ended, and give free ones to texts that wait."""
        if any(request.done for request in self._running):
            for text in [text for request in self._running if request.done for text in request.texts]:
                self._slots.leave(text)
            self._running = [request for request in self._running if not request.done]
        while self._waiting:
            request = self._waiting[0]
            if not (request.done or request in self._running):
                unplaced = [text for text in request.texts if self._slots.texts[text.slot] is not text]
                if len(self._slots.free()) < len(unplaced):
                    break
                for text in unplaced:
                    self._slots.place(text, self._running)
                self._running.append(request)
            self._waiting.popleft()


def draws(sampling: Sampling, i: int) -> np.random.Generator:
    """Return the generator of the draws of text i of a prompt."""
    return np.random.default_rng(sampling.seed if i == 0 else (sampling.seed, i))


def check_vocabulary(what: str, ids: Iterable[int], vocab_size: int) -> None:
    """Raise ValueError for an id outside the vocabulary."""
    for i in ids:
        if not 0 <= i < vocab_size:
            raise ValueError(f"{what} has the id {i}, which is outside the vocabulary of {vocab_size}")


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
    tokenizer: Tokenizer | None = None,
    **settings: Any,
) -> Iterator[int]:
    """Yield the tokens that follow ids, each as soon as it is drawn.

    ids          the prompt, at least one token. The model reads the last n_positions tokens of a longer one
    temperature  divides the logits; 0 always takes the likeliest token
    top_k        draw from the k likeliest tokens only
    top_p        draw from the fewest tokens whose total probability is at least top_p
    seed         seed of the draws, or a generator
    vocab_size   draw from the first vocab_size tokens only, if the model's vocabulary is padded
    stop         the token that ends the text, or several; the model's eos_token_id if it is not given
    tokenizer    for settings that speak of text
    settings     the other fields of npgpt.Sampling by their names, such as min_p or repetition_penalty

    Raises ValueError for arguments outside these ranges, before the first token, and for logits that are NaN.
    `npgpt.Generator` writes several texts at once.
    """
    sampling = settings_of(
        {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        | ({} if stop is None else {"stop_ids": stop})
        | ({} if isinstance(seed, np.random.Generator) else {"seed": seed})
        | settings
    )
    slots = 1 if sampling.negative_prompt is None else 2
    generator = Generator(model, tokenizer, slots, vocab_size=vocab_size)
    request = generator.request(ids, sampling, None, seed if isinstance(seed, np.random.Generator) else None)
    return generator._followed(request, request.ids)
