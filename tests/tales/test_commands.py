"""Commands that use the tales: train on them without --data, print and check them, draw a run, and the demo."""

import io
import itertools
import json

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.cli.demo import COURSES, is_whole, scores_of, write_course
from npgpt.cli.tales_report import sample_texts, what_is_wrong
from npgpt.data import read_text
from npgpt.data import source as sources
from npgpt.data.batch import IGNORED
from npgpt.data.examples import ExamplesSource, pack_examples, read_examples
from npgpt.data.source import TalesSource, open_source
from npgpt.data.tales import LANGS, NotATaleError, language_of, nats, parse, tales, texts
from npgpt.data.tales.corpus import TEST, TRAIN, VALIDATE, TalesCorpus, langs_of
from npgpt.data.tales.tasks import TASKS, examples
from tests.test_cli import Saying, command, stopped_after_a_step
from tests.test_cli_train import saved

SMALL = ("--n-layer", 1, "--n-head", 1, "--n-embd", 8, "--batch-size", 1, "--eval-batches", 1, "--threads", 1)
QUICK = (*SMALL, "--tokenizer", "bpe:600", "--n-positions", 512, "--max-steps", 2, "--eval-every", 1, "--save-every", 1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, and few tales to learn a vocabulary from, to validate and to sample."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "TOKENIZER_TALES", 200)
    monkeypatch.setattr(sources, "VALIDATION_TALES", 5)
    monkeypatch.setattr("npgpt.cli.tales_report.SAMPLES", 3)
    return tmp_path


def test_train_needs_no_data(capsys, here, monkeypatch):
    """It trains on English tales, and says how far above the floor of the validation tales it is."""
    monkeypatch.setattr(
        "npgpt.support.jit.is_compiled", lambda package: True
    )  # no line on stderr of a first compilation
    code, out, err = command(capsys, "train", "--out", "r", *QUICK)
    assert (code, err) == (0, "")
    floor = sum(nats(tale, "en") for tale in itertools.islice(tales(1337, VALIDATE), 5))
    n_bytes = sum(len(text.encode()) for text in itertools.islice(texts(1337, "en", VALIDATE), 5))
    assert f"above the floor of these tales, {floor / n_bytes:.5f} (" in out
    assert "no model can get below it" in out
    data = json.loads((here / "r" / "train.json").read_text())["data"]
    assert data["files"] == ["tales:en"]
    whole = json.loads((here / "r" / "metrics.jsonl").read_text().splitlines()[-1])["val_loss"]
    assert f"{100 * (whole / data['floor'] - 1):.1f}% above the floor" in out
    assert "in English" in out
    assert "in Chinese" not in out
    assert "are new: they are not among the" in out
    assert "one of them, wrong at" in out
    code, out, _ = command(capsys, "sample", "r", "--max-new-tokens", 5)
    assert code == 0


def test_both_languages_go_on_after_a_stop(capsys, here):
    assert command(capsys, "train", "--data", "tales", "--out", "whole", *QUICK)[0] == 0
    with stopped_after_a_step():
        assert command(capsys, "train", "--data", "tales", "--out", "r", *QUICK)[0] == 130
    assert "in Chinese" in command(capsys, "train", "--resume", "--out", "r")[1]
    assert saved(here / "whole") == saved(here / "r")
    code, _, err = command(capsys, "train", "--resume", "--out", "r", "--data", "tales:en", "--max-steps", 3)
    assert code == 2
    assert "the text is not the one" in err


@pytest.mark.parametrize(
    ("words", "decisive"),
    [
        ("train --data tales:fr", ["tales:fr", "en and zh"]),
        ("train --data tales:en+en", ["tales:en+en"]),
        ("train --data tales a.txt", ["only --data", "./tales"]),
        ("train --data tales --tokenizer chars", ["--tokenizer chars", "bpe:SIZE"]),
        ("train --n-positions 64 --tokenizer bpe:300", ["n_positions=64 is too short", "larger n_positions"]),
        ("tales 0", ["N=0", "at least 1"]),
        ("tales many", ["many"]),
        ("tales --seed -1", ["--seed=-1"]),
        ("tales --part -1", ["--part=-1"]),
        ("tales --tasks --words 2", ["--words=2", "at least 3"]),
        ("tales --words 3", ["--words 3", "--tasks"]),
        ("tales --tasks answer,summary --words 5", ["--words 5", "write"]),
        ("eval r --data=", ["--data: it is empty"]),
        ("tales --lang fr", ["fr"]),
        ("eval nosuch --data tales:fr", ["tales:fr", "en and zh"]),
        ("tales --tasks anser", ["anser", "did you mean 'answer'"]),
        ("tales --check nosuch.txt", ["nosuch.txt", "no such file"]),
        ("plot nosuch", ["nosuch", "npgpt train"]),
        ("plot .", ["metrics.jsonl:2", "not a line of metrics"]),
        ("plot . --out .", ["--out .", "give a file"]),
        ("plot . --out=", ["--out: it is empty"]),
        ("plot p", ["train.json", "the floor is 'x'"]),
        ("plot q", ["metrics.jsonl:1", "not a line of metrics"]),
        ("tales --check=", ["--check: it is empty"]),
        ("tales 3 --check a.txt", ["N 3", "--check"]),
        ("tales --tasks answer --check a.txt", ["--tasks answer", "--check"]),
        ("tales --words 4 --check a.txt", ["--words 4", "--check"]),
        ("demo --base-steps 0", ["--base-steps=0"]),
        ("demo --tests -3", ["--tests=-3"]),
        ("demo --out=", ["--out: it is empty"]),
    ],
)
def test_a_mistake_is_one_line(capsys, here, words, decisive):
    (here / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": \n')
    for name, loss, data in ("p", 2.0, {"floor": "x"}), ("q", "low", []):
        (here / name).mkdir()
        (here / name / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": loss}) + "\n")
        (here / name / "train.json").write_text(json.dumps({"data": data}))
    code, _, err = command(capsys, *words.split())
    assert code == 2
    assert len(err.splitlines()) == 1
    for word in decisive:
        assert word in err


def test_tales_are_printed_and_checked(capsys, here, monkeypatch):
    code, out, err = command(capsys, "tales", 2, "--lang", "zh", "--seed", 4)
    assert (code, err) == (0, "")
    first, second = out.rstrip("\n").split(f"\n\n{'-' * 40}\n\n")
    assert [first, second] == list(itertools.islice(texts(4, "zh"), 2))
    (here / "a.txt").write_text("\ufeff" + first + "\n", "utf-8", newline="\r\n")
    code, out, err = command(capsys, "tales", "--check", "a.txt")
    assert (code, err) == (0, "")
    tale = next(tales(4))
    assert f"a tale of the kind '{tale.plot}', -log p = {nats(tale, 'zh'):.2f} nats" in out
    assert f"hero={tale.words['hero'].zh.name}" in out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(first.replace("。", "!", 1).encode())))
    code, out, err = command(capsys, "tales", "--check", "-")
    assert (code, err) == (1, "")
    assert out.startswith("not a tale: character ")


def test_tasks_are_printed_as_lines(capsys, here):
    code, out, _ = command(capsys, "tales", 6, "--tasks", "answer,write")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(line["task"], line["lang"]) for line in lines] == [
        (task, lang) for task in ("answer", "write", "answer") for lang in LANGS
    ]
    assert {
        line["lang"] for line in map(json.loads, command(capsys, "tales", 4, "--tasks", "--lang", "zh")[1].splitlines())
    } == {"zh"}


def test_tasks_of_excerpts_are_shorter(capsys, here):
    whole, short = (
        [json.loads(line) for line in command(capsys, "tales", 40, "--tasks", "answer", *flags)[1].splitlines()]
        for flags in ((), ("--excerpts", 1))
    )
    assert sum(len(e["prompt"]) for e in short) < 0.7 * sum(len(e["prompt"]) for e in whole)
    for flags in (
        ("--tasks", "answer", "--excerpts", "1.5"),
        ("--tasks", "answer", "--excerpts", "nan"),
        ("--excerpts", 1),
    ):
        code, _, err = command(capsys, "tales", *flags)
        assert (code, err.count("\n")) == (2, 1)
        assert "--excerpts" in err


def test_an_order_gives_as_many_words_as_are_asked_for(capsys, here):
    out = command(capsys, "tales", 60, "--tasks", "write", "--lang", "en", "--words", 7)[1]
    prompts = [json.loads(line)["prompt"] for line in out.splitlines()]
    given = {prompt.count(", ") + 1 for prompt in prompts if prompt.startswith("Write a tale with these words: ")}
    assert given == {3, 4, 5, 6, 7}


def test_questions_follow_as_the_turns_of_a_conversation(capsys, here):
    out = command(capsys, "tales", 4, "--tasks", "answer,summary", "--questions", 2)[1]
    (here / "a.jsonl").write_text(out, "utf-8")
    for line, example in zip(map(json.loads, out.splitlines()), read_examples([here / "a.jsonl"]), strict=True):
        assert len(line["prompt"]) == len(line["completion"]) == 3
        assert [*example.turns()] == [*zip(line["prompt"], line["completion"], strict=True)]
    for flags in ("--tasks", "answer", "--questions", "-1"), ("--questions", 2):
        code, _, err = command(capsys, "tales", *flags)
        assert (code, err.count("\n")) == (2, 1)
        assert "--questions" in err


def test_the_source_gives_tales_and_their_floor(here):
    source = open_source(["tales"], seed=3)
    assert isinstance(source, TalesSource)
    tokenizer = source.make_tokenizer("bpe:600")
    corpus = TalesCorpus(LANGS, 3)
    packed = corpus.packed(tokenizer, 6, TRAIN, 512)
    end = tokenizer.require_end_id()
    told = set()
    for row in np.concatenate([packed.ids, np.full((len(packed.ids), 1), end)], axis=1):
        told |= {tokenizer.decode(part) for part in np.split(row, np.flatnonzero(row == end)) if len(part) > 1}
    told = {text.removeprefix("<|endoftext|>") for text in told}
    assert told == set(corpus.texts(6, TRAIN))
    assert [language_of(text) for text in corpus.texts(4, TRAIN)] == ["en", "zh", "en", "zh"]
    expected = sum(nats(t, lang) for t, lang in zip(itertools.islice(tales(3, VALIDATE), 4), LANGS * 2, strict=True))
    assert corpus.floor(4).nats == pytest.approx(expected + 4 * np.log(2))  # which language it is, is a choice, too
    assert np.count_nonzero(packed.targets != IGNORED) == sum(
        len(tokenizer.encode(t)) + 1 for t in corpus.texts(6, TRAIN)
    )
    assert corpus.digest() != TalesCorpus(LANGS, 4).digest() != TalesCorpus(("en",), 4).digest()


def test_a_file_that_is_called_tales_is_a_file(here):
    (here / "tales").write_text("a" * 99)
    assert langs_of("./tales") is None
    assert langs_of("tales:zh+en") == ("zh", "en")
    assert [read_text(file) for file in open_source(["./tales"], 0).texts.files] == ["a" * 99]


def test_samples_begin_anew_and_are_judged(here):
    source = open_source(["tales:zh"], seed=3)
    tokenizer = source.make_tokenizer("bpe:600")
    command_model = GPT.from_pretrained(make_run(here, tokenizer))
    found = sample_texts(command_model, tokenizer, 3, seed=0)
    assert len(set(found)) == 3
    assert found == sample_texts(command_model, tokenizer, 3, seed=0)
    assert all(what_is_wrong(text, LANGS) for text in found)
    good = next(texts(0, "zh"))
    assert what_is_wrong(good, LANGS) == ""
    assert what_is_wrong(good, ("en",)) == "its language, zh"
    with pytest.raises(NotATaleError):
        parse(good, "en")


def make_run(folder, tokenizer: Tokenizer):
    end = tokenizer.require_end_id()
    config = GPTConfig(tokenizer.vocab_size, 40, 8, 1, 1, bos_token_id=end, eos_token_id=end)
    GPT(config).save_pretrained(folder / "m")
    return folder / "m"


def test_a_run_is_drawn(capsys, here, monkeypatch):
    pytest.importorskip("matplotlib")
    lines = [{"step": i, "loss": 3 / i} for i in range(1, 9)] + [{"step": 8, "val_loss": 0.5}]
    (here / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (here / "train.json").write_text('{"data": {"floor": 0.25}}')
    code, out, err = command(capsys, "plot", ".")
    assert (code, out, err) == (0, "loss.png\n", "")
    with_floor = (here / "loss.png").read_bytes()
    assert with_floor.startswith(b"\x89PNG")
    (here / "train.json").unlink()
    assert command(capsys, "plot", ".", "--out", "b.png")[1] == "b.png\n"
    assert (here / "b.png").read_bytes() != with_floor
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    code, _, err = command(capsys, "plot", ".")
    assert (code, err.count("\n")) == (2, 1)
    assert "npgpt[plot]" in err


@pytest.mark.big  # tests/test_cli_examples.py runs the demo, too
def test_the_demo_trains_tunes_scores_and_goes_on(capsys, here, monkeypatch):
    from npgpt.training import recipes

    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "tokenizer": "bpe:900", "batch_size": 1, "eval_batches": 1}
    monkeypatch.setattr("npgpt.training.recipes.TALES_IN_TWO", recipes.TALES_IN_TWO | sizes | {"n_positions": 1024})
    flags = ("demo", "--out", "d", "--base-steps", 1, "--tune-steps", 1, "--tests", 1)
    (here / "d").mkdir()
    (here / "d" / "answer.jsonl").write_text("of an earlier try, which ended before its run began")
    code, out, err = command(capsys, *flags)
    assert (code, err) == (0, "")
    assert "$ npgpt train --data tales --max-steps 1" in out
    for task in TASKS:
        assert f"$ npgpt finetune d/base --data d/{task}.jsonl --in-order" in out
    rows = [line.split() for line in out.splitlines() if line.split()[-1:] == ["0%"]]
    assert [row[0] for row in rows] == [task for task in ("answer", "summary", "translate", "write") for _ in LANGS]
    assert "one mistake per task and language" in out
    tuned = saved(here / "d" / "summary")
    code, again, _ = command(capsys, *flags)
    assert code == 0
    assert "d/base is finished already" in again
    assert saved(here / "d" / "summary") == tuned
    assert out.split("task ")[1] == again.split("task ")[1]
    code, _, err = command(capsys, *flags, "--tune-steps", 2)
    assert (code, err.count("\n")) == (2, 1)
    assert "d/answer was begun with max_steps=1, not 2" in err


@pytest.mark.parametrize("lang", [None, *LANGS])
def test_ask_makes_an_example_and_judges_the_answer(capsys, base, monkeypatch, lang):
    example = next(examples(4, ("answer",), (lang or "en",), part=TEST))
    said = {"right": example.completion, f"wrong: expected {example.completion.strip()!r}": "no"}
    for verdict, text in said.items():
        generator = Saying(text)
        generator.model = GPT.from_pretrained("base")
        monkeypatch.setattr("npgpt.generation.engine.Generator", generator)
        flags = () if lang is None else ("--lang", lang)
        code, out, _ = command(capsys, "ask", "base", "--task", "answer", "--seed", 4, *flags)
        assert (code, out) == (0, f"{example.prompt}{text}\n\n{verdict}\n")


def test_ask_says_what_is_wrong_before_it_prints_a_tale(capsys, base):
    code, out, err = command(capsys, "ask", "base", "--task", "answer", "--top-k", 0)
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("langs", [("en",), ("zh",), LANGS])
def test_eval_measures_tales_one_by_one_beside_their_floor(capsys, base, monkeypatch, langs):
    """Its loss is that of each tale by itself, behind the end token, and with the one that ends it."""
    monkeypatch.setattr("npgpt.data.tales.corpus.VALIDATION_TALES", 7)
    code, out, _ = command(capsys, "eval", "base", "--data", f"tales:{'+'.join(langs)}")
    assert code == 0
    model, tokenizer = GPT.from_pretrained("base"), Tokenizer.from_pretrained("base")
    corpus, end = TalesCorpus(langs, 1337), tokenizer.require_end_id()
    total = tokens = n_bytes = 0
    for text in corpus.texts(7, TEST):
        ids = np.array([end, *tokenizer.encode(text), end])
        total += model.loss(ids[None, :-1], ids[None, 1:]) * (len(ids) - 1)
        tokens += len(ids) - 1
        n_bytes += len(text.encode())
    floor = corpus.floor(7, TEST).nats
    assert f"loss        {total / tokens:.4f} nats per token\n" in out
    assert f"bits/byte   {total / np.log(2) / n_bytes:.4f}\n" in out
    assert f"tokens      {tokens:,} ({n_bytes:,} bytes)\n" in out
    assert (
        f"floor       {floor / tokens:.4f} nats per token; the model is {100 * (total / floor - 1):.1f}% above" in out
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_demo_draws_as_it_suits_the_task(base, monkeypatch, task):
    """It scores a tale to order by a draw, and all else by the likeliest tokens."""
    seen = []
    monkeypatch.setattr(
        "npgpt.generation.answers.answers", lambda *args: seen.append(args[3:6]) or ["" for _ in args[2]]
    )
    assert {lang: len(scores) for lang, scores in scores_of(base, task, 4, seed=5).items()} == {"en": 4, "zh": 4}
    assert seen == [(0.8, 0.9, 5) if task == "write" else (0.0, None, 5)]


@pytest.mark.parametrize("tasks", ["", "answer,", "anwser", "answer, write"])
def test_a_demo_of_an_unknown_task_is_refused(capsys, here, tasks):
    code, _, err = command(capsys, "demo", "--out", "d", "--tasks", tasks)
    assert (code, err.count("\n")) == (2, 1)
    assert ("is unknown" if tasks else "it is empty") in err
    assert not (here / "d").exists()


@pytest.fixture
def base(here, monkeypatch):
    """A model's folder, with a context of 500; courses are of small groups, and 20 lines validate."""
    tokenizer = open_source(["tales"], seed=3).make_tokenizer("bpe:900")
    GPT(GPTConfig(tokenizer.vocab_size, 500, 8, 1, 1)).save_pretrained(here / "base")
    tokenizer.save_pretrained(here / "base")
    monkeypatch.setattr("npgpt.data.packing.GROUP", 50)
    monkeypatch.setattr("npgpt.data.examples.MOST_TO_VALIDATE", 20)
    return here / "base"


@pytest.mark.parametrize("task", TASKS)
def test_a_course_is_learned_to_its_end_and_no_further(base, task):
    path = base / "course.jsonl"
    write_course(path, base, 40, 1, COURSES[task])
    learned, kept = ExamplesSource([path]).split(seed=0, in_order=True)
    rows = pack_examples(learned, Tokenizer.from_pretrained(base), 500, in_order=True).ids
    # at most a row each: up to 49 lines of the last group, and up to 30 lines after it that do not validate
    assert 4 * 40 <= len(rows) < 4 * 40 + 80
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert {line["task"] for line in lines[-60:]} == {task}
    assert len(kept) == 20
    assert sum(part.share for part in COURSES[task]) == pytest.approx(1)
    told = [e.prompt + e.completion for e in (*learned, *kept)]
    assert len(set(told)) == len(told)


def test_a_course_is_made_of_tales_that_judge_nothing(base, monkeypatch):
    parts = set()

    def note(seed, tasks, langs, part, *options):
        parts.add(part)
        return examples(seed, tasks, langs, part, *options)

    monkeypatch.setattr("npgpt.data.tales.tasks.examples", note)
    write_course(base / "course.jsonl", base, 10, 1, COURSES["summary"])
    assert len(parts) == 1
    assert not parts & {TRAIN, VALIDATE, TEST}


def test_a_short_course_reaches_its_task(base):
    path = base / "course.jsonl"
    write_course(path, base, 10, 1, COURSES["summary"])
    learned, _ = ExamplesSource([path]).split(seed=0, in_order=True)
    n = next(i for i, example in enumerate(learned) if example.prompt.endswith(("Summary:", "摘要：")))
    assert len(pack_examples(learned[:n], Tokenizer.from_pretrained(base), 500, in_order=True).ids) < 20 < 4 * 10


def test_a_course_of_answers_begins_with_excerpts(base):
    write_course(base / "course.jsonl", base, 40, 1, COURSES["answer"])
    lines = [json.loads(line) for line in (base / "course.jsonl").read_text("utf-8").splitlines()]
    sizes = [len(line["prompt"][0]) for line in lines if line["lang"] == "en"]
    assert 1.5 * np.mean(sizes[: len(sizes) // 10]) < np.mean(sizes[len(sizes) // 2 :])
    assert {len(line["prompt"]) for line in lines} <= {2, 3, 4, 5, 6}
    assert sum(len(line["prompt"]) == 6 for line in lines) > len(lines) / 2


def test_a_course_of_summaries_begins_with_questions(base):
    write_course(base / "course.jsonl", base, 40, 1, COURSES["summary"])
    lines = [json.loads(line) for line in (base / "course.jsonl").read_text("utf-8").splitlines()]
    assert [task for task, _ in itertools.groupby(line["task"] for line in lines)] == ["answer", "summary"]


def test_a_course_of_orders_begins_with_excerpts_and_many_words(base):
    write_course(base / "course.jsonl", base, 40, 1, COURSES["write"])
    lines = [json.loads(line) for line in (base / "course.jsonl").read_text("utf-8").splitlines()]
    made = [line for line in lines if line["lang"] == "en"]
    sizes = [len(line["completion"]) for line in made]
    assert 1.5 * np.mean(sizes[: len(sizes) // 5]) < np.mean(sizes[len(sizes) // 2 :])
    ordered = [line for line in made if line["prompt"].startswith("Write a tale with these words: ")]
    given = [line["prompt"].count(", ") + 1 for line in ordered]
    assert max(n for n, line in zip(given, ordered, strict=True) if len(line["completion"]) < 300) > 4
    assert max(given) > 5
    assert {*given[-10:]} == {3, 4}


def test_a_context_that_is_too_short_for_a_course_is_told(base):
    config = GPTConfig(Tokenizer.from_pretrained(base).vocab_size, 20, 8, 1, 1)
    GPT(config).save_pretrained(base)
    with pytest.raises(ValueError, match="examples of 'answer' do not fit into its context of 20"):
        write_course(base / "course.jsonl", base, 40, 1, COURSES["answer"])


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ('{"step": 3, "val_loss": 1.0, "whole": true}', True),
        ('{"step": 3, "val_loss": 1.0, "whole": false}', True),  # finished, with a sample of the validation data
        ('{"step": 3, "val_loss": 1.0}', False),
        ('{"step": 3, "note": "\\"whole\\": true"}', False),
        ('{"step": 3, "val_loss": 1.0, "whole": tr', False),
        ("[true]", False),
        ("", False),
    ],
)
def test_a_run_is_finished_if_its_last_record_says_so(tmp_path, line, whole):
    assert not is_whole(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "whole": true}}\n{line}\n' if line else "")
    assert is_whole(tmp_path) is whole
