"""Every page of help ends with examples, and every example does what it says: each is parsed from the page and run."""

import contextlib
import hashlib
import io
import json
import shlex
import shutil
import sys

import pytest

from npgpt.cli import COMMANDS, main
from npgpt.data import download
from npgpt.data import source as sources
from npgpt.training import recipes

ACTIONS = {"data": ("list", "get"), "tokenizer": ("train", "encode", "decode", "show", "stats")}
PAGES = [(name,) for name in COMMANDS] + [(name, action) for name, actions in ACTIONS.items() for action in actions]

TEXTS = {
    "poems.txt": "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate.\n" * 12,
    "plays.txt": "To be, or not to be, that is the question.\n" * 20,
    "unseen.txt": "So long lives this, and this gives life to thee.\n" * 4,
    "唐诗.txt": "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n" * 20,
    "句.txt": "床前明月光\n举头望\n",
    "tasks.jsonl": "".join(json.dumps({"prompt": f"{i} + 1 = ", "completion": f"{i + 1}"}) + "\n" for i in range(9)),
    "问答.jsonl": '{"prompt": "问：谁？\\n答：", "completion": "我"}\n' * 9,
    "choices.jsonl": '{"prompt": "Shall I compare thee to a ", "choices": ["summer\'s day", "day"], "answer": 0}\n' * 2,
    "rmsnorm.py": "import numpy as np\n\nmake_args = lambda: np.array([[0.5, -1.0, 2.0]])\n"
    "forward = lambda x: (x**3, x)\nbackward = lambda dout, x: 3 * x**2 * dout\n",
}
SMALL = {"n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 64}
SHORT = ["--max-steps", "2", "--batch-size", "2", "--eval-batches", "1", "--threads", "1"]
# what makes an example quick: flags that override those before them
QUICKLY = {
    "train": [*SHORT, "--sample-tokens", "5"],
    "distill": [*SHORT, "--sample-tokens", "5"],
    "finetune": SHORT,
    "train-generator": SHORT,
    "profile": ["--steps", "1", "--batch-size", "2", "--threads", "1"],
    "demo": ["--base-steps", "1", "--tune-steps", "1", "--tests", "1", "--tasks", "translate"],
}
TALES = SMALL | {"tokenizer": "bpe:600", "n_positions": 1024, "batch_size": 2, "eval_batches": 1}


def examples(page):
    """Return the command lines that a page of help ends with."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*page, "--help"]) == 0
    _, heading, rest = out.getvalue().partition("\nexamples:\n")
    assert heading, f"npgpt {' '.join(page)} --help has no examples"
    return [line.strip() for line in rest.strip().splitlines()]


def run(line):
    """Run an example as a shell would, also one that ends with `> FILE`, and return what it prints."""
    program, *words = shlex.split(line)
    assert program == "npgpt"
    words, file = (words[:-2], words[-1]) if ">" in words else (words, None)
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out):
        assert main([*words, *QUICKLY.get(words[0], [])]) == 0, line
    out.flush()
    printed = out.buffer.getvalue()
    if file:
        assert not file.startswith("-")
        with open(file, "wb") as target:
            target.write(printed)
    return printed


def folder_to_write(line):
    """Return the folder of an example's --out, which must not be there when it is run."""
    words = shlex.split(line)
    return words[words.index("--out") + 1] if "--out" in words else "runs/demo" if "demo" in words else "none"


@contextlib.contextmanager
def small():
    """Small models, and few tales to learn a vocabulary from, to validate and to sample."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "TOKENIZER_TALES", 50)
        patch.setattr(sources, "VALIDATION_TALES", 3)
        patch.setattr("npgpt.data.tales.corpus.VALIDATION_TALES", 3)
        patch.setattr("npgpt.cli.tales_report.SAMPLES", 2)
        patch.setattr("npgpt.data.packing.GROUP", 20)
        patch.setattr("npgpt.data.examples.MOST_TO_VALIDATE", 5)
        for name in "TALES", "TALES_IN_TWO":
            patch.setattr(recipes, name, getattr(recipes, name) | TALES)
        patch.setitem(recipes.PRESETS, "tiny", SMALL)
        yield


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder with everything that the examples name, made by npgpt itself."""
    folder = tmp_path_factory.mktemp("examples")
    for name, text in TEXTS.items():
        (folder / name).write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch, small():
        patch.chdir(folder)
        for line in (
            "npgpt train --data poems.txt --tokenizer bpe:300 --out runs/poems",
            "npgpt train --data 唐诗.txt --out runs/tang",
            "npgpt train --out runs/tales",
            "npgpt finetune runs/poems --data tasks.jsonl --out runs/tasks",
            "npgpt tokenizer train poems.txt --vocab-size 300 --out tokenizers/poems",
            "npgpt prepare poems.txt --tokenizer runs/poems --out prepared/poems",
        ):
            run(line)
        shutil.copytree("runs/tales", "runs/demo/translate")
    return folder


@pytest.fixture
def here(pristine, tmp_path, monkeypatch):
    """A copy of that folder, a hub that has a model, and a download that is a file of this machine."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("npgpt.hub.folders._downloaded", lambda *_: tmp_path / "runs" / "poems")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, url = (tmp_path / "plays.txt").read_bytes(), (tmp_path / "plays.txt").as_uri()
    text = download.Text("plays", "English", len(data), hashlib.sha256(data).hexdigest(), url, "public domain")
    monkeypatch.setattr(download, "TEXTS", dict.fromkeys(download.TEXTS, text))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with small():
        yield tmp_path
    sys.modules.pop("rmsnorm", None)


# train's examples train some twenty models
SLOW = [pytest.param(page, marks=pytest.mark.big) if page == ("train",) else page for page in PAGES]


@pytest.mark.parametrize("page", SLOW, ids=" ".join)
def test_the_examples_of_a_page_run(here, page):
    found = examples(page)
    assert len(found) >= (1 if page == ("data", "list") else 2)
    assert len(set(found)) == len(found)
    for line in found:
        assert shlex.split(line)[: 1 + len(page)] == ["npgpt", *page]
        if page == ("plot",) or "--plot" in line:
            pytest.importorskip("matplotlib")
        if "--resume" not in line:  # which goes on with the run of the example before
            shutil.rmtree(folder_to_write(line), ignore_errors=True)
        assert run(line), line


def test_every_command_with_actions_is_known():
    for name in COMMANDS:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            main([name, "--help"])
        assert ("ACTION" in out.getvalue()) == (name in ACTIONS)
        for action in ACTIONS.get(name, ()):
            assert f"\n    {action} " in out.getvalue()
