"""Recurrent nets, attention, scans and other sequences, each with slips that its author has made or reviewed."""

import numpy as np

from tests.gradcheck.blind.dense import FACTOR
from tests.gradcheck.blind.slip import slips
from tests.gradcheck.example import normal


def rnn(x, h0, wx, wh, b):
    """Give all states (B, T, H) of h = tanh(x wx + h wh + b)."""
    hs = [h0]
    for t in range(x.shape[1]):
        hs.append(np.tanh(x[:, t] @ wx + hs[-1] @ wh + b))
    return np.stack(hs[1:], axis=1), (x, hs, wx, wh)


def rnn_backward(dout, cache, slip=""):
    x, hs, wx, wh = cache
    dx, dwx, dwh, db = np.zeros_like(x), np.zeros_like(wx), np.zeros_like(wh), np.zeros(wh.shape[0])
    dh = np.zeros_like(hs[0])
    steps = x.shape[1]
    first = 1 if slip == "first step missing" else 0
    for t in reversed(range(first, steps)):
        dh = dout[:, t] + dh
        dz = dh * (1 - hs[t if slip == "tanh's derivative at the last state" else t + 1] ** 2)
        dx[:, t], db = dz @ wx.T, db + dz.sum(axis=0)
        dwx += x[:, t].T @ dz
        dwh += hs[t + 1 if slip == "dwh from the new state" else t].T @ dz
        dh = dz @ (wh if slip == "wh not transposed" else wh.T)
        if slip == "truncated after two steps" and t % 2 == 0:
            dh = np.zeros_like(dh)
        if slip == "no gradient through time":
            dh = np.zeros_like(dh)
        if slip == "db of the last step alone" and t < steps - 1:
            db = db - dz.sum(axis=0)
    if slip == "dh0 one step early":
        dh = dh + dout[:, 0]
    if slip == "clipped":
        dwh = np.clip(dwh, -2, 2)
    if slip == "divided by time":
        dwx, dwh, db = dwx / steps, dwh / steps, db / steps
    return dx, dh, dwx, dwh, db


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, w, u):
    """Give the last state (B, H) of an LSTM without biases, gates in the order i, f, o, g."""
    n = u.shape[0]
    h, c, kept = np.zeros((len(x), n)), np.zeros((len(x), n)), []
    for t in range(x.shape[1]):
        z = x[:, t] @ w + h @ u
        i, f, o = (sigmoid(z[:, k * n : (k + 1) * n]) for k in range(3))
        g, last_c, last_h = np.tanh(z[:, 3 * n :]), c, h
        c = f * c + i * g
        h = o * np.tanh(c)
        kept.append((last_h, last_c, i, f, o, g, c))
    return h, (x, w, u, kept)


def lstm_backward(dout, cache, slip=""):
    x, w, u, kept = cache
    dx, dw, du, dh, dc = np.zeros_like(x), np.zeros_like(w), np.zeros_like(u), dout, np.zeros_like(dout)
    for t, (last_h, last_c, i, f, o, g, c) in reversed(list(enumerate(kept))):
        do = dh * np.tanh(c) * o * (1 - o)
        dc = dc + dh * o * (1 - np.tanh(c) ** 2)
        di, df, dg = dc * g * i * (1 - i), dc * last_c * f * (1 - f), dc * i * (1 - g**2)
        match slip:
            case "forget gate from the new cell":
                df = dc * c * f * (1 - f)
            case "g's derivative a sigmoid's":
                dg = dc * i * g * (1 - g)
            case "output gate lost":
                do = 0 * do
            case "input and forget gates swapped":
                di, df = df, di
        dz = np.concatenate([di, df, do, dg], axis=1)
        dx[:, t] = dz @ w.T
        dw, du = dw + x[:, t].T @ dz, du + last_h.T @ dz
        dh, dc = dz @ u.T, dc if slip == "cell not forgotten" else dc * f
    return dx, dw, du


def heads(x, n):
    b, t, d = x.shape
    return x.reshape(b, t, n, d // n).transpose(0, 2, 1, 3)


def joined(x):
    b, n, t, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(b, t, n * d)


def attention(q, k, v):
    """Attend causally with two heads."""
    q, k, v = (heads(x, 2) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5
    s = q @ k.swapaxes(-1, -2) * scale
    s = np.where(np.tri(s.shape[-1], dtype=bool), s, -np.inf)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    p = p / p.sum(axis=-1, keepdims=True)
    return joined(p @ v), (q, k, v, p, scale)


def attention_backward(dout, cache, slip=""):
    q, k, v, p, scale = cache
    do = dout.reshape(q.shape) if slip == "heads not merged the same way" else heads(dout, 2)
    dp, dv = do @ v.swapaxes(-1, -2), p.swapaxes(-1, -2) @ do
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True))
    match slip:
        case "softmax's sum over the keys' axis":
            ds = p * (dp - (dp * p).sum(axis=-2, keepdims=True))
        case "softmax's sum forgotten":
            ds = p * dp
        case "scale forgotten":
            scale = 1
        case "scale by the whole width":
            scale = (2 * q.shape[-1]) ** -0.5
        case "p for its transpose in dv":
            dv = p @ do
    dq, dk = ds @ k * scale, ds.swapaxes(-1, -2) @ q * scale
    match slip:
        case "ds not transposed in dk":
            dk = ds @ q * scale
        case "dq and dk swapped":
            dq, dk = dk, dq
        case "second head lost":
            dv = dv * np.array([1.0, 0.0])[:, None, None]
        case "scale in dq alone":
            dk = dk / scale
    return joined(dq), joined(dk), joined(dv)


def padded_attention(q, keys, values, lengths):
    """Attend from one query per sample to the keys before its length."""
    mask = np.arange(keys.shape[1]) < lengths[:, None]
    s = np.where(mask, np.einsum("bd,btd->bt", q, keys), -1e9)
    p = np.exp(s - s.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    return np.einsum("bt,btd->bd", p, values), (q, keys, values, p, mask)


def padded_attention_backward(dout, cache, slip=""):
    q, keys, values, p, mask = cache
    dp = np.einsum("bd,btd->bt", dout, values)
    ds = p * (dp - (p * dp).sum(axis=1, keepdims=True))
    dvalues = p[..., None] * dout[:, None]
    match slip:
        case "values of equal weight":
            dvalues = (mask / mask.sum(axis=1, keepdims=True))[..., None] * dout[:, None]
        case "values of padding too":
            dvalues = np.where(mask, p, 1 / mask.shape[1])[..., None] * dout[:, None]
        case "last key of each dropped":
            dvalues = dvalues * (np.arange(mask.shape[1]) < mask.sum(axis=1)[:, None] - 1)[..., None]
    return np.einsum("bt,btd->bd", ds, keys), ds[..., None] * q[:, None], dvalues


def average(x, decay=0.8):
    """Give y[t] = decay y[t - 1] + (1 - decay) x[t] along the first axis."""
    y = np.zeros_like(x)
    for t in range(len(x)):
        y[t] = decay * (y[t - 1] if t else 0) + (1 - decay) * x[t]
    return y, decay


def average_backward(dout, decay, slip=""):
    dx, carry = np.zeros_like(dout), 0
    order = range(len(dout)) if slip == "not run backwards" else reversed(range(len(dout)))
    for t in order:
        if slip == "carried one step late":
            dx[t] = (1 - decay) * carry
        carry = dout[t] + decay * carry
        if slip != "carried one step late":
            dx[t] = (1 - decay) * carry
    match slip:
        case "1 - decay forgotten":
            return dx / (1 - decay)
        case "nothing carried":
            return (1 - decay) * dout
        case "result left reversed":
            return dx[::-1]
        case "stops at the sixth step":
            dx[:5] = 0
    return dx


def cumulative(x):
    return np.cumsum(x, axis=1), None


def cumulative_backward(dout, cache, slip=""):
    match slip:
        case "summed forwards":
            return np.cumsum(dout, axis=1)
        case "own element left out":
            return np.cumsum(dout[:, ::-1], axis=1)[:, ::-1] - dout
        case "over the other axis":
            return np.cumsum(dout[::-1], axis=0)[::-1]
    return np.cumsum(dout[:, ::-1], axis=1)[:, ::-1]


def rotary(x):
    """Rotate the halves of (B, T, D) by angles that grow with time."""
    half = x.shape[2] // 2
    angle = np.arange(x.shape[1])[:, None] * 100.0 ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1), (cos, sin)


def rotary_backward(dout, cache, slip=""):
    cos, sin = cache
    half = cos.shape[1]
    da, db = dout[..., :half], dout[..., half:]
    match slip:
        case "rotated forwards again":
            sin = -sin
        case "halves swapped":
            return np.concatenate([db * cos - da * sin, da * cos + db * sin], axis=-1)
        case "positions from one":
            cos, sin = np.roll(cos, -1, axis=0), np.roll(sin, -1, axis=0)
        case "handed through":
            return dout
    return np.concatenate([da * cos + db * sin, db * cos - da * sin], axis=-1)


def delayed(x, w):
    """Predict each step from the one before: out[t] = x[t - 1] w, and out[0] = 0."""
    out = np.zeros((*x.shape[:2], w.shape[1]))
    out[:, 1:] = x[:, :-1] @ w
    return out, (x, w)


def delayed_backward(dout, cache, slip=""):
    x, w = cache
    dx, dw = np.zeros_like(x), np.einsum("bti,bto->io", x[:, :-1], dout[:, 1:])
    dx[:, :-1] = dout[:, 1:] @ w.T
    match slip:
        case "not shifted back":
            dx = dout @ w.T
        case "wrapped around":
            dx[:, -1] = dout[:, 0] @ w.T
        case "dw over all steps":
            dw = np.einsum("bti,bto->io", x, dout)
        case "last prediction forgotten":
            dx[:, -2] = 0
    return dx, dw


STEPS = [
    *slips(
        "rnn",
        rnn,
        rnn_backward,
        lambda: normal(20, (3, 7, 4), (3, 5), (4, 5), (5, 5), (5,)),
        ("first step missing", "last step missing", "the loop stops before t = 0", "0", "first", "step", "t ="),
        ("tanh's derivative at the last state", "wrong point", "tanh's derivative at h[t - 1]"),
        ("dwh from the new state", "off by one", "dwh uses h[t], not h[t - 1]"),
        ("wh not transposed", "transposed", "wh is not transposed on the way back", "time", "step", "transpos"),
        ("truncated after two steps", "truncated", "the carry is cut each second step", "time", "step", "axis 1"),
        ("no gradient through time", "truncated", "nothing is carried through time", "time", "step", "last"),
        ("db of the last step alone", "one part", "db is not summed over time", "sum", "time"),
        ("dh0 one step early", "off by one", "dh0 has dout's first step in it"),
        ("clipped", "clipped", "dwh is clipped to 2", "clip", "2", "limit"),
        ("divided by time", "factor", "three gradients are divided by 7", "1/7", *FACTOR),
    ),
    *slips(
        "lstm",
        lstm,
        lstm_backward,
        lambda: normal(21, (2, 5, 3), (3, 16), (4, 16)),
        ("forget gate from the new cell", "one part", "df uses c[t], not c[t - 1]", "column", "4", "block", "part"),
        (
            "g's derivative a sigmoid's",
            "activation",
            "g's derivative is that of the wrong function",
            "column",
            "12",
            "step",
        ),
        ("output gate lost", "one part", "the output gate's gradient is lost", "column", "8", "block", "zero", "lost"),
        (
            "input and forget gates swapped",
            "swapped",
            "the gates' gradients are swapped",
            "swap",
            "column",
            "block",
            "0",
        ),
        ("cell not forgotten", "time", "dc is not multiplied by f", "step", "time", "last", "from"),
    ),
    *slips(
        "attention",
        attention,
        attention_backward,
        lambda: normal(22, (2, 6, 8), (2, 6, 8), (2, 6, 8)),
        ("heads not merged the same way", "shape", "dout is reshaped without the transpose"),
        ("softmax's sum over the keys' axis", "axis", "softmax's inner sum is over the wrong axis"),
        ("softmax's sum forgotten", "lost term", "softmax's inner sum is lost"),
        ("scale forgotten", "factor", "1 / sqrt(4) is forgotten", "2", *FACTOR),
        ("scale by the whole width", "factor", "the scale is 1 / sqrt(8), not 1 / sqrt(4)", "sqrt", *FACTOR),
        ("p for its transpose in dv", "transposed", "dv uses p, not its transpose"),
        ("ds not transposed in dk", "transposed", "dk uses ds, not its transpose"),
        ("dq and dk swapped", "swapped", "dq and dk are swapped", "swap"),
        ("second head lost", "one part", "dv of the second head is 0", "4", "zero", "lost", "column"),
        ("scale in dq alone", "factor", "dk lacks the scale", "2", *FACTOR),
    ),
    *slips(
        "padded attention",
        padded_attention,
        padded_attention_backward,
        lambda: (*normal(23, (3, 4), (3, 6, 4), (3, 6, 4)), np.array([6, 2, 4])),
        ("values of equal weight", "activation", "the weights are taken as equal", "row", *FACTOR),
        ("values of padding too", "mask", "padding gets a gradient", "zero", "mask", "padding", "0"),
        ("last key of each dropped", "mask", "the mask ends one early", "last", "zero", "lost", "mask", "step"),
    ),
    *slips(
        "moving average",
        average,
        average_backward,
        lambda: normal(24, (11, 3)),
        ("not run backwards", "not reversed", "the loop runs forwards", "revers", "forward", "other way"),
        ("carried one step late", "off by one", "dx[t] lacks dout[t]"),
        ("1 - decay forgotten", "factor", "5 times too large", "5", *FACTOR),
        ("nothing carried", "truncated", "nothing is carried", "last", "step", "carr", "time", "row", "dout"),
        ("result left reversed", "reversed", "dx is in reversed order", "revers"),
        ("stops at the sixth step", "truncated", "dx[:5] is zero", "5", "zero", "lost", "row"),
    ),
    *slips(
        "cumulative sum",
        cumulative,
        cumulative_backward,
        lambda: normal(25, (6, 6)),
        (
            "summed forwards",
            "not reversed",
            "summed in the wrong direction",
            "revers",
            "forward",
            "other way",
            "cumulat",
        ),
        ("own element left out", "off by one", "dx lacks its own dout", "dout", "off by one", "shift"),
        ("over the other axis", "axis", "the wrong axis is summed", "axis"),
    ),
    *slips(
        "rotary",
        rotary,
        rotary_backward,
        lambda: normal(26, (2, 5, 6)),
        ("rotated forwards again", "sign", "the sine's sign is that of the forward", "sign", "step", "time", "from"),
        ("halves swapped", "swapped", "the halves are swapped", "swap", "halves", "roll", "shift", "permut"),
        ("positions from one", "off by one", "angles of the next position"),
        ("handed through", "activation", "the rotation is not undone", "dout", "step", "from"),
    ),
    *slips(
        "delayed",
        delayed,
        delayed_backward,
        lambda: normal(27, (3, 8, 4), (4, 2)),
        ("not shifted back", "off by one", "dx is late by one step", "shift", "one step", "off by one", "by 1"),
        ("wrapped around", "edge", "the last step gets the first's gradient", "last", "7", "zero"),
        ("dw over all steps", "off by one", "dw pairs x[t] with dout[t]"),
        (
            "last prediction forgotten",
            "last step missing",
            "dx of the last but one step is 0",
            "6",
            "zero",
            "lost",
            "step",
        ),
    ),
]
