"""Recurrent cells: what comes back from the next step, and which state a gate was multiplied with."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs.activations import sigmoid
from tests.gradcheck.example import normal, planted


def rnn_forward(x, h0, wx, wh, b):
    """Step through time: (B, T, I) and (B, H) -> (B, T, H)."""
    hs = [h0]
    for t in range(x.shape[1]):
        hs.append(np.tanh(x[:, t] @ wx + hs[-1] @ wh + b))
    return np.stack(hs[1:], axis=1), (x, hs, wx, wh)


def rnn_backward(dout, cache, slip=""):
    x, hs, wx, wh = cache
    dx, dwx, dwh = np.zeros_like(x), np.zeros_like(wx), np.zeros_like(wh)
    db, dh = np.zeros_like(wh[0]), np.zeros_like(hs[0])
    steps = range(x.shape[1])[-2:] if slip == "cut off after two steps" else range(x.shape[1])
    for t in reversed(steps):
        dh = dout[:, t] if slip == "gradient of the next step forgotten" else dh + dout[:, t]
        state = hs[t] if slip == "tanh differentiated at the old state" else hs[t + 1]
        dz = dh * (1 - state * state)
        dx[:, t] = dz @ wx.T
        dwx += x[:, t].T @ dz
        dwh += (hs[t + 1] if slip == "dwh with the new state" else hs[t]).T @ dz
        db = dz.sum(axis=0) if slip == "db of the first step alone" else db + dz.sum(axis=0)
        dh = dz @ (wh if slip == "wh not transposed" else wh.T)
    if slip == "dh0 left at zero":
        dh = np.zeros_like(dh)
    return dx, dh, dwx, dwh, db


def lstm_forward(x, h0, c0, wx, wh, b):
    """Return all hidden states and the last cell, a tuple."""
    h, c, steps = h0, c0, []
    for t in range(x.shape[1]):
        i, f, o, g = np.split(x[:, t] @ wx + h @ wh + b, 4, axis=1)
        i, f, o, g = sigmoid(i), sigmoid(f), sigmoid(o), np.tanh(g)
        before = h, c
        c = f * c + i * g
        h = o * np.tanh(c)
        steps.append((before, (i, f, o, g), c, h))
    return (np.stack([step[3] for step in steps], axis=1), c), (x, steps, wx, wh)


def lstm_backward(dout, cache, slip=""):
    x, steps, wx, wh = cache
    dhs, dc = dout
    if slip == "gradient of the last cell forgotten":
        dc = np.zeros_like(dc)
    dx, dwx, dwh = np.zeros_like(x), np.zeros_like(wx), np.zeros_like(wh)
    db, dh = np.zeros_like(wx[0]), np.zeros_like(dc)
    for t in reversed(range(x.shape[1])):
        (h_old, c_old), (i, f, o, g), c, _ = steps[t]
        dh = dh + dhs[:, t]
        tanh = c if slip == "1 - c^2 for 1 - tanh(c)^2" else np.tanh(c)
        dc = dc + dh * o * (1 - tanh * tanh)
        df = dc * (c if slip == "forget gate with the new cell" else c_old)
        di, dg, do = dc * g, dc * i, dh * np.tanh(c)
        df = df * f if slip == "1 - f missing" else df * f * (1 - f)
        dz = np.concatenate((di * i * (1 - i), df, do * o * (1 - o), dg * (1 - g * g)), axis=1)
        if slip == "gates i and f swapped":
            dz = np.concatenate((df, di * i * (1 - i), do * o * (1 - o), dg * (1 - g * g)), axis=1)
        dx[:, t] = dz @ wx.T
        dwx += x[:, t].T @ dz
        dwh += h_old.T @ dz
        db = db + dz.sum(axis=0)
        dh = dz @ wh.T
        dc = np.zeros_like(dc) if slip == "cell not carried back" else dc * f
    return dx, dh, dc, dwx, dwh, db


def gru_forward(x, h, wx, wh, b):
    """One step: gates r and z, candidate n with r inside, `h' = (1 - z) n + z h`."""
    H = h.shape[1]
    zx, zh = x @ wx + b, h @ wh
    r, z = sigmoid(zx[:, :H] + zh[:, :H]), sigmoid(zx[:, H : 2 * H] + zh[:, H : 2 * H])
    n = np.tanh(zx[:, 2 * H :] + r * zh[:, 2 * H :])
    return (1 - z) * n + z * h, (x, h, wx, wh, r, z, n, zh[:, 2 * H :])


def gru_backward(dout, cache, slip=""):
    x, h, wx, wh, r, z, n, inner = cache
    dn = dout * (1 - z) * (1 - n * n)
    dz = dout * ((n - h) if slip == "sign of the update gate" else (h - n)) * z * (1 - z)
    dr = dn * inner * r * (1 - r)
    if slip == "path through the reset gate missing":
        dr = np.zeros_like(dr)
    dzx = np.concatenate((dr, dz, dn), axis=1)
    reset = 1 if slip == "reset gate forgotten in dwh" else r
    dzh = np.concatenate((dr, dz, dn * reset), axis=1)
    dh = dzh @ wh.T
    if slip != "straight path of h missing":
        dh = dh + dout * z
    return dzx @ wx.T, dh, x.T @ dzx, h.T @ dzh, dzx.sum(axis=0)


rnn = partial(
    planted,
    "rnn",
    forward=rnn_forward,
    right=rnn_backward,
    args=partial(normal, 91, (2, 4, 3), (2, 3), (3, 3), (3, 3), (3,)),
)
lstm = partial(
    planted,
    "lstm",
    forward=lstm_forward,
    right=lstm_backward,
    args=partial(normal, 92, (2, 3, 2), (2, 3), (2, 3), (2, 12), (3, 12), (12,)),
)
gru = partial(
    planted,
    "gru",
    forward=gru_forward,
    right=gru_backward,
    args=partial(normal, 93, (3, 2), (3, 4), (2, 12), (4, 12), (12,)),
)

BUGS = [
    rnn(
        "gradient of the next step forgotten",
        source="https://github.com/d2l-ai/d2l-en/issues/2616",
        note="there in a derivation",
    ),
    rnn("tanh differentiated at the old state"),
    rnn("dwh with the new state"),
    rnn("db of the first step alone"),
    rnn("wh not transposed"),
    rnn("cut off after two steps"),
    rnn("dh0 left at zero"),
    lstm("gradient of the last cell forgotten", source="https://github.com/deeplearning4j/deeplearning4j/issues/8838"),
    lstm("1 - c^2 for 1 - tanh(c)^2"),
    lstm("forget gate with the new cell"),
    lstm("1 - f missing", source="https://github.com/CaptainE/RNN-LSTM-in-numpy/pull/2"),
    lstm("gates i and f swapped"),
    lstm("cell not carried back", source="https://github.com/CaptainE/RNN-LSTM-in-numpy/issues/1"),
    gru("sign of the update gate"),
    gru("path through the reset gate missing"),
    gru("reset gate forgotten in dwh"),
    gru("straight path of h missing"),
]
