"""Speculative decoding: a small model drafts several tokens, and the large one checks them in one call.

Sources: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", arXiv:2211.17192, and Chen et
al., "Accelerating Large Language Model Decoding with Speculative Sampling", arXiv:2302.01318.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from npgpt.generation.engine import DEFAULT, Generator
from npgpt.generation.requests import Completion, Request, Text
from npgpt.generation.rules import NoTokenError, draw, pick, softmax
from npgpt.generation.search.reading import GUIDANCE, read, refuse, unread
from npgpt.generation.settings import Sampling
from npgpt.generation.slots import dropped
from npgpt.models.base import Model

MOST = 8  # tokens drafted at once
ROW = 0.15  # the cost of checking one token more, in reads of a single token by the large model
PAUSE = 16  # calls without a draft, where drafts do not pay, until one is tried again


@dataclass(frozen=True)
class Drafted(Completion):
    """A completion, and how it came about.

    drafted   tokens that the small model proposed
    accepted  those of them that the large model kept
    reads     calls of the large model, the prompt's among them
    """

    drafted: int
    accepted: int
    reads: int


def speculative(
    generator: Generator,
    draft: Generator | Model,
    prompt: str | Iterable[int],
    sampling: Sampling = DEFAULT,
    lookahead: int | None = None,
    deadline: float | None = None,
) -> Drafted:
    """Return a completion with the distribution that the generator's own have, for fewer calls of its model.

    draft      a smaller model of the same vocabulary, or a generator with one
    lookahead  tokens drafted at once; None for as many as pay, by how many were accepted so far
    deadline   seconds from now, after which the text ends where it is

    A token x that was drawn from the small model's distribution q is kept with the probability min(1, p(x) / q(x)),
    where p is the large model's; otherwise one is drawn from max(p - q, 0), made to sum to 1. Rules change both p and
    q. At temperature 0 the ids are those without a draft. Above it they are others of the same distribution, since
    draws are used in another order.

    Raises ValueError for a draft of another vocabulary, for guidance, and whatever `Generator.submit` raises.
    """
    refuse(sampling, GUIDANCE, "speculative decoding reads no negative prompt")
    if lookahead is not None and lookahead < 1:
        raise ValueError(f"lookahead={lookahead} must be at least 1")
    draft = same_vocabulary(generator, draft)
    request = generator.request(prompt, sampling, deadline)
    with generator.lent(1) as [slot], draft.lent(1) as [other]:
        return Pair(generator, draft, request, slot, other).write(lookahead)


def same_vocabulary(generator: Generator, draft: Generator | Model) -> Generator:
    """Return a generator with the draft. Raises ValueError if its vocabulary is not the generator's."""
    known = draft.tokenizer if isinstance(draft, Generator) else None
    model = draft.model if isinstance(draft, Generator) else draft
    if known is not None and generator.tokenizer is not None:
        mine, its = generator.tokenizer.fingerprint(), known.fingerprint()
        if mine != its:
            raise ValueError(
                f"the draft has another tokenizer than the model: {known.vocab_size} tokens, fingerprint {its[:12]}, "
                f"and the model {generator.tokenizer.vocab_size}, fingerprint {mine[:12]}"
            )
    elif model.config.vocab_size != generator.model.config.vocab_size:
        raise ValueError(
            f"the draft has a vocabulary of {model.config.vocab_size}, and the model one of "
            f"{generator.model.config.vocab_size}: they must be the same"
        )
    draft = draft if isinstance(draft, Generator) else Generator(draft, slots=1, vocab_size=generator.vocab_size)
    if draft.vocab_size != generator.vocab_size:
        raise ValueError(f"the draft draws from {draft.vocab_size} tokens, and the model from {generator.vocab_size}")
    return draft


class Pair:
    """A text that two models write, each in a slot of its own: the small one runs ahead of the large one."""

    def __init__(self, generator: Generator, draft: Generator, request: Request, slot: int, other: int) -> None:
        self.generator, self.draft, self.request = generator, draft, request
        self.text = request.texts[0]
        self.ahead = Text(request, request.prompt_ids, draft.n_positions)  # the text, and drafted tokens after it
        self.text.slot, self.ahead.slot = slot, other
        self.proposal: tuple[int, np.ndarray] | None = None  # the drafted token at this place, and its distribution
        request.draw = self.draw

    def write(self, lookahead: int | None) -> Drafted:
        """Write the text to its end."""
        length = Lookahead(self.draft.model.flops_per_token / self.generator.model.flops_per_token)
        drafted = accepted = reads = 0
        while not (self.request.done or self.request.expire(time.monotonic())):
            proposals = self.propose(length() if lookahead is None else lookahead)
            kept = self.check(proposals)
            length.learn(kept, len(proposals))
            drafted, accepted, reads = drafted + len(proposals), accepted + kept, reads + 1
        return Drafted(**vars(self.request.completion), drafted=drafted, accepted=accepted, reads=reads)

    def propose(self, most: int) -> list[tuple[int, np.ndarray]]:
        """Draft tokens, at most so many; return them with the distributions that they are drawn from."""
        if self.text.n - self.text.start > self.generator.n_positions:
            self.generator.make_room(self.text)
        while self.ahead.n - self.ahead.start > self.draft.n_positions:
            self.ahead.start += dropped("block", self.draft.n_positions)
            self.draft.decoder.lengths[self.ahead.slot] = 0
        most = min(
            most,
            self.request.most - len(self.request.ids) - 1,  # one is the large model's own
            self.generator.n_positions - (self.text.n - self.text.start),
            self.draft.n_positions - (self.ahead.n - self.ahead.start) + 1,  # the last one is not read
        )
        proposals: list[tuple[int, np.ndarray]] = []
        while len(proposals) < most:
            rows = unread(self.draft, self.ahead)
            logits = read(self.draft.decoder, rows, [len(rows) - 1])[0, : self.draft.vocab_size]
            try:
                token, q = self.guess(logits)
            except NoTokenError:  # the large model may not come here; if it does, it says so
                break
            proposals.append((token, q))
            self.ahead.append(token)
        return proposals

    def guess(self, logits: np.ndarray) -> tuple[int, np.ndarray]:
        """Return a token by the small model's logits, and the distribution that it is drawn from."""
        peak = logits.max()
        if not np.isfinite(peak):
            what = "NaN" if np.isnan(peak) else "infinite"
            raise ValueError(f"the draft's logits are {what}: its weights are damaged, or training diverged")
        if self.request.likeliest:
            return int(logits.argmax()), logits  # which token the large model finds likeliest decides, no distribution
        found = self.request.rules.apply(self.ahead.ids[: self.ahead.n], logits.astype(np.float64))
        q = softmax(found)
        return (int(found.argmax()) if self.request.sampling.temperature == 0 else pick(q.copy(), self.request.rng)), q

    def check(self, proposals: list[tuple[int, np.ndarray]]) -> int:
        """Add the proposed tokens that the large model keeps, and one of its own; return how many were kept."""
        text, request = self.text, self.request
        rows = unread(self.generator, text) + [(text.slot, token) for token, _ in proposals]
        logits = read(self.generator.decoder, rows, range(len(rows) - 1 - len(proposals), len(rows)))
        kept = 0
        for row, self.proposal in zip(logits, [*proposals, None], strict=True):
            before = text.n
            request.advance(row, self.generator.scratch)
            hit = self.proposal is not None and text.ids[before : text.n].tolist() == [self.proposal[0]]
            kept += hit
            if request.done or not hit:
                break
        # forget what was rejected; the last token of the text is not read yet
        self.generator.decoder.lengths[text.slot] = text.n - 1 - text.start
        self.ahead.n = text.n - 1
        self.ahead.append(int(text.ids[text.n - 1]))
        held = int(self.draft.decoder.lengths[self.ahead.slot])
        self.draft.decoder.lengths[self.ahead.slot] = min(held, self.ahead.n - 1 - self.ahead.start)
        return kept

    def draw(self, found: np.ndarray, rng: np.random.Generator) -> int:
        """Return the proposed token or another, so that it has the distribution of the large model's logits."""
        return draw(found, rng) if self.proposal is None else keep_or_draw(*self.proposal, softmax(found), rng)


def keep_or_draw(token: int, q: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> int:
    """Return a token with the distribution p, by one with the distribution q: that one, wherever it can be.

    It is kept with the probability min(1, p / q), so that a token is kept with the probability min(p, q) in all. What
    is missing from p, max(p - q, 0), is as much as is rejected: another token is drawn from it.
    """
    if rng.random() * q[token] < p[token]:
        return token
    rest = np.maximum(p - q, 0)
    return pick(rest if rest.any() else p, rng)  # nothing is missing where p and q differ by rounding alone


class Lookahead:
    """How many tokens to draft, so that a token costs the least: by how many were kept lately.

    If each of k tokens is kept with the probability a, a call of the large model gives (1 - a^(k+1)) / (1 - a) tokens.
    It costs 1 and, for each drafted token, ROW for checking it and the cost of drafting it. If no draft pays, one is
    made after PAUSE calls without, since the text may have become easier.
    """

    def __init__(self, cost: float) -> None:
        """Take the cost of drafting a token, in reads of a single token by the large model."""
        self.cost = cost + ROW
        self.kept, self.tried = 3.0, 4.0  # as if so many had been drafted before the first
        self.pause = 0

    def __call__(self) -> int:
        """Return the number of tokens to draft next, 0 to MOST."""
        a, k = self.kept / self.tried, np.arange(MOST + 1)
        tokens = k + 1 if a == 1 else (1 - a ** (k + 1)) / (1 - a)
        best = int((tokens / (1 + k * self.cost)).argmax())
        self.pause = self.pause + 1 if best == 0 else 0
        return 1 if self.pause > 0 and self.pause % PAUSE == 0 else best

    def learn(self, kept: int, drafted: int) -> None:
        """Take into account that so many drafted tokens were kept; older drafts count less and less."""
        if drafted:
            self.kept = 0.95 * self.kept + kept
            self.tried = 0.95 * self.tried + min(kept + 1, drafted)
