"""A run records how threads share its steps, and keeps it when it is resumed: it decides the bits of the run."""

import json
from pathlib import Path

import pytest

from npgpt.cli import main
from npgpt.support.files import read_sealed_json, write_sealed_json
from npgpt.training.threads import Split

TINY = "--n-layer 1 --n-head 2 --n-embd 8 --n-positions 32 --tokenizer bpe:260 --sample-tokens 0"
SETTINGS = "--batch-size 2 --eval-batches 1 --max-steps"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 20)
    (tmp_path / "a.jsonl").write_text('{"prompt": "the ", "completion": "fox"}\n' * 9)
    monkeypatch.setattr("npgpt.training.threads.FLOPS", 1e5)  # so slow that a thread more always helps
    on_machine_with(3, monkeypatch)
    return tmp_path


def on_machine_with(cores, monkeypatch):
    monkeypatch.setattr("npgpt.training.threads.cores", lambda environ=None: cores)


def words_of(command, folder):
    """Return the words of a run that is new, and of one that is resumed; both lack the number of steps."""
    if command == "finetune":
        words = ["finetune", "base", "--data", "a.jsonl", "--out", folder, *SETTINGS.split()[:-1]]
        return [*words, "--max-steps"], [*words[:6], "--resume", "--max-steps"]
    words = ["train", "--data", "a.txt", "--out", folder]
    return [*words, *TINY.split(), *SETTINGS.split()], [*words, "--resume", "--max-steps"]


def run(*words):
    assert main([*words]) == 0


def begun(command, folder="r", steps="2"):
    """Begin a run; return the words that resume it."""
    if command == "finetune" and not Path("base").exists():
        run(*words_of("train", "base")[0], "1")
    new, resumed = words_of(command, folder)
    run(*new, steps)
    return resumed


def recorded(folder):
    """Return a run's --threads as it was given, and how they share a step."""
    settings = json.loads((folder / "train.json").read_text("utf-8"))
    return settings["train"]["threads"], Split(**settings["workers"])


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_run_resumed_on_a_machine_with_other_cores_has_the_same_bits(command, here, monkeypatch):
    states = []
    for folder, cores, more in ("r", 3, ()), ("other", 1, ()), ("changed", 1, ("--threads", "1")):
        on_machine_with(3, monkeypatch)
        again = begun(command, folder)
        assert recorded(here / folder) == (0, Split(1, 3))
        on_machine_with(cores, monkeypatch)
        run(*again, "4", *more)
        states.append((here / folder / "training_state.safetensors").read_bytes())
        assert recorded(here / folder) == ((1, Split(1, 1)) if more else (0, Split(1, 3)))
    assert states[0] == states[1]
    assert states[0] != states[2]  # it matters


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_the_number_that_is_given_to_a_resumed_run_wins(command, here, monkeypatch):
    again = begun(command)
    on_machine_with(1, monkeypatch)
    run(*again, "3", "--threads", "2")
    threads, split = recorded(here / "r")
    assert (threads, split.threads) == (2, 2)
    run(*again, "4", "--threads", "0")
    assert recorded(here / "r") == (0, Split(1, 1))


def test_another_batch_size_is_shared_anew(here, monkeypatch):
    again = begun("train")
    on_machine_with(2, monkeypatch)
    run(*again, "3", "--batch-size", "2")
    assert recorded(here / "r") == (0, Split(1, 3))
    run(*again, "4", "--batch-size", "3")
    assert recorded(here / "r") == (0, Split(1, 2))


def test_the_same_number_given_again_changes_nothing(here, monkeypatch):
    new, again = words_of("train", "r")
    run(*new, "1", "--threads", "3")
    assert recorded(here / "r") == (3, Split(1, 3))
    monkeypatch.setattr("npgpt.training.loop.settle", lambda work, threads: Split(2, 1))  # as elsewhere
    run(*again, "2", "--threads", "3")
    assert recorded(here / "r") == (3, Split(1, 3))
    run(*again, "3", "--threads", "2")
    assert recorded(here / "r") == (2, Split(2, 1))


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_run_of_an_earlier_version_keeps_its_workers(command, here, monkeypatch):
    again = begun(command)
    settings = read_sealed_json(here / "r" / "train.json")
    del settings["workers"]
    settings["train"]["threads"] = 5
    write_sealed_json(here / "r" / "train.json", settings)
    on_machine_with(1, monkeypatch)
    run(*again, "3")
    assert recorded(here / "r") == (5, Split(2, 1))  # one for each row


@pytest.mark.parametrize(
    "workers",
    [{"groups": 0, "members": 1}, {"groups": 1}, {"groups": True, "members": 1}, {"groups": 1, "members": 1025}, 2],
)
def test_a_record_that_makes_no_sense_is_refused(workers, here, capsys):
    again = begun("train")
    write_sealed_json(here / "r" / "train.json", read_sealed_json(here / "r" / "train.json") | {"workers": workers})
    capsys.readouterr()
    assert main([*again, "3"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"workers={workers!r}" in err


def test_info_shows_how_a_run_shares_its_steps(here, monkeypatch, capsys):
    run(*words_of("train", "r")[0], "1")
    on_machine_with(1, monkeypatch)
    capsys.readouterr()
    run("info", "r")
    assert "2 x 32 tokens on 3 threads, and" in capsys.readouterr().out
    run("info", "r", "--batch-size", "4")
    assert "4 x 32 tokens on 1 thread, and" in capsys.readouterr().out


def test_absurdly_many_threads_are_refused(here, capsys):
    assert main([*words_of("train", "r")[0], "1", "--threads", "1000000"]) == 2
    assert "threads=1000000 must be at most 1024" in capsys.readouterr().err
    assert not (here / "r").exists()
