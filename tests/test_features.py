"""Texts as vectors: the states of the definition, with the bits that a text has alone; the commands that use them."""

import io
import json
import sys

import numpy as np
import pytest

import npgpt
from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.cli import main
from npgpt.generation.features import cosines
from npgpt.models.gpt2_int8 import Int8GPT
from npgpt.models.taps import Taps
from npgpt.tokenizer import ByteTokenizer, CharTokenizer
from tests.mistakes.tools import refused
from tests.test_cli import command

TEXTS = ["the quick brown fox", "", "床前明月光", "🙂 e\u0301\r\n", "a", "the fox " * 30, "b" * 20, "c" * 140]
BPE = Tokenizer.train(["the quick brown fox 床前明月光 🙂 e\u0301\r\n"] * 3, 270)
LINES = "the fox\r\n\n天地 🙂\nthe quick brown fox\n"
TINY = "--n-layer 2 --n-head 1 --n-embd 8 --n-positions 32 --max-steps 2 --eval-batches 1 --threads 1 --sample-tokens 0"


def model(vocab_size=256, n_positions=160, ops="fast", dtype="float32"):
    gpt = GPT(GPTConfig(vocab_size=vocab_size, n_positions=n_positions, n_embd=12, n_layer=2, n_head=2), 0, dtype, ops)
    gpt.params.flat[:] = 0.5 * np.random.default_rng(1).standard_normal(gpt.size)
    return gpt


def kinds():
    plain = type("Own", (GPT,), {"forward": lambda self, *args, **kwargs: GPT.forward(self, *args, **kwargs)})
    own = plain(model().config, params=model().params)
    return {"fast": model(), "reference": model(ops="reference"), "int8": Int8GPT.of(model()), "own forward": own}


@pytest.mark.parametrize("kind", kinds())
def test_a_text_has_the_same_bits_beside_any_others_in_any_order_and_on_any_threads(kind):
    gpt, tokenizer = kinds()[kind], ByteTokenizer()
    alone = [npgpt.features(gpt, tokenizer, text) for text in TEXTS]
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(TEXTS)), 9))
    for threads in (1, 2, 3):
        found = npgpt.features(gpt, tokenizer, [TEXTS[i] for i in order], threads=threads)
        assert (found.shape, found.dtype) == ((len(order), 12), np.float32)
        for i, vector in zip(order, found, strict=True):
            assert vector.tobytes() == alone[i].tobytes(), (threads, TEXTS[i])


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("kind", kinds())
def test_the_states_are_those_inside_the_forward(kind, layer):
    gpt, tokenizer = kinds()[kind], ByteTokenizer()
    taps = Taps(["h.0.in", "h.0.out", "ln_f"][layer])
    text = "the 床 fox"
    gpt.forward(tokenizer.encode("\n" + text)[None], taps=taps)
    expected = taps[taps.names[0]][0, 1:]  # without that of the line end
    for number in (layer, layer - 3):
        states = npgpt.features(gpt, tokenizer, [text], "none", number)[0]
        np.testing.assert_allclose(states, expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(npgpt.features(gpt, tokenizer, text, "last", layer), expected[-1], rtol=2e-4, atol=2e-5)
    mean = npgpt.features(gpt, tokenizer, text, layer=layer)
    np.testing.assert_allclose(mean, expected.mean(0), rtol=2e-4, atol=2e-5)


def test_the_last_layer_is_the_default():
    gpt, tokenizer = model(), ByteTokenizer()
    assert (npgpt.features(gpt, tokenizer, "a") == npgpt.features(gpt, tokenizer, "a", layer=-1)).all()
    assert (npgpt.features(gpt, tokenizer, "a") != npgpt.features(gpt, tokenizer, "a", layer=1)).any()


@pytest.mark.parametrize(
    ("after", "before"), [(None, [BPE.end_id]), ("end", [BPE.end_id]), ("line", [10]), ("nothing", [])]
)
def test_what_a_text_is_read_after_is_read_and_not_pooled(after, before):
    gpt = model(BPE.vocab_size, dtype="float64")
    before = list(BPE.encode("\n")) if before == [10] else before
    expected = gpt.features([[*before, *BPE.encode("the 床")]])[0, len(before) :]
    found = npgpt.features(gpt, BPE, ["the 床"], "none", after=after)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_an_empty_text_has_the_state_of_what_it_is_read_after():
    gpt, tokenizer = model(dtype="float64"), ByteTokenizer()
    found = npgpt.features(gpt, tokenizer, ["", "a"])
    np.testing.assert_allclose(found[0], gpt.features([[10]])[0, 0], rtol=1e-6)
    for after in ("line", "nothing"):
        states = npgpt.features(gpt, tokenizer, ["", "a"], "none", after=after)
        assert [one.shape for one in states] == [(0, 12), (1, 12)]
    assert npgpt.features(gpt, tokenizer, []).shape == (0, 12)
    assert npgpt.features(gpt, tokenizer, [], "none") == []


def test_a_text_past_the_context_is_read_in_windows_that_overlap_by_half():
    gpt, tokenizer = model(n_positions=8, dtype="float64"), ByteTokenizer()
    ids = tokenizer.encode("abcdefghijklmnopqr")
    found = npgpt.features(gpt, tokenizer, ["abcdefghijklmnopqr"], "none", after="nothing")[0]
    begins = [0] * 8 + [4] * 4 + [8] * 4 + [12] * 2
    for place, begin in enumerate(begins):
        expected = gpt.features(ids[None, begin : place + 1])[0, -1]
        np.testing.assert_allclose(found[place], expected, rtol=1e-5, atol=1e-6)


def test_special_tokens_are_plain_text_unless_they_are_allowed():
    gpt, end = model(BPE.vocab_size), "<|endoftext|>"
    plain, special = (npgpt.features(gpt, BPE, [end], "none", special=special)[0] for special in (False, True))
    assert len(plain) > len(special) == 1


def test_what_has_no_vector_is_refused():
    gpt, tokenizer = model(), ByteTokenizer()
    for options, words in (
        ({"pool": "max"}, "pool='max' must be one of mean, last, none"),
        ({"layer": 3}, r"layer=3 must be in -3..2"),
        ({"layer": -4}, r"layer=-4 must be in -3..2"),
        ({"after": "dog"}, "after='dog' must be one of end, line, nothing"),
        ({"after": "end"}, "no token that ends"),
    ):
        with pytest.raises(ValueError, match=words):
            npgpt.features(gpt, tokenizer, ["a"], **options)
    with pytest.raises(ValueError, match="an empty text after nothing"):
        npgpt.features(gpt, tokenizer, [""], after="nothing")
    with pytest.raises(TypeError, match="texts has 3"):
        npgpt.features(gpt, tokenizer, ["a", 3])
    with pytest.raises(ValueError, match="床"):
        npgpt.features(model(2), CharTokenizer(["ab"]), ["床"])
    gpt.params["wpe.weight"] = np.full((160, 12), np.nan)
    with pytest.raises(ValueError, match="not finite"):
        npgpt.features(gpt, tokenizer, ["a"])
    gpt.tap_names = list
    with pytest.raises(ValueError, match=r"2 blocks.*no hidden states"):
        npgpt.features(gpt, tokenizer, ["a"])


def test_cosines_are_those_of_the_formula():
    v, q = np.array([[3, 4], [-4, 3], [0, 0], [6, 8]], np.float32), np.array([3, 4], np.float32)
    np.testing.assert_allclose(cosines(v, q), [1, 0, np.nan, 1], atol=1e-15)
    np.testing.assert_allclose(cosines(v[:2], q, np.array([3, 0])), [1, 12 / (4 * np.hypot(7, 3))])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    (folder / "a.txt").write_bytes((LINES * 20).encode())
    (folder / "lines.txt").write_bytes(LINES.encode())
    texts = ["the fox", "", "天地 🙂", "the quick\nbrown fox"]
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "wrong.jsonl").write_text('{"text": "a"}\n{"content": "b"}\n')
    (folder / "long.txt").write_text("fox\n" + "the fox " * 40)
    (folder / "empty.txt").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data", "a.txt", "--tokenizer", "bpe:270", "--out", "r", *TINY.split()]) == 0
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("file", ["lines.txt", "lines.jsonl", "-"])
def test_row_i_of_the_file_is_the_vector_of_line_i(capsys, here, monkeypatch, caplog, pool, file):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINES.encode())))
    code, out, err = command(capsys, "features", "r", file, "--pool", pool, "--layer", "1", "--out", "v.npy")
    assert code == 0, err
    assert out.startswith("v.npy: 4 lines, 8 numbers each, in ")
    assert caplog.messages == ["1 empty line: the vector is that of what each text is read after"]
    texts = ["the fox", "", "天地 🙂", "the quick\nbrown fox" if "json" in file else "the quick brown fox"]
    gpt, tokenizer = GPT.from_pretrained("r"), Tokenizer.from_pretrained("r")
    # the run has learned one long text, so a line begins after a line end
    expected = npgpt.features(gpt, tokenizer, texts, pool, 1, after="line")
    np.testing.assert_array_equal(np.load("v.npy"), expected)


def test_without_pooling_each_row_is_a_token_with_its_line(capsys, here):
    assert (
        command(capsys, "features", "r", "lines.txt", "--pool", "none", "--out", "t.npy", "--after", "nothing")[0] == 0
    )
    rows, tokenizer = np.load("t.npy"), Tokenizer.from_pretrained("r")
    gpt = GPT.from_pretrained("r")
    for line, text in enumerate(["the fox", "", "天地 🙂", "the quick brown fox"], 1):
        of_line = rows[rows["line"] == line]
        assert of_line["id"].tolist() == list(tokenizer.encode(text))
        np.testing.assert_array_equal(
            of_line["vector"], npgpt.features(gpt, tokenizer, [text], "none", after="nothing")[0]
        )


def test_long_lines_are_said_to_be_read_in_windows(capsys, here, caplog):
    assert command(capsys, "features", "r", "long.txt", "--out", "v.npy")[0] == 0
    assert caplog.messages == ["1 of 2 texts are longer than the context of 32, and read in windows"]
    assert np.load("v.npy").shape == (2, 8)


def test_the_cosine_of_two_texts_is_printed(capsys, here):
    assert command(capsys, "similar", "r", "the fox", "the fox")[1] == "cosine  1.0000\n"
    found = json.loads(command(capsys, "similar", "r", "the fox", "天地", "--json")[1])
    a, b = npgpt.features(GPT.from_pretrained("r"), Tokenizer.from_pretrained("r"), ["the fox", "天地"], after="line")
    assert found == {"cosine": pytest.approx(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), rel=1e-5)}


@pytest.mark.parametrize("center", [[], ["--center"]])
def test_the_nearest_lines_come_first_with_their_numbers(capsys, here, caplog, center):
    options = ["--search", "lines.txt", "--json", *center]
    found = [json.loads(line) for line in command(capsys, "similar", "r", "天地 🙂", *options)[1].splitlines()]
    assert caplog.messages == ["lines.txt: 1 blank line left out"]
    assert (found[0]["line"], found[0]["text"]) == (3, "天地 🙂")
    assert found[0]["cosine"] == pytest.approx(1)
    assert {one["line"] for one in found} == {1, 3, 4}
    assert [one["cosine"] for one in found] == sorted((one["cosine"] for one in found), reverse=True)
    table = command(capsys, "similar", "r", "天地 🙂", "--search", "lines.txt", "-k", "1", *center)[1]
    assert table == "  line   cosine    text\n     3   1.0000    天地 🙂\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("features r wrong.jsonl --out v.npy", "wrong.jsonl:2: expected 'text' with a string"),
        ("features r lines.txt --out v.npy --after nothing", "lines.txt:2: an empty text after nothing"),
        ("features r lines.txt --out v.txt", "--out v.txt: give a file that ends in .npy"),
        ("features r lines.txt --out v.npy --layer 3", "layer=3 must be in -3..2"),
        ("features r lines.txt --out v.npy --threads -1", "--threads=-1 must be at least 0"),
        ("features r empty.txt --out v.npy", "empty.txt: "),
        ("similar r a", "error: 1 text: give two texts to compare"),
        ("similar r a b --search lines.txt", "2 texts: give one text, the query, beside --search"),
        ("similar r a b --center", "--center has no effect without --search"),
        ("similar r a b -k 3", "-k has no effect without --search"),
        ("similar r a --search lines.txt -k 0", "-k=0 must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(capsys, here, words, line):
    refused(capsys, here, words.split(), line)
