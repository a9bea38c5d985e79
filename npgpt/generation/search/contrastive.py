"""Contrastive search: a likely token each time, but none that says what the text has said.

Source: Su et al., "A Contrastive Framework for Neural Text Generation", arXiv:2202.06417.
"""

import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from npgpt.generation.engine import DEFAULT, Generator
from npgpt.generation.requests import Completion, Request
from npgpt.generation.rules import softmax
from npgpt.generation.search.reading import DRAWS, GUIDANCE, best, parts, refuse, unread
from npgpt.generation.settings import Sampling, checked_number


def contrastive_search(
    generator: Generator,
    prompt: str | Iterable[int],
    penalty_alpha: float,
    sampling: Sampling = DEFAULT,
    deadline: float | None = None,
) -> Completion:
    """Return a completion each of whose tokens is likely, and unlike all that stands before it.

    penalty_alpha  what the likeness counts, 0 to 1; 0 takes the likeliest token, as greedy decoding does
    sampling       its top_k, which must be given, is the number of tokens to choose from
    deadline       seconds from now, after which the text ends where it is

    Of the top_k likeliest tokens, the one is taken for which (1 - penalty_alpha) p - penalty_alpha s is the largest: p
    is its probability under the rules, and s the largest cosine between its last hidden state and that of a token
    before it. As many slots are needed as there are tokens to choose from.

    Raises ValueError for settings of draws, for a model without hidden states, and whatever `Generator.submit` raises.
    """
    alpha = checked_number("penalty_alpha", penalty_alpha, 0, 1, True)
    if sampling.top_k is None:
        raise ValueError(f"penalty_alpha={alpha} needs top_k, the number of tokens to choose from, such as top_k=4")
    refuse(sampling, (set(DRAWS) - {"top_k"}) | set(GUIDANCE), "contrastive search draws nothing, and reads one prompt")
    request = generator.request(prompt, replace(sampling, top_k=None), deadline)
    with generator.lent(min(sampling.top_k, generator.vocab_size)) as slots:
        return Contrast(generator, request, slots, float(alpha or 0)).write()


class Contrast:
    """A text in several slots, each of which holds it with another token after it.

    states  (n_positions, C): the hidden states of the text's tokens that the slots hold, each of length 1
    """

    def __init__(self, generator: Generator, request: Request, slots: list[int], alpha: float) -> None:
        self.generator, self.request, self.slots, self.alpha = generator, request, slots, alpha
        self.text = request.texts[0]
        request.draw = self.choose

    def write(self) -> Completion:
        """Write the text to its end."""
        self.logits = self.read_all()
        while not (self.request.done or self.request.expire(time.monotonic())):
            self.request.advance(self.logits, self.generator.scratch)
        return self.request.completion

    def read_all(self) -> np.ndarray:
        """Read the text anew, in all slots; return the logits after it."""
        decoder, text = self.generator.decoder, self.text
        decoder.lengths[self.slots] = 0
        text.slot = self.slots[0]
        rows = unread(self.generator, text)
        states = []
        for logits in parts(decoder, rows, range(len(rows))):
            last = logits[-1].copy()
            states.append(unit(decoder.hidden()))
        for slot in self.slots[1:]:
            decoder.copy(self.slots[0], slot, len(rows))
        self.states = np.empty((self.generator.n_positions, states[0].shape[1]))
        self.states[: len(rows)] = np.concatenate(states)
        return last

    def read(self, rows: list[tuple[int, int]], wanted: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits and the hidden states, made to have the length 1, after the wanted rows."""
        decoder = self.generator.decoder
        found = [(logits.copy(), unit(decoder.hidden())) for logits in parts(decoder, rows, wanted)]
        logits, states = map(np.concatenate, zip(*found, strict=True))
        return logits, states

    def choose(self, found: np.ndarray, rng: np.random.Generator) -> int:
        """Return the best of the likeliest tokens by the logits under the rules; keep the logits after it."""
        decoder, text = self.generator.decoder, self.text
        if text.n - text.start == self.generator.n_positions:  # no room for the token that is chosen
            self.generator.make_room(text)
            self.read_all()
        candidates = best(found, len(self.slots))
        rows, wanted = [], []
        for text.slot, token in zip(self.slots, candidates.tolist(), strict=False):
            rows += [*unread(self.generator, text), (text.slot, token)]
            wanted.append(len(rows) - 1)
        logits, states = self.read(rows, wanted)
        length = text.n - text.start
        likeness = (states @ self.states[:length].T).max(axis=1)
        chosen = int(((1 - self.alpha) * softmax(found)[candidates] - self.alpha * likeness).argmax())
        self.states[length], self.logits = states[chosen], logits[chosen]
        for i, slot in enumerate(self.slots[: len(candidates)]):
            if i != chosen:
                decoder.lengths[slot] -= 1  # forget a token that was not chosen
        return int(candidates[chosen])


def unit(states: np.ndarray) -> np.ndarray:
    """Return states (T, C) made to have the length 1, in float64; those of 0 stay so."""
    states = states.astype(np.float64)
    norms = np.linalg.norm(states, axis=1, keepdims=True)
    return states / np.where(norms > 0, norms, 1)  # 0 are those of a generator's prompt, which is like nothing
