"""What a type checker says of code that uses npgpt: a misspelt op is an error before anything runs."""

from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy comes with the extra lint")
from mypy import api

ROOT = Path(__file__).parents[1]

USER = """
import numpy as np
import npgpt.ops
from npgpt.models.base import Model
from npgpt.models.gpt2 import GPT
from npgpt.ops import FAST, REFERENCE, Ops, get_ops
from tests.test_protocol import Bigram

table: Model = Bigram()

def right(ops: Ops, x: np.ndarray, gpt: GPT) -> Model:
    y, cache = ops.layernorm_forward(x, x, None)
    REFERENCE.gelu_backward(y, cache)
    return gpt

def wrong(x: np.ndarray) -> None:
    get_ops("fast").layernrom_forward(x, x, None)
    get_ops("fast").layernorm_forward(x)
    REFERENCE.gelu_backward(x)
    FAST.layernrom_forward(x, x, None)
    npgpt.GTP
    npgpt.ops.FASTER
"""


def test_a_misspelt_name_and_a_missing_argument_are_errors_of_the_type_checker(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "user.py").write_text(USER)
    out, err, code = api.run(
        [str(tmp_path / "user.py"), "--cache-dir", str(ROOT / ".mypy_cache"), "--no-error-summary"]
    )
    lines = [line.split("user.py:")[1] for line in out.splitlines() if "user.py:" in line and "error:" in line]
    assert (code, err) == (1, ""), out
    assert [int(line.split(":")[0]) for line in lines] == [17, 18, 19, 20, 21, 22]
    assert 'layernrom_forward"; maybe "layernorm_forward"' in lines[0]
    assert "Too few arguments" in lines[1]
    assert 'layernrom_forward"; maybe "layernorm_forward"' in lines[3]
    assert 'has no attribute "GTP"' in lines[4]
