"""Text that must match: a regular expression, a JSON schema, or one of several choices, by llguidance."""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from npgpt.generation.settings import Sampling
from npgpt.support.hints import nearest
from npgpt.tokenizer import Tokenizer
from npgpt.tokenizer.base import to_utf8

# JSON may have a space, or a line end and an indent, between its parts. Without a bound a model may write white space
# until its text is full. "x-guidance" in a schema may say something else
JSON: Any = {"whitespace_pattern": r"( |\n {0,16})?"}
# and it may not say what would let a text that does not match pass
STRICT: Any = {"lenient": False, "coerce_one_of": False}

DIGITS = "d"  # \d of a regex is one of 0 to 9, as in the patterns of JSON Schema
NOTHING = "NoExtension"  # how a matcher's error begins where no token may follow

# where a key of a JSON schema holds a schema, a list of them, or a name for each
ONE = {
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
LIST = {"allOf", "anyOf", "items", "oneOf", "prefixItems"}
NAMED = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
KEYS = ONE | LIST | NAMED | {
    "$anchor", "$comment", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef", "$ref",
    "$schema", "$vocabulary", "const", "contentEncoding", "contentMediaType", "default", "dependencies",
    "dependentRequired", "deprecated", "description", "enum", "example", "examples", "exclusiveMaximum",
    "exclusiveMinimum", "format", "id", "maxContains", "maxItems", "maxLength", "maxProperties", "maximum",
    "minContains", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern", "readOnly",
    "required", "title", "type", "uniqueItems", "writeOnly",
}  # fmt: skip


def constraint_of(
    sampling: Sampling, tokenizer: Tokenizer | None, vocab_size: int, ends: Collection[int]
) -> "Constraint | None":
    """Return what a text must match, or None if it may be any text. Raises ValueError as Constraint does."""
    if sampling.regex is None and sampling.json_schema is None and not sampling.choices:
        return None
    return Constraint(sampling, tokenizer, vocab_size, ends)


class Constraint:
    """What may follow in a text that must match as a whole.

    A token may follow if its bytes can be the next ones of a text that matches. An end token may follow if the text
    matches as it is. Special tokens may not.

    A vocabulary may lack what a text has to go on with, so that no token may follow: then it cannot be finished.

    >>> constraint = Constraint(Sampling(choices=("yes", "no")), tokenizer, 256, ends=())  # of bytes
    >>> bytes(np.flatnonzero(constraint.mask()))
    b"ny"
    """

    def __init__(self, sampling: Sampling, tokenizer: Tokenizer | None, vocab_size: int, ends: Collection[int]) -> None:
        """Compile sampling.regex, json_schema or choices.

        vocab_size  the length of masks; ids that the tokenizer does not have may not follow
        ends        ids that end a text

        Raises ValueError, in one line, without llguidance or a tokenizer, for a regular expression or a schema that
        llguidance cannot follow, and if nothing that matches can be written with this vocabulary.
        """
        if tokenizer is None:
            raise ValueError("a constraint needs a tokenizer, which says what the tokens spell")
        self._ends = np.array([i for i in {*ends} if i < vocab_size], np.int64)
        self._size = vocab_size
        self._tokenizer = tokenizer
        vocabulary = vocabulary_of(tokenizer, ends)
        self._tokens = vocabulary.tokens
        self._begin = matcher_of(sampling, tokenizer, vocabulary)
        self._matcher = self._begin.deep_copy()
        self._allowed: np.ndarray | None = None  # what may follow but for end tokens
        if not self.complete and not self._text_mask().any():
            raise ValueError("no text that matches the constraint can be written with this vocabulary")
        if not self._may_begin(sampling.prefix):
            raise ValueError(f"no text that begins with prefix={sampling.prefix!r} matches the constraint")

    @property
    def complete(self) -> bool:
        """Whether the text so far matches as it is."""
        return bool(self._matcher.is_accepting())

    @property
    def over(self) -> bool:
        """Whether the text so far matches, and nothing can follow."""
        return self.complete and not self._text_mask().any()

    def mask(self) -> np.ndarray:
        """Return which tokens may follow, bool (V,): none if the text can neither go on nor end."""
        mask = self._text_mask().copy()
        mask[self._ends] = self.complete
        return mask

    def accept(self, token: int) -> None:
        """Read the token that follows. Raises ValueError, naming it, if it may not."""
        if token in self._ends:
            if not self.complete:
                raise ValueError(f"the token {token} ends a text that does not match yet")
            return
        self._allowed = None
        if not self._matcher.consume_token(token):
            raise ValueError(
                f"the token {token}, {self._tokenizer.decode([token])!r}, does not match what constrains the text: "
                f"{one_line(self._matcher.get_error())}"
            )

    def matches(self, text: str) -> bool:
        """Return whether a text matches, such as one that was cut at a stop string."""
        matcher = self._begin.deep_copy()
        ids = self._tokens.greedy_tokenize(text)
        if self._tokens.decode_bytes(ids) != text.encode():
            return False
        return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())

    def _may_begin(self, prefix: str | tuple[int, ...]) -> bool:
        """Return whether a text that matches may begin with a text or with tokens."""
        ids = self._tokens.greedy_tokenize(prefix) if isinstance(prefix, str) else list(prefix)
        known = all(0 <= i < self._tokens.vocab_size - 1 for i in ids)
        return known and bool(self._begin.deep_copy().try_consume_tokens(ids) == len(ids))

    def _text_mask(self) -> np.ndarray:
        if self._allowed is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            error = self._matcher.get_error()
            if error and not error.startswith(NOTHING):
                raise ValueError(f"the constraint cannot be followed further: {one_line(error)}")
            known = min(self._size, self._tokens.vocab_size - 1)  # without llguidance's own end token, the last
            self._allowed = np.zeros(self._size, bool)
            self._allowed[:known] = np.unpackbits(bits, count=known, bitorder="little")
        return self._allowed


class Vocabulary(NamedTuple):
    """A tokenizer's vocabulary as llguidance sees it.

    tokens      its LLTokenizer. One more token than the tokenizer has, the last, ends a text
    characters  all that can be written, if every token is a character
    """

    tokens: Any
    characters: str | None


class _Tokens:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokens: list[bytes], hidden: Collection[int]) -> None:
        self.tokens = [*tokens, b"<end>"]
        self.eos_token_id = len(tokens)
        self.bos_token_id = None
        self.special_token_ids = [*sorted(hidden), self.eos_token_id]

    def __call__(self, text: Any) -> list[int]:
        raise NotImplementedError("the grammars here force no tokenization")


_VOCABULARIES: WeakKeyDictionary[Tokenizer, dict[frozenset[int], Vocabulary]] = WeakKeyDictionary()


def vocabulary_of(tokenizer: Tokenizer, ends: Collection[int]) -> Vocabulary:
    """Return llguidance's form of a vocabulary, made once for each tokenizer.

    ends  ids that are not text; special tokens are not text either
    """
    try:
        from llguidance import LLTokenizer, TokenizerWrapper
    except ImportError:
        raise ValueError("a constraint needs llguidance: pip install 'npgpt[constrain]'") from None
    hidden = frozenset(tokenizer.special_tokens.values()) | {i for i in ends if i < tokenizer.vocab_size}
    known = _VOCABULARIES.setdefault(tokenizer, {})
    if hidden not in known:
        tokens = [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)]
        texts = {token.decode("utf-8", errors="replace") for i, token in enumerate(tokens) if i not in hidden}
        characters = "".join(sorted(texts)) if all(len(text) == 1 for text in texts) else None
        if characters and "\N{REPLACEMENT CHARACTER}" in characters:  # bytes, and all of them
            characters = None
        known[hidden] = Vocabulary(LLTokenizer(TokenizerWrapper(_Tokens(tokens, hidden))), characters)
    return known[hidden]


def matcher_of(sampling: Sampling, tokenizer: Tokenizer, vocabulary: Vocabulary) -> Any:
    """Return llguidance's matcher before the first token. Raises ValueError for what it cannot follow."""
    from llguidance import LLMatcher, LLParserLimits, regex_to_lark

    schema = None
    if sampling.json_schema is not None:
        schema = checked_schema(sampling.json_schema, tokenizer)
        try:
            plain = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=JSON, overrides=STRICT)
        except ValueError as error:
            raise ValueError(f"json_schema: {one_line(str(error))}") from None
        rules = "start: %json " + json.dumps(json.loads(plain)["grammars"][0]["json_schema"])
    else:
        pattern = one_of(sampling.choices, tokenizer) if sampling.regex is None else sampling.regex
        to_utf8(pattern)  # raises an error that names a lone surrogate
        plain = LLMatcher.grammar_from_regex(pattern)
        rules = f"start: TEXT\nTEXT: /{regex_to_lark(pattern, DIGITS)}/"
        if vocabulary.characters is not None:
            rules += f" & /[{escaped(vocabulary.characters)}]*/"
    # tokens that spell the text in any way, not in the tokenizer's way alone: so banned words and biases leave some
    grammar = json.dumps({"grammars": [{"lark_grammar": f'%llguidance {{"no_forcing": true}}\n{rules}\n'}]})
    matcher = LLMatcher(vocabulary.tokens, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
    if matcher.is_error():
        reason = LLMatcher(vocabulary.tokens, plain, log_level=0).get_error() or matcher.get_error()
        raise ValueError(explained(reason, sampling, schema))
    return matcher


def escaped(text: str) -> str:
    """Return a regular expression for a text, or the inside of a class for its characters."""
    return "".join(c if c.isalnum() or not c.isascii() else f"\\x{{{ord(c):x}}}" for c in text)


def one_of(choices: Collection[str], tokenizer: Tokenizer) -> str:
    """Return a regular expression for choices. Raises ValueError for one that cannot be written."""
    for choice in choices:
        check_writable("choices", choice, tokenizer)
    return "|".join(map(escaped, choices))


def check_writable(where: str, text: str, tokenizer: Tokenizer) -> None:
    """Raise ValueError for a text that the tokenizer cannot encode."""
    try:
        tokenizer.encode(text)
    except ValueError as error:
        raise ValueError(f"{where} has {text!r}, which cannot be written: {error}") from None


def checked_schema(text: str, tokenizer: Tokenizer) -> Any:
    """Return a JSON schema. Raises ValueError for what is none, for unknown keys, and for names that lack characters.

    A key of no meaning in JSON Schema would constrain nothing. One that begins with "x-" is left alone. A name that is
    not in `properties` may be written twice, which counts once for minProperties.
    """
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ValueError(f"json_schema is no JSON: {error}") from None
    if schema is False:
        raise ValueError("json_schema: false matches nothing")
    for where, part in parts(schema):
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            raise ValueError(f"json_schema: at {where} stands {json.dumps(part)[:40]}, not a schema")
        for key in part:
            if key not in KEYS and not key.startswith("x-"):
                raise ValueError(f"json_schema: the key {key!r} at {where} is unknown{nearest(key, KEYS)}")
        least, required = part.get("minProperties"), part.get("required")
        if isinstance(least, int) and least > 1 + (len(required) if isinstance(required, list) else 0):
            raise ValueError(f"json_schema: 'minProperties' at {where} is not supported: a name may be written twice")
        for value in spelled(part):
            check_writable(f"json_schema: {where}", json.dumps(value, ensure_ascii=False), tokenizer)
    return {} if schema is True else schema


def spelled(part: dict[str, Any]) -> list[Any]:
    """Return the values and names that a schema spells out."""
    found = [part["const"]] if "const" in part else []
    for key in ("enum", "required", "properties"):
        found += part[key] if isinstance(part.get(key), list | dict) else []
    return found


def parts(schema: Any, where: str = "#") -> Iterator[tuple[str, Any]]:
    """Yield all schemas inside a schema, itself first, each with the place where it stands, a JSON pointer."""
    yield where, schema
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if key in NAMED and isinstance(value, dict):
            inside = list(value.items())
        elif key in LIST and isinstance(value, list):
            inside = list(enumerate(value))
        elif key in ONE:
            yield from parts(value, f"{where}/{key}")
            continue
        else:
            continue
        for name, part in inside:
            yield from parts(part, f"{where}/{key}/{name}")


def explained(error: str, sampling: Sampling, schema: Any) -> str:
    """Return llguidance's error in one line, with the place in the schema of a key that it does not support."""
    reason = re.search(r"^error: (.*)$", error, re.MULTILINE) or re.search(r"\(in regex\): (.*)", error)
    line = one_line(reason.group(1) if reason else error)
    if sampling.json_schema is None:
        return f"regex={sampling.regex!r}: {line}" if sampling.regex is not None else f"choices: {line}"
    keys = re.findall(r'"([^"]*)"', error) if error.startswith("Unimplemented keys") else []
    keys += ["oneOf"] if error.startswith("oneOf constraints") else []
    for where, part in parts(schema):
        for key in keys:
            if isinstance(part, dict) and key in part:
                instead = '; use "anyOf"' if key == "oneOf" else ""
                return f"json_schema: the key {key!r} at {where} is not supported{instead}"
    return f"json_schema: {line}"


def one_line(text: str) -> str:
    return " ".join(text.split())
