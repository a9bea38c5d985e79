"""No two ways to tell a tale give the same text: at every choice, the texts of the alternatives form a prefix code.

Whoever reads a tale from its start knows the scenes and words so far. If then no text of one alternative is the start
of a text of another, one alternative at most fits what follows; so, scene by scene, a text has at most one derivation.
"""

import itertools
from collections.abc import Iterator

import pytest

from npgpt.data.tales.grammar import Grammar, Node, load_grammar, nodes, pieces, read_grammar
from npgpt.data.tales.words import LANGS
from tests.conftest import mostly_big


class Side:
    """One of the two phrasings that are compared."""

    def __init__(self, node: Node, template: str) -> None:
        self.node, self.template, self.parts = node, template, pieces(template)


def conflicts(options: list[tuple[float, Node]], lang: str, grammar: Grammar) -> Iterator[tuple[str, str]]:
    """Yield pairs of templates at a choice of which one's text can be the start of the other's, by other choices."""
    sides = [Side(node, template) for _, node in options for template in node.scene.text[lang]]
    for a, b in itertools.combinations_with_replacement(sides, 2):
        if overlap(a, 0, b, 0, "", {}, {}, {}, a is not b, lang, grammar):
            yield a.template, b.template


def overlap(a, i, b, j, ahead, shared, of_a, of_b, differ, lang, grammar) -> bool:
    """Say whether the rest of a's text can begin as b's does, or the other way round, up to the end of one of them.

    ahead   what one side has told already and the other not: a's as "<...", b's as ">..."
    shared  words that both sides know alike; of_a, of_b: those of one side only
    differ  whether the two have made different choices
    """
    who, rest = ahead[:1], ahead[1:]
    if not rest:  # both stand at the same character
        if i == len(a.parts) or j == len(b.parts):
            return differ or not (i == len(a.parts) and j == len(b.parts))
        first, second = a.parts[i], b.parts[j]
        var = first[1]
        if var and first == second and var not in of_a and var not in of_b and var not in shared:
            # the same slot, not yet told: either the same word on both sides, whichever it is ...
            if overlap(a, i + 1, b, j + 1, "", shared | {var: None}, of_a, of_b, differ, lang, grammar):
                return True
            if var in before(a) and var in before(b):
                return False  # bound before this choice: it is the same word on both sides
            # ... or two words of which one begins as the other does
            words = values(a, var, grammar)
            for x, y in itertools.permutations(words, 2):
                s, t = form(x, lang, first[2]), form(y, lang, first[2])
                if (s.startswith(t) or t.startswith(s)) and overlap(
                    a, i + 1, b, j + 1, gap(s, t), shared, of_a | {var: x}, of_b | {var: y}, True, lang, grammar
                ):
                    return True
            return False
        if var and first == second and shared.get(var, 0) is None:
            return overlap(a, i + 1, b, j + 1, "", shared, of_a, of_b, differ, lang, grammar)
        # let a tell its next piece
        return any(
            overlap(a, i + 1, b, j, "<" + text, s, x, y, differ, lang, grammar)
            for text, s, x, y in told(a, i, b, shared, of_a, of_b, True, lang, grammar)
        )
    if who == "<":
        if j == len(b.parts):
            return True
        tellings = told(b, j, a, shared, of_b, of_a, False, lang, grammar)
        return any(
            (rest.startswith(text) or text.startswith(rest))
            and overlap(a, i, b, j + 1, gap(rest, text), s, x, y, differ, lang, grammar)
            for text, s, y, x in tellings
        )
    if i == len(a.parts):
        return True
    return any(
        (rest.startswith(text) or text.startswith(rest))
        and overlap(a, i + 1, b, j, gap(text, rest), s, x, y, differ, lang, grammar)
        for text, s, x, y in told(a, i, b, shared, of_a, of_b, True, lang, grammar)
    )


def gap(of_a: str, of_b: str) -> str:
    """Return what the one side is ahead of the other."""
    n = min(len(of_a), len(of_b))
    return "<" + of_a[n:] if len(of_a) > n else ">" + of_b[n:] if len(of_b) > n else ""


def told(side, i, other, shared, own, others, is_a, lang, grammar):
    """Yield each text of a side's piece, with the words known after it: (text, shared, own, others)."""
    text, var, name = side.parts[i]
    if text:
        yield text, shared, own, others
        return
    if var in own:
        yield form(own[var], lang, name), shared, own, others
        return
    if shared.get(var) is not None:
        yield form(shared[var], lang, name), shared, own, others
        return
    both = var in shared or var in before(side)  # the same word on both sides, still open which
    known = {**shared, **own, **(others if both else {})}
    for word in values(side, var, grammar):
        if side.node.bound.get(var) == "names" and any(w is word for v, w in known.items() if v != var):
            continue  # of the persons of a tale no two have one name
        if both:
            yield form(word, lang, name), shared | {var: word}, own, others
        else:
            yield form(word, lang, name), shared, own | {var: word}, others


def before(side: Side) -> set[str]:
    """Return the variables that were drawn before the choice."""
    return side.node.bound.keys() - side.node.scene.draws.keys()


def values(side: Side, var: str, grammar: Grammar) -> tuple:
    return grammar.words[side.node.bound.get(var, "numbers")]


def form(word, lang: str, name: str) -> str:
    return getattr(word[1 + LANGS.index(lang)], name)


@pytest.mark.parametrize("lang", mostly_big(LANGS, "en".__eq__))
def test_no_alternative_begins_as_another_does(lang):
    grammar = load_grammar()
    assert list(conflicts(grammar.start, lang, grammar)) == []
    seen = set()
    for node in nodes(grammar):
        key = tuple((id(n.scene), tuple(n.bound)) for _, n in node.next)
        if key not in seen:
            seen.add(key)
            assert list(conflicts(node.next, lang, grammar)) == [], node.scene.name


def test_no_two_persons_have_one_name():
    for node in nodes(load_grammar()):
        persons = [var for var, name in node.bound.items() if name == "names"]
        for var in persons[1:]:
            assert var in node.scene.others or var not in node.scene.draws


SMALL = """
plot small: first second
scene first: x=names
en: {first}
zh: {{x.name}}。
scene second
en: {second}
en: {third}
zh: 一
zh: 二
"""


@pytest.mark.parametrize(
    ("first", "second", "third", "ambiguous"),
    [
        ("{x.name} ran.", "She sat.", "She slept.", False),
        ("{x.name} ran.", "She sat.", "She sat. She slept.", True),  # the second goes on where the first ends
        ("{x.name} ran.", "She sat.", "She sat.", True),
        ("{x.he} ran to {x.name}.", "A.", "B.", False),
        ("{x.he} ran.", "A.", "B.", True),  # tells not who
        ("{x.name}", "A.", "B.", True),  # of Ann and Anna the one begins as the other
        ("x", "{x.name} sat.", "Anna slept.", False),
        ("x", "{x.name} sat.", "Anna sat.", True),
    ],
)
def test_an_ambiguous_grammar_is_found(first, second, third, ambiguous):
    words = "names: name | he | zh.name\nAnn | she | 安\nAnna | she | 娜\n"
    text = SMALL.format(first=first, second=second, third=third)
    if first == "x":
        text = text.replace("en: x", "en: {x.name}.")
    grammar = read_grammar(words, [text])
    found = [*conflicts(grammar.start, "en", grammar), *conflicts(grammar.start[0][1].next, "en", grammar)]
    assert bool(found) == ambiguous
