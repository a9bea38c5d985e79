"""docs/python.md: its blocks do what they show, and its table of taps is that of the model."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt.models.gpt2_inside import tap_names
from npgpt.models.taps import Taps

PAGE = (Path(npgpt.__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
# code, whether the machine may round its output in another way ("text"), and its output
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n```(text)?\n(.*?)```)?", PAGE, re.DOTALL)
PICTURE = 'training.plot().savefig("loss.png")\n'


def words(text, number=float):
    """Return the words of a text, and its decimal fractions as numbers."""
    return [number(word) if re.fullmatch(r"\d+\.\d+", word) else word for word in text.split()]


def nearly(word):
    """A loss that another machine rounds in another way, after many steps."""
    return pytest.approx(float(word), rel=0.15, abs=0.03)


def test_the_page_does_what_it_shows(tmp_path, monkeypatch):
    """The blocks run one after another, as the cells of a notebook do."""
    drawn = importlib.util.find_spec("matplotlib") is not None  # without it all but the picture is run
    monkeypatch.chdir(tmp_path)
    cells: dict = {"__name__": "page"}
    compared = 0
    for number, (code, rounded, shown) in enumerate(BLOCKS, 1):
        printed = io.StringIO()
        if not drawn:
            code = code.replace(PICTURE, "")
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"docs/python.md, block {number}", "exec"), cells)
        if rounded:
            assert words(printed.getvalue()) == words(shown, nearly), f"block {number}"
        else:
            assert printed.getvalue() == shown, f"block {number}"
        compared += bool(shown)
    assert compared == len(BLOCKS) == PAGE.count("```python\n") == 15
    assert PAGE.count(PICTURE) == 1
    if drawn:
        assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_run_on_the_page_is_ten_lines():
    assert len(BLOCKS[0][0].strip().splitlines()) <= 10


def test_the_page_lists_every_tap_with_its_shape():
    sizes = {"B": 2, "T": 5, "C": 12, "H": 3, "D": 4, "F": 48, "V": 7}
    model = npgpt.GPT(npgpt.GPTConfig(vocab_size=7, n_positions=6, n_embd=12, n_layer=1, n_head=3))
    taps = Taps("*")
    model.forward(np.zeros((2, 5), int), taps=taps)
    rows = re.findall(r"^\| `([\w.]+)` \| \(([A-Z, ]+)\) \| \S", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == tap_names(model.config)
    for name, letters in rows:
        assert taps[name].shape == tuple(sizes[letter] for letter in letters.split(", ")), name
