"""What Python code meets: folders as strings, errors in its own words, and names that are where the pages say."""

import ast
import importlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt.data.batch import Text
from npgpt.inspection.losses import read_metrics
from npgpt.notebook.training import as_arguments
from npgpt.training.checkpoint import load_last, load_state
from npgpt.training.loop import Trainer
from tests.test_cli import command
from tests.test_cli_train import TINY, interrupt_after, saved
from tests.test_docs import PAGES, ROOT
from tests.test_python import SMALL


def train(out="r", **changes):
    return npgpt.train("a.txt", out, progress=False, **SMALL | changes)


def test_a_trainer_takes_the_name_of_a_folder(text):
    def trainer(folder):
        model = npgpt.GPT(npgpt.GPTConfig(vocab_size=5, n_positions=8, n_embd=8, n_layer=1, n_head=2))
        data = Text(np.arange(100) % 5, 8)
        return Trainer(
            model, data, data, npgpt.TrainConfig(max_steps=2, batch_size=2, eval_batches=1, threads=1), folder
        )

    for folder in "as/string", Path("as/path"):
        assert len(list(trainer(folder).run())) == 4
        assert trainer(folder).best()
    assert load_last("as/string").params.flat.tobytes() == load_last(Path("as/path")).params.flat.tobytes()
    assert load_state("as/string", load_last("as/string"))["step"] == 2
    assert len(read_metrics("as/string/metrics.jsonl")) == 4


class Named:
    """A path that is neither a string nor a Path."""

    def __init__(self, name):
        self.name = name

    def __fspath__(self):
        return self.name


@pytest.mark.parametrize("kind", [str, Path, Named, os.path.abspath], ids=["str", "Path", "PathLike", "absolute"])
@pytest.mark.parametrize("first", ["python", "command"])
def test_either_side_goes_on_with_a_run_of_the_other_to_the_same_bits(capsys, text, monkeypatch, kind, first):
    settings = {"trainable": ["h.*", "wpe.*"], "learning_rate": 3e-5, "optimizer": "muon", "dropout": 0.1}
    flags = ("--trainable", "h.*,wpe.*", "--learning-rate", 3e-5, "--optimizer", "muon", "--dropout", 0.1)
    train("whole", **settings)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        if first == "python":
            assert not npgpt.train(kind("a.txt"), kind("runs/学 1"), progress=False, **SMALL | settings).finished
        else:
            assert command(capsys, "train", "--data", "a.txt", "--out", "runs/学 1", *TINY, *flags)[0] == 130
    (text / "elsewhere").mkdir()
    folder = text / "runs" / "学 1"
    monkeypatch.chdir(text / "elsewhere")
    if first == "python":
        assert command(capsys, "train", "--resume", "--out", folder)[0] == 0
    else:
        assert npgpt.train(out=kind(os.path.relpath(folder)), resume=True, progress=False).finished
    assert saved(folder) == saved(text / "whole")


def test_errors_name_arguments_not_flags(capsys, text):
    train()
    cases = [
        ({"out": ""}, "^out is empty"),
        ({}, "continue it with resume=True, or choose another out$"),
        ({"out": "r", "resume": True, "preset": "small"}, "^preset small sets .* so leave preset out$"),
        ({"out": "r", "resume": True, "n_layer": 3}, "cannot become 3 with resume=True$"),
        ({"out": "r", "resume": True, "max_steps": 1}, "give a larger max_steps$"),
        ({"out": "s", "learning_rate": 1e-5, "min_lr": 1e-4}, "lower min_lr too$"),
        ({"out": "s", "tokenizer": "bpee:3"}, '^tokenizer="bpee:3": no such folder'),
        ({"out": "s", "data": "tales:fr"}, '^data="tales:fr"'),
        ({"out": "s", "data": "tales", "tokenizer": "chars"}, '^tokenizer="chars": tales need'),
        ({"out": "s", "n_positions": 10_000}, "n_positions=10000"),
        ({"out": "s", "learning_rate": 1e30, "warmup_steps": 0, "max_steps": 50}, "try a smaller learning_rate"),
    ]  # fmt: skip
    for given, match in cases:
        small = {} if given.get("resume") else SMALL
        with pytest.raises((ValueError, FloatingPointError), match=match) as error:
            npgpt.train(
                **{"data": None if given.get("resume") else "a.txt", "out": "r", "progress": False} | small | given
            )
        assert "--" not in str(error.value), given


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("leave --min-lr out", "leave min_lr out"),
        ("give it with --data, --out or --resume", "give it with data, out or resume=True"),
        ("--document-separator is none", "document_separator is none"),
        ("a--b.txt and x--data.txt: no such file", "a--b.txt and x--data.txt: no such file"),
        ("give another address with --url", "give another address with --url"),
        ("go on with npgpt finetune RUN --resume --out r", "go on with npgpt finetune RUN --resume --out r"),
        ("of npgpt prepare, which must be the only --data", "of npgpt prepare, which must be the only data"),
        ("give --encoding cp1252", 'give encoding="cp1252"'),
        ("or give --encoding utf-16 or leave it", 'or give encoding="utf-16" or leave it'),
        ("--tokenizer bpe:SIZE learns a vocabulary", 'tokenizer="bpe:SIZE" learns a vocabulary'),
        ("train with --tokenizer bpe:SIZE, as in", 'train with tokenizer="bpe:SIZE", as in'),
        ("--document-separator 犬: a tokenizer", 'document_separator="犬": a tokenizer'),
        ("--pack: the tokenizer; see --document-separator", "pack: the tokenizer; see document_separator"),
        ("leave --min-lr out: it", "leave min_lr out: it"),
        ("", ""),
    ],
)  # fmt: skip
def test_flags_become_arguments(message, words):
    assert as_arguments(message) == words


def test_an_error_of_the_system_keeps_its_file(text, monkeypatch):
    def fail(plan):
        raise PermissionError(13, "Permission denied", "--data")

    monkeypatch.setattr("npgpt.notebook.training.start_training", fail)
    with pytest.raises(PermissionError, match="'--data'") as error:
        train()
    assert error.value.filename == "--data"


BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


def imported(code):
    """Yield the modules and the names of npgpt that a block imports: (module, name or None)."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def test_what_the_pages_import_is_where_they_say():
    count = 0
    for page, block in BLOCKS:
        for module, name in imported(block):
            if module.split(".")[0] == "npgpt":
                found = importlib.import_module(module)
                assert name is None or hasattr(found, name), f"{page}: from {module} import {name}"
                count += 1
    assert count > 20


def resolves(dotted):
    """Say whether a name such as npgpt.models.lora.Adapters is a module or something in one."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ImportError:
            continue
        for part in parts[n:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_every_name_of_npgpt_on_the_pages_exists():
    count = 0
    for page in [*PAGES, *ROOT.glob("examples/*.py")]:
        text = page.read_text(encoding="utf-8")
        for dotted in re.findall(r"(?<![\w/.-])npgpt(?:\.[A-Za-z_]\w*)+", text):
            if dotted.endswith((".py", ".md")):
                continue
            assert resolves(dotted), f"{page.name}: {dotted}"
            count += 1
    assert count > 60
    assert not resolves("npgpt.no_such_name")
    assert not resolves("npgpt.models.lora.no_such_name")
