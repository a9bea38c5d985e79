"""Whole texts of a model with random weights: what they must match, and where they end."""

import json
import re
from dataclasses import replace

import pytest

from npgpt import GPT, Generator, GPTConfig, Sampling, Tokenizer
from npgpt.generation.search import contrastive_search, speculative
from npgpt.tokenizer.bytes import ByteTokenizer
from npgpt.tokenizer.chars import CharTokenizer

WHY = "{} is not installed; constraints need npgpt[constrain], and their tests npgpt[test]"
pytest.importorskip("llguidance", reason=WHY.format("llguidance"))
jsonschema = pytest.importorskip("jsonschema", reason=WHY.format("jsonschema"))

TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "chars": CharTokenizer([*map(chr, range(32, 127)), "\n中文"]),
    "bpe": Tokenizer.train(['{"age": 30, "ok": true, "中": [1.5, null]}\n' * 9], 290),
}


def writer(kind):
    """Return a generator of a model whose vocabulary is longer than the tokenizer's."""
    tokenizer = TOKENIZERS[kind]
    size = tokenizer.vocab_size
    config = GPTConfig(
        vocab_size=size + 7, n_positions=32, n_embd=8, n_layer=1, n_head=1, eos_token_id=tokenizer.end_id
    )
    return Generator(GPT(config, seed=0, ops="reference"), tokenizer)


SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 150}, "ok": {"type": "boolean"}},
    "required": ["age", "ok"],
    "additionalProperties": False,
}
CASES = [
    ({"regex": "[A-Z][a-z]{2,5} (中|文)?!"}, lambda text: re.fullmatch("[A-Z][a-z]{2,5} (中|文)?!", text)),
    ({"json_schema": json.dumps(SCHEMA)}, lambda text: jsonschema.validate(json.loads(text), SCHEMA) is None),
    ({"choices": ("", "a", "ab c", "中文")}, lambda text: text in ("", "a", "ab c", "中文")),
]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(("settings", "right"), CASES, ids=lambda case: next(iter(case)) if type(case) is dict else "")
def test_a_text_matches_or_is_said_to_be_unfinished(kind, settings, right):
    reasons = set()
    for temperature in (1.0, 3.0):
        sampling = Sampling(temperature=temperature, max_new_tokens=40, **settings)
        for completion in writer(kind).complete(["a"], sampling, n=4):
            reasons.add(completion.finish_reason)
            assert completion.finish_reason in ("stop", "constraint", "length", "unfinished")
            assert completion.finish_reason == "unfinished" or right(completion.text), completion
    assert reasons - {"unfinished"}


def test_a_text_that_is_cut_off_is_unfinished():
    (completion,) = writer("bytes").complete(["a"], Sampling(regex="b{20}", max_new_tokens=5))
    assert (completion.text, completion.finish_reason) == ("bbbbb", "unfinished")
    (completion,) = writer("bytes").complete(["a"], Sampling(regex="b*", max_new_tokens=5))
    assert (completion.text, completion.finish_reason) == ("bbbbb", "length")


def test_what_a_stop_string_leaves_must_match():
    for regex, reason in [("b*cd?", "unfinished"), ("b{3}(cd)?", "stop")]:
        (completion,) = writer("bytes").complete(
            ["a"], Sampling(regex=regex, stop="c", prefix="bbbc", max_new_tokens=9)
        )
        assert (completion.text, completion.finish_reason) == ("bbb", reason)


def test_banned_tokens_leave_other_spellings_or_an_error():
    with pytest.raises(ValueError, match="no token is left to draw after 2 tokens: all are excluded by banned"):
        writer("bytes").complete(["a"], Sampling(regex="bc", banned=("c",)))
    tokenizer = TOKENIZERS["bpe"]
    age = tokenizer.encode("age").tolist()
    (completion,) = writer("bpe").complete(["a"], Sampling(choices=("age",), logit_bias={age[0]: -float("inf")}))
    assert (completion.text, completion.finish_reason) == ("age", "constraint")  # spelled in another way


def test_where_the_vocabulary_lacks_what_has_to_follow_a_text_is_unfinished():
    schema = json.dumps({"type": "string", "pattern": "^a龙$"})
    (completion,) = writer("chars").complete(["a"], Sampling(json_schema=schema))
    assert (completion.text, completion.finish_reason) == ('"a', "unfinished")


def test_nothing_is_drawn_where_nothing_can_follow():
    (completion,) = writer("bpe").complete(["a"], Sampling(choices="", min_new_tokens=3))
    assert (completion.ids, completion.text, completion.finish_reason) == ((), "", "constraint")


def test_a_stream_shows_no_part_of_a_stop_string():
    sampling = Sampling(prefix="ab\n\ncd", stop="\n\n", max_new_tokens=20)
    assert "".join(writer("bytes").stream("a", sampling)) == "ab"
    (completion,) = writer("bytes").complete(["a"], sampling)
    assert (completion.text, completion.finish_reason, len(completion.ids)) == ("ab", "stop", 4)


@pytest.mark.parametrize("regex", ["[a-z]{3,9}", "(中|文){2,9}", "(ab)*c", "x?"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_draft_changes_nothing_in_a_greedy_text(kind, regex):
    generator = writer(kind)
    sampling = Sampling(regex=regex, temperature=0, max_new_tokens=12)
    (want,) = generator.complete(["a"], sampling)
    other = GPT(generator.model.config, seed=1, ops="reference")
    for draft in (generator.model, other):
        found = speculative(generator, Generator(draft, generator.tokenizer), "a", sampling, lookahead=3)
        assert (found.ids, found.text, found.finish_reason) == (want.ids, want.text, want.finish_reason)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_contrastive_search_without_a_penalty_is_greedy_under_a_constraint_too(kind):
    generator = writer(kind)
    for regex in ("[a-z]{3,9}", "(中|文){2,9}", "(ab)*c"):
        sampling = Sampling(regex=regex, max_new_tokens=12)
        (want,) = generator.complete(["a"], replace(sampling, temperature=0))
        found = contrastive_search(generator, "a", 0.0, replace(sampling, top_k=4))
        assert (found.ids, found.text, found.finish_reason) == (want.ids, want.text, want.finish_reason)
        found = contrastive_search(generator, "a", 0.9, replace(sampling, top_k=4))
        assert (found.finish_reason == "unfinished") == (re.fullmatch(regex, found.text) is None)
