"""Small presets, and what `npgpt info` says of a model's size and speed with weights of 32 and of 8 bits."""

import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from npgpt import GPT, GPTConfig
from npgpt.cli import main
from npgpt.config import CHARACTERS, preset, usual_preset
from npgpt.data.batch import Batch
from npgpt.data.tales import texts
from npgpt.inspection import speed
from npgpt.models.gpt2_int8 import Int8GPT
from npgpt.models.registry import open_model, sizes_to_sample
from npgpt.tokenizer import Tokenizer
from tests.conftest import mostly_big
from tests.test_cli import command

CONFIG = GPTConfig(vocab_size=11, n_positions=5, n_embd=8, n_layer=2, n_head=2)


@pytest.mark.parametrize(("name", "millions"), [("nano", 0.094), ("micro", 0.282), ("tiny", 0.810), ("small", 10.771)])
def test_small_presets_have_their_sizes_with_the_vocabulary_that_goes_with_them(name, millions):
    config, _ = usual_preset(name)
    assert config.n_parameters / 1e6 == pytest.approx(millions, abs=5e-4)
    assert config.vocab_size == {"nano": 512, "micro": 1024}.get(name, CHARACTERS)


def test_a_vocabulary_that_is_given_is_that_of_a_preset():
    assert (preset("nano").vocab_size, preset("nano", vocab_size=7).vocab_size) == (512, 7)
    assert [usual_preset(name, vocab_size=9)[0].vocab_size for name in ("nano", "tiny", "gpt2")] == [9, 9, 9]
    assert usual_preset("gpt2")[0].vocab_size == 50257


@pytest.mark.parametrize("changes", [{}, {"bias": False, "tie_word_embeddings": False, "n_inner": 5}], ids=["", "odd"])
def test_sizes_are_those_of_the_files_and_of_the_arrays(changes, tmp_path):
    model = GPT(GPTConfig(**vars(CONFIG) | changes))
    small = Int8GPT.of(model)
    found = sizes_to_sample(model.config)
    for kind, one in ("float32", model), ("int8", small):
        one.save_pretrained(tmp_path / kind)
        assert found[kind].disk == sum(a.nbytes for a in load_file(tmp_path / kind / "model.safetensors").values())
    past = model.new_past()
    cache = past.keys.nbytes + past.values.nbytes
    assert found["float32"].memory == model.params.flat.nbytes + cache
    assert small.decoder(1, 1) is not None
    assert found["int8"].memory == small.nbytes + small._panels.flat.nbytes + cache


@pytest.mark.parametrize("T", [1, 2, 5])
def test_speed_is_that_of_single_tokens_that_nothing_disturbed(T, monkeypatch):
    """By a clock of the test's: two of three calls are slowed down by something."""
    monkeypatch.setattr(speed, "TOKENS", 20)
    model = GPT(GPTConfig(**vars(CONFIG) | {"n_positions": T}))
    decoder = model.decoder(1, speed.READ, threads=1)
    plain, lengths, now = decoder.read, [], [0.0]

    def read(slots, ids, wanted):
        lengths.append((int(decoder.lengths[0]), len(ids)))
        now[0] += 0.05 if len(lengths) % 3 else 0.004
        return plain(slots, ids, wanted)

    made = {}
    monkeypatch.setattr(decoder, "read", read)
    monkeypatch.setattr(model, "decoder", lambda *args, **options: made.update(options) or decoder)
    assert speed.tokens_per_second(model, lambda: now[0]) == pytest.approx(1 / 0.004)
    assert made == {"threads": 1}
    start = T // 2
    assert lengths[: start > 0] == [(0, start)][: start > 0], "a context is half full at first"
    assert all(start <= before < T and n == 1 for before, n in lengths[start > 0 :])


def test_a_model_without_a_decoder_has_no_speed():
    assert speed.tokens_per_second(GPT(CONFIG, ops="reference")) is None
    assert speed.tokens_per_second(object()) is None


# --- the commands


def test_info_says_with_which_vocabulary_a_preset_has_its_size(capsys):
    for words, said in (
        (("nano",), "vocabulary: 512 tokens, the preset's own; --vocab-size"),
        (("tiny",), "vocabulary: 65 tokens, the characters of a text in English; "),
        (("gpt2",), "vocabulary: 50,257 tokens, that of GPT-2; "),
        (("nano", "--vocab-size", "700"), "vocabulary: 700 tokens, the given one; "),
    ):
        assert said in command(capsys, "info", "--no-speed", "--preset", *words)[1]


def rows(out):
    """Return {kind of weights: (on disk, in memory, tokens/s)} of info's table; None for no speed."""
    found = re.findall(r"^  (float32|int8) +([\d.]+ .B) +([\d.]+ .B) +(-|[\d,.]+ tokens/s)$", out, re.MULTILINE)
    return {kind: (disk, memory, None if shown == "-" else shown) for kind, disk, memory, shown in found}


def test_info_measures_a_preset_and_a_run_of_either_kind(tmp_path, capsys):
    Int8GPT.of(GPT(CONFIG)).save_pretrained(tmp_path / "int8")
    GPT(CONFIG, dtype="float64").save_pretrained(tmp_path / "float64")
    for words, measured in (
        (("--preset", "nano"), {"float32", "int8"}),
        ((tmp_path / "float64",), {"float32", "int8"}),
        ((tmp_path / "int8",), {"int8"}),  # whose floats are gone
    ):
        code, out, err = command(capsys, "info", *words)
        assert (code, err) == (0, "")
        assert {kind for kind, (*_, shown) in rows(out).items() if shown} == measured
        assert "not measured" not in out
    assert rows(command(capsys, "info", "--preset", "nano", "--no-speed")[1]) == {
        "float32": ("374.0 kB", "570.6 kB", None),
        "int8": ("139.9 kB", "471.7 kB", None),
    }


def test_info_says_why_a_speed_is_not_measured(monkeypatch, capsys):
    made = []
    monkeypatch.setattr("npgpt.inspection.speed.tokens_per_second", lambda model: made.append(model))
    for words, free, why in (
        (("gpt2-medium",), None, "the model has more than 200 million parameters"),
        (("nano",), 900_000, "it would take 1.0 MB, and 900.0 kB are free"),
        (("nano", "--no-speed"), None, "--no-speed"),
    ):
        monkeypatch.setattr("npgpt.support.machine.available_memory", lambda free=free: free)
        out = command(capsys, "info", "--preset", *words)[1]
        assert f"speed is not measured: {why}\n" in out
        assert not made


STEPS = {"nano": 60, "micro": 40, "tiny": 40, "small": 60}


@pytest.mark.parametrize("name", mostly_big(STEPS, "nano".__eq__))
def test_a_preset_trains_and_its_weights_of_8_bits_decode(name, tmp_path, monkeypatch, capsys):
    """The loss is that of the floats, to a hundredth. In a text, one token that differs changes all that follow, so the
    likeliest tokens after each of a given text are compared."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("\n\n".join(text for text, _ in zip(texts(0, "en"), range(40), strict=False)))
    words = f"train --data a.txt --preset {name} --out r --max-steps {STEPS[name]} --batch-size 4 --threads 1"
    assert main([*words.split(), "--eval-batches", "1", "--final-eval-tokens", "600", "--sample-tokens", "0"]) == 0
    assert main(["export", "r", "--weights", "int8", "--out", "r8"]) == 0
    plain, rounded = (open_model(tmp_path / run) for run in ("r", "r8"))
    ends = {end: getattr(plain.config, end) for end in ("bos_token_id", "eos_token_id")}
    own = {} if name in ("nano", "micro") else {"vocab_size": plain.config.vocab_size}
    assert plain.config == preset(name, **own, **ends)
    tokenizer = Tokenizer.from_pretrained(tmp_path / "r")
    ids = np.array(tokenizer.encode((tmp_path / "a.txt").read_text()))[: 8 * 64 + 1]
    batch = Batch(ids[:-1].reshape(8, 64), ids[1:].reshape(8, 64))
    before, after = plain.loss(batch), rounded.loss(batch)
    assert before < 0.95 * np.log(plain.config.vocab_size), "it has learned something"
    assert after == pytest.approx(before, rel=0.01)
    likeliest = [model.forward(batch.ids).argmax(-1) for model in (plain, rounded)]
    assert np.mean(likeliest[0] == likeliest[1]) > 0.9
    capsys.readouterr()
    assert main(["sample", "r8", "--max-new-tokens", "20", "--temperature", "0"]) == 0
    assert len(capsys.readouterr().out) > 20
