"""The compiled step of a GPT: the loss and gradients of the definition, whoever computes them, in memory of its own."""

import copy
import dataclasses
import pickle
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.data.batch import Batch
from npgpt.kernels import gpt, memory, products, team
from npgpt.models.gpt2_step import Step
from npgpt.ops import FAST
from npgpt.support.jit import jit
from npgpt.training.threads import Split
from npgpt.training.workers import Workers

pytestmark = pytest.mark.skipif(not products.FOUND, reason="NumPy's BLAS has no function that compiled code could call")

SIZES = {"vocab_size": 11, "n_positions": 7, "n_embd": 6, "n_layer": 2, "n_head": 2}
FORMS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "no bias": {"bias": False},
    "exact gelu": {"activation_function": "gelu"},
    "one block": {"n_layer": 1},
    "residual dropout": {"resid_pdrop": 0.3},
    "dropout": {"resid_pdrop": 0.3, "embd_pdrop": 0.2, "attn_pdrop": 0.4},
}
STARTS = np.array([[0, 0, 2, 2, 2, 5], [0, 1, 1, 1, 4, 4], [0] * 6])


def pair(form, dtype="float64"):
    """Return a model with its compiled step, and the definition with the same parameters, of order one."""
    fast = GPT(GPTConfig(**SIZES | FORMS[form]), 1, dtype)
    fast.params.flat[:] = np.random.default_rng(0).standard_normal(fast.size) / 2
    assert fast.ops.step is gpt
    return fast, GPT(fast.config, dtype=dtype, ops="reference", params=fast.params)


def batch(rng, starts=None, rows=3, T=6):
    ids, targets = rng.integers(0, SIZES["vocab_size"], (2, rows, T))
    targets[0, 1:3] = targets[rows - 1, T - 1] = -100
    return Batch(ids, targets, starts)


def close(found, exact, eps):
    """Say whether gradients agree up to some hundred roundings of their norm."""
    found, exact = (a.flat if hasattr(a, "places") else a for a in (found, exact))
    return np.linalg.norm(found - exact) < 500 * eps * np.linalg.norm(exact)


@pytest.mark.parametrize("starts", [None, STARTS], ids=["one text", "packed"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loss_and_every_gradient_are_those_of_the_definition(rng, form, starts, dtype):
    fast, plain = pair(form, dtype)
    some, eps = batch(rng, starts), float(np.finfo(dtype).eps)
    grads = fast.params.empty_like()
    grads.flat.fill(np.nan)  # nothing of what was there may remain
    loss, found = fast.loss_and_grads(some, rng=np.random.default_rng(3), dloss=0.7, grads=grads)
    exact_loss, exact = plain.loss_and_grads(some, rng=np.random.default_rng(3), dloss=0.7)
    assert found is grads
    assert loss == pytest.approx(exact_loss, rel=100 * eps)
    for name in exact:
        assert close(found[name], exact[name], eps) or not exact[name].any(), name
    assert fast.loss(some) == pytest.approx(plain.loss(some), rel=100 * eps)


@pytest.mark.parametrize("split", [(1, 2), (1, 5), (2, 1), (2, 2), (3, 3), (5, 1)], ids=str)
@pytest.mark.parametrize("form", ["plain", "untied", "no bias"])
def test_teams_compute_what_one_thread_does(rng, form, split):
    fast, plain = pair(form)
    batches = [batch(rng), batch(rng, STARTS), batch(rng, rows=1, T=2), batch(rng, rows=2)]
    with Workers(plain, 3, 1) as one, Workers(fast, 3, split=Split(*split)) as workers:
        exact_loss, exact, exact_norm = one.loss_and_grads(batches)
        for _ in range(2):  # the second time in memory that is not fresh
            workers.flat.fill(np.nan)
            loss, found, norm = workers.loss_and_grads(batches)
            assert loss == pytest.approx(exact_loss, rel=1e-13)
            assert norm == pytest.approx(exact_norm, rel=1e-13)
            assert close(found, exact, 1e-16)


@pytest.mark.parametrize("split", [(1, 3), (2, 2), (3, 1)], ids=str)
def test_the_same_split_gives_the_same_bits_with_dropout_too(rng, split):
    fast, _ = pair("dropout", "float32")
    some, found = batch(rng), []
    for _ in range(2):
        with Workers(fast, 3, split=Split(*split)) as workers:
            found += [workers.loss_and_grads([some], (0, 1))[1].flat.copy() for _ in range(3)]
            other = workers.loss_and_grads([some], (0, 2))[1].flat.copy()
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])
    assert not np.array_equal(other, found[0])


def test_a_head_of_some_rows_at_a_time_is_the_whole_head(rng, monkeypatch):
    fast, plain = pair("plain")
    some = batch(rng)
    monkeypatch.setattr(memory, "LOGITS", 0)
    monkeypatch.setattr(memory, "ROWS", 2)
    for split in (Split(1, 1), Split(1, 2)):
        with Workers(fast, 3, split=split) as workers, Workers(plain, 3, 1) as one:
            _, found, _ = workers.loss_and_grads([some])
            assert close(found, one.loss_and_grads([some])[1], 1e-16)


def test_batches_without_a_target_have_no_gradient(rng):
    fast, _ = pair("untied", "float32")
    nothing = Batch(np.zeros((2, 3), int), np.full((2, 3), -100))
    loss, grads = fast.loss_and_grads(nothing)
    assert loss == 0
    assert not grads.flat.any()


def test_a_later_batch_without_a_target_leaves_the_heads_gradient(rng):
    """It adds nothing: gradients of several batches are those of the ones that have targets."""
    fast, _ = pair("untied")
    some = batch(rng)
    empty = dataclasses.replace(some, targets=np.full_like(some.targets, -100))
    with Workers(fast, 3, threads=1) as workers:
        want = workers.loss_and_grads([some])[1].flat.copy()
        found = workers.loss_and_grads([some, empty])[1].flat
    np.testing.assert_array_equal(found, want)
    assert np.any(want)


def test_blocks_are_told_each_thing_by_its_name():
    """Two of them are arrays, of which each would do for the other without an error."""
    names = ("job", "sizes", "settings")
    job, sizes, settings = (SimpleNamespace(**{n: f"{of}.{n}" for n in gpt.Work._fields}) for of in names)
    job.sizes, job.settings = sizes, settings
    sizes.B, sizes.T, sizes.H = "B", "T", "H"
    found = getattr(gpt.work_of, "py_func", gpt.work_of)(job)
    assert (found.B, found.T, found.H, found.members) == ("B", "T", "H", "sizes.members")
    for name in ("eps", "exact_gelu", "attn_pdrop", "resid_pdrop"):
        assert getattr(found, name) == f"settings.{name}"
    for name in ("firsts", "member", "barrier", "laps", "panels"):
        assert getattr(found, name) == f"job.{name}"


def test_no_step_allocates(rng):
    fast, _ = pair("dropout", "float32")
    batches = [batch(rng), batch(rng, STARTS), batch(rng, rows=1)]
    with Workers(fast, 3, split=Split(2, 2)) as workers:
        workers.loss_and_grads(batches, (0, 1))
        before = [team.memory for team in workers.teams]
        workers.loss_and_grads(batches, (0, 2))
        workers.loss_and_grads(batches[1:], (0, 3))
        assert all(team.memory is memory for team, memory in zip(workers.teams, before, strict=True))
        assert not any(pool.nbytes for pool in workers.buffers)


@pytest.mark.parametrize("split", [(1, 1), (1, 2)], ids=str)
def test_without_a_generator_there_is_no_dropout_whatever_the_configuration(rng, split):
    fast, plain = pair("dropout")
    some = batch(rng)
    _, exact = plain.loss_and_grads(some)
    assert close(fast.loss_and_grads(some)[1], exact, 1e-16)
    with Workers(fast, 3, split=Split(*split)) as workers:
        assert close(workers.loss_and_grads([some])[1], exact, 1e-16)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_has_the_compiled_step(rng, duplicate):
    fast, _ = pair("plain")
    some = batch(rng)
    other = duplicate(fast)
    assert other.ops.step is gpt
    np.testing.assert_array_equal(other.loss_and_grads(some)[1].flat, fast.loss_and_grads(some)[1].flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.zeros((3, 8), int), "targets": np.zeros((3, 8), int)}, "8 tokens are longer than n_positions=7"),
        ({"ids": np.ones((3, 6))}, "ids must be integers"),
        ({"targets": np.ones((3, 6))}, "targets must be integers"),
        ({"targets": np.ones((3, 5), int)}, "must have the shape of ids"),
        ({"starts": np.full((3, 6), 5)}, "start 5 is not in"),
    ],
    ids=["too long", "real ids", "real targets", "fewer targets", "starts"],
)
def test_what_compiled_code_would_read_past_its_arrays_for_is_refused(rng, change, message):
    fast, _ = pair("plain")
    some = dataclasses.replace(batch(rng), **change)
    with Workers(fast, 3, split=Split(1, 2)) as workers, pytest.raises((TypeError, ValueError), match=message):
        workers.loss_and_grads([some])


def test_an_op_that_is_replaced_is_not_passed_over(rng):
    table, seen = copy.copy(FAST), []
    assert table.step is gpt

    def mine(*args):
        seen.append(args)
        return FAST.layernorm_forward(*args)

    table.layernorm_forward = mine
    assert table.step is None
    assert FAST.step is gpt
    GPT(GPTConfig(**SIZES), ops=table).loss_and_grads(batch(rng))
    assert len(seen) == 2 * SIZES["n_layer"] + 1


@pytest.mark.parametrize("where", ["ids", "targets"])
@pytest.mark.parametrize("value", [-1, 11, -101])
def test_what_is_not_in_the_vocabulary_is_refused_in_the_words_of_the_definition(rng, where, value):
    fast, plain = pair("plain")
    some = batch(rng)
    getattr(some, where)[1, 2] = value
    for split in (Split(1, 1), Split(1, 2), Split(2, 1)):
        with Workers(fast, 3, split=split) as workers, pytest.raises(ValueError, match=r"outside|neither") as found:
            workers.loss_and_grads([some])
        with pytest.raises(ValueError, match=r"outside|neither") as exact:
            plain.loss_and_grads(some)
        assert str(found.value) == str(exact.value)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, on what the others then compute in plain Python
def test_a_member_that_fails_lets_the_others_go(rng, monkeypatch):
    fast, plain = pair("plain")
    some, call = batch(rng), Step.__call__

    def failing(self, *args):
        if args[6] == 1:  # the member
            raise MemoryError("no room")
        return call(self, *args)

    with Workers(fast, 3, split=Split(1, 3)) as workers:
        with monkeypatch.context() as patch:
            patch.setattr(Step, "__call__", failing)
            with pytest.raises(MemoryError, match="no room"):
                workers.loss_and_grads([some])
        assert workers.loss_and_grads([some])[0] == pytest.approx(plain.loss(some))


@jit
def rounds(barrier, members, member, n, seen):
    """Write a number, wait, and count how often another member's number is not there yet."""
    late = 0
    for i in range(n):
        seen[16 * member] = i
        team.wait(barrier, members)
        for other in range(members):
            late += seen[16 * other] != i
        team.wait(barrier, members)
    return late


@pytest.mark.parametrize("members", [1, 2, 3, 7])
def test_nobody_passes_a_barrier_before_all_have_arrived(members):
    barrier, seen, late = team.new_barrier(), np.zeros(16 * members, np.int64), []
    threads = [
        threading.Thread(target=lambda i=i: late.append(rounds(barrier, members, i, 200, seen))) for i in range(members)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert late == [0] * members


@pytest.mark.parametrize("share", [team.share, team.share_of_lines])
def test_shares_are_everything_once(share):
    for n in (0, 1, 15, 16, 17, 100):
        for members in (1, 2, 3, 16):
            parts = [share(n, member, members) for member in range(members)]
            assert [i for a, b in parts for i in range(a, b)] == list(range(n))
