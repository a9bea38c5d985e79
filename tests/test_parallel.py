"""A step over shards: the same loss, gradients and parameters as of the whole batch, and the same bits each time."""

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from npgpt import GPT, AdamW, GPTConfig, generate
from npgpt.data.batch import Batch
from npgpt.optim.schedule import clip_scale
from npgpt.support.buffers import Buffers
from npgpt.support.crew import Crew
from npgpt.training.threads import Split
from npgpt.training.workers import Workers

CONFIG = GPTConfig(vocab_size=7, n_positions=6, n_embd=8, n_layer=2, n_head=2)
DROPOUT = GPTConfig(**vars(CONFIG) | {"resid_pdrop": 0.2, "embd_pdrop": 0.1, "attn_pdrop": 0.3})


def micro_batches(rng, masks):
    """Return batches of (rows, masked targets) each, 5 tokens a row."""
    batches = []
    for rows, masked in masks:
        ids, targets = rng.integers(0, 7, (2, rows, 5))
        targets[rng.permuted(np.arange(rows * 5) < masked).reshape(rows, 5)] = -100
        batches.append(Batch(ids, targets))
    return batches


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    "masks",
    [[(4, 0)], [(2, 0), (2, 0)], [(2, 1), (2, 9), (2, 4)], [(1, 0), (3, 2)], [(2, 10), (2, 3)], [(2, 3), (2, 10)]],
    ids=str,
)
def test_gradients_of_shards_and_batches_are_those_of_the_whole(rng, masks, threads, tied):
    model = GPT(GPTConfig(**vars(CONFIG) | {"tie_word_embeddings": tied}), 1, "float64")
    model.params.flat *= 20
    batches = micro_batches(rng, masks)
    full = [np.concatenate([getattr(batch, name) for batch in batches]) for name in ("ids", "targets")]
    full_loss, full_grads = model.loss_and_grads(*full)
    with Workers(model, batch_size=max(rows for rows, _ in masks), threads=threads) as workers:
        for _ in range(2):  # the second time in memory that is not fresh
            loss, grads, norm = workers.loss_and_grads(batches)
            assert loss == pytest.approx(full_loss, rel=1e-13)
            # a few hundred additions in another order: some 1e-15 of the norm
            assert np.linalg.norm(grads.flat - full_grads.flat) < 1e-13 * np.linalg.norm(full_grads.flat)
            assert norm == pytest.approx(np.linalg.norm(full_grads.flat), rel=1e-13)


def test_batches_in_which_no_target_counts_have_no_gradient(rng):
    with Workers(GPT(CONFIG, 1), 2, 2) as workers:
        workers.grads[1].flat.fill(np.nan)
        loss, grads, norm = workers.loss_and_grads(micro_batches(rng, [(2, 10), (1, 5)]))
    assert loss == norm == 0
    assert not grads.flat.any()


def test_no_batch_at_all_is_refused():
    with Workers(GPT(CONFIG, 1), 2, 2) as workers, pytest.raises(ValueError, match="no batch"):
        workers.loss_and_grads([])


def trained(threads, config=CONFIG):
    model = GPT(config, 0)
    optimizer = AdamW(model.params, update=model.ops.adamw_update)
    with Workers(model, 5, threads) as workers:
        for step in range(4):
            batches = micro_batches(np.random.default_rng(step), [(5, 3), (5, 0)])
            _, _, norm = workers.loss_and_grads(batches, seed=(3, step))
            workers.update(optimizer, 1e-2, clip_scale(norm, 1.0))
    return model.params.flat


@pytest.mark.parametrize("config", [CONFIG, DROPOUT], ids=["plain", "dropout"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_seed_and_threads_give_the_same_bits(threads, config):
    np.testing.assert_array_equal(trained(threads, config), trained(threads, config))


def test_more_threads_change_roundings_alone():
    for threads in (2, 3):
        # float32 parameters of order one, so this is less than a hundred of their roundings
        np.testing.assert_allclose(trained(threads), trained(1), rtol=0, atol=1e-5)


def test_dropout_masks_follow_the_seed_and_differ_between_workers():
    ids, targets = np.zeros((2, 2, 6), int)  # both workers have the same sequence
    with Workers(GPT(DROPOUT, 0), 2, 2) as workers:
        losses = [workers.loss_and_grads([Batch(ids, targets)], seed)[0] for seed in ((0, 0), (0, 0), (0, 1), None)]
        halves = [grads.flat.copy() for grads in workers.grads]
        workers.loss_and_grads([Batch(ids, targets)], (0, 0))
        assert not np.array_equal(workers.grads[0].flat - workers.grads[1].flat, workers.grads[1].flat)
    assert losses[0] == losses[1] != losses[2] != losses[3]
    np.testing.assert_array_equal(halves[0] - halves[1], halves[1])  # without masks they have the same gradient


def test_a_step_needs_no_more_memory_than_the_one_before():
    model = GPT(CONFIG, 0)
    with Workers(model, 4, 2) as workers:
        sizes = []
        for step in range(3):
            workers.loss_and_grads(micro_batches(np.random.default_rng(step), [(4, 0), (4, 3)]))
            sizes.append([team.memory.nbytes for team in workers.teams])
    assert sizes[0] == sizes[1] == sizes[2]
    assert min(sizes[0]) > 0


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_adamw_in_parts_is_adamw(threads, rng):
    whole, parted = GPT(CONFIG, 0, "float64"), GPT(CONFIG, 0, "float64")
    grads = whole.params.empty_like()
    one = AdamW(whole.params, update=whole.ops.adamw_update)
    other = AdamW(parted.params, update=parted.ops.adamw_update)
    with Workers(parted, 3, threads) as workers:
        for _ in range(3):
            grads.flat[:] = rng.standard_normal(grads.flat.shape)
            workers.grads[0].flat[:] = grads.flat
            one.step(grads, 1e-2, 0.5)
            workers.update(other, 1e-2, 0.5)
    np.testing.assert_array_equal(parted.params.flat, whole.params.flat)
    assert one.steps == other.steps == 3


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_workers_or_blas_have_the_threads_never_both():
    before = blas_threads()
    for batch_size in (4, 1):
        with Workers(GPT(CONFIG, 0), batch_size, 2) as workers:
            assert workers.n == 2
            assert set(blas_threads()) == {1}
        assert blas_threads() == before
    with Workers(GPT(CONFIG, 0, ops="reference"), 1, 2) as workers:
        assert workers.n == 1
        assert set(blas_threads()) == {2}


def test_a_token_is_sampled_with_one_blas_thread_and_a_long_prompt_of_a_large_model_with_all(monkeypatch):
    seen = []

    class Watched(GPT):
        def forward(self, *args, **kwargs):
            seen.append(set(blas_threads()))
            return super().forward(*args, **kwargs)

    monkeypatch.setattr("npgpt.training.blas.cores", lambda: 3)
    with threadpool_limits(2):
        for _ in generate(Watched(CONFIG, 0), [1, 2, 3], 2):
            assert set(blas_threads()) == {2}  # between two tokens, the caller has its own
        monkeypatch.setattr("npgpt.training.blas.PARAMETERS_TIMES_TOKENS", 2 * GPT(CONFIG).size)
        list(generate(Watched(CONFIG, 0), [1, 2, 3], 2))
    assert seen == [{1}, {1}, {3}, {1}]


@pytest.mark.parametrize("starts", [None, 2 * np.arange(7)[:, None]], ids=["one text", "several"])
def test_parts_are_the_batch_in_order(starts):
    ids = np.arange(7)[:, None]
    for n in range(1, 9):
        parts = [Batch(ids, -ids, starts).part(i, n) for i in range(n)]
        np.testing.assert_array_equal(np.concatenate([part.ids for part in parts]), ids)
        np.testing.assert_array_equal(np.concatenate([part.targets for part in parts]), -ids)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        if starts is None:
            assert all(part.starts is None for part in parts)
        else:
            np.testing.assert_array_equal(np.concatenate([part.starts for part in parts]), starts)


def test_an_error_in_a_worker_reaches_the_caller_when_all_have_stopped():
    ids = np.zeros((2, 3), int)
    ids[1, 2] = 99
    with Workers(GPT(CONFIG, 0), 2, 2) as workers:
        with pytest.raises(ValueError, match="id 99 is outside"):
            workers.loss_and_grads([Batch(ids, ids)])
        with pytest.raises(ValueError, match="id 99 is outside"):
            workers.loss_and_grads([Batch(ids[::-1], ids[::-1])])
        assert np.isfinite(workers.loss_and_grads([Batch(ids[:1], ids[:1])])[0])


def test_a_crew_does_all_at_the_same_time_and_ends_all_before_it_raises():
    ended = []

    def arrive(i):
        barrier.wait(10)
        return i

    def meet(i):
        try:
            barrier.wait(10)  # raises if not all are there at once
            if i in (1, 2):
                raise ValueError(f"{i} does not like it")
            time.sleep(0.01)
            return i
        finally:
            ended.append(i)

    for n in (1, 2, 5):
        with Crew(n) as crew:
            barrier = threading.Barrier(n)  # serves again and again
            for _ in range(50):
                assert crew.run(arrive, range(n)) == list(range(n))
            if n > 1:
                ended.clear()
                with pytest.raises(ValueError, match="1 does not like it"):
                    crew.run(meet, range(n))
                assert sorted(ended) == list(range(n))
                with pytest.raises(ValueError, match="more than the"):
                    crew.run(meet, range(n + 1))


@pytest.mark.skipif(sys.platform == "win32", reason="a process there cannot send itself a Ctrl-C alone")
def test_a_ctrl_c_leaves_no_call_and_no_result_behind():
    ended = []

    def slow(i):
        if i:
            time.sleep(0.3)
            ended.append(i)
        return i

    with Crew(3) as crew:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()  # while the first thread waits
        with pytest.raises(KeyboardInterrupt):
            crew.run(slow, range(3))
        assert sorted(ended) == [1, 2]
        assert crew.run(lambda i: 10 * i, range(3)) == [0, 10, 20]


def test_a_ctrl_c_before_a_member_begins_lets_the_others_go(monkeypatch):
    ids = np.arange(6).reshape(2, 3)
    with Workers(GPT(CONFIG, 0), 2, split=Split(1, 2)) as workers:
        with monkeypatch.context() as patch:
            enter = Buffers.__enter__

            def interrupted(self):
                if threading.current_thread() is threading.main_thread():
                    raise KeyboardInterrupt
                return enter(self)

            patch.setattr(Buffers, "__enter__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                workers.loss_and_grads([Batch(ids, ids)])
        assert np.isfinite(workers.loss_and_grads([Batch(ids, ids)])[0])


def test_map_keeps_the_order_and_reads_no_more_than_it_needs():
    taken = []

    def numbers():
        for i in range(7):
            taken.append(i)
            yield i

    with Workers(GPT(CONFIG, 0), 4, 2) as workers:
        results = workers.map(lambda i: i * i, numbers())
        assert next(results) == 0
        assert len(taken) == 2
        assert list(results) == [1, 4, 9, 16, 25, 36]
