"""docs/similarity.md: its script measures what the page says that it measures."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.data.tales import tales

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("similarity_script", ROOT / "docs" / "similarity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encode(text):
    return list(text.encode())


def test_every_kind_of_change_is_measured_and_stands_on_the_page(script):
    model = GPT(GPTConfig(vocab_size=256, n_positions=2048, n_embd=8, n_layer=1, n_head=2, initializer_range=0.3))
    found = script.measure(model, encode, "en", 2)
    page = (ROOT / "docs" / "similarity.md").read_text(encoding="utf-8")
    assert len(found) >= 7
    for kind, numbers in found.items():
        assert f"| {kind}" in page
        assert all(-1 <= cosine < 1 for cosine in numbers["cosine"])
        assert all(1 <= rank <= 256 for rank in numbers["ranks"])
    assert all(size > 0 for size in found["two tokens exchanged"]["gradient"])


def test_changes_change_what_they_say(script):
    rng, tale = np.random.default_rng(0), next(tales(3))
    ids = list(range(9))
    assert sum(a != b for a, b in zip(ids, script.swapped(ids, rng), strict=True)) == 2
    changed = script.with_word(tale, "names", rng)
    different = [var for var in tale.words if tale.words[var] is not changed.words[var]]
    assert len(different) == 1
    assert changed.words[different[0]] not in tale.words.values()
    exchanged = script.with_roles_exchanged(tale)
    different = [var for var in tale.words if tale.words[var] is not exchanged.words[var]]
    assert len(different) == 2
    assert script.retold(tale, "en", 5) == script.retold(tale, "en", 5) != script.retold(tale, "en", 6)
