"""Tokenizer folders of odd forms, as AutoTokenizer reads them: the same ids, or refused by npgpt by name."""

import copy
import json

import pytest

from npgpt import Tokenizer

WHY = "{} is not installed; the parity tests need npgpt[parity]"
tokenizers = pytest.importorskip("tokenizers", reason=WHY.format("tokenizers"))
transformers = pytest.importorskip("transformers", reason=WHY.format("transformers"))

TEXT = "the theme of these themes: 人工智能，人工。 don't, 12345\n\n" * 3
PROBE = "the theme 人工智能 12 don't é👍🏽\r\n<|endoftext|>[PAD] x[MASK]<|endoftext|>"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
ONLY_TEXT = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}
BEGIN = {
    **ONLY_TEXT,
    "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, *ONLY_TEXT["single"]],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [289], "tokens": ["<|endoftext|>"]}},
}
END = {"content": "<|endoftext|>", "lstrip": False, "rstrip": False, "normalized": True, "single_word": False}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_by(pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL | {"use_regex": False}]}


def model(**changes):
    return lambda c: {"model": {key: value for key, value in (c["model"] | changes).items() if value is not ...}}


# what changes in a tokenizer.json; and what tokenizer_config.json says, if it is there
READ = {
    "an old model": (model(type=...), None),
    "a model without settings": (
        lambda c: {"model": {key: c["model"][key] for key in ("type", "vocab", "merges")}},
        None,
    ),
    "merges as strings": (lambda c: model(merges=[" ".join(pair) for pair in c["model"]["merges"]])(c), None),
    "whole words": (model(ignore_merges=True), None),
    "no dropout": (model(dropout=0.0), None),
    "an unknown token": (model(unk_token="<|endoftext|>", fuse_unk=True), None),
    "a list of one pre-tokenizer": (
        lambda c: {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL]}},
        None,
    ),
    "a list of one decoder": (lambda c: {"decoder": {"type": "Sequence", "decoders": [c["decoder"]]}}, None),
    "a list of no normalizers": (lambda c: {"normalizer": {"type": "Sequence", "normalizers": []}}, None),
    "offsets": (lambda c: {"post_processor": BYTE_LEVEL | {"trim_offsets": False}}, None),
    "a template of the text": (lambda c: {"post_processor": ONLY_TEXT}, None),
    "a template that uses no token": (
        lambda c: {"post_processor": ONLY_TEXT | {"special_tokens": BEGIN["special_tokens"]}},
        None,
    ),
    "a list of post-processors": (
        lambda c: {"post_processor": {"type": "Sequence", "processors": [BYTE_LEVEL, ONLY_TEXT]}},
        None,
    ),
    "Llama 3's pattern": (lambda c: {"pre_tokenizer": split_by(LLAMA3)}, None),
    "truncation": (
        lambda c: {
            "truncation": {"direction": "Right", "max_length": 99, "strategy": "LongestFirst", "stride": 0},
            "padding": None,
        },
        None,
    ),
    "an end token as an object": (
        lambda c: {},
        {"tokenizer_class": "GPT2Tokenizer", "eos_token": {"__type": "AddedToken", **END}, "chat_template": "{{ x }}"},
    ),
    "a token of a role without an id": (lambda c: {}, {"pad_token": "[PAD]"}),
    "two tokens of roles without ids": (lambda c: {}, {"mask_token": "[MASK]", "pad_token": "[PAD]"}),
    "tokens of roles without ids, in a list": (
        lambda c: {},
        {"extra_special_tokens": ["[MASK]", "[PAD]"], "eos_token": "<|endoftext|>"},
    ),
}
REFUSED = {
    "a normalizer": (lambda c: {"normalizer": {"type": "NFC"}}, "the normalizer NFC is not supported"),
    "a prefix of a space": (
        lambda c: {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}},
        "add_prefix_space of the pre_tokenizer is not supported",
    ),
    "digits": (
        lambda c: {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
            }
        },
        "the pre_tokenizer Digits, ByteLevel is not supported",
    ),
    "a first token": (lambda c: {"post_processor": BEGIN}, "the post_processor TemplateProcessing is not supported"),
    "a first token, in a list": (
        lambda c: {"post_processor": {"type": "Sequence", "processors": [BYTE_LEVEL, BEGIN]}},
        "the post_processor TemplateProcessing is not supported",
    ),
    "dropout": (model(dropout=0.1), "the model's dropout=0.1 is not supported"),
    "bytes by name": (model(byte_fallback=True), "the model's byte_fallback=True is not supported"),
    "prefixes": (model(continuing_subword_prefix="##"), "continuing_subword_prefix='##'"),
}


@pytest.fixture(scope="module")
def plain():
    return Tokenizer.train([TEXT], 290).to_json()


def written(folder, plain, edit, config):
    content = copy.deepcopy(plain)
    (folder / "tokenizer.json").write_text(json.dumps(content | edit(content)))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | (config or {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", READ)
def test_an_odd_form_gives_the_ids_of_transformers(tmp_path, plain, name):
    folder = written(tmp_path, plain, *READ[name])
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), Tokenizer.from_pretrained(folder)
    for text in (PROBE, "", TEXT, "a\u0301\u0308 ﷺ  \t\n 1234567 DON'T"):
        assert ours.encode(text, "all").tolist() == theirs(text)["input_ids"], text
    assert ours.decode(theirs(PROBE)["input_ids"]) == PROBE
    assert ours.vocab_size == len(theirs)
    if theirs.eos_token:
        assert ours.end_id == theirs.eos_token_id


@pytest.mark.parametrize("name", REFUSED)
def test_what_gives_other_ids_is_refused_by_name(tmp_path, plain, name):
    edit, words = REFUSED[name]
    folder = written(tmp_path, plain, edit, None)
    with pytest.raises(ValueError, match=r"tokenizer\.json: ") as caught:
        Tokenizer.from_pretrained(folder)
    assert words in str(caught.value)


@pytest.mark.parametrize("beyond", [0, 1, 20])
def test_below_a_models_size_the_ids_are_those_of_transformers(tmp_path, plain, beyond):
    theirs = transformers.AutoTokenizer.from_pretrained(written(tmp_path, plain, lambda c: {}, {"pad_token": "[PAD]"}))
    size = len(theirs) - beyond
    ours = Tokenizer.from_pretrained(tmp_path).below(size)
    refused = 0
    for text in [*TEXT.split(), PROBE, "the[PAD]"]:
        ids = theirs(text)["input_ids"]
        if max(ids) < size:
            assert ours.encode(text, "all").tolist() == ids
        else:
            refused += 1
            with pytest.raises(ValueError, match=f"the token {next(i for i in ids if i >= size)} of the tokenizer"):
                ours.encode(text, "all")
    assert bool(refused) == bool(beyond)


def test_merges_of_tokens_that_are_not_there_are_refused_by_both(tmp_path):
    tokenizer = Tokenizer.train([TEXT], 290)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for token, i in vocab.items() if i < 280}))
    with pytest.raises(ValueError, match=r"merges\.txt: merge \d+ (makes|joins) .* not in the vocabulary"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(Exception, match="out of vocabulary"):
        tokenizers.models.BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
