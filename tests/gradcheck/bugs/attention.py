"""Softmax and attention: the terms between the elements of a row, the scale, the mask, the heads."""

import math
from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_forward(x, temperature=2.0):
    probs = softmax(x / temperature)
    return probs, (probs, temperature)


def softmax_backward(dout, cache, slip=""):
    probs, temperature = cache
    inner = (dout * probs).sum(axis=-1, keepdims=True)
    match slip:
        case "diagonal of the Jacobian alone":
            return dout * probs * (1 - probs) / temperature
        case "gradient handed through":
            return dout / temperature
        case "sum over the batch":
            inner = (dout * probs).sum(axis=0)
        case "temperature forgotten":
            temperature = 1
        case "dout, not dout times probs, summed":
            inner = dout.sum(axis=-1, keepdims=True) / probs.shape[-1]
    return probs * (dout - inner) / temperature


def log_softmax_forward(x):
    shifted = x - x.max(axis=-1, keepdims=True)
    out = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return out, out


def log_softmax_backward(dout, out, slip=""):
    match slip:
        case "softmax added to dout":
            return dout + np.exp(out)
        case "dout not summed":
            return dout - np.exp(out) * dout
        case "sum of dout taken as 1":
            return dout - np.exp(out)
    return dout - np.exp(out) * dout.sum(axis=-1, keepdims=True)


def logsumexp_forward(x):
    top = x.max(axis=-1, keepdims=True)
    return np.log(np.exp(x - top).sum(axis=-1)) + top[..., 0], x


def logsumexp_backward(dout, x, slip=""):
    if slip == "exp without the shift":
        with np.errstate(over="ignore", invalid="ignore"):
            e = np.exp(x)
            return dout[..., None] * (e / e.sum(axis=-1, keepdims=True))
    return dout[..., None] * softmax(x)


def attention_forward(q, k, v, causal):
    """Attend, head by head; k and v may have fewer heads than q: (B, H, T, D) and (B, G, T, D), G divides H."""
    T, D = q.shape[-2:]
    share = q.shape[1] // k.shape[1]
    K, V = np.repeat(k, share, axis=1), np.repeat(v, share, axis=1)
    scores = q @ K.swapaxes(-1, -2) / math.sqrt(D)
    if causal:
        scores = np.where(np.tri(T, dtype=bool), scores, -1e30)
    probs = softmax(scores)
    return probs @ V, (q, K, V, probs, share)


def attention_backward(dout, cache, slip=""):
    q, K, V, probs, share = cache
    B, H, T, D = q.shape
    dprobs = dout @ V.swapaxes(-1, -2)
    dV = probs.swapaxes(-1, -2) @ dout
    dscores = probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True))
    scale = 1 / math.sqrt(D)
    match slip:
        case "mask forgotten in the backward":
            raw = q @ K.swapaxes(-1, -2) / math.sqrt(D)
            probs = softmax(raw)
            dscores = probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True))
        case "mask one position too far":
            dscores = dscores * np.tri(T, k=-1)
        case "softmax by its diagonal":
            dscores = dprobs * probs * (1 - probs)
        case "row sums of dprobs without probs":
            dscores = probs * (dprobs - dprobs.mean(axis=-1, keepdims=True))
    dq = dscores @ K * scale
    dK = dscores.swapaxes(-1, -2) @ q * scale
    match slip:
        case "Q^T dS for dS^T Q":
            dK = (q.swapaxes(-1, -2) @ dscores).reshape(B, H, T, D) * scale
        case "dS for its transpose in dK":
            dK = dscores @ q * scale
        case "scale forgotten in dK":
            dK = dK / scale
        case "scale twice in dq":
            dq = dq * scale
        case "dq and dk swapped":
            dq, dK = dK, dq
        case "probs not transposed in dV":
            dV = probs @ dout
        case "gradient of the first query head alone":
            return dq, dK[:, ::share], dV[:, ::share]
        case "heads of a group averaged":
            grouped = (B, H // share, share, T, D)
            return dq, dK.reshape(grouped).mean(axis=2), dV.reshape(grouped).mean(axis=2)
        case "heads grouped the other way round":
            interleaved = (B, share, H // share, T, D)
            return dq, dK.reshape(interleaved).sum(axis=1), dV.reshape(interleaved).sum(axis=1)
    grouped = (B, H // share, share, T, D)
    return dq, dK.reshape(grouped).sum(axis=2), dV.reshape(grouped).sum(axis=2)


def rope_tables(T, D):
    angles = np.arange(T)[:, None] * 100.0 ** (-np.arange(D // 2) / (D // 2))
    return np.cos(angles), np.sin(angles)


def rope_forward(x):
    """Rotate the two halves of each head by the position: (B, T, D)."""
    cos, sin = rope_tables(*x.shape[-2:])
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate((a * cos - b * sin, a * sin + b * cos), axis=-1), x.shape


def rope_backward(dout, shape, slip=""):
    cos, sin = rope_tables(*shape[-2:])
    if slip == "sign of sin":
        sin = -sin
    da, db = np.split(dout, 2, axis=-1)
    dx = np.concatenate((da * cos + db * sin, db * cos - da * sin), axis=-1)
    if slip == "pairs interleaved, not halves":
        even, odd = dout[..., ::2], dout[..., 1::2]
        dx = np.stack((even * cos + odd * sin, odd * cos - even * sin), axis=-1).reshape(shape)
    return dx


def packed_forward(qkv):
    """One head, queries, keys and values side by side: (T, 3D)."""
    q, k, v = np.split(qkv, 3, axis=-1)
    probs = softmax(q @ k.T)
    return probs @ v, (q, k, v, probs)


def packed_backward(dout, cache, slip=""):
    q, k, v, probs = cache
    dprobs = dout @ v.T
    dscores = probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True))
    dq, dk, dv = dscores @ k, dscores.T @ q, probs.T @ dout
    match slip:
        case "packed in another order":
            return np.concatenate((dv, dk, dq), axis=-1)
        case "rounded to float16 on the way":
            with np.errstate(over="ignore"):  # of a dout of 1e5
                dq, dk = (d.astype(np.float16).astype(d.dtype) for d in (dq, dk))
    return np.concatenate((dq, dk, dv), axis=-1)


def softcap_forward(scores, cap=2.0):
    capped = cap * np.tanh(scores / cap)
    return softmax(capped), (capped, softmax(capped), cap)


def softcap_backward(dout, cache, slip=""):
    capped, probs, cap = cache
    dcapped = probs * (dout - (dout * probs).sum(axis=-1, keepdims=True))
    return dcapped if slip == "derivative of the cap forgotten" else dcapped * (1 - (capped / cap) ** 2)


def bias_forward(scores, bias):
    """Add one bias for each head, the same in all of the batch: (B, H, T, T) and (H, T, T)."""
    return softmax(scores + bias), softmax(scores + bias)


def bias_backward(dout, probs, slip=""):
    dscores = probs * (dout - (dout * probs).sum(axis=-1, keepdims=True))
    return dscores, dscores[0] if slip == "bias of the first in the batch alone" else dscores.sum(axis=0)


def causal_heads(B, H, G, T, D):
    return *normal(41, (B, H, T, D), (B, G, T, D), (B, G, T, D)), True


one_head = partial(causal_heads, 2, 2, 2, 4, 3)
square = partial(causal_heads, 1, 2, 2, 3, 3)
grouped = partial(causal_heads, 1, 4, 2, 3, 2)
attend = partial(planted, "attention", forward=attention_forward, right=attention_backward, args=one_head)
groups = partial(planted, "grouped-query attention", forward=attention_forward, right=attention_backward, args=grouped)
soft = partial(planted, "softmax", forward=softmax_forward, right=softmax_backward, args=partial(normal, 42, (4, 4)))
logsoft = partial(
    planted, "log_softmax", forward=log_softmax_forward, right=log_softmax_backward, args=partial(normal, 43, (3, 5))
)

BUGS = [
    soft("diagonal of the Jacobian alone", source="https://github.com/deeplearning4j/libnd4j/issues/440"),
    soft("gradient handed through", source="https://github.com/pjreddie/darknet/pull/96"),
    soft("sum over the batch"),
    soft("temperature forgotten"),
    soft("dout, not dout times probs, summed"),
    logsoft("softmax added to dout", source="https://github.com/mlpack/mlpack/issues/2360"),
    logsoft("dout not summed"),
    logsoft("sum of dout taken as 1", note="right for a one-hot dout, as that of a loss"),
    planted(
        "logsumexp",
        "exp without the shift",
        logsumexp_forward,
        logsumexp_backward,
        lambda: (800 + normal(44, (3, 4))[0],),
        note="NaN for large scores",
    ),
    attend("Q^T dS for dS^T Q", note="the right shape and the right numbers, in the wrong places"),
    attend("dS for its transpose in dK", args=square),
    attend("scale forgotten in dK"),
    attend("scale twice in dq"),
    attend(
        "dq and dk swapped",
        args=square,
        source="https://github.com/ooples/AiDotNet.Tensors/issues/49",
        note="there 'swapped/incorrect values'",
    ),
    attend("probs not transposed in dV"),
    attend("softmax by its diagonal"),
    attend(
        "row sums of dprobs without probs",
        source="https://github.com/HomericIntelligence/Odyssey/issues/2134",
        note="there the weighted sum was missing",
    ),
    attend("mask forgotten in the backward", source="https://github.com/Dao-AILab/flash-attention/issues/2424"),
    attend("mask one position too far"),
    groups(
        "gradient of the first query head alone",
        source="https://github.com/marin-community/levanter/pull/449",
        note="there not summed over the group",
    ),
    groups("heads of a group averaged"),
    groups(
        "heads grouped the other way round",
        source="https://github.com/XunhaoLai/native-sparse-attention-triton/issues/27",
    ),
    planted(
        "rope",
        "sign of sin",
        rope_forward,
        rope_backward,
        partial(normal, 45, (2, 4, 6)),
        source="https://github.com/huggingface/candle/pull/3612",
        note="which says what is right: sin negated",
    ),
    planted("rope", "pairs interleaved, not halves", rope_forward, rope_backward, partial(normal, 45, (2, 4, 6))),
    planted(
        "packed attention",
        "packed in another order",
        packed_forward,
        packed_backward,
        partial(normal, 46, (4, 9)),
    ),
    planted(
        "packed attention",
        "rounded to float16 on the way",
        packed_forward,
        packed_backward,
        partial(normal, 46, (4, 9)),
        note="3e-4: seen in float64 alone",
    ),
    planted(
        "softcap", "derivative of the cap forgotten", softcap_forward, softcap_backward, partial(normal, 47, (3, 4))
    ),
    planted(
        "attention bias",
        "bias of the first in the batch alone",
        bias_forward,
        bias_backward,
        partial(normal, 48, (3, 2, 2, 2), (2, 2, 2)),
    ),
]
