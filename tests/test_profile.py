"""`npgpt profile`: costs counted from shapes, times that add up, peaks, and the command."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, TrainConfig
from npgpt.inspection import peaks
from npgpt.inspection import profile as profiles
from npgpt.inspection.costs import cost_of_adamw, cost_of_adding, cost_of_muon, costs_of_ops
from npgpt.inspection.profile import STEP, profile
from npgpt.kernels import clock
from npgpt.ops import REFERENCE
from npgpt.training.threads import Split
from tests.test_cli import command

SMALL = GPTConfig(vocab_size=11, n_positions=6, n_embd=8, n_layer=3, n_head=2)
TRAIN = TrainConfig(batch_size=4, threads=2)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few steps."""
    monkeypatch.setattr(profiles, "WARM", 1)
    monkeypatch.setattr(profiles, "SECONDS", 0)


@pytest.mark.parametrize("changes", [{}, {"n_inner": 5}, {"tie_word_embeddings": False}, {"n_positions": 1}], ids=str)
def test_products_add_up_to_three_times_the_flops_of_a_forward(changes):
    config = GPTConfig(**{"vocab_size": 11, "n_positions": 7, "n_embd": 6, "n_layer": 3, "n_head": 2} | changes)
    costs = costs_of_ops(config, tokens=35)
    assert sum(cost.flops for cost in costs.values()) == pytest.approx(35 * 3 * GPT(config).flops_per_token, rel=1e-12)
    for op in clock.LINEAR, clock.ATTENTION, clock.MLP, clock.HEAD:
        assert costs[clock.BACKWARD + op].flops == 2 * costs[op].flops > 0
    assert all((cost.flops > 0) != (cost.numbers > 0) for cost in costs.values())


def test_costs_of_a_block_as_by_hand():
    config = GPTConfig(vocab_size=11, n_positions=3, n_embd=4, n_layer=1, n_head=2, n_inner=5)
    costs = costs_of_ops(config, tokens=6)
    assert costs[clock.LINEAR].flops == 2 * 6 * (4 * 12 + 4 * 4)
    assert costs[clock.ATTENTION].flops == 2 * (2 * 2 * (1 + 2 + 3) * 4)  # scores and sums, two rows, keys, channels
    assert costs[clock.MLP].flops == 2 * 6 * (4 * 5 + 5 * 4)
    assert costs[clock.HEAD].flops == 2 * 6 * 4 * 11
    assert costs[clock.NORM].numbers == 6 * 4 * (3 * 2 + 2 * 3)  # norms: one in, one out; additions: two in, one out
    assert costs[clock.BACKWARD + clock.NORM].numbers == 6 * 4 * (3 * 3 + 2 * 3)
    assert costs[clock.ACTIVATION].numbers == 6 * 5 * 3
    assert costs[clock.LOSS].numbers == 6 * 11 * 2


def test_the_costs_of_optimizers():
    shapes = {"wte.weight": (11, 4), "h.0.attn.c_attn.weight": (4, 12), "h.0.mlp.c_fc.weight": (4, 5), "b": (3,)}
    assert cost_of_adamw(shapes) == (0, 7 * (44 + 48 + 20 + 3))
    # of a matrix (m, n), m <= n: half of X X^T, Q X, and half of nine products of squares
    square, wide = 4**3 + 2 * 4**3 + 9 * 4**3, 4 * 5 * 4 + 2 * 4 * 4 * 5 + 9 * 4**3
    matrices = {"h.0.attn.c_attn.weight": 3, "h.0.mlp.c_fc.weight": 1, "h.0.mlp.c_proj.weight": 1}
    assert cost_of_muon(shapes, matrices) == (3 * square + wide, 0)
    assert cost_of_muon({"w": (5, 4)}, {"w": 1}).flops == wide
    assert cost_of_adding(100, 3) == (0, 400)
    assert cost_of_adding(100, 1) == (0, 100)


@pytest.mark.parametrize("ops", ["fast", "reference"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": "muon"}, {"gradient_accumulation_steps": 2}, {"threads": 1}, {"batch_size": 1}],
    ids=str,
)
def test_the_seconds_of_the_rows_are_those_of_the_step(settings, ops):
    model = GPT(SMALL, ops=ops)
    before, table = model.params.flat.copy(), model.ops
    found = profile(model, TrainConfig(**{"batch_size": 4, "threads": 2} | settings), steps=2)
    assert sum(row.seconds for row in found.rows) == pytest.approx(found.seconds, rel=1e-9)
    assert found.seconds > 0
    assert found.steps == 2
    assert found.tokens == 6 * settings.get("batch_size", 4) * settings.get("gradient_accumulation_steps", 1)
    assert len({row[:2] for row in found.rows}) == len(found.rows)
    np.testing.assert_array_equal(model.params.flat, before)
    assert model.ops is table
    costs = [row.cost.flops for row in found.rows if not row.op.startswith("optimizer")]
    assert sum(costs) == pytest.approx(3 * model.flops_per_token * found.tokens)


def test_each_op_gets_the_time_of_its_own_calls(monkeypatch):
    """With a clock that goes on by one each time it is read, an op takes one second a call."""
    ticks = itertools.count()
    monkeypatch.setattr(profiles.time, "perf_counter", lambda: float(next(ticks)))
    found = profile(GPT(SMALL, ops=REFERENCE), TrainConfig(batch_size=4, threads=1, ops="reference"), steps=2)
    seconds = {(row.op, row.direction): row.seconds for row in found.rows}
    L = SMALL.n_layer
    calls = {
        "embedding": 2,
        "layer norm, residual": 2 * L + 1,
        "linear: qkv and output": 2 * L,
        "attention": L,
        "mlp: products": L,
        "dropout": 2 * L + 1,
        "head": 1,
    }
    for op, count in calls.items():
        assert seconds[op, "forward"] == seconds[op, "backward"] == count, op
    assert seconds["drawing the batch", ""] == seconds["optimizer: AdamW", ""] == 1
    assert seconds["Python and waiting", ""] > sum(calls.values())


def test_steps_slower_than_the_median_do_not_count(monkeypatch):
    totals = iter([99.0, 4.0, 90.0, 2.0, 80.0, 3.0])  # the first is the warm one

    def timed_step(*args):
        taken = np.zeros(STEP + 1)
        taken[[clock.NORM, STEP]] = next(totals)
        return taken

    monkeypatch.setattr(profiles, "timed_step", timed_step)
    assert profile(GPT(SMALL), TRAIN, steps=5).seconds == 3


def test_without_a_number_of_steps_the_fewest_are_taken_when_time_is_up():
    assert profile(GPT(SMALL), TRAIN).steps == profiles.FEWEST + 1


@pytest.mark.skipif(GPT(SMALL).ops.step is None, reason="there is no compiled step here")
def test_a_compiled_step_says_itself_what_its_ops_take():
    found = profile(GPT(SMALL), TRAIN, steps=2)
    ops = {row.op for row in found.rows}
    assert found.compiled
    assert {"mlp: activation", "loss", "waiting for other threads"} <= ops
    assert not profile(GPT(SMALL, ops="reference"), TRAIN, steps=2).compiled


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peaks_are_rates(dtype):
    for rate in peaks.measured_peaks(2, dtype):
        assert 0 < rate < math.inf


def test_the_blas_and_what_chooses_its_kernels_are_named(monkeypatch):
    library = {"user_api": "blas", "internal_api": "openblas", "version": "0.3", "filepath": "numpy.libs/x"}
    other = {"user_api": "blas", "internal_api": "mkl", "version": None, "filepath": "scipy.libs/x"}
    monkeypatch.setattr(peaks, "threadpool_info", lambda: [other, library | {"architecture": "Zen"}])
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert peaks.blas() == "openblas 0.3 with its Zen kernels"
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert peaks.blas() == "openblas 0.3 with its Zen kernels (OPENBLAS_CORETYPE=Haswell is set)"
    monkeypatch.setattr(peaks, "threadpool_info", lambda: [{"user_api": "openmp"}])
    assert peaks.blas() == "BLAS unknown"


def figures(capsys, *words):
    code, out, err = command(capsys, "profile", *words)
    assert (code, err) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)


TINY = ("--n-layer", "2", "--n-embd", "8", "--n-head", "2", "--batch-size", "3", "--threads", "2", "--steps", "2")


def test_the_figures_as_json(capsys):
    found = figures(capsys, "tiny", *TINY, "--json", "-")
    assert sum(row["share"] for row in found["ops"]) == pytest.approx(1)
    assert sum(row["ms"] for row in found["ops"]) == pytest.approx(found["ms_per_step"])
    assert found["config"]["vocab_size"] == 65
    assert found["steps_per_s"] == pytest.approx(1000 / found["ms_per_step"])
    assert found["tokens_per_s"] == pytest.approx(3 * 64 * found["steps_per_s"])
    assert (found["steps"], found["threads"]) == (2, 2)
    if found["compiled"]:
        first, *others = found["expected"]
        assert (first["groups"], first["members"]) == (found["groups"], found["members"])
        assert (1, 1) in [(way["groups"], way["members"]) for way in others]
        assert all(way["ms"] > 0 for way in found["expected"])
    for row in found["ops"]:
        for rate, share, peak in (
            ("gflop_per_s", "share_of_products", "peak_gflop_per_s"),
            ("gb_per_s", "share_of_copies", "peak_gb_per_s"),
        ):
            assert (row[rate] is None) == (row[share] is None)
            assert row[rate] is None or row[share] == pytest.approx(row[rate] / found[peak])
    assert figures(capsys, "gpt2", *TINY, "--n-positions", "4", "--json", "-")["config"]["vocab_size"] == 50257


def test_the_table_has_a_line_for_each_figure_of_the_file(capsys, tmp_path):
    out = tmp_path / "p.json"
    code, printed, err = command(capsys, "profile", "tiny", *TINY, "--json", out)
    assert (code, err) == (0, "")
    found = json.loads(out.read_text("utf-8"))
    table = printed.split("\n\n")[1].splitlines()
    assert len(table) == 1 + len(found["ops"]) + 1
    for row, line in zip(found["ops"], table[1:], strict=False):
        name = "  backward" if row["pass"] == "backward" else row["op"]
        assert line.startswith(f"{name} ")
        assert line[len(name) :].split()[:2] == [f"{row['ms']:,.3f}", f"{row['share']:.1%}"]
    for way in found["expected"]:
        assert f"{way['ms']:,.1f} ms with {Split(way['groups'], way['members'])}" in printed
    assert table[-1].split() == ["a", "step", f"{found['ms_per_step']:,.3f}", "100.0%"]
    assert all(len(line) < 120 for line in printed.splitlines())


def test_a_run_is_profiled_as_it_was_trained_and_stays_as_it_is(capsys, text, caplog):
    sizes = ("--n-layer", 1, "--n-embd", 8, "--n-positions", 16, "--sample-tokens", 0, "--eval-batches", 1)
    words = ("train", "--data", "a.txt", "--out", "r", "--max-steps", 1, *sizes, "--threads", 2, "--batch-size", 5)
    assert command(capsys, *words, "--optimizer", "muon", "--dtype", "float64")[0] == 0
    before = {path: path.read_bytes() for path in (text / "r").iterdir()}
    found = figures(capsys, "r", "--steps", 1, "--json", "-")
    assert found["train"]["batch_size"] == 5
    assert (found["train"]["optimizer"], found["train"]["dtype"]) == ("muon", "float64")
    assert found["config"]["n_positions"] == 16
    assert found["threads"] == found["groups"] * found["members"] == 2
    assert figures(capsys, "r", "--steps", 1, "--batch-size", 2, "--json", "-")["train"]["batch_size"] == 2
    assert {path: path.read_bytes() for path in (text / "r").iterdir()} == before
    assert caplog.messages == []
    code, _, err = command(capsys, "profile", "r", "--n-layer", 3)
    assert (code, err) == (
        2,
        "npgpt profile: error: --n-layer changes a preset, and r is a model that exists: leave it out\n",
    )


def test_a_run_whose_rows_hold_several_texts_is_profiled_with_a_word_about_it(capsys, text, caplog):
    sizes = ("--n-layer", 1, "--n-embd", 8, "--sample-tokens", 0, "--eval-batches", 1, "--batch-size", 2)
    (text / "t.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 5)
    train = ("train", "--data", "a.txt", "--out", "r", "--max-steps", 1, *sizes, "--tokenizer", "bpe:260")
    assert command(capsys, *train, "--end-token", "</s>")[0] == 0
    tune = ("finetune", "r", "--data", "t.jsonl", "--out", "f", "--lora", 2, "--max-steps", 1, "--eval-batches", 1)
    assert command(capsys, *tune)[0] == 0
    caplog.clear()
    assert command(capsys, "profile", "f", "--steps", 1, "--json", "-")[0] == 0
    assert [message.split(";")[0] for message in caplog.messages] == [
        "the run's own rows hold several texts each",
        "the run trained adapters",
    ]


@pytest.mark.parametrize(
    ("line", "decisive"),
    [
        ("tni", "tni is neither a run folder nor a preset; did you mean 'tiny'?"),
        (".", ". is not a run folder: it has no train.json"),
        ("tiny --steps 0", "--steps=0 must be at least 1"),
        ("tiny --batch-size 0", "batch_size=0 must be at least 1"),
        ("tiny --n-head 7 --n-embd 8", "n_head=7 does not divide n_embd=8"),
        ("tiny --json .", "--json . is a folder: give a file"),
        ("tiny --batch-size 100000000", "this run needs about"),
    ],
)
def test_the_command_refuses_what_cannot_be(line, decisive, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: 10**9)
    code, out, err = command(capsys, "profile", *line.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert decisive in err


def test_a_model_that_is_no_gpt_is_refused(monkeypatch, capsys, tmp_path):
    other = SimpleNamespace(config=SimpleNamespace())
    monkeypatch.setattr("npgpt.models.registry.open_model", lambda *args: other)
    monkeypatch.setattr("npgpt.training.run.read_saved", lambda folder: {"train": {}, "data": {"files": ["a"]}})
    code, _, err = command(capsys, "profile", tmp_path)
    assert code == 2
    assert "is a SimpleNamespace, and only the ops of a GPT are known" in err
