"""Tokenizers and models of different sizes: tokens beyond the embedding, rows without a token, holes."""

import json

import pytest

from npgpt import GPT, Generator, GPTConfig, Tokenizer
from npgpt.generation.opening import open_run
from npgpt.tokenizer import BPETokenizer, ByteTokenizer
from npgpt.training.run import open_tokenizer

TEXT = "the theme of these themes: 人工智能，人工。 don't, 12345\n\n" * 3
PAD = {"id": 290, "content": "[PAD]", "special": True, "normalized": False}


def model_of(size: int, **changes) -> GPT:
    sizes = {"n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return GPT(GPTConfig(vocab_size=size, **sizes, **changes), ops="reference")


@pytest.fixture
def folder(tmp_path):
    """A tokenizer of 290 tokens, and [PAD] with the id 290; without npgpt's tokenizer_config.json."""
    content = Tokenizer.train([TEXT], 290).to_json()
    content["added_tokens"].append(PAD)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    return tmp_path


def test_an_added_token_beyond_the_model_is_said_and_the_others_work(folder, caplog):
    model_of(290, eos_token_id=289).save_pretrained(folder)
    model, tokenizer = open_run(str(folder))
    [said] = caplog.messages
    assert "the model has no row for 1 token, which begins at id 290: '[PAD]'" in said
    assert tokenizer.vocab_size == 290
    assert tokenizer.end_id == 289
    assert tokenizer.encode_prompt("the[PAD]", special=False) == Tokenizer.from_pretrained(folder).encode_prompt(
        "the[PAD]"
    )
    with pytest.raises(ValueError, match=r"the text has '\[PAD\]', the token 290"):
        tokenizer.encode_prompt("the[PAD]", special=True)
    assert len(Generator(model, tokenizer).complete(["the 人工智能"], max_new_tokens=5)[0].ids) > 0


def test_a_cut_off_vocabulary_is_said(folder, caplog):
    model = model_of(280)
    tokenizer = open_tokenizer(folder, model)
    assert tokenizer.end_token is None
    assert "no row for 11 tokens, which begin at id 280: " in caplog.text


def test_a_padded_model_draws_only_what_has_a_token(folder, caplog):
    model = model_of(400)
    model.params["wte.weight"][291:] *= 100  # which the model would draw all the time
    tokenizer = open_tokenizer(folder, model)
    assert caplog.messages == []
    for temperature in (0.0, 1.0):
        found = Generator(model, tokenizer).complete(["the"], max_new_tokens=60, temperature=temperature, seed=1)[0]
        assert max(found.ids) < 291
        tokenizer.decode(found.ids)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_hole_is_never_drawn(temperature):
    tokens = [*(bytes([b]) for b in range(256)), *[b""] * 200, b"ab"]
    tokenizer = BPETokenizer(tokens, [(97, 98)])
    model = model_of(457)
    model.params["wte.weight"][256:456] *= 100
    text = Generator(model, tokenizer).complete(["ab"], max_new_tokens=60, temperature=temperature, seed=1)[0]
    assert not {*text.ids} & {*tokenizer.holes}


def test_bytes_of_a_smaller_model_do_not_belong_to_it(tmp_path):
    ByteTokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: the tokenizer has 256 tokens, the model 255"):
        open_tokenizer(tmp_path, model_of(255))
