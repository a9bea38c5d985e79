"""LSTM: one compiled call forward and one back, on packed rows (`recurrence.py`), with BLAS inside."""

from typing import Any, NamedTuple

import numpy as np

from npgpt.kernels.products import product
from npgpt.kernels.recurrence import Packed, copy, gather, of_one_dtype, pack, scatter, sigmoid, tanh, transposed
from npgpt.kernels.rows import sum_rows
from npgpt.layers.recurrence import check_shapes
from npgpt.support.buffers import empty
from npgpt.support.jit import jit


class Cache(NamedTuple):
    """What the backward needs, N packed rows, and the cells after each row's last step."""

    x: np.ndarray  # (N, I)
    before: np.ndarray  # (N, H), the state before each step
    cells: np.ndarray  # (N, H), the cells before each step
    gates: np.ndarray  # (N, 4H)
    tanh_c: np.ndarray  # (N, H), of the cells after each step
    w_ih: np.ndarray
    w_hh: np.ndarray
    packed: Packed
    bptt: int  # 0 if the gradient goes through all steps
    shape: tuple[int, int, int]  # of the forward's x
    c_n: np.ndarray  # (B, H)


def lstm_forward(
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    w_ih: np.ndarray,
    w_hh: np.ndarray,
    b_ih: np.ndarray,
    b_hh: np.ndarray,
    lengths: np.ndarray | None = None,
    reverse: bool = False,
    bptt: int | None = None,
) -> tuple[np.ndarray, Any]:
    """Do what npgpt.layers.lstm_forward does."""
    check_shapes(4, x, {"h0": h0, "c0": c0}, {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh})
    x, h0, c0, w_ih, w_hh, b_ih, b_hh = of_one_dtype(x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    (B, T, _), H, dtype = x.shape, h0.shape[1], x.dtype
    packed = pack(B, T, lengths, reverse, bptt)
    N = len(packed.places)
    xs, gates = empty((N, x.shape[2]), dtype), empty((N, 4 * H), dtype)
    before, cells, tanh_c = (empty((N, H), dtype) for _ in range(3))
    out, c_n = empty((B * T, H), dtype), empty((B, H), dtype)
    bias = np.add(b_ih, b_hh, out=empty((4 * H,), dtype))
    flat = x.reshape(B * T, x.shape[2])
    run(flat, h0, c0, w_ih, transposed(w_hh), bias, *packed, xs, gates, before, cells, tanh_c, out, c_n)
    cache = Cache(xs, before, cells, gates, tanh_c, w_ih, w_hh, packed, bptt or 0, x.shape, c_n)
    return out.reshape(B, T, H), cache


def lstm_backward(
    dout: np.ndarray, cache: Any, dc_n: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Do what npgpt.layers.lstm_backward does."""
    x, before, cells, gates, tanh_c, w_ih, w_hh, packed, bptt, shape, _ = cache
    B, T, _ = shape
    dtype, H = gates.dtype, before.shape[1]
    dinner, dxs, dx = empty(gates.shape, dtype), empty(x.shape, dtype), empty((B * T, shape[2]), dtype)
    dh, dc, dh0, dc0 = (empty((B, H), dtype) for _ in range(4))
    dh[...] = 0
    dc[...] = 0 if dc_n is None else dc_n[packed.rows]
    dw_ih, dw_hh, db = empty(w_ih.shape, dtype), empty(w_hh.shape, dtype), empty((4 * H,), dtype)
    dout = np.ascontiguousarray(dout, dtype).reshape(B * T, H)
    run_backward(dout, *packed, bptt, gates, cells, tanh_c, w_hh, dinner, dh, dc)
    gradients(dinner, x, before, w_ih, packed.places, dxs, dx, dw_ih, dw_hh, db)
    dh0[packed.rows], dc0[packed.rows] = dh, dc
    db_hh = empty(db.shape, dtype)
    db_hh[...] = db
    return dx.reshape(shape), dh0, dc0, dw_ih, dw_hh, db, db_hh


@jit
def run(
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    w_ih: np.ndarray,
    w_hh_t: np.ndarray,
    bias: np.ndarray,
    rows: np.ndarray,
    counts: np.ndarray,
    places: np.ndarray,
    xs: np.ndarray,
    gates: np.ndarray,
    before: np.ndarray,
    cells: np.ndarray,
    tanh_c: np.ndarray,
    out: np.ndarray,
    c_n: np.ndarray,
) -> None:
    """Run all steps: x (B T, I) -> out (B T, H) and c_n (B, H); bias (4H,) is the sum of both."""
    if len(places) < len(out):
        out[:] = 0
    c_n[:] = c0
    if len(places) == 0:
        return
    gather(x, places, xs)
    product(xs, w_ih.T, gates, False)
    gather(h0, rows[: counts[0]], before)
    gather(c0, rows[: counts[0]], cells)
    at = 0
    for s in range(len(counts)):
        n = counts[s]
        after = at + n
        stay = counts[s + 1] if s + 1 < len(counts) else 0
        product(before[at:after], w_hh_t, gates[at:after], True)
        for i in range(n):
            h, c = out[places[at + i]], cells[after + i] if i < stay else c_n[rows[i]]
            step(gates[at + i], bias, cells[at + i], c, tanh_c[at + i], h)
            if i < stay:
                copy(h, before[after + i])
        at = after


@jit(inner=True)
def step(g: np.ndarray, bias: np.ndarray, c: np.ndarray, new_c: np.ndarray, tanh_c: np.ndarray, h: np.ndarray) -> None:
    """Let one row step: g (4H,) is what the gates get, but for the bias, and becomes the gates."""
    one, H = g.dtype.type(1), len(c)
    # parts, because a loop that does not begin at 0 is not vectorised: an index might be one from the end
    i, f, gate, o = g[:H], g[H : 2 * H], g[2 * H : 3 * H], g[3 * H :]
    gate_bias, o_bias = bias[2 * H : 3 * H], bias[3 * H :]
    for j in range(2 * H):
        g[j] = sigmoid(g[j] + bias[j], one)
    for j in range(H):
        gate[j] = tanh(gate[j] + gate_bias[j])
    for j in range(H):
        o[j] = sigmoid(o[j] + o_bias[j], one)
    for j in range(H):
        new_c[j] = f[j] * c[j] + i[j] * gate[j]
    for j in range(H):
        tanh_c[j] = tanh(new_c[j])
        h[j] = o[j] * tanh_c[j]


@jit
def run_backward(
    dout: np.ndarray,
    rows: np.ndarray,
    counts: np.ndarray,
    places: np.ndarray,
    bptt: int,
    gates: np.ndarray,
    cells: np.ndarray,
    tanh_c: np.ndarray,
    w_hh: np.ndarray,
    dinner: np.ndarray,
    dh: np.ndarray,
    dc: np.ndarray,
) -> None:
    """Put the gradients before the gates' functions into dinner (N, 4H).

    dh, dc  (B, H), rows from the longest to the shortest: the gradients at the last states, which become those at
            the first
    """
    at = len(places)
    for s in range(len(counts) - 1, -1, -1):
        n = counts[s]
        at -= n
        for i in range(n):
            k = at + i
            step_backward(dout[places[k]], gates[k], cells[k], tanh_c[k], dh[i], dc[i], dinner[k])
        if bptt and s and s % bptt == 0:
            dh[:n] = 0
            dc[:n] = 0
        else:
            product(dinner[at : at + n], w_hh, dh[:n], False)


@jit(inner=True)
def step_backward(
    dout: np.ndarray,
    g: np.ndarray,
    c: np.ndarray,
    tanh_c: np.ndarray,
    dh: np.ndarray,
    dc: np.ndarray,
    dinner: np.ndarray,
) -> None:
    """Let one row step back: dc (H,) becomes the gradient at the cells before the step."""
    one, H = g.dtype.type(1), len(c)
    i, f, gate, o = g[:H], g[H : 2 * H], g[2 * H : 3 * H], g[3 * H :]
    di, df, dgate, do = dinner[:H], dinner[H : 2 * H], dinner[2 * H : 3 * H], dinner[3 * H :]
    for j in range(H):
        dnew = dh[j] + dout[j]
        dnew_c = dc[j] + dnew * o[j] * (one - tanh_c[j] * tanh_c[j])
        do[j] = dnew * tanh_c[j] * o[j] * (one - o[j])
        df[j] = dnew_c * c[j] * f[j] * (one - f[j])
        di[j] = dnew_c * gate[j] * i[j] * (one - i[j])
        dgate[j] = dnew_c * i[j] * (one - gate[j] * gate[j])
        dc[j] = dnew_c * f[j]


@jit
def gradients(
    dinner: np.ndarray,
    x: np.ndarray,
    before: np.ndarray,
    w_ih: np.ndarray,
    places: np.ndarray,
    dxs: np.ndarray,
    dx: np.ndarray,
    dw_ih: np.ndarray,
    dw_hh: np.ndarray,
    db: np.ndarray,
) -> None:
    """Put the gradients of inner = x @ w_ih.T + before @ w_hh.T + bias into dx (B T, I), dw_ih, dw_hh and db."""
    if len(places):
        product(dinner, w_ih, dxs, False)
        product(dinner.T, x, dw_ih, False)
        product(dinner.T, before, dw_hh, False)
    else:
        dw_ih[:] = 0
        dw_hh[:] = 0
    scatter(dxs, places, dx)
    sum_rows(dinner, db)
