"""What is known exactly about the tales: their probability, entropy, length and number.

Every choice shows in the text, and no two ways to choose give the same text (tests/tales/test_unambiguous.py). So the
probability of a text is the product of the probabilities of its choices. The mean of -log p is the entropy of the
texts, the cross-entropy that no model can get below.
"""

import math
from collections import Counter
from collections.abc import Callable

from npgpt.data.tales.generate import Tale
from npgpt.data.tales.grammar import Grammar, Node, load_grammar, pieces


def nats(tale: Tale, lang: str, grammar: Grammar | None = None) -> float:
    """Return -log p of a tale's text in a language. It is the same for all its texts: phrasings are equally likely.

    Example: one of 2 first scenes, a word of 8 and one of 3 phrasings give log 2 + log 8 + log 3 = log 48.
    """
    options = (grammar or load_grammar()).start
    total = 0.0
    for node in tale.nodes:
        total -= math.log(sum(p for p, option in options if option is node))
        total += node.story_nats() + node.style_nats(lang)
        options = node.next
    return total


def entropy(lang: str, grammar: Grammar | None = None) -> float:
    """Return the entropy of a tale's text in nats."""
    return mean_over_tales(lambda node: node.story_nats() + node.style_nats(lang), grammar, branch_entropy)


def mean_bytes(lang: str, grammar: Grammar | None = None) -> float:
    """Return the mean number of UTF-8 bytes of a tale's text."""
    grammar = grammar or load_grammar()
    return mean_over_tales(lambda node: mean_length(node, lang, grammar), grammar, lambda options: 0.0)


def floor(lang: str, grammar: Grammar | None = None) -> float:
    """Return the entropy in nats per byte: that of a tale over the mean length of a tale."""
    return entropy(lang, grammar) / mean_bytes(lang, grammar)


def count(lang: str, grammar: Grammar | None = None) -> int:
    """Return the number of different texts."""
    known: dict[int, int] = {}

    def count_from(options: list[tuple[float, Node]]) -> int:
        if not options:
            return 1
        for _, node in options:
            if id(node) not in known:
                here = math.prod(node.sizes) * len(node.scene.text[lang])
                known[id(node)] = here * count_from(node.next)
        return sum(known[id(node)] for _, node in options)

    return count_from((grammar or load_grammar()).start)


def mean_over_tales(
    of_node: Callable[[Node], float],
    grammar: Grammar | None,
    of_branch: Callable[[list[tuple[float, Node]]], float],
) -> float:
    """Return the mean over tales of the sum of of_node over their nodes and of of_branch over their branches.

    It is computed from the last scenes back to the first, once per node: the mean from a branch on is
    `of_branch(options) + sum(p * (of_node(node) + the mean from node.next on) for p, node in options)`.
    """
    known: dict[int, float] = {}

    def mean_from(options: list[tuple[float, Node]]) -> float:
        total = of_branch(options) if options else 0.0
        for p, node in options:
            if id(node) not in known:
                known[id(node)] = of_node(node) + mean_from(node.next)
            total += p * known[id(node)]
        return total

    return mean_from((grammar or load_grammar()).start)


def branch_entropy(options: list[tuple[float, Node]]) -> float:
    return -sum(p * math.log(p) for p, _ in options)


def mean_length(node: Node, lang: str, grammar: Grammar) -> float:
    """Return the mean length in bytes of a scene's text, over its phrasings and words, which are all equally likely."""
    templates = node.scene.text[lang]
    total = 0.0
    for template in templates:
        for text, var, form in pieces(template):
            total += len(text.encode()) if text else mean_form(node, var, form, lang, grammar)
    return total / len(templates)


def mean_form(node: Node, var: str, form: str, lang: str, grammar: Grammar) -> float:
    """Return the mean length in bytes of a form of a variable: 3.5 for a noun that is "fox" or "crow"."""
    if var in node.bound and node.bound[var] in grammar.words and node.bound[var] != "numbers":
        words = grammar.words[node.bound[var]]
        return sum(len(getattr(getattr(word, lang), form).encode()) for word in words) / len(words)
    a, b = lets_of(node, var, grammar)
    values = Counter(
        int(x.en.value) - int(y.en.value) for x in grammar.words[node.bound[a]] for y in grammar.words[node.bound[b]]
    )
    numbers = grammar.words["numbers"]
    return sum(n * len(getattr(getattr(numbers[v], lang), form).encode()) for v, n in values.items()) / values.total()


def lets_of(node: Node, var: str, grammar: Grammar) -> tuple[str, str]:
    """Return the two variables whose difference this variable is."""
    return next(
        scene.lets[var]
        for scene in (node.scene, *grammar.scenes.values())
        if var in scene.lets and all(part in node.bound for part in scene.lets[var])
    )
