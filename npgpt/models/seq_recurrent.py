"""The recurrent decoder of a generator: recurrent_forward, and recurrent_backward, its mirror image.

Layers of GRU or LSTM on a residual stream: `x + gru(rmsnorm(x))`. What they get of the source is either their initial
state, made of the pooled features, or attention to all of them, after each layer: its outputs are the queries, and the
next layer reads what was attended to, so that it knows what has been written already.
"""

import copy
import math
from typing import Any, NamedTuple

import numpy as np

from npgpt.models.gpt2_block import add
from npgpt.models.gpt2_parameters import weight_and_bias
from npgpt.models.seq_config import SeqConfig
from npgpt.models.seq_parameters import STATES
from npgpt.models.taps import NO_TAPS, Taps
from npgpt.ops import Ops
from npgpt.support.parameters import Parameters

Rng = np.random.Generator | None
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh")


class RecurrentPast:
    """What a recurrent decoder keeps: each layer's state, of an LSTM also its cell, and the source's keys and values.

    states  empty before the first token
    kv      of each layer, if it attends
    """

    def __init__(self) -> None:
        self.states: list[tuple[np.ndarray, ...]] = []
        self.kv: list[np.ndarray] = []

    def fork(self) -> "RecurrentPast":
        """Return another past of the same tokens. They share arrays: a step replaces states, and writes none."""
        return copy.copy(self)


class AttendCache(NamedTuple):
    """What the backward of attention needs: the cache of each of its ops."""

    norm: tuple
    c_q: tuple
    attn: tuple
    c_proj: tuple


class LayerCache(NamedTuple):
    """What a layer's backward needs: the cache of each of its ops."""

    norm: tuple
    rnn: Any
    drop: tuple
    attend: AttendCache | None


class RecurrentCache(NamedTuple):
    """What the decoder's backward needs."""

    config: SeqConfig
    ops: Ops
    bridge: tuple
    drop: tuple
    layers: list[LayerCache]
    norm: tuple


def recurrent_forward(
    params: Parameters,
    x: np.ndarray,
    source: np.ndarray | None,
    lengths: np.ndarray | None,
    config: SeqConfig,
    ops: Ops,
    rng: Rng = None,
    past: RecurrentPast | None = None,
    taps: Taps = NO_TAPS,
    steps: np.ndarray | None = None,
) -> tuple[np.ndarray, RecurrentCache]:
    """Run the decoder below its head: embeddings x (N, T, C) and features (N, S, C of the encoder) -> (N, T, C).

    source, lengths  the features, and how many of the S positions each of the N sources has; not read again once the
                     past has begun
    rng              draws dropout masks; None switches dropout off
    past             the state after earlier tokens, which moves on. The cache then has no backward
    steps            (N,): how many of the T positions each row has; None for all. What stands beyond is not defined
    """
    if past is None or not past.states:
        assert source is not None
        states, kv, bridge = bridge_forward(params, source, lengths, config, ops)
    else:
        states, kv, bridge = past.states, past.kv, ()
    x, drop = ops.dropout_forward(x, config.pdrop, rng)
    layers, after = [], []
    for i, state in enumerate(states):
        h, attend = f"decoder.h.{i}", None
        y, norm, rnn, drop_y, state = layer_forward(params, x, state, h, config, ops, rng, steps)
        x = taps(f"{h}.mid", x + y)
        if kv:
            y, attend = attend_forward(params, x, kv[i], lengths, h, config, ops, taps)
            x = add(taps(f"{h}.attn.out", y), x)
        x = taps(f"{h}.out", x)
        layers.append(LayerCache(norm, rnn, drop_y, attend))
        after.append(state)
    if past is not None:
        past.states, past.kv = after, kv
    y, norm_f = ops.rmsnorm_forward(x, params["decoder.norm.weight"])
    return y, RecurrentCache(config, ops, bridge, drop, layers, norm_f)


def recurrent_backward(dy: np.ndarray, cache: RecurrentCache, grads: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of x and of the features; those of the decoder's parameters go into grads."""
    config, ops, bridge, drop, layers, norm = cache
    dx, _ = ops.rmsnorm_backward(dy, norm, grads["decoder.norm.weight"])
    dkv, dstates = [], []
    for i in reversed(range(len(layers))):
        h, attend = f"decoder.h.{i}", layers[i].attend
        if attend is not None:
            # x = y + x: the residual stream carries dx past the attention, which adds its own
            dy, dkv_i = attend_backward(dx, attend, h, ops, grads)
            dx = add(dy, dx)
            dkv.append(dkv_i)
        # x = x + y
        dy, dstate = layer_backward(dx, layers[i], h, config, ops, grads)
        dx = add(dy, dx)
        dstates.append(dstate)
    dsource = bridge_backward(dstates[::-1], dkv[::-1], bridge, config, ops, grads)
    return ops.dropout_backward(dx, drop), dsource


def layer_forward(
    params: Parameters,
    x: np.ndarray,
    state: tuple[np.ndarray, ...],
    h: str,
    config: SeqConfig,
    ops: Ops,
    rng: Rng,
    steps: np.ndarray | None,
) -> tuple[np.ndarray, tuple, Any, tuple, tuple[np.ndarray, ...]]:
    """Run layer `h`, what it adds to the stream: x (N, T, C) -> (N, T, C); return also the caches of its three ops, and
    its state after T positions.

    That state is of use where all rows have T positions.
    """
    y, norm = ops.rmsnorm_forward(x, params[f"{h}.norm.weight"])
    w_ih, w_hh, b_ih, b_hh = (params[f"{h}.{name}"] for name in WEIGHTS)
    rnn: Any
    if config.decoder == "gru":
        y, rnn = ops.gru_forward(y, state[0], w_ih, w_hh, b_ih, b_hh, steps)
    else:
        y, rnn = ops.lstm_forward(y, state[0], state[1], w_ih, w_hh, b_ih, b_hh, steps)
    after = (y[:, -1], rnn.c_n) if config.decoder == "lstm" else (y[:, -1],)
    y, drop = ops.dropout_forward(y, config.pdrop, rng)
    return y, norm, rnn, drop, after


def layer_backward(
    dy: np.ndarray, cache: LayerCache, h: str, config: SeqConfig, ops: Ops, grads: Parameters
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return the gradients of the layer's x and of its first state."""
    dy = ops.dropout_backward(dy, cache.drop)
    backward: Any = ops.gru_backward if config.decoder == "gru" else ops.lstm_backward
    dx, *others = backward(dy, cache.rnn)
    dstate, dweights = tuple(others[:-4]), others[-4:]
    for name, dweight in zip(WEIGHTS, dweights, strict=True):
        grads[f"{h}.{name}"] = dweight
    dx, _ = ops.rmsnorm_backward(dx, cache.norm, grads[f"{h}.norm.weight"])
    return dx, dstate


def attend_forward(
    params: Parameters,
    x: np.ndarray,
    kv: np.ndarray,
    lengths: np.ndarray | None,
    h: str,
    config: SeqConfig,
    ops: Ops,
    taps: Taps,
) -> tuple[np.ndarray, AttendCache]:
    """Attend to the source, what it adds to the stream: x (N, T, C) and keys and values (N, S, 2C) -> (N, T, C)."""
    y, norm = ops.rmsnorm_forward(x, params[f"{h}.attn.norm.weight"])
    q, c_q = ops.linear_forward(y, *weight_and_bias(params, f"{h}.attn.c_q"))
    attn: tuple = ()
    if taps.want([f"{h}.attn.probs"]):
        heads = attention_seen(q, kv, lengths, h, config.heads, taps)
    else:
        heads, attn = ops.cross_attention_forward(q, kv, config.heads, lengths)
    y, c_proj = ops.linear_forward(heads, *weight_and_bias(params, f"{h}.attn.c_proj"))
    return y, AttendCache(norm, c_q, attn, c_proj)


def attend_backward(
    dy: np.ndarray, cache: AttendCache, h: str, ops: Ops, grads: Parameters
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of x, and of the keys and values."""
    dheads, *_ = ops.linear_backward(dy, cache.c_proj, *weight_and_bias(grads, f"{h}.attn.c_proj"))
    dq, dkv = ops.cross_attention_backward(dheads, cache.attn)
    dx, *_ = ops.linear_backward(dq, cache.c_q, *weight_and_bias(grads, f"{h}.attn.c_q"))
    dx, _ = ops.rmsnorm_backward(dx, cache.norm, grads[f"{h}.attn.norm.weight"])
    return dx, dkv


def attention_seen(
    q: np.ndarray, kv: np.ndarray, lengths: np.ndarray | None, h: str, n_head: int, taps: Taps
) -> np.ndarray:
    """Do what ops.cross_attention_forward does, with the tap h.attn.probs (N, H, T, S) in the middle."""
    (N, T, C), S = q.shape, kv.shape[1]
    D = C // n_head
    q = q.reshape(N, T, n_head, D).transpose(0, 2, 1, 3)  # (N, H, T, D)
    k, v = kv.reshape(N, S, 2, n_head, D).transpose(2, 0, 3, 1, 4)  # each (N, H, S, D)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(D)
    if lengths is not None:
        scores = np.where(np.arange(S) < lengths[:, None, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs = taps(f"{h}.attn.probs", weights / weights.sum(axis=-1, keepdims=True))
    return (probs @ v).transpose(0, 2, 1, 3).reshape(N, T, C)


def bridge_forward(
    params: Parameters, source: np.ndarray, lengths: np.ndarray | None, config: SeqConfig, ops: Ops
) -> tuple[list[tuple[np.ndarray, ...]], list[np.ndarray], tuple]:
    """Return each layer's first state, with attention each layer's keys and values (N, S, 2C), and the cache.

    With attention the states are 0. Otherwise they are `tanh(linear(pool(features)))`, a cell without the tanh.
    """
    N, L, C, k = len(source), config.n_layer, config.width, STATES[config.decoder]
    if config.bridge == "attention":
        found = [ops.linear_forward(source, *weight_and_bias(params, f"decoder.h.{i}.attn.c_kv")) for i in range(L)]
        return [tuple(np.zeros((k, N, C), source.dtype))] * L, [kv for kv, _ in found], tuple(c for _, c in found)
    pooled, pool = ops.pool_forward(source, config.bridge, lengths)
    flat, linear = ops.linear_forward(pooled, params["bridge.weight"], params["bridge.bias"])
    states = flat.reshape(N, k, L, C).transpose(2, 1, 0, 3).copy()  # (L, k, N, C), each state contiguous
    states[:, 0] = np.tanh(states[:, 0])
    return [tuple(state) for state in states], [], (pool, linear, states)


def bridge_backward(
    dstates: list[tuple[np.ndarray, ...]],
    dkv: list[np.ndarray],
    cache: tuple,
    config: SeqConfig,
    ops: Ops,
    grads: Parameters,
) -> np.ndarray:
    """Return the gradient of the features."""
    if dkv:  # the zeros of the states need none
        dsource: Any = None
        for i, (d_i, linear) in enumerate(zip(dkv, cache, strict=True)):
            found, *_ = ops.linear_backward(d_i, linear, *weight_and_bias(grads, f"decoder.h.{i}.attn.c_kv"))
            dsource = found if dsource is None else add(dsource, found)
        return dsource
    pool, linear, states = cache
    d = np.array(dstates)  # (L, k, N, C)
    # state = tanh(flat), whose slope is 1 - tanh^2
    d[:, 0] *= 1 - states[:, 0] * states[:, 0]
    dflat = d.transpose(2, 1, 0, 3).reshape(d.shape[2], -1)
    dpooled, *_ = ops.linear_backward(dflat, linear, grads["bridge.weight"], grads["bridge.bias"])
    return ops.pool_backward(dpooled, pool)
