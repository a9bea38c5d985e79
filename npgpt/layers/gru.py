"""GRU: a state that each step keeps in part and renews in part."""

import numpy as np

from npgpt.layers.recurrence import check_shapes, sigmoid, steps


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
    """Run the gates r, z and n over a sequence: `h' = (1 - z) * n + z * h`, and out is the h' of every step.

        r = sigmoid(x @ w_ir.T + b_ir + h @ w_hr.T + b_hr)
        z = sigmoid(x @ w_iz.T + b_iz + h @ w_hz.T + b_hz)
        n = tanh(x @ w_in.T + b_in + r * (h @ w_hn.T + b_hn))

    x        (B, T, I)
    h0       (B, H), the state before the first step
    w_ih     (3H, I), w_ir above w_iz above w_in; w_hh (3H, H), b_ih (3H,) and b_hh (3H,) in the same order
    lengths  (B,) integers in 0..T: from there on a row keeps its state, its x is not read, and its out is 0
    reverse  from the last step of each row to its first
    bptt     the gradient stops after every bptt steps, as if the state had been detached there
    out      (B, T, H)

    Raises ValueError for other shapes, lengths, or a bptt below 1. Gates, weights and biases are PyTorch's.
    Source: Cho et al., arXiv:1406.1078, with r after the product as in cuDNN. Derivation: docs/layers/gru.md.
    """
    check_shapes(3, x, {"h0": h0}, {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh})
    (B, T, _), H = x.shape, h0.shape[1]
    order, active, cut = steps(B, T, lengths, reverse, bptt)
    x = np.where(active, x, x.dtype.type(0))
    from_x = x @ w_ih.T + b_ih
    before, from_h_n = np.empty((B, T, H), from_x.dtype), np.empty((B, T, H), from_x.dtype)
    gates, out = np.empty_like(from_x), np.empty((B, T, H), from_x.dtype)
    h = h0
    for t in order:
        from_h = h @ w_hh.T + b_hh
        rz = sigmoid(from_x[:, t, : 2 * H] + from_h[:, : 2 * H])
        r, z = rz[:, :H], rz[:, H:]
        n = np.tanh(from_x[:, t, 2 * H :] + r * from_h[:, 2 * H :])
        new = (1 - z) * n + z * h
        before[:, t], from_h_n[:, t], gates[:, t] = h, from_h[:, 2 * H :], np.concatenate([r, z, n], axis=1)
        out[:, t] = np.where(active[:, t], new, 0)
        h = np.where(active[:, t], new, h)
    return out, (x, before, from_h_n, gates, w_ih, w_hh, order, active, cut)


def gru_backward(
    dout: np.ndarray, cache: tuple
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return `dx, dh0, dw_ih, dw_hh, db_ih, db_hh`, from the last step to the first.

    dout   (B, T, H)
    dx     (B, T, I)  dfrom_x @ w_ih, where dfrom_x (B, T, 3H) is the gradient before the gates' functions
    dh0    (B, H)
    dw_ih  (3H, I)    dfrom_x.T @ x, summed over B and T
    dw_hh  (3H, H)    dfrom_h.T @ h, summed over B and T; dfrom_h is dfrom_x, but for n times r
    db_ih  (3H,)      dfrom_x, summed over B and T; db_hh (3H,) dfrom_h, summed
    """
    x, before, from_h_n, gates, w_ih, w_hh, order, active, cut = cache
    H = before.shape[2]
    dfrom_x, dfrom_h = np.empty_like(gates), np.empty_like(gates)
    dh = np.zeros((len(x), H), before.dtype)
    for t in reversed(order):
        h, (r, z, n) = before[:, t], np.split(gates[:, t], 3, axis=1)
        # h = where(active, new, h), out = where(active, new, 0)
        dnew = np.where(active[:, t], dh + dout[:, t], 0)
        dkept = np.where(active[:, t], 0, dh)
        # new = (1 - z) * n + z * h
        dz = dnew * (h - n)
        dn = dnew * (1 - z)
        # n = tanh(from_x + r * from_h), whose slope is 1 - n^2
        dn_inner = dn * (1 - n * n)
        dr = dn_inner * from_h_n[:, t]
        # r, z = sigmoid(from_x + from_h), whose slope is r * (1 - r)
        dr_inner, dz_inner = dr * r * (1 - r), dz * z * (1 - z)
        dfrom_x[:, t] = np.concatenate([dr_inner, dz_inner, dn_inner], axis=1)
        dfrom_h[:, t] = np.concatenate([dr_inner, dz_inner, dn_inner * r], axis=1)
        # from_h = h @ w_hh.T + b_hh
        dh = np.where(cut[:, t], 0, dkept + dnew * z + dfrom_h[:, t] @ w_hh)
    # from_x = x @ w_ih.T + b_ih
    rows_x, rows_h = dfrom_x.reshape(-1, 3 * H), dfrom_h.reshape(-1, 3 * H)
    dw_ih = rows_x.T @ x.reshape(-1, x.shape[2])
    dw_hh = rows_h.T @ before.reshape(-1, H)
    return dfrom_x @ w_ih, dh, dw_ih, dw_hh, rows_x.sum(axis=0), rows_h.sum(axis=0)
