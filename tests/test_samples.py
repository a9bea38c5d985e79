"""npgpt eval --samples, and the samples that it counts."""

import json
import math
import shutil

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, Sampling
from npgpt.cli import main
from npgpt.generation.prompts import Learned
from npgpt.generation.repetition import repetition, words_of
from npgpt.generation.rules import exclude_repeated_ngrams
from npgpt.generation.samples import sample
from npgpt.tokenizer import ByteTokenizer
from tests.mistakes.tools import refused
from tests.test_cli import command

LINE = "the quick brown fox jumps over the lazy dog, 天地玄黃。\n"
TINY = "--n-layer 1 --n-head 1 --n-embd 8 --n-positions 32 --max-steps 2 --eval-batches 1 --threads 1 --sample-tokens 0"
NAMES = ["words", "distinct-1", "distinct-2", "distinct-3", "self-BLEU", "repeated 4-grams", "texts with a loop"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    (folder / "a.txt").write_bytes((LINE * 30).encode())
    (folder / "short.txt").write_bytes(LINE.encode())
    lines = [json.dumps({"prompt": "the ", "completion": text}) + "\n" for text in ("quick brown fox", "lazy dog")]
    (folder / "tasks.jsonl").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data", "a.txt", "--tokenizer", "bpe:280", "--out", "r", *TINY.split()]) == 0
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def model():
    gpt = GPT(GPTConfig(vocab_size=256, n_positions=16, n_embd=8, n_layer=1, n_head=2, eos_token_id=3), seed=1)
    rng = np.random.default_rng(0)
    gpt.params["wte.weight"] = rng.standard_normal((256, 8))
    return gpt


def test_samples_do_not_depend_on_how_many_there_are():
    sampling = Sampling(max_new_tokens=12, temperature=0.7, top_p=0.99, seed=5)
    many = sample(model(), ByteTokenizer(), [10], 40, sampling)
    assert sample(model(), ByteTokenizer(), [10], 2, sampling) == many[:2]
    assert len({one.ids for one in many}) > 30
    for one in many:
        assert len(one.ids) == len(one.logprobs)
        assert len(one.ids) == 12 or one.ids[-1] == 3
        assert one.text == ByteTokenizer().decode([i for i in one.ids if i != 3])


def test_a_sample_may_end_with_its_first_token():
    found = sample(model(), ByteTokenizer(), [10], 12, Sampling(max_new_tokens=3, stop_ids=range(128)))
    assert {len(one.ids) for one in found} >= {1, 2}
    assert all(i >= 128 for one in found for i in one.ids[:-1])


def test_only_the_first_token_of_a_greedy_sample_is_drawn():
    gpt = model()
    for one in sample(gpt, ByteTokenizer(), [10], 5, Sampling(max_new_tokens=9, temperature=0)):
        ids = [10, *one.ids]
        logits = gpt.logits([ids[:-1]])[0].astype(float)
        assert logits[1:].argmax(1).tolist() == ids[2:]
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(one.logprobs, np.log(probs[range(len(probs)), ids[1:]]), atol=1e-5)
    with pytest.raises(ValueError, match="max_new_tokens=1 must be at least 2"):
        sample(gpt, ByteTokenizer(), [10], 5, Sampling(max_new_tokens=1))
    with pytest.raises(ValueError, match="n=0"):
        sample(gpt, ByteTokenizer(), [10], 0, Sampling())


def test_a_text_shorter_than_the_ngram_repeats_none():
    for n in range(5):
        assert not np.isinf(exclude_repeated_ngrams(np.arange(n), np.zeros(9), 5)).any()


def rows(out):
    """Return {name: its columns} of the table that is printed."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == ["samples"])
    return {line[:24].strip(): line[24:].split() for line in lines[start + 1 :]}


def test_figures_of_samples_are_printed_without_data(capsys, here):
    words = ["eval", "r", "--samples", "5", "--max-new-tokens", "20", "--top-p", "0.9", "--seed", "3"]
    code, out, err = command(capsys, *words)
    assert (code, err) == (0, "")
    assert out.startswith("5 texts sampled: max-new-tokens 20, temperature 0.8, top-p 0.9, seed 3\n")
    found = rows(out)
    assert list(found) == [*NAMES, "words before a loop"]
    assert all(len(row) == 1 for row in found.values())


def test_settings_without_effect_at_temperature_0_are_not_named(capsys, here):
    words = ("--samples", 2, "--max-new-tokens", 9, "--temperature", 0, "--top-k", 3, "--top-p", 0.7)
    assert command(capsys, "eval", "r", *words)[1].startswith("2 texts sampled: max-new-tokens 9, temperature 0.0\n")


def test_one_text_is_one(capsys, here):
    assert command(capsys, "eval", "r", "--samples", 1, "--max-new-tokens", 5)[1].startswith("1 text sampled: ")


def test_texts_that_learned_to_end_and_were_cut_off_are_counted(capsys, here, monkeypatch):
    monkeypatch.setattr("npgpt.generation.opening.learned", lambda *_: Learned(examples=True, documents=False))
    out = command(capsys, "eval", "r", "--samples", 4, "--max-new-tokens", 2, "--temperature", 0)[1]
    assert "cut off before their end    100.0%" in out
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert "cut off" not in command(capsys, "eval", "r", "--samples", 4, "--max-new-tokens", 2)[1]


def test_a_setting_comes_from_the_flag_then_the_folder_then_the_command(capsys, here, tmp_path, caplog):
    shutil.copytree(here / "r", tmp_path / "own")
    path = tmp_path / "own/generation_config.json"
    asked = {"do_sample": True, "top_k": 3, "top_p": 0.5, "max_new_tokens": 9}
    path.write_text(json.dumps(json.loads(path.read_text()) | asked))
    code, out, _ = command(capsys, "eval", str(tmp_path / "own"), "--samples", "2", "--top-p", "0.7", "--threads", "1")
    assert code == 0
    assert out.startswith("2 texts sampled: max-new-tokens 9, temperature 1.0, top-k 3, top-p 0.7\n")
    assert "generation_config.json sets temperature=1.0, top_k=3, max_new_tokens=9; flags override it" in caplog.text


@pytest.mark.parametrize("data", ["a.txt", "short.txt", "tasks.jsonl"])
def test_real_text_of_as_many_words_stands_beside_them(capsys, here, caplog, data):
    words = ["eval", "r", "--samples", "5", "--max-new-tokens", "20", "--data", data]
    code, out, _ = command(capsys, *words)
    assert code == 0
    assert out.startswith("2 completions" if data == "tasks.jsonl" else "loss ")
    found = rows(out)
    assert all(len(row) == 2 for row in found.values())
    if data == "tasks.jsonl":
        real = repetition(["quick brown fox", "lazy dog"])
    else:
        assert found["words"][0] == found["words"][1]
        assert ("pieces of it overlap" in caplog.text) == (data == "short.txt")
        return
    assert found["distinct-2"][1] == f"{real.distinct[1]:.4f}"
    assert found["words"][1] == str(real.words)


def test_pieces_of_a_text_keep_their_words():
    words = words_of("I'm 18... 你好!! .")
    assert words_of(" ".join(words)) == words


@pytest.mark.parametrize(
    ("line", "decisive"),
    [
        ("r", "there is nothing to measure: give --data FILE, or --samples N"),
        ("r --samples 0", "--samples=0 must be at least 1"),
        ("r --samples 2 --max-new-tokens 1", "max_new_tokens=1 must be at least 2"),
        ("r --samples 2 --temperature -1", "--temperature=-1.0 must be"),
        ("r --samples 2 --top-p 0", "--top-p=0.0 must be"),
        ("r --samples 2 --mirostat-tau 1 --temperature 0", "--mirostat-tau has no effect at --temperature 0"),
        ("r --data a.txt --top-k 3", "--top-k has no effect without --samples"),
        ("r --data a.txt --no-penalize-prompt", "--penalize-prompt has no effect without --samples"),
        ("r --samples 2 --split val", "--split has no effect without --data"),
        ("r --samples 2 --max-tokens 5", "--max-tokens has no effect without --data"),
        ("r --samples 2 --encoding gbk", "--encoding has no effect without --data"),
        ("r --samples 2 --weights int8 --data nosuch", "nosuch"),
    ],
)
def test_what_has_no_effect_is_refused(capsys, here, line, decisive):
    refused(capsys, here, ["eval", *line.split()], decisive)


def test_what_no_text_is_long_enough_for_is_a_dash(capsys):
    from npgpt.cli.samples_report import print_figures

    print_figures([("samples", ["a", "b"])])
    found = rows(capsys.readouterr().out)
    assert found["distinct-1"] == ["1.0000"]
    assert found["distinct-2"] == found["repeated 4-grams"] == ["-"]
    assert math.isclose(float(found["words before a loop"][0]), 1)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], []),
        ([1, 1, 5], [1, 2, 5]),
        ([4.9, 5, 5], [3, 4, 5]),
        ([0, 1, 2], [0, 1, 2]),
    ],
)
def test_labels_stand_apart(places, expected):
    from npgpt.inspection.diversity import apart

    assert apart(places, 1, 0, 5) == pytest.approx(expected)


def test_rules_are_drawn_with_their_names_and_real_text():
    pytest.importorskip("matplotlib")
    from npgpt.inspection.diversity import draw
    from npgpt.inspection.losses import as_png

    points = {"greedy": (0.1, 0.9), "top-p 0.9": (0.5, 0.8), "temperature 1": (0.5, 0.8)}
    figure = draw(points, "run", "x", "y", real=(0.5, 1))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["greedy", "temperature 1", "top-p 0.9", "real text"]
    assert [line.get_xydata()[0].tolist() for line in axes.lines] == [[0.1, 0.9], [0.5, 0.8], [0.5, 0.8], [0.5, 1]]
    heights = [text.xyann[1] for text in axes.texts[1:]]
    assert heights == sorted(heights)
    assert len(set(heights)) == 3
    assert as_png(figure).startswith(b"\x89PNG")
    draw({"greedy": (0.1, 0.9)}, "run", "x", "y", None)


def test_a_stop_string_of_the_settings_is_in_no_sample():
    plain = sample(model(), ByteTokenizer(), [1], 3, Sampling(max_new_tokens=12))
    stop = plain[0].text[1:3]
    found = sample(model(), ByteTokenizer(), [1], 3, Sampling(max_new_tokens=12, stop=stop))
    assert [one.text for one in found] == [one.text.split(stop)[0] for one in plain]
