"""Every place where a command reads something, given what a user might give it by mistake."""

import io
import itertools
import os
import sys

import pytest

from npgpt.cli import COMMANDS, main
from tests.conftest import mostly_big
from tests.mistakes.tools import TINY, refused

# Everything that reads a file of text, and everything that opens a run folder. {} is what is read.
TEXTS = {
    "train": f"train --data {{}} --out new {TINY}",
    "train with another text": f"train --data a.txt {{}} --out new {TINY}",
    "train by a file of settings": f"train --data a.txt --config {{}} --out new {TINY}",
    "distill": "distill r --data {} --out new --max-steps 1 --batch-size 1",
    "finetune": "finetune q --data {} --out new --max-steps 1 --batch-size 1",
    "train-generator": "train-generator q --data {} --out new --max-steps 1 --batch-size 1",
    "sample": "sample r --prompts {}",
    "ask": "ask f --data {}",
    "eval": "eval r --data {}",
    "score": "score r {}",
    "features": "features r {} --out v.npy",
    "similar": "similar r the --search {}",
    "tales": "tales --check {}",
    "prepare": "prepare {} --out new --tokenizer bytes",
    "tokenizer train": "tokenizer train {} --out new",
    "tokenizer stats": "tokenizer stats p {}",
}
RUNS = {
    "train": "train --resume --out {}",
    "finetune": "finetune {} --data tasks.jsonl --out new",
    "resumed finetune": "finetune q --resume --out {}",
    "train-generator": "train-generator {} --data tasks.jsonl --out new",
    "resumed train-generator": "train-generator q --resume --out {}",
    "train with its tokenizer": f"train --data a.txt --tokenizer {{}} --out new {TINY}",
    "train from": "train --from {} --data a.txt --max-steps 2 --threads 1 --out new",
    "distill": "distill {} --data a.txt --out new --max-steps 1",
    "resumed distill": "distill r --resume --out {}",
    "prepare with its tokenizer": "prepare a.txt --tokenizer {} --out new",
    "sample": "sample {}",
    "ask": "ask {} --prompt the",
    "eval": "eval {} --data a.txt",
    "score": "score {} a.txt",
    "features": "features {} a.txt --out v.npy",
    "similar": "similar {} the fox",
    "plot": "plot {}",
    "profile": "profile {} --steps 1",
    "info": "info {}",
    "export": "export {} --weights int8 --out new",
    "tokenizer encode": "tokenizer encode {} the",
    "tokenizer decode": "tokenizer decode {} 1",
    "tokenizer show": "tokenizer show {} the",
    "tokenizer stats": "tokenizer stats {} a.txt",
}
PLACES = TEXTS | {f"the run of {place}": line for place, line in RUNS.items()}
READ_NOTHING = {"data", "demo", "gradcheck"}  # gradcheck reads modules: see test_words.py

CHINESE = "白日依山盡，黃河入海流。欲窮千里目，更上一層樓。\n" * 9
FILES = {
    "empty": b"",
    "binary": bytes(range(256)) * 8,
    "ids": b"".join(i.to_bytes(2, "little") for i in range(100)) * 4,  # as nanoGPT's train.bin: valid UTF-8
    "utf-16": CHINESE.encode("utf-16-le"),
    "marked": CHINESE.encode("utf-16"),
    "big5": CHINESE.encode("big5"),
    "gbk": "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n".encode("gbk") * 9,
    "latin-1": "Où est le café ?\n".encode("latin-1") * 9,
    "zeros": b"the fox\0the dog\0" * 9,
    "png": b"\x89PNG\r\n\x1a\n" + bytes(range(100)),
}


@pytest.fixture
def there(here):
    """That folder, with the files of this page and a name that is a folder in it."""
    for name, content in FILES.items():
        (here / name).write_bytes(content)
    return here


def test_the_lists_name_every_command():
    named = {line.split()[0] for line in [*TEXTS.values(), *RUNS.values()]}
    assert named | READ_NOTHING == set(COMMANDS)


PAIRS = [(place, name) for place in TEXTS for name in ["nosuch", "folder", *FILES]]
PAIRS.remove(("train by a file of settings", "empty"))


def is_telling(pair):
    """Say whether a pair shows what others do not: each place with two files, and two places with each file."""
    place, name = pair
    return place in ("train", "ask") or name in ("nosuch", "gbk")


@pytest.mark.parametrize(("place", "name"), mostly_big(PAIRS, is_telling))
def test_a_file_that_is_no_text_is_refused_by_name(capsys, there, place, name):
    refused(capsys, there, TEXTS[place].format(name).split(), name)


NO_RUNS = [*itertools.product(RUNS, ["nosuch", "folder", "empty", "binary", "a.txt"])]


@pytest.mark.parametrize(
    ("place", "name"), mostly_big(NO_RUNS, lambda pair: pair[0] in ("sample", "finetune") or pair[1] == "a.txt")
)
def test_what_is_no_run_is_refused_by_name(capsys, there, place, name):
    refused(capsys, there, RUNS[place].format(name).split(), name)


@pytest.mark.parametrize("place", PLACES)
def test_an_empty_name_is_refused(capsys, there, place):
    line = PLACES[place]
    refused(capsys, there, [word.format("") for word in line.split()], "empty")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
@pytest.mark.parametrize("place", TEXTS)
def test_a_file_that_may_not_be_read_is_refused_by_name(capsys, there, place):
    (there / "secret").write_text("the fox\n" * 99)
    (there / "secret").chmod(0)
    try:
        line = TEXTS[place].format("secret").split()
        assert main(line) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "secret" in lines[0]
    finally:
        (there / "secret").chmod(0o600)


READ_INPUT = {
    "sample": "sample r --prompt -",
    "prompts": "sample r --prompts -",
    "ask": "ask f",
    "tales": "tales --check -",
    "tokenizer encode": "tokenizer encode r",
    "tokenizer decode": "tokenizer decode r",
    "train": f"train --data - --out new {TINY}",
    "prepare": "prepare - --out new --tokenizer bytes",
    "tokenizer train": "tokenizer train - --out new",
    "tokenizer stats": "tokenizer stats p -",
    "eval": "eval r --data -",
    "score": "score r -",
    "features": "features r - --out v.npy",
    "similar": "similar r the --search -",
    "distill": "distill r --data - --out new --max-steps 1 --batch-size 1",
    "finetune": "finetune q --data - --out new --max-steps 1 --batch-size 1",
    "train-generator": "train-generator q --data - --out new --max-steps 1 --batch-size 1",
}


INPUTS = [(place, name) for place in READ_INPUT for name in FILES]
for place in "sample", "prompts", "ask", "tales", "tokenizer encode", "tokenizer decode":
    INPUTS.remove((place, "empty"))  # no prompt, no tale, no ids and no text: see test_an_empty_standard_input


@pytest.mark.parametrize(("place", "name"), mostly_big(INPUTS, is_telling))
def test_standard_input_that_is_no_text_is_refused(capsys, there, monkeypatch, place, name):
    with (there / name).open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file, encoding="cp1252"))
        refused(capsys, there, READ_INPUT[place].split(), "standard input")


@pytest.mark.parametrize("place", READ_INPUT)
def test_a_closed_standard_input_is_refused(capsys, there, monkeypatch, place):
    monkeypatch.setattr(sys, "stdin", None)
    refused(capsys, there, READ_INPUT[place].split())


@pytest.mark.parametrize(
    ("place", "code", "says"),
    [
        ("sample", 2, "no prompt"),
        ("prompts", 2, "no prompt"),
        ("ask", 2, "no prompt"),
        ("tales", 1, "not a tale"),
        ("tokenizer encode", 0, "empty"),
        ("tokenizer decode", 0, ""),
    ],
)
def test_an_empty_standard_input(capsys, there, monkeypatch, place, code, says):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert main(READ_INPUT[place].split()) == code
    out, err = capsys.readouterr()
    assert says in out + err
