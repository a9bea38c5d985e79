"""The grammar of the tales: scenes draw words and tell them in two languages, and plots put scenes in order.

A tale follows one path through the scenes of a plot. Each scene draws its words, all of a set equally likely, and is
told in one of its phrasings. No later choice depends on the words drawn, only on the scenes. So probabilities, entropy
and the number of tales follow exactly from the scenes. docs/tales.md explains the files that are read here.
"""

import functools
import math
import string
from collections.abc import Iterator
from typing import NamedTuple

from npgpt.data.tales.words import FOLDER, LANGS, Word, read_words

FILES = [FOLDER / "words.txt", FOLDER / "shared.txt", *sorted((FOLDER / "plots").glob("*.txt"))]
Words = dict[str, tuple[Word, ...]]
Piece = tuple[str, str, str]  # (text, "", ""), or ("", variable, form) for a slot
Story = tuple["str | tuple[Story, ...]", ...]  # scenes in order; a tuple in it is a choice among stories


class Scene:
    """A scene: what it draws, and its lines in each language.

    draws      {variable: name of its set of words}; every phrasing mentions every variable
    others     the variables whose word must differ from all words drawn from the same set before
    lets       {variable: (a, b)}: the variable is the number a - b
    text       {lang: phrasings}; summary {lang: sentences}; questions {lang: (question, answer)}
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.draws: dict[str, str] = {}
        self.others: set[str] = set()
        self.lets: dict[str, tuple[str, str]] = {}
        self.text: dict[str, list[str]] = {lang: [] for lang in LANGS}
        self.summary: dict[str, list[str]] = {lang: [] for lang in LANGS}
        self.questions: dict[str, list[tuple[str, str]]] = {lang: [] for lang in LANGS}


class Node:
    """A scene at its place in a plot, with the number of words for each draw and the nodes that may follow.

    bound  {variable: name of its set}, for the variables of earlier scenes and of this one
    draws  [(variable, its set of words, the earlier variables whose words it must not repeat)]
    sizes  how many words each draw chooses from
    next   [(probability, node)], empty after the last scene
    """

    def __init__(self, plot: str, scene: Scene, bound: dict[str, str], words: Words) -> None:
        self.plot, self.scene = plot, scene
        self.bound = bound | scene.draws
        self.draws: list[tuple[str, tuple[Word, ...], list[str]]] = []
        self.sizes: list[int] = []
        seen = dict(bound)
        for var, name in scene.draws.items():
            taken = [other for other, its in seen.items() if its == name] if var in scene.others else []
            self.draws.append((var, words[name], taken))
            self.sizes.append(len(words[name]) - len(taken))
            seen[var] = name
        self.next: list[tuple[float, Node]] = []

    def story_nats(self) -> float:
        """Return -log of the probability of each way to draw the words of this scene."""
        return sum(math.log(size) for size in self.sizes)

    def style_nats(self, lang: str) -> float:
        """Return -log of the probability of each phrasing."""
        return math.log(len(self.scene.text[lang]))


class Grammar(NamedTuple):
    """The world: sets of words, scenes, stories, and start, the first scenes of tales as [(probability, node)]."""

    words: Words
    scenes: dict[str, Scene]
    stories: dict[str, Story]
    start: list[tuple[float, Node]]


@functools.cache
def load_grammar() -> Grammar:
    """Return the grammar of the tales that npgpt comes with."""
    words, *scenes = (file.read_text("utf-8") for file in FILES)
    return read_grammar(words, scenes)


def read_grammar(words_text: str, texts: list[str]) -> Grammar:
    """Read a grammar from a text of words and texts of scenes and plots. Raises ValueError for a mistake in them."""
    words = read_words(words_text)
    scenes: dict[str, Scene] = {}
    stories: dict[str, Story] = {}
    for text in texts:
        for name, scene in read_scenes(text, stories).items():
            if name in scenes:
                raise ValueError(f"scene {name} is there twice")
            scenes[name] = scene
    first = {story[0] for story in stories.values()}
    for scene in scenes.values():
        for lang, space in (("en", " "), ("zh", "")):
            scene.text[lang] = [joined(text, "" if scene.name in first else space) for text in scene.text[lang]]
    start = [
        (p / len(stories), node)
        for plot, story in stories.items()
        for p, node in entries(plot, story, {}, Grammar(words, scenes, stories, []), {})
    ]
    return Grammar(words, scenes, stories, start)


def read_scenes(text: str, stories: dict[str, Story]) -> dict[str, Scene]:
    """Read the scenes of a text, and add its plots to stories."""
    scenes: dict[str, Scene] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, _, rest = line.partition(" ")
        if key == "plot":
            name, _, story = rest.partition(":")
            stories[name] = read_story(story)
        elif key == "scene":
            name, _, draws = rest.partition(":")
            if name in scenes:
                raise ValueError(f"line {number}: scene {name} is there twice")
            scene = scenes[name] = read_scene(name, draws)
        elif key[:2] in LANGS and key[2:] in (":", "=", "?"):
            add_line(scene, line, number)
        else:
            raise ValueError(f"line {number}: expected plot, scene, or a line such as 'en: ...', got {line!r}")
    return scenes


def read_scene(name: str, draws: str) -> Scene:
    """Return a scene with its draws and without lines.

    Example: "friend=names! left=n-m" draws friend from names, unlike earlier names, and lets left be n - m.
    """
    scene = Scene(name)
    for draw in draws.split():
        var, _, source = draw.partition("=")
        if "-" in source:
            a, _, b = source.partition("-")
            scene.lets[var] = (a, b)
            continue
        scene.draws[var] = source.removesuffix("!")
        if source.endswith("!"):
            scene.others.add(var)
    return scene


def add_line(scene: Scene, line: str, number: int) -> None:
    """Add a line to its scene: a phrasing ("en: ..."), a summary ("en= ...") or a question ("en? ... > ...")."""
    key, _, rest = line.partition(" ")
    lang, mark = key[:2], key[2:]
    if mark == ":":
        scene.text[lang].append(rest)
    elif mark == "=":
        scene.summary[lang].append(rest)
    else:
        question, arrow, answer = rest.partition(" > ")
        if not arrow:
            raise ValueError(f"line {number}: a question needs ' > ' and its answer: {line}")
        scene.questions[lang].append((question, answer))


def joined(text: str, space: str) -> str:
    """Return a phrasing with its separator from the one before: a space, or a blank line if it is marked with a slash.

    Example: ("Then it rained.", " ") gives " Then it rained.", and ("/ It rained.", " ") gives "\\n\\nIt rained.".
    """
    return "\n\n" + text[2:] if text.startswith("/ ") else space + text


def read_story(text: str) -> Story:
    """Read a story: names of scenes in order, and choices such as (one | two three | ).

    Example: "title open (hobby | ) end" gives ("title", "open", (("hobby",), ()), "end").
    """
    stack: list[list[list]] = [[[]]]
    for token in text.replace("(", " ( ").replace(")", " ) ").replace("|", " | ").split():
        if token == "(":
            stack.append([[]])
        elif token == "|":
            stack[-1].append([])
        elif token == ")":
            choice = tuple(tuple(alternative) for alternative in stack.pop())
            stack[-1][-1].append(choice)
        else:
            stack[-1][-1].append(token)
    return tuple(stack[0][0])


def entries(
    plot: str, story: Story, bound: dict[str, str], grammar: Grammar, made: dict[tuple, Node]
) -> list[tuple[float, Node]]:
    """Return the nodes that a story may begin with, linked to all that follow.

    bound  {variable: name of its set}, of the scenes before
    made   the nodes so far, by the rest of the story and bound: an equal rest reuses its nodes

    Example: the story ((("hobby",), ()), "end") gives [(0.5, node of hobby), (0.5, node of end)].
    """
    if not story:
        return []
    first, rest = story[0], story[1:]
    if not isinstance(first, str):
        found = []
        for alternative in first:
            options = entries(plot, alternative + rest, bound, grammar, made)
            if not options:
                raise ValueError(f"plot {plot}: a tale must not end with a scene that may be left out")
            found += [(p / len(first), node) for p, node in options]
        return found
    key = (story, tuple(bound.items()))
    if key not in made:
        if first not in grammar.scenes:
            raise ValueError(f"plot {plot}: there is no scene {first}")
        node = made[key] = Node(plot, grammar.scenes[first], bound, grammar.words)
        check(node, bound, grammar.words)
        node.next = entries(plot, rest, node.bound | dict.fromkeys(node.scene.lets, "numbers"), grammar, made)
    return [(1.0, made[key])]


def check(node: Node, before: dict[str, str], words: Words) -> None:
    """Raise ValueError if a template names an unknown variable or form, or a phrasing is missing or omits a draw.

    Also raises it for a variable that an earlier scene has drawn. The later word would replace the earlier one in the
    whole tale, so two different draws would give the same text.
    """
    known = node.bound | dict.fromkeys(node.scene.lets, "numbers")
    scene = node.scene
    for var in (*scene.draws, *scene.lets):
        if var in before:
            raise ValueError(f"plot {node.plot}, scene {scene.name}: {var} is drawn a second time")
    for lang in LANGS:
        if not scene.text[lang]:
            raise ValueError(f"scene {scene.name} has no phrasing in {lang}")
        asked = [line for pair in scene.questions[lang] for line in pair]
        for template in scene.text[lang] + scene.summary[lang] + asked:
            for _, var, form in pieces(template):
                if var and (var not in known or not hasattr(getattr(words[known[var]][0], lang), form)):
                    raise ValueError(f"plot {node.plot}, scene {scene.name}: {var}.{form} is not known in {template!r}")
        for template in scene.text[lang]:
            told = {var for _, var, _ in pieces(template)}
            for var in scene.draws.keys() - told:
                raise ValueError(f"scene {scene.name}: {var} is drawn and not told in {template!r}")


@functools.cache
def pieces(template: str) -> tuple[Piece, ...]:
    """Split a template into its texts and its slots.

    Example: "{hero.He} slept." gives (("", "hero", "He"), (" slept.", "", "")).
    """
    found: list[Piece] = []
    for text, field, _, _ in string.Formatter().parse(template):
        if text:
            found.append((text, "", ""))
        if field:
            var, _, form = field.partition(".")
            found.append(("", var, form))
    return tuple(found)


def nodes(grammar: Grammar) -> Iterator[Node]:
    """Yield every node once."""
    seen: set[int] = set()
    waiting = [node for _, node in grammar.start]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += [after for _, after in node.next]
