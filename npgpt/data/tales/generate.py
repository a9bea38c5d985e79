"""Tales drawn from the grammar: the same seed draws the same tales, and each can be told in either language."""

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from npgpt.data.tales.grammar import Grammar, Node, load_grammar
from npgpt.data.tales.words import LANGS, Word

Uniform = Callable[[], float]  # a random number in [0, 1)


class Tale(NamedTuple):
    """The events of a tale, independent of language: its scenes in order and the words drawn.

    nodes  the scenes in order, each at its place in the plot
    words  {variable: word}
    """

    nodes: tuple[Node, ...]
    words: dict[str, Word]

    @property
    def plot(self) -> str:
        return self.nodes[0].plot

    def forms(self, lang: str) -> dict[str, SimpleNamespace]:
        """Return {variable: the forms of its word in a language}, to fill templates with."""
        if lang == "en":
            return {var: word.en for var, word in self.words.items()}
        return {var: word.zh for var, word in self.words.items()}

    def facts(self) -> tuple:
        """Return what identifies the events of a tale: its plot, its scenes, and its words as places in their sets."""
        scenes = tuple(node.scene.name for node in self.nodes)
        return self.plot, scenes, tuple(sorted((var, word.number) for var, word in self.words.items()))


def uniforms(rng: np.random.Generator) -> Uniform:
    """Return a function that returns one random number per call; they are drawn in blocks, which is faster."""
    return itertools.chain.from_iterable(iter(lambda: rng.random(4096).tolist(), None)).__next__


def pick(options: list[tuple[float, Node]], u: float) -> Node:
    """Return the node that a random number selects: of [(0.5, a), (0.5, b)], u = 0.3 selects a, u = 0.7 selects b."""
    for p, node in options:
        u -= p
        if u < 0:
            return node
    return options[-1][1]


def draw_tale(grammar: Grammar, u: Uniform) -> Tale:
    """Draw the events of a tale."""
    path: list[Node] = []
    words: dict[str, Word] = {}
    options = grammar.start
    while options:
        node = pick(options, u()) if len(options) > 1 else options[0][1]
        path.append(node)
        for var, choices, taken in node.draws:
            word = choices[int(u() * len(choices))]
            while taken and any(words[other] is word for other in taken):
                word = choices[int(u() * len(choices))]
            words[var] = word
        for var, (a, b) in node.scene.lets.items():
            words[var] = difference(grammar, words[a], words[b])
        options = node.next
    return Tale(tuple(path), words)


def difference(grammar: Grammar, a: Word, b: Word) -> Word:
    """Return the word of the number a - b: for the words five and two, it is three."""
    return grammar.words["numbers"][int(a.en.value) - int(b.en.value)]


def tell(tale: Tale, lang: str, u: Uniform) -> str:
    """Tell a tale in a language, each scene in a random phrasing."""
    forms = tale.forms(lang)
    told = []
    for node in tale.nodes:
        phrasings = node.scene.text[lang]
        told.append(phrasings[int(u() * len(phrasings))].format_map(forms))
    return "".join(told)


def tales(seed: int, part: int = 0, grammar: Grammar | None = None) -> Iterator[Tale]:
    """Yield tales without end: the same ones for the same seed and part, others for another part.

    Tell them with `tell(tale, lang, u)`, where u = styles(seed, lang, part). Then their texts depend only on the seed
    and the part, and the text in one language does not depend on whether the tale is also told in the other.
    """
    grammar = grammar or load_grammar()
    u = uniforms(np.random.default_rng((seed, part)))
    while True:
        yield draw_tale(grammar, u)


def styles(seed: int, lang: str, part: int = 0) -> Uniform:
    """Return the random numbers that choose the phrasings of a language."""
    return uniforms(np.random.default_rng((seed, part, 1 + LANGS.index(lang))))


def texts(seed: int, lang: str, part: int = 0) -> Iterator[str]:
    """Yield the texts of tales in a language without end."""
    u = styles(seed, lang, part)
    return (tell(tale, lang, u) for tale in tales(seed, part))
