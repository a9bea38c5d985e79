"""--pretrain: the first steps of a run are on tales, the others on the text."""

import dataclasses
import json
import re

import pytest

from npgpt.training.pretraining import plan_training, start_training
from npgpt.training.warmstart import keep_share, langs_like

TEXT = "O gentle Zephyr! Quoth the Wolf: 'tis $3 & no more; xylophones jingle, vexed.\n" * 12
CHINESE = "秦川雄帝宅，函谷壯皇居。綺殿千尋起，離宮百雉餘。\n" * 30
SMALL = {
    "n_layer": 1,
    "n_head": 1,
    "n_embd": 8,
    "n_positions": 16,
    "batch_size": 2,
    "max_steps": 6,
    "eval_every": 2,
    "save_every": 2,
    "eval_batches": 1,
    "sample_tokens": 0,
    "seed": 3,
    "threads": 1,
    "ops": "reference",
}


@pytest.fixture
def text(tmp_path, few_tales):
    path = tmp_path / "book.txt"
    path.write_text(TEXT, "utf-8")
    return str(path)


def started(text, out, resume=False, **settings):
    new = {} if resume else SMALL | {"pretrain": "tales", "data": [text]}
    return start_training(plan_training({**new, **settings, "out": str(out)}, resume=resume))


def drawn(run):
    """Return the text of a row of each step."""
    data, decode = run.trainer.train_data, run.tokenizer.decode
    batches = [data.draw(step, run.config)[0] for step in range(run.config.max_steps)]
    return [decode(batch.ids[0]) for batch in batches]


@pytest.mark.parametrize("windows", ["random", "shuffled"])
def test_the_first_half_of_the_steps_are_on_tales_and_the_others_on_the_text(text, tmp_path, windows):
    run = started(text, tmp_path / "run", windows=windows)
    assert [row in TEXT for row in drawn(run)] == [False] * 3 + [True] * 3
    alone = started(text, tmp_path / "alone", windows=windows, pretrain=None, tokenizer=str(save(run, tmp_path)))
    assert drawn(run)[3:] == drawn(alone)[:3]  # the text begins with its first step
    assert run.trainer.train_data.size == len(TEXT) * 9 // 10
    assert run.tokenizer.decode(run.trainer.val_data.ids) == TEXT[len(TEXT) * 9 // 10 :]


def save(run, folder):
    run.tokenizer.save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


def test_the_vocabulary_has_the_characters_of_the_text_and_of_the_tales(text, tmp_path):
    tokenizer = started(text, tmp_path / "run").tokenizer
    assert tokenizer.decode(tokenizer.encode("$&;" + "Bob?")) == "$&;Bob?"  # which only one of them has


def test_packed_documents_are_learned_after_packed_tales(text, tmp_path):
    run = started(text, tmp_path / "run", tokenizer="bpe:300", pack=True, document_separator="\\n")
    assert all(
        data.end_id == run.tokenizer.end_id for data in (run.trainer.train_data.tales, run.trainer.train_data.text)
    )
    assert len([record for record in run.records() if "loss" in record]) == SMALL["max_steps"]


@pytest.mark.parametrize("stop", [2, 4])  # among the tales, and in the text
def test_a_run_that_was_interrupted_goes_on_where_it_was(text, tmp_path, stop):
    whole = [record["loss"] for record in started(text, tmp_path / "whole").records() if "loss" in record]
    steps = iter(range(1, 100))
    first = list(started(text, tmp_path / "run").records(lambda: next(steps) == stop))
    rest = list(started(text, tmp_path / "run", resume=True).records())
    assert [record["loss"] for record in [*first, *rest] if "loss" in record] == whole


def test_a_run_that_becomes_longer_learns_no_more_tales(text, tmp_path):
    list(started(text, tmp_path / "run").records())
    saved = json.loads((tmp_path / "run" / "train.json").read_text())
    assert (saved["data"]["pretrain_steps"], saved["train"]["pretrain"]) == (3, "tales:en")
    longer = started(text, tmp_path / "run", resume=True, max_steps=12, pretrain="tales")
    assert [row in TEXT for row in drawn(longer)] == [False] * 3 + [True] * 9


def test_tales_are_in_the_language_of_the_text():
    for written, langs in ((TEXT, ("en",)), (CHINESE, ("zh",)), (TEXT + CHINESE, ("en", "zh")), ("1 2 3", ("en",))):
        assert langs_like(written) == langs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrain": "foo"}, "--pretrain foo: expected tales, or tales of one language, as in tales:en"),
        ({"pretrain": "tales:fr"}, "--pretrain tales:fr: tales are told in en and zh"),
        ({"data": ["tales:en"]}, "--pretrain tales is for text files, and tales:en are the tales themselves"),
        ({"pretrain": "tales:zh", "tokenizer": "english"}, "--pretrain tales:zh: character '小'"),
    ],
)
def test_what_cannot_come_before_a_text_is_refused(text, tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    if "tokenizer" in settings:
        started(text, tmp_path / "other").tokenizer.save_pretrained(tmp_path / "english")
    with pytest.raises(ValueError, match=re.escape(message)):
        started(text, tmp_path / "run", **settings)
    assert not (tmp_path / "run" / "train.json").exists()


def test_a_prepared_folder_is_refused(text, tmp_path):
    from npgpt.cli import main

    assert main(["prepare", text, "--out", str(tmp_path / "prepared"), "--tokenizer", "bytes"]) == 0
    with pytest.raises(ValueError, match="prepared is tokenized already: leave it out"):
        started(text, tmp_path / "run", data=[str(tmp_path / "prepared")])


def test_other_tales_cannot_be_learned_by_a_resumed_run(text, tmp_path):
    list(started(text, tmp_path / "run").records())
    with pytest.raises(ValueError, match=r"pretrain is 'tales:en' in .* and cannot change with --resume"):
        started(text, tmp_path / "run", resume=True, pretrain="tales:zh")


def test_a_run_without_tales_is_what_it_was(text, tmp_path):
    run = started(text, tmp_path / "run", pretrain=None)
    assert "pretrain_steps" not in run.settings["data"]
    assert dataclasses.asdict(run.config)["pretrain"] is None


def test_patience_begins_with_the_text(text, tmp_path, monkeypatch):
    run = started(text, tmp_path / "run", patience=1, eval_every=1, max_steps=8)
    losses = iter([1.0, *[2.0] * 20])
    monkeypatch.setattr(type(run.trainer), "_validation_loss", lambda self, workers: next(losses))
    steps = [record["step"] for record in run.records() if "lr" in record]
    assert steps == [1, 2, 3, 4, 5]  # four on tales, and one that is no better


def test_the_tales_end_sooner_where_the_clock_allows_fewer_steps(text, tmp_path):
    run = started(text, tmp_path / "run", max_steps=12)
    data, pace = run.trainer.train_data, run.trainer.pace
    assert (pace(0), data.steps) == (12, 6)
    run.trainer.progress["pretrain_steps"] = 4  # of a run that was resumed
    assert (pace(5), data.steps, run.trainer.patient_until) == (12, 4, 4)
    fewer = started(text, tmp_path / "fewer", max_steps=12)
    seen = iter([12, 12, 6, 12, 12])
    fewer.trainer.pace = lambda done: next(seen)
    keep_share(fewer.trainer, fewer.trainer.train_data)
    steps = []
    for done in range(5):
        fewer.trainer.pace(done)
        steps.append(fewer.trainer.train_data.steps)
    assert steps == [6, 6, 3, 3, 3]  # fewer once the clock says so, and never more again
