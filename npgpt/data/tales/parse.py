"""The inverse of the generator: from a text to its events, or to the place where it leaves the grammar."""

from collections.abc import Iterator
from types import SimpleNamespace

from npgpt.data.tales.generate import Tale, difference
from npgpt.data.tales.grammar import Grammar, Node, Piece, load_grammar, pieces
from npgpt.data.tales.words import LANGS, Word

Bound = dict[str, Word]


class NotATaleError(ValueError):
    """Raised for a text that the grammar cannot generate.

    position  the character at which it leaves the grammar
    expected  what could stand there
    """

    def __init__(self, text: str, position: int, expected: list[str]) -> None:
        self.position, self.expected = position, expected
        found = repr(text[position : position + 24]) if position < len(text) else "the end"
        shown = " or ".join(repr(e) for e in expected[:4]) + (" or another" if len(expected) > 4 else "")
        super().__init__(
            f"character {position} (after {text[max(0, position - 24) : position]!r}): {found}, expected {shown}"
        )


class Failure:
    """The furthest position that any attempt reached, and what was expected there."""

    def __init__(self) -> None:
        self.position = 0
        self.expected: list[str] = []

    def note(self, position: int, expected: str) -> None:
        if position > self.position:
            self.position, self.expected = position, []
        if position == self.position and expected not in self.expected:
            self.expected.append(expected)


def parse(text: str, lang: str, grammar: Grammar | None = None) -> Tale:
    """Return the tale that a text tells: `parse(tell(tale, lang, u), lang).facts() == tale.facts()`.

    Raises NotATaleError for a text that the grammar cannot generate.
    """
    grammar = grammar or load_grammar()
    failure = Failure()
    for tale in parses(text, lang, grammar, failure):
        return tale
    raise NotATaleError(text, failure.position, failure.expected)


def parses(text: str, lang: str, grammar: Grammar, failure: Failure | None = None) -> Iterator[Tale]:
    """Yield every parse of a text; in the grammar that npgpt comes with, a text has at most one."""
    failure = failure or Failure()

    def read(options: list[tuple[float, Node]], at: int, path: tuple[Node, ...], words: Bound) -> Iterator[Tale]:
        if not options:
            if at == len(text):
                yield Tale(path, words)
            else:
                failure.note(at, "the end")
            return
        for _, node in options:
            for template in node.scene.text[lang]:
                for end, found in match(pieces(template), text, at, words, node, lang, grammar, failure):
                    yield from read(node.next, end, (*path, node), found)

    return read(grammar.start, 0, (), {})


def match(
    parts: tuple[Piece, ...],
    text: str,
    at: int,
    words: Bound,
    node: Node,
    lang: str,
    grammar: Grammar,
    failure: Failure,
) -> Iterator[tuple[int, Bound]]:
    """Yield (end, words) for each way in which a template, as parts, matches the text from position `at` on.

    Example: pieces("{hero.name} slept.") matches "Rosie slept." at 0 with end 12 and words {"hero": the word Rosie}.
    """
    i = 1 + LANGS.index(lang)
    for n, (literal, var, form) in enumerate(parts):
        if var and var not in words and var in node.scene.draws:
            for word in grammar.words[node.scene.draws[var]]:
                if text.startswith(getattr(word[i], form), at) and may_be(word, var, words, node):
                    yield from match(parts[n:], text, at, {**words, var: word}, node, lang, grammar, failure)
            failure.note(at, f"[{node.scene.draws[var]}]")
            return
        if var and var not in words:
            a, b = node.scene.lets[var]
            words = {**words, var: difference(grammar, words[a], words[b])}
        expected = literal or getattr(words[var][i], form)
        if not text.startswith(expected, at):
            same = next((k for k, (a, b) in enumerate(zip(expected, text[at:], strict=False)) if a != b), None)
            failure.note(at + (min(len(expected), len(text) - at) if same is None else same), expected[same:])
            return
        at += len(expected)
    for var, (a, b) in node.scene.lets.items():
        if var not in words:
            words = {**words, var: difference(grammar, words[a], words[b])}
    yield at, words


def may_be(word: Word, var: str, words: Bound, node: Node) -> bool:
    """Return whether a variable can have this word: some variables must differ from others that are known."""
    for name, _, taken in node.draws:
        if name == var and any(words.get(other) is word for other in taken):
            return False
        if var in taken and words.get(name) is word:  # the text mentions name first, though it is drawn later
            return False
    return True


def read_line(template: str, text: str, lang: str, sets: dict[str, tuple[Word, ...]]) -> Iterator[Bound]:
    """Yield the words with which a single template gives the whole text.

    sets  {variable: the words that it can have}

    Example: "A {x.noun} slept." and "A fox slept." give {"x": the word fox} if sets["x"] has it.
    """

    def read(n: int, at: int, words: Bound) -> Iterator[Bound]:
        parts = pieces(template)
        if n == len(parts):
            if at == len(text):
                yield words
            return
        literal, var, form = parts[n]
        options = [words[var]] if var in words else sets[var] if var else (None,)
        for word in options:
            expected = literal if word is None else getattr(forms(word), form)
            if text.startswith(expected, at):
                yield from read(n + 1, at + len(expected), words if word is None else {**words, var: word})

    def forms(word: Word) -> SimpleNamespace:
        return word.en if lang == "en" else word.zh

    return read(0, 0, {})
