"""The kernels of cross-attention and RMS norm: any tiles, many lengths, the memory that they say, one call."""

import numpy as np
import pytest

from npgpt.kernels import cross_attention
from npgpt.ops import FAST, REFERENCE
from tests.test_twins import COMPILED, assert_as_exact, normal, run

LENGTHS = [None, np.array([5, 0, 7, 1]), np.array([0, 0, 0, 0]), np.array([2, 7, 7, 7], np.uint8)]


@pytest.mark.parametrize("queries", [1, 2, 3, 6, 32])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_cross_attention_in_any_tiles(monkeypatch, queries, lengths, p):
    monkeypatch.setattr(cross_attention, "QUERIES", queries)
    options = lambda: {"n_head": 3, "lengths": lengths, "p": p, "rng": np.random.default_rng(5)}  # noqa: E731
    assert_as_exact("cross_attention", (normal(4, 6, 9), normal(4, 7, 18)), options)


@pytest.mark.parametrize("T", [1, 31, 32, 33, 70] if COMPILED else [1, 5])
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_cross_attention_needs_no_more_memory_than_it_says(monkeypatch, T, p):
    if not COMPILED:
        monkeypatch.setattr(cross_attention, "QUERIES", 3)
    S, D, H = 7, 3, 2
    q, kv = normal(T, H * D), normal(S, 2 * H * D)
    mask = cross_attention.dropout_mask((1, H, T, S), p, np.random.default_rng(0))
    options = T, S, H, np.array([S]), mask, p
    size = cross_attention.scratch_size(T, S, D)
    memory, kept = np.full(size + 1000, 7.0), np.full(H * T * S + 1000, 7.0)
    out, shares, dq, dkv = np.empty_like(q), np.empty((H, T)), np.empty_like(q), np.empty_like(kv)
    tile = cross_attention.QUERIES
    cross_attention.attend_across(q, kv, *options, out, shares, kept, memory[:size], tile)
    cross_attention.attend_across_backward(out, q, kv, *options, shares, kept, dq, dkv, memory[:size], tile)
    assert (memory[size:] == 7).all()
    assert (kept[H * T * S :] == 7).all()
    assert (kept[: H * T * S] != 7).all()


def test_nothing_beyond_a_length_is_read_or_kept_and_all_of_dkv_is_written():
    q, kv = normal(3, 4, 6), normal(3, 5, 12)
    lengths, beyond = np.array([3, 0, 5]), np.arange(5) >= np.array([3, 0, 5])[:, None]
    kv[beyond] = np.nan
    out, cache = FAST.cross_attention_forward(q, kv, 2, lengths)
    dq, dkv = FAST.cross_attention_backward(np.ones_like(out), cache)
    assert np.isfinite(out).all()
    assert np.isfinite(dq).all()
    assert (dkv[beyond] == 0).all()
    assert (dkv[~beyond] != 0).any(axis=-1).all()
    assert (out[1] == 0).all()
    assert (dq[1] == 0).all()


def test_the_dropout_mask_is_that_of_the_definition():
    q, kv = np.zeros((2, 3, 4)), normal(2, 5, 8)
    found = [ops.cross_attention_forward(q, kv, 2, None, 0.5, np.random.default_rng(3))[0] for ops in (REFERENCE, FAST)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-13)
    plain, _ = FAST.cross_attention_forward(q, kv, 2)
    assert np.abs(plain - found[1]).max() > 0.1


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_rmsnorm_of_rows_of_any_size(eps, scale):
    assert_as_exact("rmsnorm", (normal(7, 33, scale=scale), normal(33)), lambda: {"eps": eps})


def test_rmsnorm_of_single_numbers():
    args = normal(5, 1), normal(1)
    # a large eps: without it almost everything cancels in the gradient of x
    found = [run(ops, "rmsnorm", args, lambda: {"eps": 0.5}, np.float64) for ops in (REFERENCE, FAST)]
    for want, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13)


def test_no_query_gives_every_key_the_gradient_0():
    q, kv = np.zeros((1, 0, 4)), np.ones((1, 3, 8))
    _, cache = FAST.cross_attention_forward(q, kv, 2)
    dq, dkv = FAST.cross_attention_backward(np.zeros((1, 0, 4)), cache)
    assert dq.shape == q.shape
    np.testing.assert_array_equal(dkv, np.zeros_like(kv))
