"""The law of losses: its counts against counting by hand, its constants and its range against the stored runs."""

import argparse
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from benchmarks import recipes
from npgpt.training import law
from npgpt.training.law import Traits, count_traits, counting_probs, expected_loss, with_copying

RUNS = recipes.runs()
SHAKESPEARE = Traits(**recipes.corpora()["shakespeare"]["traits"])


@pytest.fixture(scope="module")
def outside():
    return recipes.left_out(RUNS)


def test_the_bigram_loss_is_that_of_counting_by_hand():
    rng = np.random.default_rng(0)
    seen, held = rng.integers(0, 5, 60), rng.integers(0, 6, 20)  # 5 is never seen
    follows = Counter(pairwise([0, *seen]))  # 0 stands before the beginning
    before = Counter([0, *seen[:-1]])
    times = Counter(seen)
    total = 0.0
    for c, x in zip([seen[-1], *held[:-1]], held, strict=True):
        single = (max(times[x] - 0.75, 0) + 0.75 * len(times) / 6) / 60
        kinds = len({after for one, after in follows if one == c})
        p = (max(follows[c, x] - 0.75, 0) + 0.75 * kinds * single) / before[c] if before[c] else single
        total -= math.log(p)
    assert -np.log(counting_probs(seen, held, 6)[1]).mean() == pytest.approx(total / 20, rel=1e-12)


def test_copying_expects_what_followed_the_same_tokens_before():
    """Pieces of 50 tokens of chance, each told twice: nothing to count, but the second time all can be copied."""
    rng = np.random.default_rng(0)
    ids = np.concatenate([np.tile(rng.integers(0, 30, 50), 2) for _ in range(40)])
    chance = np.full(len(ids), 1 / 30)
    mixed = -np.log(with_copying(ids, chance)).mean()
    assert mixed < 0.65 * math.log(30)
    assert (chance == 1 / 30).all()
    far = np.concatenate([(piece := rng.integers(0, 30, 50)), rng.integers(0, 30, 300), piece])
    assert -np.log(with_copying(far, np.full(400, 1 / 30))[350:]).mean() > 0.9 * math.log(30)


def test_a_text_that_repeats_itself_has_no_loss_left():
    traits = count_traits(np.tile(np.arange(7), 300), 7)
    assert traits.tokens == 2100
    assert traits.unigram == pytest.approx(math.log(7), abs=0.01)
    assert traits.bigram < 0.02
    assert traits.counted < 0.02
    assert expected_loss(count_traits(np.zeros(5000, int), 7), 10**5, 10**5).loss < 0.1  # no division by zero


def test_a_text_of_chance_has_the_loss_of_chance():
    traits = count_traits(np.random.default_rng(0).integers(0, 8, 40_000), 8)
    for loss in (traits.unigram, traits.bigram, traits.counted, traits.quarter):
        assert loss == pytest.approx(math.log(8), rel=0.02)


def test_a_long_text_is_sampled(monkeypatch):
    """A part of the text that the sample leaves out does not change the traits; its length does."""
    monkeypatch.setattr(law, "SAMPLE", 2000)
    ids = np.random.default_rng(0).integers(0, 9, 50_000).astype(np.uint16)
    before = count_traits(ids, 9)
    other = ids.copy()
    other[60:1000] = 0  # between the first piece and the second
    assert count_traits(other, 9) == before
    assert count_traits(np.tile(ids, 2), 9).tokens == 100_000


def test_the_text_to_validate_with_may_be_given():
    rng = np.random.default_rng(0)
    ids, other = rng.integers(0, 4, 5000), rng.integers(4, 9, 500)
    assert count_traits(ids, 9, held=ids[-500:]).unigram < 1.5
    assert count_traits(ids, 9, held=other).unigram > 4
    assert count_traits(ids, 9) == count_traits(ids[:4500], 9, held=ids[4500:])._replace(tokens=5000)


def test_a_text_that_is_too_short_to_count_is_refused():
    with pytest.raises(ValueError, match="a text of 199 tokens is too short"):
        count_traits(np.zeros(199, int), 3)


def test_the_constants_are_those_that_the_stored_runs_give():
    assert recipes.fit(RUNS) == pytest.approx(law.FITTED, rel=0.01)


def test_the_range_is_how_far_the_law_is_off_texts_left_out(outside):
    assert recipes.spread(outside) == pytest.approx(law.OFF_OUTSIDE, rel=0.02)
    assert len(outside) >= 8
    within = [np.mean(np.abs(off) <= law.OFF_OUTSIDE * 1.02) for off in outside.values()]
    assert np.mean(within) >= 0.8


def test_the_law_beats_a_guess_on_texts_left_out(outside):
    """The guess knows the loss of all other texts, or the text's own count of bigrams."""
    off = np.sqrt(np.mean(np.concatenate(list(outside.values())) ** 2))
    losses = np.log([row["loss"] for row in RUNS])
    bigrams = np.log([row["traits"].bigram for row in RUNS])
    assert off < 0.4 * losses.std()
    assert off < 0.6 * (losses - bigrams).std()


def test_what_the_law_says_of_a_stored_run_holds_its_loss():
    row = next(row for row in RUNS if row["corpus"] == "shakespeare")
    found = expected_loss(SHAKESPEARE, row["block_parameters"], row["tokens_seen"])
    assert found.low < row["loss"] < found.high
    assert found.low < found.loss < found.high


def test_more_text_and_more_tokens_are_better_while_nothing_is_repeated():
    long = SHAKESPEARE._replace(tokens=10**9)
    losses = [expected_loss(long, 800_000, n).loss for n in (10**5, 10**6, 10**7, 10**8)]
    assert losses == sorted(losses, reverse=True)


def test_a_repeated_text_is_worth_less_than_a_new_one():
    short, long = (SHAKESPEARE._replace(tokens=n) for n in (20_000, 10**7))
    assert expected_loss(short, 800_000, 10**6).loss > expected_loss(long, 800_000, 10**6).loss


def test_a_small_text_is_overfitted_sooner_by_a_large_model():
    short = SHAKESPEARE._replace(tokens=20_000)

    def best(n_parameters):
        seen = np.geomspace(10**4, 10**7, 60)
        return seen[np.argmin([expected_loss(short, n_parameters, int(n)).loss for n in seen])]

    assert best(3_000_000) < best(100_000)


def test_least_squares_finds_a_known_minimum():
    x = np.linspace(0, 1, 20)
    found = recipes.least_squares(lambda p: p[0] * np.exp(-p[1] * x) - 3 * np.exp(-2 * x), np.array([1.0, 1.0]))
    assert found == pytest.approx([3, 2], rel=1e-5)


def test_an_interval_is_student_s():
    assert recipes.interval(np.array([0.1, 0.2, 0.3])) == "+0.2000 ± 0.2484"


def test_every_stored_run_is_complete():
    names = set(recipes.corpora())
    for row in [*recipes.read("runs"), *recipes.read("ablations")]:
        assert row["corpus"] in names
        assert row["tokens_seen"] == row["steps"] * row["batch_size"] * row["n_positions"]
        assert row["block_parameters"] < row["parameters"]
        assert 0 < row["loss"] < 12
        assert row["seconds"] > 0
        assert row["seed"] >= 0


def test_no_loss_above_that_of_a_guess_is_expected():
    """Of a text whose end is another text, the counts foretell hundreds of nats."""
    ids = np.repeat([0, 1], [900, 100])
    expected = expected_loss(count_traits(ids, 2), 10**6, 10**6)
    assert 0 < expected.low <= expected.loss <= expected.high <= np.log(2) + 1e-12


def test_a_stored_run_has_the_steps_that_it_took(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("To be, or not to be, that is the question.\n" * 60, encoding="utf-8")
    size = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 16, "batch_size": 2, "ops": "reference"}
    row = recipes.trained(str(text), size | {"max_steps": 40, "eval_every": 1, "patience": 1, "learning_rate": 3.0})
    assert row["steps"] < 40
    assert row["tokens_seen"] == 2 * 16 * row["steps"]


@pytest.mark.parametrize(("text", "settings"), [("nope.txt", "{}"), ("tales:en", "{"), ("tales:en", '{"n_layer": 0}')])
def test_a_run_that_is_not_possible_is_one_line(capsys, text, settings):
    assert recipes.run(argparse.Namespace(what="run", text=text, settings=settings)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
