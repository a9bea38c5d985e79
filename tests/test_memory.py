"""Memory is counted from shapes before it is allocated, and what cannot fit is refused at once."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from npgpt import GPT, GPTConfig, TrainConfig
from npgpt.cli import one_line
from npgpt.kernels import attention, memory
from npgpt.models.gpt2_memory import BLOCK, LOGITS, ROWS, floats_to_evaluate, floats_to_train, logits_kept
from npgpt.models.gpt2_parameters import parameter_shapes
from npgpt.models.lora import Adapters
from npgpt.support.buffers import Buffers, empty, of_many_shapes, size_class
from npgpt.training.loop import make_optimizer
from npgpt.training.memory import (
    floats_of_muon,
    floats_of_training,
    in_bytes,
    memory_to_train,
    require_memory,
    split_for,
)
from tests.test_cli import command

BASE = {"vocab_size": 100, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4}
DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
CHANGES = [
    {},
    {"n_layer": 5},
    {"n_embd": 128},
    {"n_head": 8},
    {"n_positions": 16},
    {"n_positions": 300},
    {"vocab_size": 4000},
    {"n_inner": 512},
    DROPOUT,
    DROPOUT | {"n_positions": 300},
]


def test_the_count_knows_what_the_kernels_keep():
    assert BLOCK == attention.BLOCK
    assert (LOGITS, ROWS) == (memory.LOGITS, memory.ROWS)
    assert logits_kept(50257, 10_000) == pytest.approx(50257 * 333 / 10_000)
    assert logits_kept(65, 10_000) == 65


@pytest.mark.parametrize("ops", ["fast", "reference"])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_count_for_a_batch_is_what_numpy_allocates(changes, ops):
    config = GPTConfig(**BASE | changes)
    model = GPT(config, ops=ops)
    ids = np.zeros((8, config.n_positions), int)
    grads = model.params.empty_like()

    def learn():
        model.loss_and_grads(ids, ids, rng=np.random.default_rng(0), grads=grads)

    learn()  # compiles
    for act, count in ((learn, floats_to_train), (lambda: model.loss(ids, ids), floats_to_evaluate)):
        tracemalloc.start()
        with Buffers():
            act()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # small arrays are not counted, and not all large ones are there at the same time
        assert count(config, ops == "fast") == pytest.approx(peak / 4 / ids.size, rel=0.2)


RUN = """
import resource, sys
from pathlib import Path
import numpy as np
from npgpt import GPT, GPTConfig, TrainConfig
from npgpt.data.batch import Text
from npgpt.training.loop import Trainer
from npgpt.training.memory import memory_to_train

def now():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def train(config, settings, folder):
    T = config.n_positions
    texts = Text(np.arange(20 * T) % 9, T), Text(np.arange(20_000) % 9, T)
    list(Trainer(GPT(config), *texts, settings, folder).run())

folder = Path(sys.argv[1])
common = {"max_steps": 2, "eval_batches": 2, "warmup_steps": 1, "threads": 2}
train(GPTConfig(9, 8, 8, 1, 1), TrainConfig(batch_size=2, **common), folder / "compiled")
before = now()
config = GPTConfig(vocab_size=1000, n_positions=128, n_embd=256, n_layer=4, n_head=4)
settings = TrainConfig(batch_size=16, **common)
train(config, settings, folder / "r")
# not getrusage's peak, which a process takes over from the one that started it
peak = 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(sum(memory_to_train(config, settings)) / (peak - before))
"""


@pytest.mark.big
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_count_for_a_run_is_its_peak(tmp_path):
    done = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], capture_output=True, text=True, check=True)
    # what is counted is not all there at once; to count too little would be worse
    assert 0.9 < float(done.stdout) < 1.4


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"bias": False}, {"n_inner": 7}], ids=str)
def test_parameters_are_counted_without_listing_them(changes):
    config = GPTConfig(**BASE | changes)
    assert config.n_parameters == sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())


HUGE = {"n_layer": 10**8, "n_embd": 10**9, "vocab_size": 10**12, "n_positions": 10**12, "n_inner": 10**12}


@pytest.fixture
def nothing_is_made(monkeypatch):
    """Fail if a parameter, or even a list of parameters, is made."""
    for name in ("gpt2_parameters.zero_parameters", "gpt2_parameters.parameter_shapes", "gpt2.parameter_shapes"):
        monkeypatch.setattr(f"npgpt.models.{name}", lambda *args: pytest.fail("made parameters"))


@pytest.mark.parametrize(("name", "value"), HUGE.items())
def test_absurd_sizes_are_refused_before_anything_is_made(name, value, tmp_path, monkeypatch, capsys, nothing_is_made):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 40)
    (tmp_path / "h").mkdir()
    content = {"model_type": "gpt2", **vars(GPTConfig(**BASE)), name: value}
    (tmp_path / "h" / "config.json").write_text(json.dumps(content))
    save_file({"wte.weight": np.zeros((3, 2), np.float32)}, tmp_path / "h" / "model.safetensors")
    flag = f"--{name.replace('_', '-')}"
    for words in (["train", "--data", "a.txt", "--out", "r", flag, str(value)], ["info", "h"], ["sample", "h"]):
        code, out, err = command(capsys, *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{name}={value}" in err
    with pytest.raises(ValueError, match=f"{name}={value}"):
        GPT.from_pretrained("h")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "h"]


def test_a_batch_that_cannot_fit_is_refused_with_one_that_would(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 40)
    tiny = "--n-layer 1 --n-embd 16 --n-head 1 --max-steps 1 --sample-tokens 0 --threads 2"
    words = ["train", "--data", "a.txt", "--out", "r", *tiny.split(), "--batch-size"]
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: 100_000_000)
    code, out, err = command(capsys, *words, "1000000")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "and 100.0 MB are free" in err
    assert "--batch-size 122 would fit" in err
    assert not (tmp_path / "r").exists()
    code, out, err = command(capsys, *words, "4000")
    assert code == 2
    assert "--batch-size 125 would fit" in err
    assert not (tmp_path / "r").exists()
    assert command(capsys, *words, "125")[0] == 0
    code, out, err = command(capsys, "train", "--resume", "--out", "r", "--max-steps", "2", "--batch-size", "4000")
    assert (code, out) == (2, "")
    assert "--batch-size 125 would fit" in err


def test_a_fine_tuning_that_cannot_fit_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 40)
    (tmp_path / "a.jsonl").write_text('{"prompt": "the ", "completion": "fox"}\n' * 9)
    tiny = "--n-layer 1 --n-embd 16 --n-head 1 --n-positions 32 --max-steps 1 --sample-tokens 0 --tokenizer bpe:260"
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *tiny.split())[0] == 0
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: 100_000_000)
    for lora in ([], ["--lora", "2"]):
        words = ["finetune", "r", "--data", "a.jsonl", "--out", "t", "--batch-size", "100000", *lora]
        code, out, err = command(capsys, *words)
        assert (code, out) == (2, "")
        assert "not enough memory: this run needs about" in err
        assert not (tmp_path / "t").exists()


def test_a_model_that_cannot_fit_is_refused_whatever_the_batch(monkeypatch):
    config = GPTConfig()
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: 1_500_000_000)
    with pytest.raises(MemoryError, match="choose a smaller model or context") as caught:
        require_memory(config, TrainConfig(batch_size=64, threads=1))
    assert f"{in_bytes(16 * config.n_parameters)} are for 124,439,808 parameters" in str(caught.value)
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: None)  # a system that does not say
    require_memory(config, TrainConfig(batch_size=10**9))


def test_what_a_fine_tuning_has_already_is_not_needed_again(monkeypatch):
    config, train = GPTConfig(**BASE), TrainConfig(threads=1)
    needed = sum(memory_to_train(config, train, lora=2))
    assert needed < sum(memory_to_train(config, train))
    made = 8 * config.n_parameters
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: needed - made)
    require_memory(config, train, lora=2, made=made)
    with pytest.raises(MemoryError):
        require_memory(config, train, lora=2)


def test_what_makes_a_run_larger_is_counted():
    def needed(**changes):
        return sum(memory_to_train(GPTConfig(**BASE), TrainConfig(**{"batch_size": 8, "threads": 2} | changes)))

    assert needed(dtype="float64") == 2 * needed()
    assert needed(batch_size=800) > 4 * needed()
    assert needed() == needed(gradient_accumulation_steps=2)  # added up where they are
    plain = needed(ops="reference")
    assert needed() < plain < needed(ops="reference", gradient_accumulation_steps=2) < 2 * plain
    assert needed() < needed(threads=8)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("trainable", ["*", "ln_f.*,h.1.*", "wte.*"])
@pytest.mark.parametrize("lora", [None, 3])
def test_the_averages_that_are_counted_are_those_that_the_optimizer_keeps(optimizer, trainable, lora):
    if lora and (optimizer, trainable) != ("adamw", "*"):
        return  # adapters have neither
    config, train = GPTConfig(**BASE), TrainConfig(optimizer=optimizer, trainable=trainable)
    model = GPT(config)
    adapters = Adapters(model, lora) if lora else None
    kept = make_optimizer(model, train, adapters).state
    expected = sum(array.size for arrays in kept.values() for array in arrays.values())
    if adapters:
        expected += sum(array.size for array in adapters.base.values()) + 2 * adapters.params.flat.size
    assert floats_of_training(config, train, lora) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("trainable", ["*", "h.1.*", "ln_f.*"])
@pytest.mark.parametrize("threads", [1, 3, 20])
def test_what_muon_works_in_is_counted(threads, trainable, dtype):
    config, train = GPTConfig(**BASE), TrainConfig(optimizer="muon", trainable=trainable, dtype=dtype, threads=threads)
    model = GPT(config, dtype=dtype)
    muon = make_optimizer(model, train, None)
    muon.step(model.params.empty_like(), 0.0, parts=threads)
    size = np.dtype(dtype).itemsize
    works_in = sum(share.memory.size for share in muon.shares)
    assert floats_of_muon(config, train, threads, size) == works_in
    kept = config.n_parameters + floats_of_training(config, train)
    gradients = split_for(config, train).groups * config.n_parameters
    assert memory_to_train(config, train)[0] == size * (kept + gradients + works_in)


@pytest.mark.parametrize("flags", [["--optimizer", "muon"], ["--trainable", "ln_f.*"]])
def test_a_run_with_fewer_averages_fits_where_adamw_does_not(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 40)
    wide = "--n-layer 2 --n-embd 256 --n-head 1 --max-steps 1 --sample-tokens 0 --threads 1 --batch-size 1"
    words = ["train", "--data", "a.txt", *wide.split()]
    size = 4 * GPTConfig(vocab_size=18, n_positions=64, n_embd=256, n_layer=2).n_parameters
    monkeypatch.setattr("npgpt.training.memory.HEAP", 0)
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: int(3.8 * size))
    assert command(capsys, *words, "--out", "r")[0] == 2
    assert command(capsys, *words, "--out", "r", *flags)[0] == 0
    out = lines_of(capsys, "r")
    assert ("Muon's average" in out) == ("muon" in flags)


@pytest.mark.parametrize(
    ("flag", "decisive"),
    [
        ("--n-positions 400000", "the text is too short: 720 tokens to train on"),
        ("--n-embd 100000", "choose a smaller model"),
        ("--n-embd 1000000", "error: n_embd=1000000: a model of"),
    ],
)
def test_an_error_about_sizes_names_what_is_to_blame(flag, decisive, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 40)
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: 100_000_000)
    code, out, err = command(capsys, "train", "--data", "a.txt", "--out", "r", *flag.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert decisive in err


def test_too_large_a_batch_of_tales_is_refused_before_they_are_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("npgpt.data.source.TOKENIZER_TALES", 50)
    monkeypatch.setattr("npgpt.data.source.TalesSource.split", lambda *args: pytest.fail("made tales"))
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: 10**9)
    code, _, err = command(capsys, "train", "--tokenizer", "bpe:300", "--out", "r", "--batch-size", "100000")
    assert code == 2
    assert "would fit" in err


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0.0 kB"),
        (999, "1.0 kB"),
        (999_940, "999.9 kB"),
        (999_960, "1.0 MB"),
        (24.3e9, "24.3 GB"),
        (3e28, "30,000,000.0 ZB"),
    ],
)
def test_bytes_are_in_the_largest_unit_that_they_fill(number, text):
    assert in_bytes(number) == text


def test_an_error_without_words_says_what_to_do():
    assert one_line(MemoryError()) == "not enough memory: choose smaller sizes, or close other programs"
    assert one_line(MemoryError("5 parameters")) == "not enough memory: 5 parameters"


def lines_of(capsys, *words):
    code, out, err = command(capsys, "info", *words)
    assert (code, err) == (0, "")
    return out


def test_info_of_a_run_is_in_its_precision_and_counts_its_batches(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 40)
    tiny = "--n-layer 1 --n-embd 16 --n-head 1 --max-steps 1 --sample-tokens 0 --threads 2 --batch-size 7"
    needed = {}
    for dtype in ("float32", "float64"):
        words = ["train", "--data", "a.txt", "--out", dtype, "--dtype", dtype, *tiny.split()]
        assert command(capsys, *words)[0] == 0
        out = lines_of(capsys, dtype)
        assert f"memory in {dtype}" in out
        assert "7 x 64 tokens on 2 threads" in out
        assert "9 x 64 tokens on 2 threads" in lines_of(capsys, dtype, "--batch-size", "9")
        needed[dtype] = float(out.split("to sample")[1].split()[0])
    assert needed["float64"] == pytest.approx(2 * needed["float32"], abs=0.11)


def test_info_of_a_preset_needs_no_model(monkeypatch, capsys):
    monkeypatch.setattr("npgpt.support.parameters.np.zeros", lambda *args: pytest.fail("allocated"))
    monkeypatch.setattr("npgpt.training.threads.cores", lambda environ=None: 1)
    out = lines_of(capsys, "--no-speed", "--preset", "gpt2-xl", "--n-layer", "2", "--batch-size", "3")
    assert out.startswith("gpt2-xl: 2 blocks, 25 heads, 1600 channels, context 1024, vocabulary 50,257")
    config = GPTConfig(n_layer=2, n_head=25, n_embd=1600)
    assert f"{config.n_parameters:,}" in out
    weights, batches = memory_to_train(config, TrainConfig(batch_size=3))
    assert in_bytes(weights) in out
    assert in_bytes(batches) in out
    monkeypatch.setattr("npgpt.support.machine.available_memory", lambda: 1_430_000_000)
    wide = "--vocab-size", "50257"
    assert "free here                      1.4 GB\n" in lines_of(capsys, "--no-speed", "--preset", "tiny")
    assert "does not fit: --batch-size 256 would\n" in lines_of(
        capsys, "--no-speed", "--preset", "tiny", *wide, "--batch-size", "1024"
    )
    assert "does not fit: choose a smaller model" in lines_of(capsys, "--no-speed", "--preset", "gpt2-xl")
    monkeypatch.setattr("npgpt.support.machine.available_memory", lambda: None)
    assert "free here" not in lines_of(capsys, "--no-speed", "--preset", "tiny")


@pytest.mark.parametrize(
    ("line", "decisive"),
    [
        ("info", "give either a run folder or --preset NAME"),
        ("info r --preset tiny", "give either a run folder or --preset NAME"),
        ("info r --n-layer 3", "--n-layer changes a preset, and r is a model that exists"),
        ("info --preset tni", "did you mean 'tiny'"),
        ("info --preset tiny --batch-size 0", "batch_size=0 must be at least 1"),
        ("info --preset tiny --n-head 7 --n-embd 8", "n_head=7 does not divide n_embd=8"),
    ],
)
def test_info_refuses_what_does_not_go_together(line, decisive, capsys):
    code, out, err = command(capsys, *line.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert decisive in err


def test_arrays_of_many_shapes_share_memory_only_one_after_another():
    with Buffers() as pool:
        with of_many_shapes():
            one, two = empty((300,), np.dtype(np.float32)), empty((300,), np.dtype(np.float32))
            part = one[3:]
            del one
            three = empty((2, 75), np.dtype(np.float64))
            assert not np.shares_memory(two, three)
            assert not np.shares_memory(part, three)
            where = part.ctypes.data - 3 * 4
            del part
            four = empty((10, 10), np.dtype(np.float64))  # the memory of a larger class, which is not twice the size
            assert four.ctypes.data == where
            assert where % 64 == 0
        assert empty((300,), np.dtype(np.float32)).ctypes.data != where
        assert pool.nbytes == 3 * size_class(1200) + 1200
    with of_many_shapes():  # outside a pool
        assert empty((2, 3), np.dtype(np.float32)).shape == (2, 3)


def test_size_classes_waste_at_most_a_quarter():
    for size in range(64, 5000):
        assert size <= size_class(size) <= 1.25 * size
    assert len({size_class(size) for size in range(64, 4096)}) == 25
