"""A folder as a user might have it."""

import shutil
import sys

import pytest

from npgpt.cli import main
from tests.mistakes.tools import CONFIGS, FINETUNE, MODULES, TEXT, TINY


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder as a user might have it: texts, settings, modules, runs r and q, a fine-tuned f, and a prepared p."""
    folder = tmp_path_factory.mktemp("pristine")
    files = {
        "a.txt": TEXT,
        "b.txt": TEXT.upper(),
        "empty.txt": b"",
        "bom.txt": b"\xef\xbb\xbf",
        "short.txt": "abcdefgh",
        "one.txt": "t",
        "latin.txt": b"caf\xe9 au lait " * 20,
        "half.txt": "中".encode()[:2],
        "unknown.txt": "the 中 fox",
        "tasks.jsonl": '{"prompt": "a", "completion": "b"}\n' * 9,
        **CONFIGS,
    }
    for name, code in MODULES.items():
        files[f"{name}.py"] = (
            "import numpy as np\nforward = lambda x: (x**2, x)\nbackward = lambda dout, x: 2 * x * dout\n" + code
        )
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "folder").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data", "a.txt", "--out", "r", "--sample-tokens", "0", *TINY.split()]) == 0
        assert main(["prepare", "a.txt", "--out", "p", "--tokenizer", "bpe:270"]) == 0
        assert main(["train", "--data", "p", "--out", "q", "--sample-tokens", "0", *TINY.split()]) == 0
        assert main(["finetune", "q", "--data", "tasks.jsonl", "--out", "f", *FINETUNE.split()]) == 0
    return folder


@pytest.fixture
def here(pristine, tmp_path, monkeypatch):
    """A copy of that folder as the current one; nothing asks the hub, and no module stays imported."""
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)
