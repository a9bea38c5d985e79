"""Every layer's gradient at sizes that hypothesis draws, from 1 up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npgpt import layers
from npgpt.gradcheck import check_backward

size = st.integers(1, 4)
seed = st.integers(0, 2**32 - 1)


def check(name, *args, **options):
    forward, backward = getattr(layers, f"{name}_forward"), getattr(layers, f"{name}_backward")
    report = check_backward(lambda *a: forward(*a, **options), backward, *args, tolerance=1e-7)
    assert report, report


def normal(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


@given(seed, size, size, size, size)
def test_linear(seed, B, T, n_in, n_out):
    check("linear", *normal(seed, (B, T, n_in), (n_in, n_out), (n_out,)))


@given(seed, size, size, st.integers(2, 5))
def test_layernorm(seed, B, T, C):
    # eps of 0.1: with the usual one a row whose numbers happen to be alike bends too sharply for a difference
    check("layernorm", *normal(seed, (B, T, C), (C,), (C,)), eps=0.1)


@given(seed, size, size, size, size)
def test_attention(seed, B, T, H, D):
    check("attention", *normal(seed, (B, T, 3 * H * D)), n_head=H)


@given(seed, size, st.integers(1, 6), size, st.floats(0, 1))
def test_packed_attention(seed, B, T, H, share):
    begins = np.random.default_rng(seed).random((B, T)) < share
    starts = np.maximum.accumulate(np.where(begins, np.arange(T), 0), axis=1)
    check("attention", *normal(seed, (B, T, 3 * H * 2)), n_head=H, starts=starts)


@given(seed, st.sampled_from([("gru", 1), ("lstm", 2)]), *[st.integers(1, 3)] * 4, st.booleans())
def test_recurrent(seed, layer, B, T, n_in, H, reverse):
    name, states = layer
    G, lengths = states + 2, np.random.default_rng(seed).integers(0, T + 1, B)
    shapes = [(B, T, n_in), *[(B, H)] * states, (G * H, n_in), (G * H, H), (G * H,), (G * H,)]
    check(name, *normal(seed, *shapes), lengths=lengths, reverse=reverse)


@given(seed, size, size, st.integers(0, 3))
def test_causal_softmax(seed, B, Tq, earlier):
    check("causal_softmax", *normal(seed, (B, Tq, Tq + earlier)))


@given(seed, size, size, size)
def test_embedding(seed, B, T, V):
    ids = np.random.default_rng(seed).integers(0, V, (B, T))
    check("embedding", ids, *normal(seed, (V, 2)))


@given(seed, size, size, size, st.floats(0.1, 10))
def test_lora(seed, n_in, n_out, r, scale):  # r may be more than either: nothing in the layer asks it to be thin
    check("lora", *normal(seed, (n_in, n_out), (r, n_in), (n_out, r)), scale=scale)


@given(seed, size, size, size, st.sampled_from(["gelu", "gelu_new"]))
def test_mlp(seed, B, C, F, activation):
    check("mlp", *normal(seed, (B, C), (C, F), (F,), (F, C), (C,)), activation=activation)


@given(seed, size, size, size, st.floats(0, 1))
def test_cross_entropy(seed, B, T, V, ignored):
    rng = np.random.default_rng(seed)
    targets = np.where(rng.random((B, T)) < ignored, -100, rng.integers(0, V, (B, T)))
    check("cross_entropy", *normal(seed, (B, T, V)), targets)


@given(seed, size, size, st.floats(0, 0.9))
def test_dropout(seed, B, C, p):
    forward = lambda x: layers.dropout_forward(x, p, np.random.default_rng(seed))  # noqa: E731, anew each call
    report = check_backward(forward, layers.dropout_backward, *normal(seed, (B, C)))
    assert report, report


@given(seed, size, size, st.integers(2, 5), st.floats(0.1, 3))
def test_cosine(seed, B, T, C, eps):
    # with its usual eps a short vector would turn too sharply for a difference
    check("cosine", *normal(seed, (B, T, C), (B, T, C)), eps=eps)


@given(seed, size, size, size, st.floats(0.3, 5), st.floats(0, 1))
def test_kl(seed, B, T, V, temperature, ignored):
    targets = np.where(np.random.default_rng(seed).random((B, T)) < ignored, -100, 0)
    check("kl", *normal(seed, (B, T, V), (B, T, V)), temperature=temperature, targets=targets)


@given(seed, size, size, size, st.floats(0.3, 5), st.floats(0, 1))
def test_kl_topk(seed, B, K, more, temperature, mass):
    rng = np.random.default_rng(seed)
    ids = rng.permuted(np.tile(np.arange(K + more - 1), (B, 1)), axis=1)[:, :K]
    logp = np.log(mass * rng.dirichlet(np.ones(K), B) + 1e-3)
    check("kl_topk", *normal(seed, (B, K + more - 1)), ids=ids, logp=logp, temperature=temperature)


@given(seed, size, size, size, st.floats(0, 1))
def test_label_smoothing(seed, B, T, V, label_smoothing):
    targets = np.random.default_rng(seed).integers(0, V, (B, T))
    check("cross_entropy", *normal(seed, (B, T, V)), targets, label_smoothing=label_smoothing)
