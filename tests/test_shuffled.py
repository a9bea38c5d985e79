"""Shuffled windows: each epoch cuts the text elsewhere and takes each window once, whatever was drawn before."""

import itertools
import tracemalloc

import numpy as np
import pytest

from npgpt import TrainConfig
from npgpt.data.batch import Text, epoch_starts, n_windows
from tests.test_cli import command


def config(**settings):
    return TrainConfig(windows="shuffled", **settings)


def drawn(text: Text, steps: int, **settings) -> list[list[int]]:
    """Return the windows of some steps in the order in which they are drawn."""
    batches = itertools.chain(*(text.draw(step, config(**settings)) for step in range(steps)))
    return [row for batch in batches for row in batch.ids.tolist()]


@pytest.mark.parametrize(("n", "T"), [(200, 6), (201, 6), (204, 6), (12, 6), (13, 6), (64, 1), (1000, 64)])
def test_every_token_is_a_target_once_an_epoch_but_for_the_ends(n, T):
    for epoch in range(20):
        starts = np.sort(epoch_starts(n, T, 3, epoch))
        assert len(starts) == n_windows(n, T) == n // T - 1
        np.testing.assert_array_equal(np.diff(starts), T)
        assert 0 <= starts[0]
        last = starts[-1] + T  # the last target
        assert last < n
        assert starts[0] + n - 1 - last < 2 * T, "fewer than two windows are left out"


@pytest.mark.parametrize(("n", "T"), [(200, 6), (12, 6), (11, 6), (8, 6), (7, 6)])
def test_all_places_are_reached(n, T):
    """With enough epochs every token is an input, and every token but the first a target."""
    starts = np.concatenate([epoch_starts(n, T, 1, epoch) for epoch in range(100)])
    assert set((starts[:, None] + np.arange(T)).ravel().tolist()) == set(range(n - 1))


def test_epochs_differ_in_offset_and_order():
    epochs = [epoch_starts(2000, 20, 1, epoch) for epoch in range(40)]
    assert len({int(starts.min()) for starts in epochs}) > 10
    orders = {tuple((starts // 20).tolist()) for starts in epochs}
    assert len(orders) == 40
    assert not (np.diff(epochs[0]) > 0).all()


def test_windows_are_the_text_and_targets_what_follows():
    [batch] = Text(np.arange(100, dtype=np.uint8), 7).draw(3, config(batch_size=4))
    assert batch.ids.dtype == batch.targets.dtype == np.int64
    np.testing.assert_array_equal(np.diff(batch.ids), 1)
    np.testing.assert_array_equal(batch.targets, batch.ids + 1)


@pytest.mark.parametrize("settings", [{"batch_size": 5}, {"batch_size": 2, "gradient_accumulation_steps": 3}])
def test_steps_take_one_window_after_another_across_epochs(settings):
    """9 windows an epoch, which neither 5 nor 6 divides."""
    text, per_step = Text(np.arange(100), 10), settings["batch_size"] * settings.get("gradient_accumulation_steps", 1)
    rows = drawn(text, 9, seed=4, **settings)
    assert len(rows) == 9 * per_step
    expected = [start for epoch in range(per_step) for start in epoch_starts(100, 10, 4, epoch).tolist()]
    assert [row[0] for row in rows] == expected


def test_a_batch_may_be_larger_than_the_text():
    rows = drawn(Text(np.arange(31), 10), 2, batch_size=7, seed=2)  # two windows an epoch
    expected = [start for epoch in range(7) for start in epoch_starts(31, 10, 2, epoch).tolist()]
    assert [row[0] for row in rows] == expected


def test_a_text_of_one_window_is_that_window():
    assert drawn(Text(np.arange(7), 6), 1, batch_size=3) == [[0, 1, 2, 3, 4, 5]] * 3


def test_a_step_depends_on_seed_and_step_only():
    text = Text(np.arange(300), 6)
    later = text.draw(40, config(seed=1))[0].ids
    text.draw(3, config(seed=2))
    np.testing.assert_array_equal(text.draw(40, config(seed=1))[0].ids, later)
    assert (text.draw(40, config(seed=2))[0].ids != later).any()
    assert (text.draw(41, config(seed=1))[0].ids != later).any()


def test_an_epoch_takes_little_memory_and_is_made_once():
    """100 MB of text in windows of 64 are 1.6 million numbers of 8 bytes, once while they are made and kept."""
    n, T = 100_000_000, 64
    tracemalloc.start()
    starts = epoch_starts(n, T, 5, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.1 * 8 * n / T
    assert epoch_starts(n, T, 5, 0) is starts
    with pytest.raises(ValueError, match="read-only"):
        starts[0] = 0


def test_packed_rows_are_shuffled_already(capsys, tmp_path):
    flags = ["--windows", "shuffled", "--out", tmp_path / "r"]
    code, out, err = command(capsys, "train", "--data", "tales:en", *flags)
    assert (code, out) == (2, "")
    assert "--windows shuffled has no effect on packed rows" in err
    assert not (tmp_path / "r").exists()


def test_a_decay_share_needs_a_trapezoid(capsys, tmp_path):
    (tmp_path / "a.txt").write_text("a text of some length " * 50)
    flags = ["--decay-share", "0.3", "--schedule", "cosine", "--out", tmp_path / "r"]
    code, _, err = command(capsys, "train", "--data", tmp_path / "a.txt", *flags)
    assert code == 2
    assert "--decay-share 0.3 has no effect with --schedule cosine" in err
