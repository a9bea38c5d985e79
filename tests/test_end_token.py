"""The token that ends a text may have any name: train, finetune, sample and ask take it from the flag or the files."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import npgpt
from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.generation import engine
from npgpt.generation.answers import answer_tokens
from npgpt.generation.opening import open_run
from tests.test_cli import command

TEXT = "the theme of these themes, 人工智能，人工。\n" * 30
NAMES = ["<|endoftext|>", "</s>", "[SEP]", "<结束>"]
TINY = "--n-layer 1 --n-head 2 --n-embd 8 --n-positions 16 --batch-size 2 --eval-batches 1 --threads 1 --max-steps 2"
BPE = Tokenizer.train([TEXT], 270, special_tokens=NAMES)
IDS = BPE.special_tokens
LINES = "".join(json.dumps({"prompt": f"{i}", "completion": "the"}) + "\n" for i in range(4))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "tasks.jsonl").write_text(LINES)
    return tmp_path


def foreign(folder, tokenizer=BPE, generation=None, **config):
    """Write a model as others do: config.json, and perhaps generation_config.json, without npgpt's checksums."""
    model = GPT(GPTConfig(tokenizer.vocab_size, 32, 8, 1, 2), seed=1)
    folder.mkdir()
    save_file(dict(model.params), folder / "model.safetensors")
    sizes = {"vocab_size": tokenizer.vocab_size, "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "eos_token_id": None} | sizes | config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def asked(monkeypatch):
    """(the ids that the model reads, the tokens that end the text) of each text that is generated."""
    found = []
    real = engine.Request
    monkeypatch.setattr(
        engine,
        "Request",
        lambda ids, sampling, ends, *rest: found.append(([*ids], {*ends})) or real(ids, sampling, ends, *rest),
    )
    return found


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({"eos_token_id": IDS["</s>"]}, None, ["</s>"]),
        ({"eos_token_id": IDS["[SEP]"]}, {"eos_token_id": IDS["</s>"]}, ["</s>"]),  # as transformers decides
        ({"eos_token_id": [IDS["</s>"], IDS["<结束>"]]}, None, ["</s>", "<结束>"]),
        ({"eos_token_id": [IDS["</s>"]]}, {"bos_token_id": 3}, ["</s>"]),
        ({}, {"eos_token_id": [IDS["<结束>"], IDS["</s>"]]}, ["<结束>", "</s>"]),
        ({}, {"eos_token_id": None}, ["<|endoftext|>"]),
        ({"eos_token_id": 99999}, None, ["<|endoftext|>"]),  # GPT-2's, of a vocabulary that is not there
    ],
)
def test_the_ids_of_the_files_are_honoured_everywhere(capsys, here, asked, config, generation, ends):
    foreign(here / "m", generation=generation, **config)
    ids = {IDS[name] for name in ends}
    model, tokenizer = open_run("m")
    assert tokenizer.end_token == ends[0]
    for words in (["sample", "m"], ["ask", "m", "--prompt", "the"]):
        assert command(capsys, *words, "--max-new-tokens", 1)[0] == 0
    assert [read[0] for read, _ in asked] == [IDS[ends[0]]] * 2  # a new text begins after it, and so does a prompt
    assert all(ids <= found for _, found in asked)
    list(npgpt.generate(model, [65], 1))
    assert asked[-1][1] & {*IDS.values()} == (ids if ends != ["<|endoftext|>"] else set())
    code, _, err = command(capsys, "finetune", "m", "--data", "tasks.jsonl", "--out", "r", *TINY.split()[8:])
    assert code == 0, err
    tuned, tokenizer = open_run("r")
    assert tokenizer.end_token == ends[0]
    assert IDS[ends[0]] in np.atleast_1d(tuned.config.eos_token_id)


def test_generation_ends_at_any_of_several_tokens(here):
    """The model is made to draw the second of two end tokens."""
    second = IDS["<结束>"]
    foreign(here / "m", eos_token_id=[IDS["</s>"], second])
    model, tokenizer = open_run("m")
    logits = np.zeros((1, 1, BPE.vocab_size))
    logits[..., second] = 9
    model.forward, model.decoder, model.tap_names = lambda *args, **kwargs: logits, None, list
    assert list(npgpt.generate(model, [65], 5, temperature=0)) == [second]
    assert list(npgpt.generate(model, [65], 2, temperature=0, stop=IDS["</s>"])) == [second] * 2
    assert list(npgpt.generate(model, [65], 2, temperature=0, stop=[3, second])) == [second]
    assert list(answer_tokens(model, tokenizer, "a")) == []  # the end token is no part of the answer


@pytest.mark.parametrize("ids", [[], "x", [True], [1.5], [None]])
def test_ids_that_are_none_are_refused_by_file(capsys, here, ids):
    foreign(here / "m", generation={"eos_token_id": ids})
    code, _, err = command(capsys, "sample", "m")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "generation_config.json: eos_token_id=" in err


def test_a_list_is_saved_and_opened_again(tmp_path):
    config = GPTConfig(BPE.vocab_size, 32, 8, 1, 2, eos_token_id=[3, 5])
    assert config.eos_token_id == (3, 5)
    GPT(config).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == [3, 5]
    assert GPT.from_pretrained(tmp_path).config == config
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 3, 7]}')
    assert GPT.from_pretrained(tmp_path).config.eos_token_id == (5, 3, 7)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3]}')
    with pytest.raises(ValueError, match=r"generation_config\.json: eos_token_id is \[3\]"):
        GPT.from_pretrained(tmp_path)


def test_the_flag_beats_the_files(capsys, here, asked):
    foreign(here / "m", eos_token_id=IDS["[SEP]"])
    for words in (["sample", "m"], ["ask", "m", "--prompt", "the"]):
        assert command(capsys, *words, "--max-new-tokens", 1, "--end-token", "</s>")[0] == 0
    assert [read[0] for read, _ in asked] == [IDS["</s>"]] * 2
    tune = ["finetune", "m", "--data", "tasks.jsonl", "--out", "r", *TINY.split()[8:]]
    assert command(capsys, *tune, "--end-token", "<结束>")[0] == 0
    model, tokenizer = open_run("r")
    assert (tokenizer.end_token, model.config.eos_token_id) == ("<结束>", IDS["<结束>"])
    code, _, err = command(capsys, "finetune", "m", "--resume", "--out", "r", "--end-token", "</s>")
    assert code == 2
    assert "--end-token cannot change" in err or "tokenizer" in err
    assert command(capsys, "finetune", "m", "--resume", "--out", "r", "--max-steps", 3)[0] == 0


@pytest.mark.parametrize("words", ["sample m", "ask m --prompt a", "finetune m --data tasks.jsonl --out r"])
def test_an_unknown_end_token_is_refused_with_those_that_there_are(capsys, here, words):
    foreign(here / "m")
    code, _, err = command(capsys, *words.split(), "--end-token", "<eos>")
    assert code == 2
    assert err.splitlines()[-1].endswith("the vocabulary has <|endoftext|>, </s>, [SEP], <结束>")
    assert not (here / "r").exists()


def test_a_model_without_any_end_says_how_to_name_it(capsys, here):
    foreign(here / "m", Tokenizer.train([TEXT], 262, special_tokens=["<a>", "<b>"]))
    code, _, err = command(capsys, "ask", "m", "--prompt", "a")
    assert code == 2
    assert "name one of <a>, <b> with --end-token" in err


# --- where a vocabulary is learned


def test_train_learns_an_end_token_of_any_name(capsys, here, asked):
    (here / "b.txt").write_text("the theme</s>" * 60)
    flags = ["--tokenizer", "bpe:262", "--end-token", "</s>", "--sample-tokens", "2", *TINY.split()]
    code, _, err = command(capsys, "train", "--data", "b.txt", "--out", "r", *flags)
    assert code == 0, err
    model, tokenizer = open_run("r")
    assert tokenizer.special_tokens == {"</s>": tokenizer.end_id}
    assert model.config.eos_token_id == tokenizer.end_id
    assert command(capsys, "sample", "r", "--max-new-tokens", 1)[0] == 0
    assert [read for read, _ in asked] == [[tokenizer.end_id]] * 2  # documents were learned: a new one begins
    code, _, err = command(capsys, "train", "--resume", "--out", "r", "--max-steps", "3", "--end-token", "<x>")
    assert code == 2
    assert "end_token is '</s>'" in err
    assert command(capsys, "train", "--resume", "--out", "r", "--max-steps", "3")[0] == 0


def test_a_run_on_running_text_does_not_begin_with_a_token_that_it_never_saw(capsys, here, asked):
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", "--tokenizer", "bpe:262", *TINY.split())[0] == 0
    assert command(capsys, "sample", "r", "--max-new-tokens", 1)[0] == 0
    assert [read for read, _ in asked] == [[ord("\n")]] * 2


def test_prepare_and_tokenizer_train_take_the_flag(capsys, here):
    (here / "b.txt").write_text("the theme</s>" * 60)
    assert command(capsys, "prepare", "b.txt", "--out", "p", "--tokenizer", "bpe:262", "--end-token", "</s>")[0] == 0
    assert Tokenizer.from_pretrained("p").end_token == "</s>"
    assert command(capsys, "train", "--data", "p", "--out", "r", *TINY.split())[0] == 0
    assert open_run("r")[1].end_token == "</s>"
    words = ["tokenizer", "train", "b.txt", "--vocab-size", "262", "--out"]
    for out, flags, names, end in (
        ("t1", ["--end-token", "[SEP]"], ["[SEP]"], "[SEP]"),
        ("t2", ["--end-token", "[SEP]", "--special", "<a>"], ["<a>", "[SEP]"], "[SEP]"),
        ("t3", ["--end-token", "<a>", "--special", "<a>", "<b>"], ["<a>", "<b>"], "<a>"),
        ("t4", ["--special", "<a>"], ["<a>"], None),
        ("t5", [], ["<|endoftext|>"], "<|endoftext|>"),
    ):
        assert command(capsys, *words, out, *flags)[0] == 0
        tokenizer = Tokenizer.from_pretrained(out)
        assert ([*tokenizer.special_tokens], tokenizer.end_token) == (names, end)
    code, _, err = command(capsys, "train", "--data", "a.txt", "--tokenizer", "t4", "--end-token", "<b>", "--out", "x")
    assert code == 2
    assert "--end-token: '<b>' is no special token, which could end a text: the vocabulary has <a>" in err
    code, _, err = command(
        capsys, "train", "--data", "a.txt", "--end-token", "<b>", "--out", "x", "--tokenizer", "chars"
    )
    assert code == 2
    assert "a chars tokenizer has none; --tokenizer bpe:SIZE learns" in err


def test_npgpt_train_takes_the_end_token(here):
    training = npgpt.train("a.txt", "r", progress=False, tokenizer="bpe:262", end_token="<eos>", max_steps=1, n_layer=1)
    assert training.tokenizer.end_token == "<eos>"
    assert training.model.config.eos_token_id == training.tokenizer.end_id
