"""docs/generation.md: its blocks run, one after another, with a small model in place of the trained ones."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import npgpt
from npgpt import GPT, GPTConfig, Tokenizer

PAGE = (Path(npgpt.__file__).parents[1] / "docs" / "generation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CONSTRAINED = {"regex=", "choices=", "json_schema="}  # need llguidance


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = Tokenizer.train([PAGE], 300)
    config = GPTConfig(vocab_size=300, n_positions=64, n_embd=8, n_layer=1, n_head=2, eos_token_id=tokenizer.end_id)
    for run in "first", "poems":
        GPT(config, seed=0).save_pretrained(tmp_path / "runs" / run)
        tokenizer.save_pretrained(tmp_path / "runs" / run)
    has_constraints = importlib.util.find_spec("llguidance") is not None
    cells: dict = {"__name__": "page", "small_model": GPT(config, seed=1)}
    for number, code in enumerate(BLOCKS, 1):
        if not has_constraints and any(word in code for word in CONSTRAINED):
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, f"docs/generation.md, block {number}", "exec"), cells)
    assert len(BLOCKS) >= 5
    assert cells["found"].nats > 0


def test_the_pictures_of_the_page_are_there():
    pictures = re.findall(r"!\[.+?\]\((pictures/.+?)\)", PAGE)
    assert len(pictures) == 2
    for name in pictures:
        assert (Path(npgpt.__file__).parents[1] / "docs" / name).read_bytes().startswith(b"\x89PNG")
