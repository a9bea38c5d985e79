"""LSTM: a cell that gates write, keep and show."""

from typing import Any, NamedTuple

import numpy as np

from npgpt.layers.recurrence import Steps, check_shapes, sigmoid, steps


class Cache(NamedTuple):
    """What the backward needs, and the cells after the last step of each row."""

    x: np.ndarray  # (B, T, I), 0 where a row has ended
    before: np.ndarray  # (B, T, H), the state before each step
    cells: np.ndarray  # (B, T, H), the cells before each step
    gates: np.ndarray  # (B, T, 4H)
    tanh_c: np.ndarray  # (B, T, H), of the cells after each step
    w_ih: np.ndarray
    w_hh: np.ndarray
    steps: Steps
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
    """Run the gates i, f, g and o over a sequence: `c' = f * c + i * g`, `h' = o * tanh(c')`, and out is every h'.

        i = sigmoid(x @ w_ii.T + b_ii + h @ w_hi.T + b_hi), and f and o likewise
        g = tanh(x @ w_ig.T + b_ig + h @ w_hg.T + b_hg)

    x        (B, T, I)
    h0, c0   (B, H), the state and the cell before the first step
    w_ih     (4H, I), w_ii above w_if, w_ig and w_io; w_hh (4H, H), b_ih (4H,) and b_hh (4H,) in the same order
    lengths  (B,) integers in 0..T: from there on a row keeps state and cell, its x is not read, and its out is 0
    reverse  from the last step of each row to its first
    bptt     the gradient stops after every bptt steps, as if state and cell had been detached there
    out      (B, T, H); the cache's `c_n` (B, H) is the cell after each row's last step

    Raises ValueError for other shapes, lengths, or a bptt below 1. Gates, weights and biases are PyTorch's.
    Source: Hochreiter and Schmidhuber, Neural Computation 9(8), 1997, with the forget gate of Gers et al., 2000.
    Derivation: docs/layers/lstm.md.
    """
    check_shapes(4, x, {"h0": h0, "c0": c0}, {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh})
    (B, T, _), H = x.shape, h0.shape[1]
    order, active, cut = steps(B, T, lengths, reverse, bptt)
    x = np.where(active, x, x.dtype.type(0))
    from_x = x @ w_ih.T + b_ih
    before, cells, tanh_c, out = (np.empty((B, T, H), from_x.dtype) for _ in range(4))
    gates = np.empty_like(from_x)
    h, c = h0, c0
    for t in order:
        inner = from_x[:, t] + (h @ w_hh.T + b_hh)
        i, f = sigmoid(inner[:, :H]), sigmoid(inner[:, H : 2 * H])
        g, o = np.tanh(inner[:, 2 * H : 3 * H]), sigmoid(inner[:, 3 * H :])
        new_c = f * c + i * g
        shown = np.tanh(new_c)
        new = o * shown
        before[:, t], cells[:, t], tanh_c[:, t] = h, c, shown
        gates[:, t] = np.concatenate([i, f, g, o], axis=1)
        out[:, t] = np.where(active[:, t], new, 0)
        h, c = np.where(active[:, t], new, h), np.where(active[:, t], new_c, c)
    return out, Cache(x, before, cells, gates, tanh_c, w_ih, w_hh, Steps(order, active, cut), c)


def lstm_backward(
    dout: np.ndarray, cache: Any, dc_n: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return `dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh`, from the last step to the first.

    dout      (B, T, H)
    dc_n      (B, H), the gradient at the cache's c_n, or None for 0
    dx        (B, T, I)  dinner @ w_ih, where dinner (B, T, 4H) is the gradient before the gates' functions
    dh0, dc0  (B, H)
    dw_ih     (4H, I)    dinner.T @ x, summed over B and T
    dw_hh     (4H, H)    dinner.T @ h, summed over B and T
    db_ih     (4H,)      dinner, summed over B and T; db_hh is equal to it
    """
    x, before, cells, gates, tanh_c, w_ih, w_hh, (order, active, cut), c_n = cache
    dinner = np.empty_like(gates)
    dh, dc = np.zeros_like(c_n), np.zeros_like(c_n) if dc_n is None else dc_n.copy()
    for t in reversed(order):
        c, shown, (i, f, g, o) = cells[:, t], tanh_c[:, t], np.split(gates[:, t], 4, axis=1)
        # h = where(active, new, h), out = where(active, new, 0), c = where(active, new_c, c)
        dnew = np.where(active[:, t], dh + dout[:, t], 0)
        dnew_c = np.where(active[:, t], dc, 0)
        dkept, dkept_c = np.where(active[:, t], 0, dh), np.where(active[:, t], 0, dc)
        # new = o * tanh(new_c), and the slope of tanh is 1 - tanh^2
        do = dnew * shown
        dnew_c = dnew_c + dnew * o * (1 - shown * shown)
        # new_c = f * c + i * g
        df, di, dg = dnew_c * c, dnew_c * g, dnew_c * i
        # i, f, o = sigmoid(inner), whose slope is i * (1 - i); g = tanh(inner)
        inner = di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)
        dinner[:, t] = np.concatenate(inner, axis=1)
        # inner = from_x + (h @ w_hh.T + b_hh)
        dh = np.where(cut[:, t], 0, dkept + dinner[:, t] @ w_hh)
        dc = np.where(cut[:, t], 0, dkept_c + dnew_c * f)
    # from_x = x @ w_ih.T + b_ih
    rows = dinner.reshape(-1, dinner.shape[2])
    dw_ih = rows.T @ x.reshape(-1, x.shape[2])
    dw_hh = rows.T @ before.reshape(-1, before.shape[2])
    return dinner @ w_ih, dh, dc, dw_ih, dw_hh, rows.sum(axis=0), rows.sum(axis=0)
