"""The commands sample, eval and info, and what all commands have in common."""

import math
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import npgpt
from npgpt import GPT, AdamW, GPTConfig, __version__
from npgpt.cli import COMMANDS, main
from npgpt.generation.engine import Generator
from npgpt.models.gpt2_parameters import flops_per_token
from npgpt.tokenizer import ByteTokenizer, CharTokenizer
from npgpt.training.checkpoint import save_state
from tests.conftest import mostly_big

TEXT = "白日依山盡，\n黃河入海流。\ne\u0301🙂"
SLIDE = "--context", "slide"  # as `greedy` does
SIZES = {"n_positions": 8, "n_embd": 12, "n_layer": 2, "n_head": 3}


def command(capsys, *argv) -> tuple[int, str, str]:
    """Run a command line and return its exit code, standard output and standard error."""
    try:
        code = main([str(word) for word in argv])
    except SystemExit as stop:  # argparse's way out
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


@contextmanager
def stopped_after_a_step():
    """Let a training that is run within end after its first step, as Ctrl-C ends it."""
    from npgpt.cli import running

    real = running.stop_on_interrupt

    @contextmanager
    def stopped(*args):
        with real(*args) as numbers:
            numbers.append(signal.SIGINT)
            yield numbers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "stop_on_interrupt", stopped)
        yield


def start(*argv, **options) -> subprocess.Popen:
    """Start the command in a process of its own, with pipes for its two outputs."""
    environment = os.environ | {"PYTHONPATH": str(Path(npgpt.__file__).parents[1])} | options.pop("env", {})
    words = [sys.executable, "-m", "npgpt", *map(str, argv)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(words, env=environment, **options)


def random_model(config: GPTConfig, seed: int) -> GPT:
    """A model sharp enough that no two tokens are equally likely."""
    model = GPT(config)
    model.params.flat[:] = np.random.default_rng(seed).normal(0, 0.4, model.params.flat.size)
    return model


def make_run(folder, tokenizer, **changes) -> tuple[GPT, GPT]:
    """Save a run whose best and last model differ, and return both."""
    config = GPTConfig(**{"vocab_size": tokenizer.vocab_size, **SIZES, **changes})
    best, last = random_model(config, 0), random_model(config, 1)
    best.save_pretrained(folder)
    save_state(folder, last, AdamW(last.params), {"step": 1, "best_step": 0, "best_val_loss": 1.0})
    tokenizer.save_pretrained(folder)
    return best, last


ONE_KIND = pytest.mark.parametrize("run", mostly_big(["chars", "bytes"], "bytes".__eq__), indirect=True)


@pytest.fixture(params=["chars", "bytes"])
def run(request, tmp_path):
    """A run folder, its models and tokenizer, with characters and with bytes."""
    tokenizer = CharTokenizer([TEXT]) if request.param == "chars" else ByteTokenizer()
    folder = tmp_path / "run"
    model, last = make_run(folder, tokenizer)
    return SimpleNamespace(folder=folder, tokenizer=tokenizer, model=model, last=last)


def greedy(run, prompt: str, count: int, model=None) -> str:
    """The likeliest continuation, computed from whole windows without a cache."""
    model = model or run.model
    ids = [int(i) for i in run.tokenizer.encode(prompt)]
    start = len(ids)
    for _ in range(count):
        logits = model.logits(np.array([ids[-SIZES["n_positions"] :]]))[0, -1]
        ids.append(int(logits[: run.tokenizer.vocab_size].argmax()))
    return prompt + run.tokenizer.decode(ids[start:])


@pytest.mark.parametrize("prompt", ["白日", "黃", "e\u0301🙂", TEXT, "\n"])
def test_sample_goes_on_from_the_prompt(capsys, run, prompt):
    """TEXT is longer than the context, and 20 tokens let the context slide."""
    code, out, err = command(
        capsys, "sample", run.folder, "--prompt", prompt, "--temperature", 0, "--max-new-tokens", 20, *SLIDE
    )
    assert (code, err) == (0, "")
    assert out == greedy(run, prompt, 20) + "\n"


def test_sample_without_a_prompt_begins_after_a_line_end(capsys, run):
    code, out, _ = command(capsys, "sample", run.folder, "--temperature", 0, "--max-new-tokens", 7, *SLIDE)
    assert code == 0
    assert out == greedy(run, "\n", 7).removeprefix("\n") + "\n"


def test_sample_without_a_prompt_works_where_no_line_end_is_known(capsys, tmp_path):
    make_run(tmp_path, CharTokenizer(["abc"]))
    code, out, _ = command(capsys, "sample", tmp_path, "--max-new-tokens", 5)
    assert code == 0
    assert len(out) == 6
    assert set(out) <= set("abc\n")


def test_sample_takes_the_same_draws_for_the_same_seed(capsys, run):
    outs = [
        command(capsys, "sample", run.folder, "--seed", seed, "--max-new-tokens", 40, "--temperature", 1.5)[1]
        for seed in (0, 0, 1)
    ]
    assert outs[0] == outs[1] != outs[2]


@pytest.mark.parametrize(
    "flags", [("--top-k", 1), ("--top-p", 1e-9), ("--temperature", 1e-5), ("--temperature", 1e-320)]
)
def test_sample_with_one_token_left_is_greedy(capsys, run, flags):
    code, out, err = command(capsys, "sample", run.folder, "--prompt", "白", *flags, "--max-new-tokens", 20, *SLIDE)
    assert (code, err) == (0, "")
    assert out == greedy(run, "白", 20) + "\n"


def test_sample_of_no_token_is_the_prompt(capsys, run):
    assert command(capsys, "sample", run.folder, "--prompt", "白日", "--max-new-tokens", 0) == (0, "白日\n", "")


def test_sample_and_eval_take_the_last_model_where_asked(capsys, run, tmp_path):
    flags = "--prompt", "日", "--temperature", 0, "--max-new-tokens", 9, *SLIDE
    best_out, last_out = (command(capsys, "sample", run.folder, *flags, *more)[1] for more in ((), ("--last",)))
    assert best_out == greedy(run, "日", 9) + "\n"
    assert last_out == greedy(run, "日", 9, run.last) + "\n" != best_out
    (tmp_path / "a.txt").write_text(TEXT)
    best_out, last_out = (
        command(capsys, "eval", run.folder, "--data", tmp_path / "a.txt", *more)[1] for more in ((), ("--last",))
    )
    assert best_out.splitlines()[0] != last_out.splitlines()[0]


class Saying:
    """A generator that says what it is told to, at once, and keeps what it is asked for."""

    def __init__(self, *texts):
        self.texts, self.asked, self.how = iter(texts), [], []

    def __call__(self, *args):
        return self

    def submit(self, ids, *how):
        self.asked.append([*ids])
        self.how.append(how)
        text = next(self.texts)
        completion = SimpleNamespace(text=text, finish_reason="stop")
        return SimpleNamespace(pieces=[text], completion=completion, done=True, error=None)


class Watched:
    """A standard output that keeps what was flushed apart from what was only written."""

    def __init__(self):
        self.written, self.flushed = "", ""

    def write(self, text):
        self.written += text

    def flush(self):
        self.flushed = self.written


def test_sample_shows_each_token_before_the_next_is_computed(run, monkeypatch):
    seen, out, step = [], Watched(), Generator.step
    monkeypatch.setattr(Generator, "step", lambda self: seen.append(out.flushed) or step(self))
    monkeypatch.setattr(sys, "stdout", out)
    n = len(run.tokenizer.encode("黃河"))
    assert main(["sample", str(run.folder), "--prompt", "日", "--prefix", "黃河", "--max-new-tokens", str(n)]) == 0
    expected = ["日", "日黃"] if n == 2 else ["日", "日", "日", "日黃", "日黃", "日黃"]
    assert seen == expected, "a character of three bytes is shown when it is whole"
    assert out.flushed == "日黃河\n"


@ONE_KIND
def test_sample_into_a_pipe_that_closes_ends_quietly(run):
    """As in `npgpt sample RUN | head -c 5`."""
    with start("sample", run.folder, "--max-new-tokens", 1_000_000) as process:
        assert len(process.stdout.read(5)) == 5
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141, "as a shell says it, with `set -o pipefail`, of a program cut short"


@ONE_KIND
def test_sample_into_a_pipe_is_utf8_where_the_terminal_is_not(run):
    argv = "sample", run.folder, "--prompt", "白日", "--max-new-tokens", 3
    with start(*argv, env={"PYTHONIOENCODING": "ascii"}) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out.decode().startswith("白日")


def evaluation(out: str) -> dict[str, float]:
    rows = [line.split() for line in out.splitlines()]
    return {row[0]: float(row[1].replace(",", "")) for row in rows}


def test_eval_is_the_mean_over_the_whole_text(capsys, run, tmp_path):
    text = TEXT * 3
    (tmp_path / "a.txt").write_bytes(text.encode("utf-8"))
    code, out, err = command(capsys, "eval", run.folder, "--data", tmp_path / "a.txt")
    assert (code, err) == (0, "")
    ids, T, total = run.tokenizer.encode(text), SIZES["n_positions"], 0.0
    for i in range(1, len(ids)):
        logits = run.model.logits(np.array([ids[(i - 1) // T * T : i]]))[0, -1].astype(np.float64)
        total += np.log(np.exp(logits).sum()) - logits[ids[i]]
    count, rest = len(ids) - 1, run.tokenizer.decode_bytes(ids[1:])
    found = evaluation(out)
    assert found["loss"] == pytest.approx(total / count, abs=6e-5)  # four digits are printed
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-3)
    assert found["bits/byte"] == pytest.approx(total / math.log(2) / len(rest), abs=6e-5)
    assert found["tokens"] == count
    assert f"({len(rest):,} bytes)" in out
    assert len(rest) == len(text.encode()) - (3 if run.tokenizer.vocab_size < 256 else 1)


def test_bits_a_byte_of_a_uniform_byte_model_are_eight(capsys, tmp_path):
    model, _ = make_run(tmp_path, ByteTokenizer())
    model.params.flat[:] = 0
    model.save_pretrained(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT)
    found = evaluation(command(capsys, "eval", tmp_path, "--data", tmp_path / "a.txt")[1])
    assert (found["bits/byte"], found["perplexity"]) == (8, 256)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("weight", "words"), [(np.nan, "a weight that is not a finite float32"), (1e30, "nan")])
def test_eval_of_a_model_that_is_not_finite_is_an_error(capsys, run, tmp_path, weight, words):
    run.model.params.flat[:] = weight
    run.model.save_pretrained(run.folder)
    (tmp_path / "a.txt").write_text(TEXT)
    code, _, err = command(capsys, "eval", run.folder, "--data", tmp_path / "a.txt")
    assert code == 2
    assert words in err.lower()


C, F, V, T, L = 96, 384, 256, 64, 2
ATTENTION, MLP = C * 3 * C + C * C, C * F + F * C


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({}, {"attention": L * (ATTENTION + 4 * C), "MLP": L * (MLP + F + C), "layer norm": (2 * L + 1) * 2 * C}),
        ({"bias": False}, {"attention": L * ATTENTION, "MLP": L * MLP, "layer norm": (2 * L + 1) * C}),
        (
            {"tie_word_embeddings": False},
            {
                "attention": L * (ATTENTION + 4 * C),
                "MLP": L * (MLP + F + C),
                "layer norm": (2 * L + 1) * 2 * C,
                "head": V * C,
            },
        ),
        ({"bias": False, "n_inner": 5}, {"attention": L * ATTENTION, "MLP": L * 10 * C, "layer norm": (2 * L + 1) * C}),
    ],
    ids=["tied", "no bias", "untied", "narrow"],
)
def test_info_counts_as_by_hand(capsys, tmp_path, monkeypatch, changes, groups):
    monkeypatch.setattr("npgpt.training.threads.cores", lambda environ=None: 1)  # one gradient
    groups = {"token embedding": V * C, "position embedding": T * C} | groups
    total = sum(groups.values())
    config = GPTConfig(vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=3, **changes)
    GPT(config).save_pretrained(tmp_path)
    code, out, err = command(capsys, "info", tmp_path)
    assert (code, err) == (0, "")
    lines = {line[:22].strip(): line[22:].split() for line in out.splitlines()}
    assert {name: int(lines[name][0].replace(",", "")) for name in groups} == groups
    assert int(lines["total"][0].replace(",", "")) == total
    assert ("head" in lines) == ("head" in groups)
    assert all(lines[name][1] == f"{groups[name] / total:.1%}" for name in groups)
    memory = out.split("memory")[1].splitlines()[1:3]
    assert [in_units(line) for line in memory] == [
        pytest.approx(4 * total, rel=0.05),
        pytest.approx(16 * total, rel=0.05),
    ]
    width = changes.get("n_inner", F)
    products = L * (4 * C * C + 2 * C * width) + V * C  # the head multiplies, tied or not
    products += L * sum(2 * C * (t + 1) for t in range(T)) // T  # token t sees t + 1 keys, and as many values
    assert flops_per_token(config) == 2 * products
    operations = out.split("operations")[1].splitlines()[1:3]
    assert [in_units(line) for line in operations] == [
        pytest.approx(2 * products, abs=5e3),
        pytest.approx(6 * products, abs=5e3),
    ]


UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "million": 1e6}


def in_units(line):
    """Read '  to sample  1.02 kB  the weights': the decimals are the tolerance above."""
    _, _, number, unit, *_ = line.split()
    return float(number.replace(",", "")) * UNITS[unit]


def test_every_command_has_help(capsys):
    code, out, err = command(capsys, "--help")
    assert (code, err) == (0, "")
    for name, help in COMMANDS.items():
        assert name in out
        assert help in " ".join(out.split())
        code, sub_out, err = command(capsys, name, "--help")
        assert (code, err) == (0, "")
        assert sub_out.startswith(f"usage: npgpt {name}")


def test_the_version_is_said(capsys):
    assert command(capsys, "--version") == (0, f"npgpt {__version__}\n", "")


def test_a_defect_of_npgpt_keeps_its_traceback(capsys, run, monkeypatch):
    """Only what a user can mend becomes one line."""
    monkeypatch.setattr("npgpt.inspection.sizes.count_parameters", lambda params: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["info", str(run.folder)])


def test_a_traceback_is_shown_where_asked(monkeypatch):
    monkeypatch.setenv("NPGPT_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["info", "/nowhere"])
