"""A generator in training: resumed, on threads, in memory that is used again."""

import numpy as np
import pytest

from npgpt import TrainConfig, generate
from npgpt.models.seq import Seq2Seq
from npgpt.models.seq_config import Objective, SeqConfig
from npgpt.ops import FAST
from npgpt.optim import AdamW
from npgpt.support.buffers import Buffers
from npgpt.training.loop import Trainer
from npgpt.training.workers import Workers
from tests.test_seq import E, batch_of, critic_of, encoder_config, model_of, packed


def settings(**changes):
    defaults = {"batch_size": 3, "max_steps": 6, "eval_every": 3, "eval_batches": 1, "save_every": 2, "ops": "fast"}
    return TrainConfig(**(defaults | {"dtype": "float64", "learning_rate": 1e-2} | changes))


def data(n=12):
    rng = np.random.default_rng(1)
    texts = [rng.integers(1, 9, rng.integers(1, 5)).tolist() for _ in range(n)]
    return packed([(text, text[::-1]) for text in texts])


def fitted(folder, steps=None, resume=False, **changes):
    model = model_of(seed=7, ops="fast")
    trainer = Trainer(model, data(), data(4), settings(**changes), folder)
    for record in trainer.run(resume=resume):
        if record["step"] == steps and "loss" in record:
            break
    return model


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_comes_to_the_same_bits(tmp_path, optimizer):
    whole = fitted(tmp_path / "a", optimizer=optimizer)
    fitted(tmp_path / "b", steps=5, optimizer=optimizer)
    resumed = fitted(tmp_path / "b", resume=True, optimizer=optimizer)
    np.testing.assert_array_equal(resumed.params.flat, whole.params.flat)


@pytest.mark.parametrize("kind", ["ce", "ce+cosine"])
def test_two_threads_compute_what_one_does(kind):
    model, batch = model_of(ops="fast"), batch_of()
    model.objective, model.critic = Objective(kind), critic_of(ops="fast")
    with Workers(model, 3, threads=1) as one, Workers(model, 3, threads=2) as two:
        found = [workers.loss_and_grads([batch]) for workers in (one, two)]
        first, second = ((loss, grads.flat.copy()) for loss, grads, _ in found)
    assert first[0] == pytest.approx(second[0], rel=1e-12)
    np.testing.assert_allclose(first[1], second[1], rtol=1e-9, atol=1e-14)


def test_steps_of_many_shapes_need_no_more_memory_than_one():
    model = model_of(ops="fast", dtype="float32", encoder={"n_positions": 40})
    rng = np.random.default_rng(0)
    sizes = [(k, n) for k in (2, 3) for n in range(2, 17)]
    batches = [batch_of([(rng.integers(1, 9, n), rng.integers(1, 9, n))] * k, 40) for k, n in sizes]
    with Buffers() as pool:
        model.loss_and_grads(batches[-1])
        largest = pool.nbytes
        for batch in batches:
            model.loss_and_grads(batch)
    assert pool.nbytes < 3 * largest  # each size that the largest step has no use for is needed once


def test_a_generator_learns_to_turn_words_around():
    rng = np.random.default_rng(2)
    texts = [rng.integers(1, 9, rng.integers(1, 5)).tolist() for _ in range(150)]
    train = packed([(text, text[::-1]) for text in texts])
    model = Seq2Seq(SeqConfig(encoder_config(n_embd=16, n_inner=32), n_head=2), ops="fast")
    with Workers(model, 16, threads=1) as workers:
        optimizer = AdamW(model.params, weight_decay=0.0)
        config = settings(batch_size=16)
        for step in range(150):
            loss, _, norm = workers.loss_and_grads(train.draw(step, config))
            workers.update(optimizer, 1e-2, min(1.0, 1 / norm))
    assert loss < 0.1
    for text in texts[:9]:
        assert list(generate(model, [E, *text, E], 10, temperature=0)) == [*text[::-1], E]


def test_fast_ops_compute_what_the_definitions_do():
    fast, plain = model_of(dtype="float32", ops=FAST), model_of(dtype="float32")
    for one, two in zip(fast.loss_and_grads(batch_of()), plain.loss_and_grads(batch_of()), strict=True):
        np.testing.assert_allclose(getattr(one, "flat", one), getattr(two, "flat", two), rtol=2e-3, atol=2e-5)
