"""Folders whose tokenizer npgpt cannot use: the error says what it is, and the model opens all the same."""

import json

import pytest

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.cli import main

BERT = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n\xe4\xb8\xad\n##\xe6\x96\x87\n"
PIECES = b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n\n\n\x03<s>"
FOREIGN = {
    "vocab.txt": ({"vocab.txt": BERT}, "vocab.txt is a vocabulary of WordPiece, as BERT has it"),
    "the class alone": (
        {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}},
        "tokenizer_config.json says BertTokenizer, whose vocabulary is WordPiece, as BERT has it",
    ),
    "the class of a fast one": (
        {"tokenizer_config.json": {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}},
        "BertTokenizerFast, whose vocabulary is WordPiece",
    ),
    "tokenizer.model": ({"tokenizer.model": PIECES}, "tokenizer.model is a model of SentencePiece"),
    "spiece.model": ({"spiece.model": PIECES}, "spiece.model is a model of SentencePiece"),
    "a class of SentencePiece": (
        {"tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"}},
        "T5Tokenizer, whose vocabulary is Unigram",
    ),
    "WordPiece": (
        {"tokenizer.json": {"model": {"type": "WordPiece", "vocab": {}}}},
        'of the kind "WordPiece", as BERT',
    ),
    "Unigram": ({"tokenizer.json": {"model": {"type": "Unigram", "vocab": []}}}, 'of the kind "Unigram", as Sentence'),
    "WordLevel": ({"tokenizer.json": {"model": {"type": "WordLevel", "vocab": {}}}}, 'of the kind "WordLevel"'),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_error_says_what_it_is_and_the_model_opens(tmp_path, capsys, name):
    files, words = FOREIGN[name]
    GPT(GPTConfig(vocab_size=6, n_positions=4, n_embd=4, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    for file, content in files.items():
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert words in str(caught.value)
    assert "npgpt.GPT.from_pretrained opens the model without it" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert GPT.from_pretrained(tmp_path).config.vocab_size == 6
    assert main(["info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\ntokenizer: none that npgpt can use: " in out
    assert words in out
    assert main(["sample", str(tmp_path), "--prompt", "中"]) == 2
    assert words in capsys.readouterr().err


def test_a_class_named_by_config_json_alone_is_understood(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "tokenizer_class": "BertTokenizer"}))
    with pytest.raises(FileNotFoundError, match=r"config\.json says BertTokenizer, whose vocabulary is WordPiece"):
        Tokenizer.from_pretrained(tmp_path)


def test_info_says_what_the_tokenizer_is(tmp_path, capsys):
    GPT(GPTConfig(vocab_size=265, n_positions=4, n_embd=4, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    tokenizer = Tokenizer.train(["the theme of these themes " * 3], 264)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    more = {"pad_token": "[PAD]", "mask_token": "[MASK]", "chat_template": "{{ x }}", "extra_special_tokens": {}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | more))
    assert main(["info", str(tmp_path)]) == 0
    n = tokenizer.vocab_size
    assert f"\ntokenizer: byte-level BPE, {n + 1} tokens, a text ends with <|endoftext|>; " in capsys.readouterr().out
