"""An error names the near thing: what a file of another format or library seems to be, and what to do with it."""

import base64
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.data.dialects import DIALECTS
from npgpt.data.examples import read_examples
from tests.test_cli import command

TEXT = "the theme of these themes, 人工智能 👍🏽\n" * 20
SIZES = {"n-layer": 1, "n-head": 2, "n-embd": 8, "n-positions": 16, "batch-size": 2, "eval-batches": 1, "threads": 1}
TINY = [word for name, value in SIZES.items() for word in (f"--{name}", value)]
TUNE = ["--max-steps", "2", "--batch-size", "2", "--threads", "1"]
TURN = [{"role": "user", "content": "嗨"}, {"role": "assistant", "content": "Hi"}]
SHAREGPT = [{"from": "human", "value": "嗨"}, {"from": "gpt", "value": "Hi"}]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    model = GPT(GPTConfig(270, 32, 8, 1, 2, eos_token_id=269), seed=1)
    model.save_pretrained(tmp_path / "m")
    Tokenizer.train([TEXT], 270).save_pretrained(tmp_path / "m")
    return tmp_path


def refused(capsys, line, *words):
    """Run a command that must be refused in one line with these words."""
    code, _, err = command(capsys, *line.split(), *words[1:])
    assert (code, len(err.splitlines())) == (2, 1), err
    assert words[0] in err, err
    return err


# --- lines for fine-tuning


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"messages": TURN}, "chat messages, but lines.jsonl:1 has prompts and completions: give lines of one kind"),
        ({"conversations": SHAREGPT, "id": 3}, "conversations of ShareGPT, but lines.jsonl:1 has prompts"),
        ({"instruction": "a", "input": "", "output": "b"}, "instructions of Alpaca, but lines.jsonl:1"),
        ({"instruction": "a", "output": "中"}, "instructions of Alpaca"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "'completion' is missing; it seems to be a preference"),
        ({"question": "a", "answer": "b"}, "questions and answers, but lines.jsonl:1 has"),
        ({"prompt": "a", "response": "b"}, "prompts and responses, but lines.jsonl:1 has"),
        ({"text": "a"}, "running text without a prompt"),
        ({"completion": "a"}, "'prompt' is missing, and so are messages, conversations"),
        ({"prompt": "a"}, "'completion' is missing\n"),
    ],
)
def test_lines_of_others_are_recognised(capsys, here, line, words):
    (here / "lines.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n" + json.dumps(line) + "\n")
    err = refused(capsys, "finetune m --data lines.jsonl --out r", words, *TUNE)
    assert "lines.jsonl:2: " in err
    assert not (here / "r").exists()


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_in_json_is_read(here, indent):
    lines = [{"prompt": "a", "completion": "中"}] * 3
    (here / "lines.json").write_text(json.dumps(lines, indent=indent))
    found = read_examples([here / "lines.json"])
    assert [(one.prompt, one.completion) for one in found] == [("a", "中")] * 3
    assert found[1].where.endswith("lines.json: entry 2")


def test_the_fields_of_an_example_are_known_by_no_dialect(tmp_path):
    for keys, _, _ in DIALECTS:
        assert {*keys} != {"prompt", "completion"}
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b", "messages": [], "text": "c"}\n')
    assert read_examples([tmp_path / "a.jsonl"])[0].completion == "b"


# --- vocabularies


RANKS = b"".join(base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256))
VOCABULARIES = {
    "vocab.txt": (b"[PAD]\n[UNK]\n[CLS]\nthe\n##es\n##s\n", "a vocabulary of WordPiece, as BERT has it"),
    "tokenizer.model": (b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n\n\n\x03<s>", "a model of SentencePiece"),
    "spiece.model": (b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02", "a model of SentencePiece"),
    "cl100k_base.tiktoken": (RANKS, "a file of tiktoken's ranks: npgpt.tokenizer.BPETokenizer.from_tiktoken reads it"),
    "vocab.bpe": (b"#version: 0.2\nt h\n", "OpenAI's name of GPT-2's merges.txt"),
    "encoder.json": (b'{"t": 0}', "OpenAI's name of GPT-2's vocab.json"),
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_vocabulary_of_another_kind_is_named(capsys, here, name):
    data, words = VOCABULARIES[name]
    (here / "v").mkdir()
    (here / "v" / name).write_bytes(data)
    for line in f"tokenizer encode v/{name} a", "tokenizer encode v a", "train --data a.txt --out r --tokenizer v":
        assert name in refused(capsys, line, words)
    assert not (here / "r").exists()


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_one_file_of_several_says_to_give_the_folder(capsys, here, name):
    refused(capsys, f"tokenizer encode m/{name} a", "give the folder that it is in")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("WordPiece", "as BERT has it, is not"), ("Unigram", "SentencePiece"), ("WordLevel", "whole words")],
)
def test_a_tokenizer_json_of_another_kind_says_whose_it_is(capsys, here, kind, words):
    (here / "tokenizer.json").write_text(json.dumps({"model": {"type": kind, "vocab": {"a": 0, "bc": 1}}}))
    refused(capsys, "tokenizer encode tokenizer.json a", words)


def test_a_file_that_is_nothing_known_is_no_json(capsys, here):
    refused(capsys, "tokenizer encode a.txt a", "a.txt: not valid JSON")
    (here / "empty").mkdir()
    refused(capsys, "tokenizer encode empty a", "no such file; a run folder holds a tokenizer.json")


# --- tensors


def save(folder, **changes):
    """Write a model as others do, its tensors changed by name -> (name, array) or None."""
    tensors = dict(GPT.from_pretrained(folder).params)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file(
        {k: np.ascontiguousarray(v) for k, v in changes["tensors"](tensors).items()}, folder / "model.safetensors"
    )


def transposed(tensors):
    matrices = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    return {f"transformer.{k}": v.T if k.endswith(matrices) else v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (lambda t: {f"base_model.model.transformer.{k}": v for k, v in t.items()}, "merge the adapters first"),
        (lambda t: {f"gpt.{k}": v for k, v in t.items()}, "begin with gpt.; save them without it"),
        (lambda t: {"model.layers.0.self_attn.q_proj.weight": t["wpe.weight"]}, "is that of a Llama, Qwen, Mistral"),
        (
            lambda t: {"h.0.attn.attention.k_proj.weight": t["wpe.weight"]},
            "is that of a GPT-Neo, and npgpt opens GPT-2",
        ),
    ],
)
def test_tensors_of_others_are_recognised(capsys, here, tensors, words):
    save(here / "m", tensors=tensors)
    for line in "sample m", "finetune m --data a.txt --out r", "info m":
        if "finetune" in line:
            (here / "a.txt").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
        assert "model.safetensors: " in refused(capsys, line, words)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.transformer.", "module._orig_mod.transformer."])
def test_prefixes_and_transposed_matrices_of_others_are_read(here, caplog, prefix):
    before = dict(GPT.from_pretrained(here / "m").params)
    for change in lambda t: t, transposed:
        save(here / "m", tensors=lambda t, change=change: {f"{prefix}{k}": v for k, v in change(t).items()})
        after = GPT.from_pretrained(here / "m").params
        assert all(np.array_equal(after[name], before[name]) for name in before)
    assert "transposed 4 matrices, which are stored (out, in) as by nanoGPT" in caplog.text


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("ckpt.pt", "ckpt.pt is a pickle, which npgpt never opens (it seems to be one of nanoGPT)"),
        ("pytorch_model.bin", "(it seems to be one of transformers)"),
    ],
)
def test_a_folder_with_a_pickle_alone_says_so(capsys, here, file, words):
    (here / "p").mkdir()
    (here / "p" / file).write_bytes(b"PK")
    assert "config.json" in refused(capsys, "sample p", words)
    (here / "p" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    refused(capsys, "sample p", words)


# --- --resume with other data


def test_resume_with_another_text_says_how_to_train_on(capsys, here):
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", "--max-steps", "1", *TINY)[0] == 0
    (here / "b.txt").write_text(TEXT[::-1], encoding="utf-8")
    words = "npgpt train --from r --data FILE --out NEW; or teach this model examples: npgpt finetune r --data LINES"
    refused(capsys, "train --resume --out r --data b.txt", words)
    assert command(capsys, *["train", "--from", "r", "--data", "b.txt", "--out", "new", "--max-steps", "1"])[0] == 0


def test_resume_with_other_examples_says_how_to_go_on(capsys, here):
    for name, answer in ("a.jsonl", "b"), ("b.jsonl", "c"):
        (here / name).write_text((json.dumps({"prompt": "a", "completion": answer}) + "\n") * 4)
    assert command(capsys, *["finetune", "m", "--data", "a.jsonl", "--out", "r"], *TUNE)[0] == 0
    words = "start a new run, as npgpt finetune r --data LINES --out NEW, which begins with this model"
    refused(capsys, "finetune m --data b.jsonl --resume --out r", words)
    assert command(capsys, *["finetune", "r", "--data", "b.jsonl", "--out", "new"], *TUNE)[0] == 0
