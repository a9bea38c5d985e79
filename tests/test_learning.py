"""What the scoreboard rests on: the same characters for all, losses that compare, and times read off a curve."""

import json
import math

import numpy as np
import pytest

from benchmarks import learning
from benchmarks.__main__ import main
from benchmarks.learning import Corpus, Learner, Point
from npgpt import GPT, GPTConfig

TINY = {"tokenizer": "chars", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 8, "ops": "reference"}


def test_a_loss_is_reached_on_the_line_between_two_points():
    curve = [Point(1.0, 3.0), Point(2.0, 2.0), Point(4.0, 2.5), Point(6.0, 1.5)]
    for loss, seconds in ((3.5, 1.0), (3.0, 1.0), (2.25, 1.75), (2.0, 2.0), (1.75, 5.5), (1.4, math.inf)):
        assert learning.time_to(loss, curve) == seconds
    assert learning.time_to(2.0, [Point(1.0, math.nan)]) == math.inf


def learner(name, *ends):
    sizes = GPTConfig(vocab_size=5, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    curves = [[Point(5.0, 2 * end), Point(10.0, end)] for end in ends]
    return Learner(name, sizes, TINY, None, 2, curves, [40] * len(ends))


def test_the_table_holds_medians_over_seeds_and_ratios_to_each_peer():
    rows = learning.scores(
        [learner("ours", 1.0, 1.2, 1.1), learner("slow", 1.5, 1.5, 2.4), learner("best", 1, 1, 1)], 10
    )
    ours, slow, best = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:])
    assert ours[2:] == ["40", "10.0 s", "1.1000 (1.0000 to 1.2000)", "", ""]
    # at 1.5 after 7.5 of 10 s, at 1.5 after 8.75, and at 2.4 at once
    assert slow[4:] == ["1.5000 (1.5000 to 2.4000)", "0.733", "7.5 s (0.75 of its time)"]
    assert best[4:] == ["1.0000 (1.0000 to 1.0000)", "1.100", "not reached"]


@pytest.mark.parametrize("tokenizer", ["chars", "bytes", "bpe:300"])
def test_losses_are_nats_a_character_whatever_a_token_is(tokenizer):
    """A model that knows nothing gives each token the same probability."""
    corpus = Corpus("天地玄黄 " * 40 + "all is well\n" * 40)
    made, train, val = corpus.encoded(tokenizer)
    assert made.decode(train) + made.decode(val) == corpus.text
    sizes, settings = learning.sizes_of(TINY | {"tokenizer": tokenizer}, made.vocab_size)
    zeros = {name: np.zeros_like(value) for name, value in GPT(sizes).params.items()}
    found = learning.loss_of(Learner("", sizes, settings, None), zeros, corpus)
    first = len(made.decode(val[:1]))
    assert found == pytest.approx((len(val) - 1) * math.log(made.vocab_size) / (len(corpus.parts[1]) - first))


def test_without_pytorch_the_recipes_are_compared_and_its_absence_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learning, "recipe", lambda *_: TINY | {"optimizer": "muon"})
    monkeypatch.setattr(learning, "NANOGPT", TINY)
    monkeypatch.setattr(learning, "PAUSE", 0)
    monkeypatch.setattr(learning, "installed", lambda package: False)
    text = tmp_path / "text"
    text.write_text("abab" * 100)
    options = ["learning", "--data", str(text), "--seconds", "0.1", "--seeds", "2", "--threads", "1"]
    assert main([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notes"] == ["torch is not installed: PyTorch is skipped"]
    assert [learner["name"] for learner in found["learners"]] == ["npgpt, its recipe", "npgpt, nanoGPT's recipe"]
    for made in found["learners"]:
        assert len(made["steps"]) == len(made["curves"]) == 2
        for curve in made["curves"]:
            seconds, losses = zip(*curve, strict=True)
            assert 0 < len(curve) <= (learning.POINTS if made is found["learners"][0] else 1)
            assert list(seconds) == sorted(seconds)
            assert all(0 < loss < 1 for loss in losses)  # log(2) is the loss of a model that knows nothing
    assert main(options) == 0
    out = capsys.readouterr().out
    assert "360 characters to train on, 40 for validation" in out
    assert "torch is not installed" in out


def test_a_run_takes_all_steps_of_its_schedule():
    """The rate falls to its end when the time is over, not before."""
    made = Learner("", *learning.sizes_of(TINY, 5), None)
    config = made.config(seed=3, steps=50)
    assert (config.seed, config.max_steps, config.warmup_steps) == (3, 50, 5)
