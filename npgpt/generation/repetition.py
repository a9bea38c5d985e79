"""How much generated texts repeat, themselves and each other, in figures.

All of them count words: a run of letters, marks and digits is one, so is each Chinese or Japanese character, and a sign
such as a comma; equal signs in a row, such as "...", are one word. Tokens would not do, because then a figure would
change with the tokenizer: in a vocabulary of characters, English has some sixty distinct tokens, however varied it is.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LOOP = 3  # how often a cycle comes before a text is in a loop
LONGEST = 50  # words of a cycle
ALONE = ("CJK ", "HIRAGANA ", "KATAKANA ")  # characters that are words, by their Unicode names


@dataclass(frozen=True)
class Repetition:
    """How much texts repeat.

    texts      how many texts there are
    words      how many words all of them have
    distinct   for n = 1, 2, 3: the share of the n-grams of all texts that are distinct
    self_bleu  the mean BLEU-4 of a text with all others as references, from 0 to 1
    repeated   the mean share of a text's 4-grams that it had before
    loops      the share of the texts that come into a loop
    loop_free  the mean number of words before the first loop, or of all words of a text without one
    """

    texts: int
    words: int
    distinct: tuple[float, float, float]
    self_bleu: float
    repeated: float
    loops: float
    loop_free: float


def repetition(texts: Sequence[str]) -> Repetition:
    """Return how much texts repeat. What no text is long enough for is NaN, as is self_bleu of fewer than two texts.

    Distinct n-grams are fewer in more text, and so are compared between equal amounts of it. Raises ValueError without
    any text.
    """
    if not texts:
        raise ValueError("there is no text whose repetition could be counted")
    found = [words_of(text) for text in texts]
    ends = [loop_start(words) for words in found]
    rates = [rate for words in found if not math.isnan(rate := repeated(words))]
    return Repetition(
        len(texts),
        sum(map(len, found)),
        (distinct(found, 1), distinct(found, 2), distinct(found, 3)),
        self_bleu(found),
        mean(rates),
        mean([end is not None for end in ends]),
        mean([len(words) if end is None else end for words, end in zip(found, ends, strict=True)]),
    )


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def words_of(text: str) -> list[str]:
    """Return the words of a text.

    >>> words_of("I'm 18... 你好!!")
    ['I', "'", 'm', '18', '.', '你', '好', '!']
    """
    found: list[str] = []
    last = None  # what the next character may go on with: letters, or a certain sign
    for character in unicodedata.normalize("NFC", text):
        if character.isspace():
            last = None
        elif is_word(character):
            found.append(character)
            last = None
        elif unicodedata.category(character)[0] in "LMN":
            if last == "letters":
                found[-1] += character
            else:
                found.append(character)
            last = "letters"
        elif last != character:
            found.append(character)
            last = character
    return found


def is_word(character: str) -> bool:
    """Say whether a letter is a word of its own, as in Chinese."""
    return character > "\u2e7f" and unicodedata.name(character, "").startswith(ALONE)


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the n-grams of words, in their order."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Return how many distinct n-grams texts have, divided by how many n-grams they have.

    Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", arXiv:1510.03055, who
    divide by the number of words.
    """
    found = Counter(gram for words in texts for gram in ngrams(words, n))
    return len(found) / found.total() if found else math.nan


def repeated(words: Sequence[str], n: int = 4) -> float:
    """Return the share of a text's n-grams that it had before: 1 - distinct / all.

    Source: seq-rep-n of Welleck et al., "Neural Text Generation with Unlikelihood Training", arXiv:1908.04319.
    """
    return 1 - distinct([words], n)


def loop_start(words: Sequence[str], longest: int = LONGEST, times: int = LOOP) -> int | None:
    """Return where a text first begins to say a cycle of at most `longest` words `times` times in a row, or None.

    >>> loop_start("he ran and ran and ran and fell".split())
    1
    """
    if not words:
        return None
    numbers = {word: i for i, word in enumerate(dict.fromkeys(words))}
    ids = np.array([numbers[word] for word in words])
    first = None
    for size in range(1, min(longest, len(ids) // times) + 1):
        # words[i : i + times * size] is a cycle that comes so often where (times - 1) * size words in a row, from i on,
        # are those that follow them a cycle later
        same = np.append(0, np.cumsum(ids[:-size] == ids[size:]))
        span = (times - 1) * size
        starts = np.flatnonzero(same[span:] - same[:-span] == span)
        if len(starts) and (first is None or starts[0] < first):
            first = int(starts[0])
    return first


def self_bleu(texts: Sequence[Sequence[str]], most: int = 4, epsilon: float = 0.1) -> float:
    """Return the mean BLEU of each text with all others as its references: 1 for equal texts.

        BLEU = min(1, exp(1 - r / c)) (p1 p2 p3 p4)^(1/4)

    c is the number of words of the text, r that of the reference that is nearest in length, and pn the share of its
    n-grams that a reference has, too, each counted at most as often as in the reference that has it most often. Where
    no n-gram is in a reference, pn is epsilon divided by their number, or by 1 if there is none.

    Sources: Zhu et al., "Texygen", arXiv:1802.01886; Papineni et al., "BLEU"; smoothing 1 of Chen and Cherry, "A
    Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU". Empty texts are left out.
    """
    texts = [words for words in texts if words]
    if len(texts) < 2:
        return math.nan
    lengths = np.array(list(map(len, texts)))
    logs = [brevity(lengths, i) for i in range(len(texts))]
    for n in range(1, most + 1):
        counts = [Counter(ngrams(words, n)) for words in texts]
        highest = highest_two(counts)
        for i, own in enumerate(counts):
            common = sum(min(k, highest[gram][highest[gram][2] == i]) for gram, k in own.items())
            logs[i] += math.log((common or epsilon) / max(1, own.total())) / most
    return mean([math.exp(log) for log in logs])


def brevity(lengths: np.ndarray, i: int) -> float:
    """Return the logarithm of a text's brevity penalty: min(0, 1 - r / c), of equally near references the shorter."""
    others = np.delete(lengths, i)
    distances = np.abs(others - lengths[i])
    return min(0.0, 1 - int(others[distances == distances.min()].min()) / int(lengths[i]))


def highest_two(counts: Sequence[Counter]) -> dict[Any, tuple[int, int, int]]:
    """Return for each key the highest count, the highest of the other counters, and which counter has the highest."""
    found: dict[Any, tuple[int, int, int]] = {}
    for i, counter in enumerate(counts):
        for key, k in counter.items():
            first, second, owner = found.get(key, (0, 0, i))
            found[key] = (k, first, i) if k > first else (first, max(second, k), owner)
    return found
