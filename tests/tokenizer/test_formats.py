"""Vocabularies in files: written and read back the same, and what npgpt would encode otherwise refused by name."""

import base64
import json

import pytest

from npgpt import Tokenizer
from npgpt.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer
from npgpt.tokenizer.formats import shown, unshown
from npgpt.tokenizer.patterns import ALSO, PATTERNS
from tests.conftest import SHARED
from tests.tokenizer.helpers import as_defined

TEXT = "the theme of these themes: 人工智能，人工。 don't, 12345\n\n" * 3
SPECIAL = ("<|endoftext|>", "<中>")


def trained(pattern="gpt2"):
    return Tokenizer.train([TEXT], 290, pattern, SPECIAL)


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+", r"[\s\S]+"])
def test_saved_and_read_back_the_same(tmp_path, pattern):
    tokenizer = trained(pattern)
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    for name in ("tokens", "merges", "pattern", "special_tokens", "whole"):
        assert getattr(again, name) == getattr(tokenizer, name)
    assert again.to_json() == tokenizer.to_json()
    assert Tokenizer.from_pretrained(tmp_path / "tokenizer.json").tokens == tokenizer.tokens
    # vocab.json and merges.txt say nothing of the pattern, so they are there for GPT-2's alone
    assert (tmp_path / "merges.txt").exists() == (tmp_path / "vocab.json").exists() == (pattern == "gpt2")


def test_vocab_and_merges_are_read_back_the_same(tmp_path):
    tokenizer = trained()
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.to_json() == tokenizer.to_json()
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"merges\.txt: no such file"):
        Tokenizer.from_pretrained(tmp_path)


def test_whole_pre_tokens_survive(tmp_path):
    tokenizer = BPETokenizer.from_ranks({bytes([b]): b for b in range(256)} | {b"xyz": 256}, "gpt4")
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["ignore_merges"] is True
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.encode("xyz").tolist() == as_defined(again).encode("xyz").tolist() == [256]


def test_bytes_are_shown_in_gpt2s_characters():
    assert shown(b" a\n") == "ĠaĊ"
    assert unshown("ĠaĊ") == b" a\n"
    assert unshown("中") is None


def change(path, value):
    """Return a function that sets content[path[0]][path[1]]... to a value."""

    def apply(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return apply


def add_to_vocab(token, i):
    return lambda content: content["model"]["vocab"].update({token: i})


SPLIT = {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


NFC = {"type": "NFC"}
REFUSED = {
    "normalizer": (change(["normalizer"], NFC), "the normalizer NFC is not supported"),
    "lower case": (
        change(["normalizer"], {"type": "Sequence", "normalizers": [NFC, {"type": "Lowercase"}]}),
        "the normalizer Sequence",
    ),
    "BERT's template": (
        change(["post_processor"], {"type": "BertProcessing", "sep": ["x", 1], "cls": ["y", 2]}),
        "the post_processor BertProcessing is not supported",
    ),
    "a template that adds tokens": (
        change(["post_processor"], {"type": "TemplateProcessing", "special_tokens": {"a": {}}}),
        "the post_processor TemplateProcessing",
    ),
    "no decoder": (change(["decoder"], None), "the decoder None"),
    "another decoder": (change(["decoder"], {"type": "BPEDecoder"}), "the decoder BPEDecoder"),
    "dropout": (change(["model", "dropout"], 0.1), "dropout=0.1"),
    "prefix": (change(["model", "continuing_subword_prefix"], "##"), "continuing_subword_prefix='##'"),
    "suffix": (change(["model", "end_of_word_suffix"], "</w>"), "end_of_word_suffix='</w>'"),
    "byte fallback": (change(["model", "byte_fallback"], True), "byte_fallback=True"),
    "ignore_merges": (change(["model", "ignore_merges"], "yes"), "ignore_merges='yes'"),
    "prefix space": (change(["pre_tokenizer", "add_prefix_space"], True), "add_prefix_space"),
    "no pre_tokenizer": (change(["pre_tokenizer"], None), "the pre_tokenizer None is not supported"),
    "Whitespace": (change(["pre_tokenizer"], {"type": "Whitespace"}), "the pre_tokenizer Whitespace is not"),
    "Metaspace": (change(["pre_tokenizer"], sequence({"type": "Metaspace"})), "the pre_tokenizer Metaspace"),
    "Digits": (change(["pre_tokenizer"], sequence({"type": "Digits"}, BYTE_LEVEL)), "the pre_tokenizer Digits, Byte"),
    "two splits": (change(["pre_tokenizer"], sequence(SPLIT, SPLIT, BYTE_LEVEL)), "Split, Split, ByteLevel"),
    "two patterns": (change(["pre_tokenizer"], sequence(SPLIT, BYTE_LEVEL | {"use_regex": True})), "Split, ByteLevel"),
    "empty sequence": (change(["pre_tokenizer"], sequence()), "no list of steps"),
    "split by a string": (
        change(["pre_tokenizer"], sequence(SPLIT | {"pattern": {"String": " "}}, BYTE_LEVEL)),
        'the Split by {"String": " "}',
    ),
    "merged with next": (
        change(["pre_tokenizer"], sequence(SPLIT | {"behavior": "MergedWithNext"}, BYTE_LEVEL)),
        "behavior='MergedWithNext'",
    ),
    "a pattern that drops": (
        change(["pre_tokenizer"], sequence(SPLIT | {"behavior": "Removed", "invert": True}, BYTE_LEVEL)),
        "behavior='Removed', invert=True",
    ),
    "a pattern that is none": (
        change(["pre_tokenizer"], sequence(SPLIT | {"pattern": {"Regex": "("}}, BYTE_LEVEL)),
        "the pattern '('",
    ),
    "a token twice": (add_to_vocab("the", 0), "each id must be that of one token: 'the' has 0, like b'\\x00'"),
    "a negative id": (add_to_vocab("more", -1), "the token b'more' has the id -1"),
    "an absurd id": (add_to_vocab("more", 10**12), "the token b'more' has the id 1000000000000"),
    "an empty token": (add_to_vocab("", 290), "token 290 is empty"),
    "a number for a token": (add_to_vocab("more", True), "an object of tokens and their ids"),
    "a token of other characters": (add_to_vocab("中", 290), "the token '中' is not made of GPT-2's characters"),
    "no vocabulary": (change(["model", "vocab"], None), "an object of tokens"),
    "no merges": (change(["model", "merges"], None), "the merges must be a list"),
    "a merge of one": (change(["model", "merges", 3], "the"), "merge 3 is 'the', not a pair"),
    "a merge of three": (change(["model", "merges", 3], ["a", "b", "c"]), "merge 3 is ['a', 'b', 'c']"),
    "a merge of numbers": (change(["model", "merges", 3], [1, 2]), "merge 3 is [1, 2]"),
    "a merge of an unknown token": (change(["model", "merges", 3], "qq q"), "merge 3 joins 'qq' and 'q', but 'qq'"),
    "a merge to an unknown token": (change(["model", "merges", 3], "q q"), "merge 3 makes b'qq'"),
    "a merge twice": (lambda c: c["model"]["merges"].append(c["model"]["merges"][0]), "twice in the list"),
    "stripping": (change(["added_tokens", 0, "lstrip"], True), "'<|endoftext|>' has lstrip"),
    "single words": (change(["added_tokens", 1, "single_word"], True), "'<中>' has single_word"),
    "an added byte": (
        lambda c: c["added_tokens"].append({"id": 233, "content": "é", "special": False}),
        "the added token 'é' has the id of the byte or bytes b'\\xe9' of text",
    ),
    "an order of its own": (
        lambda c: c["added_tokens"].append({"id": 290, "content": "<中>文", "normalized": False, "special": False}),
        "the added tokens '<中>文' and '<中>' overlap",
    ),
    "another id": (change(["added_tokens", 1, "id"], 7), "'<中>' with id 7 does not fit"),
    "a name that is none": (change(["added_tokens", 1, "content"], ""), "the added token ''"),
    "added tokens that are none": (change(["added_tokens"], "x"), "added_tokens must be a list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_encoded_otherwise_is_refused(tmp_path, name):
    edit, message = REFUSED[name]
    content = trained().to_json()
    edit(content)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokenizer\.json: ") as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram", "WordLevel"])
def test_another_kind_is_refused_by_name(tmp_path, kind):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": kind, "vocab": {"a": 0}}}))
    with pytest.raises(ValueError, match=f'a tokenizer of the kind "{kind}", .* is not supported'):
        Tokenizer.from_pretrained(tmp_path)


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<中>": {"id": "<中>", "ids": [289], "tokens": ["<中>"]}},
}
ACCEPTED = {
    "merges as strings": lambda c: change(["model", "merges"], [" ".join(m) for m in c["model"]["merges"]])(c),
    "a post-processor that only moves offsets": change(["post_processor"], BYTE_LEVEL),
    "a template that adds no tokens": change(["post_processor"], {"type": "TemplateProcessing", "special_tokens": {}}),
    "a template of the text alone": change(["post_processor"], TEMPLATE),
    "post-processors that add no tokens": change(
        ["post_processor"], {"type": "Sequence", "processors": [BYTE_LEVEL, TEMPLATE]}
    ),
    "a list of no normalizers": change(["normalizer"], {"type": "Sequence", "normalizers": []}),
    "a list of one decoder": lambda c: change(["decoder"], {"type": "Sequence", "decoders": [c["decoder"]]})(c),
    "an old file, which does not say BPE": lambda c: c["model"].pop("type"),
    "the truncation of the last call": change(["truncation"], {"max_length": 3}),
    "the padding of the last call": change(["padding"], {"pad_id": 0}),
    "no mention of the regex": lambda c: c["pre_tokenizer"].pop("use_regex"),
    "no word on merges": lambda c: c["model"].pop("ignore_merges"),
    "an unknown token that never comes": change(["model", "unk_token"], "<|endoftext|>"),
    "special tokens outside the vocabulary": lambda c: [c["model"]["vocab"].pop(name) for name in SPECIAL],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_encoded_the_same_is_read(tmp_path, name):
    content = trained().to_json()
    ACCEPTED[name](content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert Tokenizer.from_pretrained(tmp_path).to_json() == trained().to_json()


@pytest.mark.parametrize("tokenizer", [trained(), ByteTokenizer(), CharTokenizer(["ab"])], ids=lambda t: t.kind)
def test_a_change_to_the_content_does_not_reach_the_next(tokenizer):
    content, untouched = tokenizer.to_json(), json.dumps(tokenizer.to_json())
    content["model"]["vocab"].clear()
    content["pre_tokenizer"].clear()
    content["decoder"].clear()
    assert json.dumps(tokenizer.to_json()) == untouched


@pytest.mark.parametrize("text", ALSO)
@pytest.mark.parametrize("how", [("Isolated", False), ("Removed", True)])
def test_the_patterns_of_others_are_known_as_the_same(tmp_path, text, how):
    split = SPLIT | {"pattern": {"Regex": text}, "behavior": how[0], "invert": how[1]}
    content = trained().to_json() | {"pre_tokenizer": sequence(split, BYTE_LEVEL)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert Tokenizer.from_pretrained(tmp_path).pattern == ALSO[text]


def rank_lines(tokens):
    return b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens))


def test_tokens_beyond_the_model_are_refused_by_name(tmp_path):
    tokenizer = trained()
    ours = tokenizer.below(280)
    assert ours.vocab_size == 280
    assert ours.special_tokens == {}
    assert [*ours.beyond] == [*range(280, 290)]
    assert ours.beyond[289] == "<中>"
    assert ours.encode("a<中>").tolist() == tokenizer.encode("a<中>").tolist()  # plain text
    assert ours.encode_batch(["", "a👍"])[1].tolist() == tokenizer.encode("a👍").tolist()
    with pytest.raises(ValueError, match=r"the text has '<中>', the token 289 .* only 280 tokens"):
        ours.encode_prompt("a<中>b", special=True)
    for text in ("a " + ours.beyond[i] for i in range(280, 288)):
        whole = tokenizer.encode(text).tolist()
        if max(whole) < 280:
            assert ours.encode(text).tolist() == whole
        else:
            with pytest.raises(ValueError, match=f"the token {next(i for i in whole if i >= 280)} of the tokenizer"):
                ours.encode(text)
    with pytest.raises(ValueError, match="id 280 is outside the vocabulary of 280"):
        ours.decode([280])
    with pytest.raises(ValueError, match="'<中>' cannot end a text"):
        ours.ending_with("<中>")
    assert ours.to_json() == tokenizer.to_json()
    assert tokenizer.below(290) is tokenizer
    assert tokenizer.ending_with("<中>").below(289).end_token == "<|endoftext|>"


def test_an_added_token_beyond_the_model_is_never_split(tmp_path):
    content = trained().to_json()
    content["added_tokens"].append({"id": 290, "content": "theme", "special": False, "normalized": True})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    ours = Tokenizer.from_pretrained(tmp_path).below(290)
    assert ours.added_tokens == {}
    with pytest.raises(ValueError, match="the text has 'theme', the token 290"):
        ours.encode("a theme")


def test_a_tokenizer_of_another_kind_must_fit_the_model():
    for tokenizer in (ByteTokenizer(), CharTokenizer(["abc"])):
        assert tokenizer.below(tokenizer.vocab_size) is tokenizer
        with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens, the model 2"):
            tokenizer.below(2)


def test_holes_are_the_ids_that_no_token_has():
    tokens = [*(bytes([b]) for b in range(256)), b"", b"ab", b"", b"abc"]
    tokenizer = BPETokenizer(tokens, [(97, 98)])
    assert tokenizer.holes == [256, 258]
    assert tokenizer.below(257).holes == [256]
    assert tokenizer.decode([256, 257]) == "ab"


def test_tiktokens_ranks(tmp_path):
    tokens = [*(bytes([b]) for b in range(256)), b"ab", b"abc", b" abc"]
    path = tmp_path / "x.tiktoken"
    path.write_bytes(rank_lines(tokens))
    tokenizer = BPETokenizer.from_tiktoken(path, "gpt2", ["<|endoftext|>"])
    assert tokenizer.encode("abc abc abd<|endoftext|>", "all").tolist() == [257, 258, 32, 256, 100, 259]
    assert BPETokenizer.from_tiktoken(path, "gpt2", {"<s>": 259}).special_tokens == {"<s>": 259}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"YQ== 0\nx\n", "line 2: expected a token in base64 and its rank"),
        (b"YQ== 0\nYg== x\n", "line 2"),
        (b"YQ== 0\n!! 1\n", "line 2"),
        (b"YQ== 0\nYQ== 1\n", "line 2"),
        (b"YQ== 0\nYg== 0\n", "a rank is that of two tokens"),
        (b"YQ== 0\nYg== 9999999\n", "the token b'b' has the id 9999999"),
        (b"", "the vocabulary has no token of text"),
        (b"YQ== 0 3\n", "line 1"),
        (b"\xff\xfe 1\n", "line 1"),
    ],
)
def test_broken_ranks_are_refused(tmp_path, data, message):
    path = tmp_path / "x.tiktoken"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.tiktoken: ") as caught:
        BPETokenizer.from_tiktoken(path, "gpt2")
    assert message in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        BPETokenizer.from_tiktoken(tmp_path / "nosuch", "gpt2")


@pytest.fixture(scope="module")
def gpt2() -> BPETokenizer:
    if not (SHARED / "gpt2").exists():
        pytest.skip(f"{SHARED / 'gpt2'} is not on this machine")
    return Tokenizer.from_pretrained(SHARED / "gpt2")


def test_gpt2s_own_files(gpt2, tmp_path):
    assert gpt2.vocab_size == 50257
    assert gpt2.special_tokens == {"<|endoftext|>": 50256}
    # as in OpenAI's and Hugging Face's documentation
    assert gpt2.encode("Hello world").tolist() == [15496, 995]
    assert gpt2.encode("hello <|endoftext|>", "all").tolist() == [31373, 220, 50256]
    ranks = {token: i for i, token in enumerate(gpt2.tokens[:50256])}
    path = tmp_path / "gpt2.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % i for token, i in ranks.items()))
    by_ranks = BPETokenizer.from_tiktoken(path, "gpt2", ["<|endoftext|>"])
    text = "Réunion of 人工智能 and 2,048 don'ts…\n" * 3
    assert by_ranks.encode(text).tolist() == gpt2.encode(text).tolist()
    gpt2.save_pretrained(tmp_path)
    assert (tmp_path / "merges.txt").read_bytes() == (SHARED / "gpt2" / "merges.txt").read_bytes()
    assert json.loads((tmp_path / "vocab.json").read_text()) == json.loads((SHARED / "gpt2/vocab.json").read_text())


def test_definition_and_twin_on_real_text(gpt2, shared_text):
    for name in ("tinyshakespeare.txt", "tang.txt"):
        text = shared_text(name)[:20000]
        assert gpt2.encode(text).tolist() == as_defined(gpt2).encode(text).tolist()
