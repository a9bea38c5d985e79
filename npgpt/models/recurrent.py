"""GRUs or LSTMs in layers: the outputs of one are the inputs of the next."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from npgpt.layers.lengths import real_positions
from npgpt.ops import REFERENCE, Ops

Weights = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # w_ih, w_hh, b_ih and b_hh
KINDS = {1: "gru", 2: "lstm"}  # by the number of their states


class StackCache(NamedTuple):
    """What the backward needs, and the states after each row's last step, with which a later text goes on."""

    states: tuple[np.ndarray, ...]  # h_n (N, B, H), and of LSTMs c_n
    layers: list[tuple[list, tuple | None]]  # the caches of each layer's directions, and of the dropout before it
    ends: list[tuple[np.ndarray, np.ndarray]]  # of each direction: the rows that have a step, and the time of the last
    ops: Ops


def stack_forward(
    x: np.ndarray,
    states: Sequence[np.ndarray],
    weights: Sequence[Weights],
    ops: Ops = REFERENCE,
    lengths: np.ndarray | None = None,
    bidirectional: bool = False,
    p: float = 0.0,
    rng: np.random.Generator | None = None,
    bptt: int | None = None,
) -> tuple[np.ndarray, StackCache]:
    """Run layers of GRUs (one state) or LSTMs (two) over a sequence.

    x              (B, T, I)
    states         h0 (N, B, H), and for LSTMs c0 of the same shape, for N = len(weights)
    weights        for each layer w_ih, w_hh, b_ih and b_hh as `gru_forward` and `lstm_forward` take them; if it has
                   two directions, those of the forward one and then those of the reverse one. So PyTorch orders them
    lengths, bptt  as there
    bidirectional  read each layer's input from both ends; the next layer's input has both outputs side by side
    p, rng         dropout of the input of every layer but the first, in training
    out            (B, T, H), or (B, T, 2H) if bidirectional. The cache's `states` are those after each row's last step

    A text in pieces: the states of one are the next's, and the gradient goes from one to another only if it is given
    to `stack_backward`.

    Raises ValueError for another number of states or of weights, and what the layers raise.
    """
    if len(states) not in KINDS:
        raise ValueError(f"a GRU has the state h0 and an LSTM h0 and c0, got {len(states)} states")
    directions = 2 if bidirectional else 1
    if not weights or len(weights) % directions or any(len(state) != len(weights) for state in states):
        found = f"{len(weights)} weights and states for {[len(state) for state in states]}"
        raise ValueError(f"every layer{' in both directions' * bidirectional} needs weights and states, got {found}")
    forward = getattr(ops, f"{KINDS[len(states)]}_forward")
    (B, T, _), last = x.shape, [np.array(state) for state in states]
    count = real_positions(lengths, B, T).sum(axis=1)
    layers, ends = [], []
    for first in range(0, len(weights), directions):
        x, dropped = ops.dropout_forward(x, p, rng) if first else (x, None)
        outs, caches = [], []
        for n in range(first, first + directions):
            reverse = n > first
            out, cache = forward(x, *(state[n] for state in states), *weights[n], lengths, reverse, bptt)
            rows = np.flatnonzero(count)  # the others keep their states
            end = rows, 0 * rows if reverse else count[rows] - 1
            last[0][n, rows] = out[end]
            if len(states) == 2:
                last[1][n] = cache.c_n
            outs.append(out)
            caches.append(cache)
            ends.append(end)
        x = np.concatenate(outs, axis=2) if bidirectional else outs[0]
        layers.append((caches, dropped))
    return x, StackCache(tuple(last), layers, ends, ops)


def stack_backward(
    dout: np.ndarray, cache: StackCache, dstates: Sequence[np.ndarray] | None = None
) -> tuple[np.ndarray, tuple[np.ndarray, ...], list[Weights]]:
    """Return `dx, dstates, dweights`, the last two in the order of the forward's states and weights.

    dout     (B, T, H), or (B, T, 2H)
    dstates  the gradients at the cache's states (N, B, H), or None for 0: the returned dstates of the text's next
             piece, or None, which cuts the gradient there
    """
    last, layers, ends, ops = cache
    backward = getattr(ops, f"{KINDS[len(last)]}_backward")
    dlast = [np.zeros_like(state) for state in last] if dstates is None else dstates
    dfirst, dweights = tuple(np.empty_like(state) for state in last), []
    n = len(ends)
    for caches, dropped in reversed(layers):
        dxs = []
        for dpart, inner in reversed(list(zip(np.split(dout, len(caches), axis=2), caches, strict=True))):
            n -= 1
            dpart = dpart.copy()
            # last[n, rows] = out[ends]; the states of other rows are those before
            dpart[ends[n]] += dlast[0][n, ends[n][0]]
            dkept = dlast[0][n].copy()
            dkept[ends[n][0]] = 0
            more = {"dc_n": dlast[1][n]} if len(last) == 2 else {}
            dx, *grads = backward(dpart, inner, **more)
            dfirst[0][n] = grads[0] + dkept
            for dstate, grad in zip(dfirst[1:], grads[1:], strict=False):
                dstate[n] = grad
            dweights.append(tuple(grads[len(last) :]))
            dxs.append(dx)
        dout = sum(dxs[1:], dxs[0])
        dout = dout if dropped is None else ops.dropout_backward(dout, dropped)
    return dout, dfirst, dweights[::-1]
