"""Distillation's loss and gradients, what a student begins with, and the file of a teacher's answers."""

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, check_backward
from npgpt.config import TrainConfig
from npgpt.data import teaching
from npgpt.data.batch import Batch, Text
from npgpt.data.packing import pack
from npgpt.data.teaching import Taught, Windows, open_top, taught_rows, top_dtype, write_top
from npgpt.kernels import products
from npgpt.models.distilled import PROJECTION, Distilled, Teaching, likeliest
from npgpt.models.gpt2_shrunk import kept_blocks, shrunk, student_config
from npgpt.training.threads import Split
from npgpt.training.workers import Workers
from tests.conftest import mostly_big

V = 11
LESSON = Teaching(1.7, 0.4, 0.8, 0.3)
STARTS = np.array([[0, 0, 2, 2, 2, 5], [0, 1, 1, 1, 4, 4], [0] * 6])


def config(**changes):
    sizes = {"vocab_size": V, "n_positions": 7, "n_embd": 6, "n_layer": 3, "n_head": 2}
    return GPTConfig(**sizes | changes)


def batch(rng, starts=STARTS):
    ids, targets = rng.integers(0, V, (2, 3, 6))
    targets[0, 1:3] = targets[2, 5] = -100
    return Batch(ids, targets, starts)


def distilled(rng, tied=True, width=6, lesson=LESSON, ops="reference", dtype="float64", **changes):
    """Return a student of a teacher, all parameters of order one."""
    teacher = GPT(config(tie_word_embeddings=tied, **changes), dtype=dtype, ops=ops)
    teacher.params.flat[:] = rng.standard_normal(teacher.size) / 2
    student = shrunk(teacher, student_config(teacher.config, n_layer=1, n_embd=width), seed=1)
    model = Distilled(student, teacher, lesson, seed=2)
    model.params.flat[:] = rng.standard_normal(model.size) / 2
    return model


def with_answers(model, batch, k):
    """Return the batch with what the teacher says, as the file has it but in the model's precision."""
    dtype = np.dtype([("id", "<i4"), ("logp", "<f8")])
    return Batch(batch.ids, batch.targets, batch.starts, model.answers(batch, k, dtype))


FORMS = [(tied, width, k) for tied in (True, False) for width in (4, 3) for k in (None, 3, 5)]
TELLING = (True, 3, None), (False, 4, 3)


@pytest.mark.parametrize(("tied", "width", "k"), mostly_big(FORMS, TELLING.__contains__))
def test_the_gradient_of_every_parameter_is_right(rng, tied, width, k):
    """Small, because all of a student's parameters are moved one by one; k of 5 tokens are all of them."""
    lesson = Teaching(1.7, 0.4, 0.8, 0.3 if k is None else 0.0)
    small = {"vocab_size": 5, "n_embd": 4, "n_inner": 3, "n_layer": 1, "n_head": 1}
    model = distilled(rng, tied, width, lesson, n_positions=3, **small)
    some = Batch(rng.integers(0, 5, (2, 3)), np.array([[1, -100, 4], [0, 2, 2]]), np.array([[0, 0, 2], [0, 0, 0]]))
    some = some if k is None else with_answers(model, some, k)
    assert (PROJECTION in model.params) == (width != 4 and k is None)
    names = list(model.params)

    def forward(*arrays):
        model.params.update(dict(zip(names, arrays, strict=True)))
        return np.array(model.loss_and_grads(some)[0]), arrays

    def backward(dout, arrays):
        model.params.update(dict(zip(names, arrays, strict=True)))
        grads = model.params.empty_like()
        grads.flat.fill(np.nan)
        return tuple(model.loss_and_grads(some, dloss=float(dout), grads=grads)[1].values())

    report = check_backward(forward, backward, *(array.copy() for array in model.params.values()))
    assert report, str(report)


@pytest.mark.skipif(not products.FOUND, reason="NumPy's BLAS has no function that compiled code could call")
@pytest.mark.parametrize("temperature", [1.0, 2.0, 1.7])
@pytest.mark.parametrize("width", [6, 4])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_compiled_step_computes_the_definition(rng, monkeypatch, dtype, tied, width, temperature):
    model = distilled(rng, tied, width, Teaching(temperature, 0.4, 0.8, 0.3), "fast", dtype)
    monkeypatch.setattr(model.ops.step, "DISTILLED_ROWS", 4)  # fewer than there are
    plain = distilled(rng, tied, width, model.teaching, "reference", dtype)
    plain.teacher.params.flat[:] = model.teacher.params.flat
    plain.params.flat[:] = model.params.flat
    some, eps = batch(rng), float(np.finfo(dtype).eps)
    grads = model.params.empty_like()
    grads.flat.fill(np.nan)
    loss, found = model.loss_and_grads(some, dloss=0.7, grads=grads)
    exact_loss, exact = plain.loss_and_grads(some, dloss=0.7)
    assert loss == pytest.approx(exact_loss, rel=100 * eps)
    for name in exact:
        # up to some hundred roundings of the norm, as in test_step.py
        assert np.linalg.norm(found[name] - exact[name]) < 500 * eps * np.linalg.norm(exact[name]), name
    assert model.loss(some) == pytest.approx(plain.loss(some), rel=100 * eps)


@pytest.mark.skipif(not products.FOUND, reason="NumPy's BLAS has no function that compiled code could call")
@pytest.mark.parametrize("k", [1, 4, V])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 1.7])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_so_it_does_with_answers(rng, monkeypatch, dtype, temperature, k):
    model = distilled(rng, False, 4, Teaching(temperature, 0.4, 0.8, 0.0), "fast", dtype)
    monkeypatch.setattr(model.ops.step, "DISTILLED_ROWS", 4)
    plain = distilled(rng, False, 4, model.teaching, "reference", dtype)
    plain.params.flat[:] = model.params.flat
    some, eps = with_answers(model, batch(rng), k), float(np.finfo(dtype).eps)
    some.teacher["logp"][0, 0] += 0.5  # of some the sum is above 1, as it may be by rounding
    loss, found = model.loss_and_grads(some, dloss=0.7)
    exact_loss, exact = plain.loss_and_grads(some, dloss=0.7)
    assert loss == pytest.approx(exact_loss, rel=100 * eps)
    for name in exact:
        assert np.linalg.norm(found[name] - exact[name]) < 500 * eps * np.linalg.norm(exact[name]), name
    some.teacher["id"][1, 1, 0] = V
    with pytest.raises(ValueError, match="id 11"):
        model.loss_and_grads(some)


def test_the_loss_is_the_sum_of_three_and_validation_is_by_one(rng):
    parts = [
        distilled(np.random.default_rng(0), width=4, lesson=Teaching(1.7, *weights))
        for weights in ((1, 0, 1e-9), (0, 1, 1e-9), (0, 0, 1), (0.4, 0.8, 0.3))
    ]
    some = batch(rng)
    ce, kl, cosine, whole = (model.loss_and_grads(some)[0] for model in parts)
    assert whole == pytest.approx(0.4 * ce + 0.8 * kl + 0.3 * cosine, rel=1e-8)
    assert ce == pytest.approx(parts[0].loss(some), rel=1e-8)
    assert parts[3].loss(some) == parts[3].student.loss(some) == parts[0].loss(some)


def test_without_a_weight_for_it_the_teacher_is_not_asked(rng, monkeypatch):
    model, some = distilled(rng, lesson=Teaching(2.0, 0.4, 0.0, 0.0)), batch(rng)
    monkeypatch.setattr(Distilled, "lesson", lambda *_: 1 / 0)
    loss, grads = model.loss_and_grads(some, dloss=0.5)
    exact_loss, exact = model.student.loss_and_grads(some)
    assert loss == pytest.approx(0.4 * exact_loss, rel=1e-14)
    np.testing.assert_allclose(grads.flat, 0.2 * exact.flat, atol=1e-14)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it(rng):
    teacher = GPT(config(), dtype="float64")
    model = Distilled(shrunk(teacher, teacher.config, 0), teacher, Teaching(2.0, 0.0, 1.0, 1.0))
    loss, grads = model.loss_and_grads(batch(rng))
    assert abs(loss) < 1e-14
    assert np.abs(grads.flat).max() < 1e-14


def test_threads_share_a_batch(rng):
    model = distilled(rng, width=4, ops="fast")
    some = batch(rng)
    exact_loss, exact = model.loss_and_grads(some)
    with Workers(model, 3, split=Split(2, 1)) as workers:
        loss, found, _ = workers.loss_and_grads([some])
    # the weights of the parts are those of their targets
    assert loss == pytest.approx(exact_loss, rel=1e-13)
    np.testing.assert_allclose(found.flat, exact.flat, atol=1e-14)


@pytest.mark.parametrize("ops", ["reference", "fast"])
def test_a_batch_without_a_target_has_no_gradient(rng, ops):
    model = distilled(rng, width=4, ops=ops)
    loss, grads = model.loss_and_grads(Batch(np.zeros((2, 3), int), np.full((2, 3), -100)))
    assert loss == 0
    assert not grads.flat.any()


def test_the_student_is_a_view_of_the_parameters_and_is_saved_alone(rng, tmp_path):
    model = distilled(rng, width=4)
    model.params["wte.weight"] = 3.0
    assert (model.student.params["wte.weight"] == 3).all()
    model.save_pretrained(tmp_path)
    found = GPT.from_pretrained(tmp_path, "float64")
    assert PROJECTION not in found.params
    for name, array in found.params.items():
        np.testing.assert_array_equal(array, model.params[name])
    some = batch(rng)
    assert model.load_pretrained(tmp_path).loss(some) == model.loss(some)
    np.testing.assert_array_equal(model.forward(some.ids), model.student.forward(some.ids))


def test_what_does_not_fit_is_refused(rng):
    teacher = GPT(config())
    for changes in {"vocab_size": 12}, {"n_positions": 8}:
        with pytest.raises(ValueError, match=next(iter(changes))):
            Distilled(GPT(config(**changes)), teacher)
    with pytest.raises(ValueError, match="float64"):
        Distilled(GPT(config(), dtype="float64"), teacher)
    model = distilled(rng)
    with pytest.raises(ValueError, match="hidden states"):
        model.loss_and_grads(with_answers(model, batch(rng), 2))
    with pytest.raises(ValueError, match="n_layer=4 is more than the 3"):
        student_config(config(), n_layer=4)


def test_a_student_begins_with_some_of_the_blocks():
    assert kept_blocks(12, 6) == [0, 2, 4, 7, 9, 11]  # as in the script that made DistilGPT2
    assert [kept_blocks(4, n) for n in (1, 2, 3, 4)] == [[0], [0, 3], [0, 2, 3], [0, 1, 2, 3]]
    teacher = GPT(config(n_layer=4), seed=3)
    student = shrunk(teacher, student_config(teacher.config), 0)
    assert student.config == config(n_layer=2)
    for name, array in student.params.items():
        np.testing.assert_array_equal(array, teacher.params[name.replace("h.1.", "h.3.")])
    other = shrunk(teacher, student_config(teacher.config, n_head=3), 0)
    np.testing.assert_array_equal(other.params["wte.weight"], teacher.params["wte.weight"])
    assert not np.array_equal(other.params["h.0.mlp.c_fc.weight"], teacher.params["h.0.mlp.c_fc.weight"])


def test_a_narrower_student_keeps_the_width_of_its_heads():
    teacher = GPTConfig(n_embd=128, n_head=4, n_layer=2, n_inner=100)
    narrow = student_config(teacher, n_embd=96)
    assert (narrow.n_embd, narrow.n_head, narrow.n_layer, narrow.mlp_width) == (96, 3, 1, 384)
    assert student_config(teacher, n_embd=50).n_head == 1
    assert student_config(teacher, n_head=8).n_inner == 100


def test_the_likeliest_tokens_are_those_of_the_softmax(rng):
    model, some = distilled(rng), batch(rng)
    ids, logp = likeliest(model.teacher, some, 4, 1.7)
    z = model.teacher.logits(some.ids, some.starts).reshape(-1, V) / 1.7
    exact = z - np.log(np.exp(z).sum(-1, keepdims=True))
    np.testing.assert_array_equal(ids, np.argsort(-exact)[:, :4])
    np.testing.assert_allclose(logp, -np.sort(-exact)[:, :4], atol=1e-14)
    ids, _ = likeliest(model.teacher, some, V, 1.7)
    np.testing.assert_array_equal(ids, np.argsort(-exact))


def test_rows_of_a_text_are_spread_over_it():
    ids = np.arange(101)
    windows = Windows(ids, 10, most=4)
    assert (windows.n_rows, windows.size) == (4, 40)
    found = windows.rows(slice(None))
    np.testing.assert_array_equal(found.ids[:, 0], [0, 20, 50, 70])
    np.testing.assert_array_equal(found.targets, found.ids + 1)
    assert Windows(ids, 10, most=99).n_rows == 10  # the last target of the last is the last token


def test_answers_stay_with_their_rows(rng, tmp_path):
    """Whatever the order in which rows are drawn, each comes with what was said about it."""
    model = distilled(rng)
    packed = pack([rng.integers(0, V, n) for n in rng.integers(1, 6, 20)], 7, 0)
    taught, dtype = taught_rows(packed, 5), top_dtype(V)
    assert taught.n_rows == 5
    with pytest.raises(ValueError, match="not been asked"):
        taught.first()
    parts = [model.answers(some, 3, dtype) for some in taught.untaught(2)]
    write_top(tmp_path / "top", b"k" * 32, (5, 7, 3), dtype, parts)
    taught.top = open_top(tmp_path / "top", b"k" * 32)
    assert (tmp_path / "top").stat().st_size == teaching.file_size(5, 7, 3, dtype)
    for some in taught.draw(1, TrainConfig(batch_size=4)):
        found, exact = some.teacher, model.answers(some, 3, dtype)
        np.testing.assert_array_equal(found, exact)
        assert some.part(1, 2).teacher.shape == (2, 7, 3)
    assert open_top(tmp_path / "top", b"j" * 32) is None


def test_the_key_is_that_of_the_rows(rng):
    ids = rng.integers(0, V, 60)
    key = taught_rows(Text(ids, 7), 5).key("a")
    assert taught_rows(Text(ids.copy(), 7), 5).key("a") == key
    others = ids.copy()
    others[1] = (others[1] + 1) % V
    assert len({key, taught_rows(Text(others, 7), 5).key("a"), taught_rows(Text(ids, 7), 5).key("b"),
                taught_rows(Text(ids, 7), 4).key("a"), taught_rows(Text(ids, 6), 5).key("a")}) == 5  # fmt: skip


@pytest.mark.parametrize("at", [0, 18, 30, 60, 120, -1])
def test_a_damaged_file_is_refused(tmp_path, at):
    path, dtype = tmp_path / "top", top_dtype(V)
    write_top(path, b"k" * 32, (2, 3, 2), dtype, [np.ones((2, 3, 2), dtype)])
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"top: .*remove it, and it is made again"):
        open_top(path, b"k" * 32)
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"top: .*remove it, and it is made again"):
        open_top(path, b"k" * 32)


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path):
    def parts():
        yield np.ones((1, 3, 2), top_dtype(V))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_top(tmp_path / "top", b"k" * 32, (2, 3, 2), top_dtype(V), parts())
    assert not list(tmp_path.iterdir())


def test_large_vocabularies_have_larger_ids():
    assert (top_dtype(2**16).itemsize, top_dtype(2**16 + 1).itemsize) == (4, 6)


def test_taught_rows_are_as_many_as_there_are(rng):
    packed = pack([rng.integers(0, V, 6) for _ in range(3)], 7, 0)
    assert Taught(packed, 99).n_rows == 3
    assert Taught(packed, 2).size == packed.size * 2 // 3


def test_answers_beyond_their_precision_are_finite(rng):
    """log 0 would make the loss NaN."""
    model = distilled(rng, lesson=Teaching(1e-6, 0.4, 0.8, 0.0))
    batch = Batch(rng.integers(0, 5, (2, 3)), rng.integers(0, 5, (2, 3)))
    found = model.answers(batch, 3, top_dtype(5))["logp"]
    assert np.isfinite(found).all()
    assert found.min() == np.finfo(np.float16).min
