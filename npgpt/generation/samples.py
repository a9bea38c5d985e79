"""Samples: many texts from one beginning, to count what a rule does to them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from npgpt.generation.engine import Generator
from npgpt.generation.settings import Sampling
from npgpt.generation.stops import Stops
from npgpt.models.base import Model
from npgpt.tokenizer import Tokenizer

SLOTS = 32  # texts that are written at once


@dataclass(frozen=True)
class Sample:
    """A text that was sampled.

    ids       its tokens, with the end token if one was drawn
    logprobs  the model's own log-probability of each, in nats
    text      what they say, without end token and stop string
    ended     whether the model ended it; otherwise it was cut off
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    ended: bool


def sample(
    model: Model,
    tokenizer: Tokenizer,
    prompt: Collection[int],
    n: int,
    sampling: Sampling,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Sample]:
    """Return n texts that begin after a prompt.

    The first token of each is drawn at temperature 1 and without rules: so the rule under test does not decide what a
    text is about, and even at temperature 0 texts differ. The draws of text i come from default_rng((seed, i)).

    progress  is called with the number of tokens so far

    Raises ValueError for n below 1, for fewer than 2 new tokens, and what Generator.submit raises.
    """
    most = sampling.max_new_tokens
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    if most is not None and most < 2:
        raise ValueError(f"max_new_tokens={most} must be at least 2: the first is drawn without rules")
    generator = Generator(model, tokenizer, min(SLOTS, n))
    rngs = [np.random.default_rng((sampling.seed, i)) for i in range(n)]
    ends = generator.ends if sampling.stop_ids is None else sampling.stop_ids
    first = Sampling(max_new_tokens=1, stop_ids=sampling.stop_ids)
    rest = sampling if most is None else replace(sampling, max_new_tokens=most - 1)
    begun = [generator.submit(prompt, first, rng=rng) for rng in rngs]
    step_all(generator, progress)
    found = [request.completion for request in begun]
    more = [
        None if one.ids[-1] in ends else generator.submit((*prompt, *one.ids), rest, rng=rng)
        for one, rng in zip(found, rngs, strict=True)
    ]
    step_all(generator, progress)
    samples = []
    for one, request in zip(found, more, strict=True):
        ids, logprobs = one.ids, one.logprobs
        if request is not None:
            ids, logprobs = ids + request.completion.ids, logprobs + request.completion.logprobs
        stops = Stops(sampling, tokenizer, ends)
        for i in ids:
            stops.feed(i)
        stops.finish()
        samples.append(Sample(ids, logprobs, stops.text, stops.stopped is not None))
    return samples


def step_all(generator: Generator, progress: Callable[[int], object]) -> None:
    """Write until every text has ended."""
    while generator.busy:
        progress(len(generator.step()))
