"""Arrays of thousands of elements, dicts of parameters and single numbers, with slips that authors have made."""

import numpy as np

from tests.gradcheck.blind.dense import FACTOR, linear, linear_backward
from tests.gradcheck.blind.slip import slips
from tests.gradcheck.blind.steps import attention, attention_backward, rnn, rnn_backward
from tests.gradcheck.example import normal


def lookup(table, scale):
    """Give rows of a table of 300 by some ids, times sqrt(D) and a learned number."""
    ids = np.random.default_rng(61).integers(0, 300, (8, 20))
    ids[:, -3:] = 299
    return table[ids] * table.shape[1] ** 0.5 * scale, (table, ids, scale)


def lookup_backward(dout, cache, slip=""):
    table, ids, scale = cache
    root = table.shape[1] ** 0.5
    g = dout * root * scale
    dtable, dscale = np.zeros_like(table), (dout * table[ids]).sum() * root
    match slip:
        case "repeats overwritten":
            dtable[ids] = g
            return dtable, dscale
        case "root of the width forgotten":
            g = g / root
        case "last row taken for padding":
            g = g * (ids != 299)[..., None]
        case "dscale averaged":
            dscale = dscale / ids.size
        case "ids from one":
            ids = (ids + 1) % 300
        case "sign of dscale":
            dscale = -dscale
    np.add.at(dtable, ids, g)
    return dtable, dscale


def classifier(params, images):
    """Filter (B, H, W) images, take the largest of each channel, and weight them; parameters in a dict."""
    k = params["kernel"]
    windows = np.lib.stride_tricks.sliding_window_view(images, k.shape[1:], axis=(1, 2))
    maps = np.einsum("bijkl,ckl->bcij", windows, k) + params["bias"][:, None, None]
    flat = maps.reshape(*maps.shape[:2], -1)
    top = flat.argmax(axis=-1)
    pooled = np.take_along_axis(flat, top[..., None], axis=-1)[..., 0]
    return pooled @ params["head"], (params, images.shape, windows, flat, top, pooled)


def classifier_backward(dout, cache, slip=""):
    params, shape, windows, flat, top, pooled = cache
    k = params["kernel"]
    dpooled = dout @ params["head"].T
    dflat = np.zeros_like(flat)
    if slip == "spread over the map":
        dflat[:] = dpooled[..., None] / flat.shape[-1]
    else:
        np.put_along_axis(dflat, top[..., None], dpooled[..., None], axis=-1)
    dmaps = dflat.reshape(*flat.shape[:2], *windows.shape[1:3])
    dk = np.einsum("bcij,bijkl->ckl", dmaps, windows)
    images = np.zeros(shape)
    for i in range(k.shape[1]):
        for j in range(k.shape[2]):
            kernel = k[:, j, i] if slip == "kernel transposed for the images" else k[:, i, j]
            images[:, i : i + dmaps.shape[2], j : j + dmaps.shape[3]] += np.einsum("bcij,c->bij", dmaps, kernel)
    grads = {"kernel": dk, "bias": dmaps.sum(axis=(0, 2, 3)), "head": pooled.T @ dout}
    match slip:
        case "kernel transposed":
            grads["kernel"] = dk.swapaxes(1, 2)
        case "kernel rotated":
            grads["kernel"] = dk[:, ::-1, ::-1]
        case "bias averaged over the map":
            grads["bias"] = grads["bias"] / flat.shape[-1]
        case "channels in reverse":
            grads["kernel"] = dk[::-1]
        case "last column of images lost":
            images[:, :, -1] = 0
        case "head for one sample":
            grads["head"] = np.outer(pooled[0], dout[0])
    return grads, images


def block(params, x):
    """Normalise by root mean square, apply a dense layer with a tanh, and add x, three times; parameters in a list."""
    kept = []
    for p in params:
        r = 1 / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
        n = x * r
        h = np.tanh(n * p["gain"] @ p["w"] + p["b"])
        kept.append((n, r, h, p))
        x = x + h
    return x, kept


def block_backward(dout, kept, slip=""):
    grads = []
    for layer, (n, r, h, p) in reversed(list(enumerate(kept))):
        dz = dout * (1 - h**2)
        if slip == "gelu's derivative in the first" and layer == 0:
            dz = dout * (h > 0)
        dn = dz @ p["w"].T
        grads.append(
            {"gain": (dn * n).sum(axis=(0, 1)), "w": np.einsum("bti,bto->io", n * p["gain"], dz), "b": dz.sum((0, 1))}
        )
        if slip == "w without gain":
            grads[-1]["w"] = np.einsum("bti,bto->io", n, dz)
        g = dn * p["gain"]
        through = g * r if slip == "root mean square detached" else r * (g - n * (g * n).mean(axis=-1, keepdims=True))
        skip = 0 if slip == "skip connection lost in the second" and layer == 1 else dout
        dout = skip + through
    match slip:
        case "list left reversed":
            return grads, dout
        case "first layer's gradient in all":
            return [grads[0]] * 3, dout
        case "last layer alone":
            return [{k: np.zeros_like(v) for k, v in g.items()} if i else g for i, g in enumerate(grads)][::-1], dout
        case "b averaged over the batch":
            for g in grads:
                g["b"] = g["b"] / dout.shape[0]
    return grads[::-1], dout


def softmax(x, temperature):
    e = np.exp((x - x.max(axis=0)) / temperature)
    p = e / e.sum(axis=0)
    return p, (x, p, temperature)


def softmax_backward(dout, cache, slip=""):
    x, p, t = cache
    dz = p * (dout - (p * dout).sum(axis=0))
    dx, dt = dz / t, -(dz * x).sum() / t**2
    match slip:
        case "over the rows":
            dx = p * (dout - (p * dout).sum(axis=1, keepdims=True)) / t
        case "temperature times":
            dx = dz * t
        case "sign of dt":
            dt = -dt
        case "dt not squared":
            dt = dt * t
        case "dt lost":
            dt = 0.0
        case "jacobian's diagonal alone":
            dx = dout * p * (1 - p) / t
        case "columns centred":
            dx = dx + dout.mean(axis=0)
    return dx, dt


def params_of_a_block():
    rng = np.random.default_rng(70)
    sizes = {"gain": (6,), "w": (6, 6), "b": (6,)}
    return [{name: rng.standard_normal(size) for name, size in sizes.items()} for _ in range(3)]


SIZES = [
    *slips(
        "large linear",
        linear,
        linear_backward,
        lambda: normal(60, (96, 40), (40, 40), (40,)),
        ("w for its transpose", "transposed", "w is not transposed in dx = dout @ w.T", "transpos"),
        ("dw transposed", "transposed", "dw is transposed", "transpos"),
        ("all divided by the batch", "factor", "dw and db are divided by 96", "1/96", *FACTOR),
    ),
    *slips(
        "lookup",
        lookup,
        lookup_backward,
        lambda: (*normal(62, (300, 12)), np.array(0.7)),
        ("repeats overwritten", "repeats", "of repeated ids the last one alone counts", "repeat", "add.at"),
        ("root of the width forgotten", "factor", "sqrt(12) is forgotten", "sqrt", *FACTOR),
        ("last row taken for padding", "padding", "row 299 has a gradient", "299", "last row", "zero", "lost", "row"),
        ("dscale averaged", "factor", "dscale is divided by 160", "160", *FACTOR),
        ("ids from one", "shifted", "the rows are shifted by one", "shift", "off by one", "by 1", "roll", "one row"),
        ("sign of dscale", "sign", "dscale has the wrong sign", "sign", "-1", "negat", "minus"),
    ),
    *slips(
        "classifier",
        classifier,
        classifier_backward,
        lambda: (
            dict(zip(("kernel", "bias", "head"), normal(63, (4, 3, 3), (4,), (4, 5)), strict=True)),
            *normal(64, (6, 8, 8)),
        ),
        ("spread over the map", "activation", "the maximum's gradient is spread over the map, as for a mean"),
        ("kernel transposed for the images", "transposed", "the images' gradient uses the transposed kernel"),
        ("kernel transposed", "transposed", "kernel's two last axes are swapped", "transpos", "swap"),
        ("kernel rotated", "reversed", "kernel is flipped in both axes", "flip", "revers", "rotat"),
        ("bias averaged over the map", "factor", "bias is a mean over 36", "1/36", "mean", *FACTOR),
        ("channels in reverse", "reversed", "kernel's channels are in reverse order", "revers", "flip"),
        ("last column of images lost", "edge", "the last column is zero", "last", "7", "column", "zero", "lost"),
        ("head for one sample", "one part", "head is not summed over the batch"),
    ),
    *slips(
        "block",
        block,
        block_backward,
        lambda: (params_of_a_block(), *normal(71, (2, 5, 6))),
        ("gelu's derivative in the first", "activation", "the first layer's activation is wrong, the others right"),
        ("w without gain", "lost factor", "dw lacks gain for each of its rows", "row", *FACTOR),
        ("root mean square detached", "detached", "the last layer is right, those before it are wrong"),
        ("skip connection lost in the second", "skip", "dout lacks the skip connection's part in the second layer"),
        ("list left reversed", "swapped", "the layers' gradients are in reverse order", "swap", "revers", "order"),
        (
            "first layer's gradient in all",
            "swapped",
            "all layers have the last one's gradient",
            "params[2]",
            "same",
            "swap",
        ),
        ("last layer alone", "truncated", "the first two layers' gradients are zero", "zero", "lost", "missing", "0"),
        ("b averaged over the batch", "factor", "b is a mean over the batch", "1/2", "0.5", "half", *FACTOR),
    ),
    *slips(
        "softmax",
        softmax,
        softmax_backward,
        lambda: (*normal(72, (6, 9)), np.array(1.7)),
        ("over the rows", "axis", "the inner sum is over the wrong axis"),
        ("temperature times", "factor", "multiplied by the temperature, not divided", "2.89", "1.7", *FACTOR),
        ("sign of dt", "sign", "dt has the wrong sign", "sign", "-1", "negat", "minus"),
        ("dt not squared", "factor", "dt lacks a factor of 1 / 1.7", "1.7", *FACTOR),
        ("dt lost", "lost", "dt is zero", "zero", "lost", "missing", "0"),
        ("jacobian's diagonal alone", "lost term", "the terms between elements are lost"),
        ("columns centred", "lost term", "a constant for each column is added", "column", "axis", "constant"),
    ),
    *slips(
        "long attention",
        attention,
        attention_backward,
        lambda: normal(65, (2, 33, 16), (2, 33, 16), (2, 33, 16)),
        ("scale forgotten", "factor", "1 / sqrt(8) is forgotten", "sqrt", *FACTOR),
        ("dq and dk swapped", "swapped", "dq and dk are swapped", "swap"),
        ("second head lost", "one part", "dv of the second head is 0", "8", "zero", "lost", "column"),
    ),
    *slips(
        "long rnn",
        rnn,
        rnn_backward,
        lambda: normal(66, (4, 24, 11), (4, 6), (11, 6), (6, 6), (6,)),
        ("first step missing", "last step missing", "the loop stops before t = 0", "first", "step", "t =", "0"),
        ("no gradient through time", "truncated", "nothing is carried through time", "time", "step", "last"),
    ),
]
