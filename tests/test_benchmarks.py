"""What the benchmarks rest on: peers that disagree are refused, times are counted, no product is left out."""

import numpy as np
import pytest

from benchmarks import kernels, step, timing, tokenizer
from benchmarks.__main__ import BENCHMARKS, main
from npgpt import GPTConfig
from npgpt.ops import FAST, NAMES, REFERENCE


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_a_summary_and_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert BENCHMARKS[name].__doc__.split("\n")[0].split(":")[0] in capsys.readouterr().out.replace("\n", " ")


def test_peers_that_disagree_are_not_timed():
    right = np.array([1.0, -2.0, 3.0])
    timing.agree("same", {"x": right + 1e-9}, {"x": right}, 1e-8)
    for wrong in (right[::-1], right * (1 + 1e-4), np.array([1.0, np.nan, 3.0])):
        with pytest.raises(AssertionError, match="other: x is off"):
            timing.agree("other", {"x": wrong}, {"x": right}, 1e-5)


def test_the_code_that_is_encoded_is_this_repository_s_own(tmp_path, monkeypatch):
    for name in ("npgpt/a.py", "tests/deep/b.py", ".venv/lib/c.py", "build/d.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(tokenizer, "ROOT", tmp_path)
    monkeypatch.setattr(tokenizer, "SHARED", tmp_path)
    assert tokenizer.texts() == {"this repository's code": "npgpt/a.py\ntests/deep/b.py"}


def test_contestants_take_turns_in_their_setting(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE", 0)
    calls = []
    contestants = [timing.Contestant(name, lambda name=name: calls.append(name)) for name in "ab"]
    timing.in_turns(contestants, rounds=3, seconds=0)
    turns = "".join(calls).replace("aa", "a").replace("aa", "a").replace("bb", "b").replace("bb", "b")
    assert turns == "ababab"
    assert len(contestants[0].times) == len(contestants[1].times) == 3  # those that warm up are not counted
    assert calls.count("a") == 3 * (timing.WARM + 1) + 1


def test_the_limit_is_every_product_of_the_step(monkeypatch):
    """Their multiplications are counted as they run, and held against those of npgpt's own step."""
    config = GPTConfig(vocab_size=7, n_positions=4, n_embd=6, n_layer=2, n_head=2)
    count = {"limit": 0, "step": 0}

    def counting(name, function):
        def count_and_call(a, b, out=None):
            count[name] += a.size * b.shape[-1]
            return function(a, b, out=out)

        return count_and_call

    call = step.matrix_products(config, 2, 4)
    own = step.own_step(config, 2, 1)
    ids = np.zeros((2, 4), int)
    for name, run in (("limit", call), ("step", lambda: own(ids, ids))):
        with monkeypatch.context() as patch:
            for function in ("dot", "matmul"):
                patch.setattr(np, function, counting(name, getattr(np, function)))
            run()
    norm = own.model.params.flat.size**2  # a product of two vectors, of which the counter takes the square
    assert count["step"] - norm == count["limit"] > 0


def test_every_op_with_a_kernel_is_measured():
    measured = {case.op for case in kernels.CASES} | {"adamw", "causal_softmax"}  # attention is made of the last
    assert measured == {name.rsplit("_", 1)[0] for name in NAMES if getattr(FAST, name) is not getattr(REFERENCE, name)}


def test_the_first_step_of_a_training_is_timed(tmp_path, monkeypatch):
    """By a script that replaces the trainer's step, which must be where the script looks for it."""
    from benchmarks import startup

    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # nothing to compile
    monkeypatch.setattr(startup, "TRAIN", ("--ops", "reference", "--n-layer", "1", "--max-steps", "1"))
    assert 0 < startup.first_step(str(tmp_path)) < 100
