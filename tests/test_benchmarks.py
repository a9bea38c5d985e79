"""What the benchmarks rest on: peers that disagree are refused, times are counted, no product is left out."""

import argparse
import os

import numpy as np
import pytest

from benchmarks import kernels, peak, scaling, step, timing, tokenizer
from benchmarks.__main__ import BENCHMARKS, main
from npgpt import GPTConfig
from npgpt.inspection.costs import costs_of_ops
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


@pytest.mark.parametrize("T", [1, 128])
def test_the_limit_is_every_product_of_the_step(T, monkeypatch):
    """Multiplications are counted as they run, and held against those that costs.py counts from shapes."""
    config = GPTConfig(vocab_size=7, n_positions=T, n_embd=6, n_layer=2, n_head=2)
    count = 0

    def counting(function):
        def count_and_call(a, b, out=None):
            nonlocal count
            count += a.size * b.shape[-1]
            return function(a, b, out=out)

        return count_and_call

    call = step.matrix_products(config, 2, T)
    for function in ("dot", "matmul"):
        monkeypatch.setattr(np, function, counting(getattr(np, function)))
    call()
    least = sum(cost.flops for cost in costs_of_ops(config, 2 * T).values()) / 2
    keys = {1: 1, 128: 64 * 64 + 64 * 128}[T]  # of all queries: one block, or two
    assert count - least == 6 * 2 * config.n_layer * config.n_embd * (keys - T * (T + 1) // 2)


def test_the_peak_is_that_of_a_loop_of_multiply_adds():
    """The same by hand: each sum starts at 0.5, and a turn multiplies it by 0.25 and adds 0.5."""
    run = peak.compiled(peak.source(width=4, sums=3))
    total = 0.5
    for _ in range(2):
        total = total * 0.25 + 0.5
    assert run(2) == 3 * total + 0.5


def test_a_case_is_a_preset_and_the_shape_of_a_batch():
    size = scaling.case("tiny-3x5")
    assert (size.config.n_embd, size.config.n_positions, size.rows, size.peers) == (128, 5, 3, ("eager", "compiled"))
    assert scaling.case("gpt2-medium-1x2").config.n_layer == 24
    for wrong in ("tiny", "tiny-0x5", "tiny-3x", "big-3x5", "tiny-3x5x7"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{wrong}' is not PRESET-ROWSxTOKENS"):
            scaling.case(wrong)
    with pytest.raises(argparse.ArgumentTypeError, match="n_positions=99999999999999"):
        scaling.case("tiny-1x99999999999999")


def entrant(who, threads, times, bound=None, chosen=False):
    made = scaling.Entrant.__new__(scaling.Entrant)
    made.__dict__ |= {"who": who, "threads": threads, "bound": bound, "chosen": chosen, "times": times, "used": "ran"}
    return made


def test_scaling_compares_with_peers_fewer_threads_and_the_best():
    size = scaling.case("tiny-3x5")._replace(peers=("eager",))
    entrants = [
        entrant("npgpt", 1, [[0.4], [0.2, 0.6]]),
        entrant("eager", 1, [[0.8, 0.8]]),
        entrant("npgpt", 2, [[0.32]]),
        entrant("eager", 2, [[1.0]]),
        entrant("npgpt", 2, [[0.2]], chosen=True),
        entrant("npgpt", 2, [[0.1]], bound=2),
        entrant("npgpt", 12, [[0.15]], bound=2),
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in scaling.tables("tiny-3x5", size, entrants, 2)]
    one, two = ["1 thread", "ran", "400 ms (200 ms)", "800 ms (800 ms)"], ["2 threads", "ran", "320 ms (320 ms)"]
    assert [*one, "0.50 (0.25)", "", "0.50 (0.25)"] in rows
    assert [*two, "1.00 s (1.00 s)", "0.32 (0.32)", "0.80 (1.60)", "0.40 (0.40)"] in rows
    assert [
        "2 cores, its choice",
        "ran",
        "200 ms (200 ms)",
        "1.00 s (1.00 s)",
        "0.20 (0.20)",
        "",
        "0.25 (0.25)",
    ] in rows
    assert ["12 threads", "ran", "150 ms (150 ms)", "1.50 (1.50)"] in rows


@pytest.mark.big
def test_contestants_in_processes_take_turns_and_agree(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # nothing to compile
    config = GPTConfig(vocab_size=7, n_positions=4, n_embd=6, n_layer=1, n_head=2)
    found, notes = scaling.contest(scaling.Case(config, 2, ()), [1], [], 2, 2, 0)
    assert [(e.who, e.threads, e.chosen, len(e.times)) for e in found] == [
        ("npgpt", 1, False, 2),
        ("npgpt", 1, True, 2),
    ]
    assert not notes
    assert found[0].losses == found[1].losses
    found[1].losses = [loss + 0.1 for loss in found[1].losses]
    with pytest.raises(AssertionError, match="npgpt with 1 core, its choice: losses is off"):
        scaling.compare(found[1], found)


def test_without_memory_for_all_the_rest_is_measured_afterwards(monkeypatch):
    turns = []

    class Stub(scaling.Entrant):
        def __init__(self, size, who, threads, bound, chosen=False):
            self.who, self.threads, self.bound, self.chosen = who, threads, bound, chosen
            self.times, self.losses, self.used = [], [1.0], ""
            self.error = "no compiler" if (who, threads) == ("eager", 2) else ""

        def turn(self, seconds):
            turns.append(self.label)
            self.times.append([1.0])

        def close(self):
            turns.append("end")

    free = iter([100, 60, 55, 90, 90])  # before and after the first; before the second, again, and after it
    monkeypatch.setattr(scaling, "Entrant", Stub)
    monkeypatch.setattr(scaling, "available_memory", lambda: next(free))
    size = scaling.case("tiny-3x5")._replace(peers=("eager",))
    found, notes = scaling.contest(size, [1, 2], [], 2, 2, 0)
    first = ["npgpt with 1 thread", "PyTorch, eager with 1 thread", "npgpt with 1 core, its choice"]
    second = ["npgpt with 2 threads", "npgpt with 2 cores, its choice"]
    ends = ["end"] * 3
    assert turns[:16] == [*first, *first[::-1], *ends, *second, *second[::-1], *ends]
    assert [e.label for e in found] == [*first, *second]
    assert "for want of memory, what follows npgpt with 1 core, its choice was measured after it" in notes
    assert "PyTorch, eager with 2 threads failed: no compiler" in notes


def test_variables_that_slow_a_benchmark_down_are_named():
    assert timing.slower({"PATH": "/bin"}) == []
    found = timing.slower({"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "0", "OPENBLAS_L2_SIZE": ""}, load=1.5)
    assert "OPENBLAS_CORETYPE=Haswell" in found[0]
    assert "without such variables" in found[1]
    assert "the load is 1.5" in found[2]
    many = {"OMP_NUM_THREADS": "1,2"}
    assert ["OMP_NUM_THREADS=1" in line for line in timing.slower(many)] == [True] * ((os.cpu_count() or 1) > 1)


def test_every_op_with_a_kernel_is_measured():
    measured = {case.op for case in kernels.CASES} | {
        "adamw",
        "muon",
        "causal_softmax",  # attention is made of it
        "int8_linear",  # by `benchmarks generation`, in whole tokens
    }
    assert measured == {name.rsplit("_", 1)[0] for name in NAMES if getattr(FAST, name) is not getattr(REFERENCE, name)}


def test_the_first_step_of_a_training_is_timed(tmp_path, monkeypatch):
    """By a script that replaces the trainer's step, which must be where the script looks for it."""
    from benchmarks import startup

    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # nothing to compile
    monkeypatch.setattr(startup, "TRAIN", ("--ops", "reference", "--n-layer", "1", "--max-steps", "1"))
    assert 0 < startup.first_step(str(tmp_path)) < 100
