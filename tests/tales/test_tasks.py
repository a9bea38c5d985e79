"""Tasks made from tales, and their judges: what is right is accepted in every phrasing, what is wrong is not."""

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest

from npgpt.data.tales import LANGS, load_grammar, styles, tell
from npgpt.data.tales.generate import Tale, tales, uniforms
from npgpt.data.tales.grammar import nodes, pieces
from npgpt.data.tales.score import key_facts, score, summaries
from npgpt.data.tales.tasks import (
    TASKS,
    Example,
    answer,
    examples,
    excerpt,
    gist,
    questions_about,
    summary,
    summary_scene,
    with_questions,
    write,
)

N = 60


def made(task, lang, n=N, seed=0) -> list[Example]:
    return list(itertools.islice(examples(seed, (task,), (lang,)), n))


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("task", TASKS)
def test_the_completion_of_an_example_is_right(task, lang):
    for example in made(task, lang):
        judged = score(example, example.completion)
        assert judged.right, judged.why
        assert judged.recall == 1
        assert example.line() == {
            "task": task,
            "lang": lang,
            "prompt": example.prompt,
            "completion": example.completion,
        }


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("task", ["answer", "summary", "translate"])
def test_the_completion_of_another_tale_is_wrong(task, lang):
    found = made(task, lang, 300)
    same = {example.completion for example in found}
    for example, other in itertools.pairwise(found):
        if other.completion != example.completion:
            assert not score(example, other.completion).right
    assert len(same) > 100


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("task", TASKS)
def test_nothing_at_all_is_wrong(task, lang):
    for example in made(task, lang, 10):
        judged = score(example, "")
        assert not judged.right
        assert judged.recall == 0
        assert judged.why


def test_examples_follow_from_seed_and_part_and_take_turns():
    first = [e.line() for e in itertools.islice(examples(1), 16)]
    assert first == [e.line() for e in itertools.islice(examples(1), 16)]
    assert first != [e.line() for e in itertools.islice(examples(2), 16)]
    assert first != [e.line() for e in itertools.islice(examples(1, part=1), 16)]
    assert [(line["task"], line["lang"]) for line in first[:8]] == list(itertools.product(TASKS, LANGS))


def test_an_excerpt_is_the_beginning_and_two_scenes_at_most():
    u = uniforms(np.random.default_rng(0))
    found = set()
    for tale in itertools.islice(tales(0), 600):
        nodes = excerpt(tale, u).nodes
        assert nodes[:2] == tale.nodes[:2]
        after = [tale.nodes.index(node) for node in nodes[2:]]
        assert after == list(range(after[0], after[0] + len(after))) if after else True
        found.add((len(nodes), *(i - len(tale.nodes) for i in after)))
    assert {n for n, *_ in found} == {2, 3, 4}
    assert {row[-1] for row in found if row[0] > 2} >= {-1, -2, -3, -4, -5}  # the end as well


class Untold:
    def __getattr__(self, form):
        return "<untold>"


def with_words_told(tale: Tale, lang: str) -> Tale:
    """Return a tale with the words alone that each phrasing of its scenes says."""
    told = set()
    for node in tale.nodes:
        told |= set.intersection(*({var for _, var, _ in pieces(text) if var} for text in node.scene.text[lang]))
    untold = SimpleNamespace(en=Untold(), zh=Untold())
    return Tale(tale.nodes, {var: word if var in told else untold for var, word in tale.words.items()})


@pytest.mark.parametrize("lang", LANGS)
def test_an_excerpt_is_asked_only_of_what_it_tells(lang):
    u = uniforms(np.random.default_rng(0))
    for tale in itertools.islice(tales(0), 300):
        example = answer(with_words_told(excerpt(tale, u), lang), lang, u)
        assert "<untold>" not in example.prompt.rsplit("\n\n", 1)[1] + example.completion


@pytest.mark.parametrize("lang", LANGS)
def test_an_excerpt_is_written_to_an_order_of_what_it_tells(lang):
    u = uniforms(np.random.default_rng(0))
    orders = set()
    for tale in itertools.islice(tales(0), 300):
        short = excerpt(tale, u)
        example = write(with_words_told(short, lang), lang, u)
        assert "<untold>" not in example.prompt
        assert {*example.given} <= {var for node in short.nodes for var in node.scene.draws}
        orders.add(example.order)
    assert orders == {"title", "hero", "words"}


def test_two_of_one_kind_are_one_word_of_an_order():
    u = uniforms(np.random.default_rng(0))
    tale = next(tale for tale in tales(0) if "mocker" in tale.words)
    words = tale.words | {"mocker": tale.words["kind"]}
    nodes = [node for node in tale.nodes if {"hero", "kind", "mocker"} & node.scene.draws.keys()]
    assert {write(Tale(tuple(nodes), words), "en", u).order for _ in range(30)} == {"title"}


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("most", [3, 6])
def test_an_order_gives_from_three_words_up_to_so_many(lang, most):
    """As many as it says are given, each another word, and each number of them is as likely."""
    orders = list(itertools.islice(examples(0, ("write",), (lang,), words=most), 900))
    found = [e for e in orders if e.order == "words"]
    for order in ("title", "hero"):
        assert abs(sum(e.order == order for e in orders) / 900 - 1 / most) < 0.05
    for example in found:
        words = re.split("[：:]", example.prompt.strip())[1].strip().split(", " if lang == "en" else "、")
        assert len(words) == len(set(words)) == len(example.given) == len(set(example.given))
        assert score(example, example.completion).right
    counts = np.bincount([len(example.given) for example in found], minlength=most + 1)
    assert (counts[:3] == 0).all()
    assert len(counts) == most + 1
    assert (counts[3:] > 0.6 * len(found) / (most - 2)).all()


@pytest.mark.parametrize("task", TASKS)
def test_questions_about_its_tale_follow_an_example(task):
    for example in itertools.islice(examples(0, (task,), questions=3), 100):
        line = example.line()
        assert (line["task"], line["lang"]) == (task, example.lang)
        turns = list(zip(line["prompt"], line["completion"], strict=True))
        assert turns == [(example.prompt, example.completion), *example.more]
        assert len(turns) == 4
        asked = [turn for turn in questions_about(example.tale, example.lang) if example.prompt.endswith(turn[0])]
        assert len(asked) == (task == "answer")
        assert len({*asked, *example.more}) == len(asked) + 3
        assert {*example.more} < {*questions_about(example.tale, example.lang)}


@pytest.mark.parametrize("lang", LANGS)
def test_no_more_questions_follow_than_an_excerpt_answers(lang):
    u = uniforms(np.random.default_rng(0))
    for tale in itertools.islice(tales(0), 300):
        short = excerpt(tale, u)
        told = with_words_told(short, lang)
        example = with_questions(answer(told, lang, u), 99, u)
        assert len(example.more) == len(questions_about(short, lang)) - 1
        assert not any("<untold>" in text for turn in example.more for text in turn)


def test_every_question_comes_first_among_those_that_follow():
    u = uniforms(np.random.default_rng(0))
    tale = next(tales(0))
    example = summary(tale, "en", u)
    assert {with_questions(example, 1, u).more[0] for _ in range(300)} == {*questions_about(tale, "en")}


@pytest.mark.parametrize("lang", LANGS)
def test_a_gist_tells_what_its_summary_tells_and_is_short(lang):
    u = uniforms(np.random.default_rng(0))
    shorter = 0
    for tale in itertools.islice(tales(0), 300):
        short = gist(tale, u)
        assert [node for node in tale.nodes if node in short.nodes] == list(short.nodes)
        assert "<untold>" not in summary(with_words_told(short, lang), lang, u).completion
        shorter += len(short.nodes) < len(tale.nodes)
    assert shorter > 250


def test_a_share_of_the_examples_is_of_excerpts():
    whole, mixed, short = (
        list(itertools.islice(examples(0, ("answer", "translate", "write"), excerpts=share), 600))
        for share in (0, 0.4, 1)
    )
    for task, lang in itertools.product(("answer", "translate", "write"), LANGS):
        sizes = [
            [len(e.completion if task == "write" else e.prompt) for e in found if (e.task, e.lang) == (task, lang)]
            for found in (whole, mixed, short)
        ]
        assert np.mean(sizes[2]) < 0.6 * np.mean(sizes[0])
        limit = max(sizes[2])
        assert sum(size <= limit for size in sizes[0]) < 10
        assert 20 < sum(size <= limit for size in sizes[1]) < 65


@pytest.mark.parametrize("lang", LANGS)
def test_a_translation_is_accepted_in_every_phrasing(lang):
    """Told anew with other phrasings it is still right; with one word exchanged it is not."""
    other = LANGS[1 - LANGS.index(lang)]
    u = styles(99, other)
    names = [getattr(word, other).name for word in load_grammar().words["names"]]
    for example in made("translate", lang, 40):
        again = tell(example.tale, other, u)
        assert score(example, again).right
        hero = getattr(example.tale.words["hero"], other).name
        taken = {getattr(word, other).name for word in example.tale.words.values() if hasattr(word.en, "name")}
        gender = example.tale.words["hero"].en.he
        stranger = next(
            name
            for name, word in zip(names, load_grammar().words["names"], strict=True)
            if name not in taken and word.en.he == gender
        )
        judged = score(example, again.replace(hero, stranger))
        assert not judged.right
        assert judged.recall == 0


@pytest.mark.parametrize("lang", LANGS)
def test_every_summary_of_the_grammar_is_accepted_and_a_false_one_is_not(lang):
    for example in made("summary", lang):
        tale = example.tale
        forms = tale.forms(lang)
        for sentence in summary_scene(tale).summary[lang]:
            assert score(example, sentence.format_map(forms)).right
        hero = forms["hero"].name
        stranger = next(
            getattr(word, lang).name
            for word in load_grammar().words["names"]
            if word.en.he == tale.words["hero"].en.he and word not in tale.words.values()
        )
        false = score(example, example.completion.replace(hero, stranger))
        assert not false.right
        assert 0 < false.recall < 1
        assert "hero" in false.why


def test_every_tale_has_one_summary_with_key_facts():
    for lang in LANGS:
        for scene, _ in summaries():
            assert {"hero", "kind"} <= set(key_facts(scene, lang)), scene.name
            assert len(key_facts(scene, lang)) >= 4, scene.name
    for example in made("answer", "en", 300):
        assert sum(bool(node.scene.summary["en"]) for node in example.tale.nodes) == 1


@pytest.mark.parametrize("lang", LANGS)
def test_a_tale_that_leaves_out_what_was_given_is_wrong(lang):
    """Each of the three kinds of order, answered with the tale of another order of the same kind."""
    marks = {"hero": ("about ", "关于"), "words": ("with these words", "用这些词")}
    kinds: dict[str, list[Example]] = {"title": [], "hero": [], "words": []}
    for example in made("write", lang, 400):
        kind = next((k for k, mark in marks.items() if mark[LANGS.index(lang)] in example.prompt), "title")
        kinds[kind].append(example)
    for kind, found in kinds.items():
        assert len(found) > 50, kind
        for example, other in itertools.pairwise(found):
            if example.completion.split("\n")[0] == other.completion.split("\n")[0]:
                continue
            wanted = [getattr(example.tale.words[var], lang) for var in example.given]
            theirs = [getattr(word, lang) for word in other.tale.words.values()]
            if not all(word in theirs for word in wanted):
                assert not score(example, other.completion).right, (example.prompt, other.completion)


@pytest.mark.parametrize("lang", LANGS)
def test_words_that_are_given_may_have_any_part(lang):
    """Of three words a name need not be the hero's; asked for a tale about somebody, it must be."""
    turned = {"hero": "friend", "friend": "hero", "kind": "fkind", "fkind": "kind"}
    for example in made("write", lang, 300):
        names = [var for var in example.given if var in turned]
        if example.order == "title" or not names:
            continue
        words = example.tale.words
        others = example.tale._replace(
            words=words | {var: words[turned[var]] for var in turned if turned[var] in words}
        )
        if "friend" not in words or "fkind" not in words or not others.nodes[-1].bound.keys() >= set(turned):
            continue
        text = tell(others, lang, styles(1, lang))
        judged = score(example, text)
        assert judged.right == (example.order == "words" or words["hero"] is others.words["hero"]), judged.why


@pytest.mark.parametrize("lang", LANGS)
def test_an_order_names_nothing_twice(lang):
    for example in made("write", lang, 400):
        forms = [word for word in re.split(r"[:：,、 ]+", example.prompt.strip()) if word[:1].strip()]
        if example.order == "words":
            assert len(set(forms[-3:])) == 3, example.prompt
        if example.order == "hero":
            assert example.prompt.count(forms[-1]) == 1, example.prompt


@pytest.mark.parametrize("lang", LANGS)
def test_a_question_has_one_answer_in_a_tale(lang):
    """No two questions that a tale answers read the same and have different answers."""
    for example in made("answer", lang, 400):
        forms = example.tale.forms(lang)
        asked = {}
        for node in example.tale.nodes:
            for question, reply in node.scene.questions[lang]:
                question, reply = question.format_map(forms), reply.format_map(forms)
                assert asked.setdefault(question, reply) == reply, question


def test_questions_of_every_kind_are_asked():
    asked = [q for node in nodes(load_grammar()) for q, _ in node.scene.questions["en"]]
    for word in ("Who", "Where", "What", "Why", "How many"):
        assert any(question.startswith(word) for question in asked), word
    for scene in load_grammar().scenes.values():
        assert len(scene.questions["en"]) == len(scene.questions["zh"]), scene.name
