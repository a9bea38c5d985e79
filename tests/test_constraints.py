"""Text that must match: whatever is drawn, a finished text matches, with bytes, characters and BPE."""

import json
import re
import sys

import numpy as np
import pytest

from npgpt import Tokenizer
from npgpt.generation.constraints import Constraint, constraint_of
from npgpt.generation.settings import Sampling
from npgpt.tokenizer.bytes import ByteTokenizer
from npgpt.tokenizer.chars import CharTokenizer

WHY = "{} is not installed; constraints need npgpt[constrain], and their tests npgpt[test]"
pytest.importorskip("llguidance", reason=WHY.format("llguidance"))
jsonschema = pytest.importorskip("jsonschema", reason=WHY.format("jsonschema"))

LEARNED = ['{"name": "Ann", "age": 30, "ok": true, "中": [1.5, null, false]}\nyes, no 中文 😀 ' * 9]
TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "chars": CharTokenizer([*map(chr, range(32, 127)), "\n中文é😀"]),
    "bpe": Tokenizer.train(LEARNED, 330, special_tokens=("<|end|>", "<|user|>")),
}


def end_of(tokenizer):
    """Return the ids that end a text, none of bytes and characters."""
    return tuple(i for name, i in tokenizer.special_tokens.items() if name == "<|end|>")


def new(tokenizer, **settings):
    return Constraint(Sampling(**settings), tokenizer, tokenizer.vocab_size, end_of(tokenizer))


def written(constraint, tokenizer, rng, most=400):
    """Write a text of random tokens among those that may follow; return its ids and whether it matches.

    Texts would seldom end by themselves: after 20 tokens, an end token, a quote and a bracket are preferred.
    """
    ids, ends = [], end_of(tokenizer)
    closing = [i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]) in ('"', "}", "]")]
    while not constraint.over and len(ids) < most:
        logits = rng.normal(size=tokenizer.vocab_size)
        if len(ids) > 20:
            logits[[*ends, *closing]] += 5
            if constraint.complete and not ends:
                break
        logits[~constraint.mask()] = -np.inf
        token = int(logits.argmax())
        assert logits[token] > -np.inf, tokenizer.decode(ids)
        constraint.accept(token)
        if token in ends:
            break
        ids.append(token)
    return ids, constraint.complete


REGEXES = [
    r"[\d_]+", r"\\\d/",
    "yes|no", "(ab|abc)*d", r"\d{3,5}", "[^a]{4}", "中|中文|文é?", ".{0,9}", "(?s).{3}", r"\p{Han}{2}", "(?i)yes", "a*",
    r"[A-Z][a-z]+ [A-Z][a-z]+\.", r"\(\d{3}\) \d{3}-\d{4}", "^(0|1)$", "😀+", r'"[^"\\]*"', "(a?b){2,4}", "é|e", "x{3}",
]  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("pattern", REGEXES)
def test_a_finished_text_matches_the_regex(kind, pattern):
    tokenizer, rng = TOKENIZERS[kind], np.random.default_rng(0)
    for _ in range(3):
        ids, complete = written(new(tokenizer, regex=pattern), tokenizer, rng)
        text = tokenizer.decode_bytes(ids).decode()
        assert complete
        assert re.fullmatch(pattern.replace(r"\p{Han}", "[一-鿿㐀-䶿豈-﫿⺀-⿿々〇〡-〩〸-〻𠀀-𳏿]"), text), text


OBJECT = {"type": "object", "additionalProperties": False}
SCHEMAS = [
    {"enum": ["red", "中文", "a b", 3, None, True, "q\"uote"]},
    {"const": {"a": [1, "é"]}},
    {"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]},
    {"type": "integer", "minimum": -3, "maximum": 12},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6},
    {"type": "number", "minimum": 0.5, "maximum": 2.25},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    {"type": "integer", "multipleOf": 3, "minimum": 0, "maximum": 99},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"}, {"type": "string", "pattern": "^中+$"},
    {"type": "string", "format": "date"}, {"type": "string", "format": "uuid"},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": False, "minItems": 2},
    {"type": "array", "items": {"type": "array", "items": {"type": "null"}, "maxItems": 2}, "minItems": 1},
    OBJECT | {"properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"]},
    OBJECT | {"properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["age"]},
    OBJECT | {"properties": {"中": {"const": "文"}, "a b": {"enum": [1, 2]}}},
    OBJECT | {"properties": {"in": OBJECT | {"properties": {"x": {"type": "number"}}, "required": ["x"]}},
              "required": ["in"]},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 3},
    {"type": "object", "patternProperties": {"^k[0-9]$": {"type": "null"}}, "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a", "b"],
     "additionalProperties": {"type": "integer"}},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 3}]},
    {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1},
    {"oneOf": [{"type": "integer"}, {"type": "boolean"}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
    {"anyOf": [OBJECT | {"properties": {"a": {"const": 1}}, "required": ["a"]}, {"type": "null"}]},
    {"$defs": {"tree": OBJECT | {"properties": {"l": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
     "required": ["l"]}}, "$ref": "#/$defs/tree"},
    {"title": "any", "type": "array", "maxItems": 2},
    {"type": "object"},
    {},
    True,
]  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_a_finished_text_is_valid_for_the_schema(kind, schema):
    tokenizer, rng = TOKENIZERS[kind], np.random.default_rng(1)
    finished = 0
    for _ in range(3):
        ids, complete = written(new(tokenizer, json_schema=json.dumps(schema)), tokenizer, rng)
        if complete:
            finished += 1
            jsonschema.validate(json.loads(tokenizer.decode_bytes(ids)), schema)
    assert finished


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_text_is_one_of_the_choices_and_may_be_each(kind):
    choices = ("", "a", "ab", "ab c", "中", "中文", "a.b|c", "x\n", "😀")
    tokenizer, rng = TOKENIZERS[kind], np.random.default_rng(2)
    found = set()
    for _ in range(120):
        constraint = new(tokenizer, choices=choices)
        ids = []
        while not constraint.over:
            if constraint.complete and rng.random() < 0.3:  # it may end here
                break
            mask = constraint.mask()
            mask[list(end_of(tokenizer))] = False
            ids.append(int(rng.choice(np.flatnonzero(mask))))
            constraint.accept(ids[-1])
        found.add(tokenizer.decode_bytes(ids).decode())
        assert constraint.matches(tokenizer.decode(ids))
    assert found == set(choices)


def test_an_end_token_may_follow_exactly_where_the_text_matches():
    tokenizer = TOKENIZERS["bpe"]
    end, user = tokenizer.special_tokens.values()
    constraint = Constraint(Sampling(regex="(ab)*"), tokenizer, tokenizer.vocab_size + 5, (end, tokenizer.vocab_size))
    for token in b"abab":
        mask = constraint.mask()
        assert mask.shape == (tokenizer.vocab_size + 5,)
        assert mask[end] == mask[tokenizer.vocab_size] == constraint.complete == (token == ord("a"))
        constraint.accept(token)
        assert not constraint.over
    assert not mask[user]
    assert not mask[tokenizer.vocab_size + 1 :].any()
    constraint.accept(end)
    constraint.accept(ord("a"))
    with pytest.raises(ValueError, match=f"token {end} ends a text that does not match yet"):
        constraint.accept(end)


def test_special_tokens_do_not_match_their_own_names():
    tokenizer = TOKENIZERS["bpe"]
    mask = new(tokenizer, regex=r"<\|user\|>|.*").mask()
    assert not mask[tokenizer.special_tokens["<|user|>"]]
    assert mask[ord("<")]


def test_a_byte_that_ends_a_text_is_not_part_of_it():
    """Ids of ordinary text may end a text, as in stop_ids; they do so in a constraint too."""
    constraint = Constraint(Sampling(regex="(?s)a|[^a]+"), TOKENIZERS["bytes"], 256, (ord("\n"), ord("a")))
    assert not constraint.mask()[[ord("\n"), ord("a")]].any()
    constraint.accept(ord("b"))
    assert constraint.mask()[[ord("\n"), ord("a")]].all()


def test_nothing_can_follow_the_end_of_a_json_text():
    constraint = new(TOKENIZERS["bytes"], json_schema='{"type": "object", "maxProperties": 0}')
    for token in b"{}":
        assert not constraint.complete
        constraint.accept(token)
    assert constraint.over
    assert not constraint.mask().any()


def test_white_space_in_json_has_a_bound():
    constraint = new(TOKENIZERS["bytes"], json_schema='{"type": "array"}')
    for token in b"[\n" + b" " * 16:
        constraint.accept(token)
    assert not constraint.mask()[[ord(" "), ord("\n")]].any()
    for text in ([[1, {"a": None}], "b"], []):
        for indent in (None, 2):
            assert constraint.matches(json.dumps(text, indent=indent))
    assert constraint.matches('["a","b"]')
    assert not constraint.matches("[1,  2]")


def test_a_token_that_may_not_follow_is_named():
    constraint = new(TOKENIZERS["bytes"], regex="ab")
    with pytest.raises(ValueError, match="the token 120, 'x', does not match what constrains the text") as raised:
        constraint.accept(ord("x"))
    assert "\n" not in str(raised.value)


def test_what_a_vocabulary_lacks_is_not_begun():
    tokenizer = CharTokenizer(["abx"])
    mask = new(tokenizer, regex="x中|ab").mask()
    assert tokenizer.decode(np.flatnonzero(mask)) == "a"
    with pytest.raises(ValueError, match="no text that matches the constraint can be written with this vocabulary"):
        new(tokenizer, regex="中")
    with pytest.raises(ValueError, match="choices has '中', which cannot be written: character '中'"):
        new(tokenizer, choices=("a", "中"))
    with pytest.raises(ValueError, match=re.escape("json_schema: #/properties/b has '\"b中\"', which cannot be")):
        new(CharTokenizer(['{}":,b1']), json_schema='{"properties": {"b": {"const": "b中"}}}')


def test_a_text_that_cannot_go_on_allows_no_token():
    """A pattern inside a schema is not held against the vocabulary from the start."""
    tokenizer = CharTokenizer(['"ab'])
    constraint = new(tokenizer, json_schema='{"type": "string", "pattern": "^a中$"}')
    for token in tokenizer.encode('"a'):
        constraint.accept(int(token))
    assert not constraint.mask().any()
    assert not constraint.complete
    assert not constraint.over


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_prefix_is_part_of_what_must_match(kind):
    tokenizer = TOKENIZERS[kind]
    new(tokenizer, regex="(ab)+中", prefix="aba")
    new(tokenizer, regex="(ab)+中", prefix=tokenizer.encode("ab中").tolist())
    for prefix in ("b", "ab中a", tokenizer.encode("ba").tolist(), [9999]):
        with pytest.raises(ValueError, match=r"no text that begins with prefix=.* matches the constraint"):
            new(tokenizer, regex="(ab)+中", prefix=prefix)


def test_a_schema_may_say_which_white_space_there_is():
    schema = {"type": "array", "x-guidance": {"whitespace_pattern": ""}}
    constraint = new(TOKENIZERS["bytes"], json_schema=json.dumps(schema))
    assert constraint.matches("[1,2]")
    assert not constraint.matches("[1, 2]")


def test_matches_judges_whole_texts():
    for tokenizer in TOKENIZERS.values():
        constraint = new(tokenizer, regex="(ab|中)+")
        constraint.accept(int(tokenizer.encode("a")[0]))
        assert constraint.matches("ab中ab")
        assert not any(constraint.matches(text) for text in ("", "a", "abx", "ab\ufffd", "龍"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regex": "a("}, "regex='a(': unclosed group"),
        ({"regex": "a(?=b)"}, "look-around, including look-ahead and look-behind, is not supported"),
        ({"regex": r"(a)\1"}, "backreferences are not supported"),
        ({"regex": r"a\b"}, "lookarounds not supported yet; WordUnicode"),
        ({"regex": "\ud800"}, "lone surrogate U+D800"),
        ({"choices": ("\ud800",)}, "choices has '\\ud800', which cannot be written"),
        ({"json_schema": ""}, "json_schema is no JSON: Expecting value"),
        ({"json_schema": "{'a': 1}"}, "json_schema is no JSON: Expecting property name"),
        ({"json_schema": "[]"}, "json_schema: at # stands [], not a schema"),
        ({"json_schema": "false"}, "json_schema: false matches nothing"),
        (
            {"json_schema": '{"properties": {"a": {"uniqueItems": true}}}'},
            "'uniqueItems' at #/properties/a is not supp",
        ),
        ({"json_schema": '{"items": {"anyOf": [{}, {"not": {}}]}}'}, "'not' at #/items/anyOf/1 is not supported"),
        (
            {"json_schema": '{"items": {"minLenght": 3}}'},
            "'minLenght' at #/items is unknown; did you mean 'minLength'?",
        ),
        (
            {"json_schema": '{"oneOf": [{"const": 1}, {"type": "integer"}]}'},
            "'oneOf' at # is not supported; use \"anyOf\"",
        ),
        ({"json_schema": '{"not": {}, "x-guidance": {"lenient": true}}'}, "'not' at # is not supported"),
        ({"json_schema": '{"type": "sting"}'}, "json_schema: Invalid type: sting"),
        ({"json_schema": '{"minimum": 5, "maximum": 3, "type": "integer"}'}, "json_schema: Unsatisfiable schema"),
        ({"json_schema": '{"type": "string", "pattern": "a(?=b)"}'}, "json_schema: look-around"),
        ({"json_schema": '{"required": 3}'}, "json_schema: Expected array for 'required'"),
        ({"json_schema": '{"minProperties": 2}'}, "'minProperties' at # is not supported: a name may be written twice"),
        ({"json_schema": '{"minimum": 1e999}'}, "json_schema: "),
        ({"json_schema": '{"$ref": "#/$defs/a"}'}, "json_schema: Pointer '/$defs/a' does not exist"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        new(TOKENIZERS["bytes"], **settings)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


def test_keys_of_ones_own_and_annotations_are_left_alone():
    new(
        TOKENIZERS["bytes"],
        json_schema='{"type": "null", "title": "t", "x-order": 3, "examples": [1], "$comment": "c"}',
    )


def test_nothing_constrains_unless_asked():
    for settings in ({}, {"choices": ()}, {"stop": "a"}):
        assert constraint_of(Sampling(**settings), TOKENIZERS["bytes"], 256, ()) is None
    for settings in ({"regex": ""}, {"choices": ""}):
        assert constraint_of(Sampling(**settings), TOKENIZERS["bytes"], 256, ()).over
    with pytest.raises(ValueError, match="a constraint needs a tokenizer"):
        constraint_of(Sampling(regex="a"), None, 256, ())


def test_without_llguidance_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ValueError, match=re.escape("pip install 'npgpt[constrain]'")):
        new(TOKENIZERS["bytes"], regex="a")


def test_the_vocabulary_is_prepared_once():
    tokenizer = ByteTokenizer()
    first, second = (new(tokenizer, regex=pattern)._tokens for pattern in ("a", "b"))
    assert first is second
    assert new(ByteTokenizer(), regex="a")._tokens is not first
