"""A process that is killed while it writes its first files leaves no run: the next one takes the folder."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt import GPT, GPTConfig
from npgpt.cli import main
from npgpt.data import shards
from npgpt.hub.tensors import read_tensors, save_tensors
from npgpt.support.files import BEGUN
from npgpt.training.checkpoint import STATE, save_state

ROOT = Path(npgpt.__file__).parents[1]
TEXT = "The quick brown fox 学而时习之. " * 100
SMALL = ["--ops", "reference", "--n-layer", "1", "--n-embd", "16", "--eval-batches", "1", "--batch-size", "2"]
SMALL += ["--sample-tokens", "0", "--threads", "1"]
TRAIN = ["train", "--data", "text", "--max-steps", "3", *SMALL, "--out", "run"]

# Each child is killed at another of the renames that put a file in its place; then the command is run again. It prints
# what the child has left, the exit code of the second run, and what is there in the end.
KILLED = """
import json, os, signal, sys
from pathlib import Path
import npgpt.training.pretraining, npgpt.training.finetuning, npgpt.data, npgpt.tokenizer.fast
from npgpt.cli import main
from npgpt.support import files

words, folder, replace = json.loads(sys.argv[1]), Path(sys.argv[2]), os.replace


def child(count):
    done = []

    def counted(source, target):
        if len(done) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(target)
        replace(source, target)

    process = os.fork()
    if not process:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        files.os.replace = counted
        os._exit(main(words))
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def names():
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


for count in json.loads(sys.argv[3]):
    assert child(count) == -signal.SIGKILL
    left = names()
    code = child(-1)
    print(json.dumps([left, code, names()]))
    for name in names():
        (folder / name).unlink()
"""


def killed(words, folder, counts, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, json.dumps(words), folder, json.dumps(counts)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text(TEXT, encoding="utf-8")
    return tmp_path


RUN = ["config.json", "generation_config.json", "metrics.jsonl", "model.safetensors", "tokenizer.json"]
RUN += ["tokenizer_config.json", "train.json", STATE]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("counts", [pytest.param([*range(7)], marks=pytest.mark.big), [0, 3, 6]], ids=str)
def test_a_new_run_takes_the_folder_of_a_start_that_was_killed(here, counts):
    found = killed(TRAIN, "run", counts, here)
    for left, code, after in found:
        assert BEGUN in left
        assert code == 0
        assert after == RUN
    assert len({tuple(left) for left, _, _ in found}) == len(counts)
    assert "model.safetensors" in found[-1][0]
    assert STATE not in found[-1][0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_prepare_takes_the_folder_of_a_prepare_that_was_killed(here):
    words = ["prepare", "text", "--tokenizer", "bytes", "--out", "data"]
    found = killed(words, "data", [0, 1, 3], here)
    assert "train.tokens" in found[-1][0]
    for left, code, after in found:
        assert any(name.startswith(".prepare-") for name in left)
        assert code == 0
        assert after == ["tokenizer.json", "tokenizer_config.json", "train.tokens", "val.tokens"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_tokenizer_is_learned_again_where_one_was_killed(here):
    words = ["tokenizer", "train", "text", "--vocab-size", "270", "--out", "tok"]
    found = killed(words, "tok", [1, 3], here)
    assert "tokenizer.json" in found[-1][0]
    for _, code, after in found:
        assert code == 0
        assert after == ["merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"]


def begun(folder, *names):
    folder.mkdir()
    for name in (BEGUN, *names):
        (folder / name).write_text("{}")


def test_resume_of_a_start_that_was_killed_says_to_start_again(here, capsys):
    begun(Path("run"), "train.json", "tokenizer.json")
    assert main(["train", "--resume", "--out", "run"]) == 2
    assert "cut short before it saved anything: start it again without --resume" in capsys.readouterr().err


def test_only_files_of_a_run_are_removed(here):
    begun(Path("run"), "train.json", "config.json", "notes.txt", "model.py")
    assert main(TRAIN) == 0
    assert sorted(path.name for path in Path("run").iterdir()) == sorted([*RUN, "notes.txt", "model.py"])


def test_what_cannot_begin_leaves_the_folder_as_it_was(here):
    begun(Path("run"), "train.json", "config.json")
    assert main([word.replace("text", "missing") for word in TRAIN]) == 2
    assert sorted(path.name for path in Path("run").iterdir()) == [BEGUN, "config.json", "train.json"]


def test_a_model_that_npgpt_did_not_begin_here_is_never_taken(here, capsys):
    GPT(GPTConfig(vocab_size=7, n_positions=5, n_embd=6, n_layer=1, n_head=1)).save_pretrained("run")
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    assert main(TRAIN) == 2
    assert "already holds" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_mark_that_outlived_the_first_state_changes_nothing(here, capsys):
    assert main(TRAIN) == 0
    (here / "run" / BEGUN).touch()
    assert main(TRAIN) == 2
    assert main(["train", "--resume", "--max-steps", "4", "--out", "run"]) == 0
    assert not (here / "run" / BEGUN).exists()


def test_a_writer_removes_what_killed_ones_have_left_and_nothing_else(here):
    assert main(TRAIN) == 0
    run = here / "run"
    (run / "adapter").mkdir()
    left = [f".{STATE}.1.part", f".{STATE}.{os.getpid()}.part", ".model.safetensors.99999999.part"]
    left += ["adapter/.adapter_model.safetensors.3.part"]
    begin = (run / STATE).read_bytes()[:5000]
    (run / ".tmpABC123").write_bytes(begin)  # as earlier versions left it
    (run / ".tmpABC123.txt").write_bytes(begin)
    mine = [".tmpABC123.txt", ".notes.txt.1.part", ".model.safetensors.part", ".tmpabcdef", "a.part"]
    for name in left + mine:
        (run / name).touch()
    assert main(["train", "--resume", "--max-steps", "4", "--out", "run"]) == 0
    assert not [name for name in [*left, ".tmpABC123"] if (run / name).exists()]
    assert all((run / name).exists() for name in mine)


def test_a_prepare_that_fails_can_be_run_again(here, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "join", full)
        assert main(["prepare", "text", "--tokenizer", "bytes", "--out", "data"]) == 2
    assert "train.tokens: No space left on device" in capsys.readouterr().err
    assert not Path("data").exists()
    assert main(["prepare", "text", "--tokenizer", "bytes", "--out", "data"]) == 0


def test_equal_runs_write_equal_files_whatever_the_hash_seed(here):
    found = []
    for seed in "12":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        words = [sys.executable, "-m", "npgpt", *TRAIN]
        subprocess.run(words, cwd=here, env=environment, check=True, capture_output=True)
        found.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path("run").glob("*.*son")})
        found[-1] |= {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path("run").glob("*.safetensors")}
        Path("run").rename(f"run {seed}")
    assert found[0] == found[1]
    assert len(found[0]) == 7


def test_the_file_is_one_that_safetensors_reads(tmp_path):
    from safetensors.numpy import load_file

    arrays = {
        "字.é": np.arange(3, dtype=np.float16),
        "b": np.arange(6, dtype=np.float64).reshape(2, 3),
        "empty": np.empty((0, 2), np.float32),
        "scalar": np.array(3, np.int64),
        "bytes": np.arange(3, dtype=np.uint8),
        "true": np.array([True, False, True]),
        "four": np.arange(3, dtype=np.int32),
    }
    save_tensors(tmp_path / "a", arrays, note="学 \U0001f642")
    for read in (load_file(tmp_path / "a"), read_tensors(tmp_path / "a")[0]):
        assert read.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(read[name], array)
    assert read_tensors(tmp_path / "a")[1] == {"format": "pt", "note": "学 \U0001f642"}


@pytest.mark.parametrize("words", [["sample", "--max-new-tokens", "1"], ["eval", "--data", "text"]])
@pytest.mark.parametrize("step", [0, 2])
def test_a_run_without_an_evaluation_says_that_its_model_is_untrained(here, words, step, caplog):
    assert main(TRAIN) == 0
    command, *flags = words
    assert main([command, "run", *flags]) == 0
    assert not caplog.records
    model = GPT.from_pretrained("run")
    save_state(Path("run"), model, npgpt.AdamW(model.params), {"step": step, "best_step": 0, "best_val_loss": None})
    with caplog.at_level(logging.WARNING, "npgpt"):
        assert main([command, "run", *flags]) == 0
        last = "; the option last uses that of step 2" if step else ""
        line = f"run: no evaluation yet, so this is the model as it was before the training{last}"
        assert [record.message for record in caplog.records] == [line]
        caplog.clear()
        assert main([command, "run", *flags, "--last"]) == 0
        assert not caplog.records


def test_a_damaged_state_is_no_harm_to_the_model_but_is_said(here, caplog):
    assert main(TRAIN) == 0
    state = here / "run" / STATE
    state.write_bytes(state.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING, "npgpt"):
        assert main(["sample", "run", "--max-new-tokens", "1"]) == 0
    (record,) = caplog.records
    assert record.message.startswith(f"run/{STATE}: not a whole safetensors file")
    assert record.message.endswith("; the run cannot be resumed")
