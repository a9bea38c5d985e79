"""GRU: one compiled call forward and one back, on packed rows (`recurrence.py`), with BLAS inside."""

import numpy as np

from npgpt.kernels.products import product
from npgpt.kernels.recurrence import copy, gather, of_one_dtype, pack, scatter, sigmoid, tanh, transposed
from npgpt.kernels.rows import sum_rows
from npgpt.layers.recurrence import check_shapes
from npgpt.support.buffers import empty
from npgpt.support.jit import jit


def gru_forward(
    x: np.ndarray,
    h0: np.ndarray,
    w_ih: np.ndarray,
    w_hh: np.ndarray,
    b_ih: np.ndarray,
    b_hh: np.ndarray,
    lengths: np.ndarray | None = None,
    reverse: bool = False,
    bptt: int | None = None,
) -> tuple[np.ndarray, tuple]:
    """Do what npgpt.layers.gru_forward does."""
    check_shapes(3, x, {"h0": h0}, {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh})
    x, h0, w_ih, w_hh, b_ih, b_hh = of_one_dtype(x, h0, w_ih, w_hh, b_ih, b_hh)
    (B, T, _), H, dtype = x.shape, h0.shape[1], x.dtype
    packed = pack(B, T, lengths, reverse, bptt)
    N = len(packed.places)
    xs, gates = empty((N, x.shape[2]), dtype), empty((N, 3 * H), dtype)
    before, from_h_n, out = empty((N, H), dtype), empty((N, H), dtype), empty((B * T, H), dtype)
    from_h = empty((B, 3 * H), dtype)
    flat = x.reshape(B * T, x.shape[2])
    run(flat, h0, w_ih, transposed(w_hh), b_ih, b_hh, *packed, xs, gates, before, from_h_n, out, from_h)
    cache = xs, before, from_h_n, gates, w_ih, w_hh, packed, bptt or 0, x.shape
    return out.reshape(B, T, H), cache


def gru_backward(
    dout: np.ndarray, cache: tuple
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Do what npgpt.layers.gru_backward does."""
    x, before, from_h_n, gates, w_ih, w_hh, packed, bptt, shape = cache
    B, T, _ = shape
    dtype, H = gates.dtype, before.shape[1]
    dfrom_x, dfrom_h = empty(gates.shape, dtype), empty(gates.shape, dtype)
    dxs, dx, dh, dh0 = (
        empty(x.shape, dtype),
        empty((B * T, shape[2]), dtype),
        empty((B, H), dtype),
        empty((B, H), dtype),
    )
    dh[...] = 0
    dw_ih, dw_hh = empty(w_ih.shape, dtype), empty(w_hh.shape, dtype)
    db_ih, db_hh = empty((3 * H,), dtype), empty((3 * H,), dtype)
    dout = np.ascontiguousarray(dout, dtype).reshape(B * T, H)
    run_backward(dout, *packed, bptt, gates, before, from_h_n, w_hh, dfrom_x, dfrom_h, dh)
    gradients(dfrom_x, dfrom_h, x, before, w_ih, packed.places, dxs, dx, dw_ih, dw_hh, db_ih, db_hh)
    dh0[packed.rows] = dh
    return dx.reshape(shape), dh0, dw_ih, dw_hh, db_ih, db_hh


@jit
def run(
    x: np.ndarray,
    h0: np.ndarray,
    w_ih: np.ndarray,
    w_hh_t: np.ndarray,
    b_ih: np.ndarray,
    b_hh: np.ndarray,
    rows: np.ndarray,
    counts: np.ndarray,
    places: np.ndarray,
    xs: np.ndarray,
    gates: np.ndarray,
    before: np.ndarray,
    from_h_n: np.ndarray,
    out: np.ndarray,
    from_h: np.ndarray,
) -> None:
    """Run all steps: x (B T, I) -> out (B T, H); from_h (B, 3H) is scratch memory."""
    if len(places) < len(out):
        out[:] = 0
    if len(places) == 0:
        return
    gather(x, places, xs)
    product(xs, w_ih.T, gates, False)
    gather(h0, rows[: counts[0]], before)
    at = 0
    for s in range(len(counts)):
        n = counts[s]
        after = at + n
        stay = counts[s + 1] if s + 1 < len(counts) else 0
        product(before[at:after], w_hh_t, from_h[:n], False)
        for i in range(n):
            h = out[places[at + i]]
            step(gates[at + i], from_h[i], b_ih, b_hh, before[at + i], from_h_n[at + i], h)
            if i < stay:
                copy(h, before[after + i])
        at = after


@jit(inner=True)
def step(
    g: np.ndarray,
    from_h: np.ndarray,
    b_ih: np.ndarray,
    b_hh: np.ndarray,
    h: np.ndarray,
    from_h_n: np.ndarray,
    new: np.ndarray,
) -> None:
    """Let one row step: g (3H,) is what the gates get from x, but for the bias, and becomes the gates."""
    one, H = g.dtype.type(1), len(h)
    for j in range(2 * H):
        g[j] = sigmoid((g[j] + b_ih[j]) + (from_h[j] + b_hh[j]), one)
    # parts, because a loop that does not begin at 0 is not vectorised: an index might be one from the end
    r, z, n = g[:H], g[H : 2 * H], g[2 * H :]
    h_n, b_in, b_hn = from_h[2 * H :], b_ih[2 * H :], b_hh[2 * H :]
    for j in range(H):
        from_h_n[j] = h_n[j] + b_hn[j]
        n[j] = tanh((n[j] + b_in[j]) + r[j] * from_h_n[j])
    for j in range(H):
        new[j] = (one - z[j]) * n[j] + z[j] * h[j]


@jit
def run_backward(
    dout: np.ndarray,
    rows: np.ndarray,
    counts: np.ndarray,
    places: np.ndarray,
    bptt: int,
    gates: np.ndarray,
    before: np.ndarray,
    from_h_n: np.ndarray,
    w_hh: np.ndarray,
    dfrom_x: np.ndarray,
    dfrom_h: np.ndarray,
    dh: np.ndarray,
) -> None:
    """Put the gradients before the gates' functions into dfrom_x and dfrom_h (N, 3H).

    dh  (B, H), rows from the longest to the shortest: 0, which becomes the gradient at the first states
    """
    at = len(places)
    for s in range(len(counts) - 1, -1, -1):
        n = counts[s]
        at -= n
        for i in range(n):
            k = at + i
            step_backward(dout[places[k]], gates[k], before[k], from_h_n[k], dh[i], dfrom_x[k], dfrom_h[k])
        if bptt and s and s % bptt == 0:
            dh[:n] = 0
        else:
            product(dfrom_h[at : at + n], w_hh, dh[:n], True)


@jit(inner=True)
def step_backward(
    dout: np.ndarray,
    g: np.ndarray,
    h: np.ndarray,
    from_h_n: np.ndarray,
    dh: np.ndarray,
    dfrom_x: np.ndarray,
    dfrom_h: np.ndarray,
) -> None:
    """Let one row step back: dh (H,) becomes the gradient at the state before, without what goes through from_h."""
    one, H = g.dtype.type(1), len(h)
    r, z, n = g[:H], g[H : 2 * H], g[2 * H :]
    x_r, x_z, x_n = dfrom_x[:H], dfrom_x[H : 2 * H], dfrom_x[2 * H :]
    h_r, h_z, h_n = dfrom_h[:H], dfrom_h[H : 2 * H], dfrom_h[2 * H :]
    for j in range(H):
        dnew = dh[j] + dout[j]
        dn = dnew * (one - z[j]) * (one - n[j] * n[j])
        dr = dn * from_h_n[j] * r[j] * (one - r[j])
        dz = dnew * (h[j] - n[j]) * z[j] * (one - z[j])
        x_r[j], x_z[j], x_n[j] = dr, dz, dn
        h_r[j], h_z[j], h_n[j] = dr, dz, dn * r[j]
        dh[j] = dnew * z[j]


@jit
def gradients(
    dfrom_x: np.ndarray,
    dfrom_h: np.ndarray,
    x: np.ndarray,
    before: np.ndarray,
    w_ih: np.ndarray,
    places: np.ndarray,
    dxs: np.ndarray,
    dx: np.ndarray,
    dw_ih: np.ndarray,
    dw_hh: np.ndarray,
    db_ih: np.ndarray,
    db_hh: np.ndarray,
) -> None:
    """Put the gradients of from_x = x @ w_ih.T + b_ih and from_h = before @ w_hh.T + b_hh into their places."""
    if len(places):
        product(dfrom_x, w_ih, dxs, False)
        product(dfrom_x.T, x, dw_ih, False)
        product(dfrom_h.T, before, dw_hh, False)
    else:
        dw_ih[:] = 0
        dw_hh[:] = 0
    scatter(dxs, places, dx)
    sum_rows(dfrom_x, db_ih)
    sum_rows(dfrom_h, db_hh)
