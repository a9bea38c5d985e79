"""Every layer against finite differences, against its formula written another way, and at its edges."""

import inspect
import itertools
import math

import numpy as np
import pytest

from npgpt import layers
from npgpt.cases import CASES, LAYERS
from npgpt.gradcheck import check_backward
from npgpt.ops import FAST, NAMES, REFERENCE

OPS = {"reference": REFERENCE}
if any(getattr(FAST, name) is not getattr(REFERENCE, name) for name in NAMES):
    OPS["fast"] = FAST


def ids_of(cases):
    return [case.name for case in cases]


def as_tuple(grads):
    return grads if isinstance(grads, tuple) else (grads,)


def gradients(case, dtype, transform=lambda array: array):
    """Run a case forward and back in dtype; transform changes how its arrays lie in memory."""
    rng = np.random.default_rng(1)
    args = [
        transform(arg.astype(dtype) if arg.dtype.kind == "f" else arg) if isinstance(arg, np.ndarray) else arg
        for arg in case.args(rng)
    ]
    forward, backward = case.pair(REFERENCE)
    out, cache = forward(*args)
    dout = np.asarray(np.random.default_rng(2).standard_normal(np.shape(out)), dtype)
    grads = as_tuple(backward(transform(dout) if dout.ndim else dout[()], cache))
    return args, out, grads


# A whole GPT takes seconds. These have each of its features on the definitions: a tied head and one of its own, no
# biases, both forms of GELU, dropout, packed texts, the loss. One is the compiled step; test_step.py compares that with
# the definitions in all that it can do. The other combinations are big.
TELLING = {
    *("gpt untied no bias gelu-reference", "gpt dropout-reference", "gpt packed loss-reference"),
    "gpt dropout step-fast",
}
PAIRS = [
    pytest.param(case, ops, id=name, marks=[pytest.mark.big] if name[:3] == "gpt" and name not in TELLING else [])
    for case, case_name in zip(CASES, ids_of(CASES), strict=True)
    for ops in OPS
    for name in [f"{case_name}-{ops}"]
]


def test_the_telling_cases_are_there():
    assert {param.id for param in PAIRS} >= TELLING


@pytest.mark.parametrize(("case", "ops"), PAIRS)
def test_gradient(case, ops):
    rng = np.random.default_rng(0)
    forward, backward = case.pair(OPS[ops])
    report = check_backward(forward, backward, *case.args(rng), rng=rng, names=case.names(OPS[ops]), tolerance=1e-8)
    assert report, report


@pytest.mark.skipif(FAST.step is None, reason="there is no compiled step here")
def test_the_compiled_step_is_not_compiled_for_complex_numbers(rng, monkeypatch):
    """check_backward tries them."""
    monkeypatch.setattr(FAST.step, "features_forward", None)
    for case in CASES:
        if case.layer == "gpt" and case.step:
            with pytest.raises(TypeError, match="takes real numbers"):
                case.pair(FAST)[0](*(array.astype(complex) for array in case.args(rng)))


@pytest.mark.parametrize("case", LAYERS, ids=ids_of(LAYERS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_and_shape_of_results(case, dtype):
    args, out, grads = gradients(case, dtype)
    assert np.asarray(out).dtype == dtype
    floats = [arg for arg in args if isinstance(arg, np.ndarray) and arg.dtype.kind == "f"]
    found = [grad for grad in grads if grad is not None]
    assert [grad.shape for grad in found] == [arg.shape for arg in floats]
    assert {grad.dtype for grad in found} == {np.dtype(dtype)}


@pytest.mark.parametrize("case", LAYERS, ids=ids_of(LAYERS))
def test_float32_agrees_with_float64(case):
    _, out64, grads64 = gradients(case, np.float64)
    _, out32, grads32 = gradients(case, np.float32)
    # 6e-8 is one rounding; the longest sums here have some tens of terms, and cancel little
    for exact, single in zip((out64, *grads64), (out32, *grads32), strict=True):
        if exact is not None:
            assert np.linalg.norm(exact - single) <= 2e-6 * np.linalg.norm(exact)


def strided(array):
    """Return the same numbers with gaps between them, and the last axis running backwards."""
    wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)][..., ::-1]
    view[...] = array
    return view


@pytest.mark.parametrize("case", LAYERS, ids=ids_of(LAYERS))
def test_non_contiguous_input_gives_the_same(case):
    _, out, grads = gradients(case, np.float64)
    _, out_s, grads_s = gradients(case, np.float64, strided)
    for plain, other in zip((out, *grads), (out_s, *grads_s), strict=True):
        if plain is not None:
            # BLAS sums in another order for another stride: a few roundings of float64
            np.testing.assert_allclose(other, plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("case", LAYERS, ids=ids_of(LAYERS))
def test_nothing_is_written_into_arguments_dout_or_cache(case, ops):
    args = case.args(np.random.default_rng(1))
    before = [None if arg is None else arg.copy() for arg in args]
    forward, backward = case.pair(OPS[ops])
    out, cache = forward(*args)
    dout = np.asarray(np.random.default_rng(2).standard_normal(np.shape(out)))
    dout_before = dout.copy()
    first = as_tuple(backward(dout, cache))
    second = as_tuple(backward(dout, cache))
    np.testing.assert_array_equal(dout, dout_before)
    for arg, copy in zip(args, before, strict=True):
        if copy is not None:
            np.testing.assert_array_equal(arg, copy)
    for one, two in zip(first, second, strict=True):  # a cache that was written into would show here
        if one is not None:
            np.testing.assert_array_equal(one, two)


# the third argument of these is another
WITHOUT_PARAMETERS = {"kl", "lstm"}
WITH_PARAMETERS = [
    case
    for case in LAYERS
    if case.layer not in WITHOUT_PARAMETERS and len(inspect.signature(case.pair(REFERENCE)[1]).parameters) > 2
]


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("case", WITH_PARAMETERS, ids=ids_of(WITH_PARAMETERS))
def test_a_gradient_goes_into_the_array_that_is_given_for_it(case, ops):
    forward, backward = case.pair(OPS[ops])
    out, cache = forward(*case.args(np.random.default_rng(1)))
    dout = np.asarray(np.random.default_rng(2).standard_normal(np.shape(out)))
    plain = as_tuple(backward(dout, cache))
    names = list(inspect.signature(backward).parameters)[2:]
    first = len(plain) - len(names)  # dx has no array
    there = [i for i, grad in enumerate(plain) if i >= first and grad is not None]
    for chosen in itertools.chain.from_iterable(itertools.combinations(there, n) for n in range(len(there) + 1)):
        given = {i: np.full_like(plain[i], 7) for i in chosen}
        found = as_tuple(backward(dout, cache, **{names[i - first]: array for i, array in given.items()}))
        for i, (want, got) in enumerate(zip(plain, found, strict=True)):
            if want is None:
                assert got is None
                continue
            assert i not in given or got is given[i]
            added = 7 if case.layer == "embedding" and i in given else 0  # which adds to what is there
            np.testing.assert_allclose(got, want + added, rtol=1e-13)  # two roundings of a sum with 7


# --- values: a gradient check cannot see a wrong function with its right gradient


def test_linear_value(rng):
    x, weight, bias = rng.standard_normal((2, 3)), rng.standard_normal((3, 2)), rng.standard_normal(2)
    out, _ = layers.linear_forward(x, weight, bias)
    for n in range(2):
        for o in range(2):
            assert out[n, o] == pytest.approx(sum(x[n, i] * weight[i, o] for i in range(3)) + bias[o], rel=1e-14)


def test_layernorm_value(rng):
    x, weight, bias = 3 + 2 * rng.standard_normal((4, 5)), rng.standard_normal(5), rng.standard_normal(5)
    out, _ = layers.layernorm_forward(x, weight, bias, 0.1)
    for row, got in zip(x, out, strict=True):
        mean = sum(row) / 5
        var = sum((v - mean) ** 2 for v in row) / 5
        want = [(v - mean) / math.sqrt(var + 0.1) * w + b for v, w, b in zip(row, weight, bias, strict=True)]
        np.testing.assert_allclose(got, want, rtol=1e-13)


def test_layernorm_of_a_constant_row_is_the_bias():
    out, cache = layers.layernorm_forward(np.full((1, 4), 7.0), np.ones(4), np.arange(4.0))
    np.testing.assert_array_equal(out, [[0, 1, 2, 3]])
    assert np.isfinite(layers.layernorm_backward(np.ones((1, 4)), cache)[0]).all()


def test_layernorm_survives_a_large_offset_in_float32(rng):
    x = rng.standard_normal((3, 64)).astype(np.float32)
    near, _ = layers.layernorm_forward(x, np.ones(64, np.float32), None)
    far, _ = layers.layernorm_forward(x + np.float32(4096), np.ones(64, np.float32), None)
    # x + 4096 is itself rounded to 2^-11, and four of these are allowed; a variance from E[x^2] - E[x]^2 would be off
    # by more than 1
    np.testing.assert_allclose(far, near, atol=4 * 2.0**-11, rtol=0)


def test_gelu_values():
    # Phi(1) = 0.841344746068543, and the tanh form at 1 as GPT-2's own code gives it
    assert layers.gelu_forward(np.array([1.0]))[0][0] == pytest.approx(0.841344746068543, rel=1e-14)
    assert layers.gelu_new_forward(np.array([1.0]))[0][0] == pytest.approx(0.8411919906082768, rel=1e-14)


@pytest.mark.parametrize("gelu", ["gelu", "gelu_new"])
def test_gelu_far_from_zero(gelu):
    x = np.array([-1e4, -40.0, 0.0, 40.0, 1e4])
    out, cache = getattr(layers, f"{gelu}_forward")(x)
    np.testing.assert_array_equal(out, [0, 0, 0, 40, 1e4])
    np.testing.assert_array_equal(getattr(layers, f"{gelu}_backward")(np.ones(5), cache), [0, 0, 0.5, 1, 1])


def test_embedding_adds_up_repeated_ids():
    ids = np.array([[2, 0], [2, 2]])
    _, cache = layers.embedding_forward(ids, np.zeros((4, 1)))
    dweight = layers.embedding_backward(np.array([[[1.0], [10.0]], [[100.0], [1000.0]]]), cache)
    np.testing.assert_array_equal(dweight[:, 0], [10, 0, 1101, 0])


@pytest.mark.parametrize("bad", [-1, 4])
def test_embedding_names_an_id_outside_the_table(bad):
    with pytest.raises(ValueError, match=f"id {bad} is outside"):
        layers.embedding_forward(np.array([[0, bad]]), np.zeros((4, 1)))


def attention_by_loops(qkv, H, starts=None):
    """Attend one query at a time, from the definition."""
    B, T, C3 = qkv.shape
    C = C3 // 3
    D = C // H
    out = np.zeros((B, T, C))
    for b in range(B):
        for h in range(H):
            q, k, v = (qkv[b, :, part * C + h * D : part * C + (h + 1) * D] for part in range(3))
            for i in range(T):
                keys = range(0 if starts is None else starts[b][i], i + 1)
                weights = np.array([math.exp(q[i] @ k[j] / math.sqrt(D)) for j in keys])
                out[b, i, h * D : (h + 1) * D] = (weights / weights.sum()) @ v[keys.start : keys.stop]
    return out


@pytest.mark.parametrize(("B", "T", "H", "D"), [(1, 1, 1, 1), (2, 5, 3, 2), (1, 7, 2, 5)])
def test_attention_value(rng, B, T, H, D):
    qkv = rng.standard_normal((B, T, 3 * H * D))
    out, _ = layers.attention_forward(qkv, H)
    np.testing.assert_allclose(out, attention_by_loops(qkv, H), rtol=1e-12)


@pytest.mark.parametrize("starts", [[[0, 0, 2, 2, 2]], [[0, 1, 2, 3, 4]], [[0, 0, 0, 0, 0]], [[0, 0, 1, 0, 3]]])
def test_attention_value_from_where_each_text_starts(rng, starts):
    qkv = rng.standard_normal((1, 5, 3 * 2 * 3))
    out, _ = layers.attention_forward(qkv, 2, starts=np.array(starts))
    np.testing.assert_allclose(out, attention_by_loops(qkv, 2, starts), rtol=1e-12)


def test_causal_softmax_value_with_starts_and_earlier_keys():
    scores = np.log([[3.0, 1.0, 2.0, 6.0], [5.0, 1.0, 1.0, 2.0]])  # two queries, at positions 2 and 3
    probs, _ = layers.causal_softmax_forward(scores, np.array([1, 0]))
    np.testing.assert_allclose(probs, [[0, 1 / 3, 2 / 3, 0], [5 / 9, 1 / 9, 1 / 9, 2 / 9]], rtol=1e-14)


def test_attention_does_not_see_the_future(rng):
    qkv = rng.standard_normal((1, 6, 12))
    out, _ = layers.attention_forward(qkv, 2)
    qkv[:, 4:] = rng.standard_normal((1, 2, 12))
    changed, _ = layers.attention_forward(qkv, 2)
    np.testing.assert_array_equal(out[:, :4], changed[:, :4])
    assert not np.array_equal(out[:, 4:], changed[:, 4:])


def test_attention_names_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="n_head=4"):
        layers.attention_forward(np.zeros((1, 2, 18)), 4)


def test_key_bias_has_no_gradient(rng):
    _, cache = layers.attention_forward(rng.standard_normal((2, 5, 18)), 3)
    dqkv = layers.attention_backward(rng.standard_normal((2, 5, 6)), cache)
    dbias = dqkv.sum(axis=(0, 1))
    assert np.abs(dbias[6:12]).max() < 1e-14  # some roundings of numbers of order one
    assert np.abs(dbias[:6]).max() > 0.1
    assert np.abs(dbias[12:]).max() > 0.1


def test_causal_softmax_of_extreme_scores_is_finite():
    scores = np.array([[1e4, 0.0, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]], np.float32)
    probs, _ = layers.causal_softmax_forward(scores)
    np.testing.assert_array_equal(probs, np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]], np.float32))


def test_causal_softmax_needs_a_key_for_every_query():
    with pytest.raises(ValueError, match="3 queries but only 2 keys"):
        layers.causal_softmax_forward(np.zeros((3, 2)))


def test_dropout_keeps_the_mean_and_repeats_its_mask():
    x = np.ones((400, 500))
    out, cache = layers.dropout_forward(x, 0.3, np.random.default_rng(5))
    assert set(np.unique(out)) == {0, 1 / 0.7}
    # 200,000 draws: the mean's standard deviation is sqrt(0.3 / 0.7 / 200000) = 0.0015, and 0.008 is five of them
    assert out.mean() == pytest.approx(1, abs=0.008)
    np.testing.assert_array_equal(layers.dropout_backward(x, cache), out)
    again, _ = layers.dropout_forward(x.astype(np.float32), 0.3, np.random.default_rng(5))
    np.testing.assert_array_equal(again == 0, out == 0)


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan])
def test_dropout_names_a_probability_that_is_none(p):
    with pytest.raises(ValueError, match="p="):
        layers.dropout_forward(np.ones(3), p, np.random.default_rng(0))


def test_cross_entropy_value(rng):
    logits, targets = rng.standard_normal((2, 3, 4)), np.array([[1, -100, 0], [3, 3, -100]])
    loss, _ = layers.cross_entropy_forward(logits, targets)
    nll = [
        math.log(sum(math.exp(v) for v in row)) - row[target]
        for row, target in zip(logits.reshape(-1, 4), targets.reshape(-1), strict=True)
        if target != -100
    ]
    assert loss == pytest.approx(sum(nll) / 4, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_extreme_logits(dtype):
    logits = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, -1e4, 0]], dtype)
    loss, cache = layers.cross_entropy_forward(logits, np.array([0, 1, 1]))
    assert loss == pytest.approx((0 + math.log(3) + 2e4) / 3, rel=1e-6)
    dlogits = layers.cross_entropy_backward(dtype(1), cache)
    third = 1 / 3
    want = np.array([[0, 0, 0], [third, third - 1, third], [1, -1, 0]]) / 3
    np.testing.assert_allclose(dlogits, want, atol=1e-7)


@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_cross_entropy_where_nothing_counts_is_zero(ignore_index):
    targets = np.full((2, 3), ignore_index)
    loss, cache = layers.cross_entropy_forward(np.ones((2, 3, 4), np.float32), targets, ignore_index)
    assert loss == 0
    np.testing.assert_array_equal(layers.cross_entropy_backward(1.0, cache), np.zeros((2, 3, 4)))


@pytest.mark.parametrize("bad", [-1, 4, -99])
def test_cross_entropy_names_a_target_outside_the_vocabulary(bad):
    with pytest.raises(ValueError, match=f"target {bad} "):
        layers.cross_entropy_forward(np.zeros((1, 2, 4)), np.array([[0, bad]]))


@pytest.mark.parametrize("r", [1, 2])
def test_lora_value(rng, r):
    x, weight = rng.standard_normal((2, 4)), rng.standard_normal((4, 3))
    lora_A, lora_B = rng.standard_normal((r, 4)), rng.standard_normal((3, r))
    out, _ = layers.lora_forward(weight, lora_A, lora_B, 0.7)
    # as in the paper, where the adapter is a branch beside the layer: some ten roundings of numbers of order one
    np.testing.assert_allclose(x @ out, x @ weight + 0.7 * (x @ lora_A.T) @ lora_B.T, rtol=1e-13, atol=1e-14)
    for i in range(4):
        for o in range(3):
            product = sum(lora_B[o, k] * lora_A[k, i] for k in range(r))
            assert out[i, o] == pytest.approx(weight[i, o] + 0.7 * product, rel=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lora_of_zeros_changes_nothing(rng, dtype):
    weight, lora_A = rng.standard_normal((5, 7)).astype(dtype), rng.standard_normal((2, 5)).astype(dtype)
    out, _ = layers.lora_forward(weight, lora_A, np.zeros((7, 2), dtype), 16.0)
    np.testing.assert_array_equal(out, weight, strict=True)
    assert not np.shares_memory(out, weight)


def test_mlp_is_the_composition(rng):
    x, fc_weight, fc_bias = rng.standard_normal((2, 3)), rng.standard_normal((3, 4)), rng.standard_normal(4)
    proj_weight, proj_bias = rng.standard_normal((4, 3)), rng.standard_normal(3)
    for activation in ("gelu", "gelu_new"):
        out, _ = layers.mlp_forward(x, fc_weight, fc_bias, proj_weight, proj_bias, activation)
        hidden, _ = getattr(layers, f"{activation}_forward")(x @ fc_weight + fc_bias)
        np.testing.assert_allclose(out, hidden @ proj_weight + proj_bias, rtol=1e-13)


@pytest.mark.parametrize("case", LAYERS, ids=ids_of(LAYERS))
def test_nan_stays_visible(case):
    args = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in case.args(np.random.default_rng(1))]
    first = next(arg for arg in args if isinstance(arg, np.ndarray) and arg.dtype.kind == "f")
    first[...] = np.nan
    out, _ = case.pair(REFERENCE)[0](*args)
    assert np.isnan(out).any()
