"""The tales: drawn from a seed, told in two languages, read back, and counted exactly."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest

from npgpt.data.tales import (
    LANGS,
    NotATaleError,
    count,
    entropy,
    floor,
    load_grammar,
    mean_bytes,
    nats,
    parse,
    read_grammar,
    styles,
    tales,
    tell,
    texts,
)
from npgpt.data.tales.grammar import FILES, Node, nodes
from npgpt.data.tales.parse import parses

WORDS = """
names: name | pronoun | zh.name
Ann | she | 安安
Bo | he | 波波
Cy | he | 西西

numbers: word | value | zh.word
zero | 0 | 零
one | 1 | 一
two | 2 | 二
three | 3 | 三

some: word | value | zh.word
two | 2 | 二
three | 3 | 三

one: word | value | zh.word
zero | 0 | 零
one | 1 | 一
"""
PLOTS = """
plot small: start (met | ) (end | end2)
plot other: lone
scene start: x=names y=names!
en: {x.name} saw {y.name}.
zh: {x.name}看见{y.name}。
zh: {y.name}被{x.name}看见了。
scene met: n=some m=one left=n-m
en: {x.He} had {n.word}, gave {m.word}, kept {left.word}.
zh: 它有{n.word}个，给了{m.word}个，剩{left.word}个。
scene end
en: Good night!
en: The end.
zh: 晚安！
scene end2
en: Goodbye!
zh: 再见！
scene lone: x=names
en: Alone was {x.name}.
zh: 孤单的{x.name}。
"""


def sampled(n, lang, seed=0):
    u = styles(seed, lang)
    for tale in itertools.islice(tales(seed), n):
        yield tale, tell(tale, lang, u)


@pytest.mark.parametrize("lang", LANGS)
def test_a_tale_is_read_back(lang):
    for tale, text in sampled(1500, lang):
        assert parse(text, lang).facts() == tale.facts()
        # each word that counts in its probability is there once: none was drawn anew over another
        drawn = [var for node in tale.nodes for var in (*node.scene.draws, *node.scene.lets)]
        assert sorted(drawn) == sorted(tale.words)


@pytest.mark.parametrize("lang", LANGS)
def test_a_seed_gives_the_same_tales(lang):
    first = list(itertools.islice(texts(3, lang), 50))
    assert first == list(itertools.islice(texts(3, lang), 50))
    assert not set(first) & set(itertools.islice(texts(4, lang), 50))
    assert not set(first) & set(itertools.islice(texts(3, lang, part=1), 50))


def test_tales_of_a_seed_are_known():
    """Another result means that the world has changed, and with it every figure that was measured in it."""
    tale = next(tales(0))
    assert (tale.plot, tale.words["hero"].en.name) == ("garden", "Rosie")


def test_both_languages_tell_the_same():
    for (tale, en), (same, zh) in zip(sampled(200, "en"), sampled(200, "zh"), strict=True):
        assert tale.facts() == same.facts() == parse(en, "en").facts() == parse(zh, "zh").facts()


def test_small_grammar_by_hand():
    """Every text of a small grammar, listed, with its probability: they sum to 1, and entropy and length follow."""
    grammar = read_grammar(WORDS, [PLOTS])
    assert count("en", grammar) == 3 * 2 * (1 + 2 * 2) * 3 + 3
    assert count("zh", grammar) == 3 * 2 * 2 * (1 + 2 * 2) * 2 + 3
    for lang in LANGS:
        found = dict(every_text(grammar, lang))
        assert len(found) == count(lang, grammar)
        assert math.isclose(sum(found.values()), 1)
        assert math.isclose(-sum(p * math.log(p) for p in found.values()), entropy(lang, grammar))
        assert math.isclose(sum(p * len(text.encode()) for text, p in found.items()), mean_bytes(lang, grammar))
        for text, p in found.items():
            (tale,) = parses(text, lang, grammar)
            assert math.isclose(nats(tale, lang, grammar), -math.log(p))


def every_text(grammar, lang):
    """Yield each text and its probability, by trying every choice there is."""
    i = 1 + LANGS.index(lang)

    def go(options, told, words, p):
        if not options:
            yield told, p
        for q, node in options:
            names = list(node.scene.draws)
            drawn = [
                values
                for values in itertools.product(*(grammar.words[node.scene.draws[name]] for name in names))
                if len(set(map(id, values))) == len(values)
            ]
            for values in drawn:
                known = words | dict(zip(names, values, strict=True))
                for left, (a, b) in node.scene.lets.items():
                    known[left] = grammar.words["numbers"][int(known[a].en.value) - int(known[b].en.value)]
                forms = {name: word[i] for name, word in known.items()}
                phrasings = node.scene.text[lang]
                for phrasing in phrasings:
                    here = p * q / len(drawn) / len(phrasings)
                    yield from go(node.next, told + phrasing.format_map(forms), known, here)

    return go(grammar.start, "", {}, 1.0)


@pytest.mark.parametrize("lang", LANGS)
def test_entropy_is_the_mean_of_the_tales_nats(lang):
    found = np.array([nats(tale, lang) for tale in itertools.islice(tales(8), 20_000)])
    assert abs(found.mean() - entropy(lang)) < 3 * found.std() / math.sqrt(len(found))
    lengths = np.array([len(text.encode()) for text in itertools.islice(texts(8, lang), 20_000)])
    assert abs(lengths.mean() - mean_bytes(lang)) < 3 * lengths.std() / math.sqrt(len(lengths))
    assert math.isclose(floor(lang), entropy(lang) / mean_bytes(lang))


@pytest.mark.big
@pytest.mark.parametrize("lang", LANGS)
def test_entropy_over_a_million_tales(lang):
    found = np.fromiter((nats(tale, lang) for tale in itertools.islice(tales(9), 1_000_000)), float, 1_000_000)
    assert abs(found.mean() - entropy(lang)) < 3 * found.std() / 1000


@pytest.mark.parametrize("lang", LANGS)
def test_size_of_the_world(lang):
    assert count(lang) > 10**12
    found = [text for _, text in sampled(4000, lang)]
    assert len(set(found)) == len(found)
    if lang == "en":
        lengths = [len(text.split()) for text in found]
        words = {word.lower() for text in found for word in re.findall(r"[A-Za-z][A-Za-z-]*", text)}
        assert len(words) >= 600
        assert min(lengths) >= 40
        assert max(lengths) <= 200
    else:
        # most Chinese words have one or two characters, so 800 characters make more than 600 words
        characters = {c for text in found for c in text if "一" <= c <= "鿿"}
        assert len(characters) >= 800


def test_every_scene_is_told_and_every_word_drawn():
    grammar = load_grammar()
    used = {node.scene.name for node in nodes(grammar)}
    assert used == set(grammar.scenes)
    drawn = {name for node in nodes(grammar) for name in node.scene.draws.values()}
    assert drawn | {"numbers"} == set(grammar.words)


def test_names_are_balanced():
    """Heroes and friends are of either gender as often, and every name is drawn as often as another."""
    names = load_grammar().words["names"]
    assert sum(word.en.he == "she" for word in names) * 2 == len(names)
    for var in ("hero", "friend"):
        found = np.bincount([t.words[var].number for t in itertools.islice(tales(1), 8000) if var in t.words])
        mean = found.mean()
        assert np.all(np.abs(found - mean) < 5 * math.sqrt(mean))


def test_words_of_a_set_differ():
    for name, words in load_grammar().words.items():
        for lang in LANGS:
            forms = [str(sorted(vars(getattr(word, lang)).items())) for word in words]
            assert len(set(forms)) == len(forms), name


@pytest.mark.parametrize("lang", LANGS)
def test_changed_texts_are_refused_where_they_change(lang):
    rng = np.random.default_rng(0)
    for _, text in sampled(60, lang):
        i = int(rng.integers(len(text)))
        for wrong in (text[:i] + "#" + text[i + 1 :], text[:i] + "#" + text[i:]):
            with pytest.raises(NotATaleError) as error:
                parse(wrong, lang)
            assert error.value.position <= i
        with pytest.raises(NotATaleError) as error:
            parse(text[:i], lang)
        assert error.value.position <= i
    with pytest.raises(NotATaleError, match="expected 'the end'"):
        parse(text + " ", lang)
    with pytest.raises(NotATaleError, match="the end, expected"):
        parse("", lang)


def test_a_wrong_name_is_pointed_at():
    grammar = read_grammar(WORDS, [PLOTS])
    with pytest.raises(
        NotATaleError, match=r"character 12 \(after 'Cy saw Ann. '\): 'She had .*expected 'He'"
    ) as error:
        parse("Cy saw Ann. She had two, gave one, kept one. Goodbye!", "en", grammar)
    assert error.value.position == 12
    with pytest.raises(NotATaleError, match=r"character 39 .*expected 'one'"):
        parse("Cy saw Ann. He had two, gave one, kept two. Goodbye!", "en", grammar)


def test_state_is_kept():
    """What is left is what there was less what went away, and nobody is two animals."""
    for tale in itertools.islice(tales(2), 3000):
        if "left" in tale.words:
            n, m, left = (int(tale.words[var].en.value) for var in ("n", "m", "left"))
            assert left == n - m >= 2
        people = [tale.words[var] for var in ("hero", "friend", "third") if var in tale.words]
        assert len(set(map(id, people))) == len(people)


@pytest.mark.parametrize(
    ("plots", "message"),
    [
        ("plot p: nobody", "no scene nobody"),
        ("plot p: a\nscene a: x=names\nen: Hello.\nzh: {x.name}", "x is drawn and not told"),
        ("plot p: a\nscene a: x=names\nen: {x.name}", "no phrasing in zh"),
        ("plot p: a\nscene a\nen: {x.name}\nzh: 。", "x.name is not known"),
        ("plot p: a\nscene a: x=names\nen: {x.nam}\nzh: {x.name}", "x.nam is not known"),
        ("plot p: a (b | )\nscene a\nen: a\nzh: a\nscene b\nen: b\nzh: b", "must not end with a scene that may be"),
        ("plot p: a\nscene a\nen? Who?\n", "line 3: a question needs"),
        (
            "plot p: a b\nscene a: x=names\nen: {x.name}\nzh: {x.name}\nscene b: x=names\nen: {x.name}\nzh: {x.name}",
            "scene b: x is drawn a second time",
        ),
        ("plot p: a\nscenery\n", "line 2: expected plot, scene"),
        ("scene a\nscene a\n", "scene a is there twice"),
    ],
)
def test_a_bad_grammar_is_refused(plots, message):
    with pytest.raises(ValueError, match=message):
        read_grammar(WORDS, [plots])


def test_a_word_without_a_form_is_refused():
    with pytest.raises(ValueError, match=r"line 2: 'Ann \| she' has 2 forms, expected name"):
        read_grammar("names: name | pronoun | zh.name\nAnn | she\n", [])


def test_nodes_say_how_likely_they_are():
    grammar = read_grammar(WORDS, [PLOTS])
    start = next(node for _, node in grammar.start if node.scene.name == "start")
    assert isinstance(start, Node)
    assert start.sizes == [3, 2]
    assert [(p, node.scene.name) for p, node in start.next] == [
        (0.5, "met"),
        (0.25, "end"),
        (0.25, "end2"),
    ]


def test_the_page_quotes_the_grammar():
    """And what its Python prints, it prints."""
    page = (Path(__file__).parents[2] / "docs" / "tales.md").read_text("utf-8")
    scene = "scene lost_search" + page.split("scene lost_search", 1)[1].split("```")[0]
    assert scene in FILES[2].read_text("utf-8")
    tale = next(tales(seed=0))
    text = tell(tale, "en", styles(0, "en"))
    with pytest.raises(NotATaleError, match=r"^character 229 \(after .*\): 'six were.*', expected 'five'"):
        parse(text.replace("five", "six"), "en")
    assert "NotATaleError: character 229 (after ...): 'six ...', expected 'five'" in page
