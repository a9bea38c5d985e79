"""Examples in rows: each is computed as if it were alone, none is lost or cut, and all are drawn as often."""

import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, Tokenizer, TrainConfig
from npgpt.data import Packed, pack, too_long
from npgpt.data.packing import best_fit, draw_rows, pack_in_order
from npgpt.tokenizer import ByteTokenizer, CharTokenizer
from npgpt.training.evaluation import estimate_loss, whole_loss
from npgpt.training.loop import Trainer
from npgpt.training.workers import Workers
from tests.test_train import changed, content, metrics, timeless

E = 10
SIZES = {"vocab_size": 11, "n_positions": 9, "n_embd": 8, "n_layer": 2, "n_head": 2}
EXAMPLES = [
    np.array(ids, int) for ids in ([1, 2, 3], [4], [1, 2, 2, 0, 5, 9, 1, 3], [], [7, 7], [3, 1, 4, 1], [8, 0, 0, 0])
]
PROMPTS = [1, 0, 5, 0, 2, 3, 0]


def parts(batch):
    return batch.ids, batch.targets, batch.starts


def asked(examples, prompts) -> list[np.ndarray] | None:
    """Return which tokens belong to a prompt, where so many at the beginning do."""
    return prompts and [np.arange(len(ids)) < n for ids, n in zip(examples, prompts, strict=True)]


def model(dtype="float64", ops="fast", **changes):
    gpt = GPT(GPTConfig(**(SIZES | changes)), dtype=dtype, ops=ops)
    rng = np.random.default_rng(4)
    for name, array in gpt.params.items():
        gpt.params[name] = 0.6 * rng.standard_normal(array.shape)
    return gpt


def unpacked(packed: Packed) -> list[tuple[tuple, tuple]]:
    """Return the inputs and targets of each example that the rows hold, by reading them from left to right."""
    found = []
    for ids, targets, starts in zip(*packed[:3], strict=True):
        end = len(ids) - int(np.argmax(targets[::-1] != -100))
        for start in sorted(set(starts[:end].tolist())):
            where = np.flatnonzero(starts[:end] == start)
            np.testing.assert_array_equal(where, np.arange(start, start + len(where)))
            found.append((tuple(ids[where].tolist()), tuple(targets[where].tolist())))
        assert (ids[end:] == E).all()
        assert (targets[end:] == -100).all()
        np.testing.assert_array_equal(starts[end:], np.arange(end, len(ids)))
    return found


def laid_out(examples, prompts) -> list[tuple[tuple, tuple]]:
    """Return what each example should become."""
    return [((E, *ids.tolist()), (*[-100] * n, *ids.tolist()[n:], E)) for ids, n in zip(examples, prompts, strict=True)]


# --- the rows


@pytest.mark.parametrize("n_positions", [9, 10, 17, 40])
@pytest.mark.parametrize("prompts", [None, PROMPTS])
def test_every_example_is_in_the_rows_once_and_whole(n_positions, prompts):
    packed = pack(EXAMPLES, n_positions, E, asked(EXAMPLES, prompts))
    assert {part.shape for part in packed[:3]} == {(len(packed.ids), n_positions)}
    assert Counter(unpacked(packed)) == Counter(laid_out(EXAMPLES, prompts or [0] * 7))
    assert packed.rows(slice(None)).n_tokens == sum(len(ids) + 1 for ids in EXAMPLES)


def test_many_random_examples_fill_their_rows():
    rng = np.random.default_rng(1)
    examples = [rng.integers(0, E, n) for n in rng.integers(0, 31, 3000)]
    prompts = [int(rng.integers(0, len(ids) + 1)) for ids in examples]
    packed = pack(examples, 32, E, asked(examples, prompts))
    assert Counter(unpacked(packed)) == Counter(laid_out(examples, prompts))
    assert packed.rows(slice(None)).n_tokens > 0.99 * packed.ids.size
    for part, again in zip(packed[:3], pack(examples, 32, E, asked(examples, prompts))[:3], strict=True):
        np.testing.assert_array_equal(part, again)


def test_the_first_rows_are_like_the_others():
    """Packed by length, but not in that order: a part of the rows must tell of all."""
    examples = [np.full(n, 1) for n in np.repeat(np.arange(1, 31), 100)]
    packed = pack(examples, 32, E)
    half = len(packed.ids) // 2
    counts = [np.count_nonzero(rows == E) for rows in (packed.targets[:half], packed.targets[half:])]
    assert abs(counts[0] - counts[1]) < 0.1 * sum(counts)


@pytest.mark.parametrize("sizes", [[1], [5, 5, 5], [3, 2, 5, 1, 4], [4, 4, 3, 3, 2, 2, 1, 1], [1] * 11])
def test_no_row_is_overfull_and_few_are_used(sizes):
    row, offset, n_rows = best_fit(np.array(sizes), 5)
    taken = np.zeros((n_rows, 5), int)
    for size, r, at in zip(sizes, row, offset, strict=True):
        taken[r, at : at + size] += 1
        assert at + size <= 5
    assert taken.max() == 1
    assert n_rows == -(-sum(sizes) // 5)  # for these it is the fewest possible


@pytest.mark.parametrize(("end_id", "dtype"), [(E, np.int16), (40_000, np.int32)])
def test_the_rows_take_little_memory(end_id, dtype):
    packed = pack([np.array([1, 2])], 5, end_id)
    assert packed.ids.dtype == packed.targets.dtype == dtype
    assert packed.starts.dtype == np.int16
    assert [part.dtype for part in parts(packed.rows(slice(1)))] == [np.int64] * 3


def test_an_example_that_fits_exactly_and_those_that_do_not():
    examples = [np.ones(n, int) for n in (4, 5, 3, 6)]
    np.testing.assert_array_equal(too_long(examples, 5), [1, 3])
    assert not len(too_long(examples[::2], 5))
    assert len(pack(examples[::2], 5, E).ids) == 2
    with pytest.raises(ValueError, match=r"example 1 has 5 tokens.*n_positions=5"):
        pack(examples, 5, E)


@pytest.mark.parametrize(
    ("examples", "prompts", "match"),
    [
        ([], None, "no example"),
        ([[1, 2], [3]], [[True, False]], "one bool per token"),
        ([[1, 2]], [[1, 0]], "one bool per token"),
        ([[1, 2], [3]], [[True], [True, False]], "one bool per token"),
        ([[1, -2]], None, "ids"),
        ([[1.0, 2.0]], None, "ids"),
    ],
)
def test_what_cannot_be_packed(examples, prompts, match):
    with pytest.raises(ValueError, match=match):
        pack([np.array(ids) for ids in examples], 9, E, prompts and [np.array(part) for part in prompts])


def test_prompts_may_stand_anywhere():
    packed = pack([np.array([1, 2, 3, 4, 5])], 8, E, [np.array([True, False, True, True, False])])
    assert packed.targets.tolist() == [[-100, 2, -100, -100, 5, E, -100, -100]]


# --- computed as if it were alone


def alone(gpt, examples, prompts):
    """Return the loss and the gradients over all examples, each in a batch of its own, and the logits of each."""
    pairs = [[np.array([part]) for part in pair] for pair in laid_out(examples, prompts)]
    total = sum(np.count_nonzero(targets != -100) for _, targets in pairs)
    loss, grads = 0.0, np.zeros_like(gpt.params.flat)
    for ids, targets in pairs:
        share = np.count_nonzero(targets != -100) / total
        part, of_part = gpt.loss_and_grads(ids, targets, dloss=share)
        loss += share * part
        grads += of_part.flat
    return loss, grads, {tuple(ids[0].tolist()): gpt.logits(ids)[0] for ids, _ in pairs}


@pytest.mark.parametrize("ops", ["reference", "fast"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("n_positions", [9, 14, 40])
def test_packed_examples_are_computed_as_if_they_were_alone(ops, tied, n_positions):
    gpt = model(ops=ops, tie_word_embeddings=tied, n_positions=n_positions)
    packed = pack(EXAMPLES, n_positions, E, asked(EXAMPLES, PROMPTS))
    ids, targets, starts = parts(packed.rows(slice(None)))
    loss, grads, logits = alone(gpt, EXAMPLES, PROMPTS)
    found, found_grads = gpt.loss_and_grads(ids, targets, starts=starts)
    assert gpt.loss(ids, targets, starts) == found == pytest.approx(loss, rel=1e-13)
    wanted = type(gpt.params)(gpt.params.shapes, grads)
    for name, grad in found_grads.items():
        # a few hundred additions in another order; and the gradient of wte and wpe is that of every place of use
        assert np.linalg.norm(grad - wanted[name]) < 1e-13 * np.linalg.norm(grads), name
    got = gpt.logits(ids, starts)
    for example, rows in logits.items():
        at = [(r, s) for r in range(len(ids)) for s in set(starts[r]) if [*ids[r, s : s + len(rows)]] == [*example]]
        assert any(np.allclose(got[r, s : s + len(rows)], rows, rtol=1e-11, atol=1e-12) for r, s in at)


@pytest.mark.parametrize("n_positions", [14, 200])
@pytest.mark.parametrize("ops", ["reference", "fast"])
def test_no_token_of_an_example_changes_anything_in_another(ops, n_positions):
    gpt = model(ops=ops, n_positions=n_positions)
    rng = np.random.default_rng(3)
    examples = [rng.integers(0, E, n) for n in rng.integers(1, min(n_positions, 40), 30)]
    ids, _, starts = parts(pack(examples, n_positions, E).rows(slice(3)))
    before, features = gpt.logits(ids, starts), gpt.features(ids, starts)
    for row, at in [(0, 1), (1, n_positions // 2), (2, n_positions - 1)]:
        other = ids.copy()
        other[row, at] = (ids[row, at] + 1) % E
        after = gpt.logits(other, starts)
        touched = np.zeros(ids.shape, bool)
        touched[row] = (starts[row] == starts[row, at]) & (np.arange(n_positions) >= at)
        np.testing.assert_array_equal(after[~touched], before[~touched])
        np.testing.assert_array_equal(gpt.features(other, starts)[~touched], features[~touched])
        assert (after[touched] != before[touched]).any(axis=-1).all()


def test_starts_of_zero_are_no_starts():
    gpt = model()
    ids = np.random.default_rng(0).integers(0, 11, (3, 9))
    targets, zeros = np.roll(ids, -1, 1), np.zeros_like(ids)
    np.testing.assert_allclose(gpt.logits(ids, zeros), gpt.logits(ids), rtol=1e-13)
    plain, packed = gpt.loss_and_grads(ids, targets), gpt.loss_and_grads(ids, targets, starts=zeros)
    assert plain[0] == pytest.approx(packed[0], rel=1e-14)
    np.testing.assert_allclose(packed[1].flat, plain[1].flat, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("starts", "error", "match"),
    [
        ([[0, 0, 3]], ValueError, r"start 3 is not in 0..2"),
        ([[0, -1, 0]], ValueError, r"start -1 is not in 0..1"),
        ([[0, 0]], ValueError, "shape of ids"),
        ([0, 0, 0], ValueError, "shape of ids"),
        ([[0.0, 0.0, 0.0]], TypeError, "integers, got float64"),
        ([[False] * 3], TypeError, "integers, got bool"),
    ],
)
def test_starts_that_cannot_be(starts, error, match):
    gpt, ids = model(), np.array([[1, 2, 3]])
    for call in (
        lambda: gpt.logits(ids, starts),
        lambda: gpt.features(ids, starts),
        lambda: gpt.loss(ids, ids, starts),
        lambda: gpt.loss_and_grads(ids, ids, starts=starts),
    ):
        with pytest.raises(error, match=match):
            call()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_workers_share_rows_with_different_counts_of_targets(threads):
    gpt = model()
    packed = pack(EXAMPLES, 9, E, asked(EXAMPLES, PROMPTS))
    loss, grads, _ = alone(gpt, EXAMPLES, PROMPTS)
    batches = [packed.rows(slice(2)), packed.rows(slice(2, None))]
    with Workers(gpt, 2, threads) as workers:
        for _ in range(2):
            found, found_grads, norm = workers.loss_and_grads(batches)
            assert found == pytest.approx(loss, rel=1e-13)
            assert np.linalg.norm(found_grads.flat - grads) < 1e-13 * np.linalg.norm(grads)
            assert norm == pytest.approx(np.linalg.norm(grads), rel=1e-13)


# --- drawn, evaluated, trained on


def test_rows_are_drawn_once_each_before_any_is_drawn_again():
    packed = Packed(*(np.arange(7, dtype=np.int16)[:, None] for _ in range(3)))
    drawn = [int(draw_rows(packed, 1, i, 5).ids[0, 0]) for i in range(28)]
    epochs = [drawn[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert [int(draw_rows(packed, 1, i, 6).ids[0, 0]) for i in range(7)] != epochs[0]
    for n, before in itertools.product([1, 3, 7, 20], [0, 5, 6, 7]):
        ids, targets, starts = parts(draw_rows(packed, n, before, 5))
        np.testing.assert_array_equal(ids[:, 0], drawn[before : before + n])
        np.testing.assert_array_equal(targets, ids)
        np.testing.assert_array_equal(starts, ids)


def test_rows_in_order_are_drawn_as_they_stand():
    packed = Packed(*(np.arange(7)[:, None] for _ in range(3)), in_order=True)
    for n, before in itertools.product([1, 3, 7, 20], [0, 5, 6, 7]):
        for part in parts(draw_rows(packed, n, before, 5)):
            np.testing.assert_array_equal(part[:, 0], np.arange(before, before + n) % 7)


@pytest.mark.parametrize("group", [1, 4, 7, 100])
def test_examples_packed_in_order_come_in_groups(monkeypatch, group):
    monkeypatch.setattr("npgpt.data.packing.GROUP", group)
    lengths = np.random.default_rng(1).integers(1, 8, 30)
    examples = [np.full(n, i) for i, n in enumerate(lengths)]
    packed = pack_in_order(examples, 9, 99, asked(examples, [0] * 30))
    assert packed.in_order
    rows = [set(row[row < 99].tolist()) for row in packed.ids]
    assert sorted(i for row in rows for i in row) == list(range(30))
    groups = [{i // group for i in row} for row in rows]
    assert all(len(its) == 1 for its in groups)
    first = [min(its) for its in groups]
    assert first == sorted(first)


def test_the_loss_over_rows_is_the_mean_over_their_targets(monkeypatch):
    gpt = model()
    packed = pack(EXAMPLES, 9, E, asked(EXAMPLES, PROMPTS))
    loss, _, _ = alone(gpt, EXAMPLES, PROMPTS)
    assert whole_loss(gpt, packed) == pytest.approx(loss, rel=1e-13)
    monkeypatch.setattr("npgpt.training.evaluation.TOKENS_PER_BATCH", 18)  # two rows at a time, and one that is left
    assert whole_loss(gpt, packed) == pytest.approx(loss, rel=1e-13)
    assert estimate_loss(gpt, packed, TrainConfig(batch_size=2, eval_batches=100)) == pytest.approx(loss, rel=1e-13)
    some = estimate_loss(gpt, packed, TrainConfig(batch_size=1, eval_batches=3, seed=1))
    assert some == pytest.approx(gpt.loss(packed.rows(slice(3))), rel=1e-13)
    assert some == estimate_loss(gpt, packed, TrainConfig(batch_size=1, eval_batches=3, seed=2))


RNG = np.random.default_rng(6)
TRAIN = [RNG.integers(0, E, n) for n in RNG.integers(1, 9, 50)]
TRAIN_ROWS = pack(TRAIN, 9, E, asked(TRAIN, [len(ids) // 2 for ids in TRAIN]))
VAL_ROWS = pack(EXAMPLES, 9, E, asked(EXAMPLES, PROMPTS))
CONFIG = TrainConfig(
    batch_size=3, max_steps=11, eval_every=4, eval_batches=2, save_every=3, warmup_steps=2, learning_rate=1e-2
)


def run(folder, config=CONFIG, stops=(), **changes):
    done = 0
    for stop in [*stops, None]:
        gpt = GPT(GPTConfig(**(SIZES | changes)), 999 if done else config.seed, config.dtype)
        steps = itertools.count(done + 1)
        should_stop = lambda steps=steps, stop=stop: next(steps) == stop  # noqa: E731
        list(Trainer(gpt, TRAIN_ROWS, VAL_ROWS, config, folder).run(done > 0, should_stop))
        done = stop
    return metrics(folder)


@pytest.mark.parametrize("variant", [{}, {"attn_pdrop": 0.3, "resid_pdrop": 0.1}])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_run_over_examples_that_was_stopped_goes_on_to_the_same_bits(tmp_path, variant, accumulated):
    config = changed(CONFIG, gradient_accumulation_steps=accumulated)
    records = run(tmp_path / "a", config, **variant)
    again = run(tmp_path / "b", config, stops=(1, 4, 10), **variant)
    assert timeless(again) == timeless(records)
    assert content(tmp_path / "b") == content(tmp_path / "a")


def test_a_step_over_examples_is_logged_as_what_it_was(tmp_path, monkeypatch):
    # a step takes two seconds
    monkeypatch.setattr("npgpt.training.step.time.perf_counter", itertools.count(0, 2).__next__)
    config = changed(CONFIG, dtype="float64", gradient_accumulation_steps=2)
    gpt = GPT(GPTConfig(**SIZES), 0, "float64")
    records = Trainer(gpt, VAL_ROWS, TRAIN_ROWS, config, tmp_path).run()
    for step in range(4):
        batch = draw_rows(VAL_ROWS, 6, 6 * step, config.seed)
        loss = gpt.loss(batch)
        record = next(records)
        assert record["loss"] == pytest.approx(loss, rel=1e-12)
        assert record["tokens_per_s"] == pytest.approx(batch.n_tokens / 2, abs=0.1)
        assert batch.n_tokens < batch.targets.size


def test_the_last_line_is_the_loss_over_all_validation_examples(tmp_path):
    records = run(tmp_path, changed(CONFIG, dtype="float64"))
    best = GPT.from_pretrained(tmp_path, "float64")
    assert records[-1]["whole"]
    assert records[-1]["val_loss"] == pytest.approx(alone(best, EXAMPLES, PROMPTS)[0], rel=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_over_examples_that_explodes_saves_nothing_that_is_not_finite(tmp_path):
    config = changed(CONFIG, learning_rate=1e30, warmup_steps=0, eval_every=100, save_every=1)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        run(tmp_path, config)
    assert np.isfinite(whole_loss(GPT.from_pretrained(tmp_path), VAL_ROWS))


def test_a_batch_that_is_larger_than_all_rows(tmp_path):
    records = run(tmp_path, changed(CONFIG, batch_size=3 * len(TRAIN_ROWS.ids) + 1, max_steps=2))
    assert len([r for r in records if "loss" in r]) == 2


def test_packing_needs_memory_for_eight_numbers_per_token():
    rng = np.random.default_rng(0)
    examples = [rng.integers(0, E, n).astype(np.int32) for n in rng.integers(5, 120, 5000)]
    tokens = sum(map(len, examples))
    tracemalloc.start()
    pack(examples, 128, E)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 8 * tokens  # eight numbers of 8 bytes per token


# --- the end token


def test_which_tokenizers_say_where_an_example_ends():
    bpe = Tokenizer.train(["abcabc"], 258)
    assert bpe.end_id == bpe.require_end_id() == bpe.special_tokens["<|endoftext|>"]
    for tokenizer in (ByteTokenizer(), CharTokenizer(["abc"]), Tokenizer.train(["abcabc"], 258, special_tokens=())):
        assert tokenizer.end_id is None
        with pytest.raises(ValueError, match=f"of the kind {tokenizer.kind}, has no token that ends .*--tokenizer bpe"):
            tokenizer.require_end_id()
