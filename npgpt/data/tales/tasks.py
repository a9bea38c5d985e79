"""Four tasks made from tales, as prompts and completions: questions, summaries, translations and writing to order."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from npgpt.config import FEWEST_WORDS, LANGS, TASKS
from npgpt.data.tales.generate import Tale, Uniform, styles, tales, tell
from npgpt.data.tales.grammar import Scene, load_grammar, pieces

# how an order names a word, by the word's set: its English and its Chinese form
SHOWN = {
    "names": ("name", "name"),
    "kinds": ("noun", "noun"),
    "things": ("noun", "noun"),
    "breakables": ("noun", "noun"),
    "shields": ("noun", "noun"),
    "foods": ("plural", "noun"),
    "crops": ("plural", "noun"),
    "dishes": ("noun", "noun"),
    "workers": ("noun", "noun"),
    "menders": ("noun", "noun"),
    "colours": ("adj", "adj"),
}
# temperature and top_p of a task for which the likeliest tokens are not the best: a friend may have any of forty names,
# and if each is less likely than the hero's own name, the likeliest token is a mistake
DRAWN = {"write": (0.8, 0.9)}


class Example(NamedTuple):
    """An example of a task: the prompt, the completion, and the tale by which an answer is judged.

    lang   the language of the prompt
    given  for writing, the variables of the tale that the prompt asks to use
    order  for writing, what is given: "title", "hero" (and something else), or "words"
    more   further questions about the tale, as (prompt, completion) pairs that follow
    """

    task: str
    lang: str
    prompt: str
    completion: str
    tale: Tale
    given: tuple[str, ...] = ()
    order: str = ""
    more: tuple[tuple[str, str], ...] = ()

    def line(self) -> dict[str, str | list[str]]:
        """Return a line of a JSON lines file as a dict; a conversation has lists of prompts and completions."""
        prompts, completions = zip((self.prompt, self.completion), *self.more, strict=True)
        return {
            "task": self.task,
            "lang": self.lang,
            "prompt": list(prompts) if self.more else self.prompt,
            "completion": list(completions) if self.more else self.completion,
        }


def excerpt(tale: Tale, u: Uniform) -> Tale:
    """Return a tale's title, its beginning, and at most two consecutive scenes of the rest.

    In so little text a word is easy to find, so a model that begins with excerpts first learns what to look for.
    """
    more = int(u() * 3)
    start = 2 + int(u() * (len(tale.nodes) - 1 - more))
    return Tale(tale.nodes[:2] + tale.nodes[start : start + more], tale.words)


def gist(tale: Tale, u: Uniform) -> Tale:
    """Return a tale's title, its beginning, and those scenes of the rest that its summary mentions."""
    scene = summary_scene(tale)
    needed = {var for line in scene.summary["en"] + scene.summary["zh"] for _, var, _ in pieces(line) if var}
    rest = (node for node in tale.nodes[2:] if node.scene is scene or needed & node.scene.draws.keys())
    return Tale((*tale.nodes[:2], *rest), tale.words)


def answer(tale: Tale, lang: str, u: Uniform) -> Example:
    """Ask one of the questions that a tale, or an excerpt of one, answers."""
    asked = questions_about(tale, lang)
    prompt, completion = asked[int(u() * len(asked))]
    return Example("answer", lang, tell(tale, lang, u) + prompt, completion, tale)


def questions_about(tale: Tale, lang: str) -> list[tuple[str, str]]:
    """Return the questions that a tale, or an excerpt of one, answers, as (text after the tale, answer) pairs.

    Example: ("\\n\\nQuestion: What kind of animal is Rosie?\\nAnswer:", " a fox").
    """
    told = told_by(tale)
    asked = [pair for node in tale.nodes for pair in node.scene.questions[lang] if variables(pair) <= told]
    filled = [[line.format_map(tale.forms(lang)) for line in pair] for pair in asked]
    if lang == "en":
        return [(f"\n\nQuestion: {question}\nAnswer:", " " + reply) for question, reply in filled]
    return [(f"\n\n问题：{question}\n回答：", reply) for question, reply in filled]


def told_by(tale: Tale) -> set[str]:
    """Return the variables that the scenes of a tale draw or compute."""
    return {var for node in tale.nodes for var in (*node.scene.draws, *node.scene.lets)}


def with_questions(example: Example, n: int, u: Uniform) -> Example:
    """Add up to n further questions about its tale to an example, without repeating one."""
    left = [turn for turn in questions_about(example.tale, example.lang) if not example.prompt.endswith(turn[0])]
    return example._replace(more=tuple(left.pop(int(u() * len(left))) for _ in range(min(n, len(left)))))


def variables(lines: tuple[str, str]) -> set[str]:
    """Return the variables in a question and its answer."""
    return {var for line in lines for _, var, _ in pieces(line) if var}


def summary(tale: Tale, lang: str, u: Uniform) -> Example:
    """Ask for a summary of the tale in one or two sentences."""
    sentences = summary_scene(tale).summary[lang]
    short = sentences[int(u() * len(sentences))].format_map(tale.forms(lang))
    text = tell(tale, lang, u)
    if lang == "en":
        return Example("summary", lang, f"{text}\n\nSummary:", " " + short, tale)
    return Example("summary", lang, f"{text}\n\n摘要：", short, tale)


def summary_scene(tale: Tale) -> Scene:
    """Return the scene that has the tale's summaries; every tale has one."""
    return next(node.scene for node in tale.nodes if node.scene.summary["en"])


def translate(tale: Tale, lang: str, u: Uniform) -> Example:
    """Ask for a translation of the tale into the other language."""
    text = tell(tale, lang, u)
    if lang == "en":
        return Example("translate", lang, f"{text}\n\nIn Chinese:\n", tell(tale, "zh", u), tale)
    return Example("translate", lang, f"{text}\n\n译成英文：\n", tell(tale, "en", u), tale)


def write(tale: Tale, lang: str, u: Uniform, words: int = FEWEST_WORDS) -> Example:
    """Ask for a tale by its title, by its hero and something else in it, or by three to `words` words.

    One order in `words` is by title and one by hero; the others are by words. With words = 3, each is a third. An
    excerpt with fewer than three words to give is asked for by its title.
    """
    text = tell(tale, lang, u)
    kind = int(u() * words)
    told = told_by(tale)
    nouns = {var: shown(tale, var, lang) for var, name in tale.nodes[-1].bound.items() if name in SHOWN and var in told}
    if kind == 0 or len(set(nouns.values())) < 3:
        title = text.split("\n", 1)[0]
        prompt = f"Write a tale: {title}\n\n" if lang == "en" else f"写一个故事：{title}\n\n"
        return Example("write", lang, prompt, text, tale, tuple(tale.nodes[0].scene.draws), "title")
    if kind == 1:
        hero, animal = nouns.pop("hero"), nouns.pop("kind")
        ((var, other),) = pick(nouns, 1, [animal], u).items()
        if lang == "en":
            prompt = f"Write a tale about {hero} the {animal} with this in it: {other}\n\n"
        else:
            prompt = f"写一个关于{animal}{hero}的故事，里面要有：{other}\n\n"
        return Example("write", lang, prompt, text, tale, ("hero", "kind", var), "hero")
    chosen = pick(nouns, 3 + int(u() * (min(words, len(set(nouns.values()))) - 2)), [], u)
    if lang == "en":
        prompt = f"Write a tale with these words: {', '.join(chosen.values())}\n\n"
    else:
        prompt = f"用这些词写一个故事：{'、'.join(chosen.values())}\n\n"
    return Example("write", lang, prompt, text, tale, tuple(chosen), "words")


def pick(nouns: dict[str, str], n: int, known: list[str], u: Uniform) -> dict[str, str]:
    """Pick n variables at random, as {variable: its name in the order}, all with different names and none in known."""
    left = dict(nouns)
    chosen: dict[str, str] = {}
    for _ in range(n):
        left = {var: word for var, word in left.items() if word not in (*known, *chosen.values())}
        var = list(left)[int(u() * len(left))]
        chosen[var] = left.pop(var)
    return chosen


def shown(tale: Tale, var: str, lang: str) -> str:
    """Return the form of a variable's word that an order uses."""
    form = SHOWN[tale.nodes[-1].bound[var]][LANGS.index(lang)]
    return getattr(tale.forms(lang)[var], form)


MAKERS: dict[str, Callable[[Tale, str, Uniform], Example]] = {
    "answer": answer,
    "summary": summary,
    "translate": translate,
    "write": write,
}


# how a tale is shortened for each task
SHORTER: dict[str, Callable[[Tale, Uniform], Tale]] = {
    "answer": excerpt,
    "summary": gist,
    "translate": excerpt,
    "write": excerpt,
}


def examples(
    seed: int,
    tasks: tuple[str, ...] = TASKS,
    langs: tuple[str, ...] = LANGS,
    part: int = 0,
    excerpts: float = 0,
    questions: int = 0,
    words: int = FEWEST_WORDS,
) -> Iterator[Example]:
    """Yield examples without end, for each task and language in turn, each from another tale.

    excerpts   the share of examples made from shortened tales; use them only for training, as not all can be judged
    questions  the most further questions about its tale that follow an example
    words      the most words that an order by words gives, if its tale has so many; the fewest are three
    """
    u = styles(seed, "en", part)
    stream = tales(seed, part, load_grammar())
    makers = MAKERS | {"write": partial(write, words=words)}
    while True:
        for task in tasks:
            for lang in langs:
                tale = next(stream)
                if excerpts and u() < excerpts:
                    tale = SHORTER[task](tale, u)
                example = makers[task](tale, lang, u)
                yield with_questions(example, questions, u) if questions else example
