"""`npgpt distill`: what it writes and says, Ctrl-C and --resume to the same bits, and a user's mistakes."""

import json
import shutil

import numpy as np
import pytest

from npgpt import GPT, Tokenizer
from npgpt.cli import main
from npgpt.data.teaching import HEADER, NAME
from npgpt.models.distilled import Distilled
from npgpt.models.gpt2_parameters import init_parameters
from npgpt.models.gpt2_shrunk import shrunk
from npgpt.models.registry import new_generator, open_model
from npgpt.support.files import read_sealed_json, write_sealed_json
from tests.mistakes.tools import contents
from tests.test_cli import command, stopped_after_a_step
from tests.test_cli_train import saved

TEXT = "".join(f"What is {i} + 1? It is {i + 1}.\n" for i in range(60))
SHORT = ("--max-steps", 4, "--eval-every", 2, "--save-every", 2, "--warmup-steps", 1, "--sample-tokens", 9)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder with a teacher that has learned a text, and models that are no teachers."""
    folder = tmp_path_factory.mktemp("distill")
    (folder / "a.txt").write_text(TEXT)
    (folder / "tasks.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 9)
    shape = "--n-layer 2 --n-head 2 --n-embd 8 --n-positions 16 --batch-size 2 --threads 2 --max-steps 6"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data", "a.txt", "--out", "t", "--tokenizer", "bpe:300", *shape.split()]) == 0
        assert main(["train", "--data", "a.txt", "--out", "chars", *shape.split()]) == 0
        shutil.copytree("t", "foreign")
        (folder / "foreign" / "train.json").unlink()
        (folder / "foreign" / "training_state.safetensors").unlink()
        assert main(["export", "t", "--weights", "int8", "--out", "small"]) == 0
        (folder / "generator").mkdir()
        new_generator(open_model("t")).save_pretrained(folder / "generator")
        assert main(["finetune", "t", "--data", "tasks.jsonl", "--out", "tuned", "--max-steps", "1"]) == 0
    return folder


@pytest.fixture
def here(pristine, tmp_path, monkeypatch):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("npgpt.hub.folders._downloaded", lambda *_: 1 / 0)
    return tmp_path


def distill(capsys, *flags, out="s", teacher="t"):
    return command(capsys, "distill", teacher, "--out", out, *SHORT, *flags)


def test_a_student_is_a_plain_gpt_of_half_the_blocks(capsys, here):
    code, out, err = distill(capsys, "--data", here / "a.txt")
    assert (code, err) == (0, "")
    student, teacher = GPT.from_pretrained("s"), GPT.from_pretrained("t")
    assert student.config == GPT.from_pretrained("t").config.__class__(**{**vars(teacher.config), "n_layer": 1})
    assert f"s: {student.size:,} parameters, taught by {teacher.size:,}; embeddings and head are the teacher's" in out
    assert "before training" in out
    assert Tokenizer.from_pretrained("s").fingerprint() == Tokenizer.from_pretrained("t").fingerprint()
    assert not np.array_equal(student.params.flat, shrunk(teacher, student.config, 1337).params.flat)
    settings = read_sealed_json(here / "s" / "train.json")
    assert settings["distill"]["teacher"] == str(here / "t")
    assert settings["train"]["batch_size"] == 2  # the teacher's
    assert settings["data"]["sha256"] == read_sealed_json(here / "t" / "train.json")["data"]["sha256"]
    for line in "sample s --max-new-tokens 5", "eval s --data a.txt", "eval s --data a.txt --last", "info s --no-speed":
        assert command(capsys, *line.split())[0] == 0


def test_a_student_begins_with_new_weights_where_init_is_given(capsys, here):
    """Learning at a rate of 1e-12 moves no weight of float32 by more than a few units in the last place."""
    flags = "--data", here / "a.txt", "--init", "copy", "--max-steps", "1", "--learning-rate", "1e-12", "--min-lr", "0"
    code, out, err = distill(capsys, *flags)
    assert (code, err) == (0, "")
    assert "all weights are new, by init copy" in out
    student = GPT.from_pretrained("s")
    new = init_parameters(student.config, 1337, "float32", "copy")
    np.testing.assert_allclose(student.params.flat, new.flat, rtol=0, atol=1e-9)
    assert np.abs(new["wte.weight"] - GPT.from_pretrained("t").params["wte.weight"]).max() > 1e-3
    code, _, err = command(capsys, "distill", "t", "--resume", "--out", "s", "--init", "shift", "--max-steps", 2)
    assert (code, err) == (
        2,
        "npgpt distill: error: s: --init cannot change with --resume; start a new run: npgpt "
        "distill TEACHER --out NEW\n",
    )


@pytest.mark.parametrize("flags", [(), ("--n-embd", 6), ("--cache-logits", 3)], ids=["plain", "narrow", "answers"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(capsys, here, flags):
    flags = ("--data", "a.txt", *flags)
    assert distill(capsys, *flags, out="whole")[0] == 0
    with stopped_after_a_step():
        code, out, _ = distill(capsys, *flags)
    assert code == 130
    assert out.endswith("stopped; continue with: npgpt distill t --resume --out s\n")
    code, out, err = command(capsys, "distill", "t", "--resume", "--out", "s")
    assert (code, err) == (0, "")
    assert ("has what the teacher thinks" in out) == ("--cache-logits" in flags)
    assert saved(here / "whole") == saved(here / "s")


def test_what_the_teacher_learned_is_the_default(capsys, here):
    settings = read_sealed_json(here / "t" / "train.json")
    settings["data"]["files"] = [str(here / "a.txt")]  # the copy of the folder
    write_sealed_json(here / "t" / "train.json", settings)
    assert distill(capsys)[0] == 0
    assert read_sealed_json(here / "s" / "train.json")["data"]["files"] == [str(here / "a.txt")]
    (here / "a.txt").unlink()
    code, _, err = distill(capsys, out="s2")
    assert (code, err.count("\n")) == (2, 1)
    assert "a.txt, which t was trained on, is no longer there: give the text" in err


def test_answers_are_kept_and_used_again(capsys, here, monkeypatch):
    flags = ("--data", "a.txt", "--cache-logits", 3)
    code, out, err = distill(capsys, *flags)
    assert (code, err) == (0, "")
    size = (here / "s" / NAME).stat().st_size
    assert f"takes {size / 1000:.1f} kB in s/{NAME}" in out
    assert size == 160 + 8 * 16 * 3 * 4  # 4 steps of 2 rows
    assert read_sealed_json(here / "s" / "train.json")["distill"]["cosine"] == 0
    monkeypatch.setattr(Distilled, "answers", lambda *_: 1 / 0)  # nobody is asked again
    code, out, _ = command(capsys, "distill", "t", "--resume", "--out", "s", "--max-steps", 6)
    assert code == 0
    assert f"s/{NAME} has what the teacher thinks" in out
    data = bytearray((here / "s" / NAME).read_bytes())
    header = [*HEADER.unpack(bytes(data[: HEADER.size]))]
    header[2], header[3] = header[3], header[2]  # of as many bytes, but not of these positions
    (here / "s" / NAME).write_bytes(HEADER.pack(*header) + data[HEADER.size :])
    with pytest.raises(ZeroDivisionError):  # so it is asked
        command(capsys, "distill", "t", "--resume", "--out", "s", "--max-steps", 8)
    data[-1] ^= 1
    (here / "s" / NAME).write_bytes(data)
    code, _, err = command(capsys, "distill", "t", "--resume", "--out", "s", "--max-steps", 8)
    assert code == 2
    assert "the checksum is wrong" in err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("small --data a.txt", "weights of 8 bits"),
        ("generator --data a.txt", "give the GPT that its encoder was made from"),
        ("foreign", "does not say what it has learned"),
        ("tuned", "has learned prompts and completions"),
        ("t --data a.txt --n-layer 3", "n_layer=3 is more than the 2 of the teacher"),
        ("t --data a.txt --n-layer 0", "n_layer=0"),
        ("t --data a.txt --n-embd 9 --n-head 2", "n_head=2 does not divide n_embd=9"),
        ("t --data a.txt --temperature 0", "--temperature 0 must be above 0"),
        ("t --data a.txt --temperature nan", "--temperature nan must be"),
        ("t --data a.txt --kl -1", "--kl -1 must be at least 0"),
        ("t --data a.txt --ce 0 --kl 0 --cosine 0", "nothing would be learned"),
        ("t --data a.txt --cache-logits 301", "--cache-logits 301 is more than the 300 tokens"),
        ("t --data a.txt --cache-logits 0", "--cache-logits 0 must be at least 1"),
        ("t --data a.txt --cache-logits 2 --cosine 1", "--cosine 1 compares hidden states"),
        ("t --data a.txt --cache-logits 2 --windows random", "--windows random"),
        ("chars --data other.txt", "the text has 1 character ('é') that the tokenizer of chars lacks"),
        ("t --data short.txt", "too short"),
        ("t --data a.txt --out t", "t already holds a run"),
        ("t --resume --out t", "t is not a run of npgpt distill"),
        ("t --data tales --text-field a", "--text-field"),
    ],
)
def test_mistakes_are_one_line(capsys, here, flags, says):
    (here / "other.txt").write_text("é" * 200)
    (here / "short.txt").write_text("What")
    before = contents(here)
    words = flags.split()
    code, _, err = command(capsys, "distill", *words, *(() if "--out" in words else ("--out", "s")))
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert contents(here) == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("chars", "the teacher"),
        ("t --temperature 3", "--temperature cannot change"),
        ("t --kl 0.1", "--kl cannot change"),
        ("t --n-layer 2", "cannot change with --resume"),
        ("t --cache-logits 2", "cannot change"),
        ("t --seed 5", "--seed cannot change"),
    ],
)
def test_a_resumed_run_stays_the_same_run(capsys, here, flags, says):
    assert distill(capsys, "--data", "a.txt", "--cosine", 0)[0] == 0
    code, _, err = command(capsys, "distill", *flags.split(), "--resume", "--out", "s", "--max-steps", 6)
    assert code == 2
    assert says in err
    assert command(capsys, "train", "--resume", "--out", "s", "--max-steps", 6)[0] == 2


def test_minutes_decide_the_number_of_steps(capsys, here):
    code, _, _ = command(capsys, "distill", "t", "--out", "s", "--data", "a.txt", "--minutes", 0.02)
    assert code == 0
    steps = [json.loads(line)["step"] for line in (here / "s" / "metrics.jsonl").read_text().splitlines()]
    assert read_sealed_json(here / "s" / "train.json")["train"]["max_steps"] == max(steps)


def test_tales_are_taught(capsys, here, monkeypatch):
    from tests.test_cli_examples import small

    with small():
        assert command(capsys, "train", "--out", "tales", *SHORT, "--batch-size", 2)[0] == 0
        code, out, _ = distill(capsys, "--cache-logits", 4, teacher="tales")
        assert code == 0
    assert "above the floor of these tales" in out
