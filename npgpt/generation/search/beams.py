"""Beam search: the likeliest texts that can be found, rather than one that is drawn."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npgpt.generation.engine import DEFAULT, Generator
from npgpt.generation.requests import Completion, Request, top
from npgpt.generation.rules import NoTokenError, log_softmax
from npgpt.generation.search.reading import CONSTRAINTS, DRAWS, GUIDANCE, best, read, refuse
from npgpt.generation.settings import Sampling, checked_count, checked_number
from npgpt.generation.slots import dropped
from npgpt.generation.stops import Stops
from npgpt.models.base import Decoder

MOST = 20  # the largest length_penalty: its power of a length is far from what a float can hold


@dataclass(frozen=True, kw_only=True)
class Beams:
    """How texts are searched for. Names and defaults are those of transformers' GenerationConfig.

    >>> Beams(num_beams=6, num_beam_groups=3, diversity_penalty=0.5, n=3)

    Raises ValueError or TypeError, with the value, for one that is not possible.
    """

    num_beams: int = 4  # texts that are followed at once
    num_beam_groups: int = 1  # groups that search one after another, each away from those before it
    diversity_penalty: float = 0.0  # what a token costs for each earlier group's text that has it at the same place
    length_penalty: float = 1.0  # a text's score is its log-probability divided by its length to this power
    early_stopping: bool | str = False  # when a search ends that has num_beams finished texts: see docs/generation.md
    n: int = 1  # texts to return

    def __post_init__(self) -> None:
        for name in ("num_beams", "num_beam_groups", "n"):
            object.__setattr__(self, name, checked_count(name, getattr(self, name), 1))
        for name, least, most in (("diversity_penalty", 0, math.inf), ("length_penalty", -MOST, MOST)):
            object.__setattr__(self, name, checked_number(name, getattr(self, name), least, most, True))
        if not any(self.early_stopping is known for known in (False, True)) and self.early_stopping != "never":
            raise ValueError(f'early_stopping={self.early_stopping!r} must be False, True or "never"')
        if self.num_beams % self.num_beam_groups:
            raise ValueError(
                f"num_beams={self.num_beams} cannot be divided into num_beam_groups={self.num_beam_groups} equal groups"
            )
        if self.n > self.num_beams:
            raise ValueError(f"n={self.n} is more than num_beams={self.num_beams}, which are all that are found")
        if (self.num_beam_groups > 1) != (self.diversity_penalty > 0):
            raise ValueError(
                f"num_beam_groups={self.num_beam_groups} with diversity_penalty={self.diversity_penalty}: several "
                "groups need a penalty above 0, or all would find the same texts, and one group has no other to avoid"
            )


@dataclass(frozen=True)
class Beam(Completion):
    """A completion that beam search found.

    score  the sum of its tokens' log-probabilities as the rules change them, less what diversity costs, divided by the
           number of ids to the power of length_penalty
    """

    score: float


DEFAULT_BEAMS = Beams()


def beam_search(
    generator: Generator,
    prompt: str | Iterable[int],
    beams: Beams = DEFAULT_BEAMS,
    sampling: Sampling = DEFAULT,
    deadline: float | None = None,
) -> list[Beam]:
    """Return the completions with the highest scores that beam search finds, the best first: beams.n of them.

    sampling  what ends a text, and the rules that change log-probabilities: penalties, biases, what is banned. What is
              about draws is refused, since nothing is drawn
    deadline  seconds from now, after which the texts end where they are

    With one group it finds what transformers' beam search finds. There are fewer than n completions only where the
    rules leave fewer texts. A decoder's slot is needed for each of the num_beams.

    Raises ValueError for settings that have no effect here, for rules that leave no text, and whatever
    `Generator.submit` raises.

    Source of groups: Vijayakumar et al., "Diverse Beam Search", arXiv:1610.02424.
    """
    refuse(sampling, DRAWS, "beam search draws nothing")
    refuse(sampling, GUIDANCE, "beam search reads no negative prompt")
    refuse(sampling, CONSTRAINTS, "beam search does not follow constraints")
    request = generator.request(prompt, sampling, deadline)
    if request.done:
        raise ValueError(f"max_new_tokens={sampling.max_new_tokens} leaves nothing to search for")
    with generator.lent(beams.num_beams) as slots:
        found = Search(generator, request, beams, slots).run()
    if not found:
        raise NoTokenError("the rules exclude every text before it has ended")
    return found[: beams.n]


@dataclass(frozen=True)
class Hypothesis:
    """A text on the way.

    slot   the slot that holds its tokens but the last
    stops  whether and where it ends
    total  the sum of the tokens' scores: log-probabilities as the rules change them, less what diversity costs
    score  total over the length to the power of the length penalty, by which texts are compared that have ended
    """

    slot: int
    stops: Stops
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    total: float = 0.0
    score: float = 0.0
    reason: str = ""


class Group:
    """Texts that compete with one another: at most `size` that run on, and the `size` best of those that have ended."""

    def __init__(self, slots: list[int], stops: Stops, beams: Beams, limit: int) -> None:
        self.size, self.slots, self.beams, self.limit = len(slots), slots, beams, limit
        self.running, self.ended = [Hypothesis(slots[0], stops)], list[Hypothesis]()

    def extend(self, logprobs: np.ndarray, scores: np.ndarray, tops: Sequence[tuple], n_ends: int) -> None:
        """Replace the running texts by their best continuations with one token more.

        logprobs  (running, V), the model's own
        scores    (running, V), what counts of them
        tops      the likeliest tokens after each running text, where they are asked for

        Enough candidates are looked at for `size` to run on, even if each text's best tokens are end tokens. A text
        that ends counts only if it is among the best `size` candidates.
        """
        totals = scores + np.array([[text.total] for text in self.running])
        running: list[Hypothesis] = []
        for rank, candidate in enumerate(best(totals.ravel(), self.size * max(2, 1 + n_ends))):
            row, token = divmod(int(candidate), scores.shape[1])
            text, stops = self.running[row], self.running[row].stops.copy()
            stops.feed(token)
            ids, total = (*text.ids, token), float(totals[row, token])
            text = Hypothesis(
                text.slot, stops, ids, (*text.logprobs, float(logprobs[row, token])), (*text.top, *tops[row : row + 1]),
                total, total / len(ids) ** self.beams.length_penalty,
            )  # fmt: skip
            if not stops.stopped:
                running.append(text)
            elif rank < self.size:
                self.end([text], stops.stopped)
        self.running = running[: self.size]

    def end(self, texts: list[Hypothesis], reason: str) -> None:
        """Let texts end; the best `size` of all that have ended are kept, of equals the older."""
        texts = [replace(text, reason=reason) for text in texts]
        self.ended = sorted([*self.ended, *texts], key=lambda text: -text.score)[: self.size]

    def is_settled(self) -> bool:
        """Say whether the search is over: no text runs on, or none of them is thought to become one of the best.

        With early_stopping=True that is so when `size` texts have finished. With False the best running text must be
        able to beat the worst finished one by its score as it would be if it ended here, with "never" by the highest
        score that it could have, at `limit` tokens if long texts are preferred (length_penalty above 0).
        """
        if not self.running:
            return True
        if len(self.ended) < self.size:
            return False
        longest = self.beams.early_stopping == "never" and self.beams.length_penalty > 0
        length = self.limit if longest else len(self.running[0].ids)
        hoped = self.running[0].total / length**self.beams.length_penalty
        return self.beams.early_stopping is True or hoped <= self.ended[-1].score

    def place(self, decoder: Decoder) -> None:
        """Give each running text a slot of its own that holds its tokens but the last.

        The first text that continues another stays in its slot. For the others it is copied into the slots of texts
        that nothing continues.
        """
        used = {text.slot for text in self.running}
        free = [slot for slot in self.slots if slot not in used]
        for i, text in enumerate(self.running):
            if text.slot in used:
                used.remove(text.slot)
            else:
                slot = free.pop()
                decoder.copy(text.slot, slot, int(decoder.lengths[text.slot]))
                self.running[i] = replace(text, slot=slot)


class Search:
    """Groups that search one after another at each step.

    For a group, a token is worth diversity_penalty less for each text of the groups before it that has just continued
    with the same token: the Hamming diversity of Vijayakumar et al.
    """

    def __init__(self, generator: Generator, request: Request, beams: Beams, slots: list[int]) -> None:
        self.generator, self.request, self.beams = generator, request, beams
        size = beams.num_beams // beams.num_beam_groups
        room = generator.n_positions - len(request.prompt_ids)
        self.limit = min(request.most, room) if request.sampling.context == "stop" else request.most
        self.groups = [
            Group(slots[i : i + size], request.stops.copy(), beams, self.limit) for i in range(0, len(slots), size)
        ]
        self.start = max(0, -room)  # where in the texts the slots' tokens begin

    def run(self) -> list[Beam]:
        """Return all texts that have ended, the best first."""
        decoder, request = self.generator.decoder, self.request
        logits = self.read(self.groups[0].running)
        for group in self.groups[1:]:
            decoder.copy(self.groups[0].slots[0], group.slots[0], int(decoder.lengths[self.groups[0].slots[0]]))
        logits = np.repeat(logits, len(self.groups), axis=0)
        for length in range(1, self.limit + 1):
            self.extend(logits)
            for group in self.groups:
                if length == self.limit:
                    group.end(group.running, "length" if self.limit == request.most else "context")
                elif request.expire(time.monotonic()) or request.done:
                    group.end(group.running, "deadline")
                elif not group.is_settled():
                    group.place(decoder)
                    continue
                group.running = []
            texts = [text for group in self.groups for text in group.running]
            if not texts:
                break
            logits = self.read(texts)
        ended = [text for group in self.groups for text in group.ended]
        return [self.beam(text) for text in sorted(ended, key=lambda text: -text.score)]

    def extend(self, logits: np.ndarray) -> None:
        """Give the running texts of each group a token more, by the logits after each text."""
        request, size = self.request, self.generator.vocab_size
        logprobs = np.array([log_softmax(row) for row in logits.astype(np.float64)])
        logprobs = logprobs[:, :size]
        shown = [top(row, 0.0, request.sampling.logprobs) for row in logprobs] if request.sampling.logprobs else []
        said = np.zeros(size)  # how many texts of the groups before have just continued with each token
        first = 0
        for group in self.groups:
            rows = slice(first, first + len(group.running))
            first = rows.stop
            if group.running:
                scores = [self.under_rules(text, row) for text, row in zip(group.running, logprobs[rows], strict=True)]
                penalized = np.array(scores) - self.beams.diversity_penalty * said
                group.extend(logprobs[rows], penalized, shown[rows], len(request.ends))
                np.add.at(said, [text.ids[-1] for text in group.running], 1)

    def under_rules(self, text: Hypothesis, logprobs: np.ndarray) -> np.ndarray:
        """Return what the rules make of log-probabilities (V,); -inf if they exclude every token."""
        try:
            return self.request.rules.apply(np.array([*self.request.prompt_ids, *text.ids]), logprobs)
        except NoTokenError:
            return np.full_like(logprobs, -np.inf)

    def read(self, texts: list[Hypothesis]) -> np.ndarray:
        """Return the logits (len(texts), V) after texts of the same length, each in a slot that lacks some tokens."""
        decoder, prompt = self.generator.decoder, self.request.prompt_ids
        if len(prompt) + len(texts[0].ids) - self.start > self.generator.n_positions:
            self.start += dropped(self.request.sampling.context, self.generator.n_positions)
            decoder.lengths[[text.slot for text in texts]] = 0
        rows, wanted = [], []
        for text in texts:
            held = self.start + int(decoder.lengths[text.slot])
            rows += [(text.slot, token) for token in (*prompt, *text.ids)[held:]]
            wanted.append(len(rows) - 1)
        return read(decoder, rows, wanted)

    def beam(self, text: Hypothesis) -> Beam:
        """Return a text that has ended."""
        text.stops.finish()
        return Beam(
            self.request.prompt_ids, text.ids, text.stops.text, text.logprobs, text.top, text.reason, text.score
        )
