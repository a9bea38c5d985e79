"""How a step is shared among threads: a rule that depends on numbers alone."""

from types import SimpleNamespace

import pytest

from npgpt.config import PRESETS, GPTConfig
from npgpt.models.registry import shapes_of_model
from npgpt.training.threads import GAIN, Split, Work, choose, n_threads, seconds, settle, work_of


def work(preset, batch_size, n_positions, vocab_size=4096):
    sizes = PRESETS[preset] | {"n_positions": n_positions, "vocab_size": vocab_size}
    return work_of(shapes_of_model(GPTConfig(**sizes)), batch_size, teams=True)


WORKS = {
    "tiny 12 x 64": work("tiny", 12, 64, 65),
    "tiny 48 x 64": work("tiny", 48, 64, 65),
    "tiny 1 x 16": work("tiny", 1, 16, 65),
    "small 8 x 256": work("small", 8, 256),
    "small 5 x 256": work("small", 5, 256),
    "small 1 x 2048": work("small", 1, 2048),
    "gpt2 4 x 64": work("gpt2", 4, 64, 50257),
    "as little as there is": Work(100, 1, 1, 600.0, 1, 1),
}
EVERY = pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)


@EVERY
def test_threads_within_a_budget_never_cost_more_than_fewer(work):
    took = [seconds(work, choose(work, n), 64) for n in range(1, 65)]
    for n in range(1, 64):
        assert took[n] <= GAIN * min(took[:n])


@EVERY
def test_no_thread_is_used_that_does_not_help(work):
    for n in (2, 5, 16, 64):
        split = choose(work, n)
        fewer = [Split(g, m) for g in range(1, work.batch_size + 1) for m in range(1, n + 1) if g * m < split.threads]
        assert all(seconds(work, other, n) > seconds(work, split, n) for other in fewer)


@EVERY
@pytest.mark.parametrize("room", [None, 2])
def test_a_given_number_of_threads_is_obeyed_as_far_as_the_batch_goes(work, room):
    for n in (1, 2, 3, 7, 12, 16):
        assert choose(work, n, given=True, room=room).threads == min(n, work.batch_size * work.n_positions)


@EVERY
def test_each_group_has_a_row_and_each_member_a_token(work):
    for n in (1, 2, 3, 7, 16, 64):
        for given in (True, False):
            groups, members = choose(work, n, given)
            assert 1 <= groups <= work.batch_size
            assert 1 <= members <= work.batch_size // groups * work.n_positions


def test_a_tiny_step_uses_all_cores_of_a_desktop():
    assert [choose(WORKS["tiny 12 x 64"], n).threads for n in (1, 2, 4, 8, 16)] == [1, 2, 4, 8, 16]


def test_a_step_of_microseconds_uses_one_thread():
    assert choose(WORKS["as little as there is"], 16) == (1, 1)
    assert choose(Work(800, 4, 16, 5000.0, 1, 1), 16) == (1, 1)


def test_a_batch_of_one_row_uses_all_cores():
    assert choose(WORKS["small 1 x 2048"], 16) == (1, 16)


def test_a_model_that_is_large_for_its_batch_has_one_buffer_of_gradients():
    for n in (2, 4, 8, 16):
        assert choose(WORKS["gpt2 4 x 64"], n) == (1, n)


def test_members_share_what_rows_alone_would_share_unevenly():
    """12 rows on 8 threads would be 2, 2, 2, 2, 1, 1, 1 and 1: no faster than 6 threads with 2 each."""
    groups, members = choose(WORKS["tiny 12 x 64"], 8)
    assert groups * members == 8
    assert 12 % groups == 0


def test_threads_that_share_cores_do_not_wait_for_each_other():
    assert choose(WORKS["tiny 12 x 64"], 12, given=True, room=2) == (12, 1)
    assert choose(WORKS["tiny 12 x 64"], 12, given=True) == (1, 12)


def test_large_gradients_cost_more_than_meetings_where_cores_are_shared():
    assert choose(WORKS["gpt2 4 x 64"], 4, given=True, room=2) == (1, 4)


def test_without_teams_threads_are_workers_or_those_of_blas():
    def plain(size, batch_size, n_positions=64):
        return Work(size, batch_size, n_positions, 6.0 * size)

    assert choose(plain(800_000, 12), 2) == (2, 1)
    assert choose(plain(800_000, 12), 16) == (12, 1)
    assert choose(plain(800_000, 1), 8) == (1, 8)  # one row cannot be split
    assert choose(plain(124_000_000, 4), 2) == (1, 2)  # large for its batch
    assert choose(plain(800_000, 12), 1) == (1, 1)


def test_models_of_other_kinds_and_plain_ops_have_no_teams():
    model = shapes_of_model(GPTConfig(n_layer=3, n_head=2, n_embd=8, n_positions=16, vocab_size=9))
    assert work_of(model, 5, True) == (model.size, 5, 16, 3 * model.flops_per_token, 3, 2)
    assert work_of(model, 5, False)[4:] == (0, 0)
    other = SimpleNamespace(n_positions=16, n_layer=3, n_head=2)  # a configuration that is no GPTConfig
    assert work_of(SimpleNamespace(config=other, size=7, flops_per_token=2), 5, True) == (7, 5, 16, 6, 0, 0)


def test_a_machine_uses_its_cores_unless_the_user_says_otherwise(monkeypatch):
    tiny = WORKS["tiny 12 x 64"]
    monkeypatch.setattr("npgpt.training.threads.cores", lambda environ=None: 4 if environ is None else 6)
    assert n_threads(3) == 3
    assert n_threads(0) == n_threads() == 4
    assert settle(tiny) == choose(tiny, 4)
    assert settle(tiny, 6) == choose(tiny, 6, given=True)
    assert settle(tiny, 12) == choose(tiny, 12, given=True, room=6) == (12, 1)
