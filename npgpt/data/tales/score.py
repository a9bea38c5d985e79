"""Judge completions exactly, by the events of the tale, in every phrasing of the grammar."""

from typing import NamedTuple

from npgpt.data.tales.grammar import Scene, load_grammar, nodes, pieces
from npgpt.data.tales.parse import Bound, NotATaleError, parse, read_line
from npgpt.data.tales.tasks import SHOWN, Example, shown, summary_scene
from npgpt.data.tales.words import Word


class Score(NamedTuple):
    """The score of a completion.

    right   whether it is the exact answer, a translation with the same events, a summary without a false fact, or a
            tale that uses what was given
    recall  the share of the key facts that a summary tells; for other tasks 1 if it is right, else 0
    why     what is wrong, or ""
    """

    right: bool
    recall: float
    why: str = ""


def score(example: Example, completion: str) -> Score:
    """Judge a completion of an example."""
    completion = completion.strip()
    judge = {"answer": of_answer, "summary": of_summary, "translate": of_translation, "write": of_writing}
    return judge[example.task](example, completion)


def verdict(right: bool, why: str) -> Score:
    return Score(right, float(right), "" if right else why)


def of_answer(example: Example, completion: str) -> Score:
    wanted = example.completion.strip()
    return verdict(completion == wanted, f"expected {wanted!r}")


def of_translation(example: Example, completion: str) -> Score:
    """Accept every text with the same events as the tale."""
    try:
        tale = parse(completion, "zh" if example.lang == "en" else "en")
    except NotATaleError as error:
        return verdict(False, str(error))
    if tale.plot != example.tale.plot:
        return verdict(False, f"the plot is {tale.plot}, expected {example.tale.plot}")
    return verdict(tale.facts() == example.tale.facts(), "other events: " + differences(tale.words, example.tale.words))


def differences(words: Bound, wanted: Bound) -> str:
    """Name the words that differ, as in "hero is Rosie, expected Emma"; "another scene" if none do."""
    wrong = [
        f"{var} is {named(words[var])}, expected {named(wanted[var])}"
        for var in words.keys() & wanted.keys()
        if words[var] is not wanted[var]
    ]
    return "; ".join(sorted(wrong)) or "another scene"


def named(word: Word) -> str:
    return str(next(iter(vars(word.en).values())))


def of_writing(example: Example, completion: str) -> Score:
    """Accept a tale of the grammar that uses everything that was given: the title, or every word."""
    try:
        tale = parse(completion, example.lang)
    except NotATaleError as error:
        return verdict(False, str(error))
    wanted = example.tale
    if example.order == "title":
        title = example.completion.split("\n", 1)[0]
        return verdict(completion.startswith(title + "\n"), f"expected the title {title!r}")
    for var in example.given:
        word = shown(wanted, var, example.lang)
        roles = [var] if var in ("hero", "kind") and example.order == "hero" else tale.words
        if word not in {shown(tale, role, example.lang) for role in roles if tale.nodes[-1].bound.get(role) in SHOWN}:
            return verdict(False, f"{word} is not in it")
    return verdict(True, "")


def of_summary(example: Example, completion: str) -> Score:
    """Judge a summary by its facts: which of the key facts it tells, and whether any fact is false."""
    tale, lang = example.tale, example.lang
    bound = tale.nodes[-1].bound
    scene = summary_scene(tale)
    key = key_facts(scene, lang)
    best = Score(False, 0.0, "the grammar has no such summary")
    for other in summaries():
        sets = {var: load_grammar().words[name] for var, name in other[1].items()}
        for template in other[0].summary[lang]:
            for words in read_line(template, completion, lang, sets):
                same = other[0] is scene
                false = [var for var, word in words.items() if tale.words.get(var) is not word]
                true = [var for var in key if words.get(var) is tale.words[var] and bound[var] == other[1].get(var)]
                recall = len(true) / len(key) if same else 0.0
                why = "" if same and not false else f"false: {', '.join(false) or other[0].name}"
                best = max(best, Score(not why, recall, why), key=lambda s: (s.right, s.recall))
    return best


def key_facts(scene: Scene, lang: str) -> list[str]:
    """Return the variables that every summary of a scene mentions."""
    told = [{var for _, var, _ in pieces(template) if var} for template in scene.summary[lang]]
    return sorted(set.intersection(*told))


def summaries() -> list[tuple[Scene, dict[str, str]]]:
    """Return each scene that has summaries, with the sets of the variables known there."""
    found = {node.scene.name: (node.scene, node.bound) for node in nodes(load_grammar()) if node.scene.summary["en"]}
    return list(found.values())
