"""npgpt eval: texts, parts of them, prepared folders, completions, samples; watched, and stopped by Ctrl-C."""

import json
import math
import signal
from contextlib import nullcontext

import numpy as np
import pytest

from npgpt import GPT, Tokenizer
from npgpt.cli import main
from npgpt.data.batch import Text
from npgpt.data.shards import open_prepared
from npgpt.training.workers import Workers
from tests.test_cli import command

LINE = "the quick brown fox jumps over the lazy dog, 天地玄黃，宇宙洪荒。🙂 e\u0301\n"
TINY = "--n-layer 1 --n-head 1 --n-embd 8 --n-positions 32 --max-steps 2 --eval-batches 1 --threads 1 --sample-tokens 0"
EXAMPLES = [("Question: 天? ", "地"), ("the quick ", "brown fox"), ("over ", "the lazy dog")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    (folder / "a.txt").write_bytes((LINE * 30).encode())
    lines = [json.dumps({"prompt": prompt, "completion": completion}) + "\n" for prompt, completion in EXAMPLES]
    (folder / "tasks.jsonl").write_text("".join(lines))
    (folder / "tasks.txt").write_text("\n" + "".join(lines))  # whatever it is called
    (folder / "texts.jsonl").write_text(json.dumps({"text": LINE}) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["prepare", "a.txt", "--out", "p", "--tokenizer", "bpe:280"]) == 0
        assert main(["train", "--data", "p", "--out", "r", *TINY.split()]) == 0
        assert main(["train", "--data", "a.txt", "--out", "c", *TINY.split()]) == 0  # characters, without an end token
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def found(capsys, *words):
    code, out, err = command(capsys, "eval", *words)
    assert (code, err) == (0, "")
    rows = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    return {name: row.split()[0] for name, row in rows.items()}, out


def test_a_prepared_folder_is_its_validation_part_unless_another_is_asked_for(capsys, here):
    prepared, model = open_prepared("p"), GPT.from_pretrained("r")
    parts = {"val": prepared.val_ids, "train": prepared.train_ids}
    parts["all"] = np.concatenate((prepared.train_ids, prepared.val_ids))
    for split, ids in parts.items():
        (row, out) = found(capsys, "r", "--data", "p", "--split", split)
        predicted = len(ids) - 1
        total = sum(model.loss(batch) * batch.n_targets for batch in Text(ids, 32).whole(1))
        assert float(row["loss"]) == pytest.approx(total / predicted, abs=6e-5)
        n_bytes = len(prepared.tokenizer.decode_bytes(ids[1:]))
        assert f"tokens      {predicted:,} ({n_bytes:,} bytes)" in out
        assert float(row["bits/byte"]) == pytest.approx(total / math.log(2) / n_bytes, abs=6e-5)
    assert found(capsys, "r", "--data", "p") == found(capsys, "r", "--data", "p", "--split", "val")


def test_a_part_of_a_text_is_that_of_its_training(capsys, here):
    for split in ("val", "train"):
        assert found(capsys, "r", "--data", "a.txt", "--split", split) == found(
            capsys, "r", "--data", "p", "--split", split
        )
    assert found(capsys, "r", "--data", "a.txt") == found(capsys, "r", "--data", "a.txt", "--split", "all")


@pytest.mark.parametrize("file", ["tasks.jsonl", "tasks.txt"])
def test_of_task_lines_the_completions_are_measured_not_the_json(file, capsys, here):
    model, tokenizer = GPT.from_pretrained("r"), Tokenizer.from_pretrained("r")
    end = tokenizer.require_end_id()
    total = n = 0
    for prompt, completion in EXAMPLES:
        read, learned = tokenizer.encode(prompt), tokenizer.encode(completion)
        ids = np.array([end, *read, *learned, end])
        targets = np.where(np.arange(1, len(ids)) <= len(read), -100, ids[1:])
        total += model.loss(ids[None, :-1], targets[None]) * (len(learned) + 1)
        n += len(learned) + 1
    (row, out) = found(capsys, "r", "--data", file)
    assert out.startswith("3 completions of 3 lines; the prompts are read, not predicted\n")
    assert float(row["loss"]) == pytest.approx(total / n, abs=6e-5)
    n_bytes = sum(len(completion.encode()) for _, completion in EXAMPLES)
    assert f"tokens      {n:,} ({n_bytes:,} bytes)" in out
    assert float(row["bits/byte"]) == pytest.approx(total / math.log(2) / n_bytes, abs=6e-5)


def test_of_texts_in_json_lines_the_texts_are_measured(capsys, here):
    code, out, _ = command(capsys, "eval", "r", "--data", "texts.jsonl")
    tokenizer = Tokenizer.from_pretrained("r")
    assert code == 0
    # the end token is predicted, but is no text
    ids = tokenizer.encode(LINE)
    assert f"tokens      {len(ids):,} ({len(tokenizer.decode_bytes(ids[1:])):,} bytes)" in out


@pytest.mark.parametrize("split", ["all", "val"])
def test_the_ids_of_a_large_text_are_kept_in_a_file(split, capsys, here, monkeypatch, caplog):
    words = ["r", "--data", "a.txt", "--split", split]
    small, _ = found(capsys, *words)
    monkeypatch.setattr("npgpt.data.splitting.LARGE", 1)
    assert found(capsys, *words)[0] == small
    assert "MB of text: its ids are kept in a temporary file" in caplog.text


def test_one_window_is_read_at_least_and_has_no_standard_error(capsys, here):
    _, out = found(capsys, "r", "--data", "a.txt", "--max-tokens", "1")
    assert "tokens      32 of" in out
    assert "±" not in out
    assert "±" in found(capsys, "r", "--data", "a.txt", "--max-tokens", "100")[1]


@pytest.mark.parametrize("file", ["tasks.jsonl", "tasks.txt"])
def test_a_field_that_is_named_is_what_is_measured_of_task_lines(file, capsys, here):
    code, out, _ = command(capsys, "eval", "r", "--data", file, "--text-field", "prompt")
    assert (code, "completions" in out) == (0, False)
    tokenizer = Tokenizer.from_pretrained("r")
    prompts = [prompt for prompt, _ in EXAMPLES]
    first = tokenizer.decode_bytes(tokenizer.encode(prompts[0])[:1])  # which is not predicted
    n_bytes = len("".join(prompts).encode()) - len(first)
    assert f"({n_bytes:,} bytes)" in out


def test_of_more_tokens_than_the_limit_a_sample_is_measured(capsys, here):
    whole, _ = found(capsys, "r", "--data", "a.txt")
    row, out = found(capsys, "r", "--data", "a.txt", "--max-tokens", "700")
    loss, sign, error = out.splitlines()[0].split()[1:4]
    assert (row["loss"], sign) == (loss, "±")
    assert abs(float(loss) - float(whole["loss"])) < 4 * float(error) < 0.5
    assert f"tokens      672 of {whole['tokens']} (" in out
    assert found(capsys, "r", "--data", "a.txt", "--max-tokens", "1000000")[0] == whole


@pytest.mark.parametrize(
    ("line", "decisive"),
    [
        ("c --data p", "p was tokenized with another tokenizer than that of c: run npgpt prepare --tokenizer c"),
        ("c --data tasks.jsonl", "end"),
        ("r --data tasks.jsonl --split val", "--split val has no effect on prompts and completions"),
        ("r --data tales:en --split val", "--split val has no effect on tales"),
        ("r --data p --newline keep", "--newline is about text files, and p is tokenized already"),
        ("r --data tales:en --encoding gbk", "--encoding is about text files, and tales:en is none: leave"),
        ("r --data tales:en --text-field none", "--text-field is about text files, and tales:en is none"),
        ("r --data tasks.jsonl --newline keep", "--newline is about text files, and tasks.jsonl holds prompts"),
        ("r --data tasks.txt --document-separator file", "--document-separator is about text files, and tasks.txt"),
        ("r --data a.txt --split vla", "vla"),
        ("r --data a.txt --max-tokens -1", "--max-tokens=-1 must be at least 0"),
        ("r --data a.txt --threads -1", "--threads=-1 must be at least 0"),
    ],
)
def test_what_does_not_go_together_is_refused(line, decisive, capsys, here):
    code, out, err = command(capsys, "eval", *line.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert decisive in err


def test_ctrl_c_ends_it_in_one_line(capsys, here, monkeypatch):
    whole = Text.whole

    def interrupted(self, rows):
        for number, batch in enumerate(whole(self, 1)):
            if number == 3:
                signal.raise_signal(signal.SIGINT)
            assert number < 6, "Ctrl-C was not heard"
            yield batch

    monkeypatch.setattr(Text, "whole", interrupted)
    code, out, err = command(capsys, "eval", "r", "--data", "a.txt")
    assert (code, out) == (130, "")
    assert err.splitlines() == ["interrupted"]


def test_its_progress_is_shown_and_it_has_as_many_workers_as_threads(capsys, here, monkeypatch):
    seen, workers = [], []

    class Watched(Workers):
        def __enter__(self):
            workers.append(self.n)
            return super().__enter__()

    monkeypatch.setattr("npgpt.training.workers.Workers", Watched)
    monkeypatch.setattr("npgpt.cli.evaluate.evaluation_bar", lambda *what: nullcontext(lambda *n: seen.append(n)))
    row, _ = found(capsys, "r", "--data", "a.txt", "--threads", "3")
    assert workers == [3]
    assert len(seen) > 0
    assert seen[-1][0] == int(row["tokens"].replace(",", ""))
