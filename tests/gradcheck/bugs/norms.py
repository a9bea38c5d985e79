"""Norms: every path that a mean or a variance opens is a term that a backward can lose."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted

EPS = 1e-3  # large enough that a backward without it is wrong by more than rounding


def layernorm_forward(x, weight, bias, eps=EPS):
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    xhat = centred * rstd
    return xhat * weight + bias, (xhat, rstd, weight, x)


def layernorm_backward(dout, cache, slip=""):
    xhat, rstd, weight, x = cache
    C = x.shape[-1]
    leading = tuple(range(dout.ndim - 1))
    dweight, dbias = (dout * xhat).sum(axis=leading), dout.sum(axis=leading)
    dxhat = dout * weight
    through_mean = dxhat.mean(axis=-1, keepdims=True)
    through_rstd = xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    match slip:
        case "term through the mean missing":
            through_mean = 0
        case "term through the mean subtracted twice":
            through_mean = 2 * through_mean
        case "term through the variance missing":
            through_rstd = 0
        case "weight forgotten in dx":
            return rstd * layernorm_centre(dout, xhat), dweight, dbias
        case "weight multiplied in after the means":
            return weight * rstd * layernorm_centre(dout, xhat), dweight, dbias
        case "eps forgotten in the backward":
            rstd = 1 / x.std(axis=-1, keepdims=True)
        case "variance divided by C - 1":
            through_rstd = through_rstd * C / (C - 1)
        case "means over the batch, not the channels":
            through_mean = dxhat.mean(axis=0)
            through_rstd = xhat * (dxhat * xhat).mean(axis=0)
        case "dweight and dbias swapped":
            dweight, dbias = dbias, dweight
        case "dweight with x, not xhat":
            dweight = (dout * x).sum(axis=leading)
        case "statistics taken again in float32":
            x32 = x.astype(np.float32)
            centred = x32 - x32.mean(axis=-1, keepdims=True)
            rstd = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + EPS).astype(np.float64)
        case "rstd of the first row for all":
            rstd = rstd[:1]
    return rstd * (dxhat - through_mean - through_rstd), dweight, dbias


def layernorm_centre(d, xhat):
    return d - d.mean(axis=-1, keepdims=True) - xhat * (d * xhat).mean(axis=-1, keepdims=True)


def rmsnorm_forward(x, weight, eps=EPS):
    rrms = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return x * rrms * weight, (x, rrms, weight)


def rmsnorm_backward(dout, cache, slip=""):
    x, rrms, weight = cache
    dxhat = dout * weight
    dweight = (dout * x * rrms).sum(axis=0)
    correction = x * rrms**3 * (dxhat * x).mean(axis=-1, keepdims=True)
    match slip:
        case "rms taken as a constant":
            correction = 0
        case "weight twice in the correction":
            correction = correction * weight
        case "weight missing in dx":
            return rrms * dout - x * rrms**3 * (dout * x).mean(axis=-1, keepdims=True), dweight
        case "correction with rrms squared, not cubed":
            correction = correction / rrms
    return rrms * dxhat - correction, dweight


def prenorm_forward(residual, x):
    """Add, then normalise; both the sum and its norm go on."""
    total = residual + x
    rrms = 1 / np.sqrt((total * total).mean(axis=-1, keepdims=True) + EPS)
    return (total, total * rrms), (total, rrms)


def prenorm_backward(dout, cache, slip=""):
    total, rrms = cache
    dtotal, dnormed = dout
    if slip == "gradient of the sum sent through the norm":
        dnormed, dtotal = dnormed + dtotal, 0
    through = rrms * dnormed - total * rrms**3 * (dnormed * total).mean(axis=-1, keepdims=True)
    return dtotal + through, dtotal + through


def batchnorm_forward(x, gamma, beta, eps=EPS):
    centred = x - x.mean(axis=0)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=0) + eps)
    return centred * rstd * gamma + beta, (centred * rstd, rstd, gamma)


def batchnorm_backward(dout, cache, slip=""):
    xhat, rstd, gamma = cache
    dgamma, dbeta = (dout * xhat).sum(axis=0), dout.sum(axis=0)
    dxhat = dout * gamma
    match slip:
        case "statistics taken as constants":
            return dxhat * rstd, dgamma, dbeta
        case "dx left as it came":
            return dout, dgamma, dbeta
        case "sums not divided by the batch":
            return rstd * (dxhat - dxhat.sum(axis=0) - xhat * (dxhat * xhat).sum(axis=0)), dgamma, dbeta
        case "sign of the term through the variance":
            return rstd * (dxhat - dxhat.mean(axis=0) + xhat * (dxhat * xhat).mean(axis=0)), dgamma, dbeta
        case "wrong for the last example alone":
            dx = rstd * (dxhat - dxhat.mean(axis=0) - xhat * (dxhat * xhat).mean(axis=0))
            dx[-1] = dxhat[-1] * rstd
            return dx, dgamma, dbeta
    return rstd * (dxhat - dxhat.mean(axis=0) - xhat * (dxhat * xhat).mean(axis=0)), dgamma, dbeta


def groupnorm_forward(x, weight, groups):
    B, C, T = x.shape
    grouped = x.reshape(B, groups, -1)
    centred = grouped - grouped.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + EPS)
    xhat = centred * rstd
    return xhat.reshape(B, C, T) * weight[:, None], (xhat, rstd, weight, x.shape)


def groupnorm_backward(dout, cache, slip=""):
    xhat, rstd, weight, shape = cache
    dweight = (dout * xhat.reshape(shape)).sum(axis=(0, 2))
    if slip == "weight applied by group, not by channel":
        dxhat = dout.reshape(xhat.shape) * np.repeat(weight, shape[2]).reshape(xhat.shape[1:]).mean(
            axis=1, keepdims=True
        )
    else:
        dxhat = (dout * weight[:, None]).reshape(xhat.shape)
    dx = rstd * layernorm_centre(dxhat, xhat)
    if slip == "means over each channel, not its group":
        d, h = dxhat.reshape(shape), xhat.reshape(shape)
        dx = np.repeat(rstd, shape[1] // xhat.shape[1], axis=1) * layernorm_centre(d, h)
    return dx.reshape(shape), dweight


def l2_forward(x, eps=0.1):
    norm = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    return x / (norm + eps), (x, norm, eps)


def l2_backward(dout, cache, slip=""):
    x, norm, eps = cache
    if slip == "as if eps were zero":
        unit = x / norm
        return (dout - unit * (dout * unit).sum(axis=-1, keepdims=True)) / norm
    if slip == "norm taken as a constant":
        return dout / (norm + eps)
    return dout / (norm + eps) - x * (dout * x).sum(axis=-1, keepdims=True) / (norm * (norm + eps) ** 2)


def weightnorm_forward(x, v, g):
    norm = np.sqrt((v * v).sum(axis=0))
    return x @ (v * (g / norm)), (x, v, g, norm)


def weightnorm_backward(dout, cache, slip=""):
    x, v, g, norm = cache
    dw = x.T @ dout
    dg = (dw * v).sum(axis=0) / norm
    dv = dw * (g / norm)
    if slip != "direction not projected out of dv":
        dv = dv - v * (dg * g / norm**2)
    return dout @ (v * (g / norm)).T, dv, dg


def renorm_forward(x, most=1.0):
    """Scale down the rows whose norm is above `most`, leave the others."""
    norm = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    scale = np.where(norm > most, most / norm, np.ones_like(norm))
    return x * scale, (x, norm, scale, most)


def renorm_backward(dout, cache, slip=""):
    x, norm, scale, most = cache
    dx = dout * scale
    if slip == "norm taken as a constant":
        return dx
    inside = norm <= most
    if slip == "rows below the limit corrected too":
        inside = np.zeros_like(inside)
    return dx - np.where(inside, 0, most * x * (dout * x).sum(axis=-1, keepdims=True) / norm**3)


layer = partial(normal, 11, (3, 5), (5,), (5,))
layernorm = partial(planted, "layernorm", forward=layernorm_forward, right=layernorm_backward)
rmsnorm = partial(
    planted, "rmsnorm", forward=rmsnorm_forward, right=rmsnorm_backward, args=partial(normal, 12, (4, 6), (6,))
)
batchnorm = partial(
    planted,
    "batchnorm",
    forward=batchnorm_forward,
    right=batchnorm_backward,
    args=partial(normal, 13, (6, 3), (3,), (3,)),
)
groupnorm = partial(
    planted,
    "groupnorm",
    forward=groupnorm_forward,
    right=groupnorm_backward,
    args=lambda: (*normal(14, (2, 6, 3), (6,)), 2),
)


def far_rows():
    x, weight, bias = layer()
    return x + 1e3, weight, bias


BUGS = [
    layernorm("term through the mean missing", args=layer),
    layernorm(
        "term through the mean subtracted twice",
        args=layer,
        source="https://github.com/tenstorrent/tt-metal/issues/53204",
    ),
    layernorm("term through the variance missing", args=layer),
    layernorm(
        "weight forgotten in dx",
        args=layer,
        source="https://github.com/denizyuret/Knet.jl/issues/288",
        note="there in batch norm",
    ),
    layernorm("weight multiplied in after the means", args=layer),
    layernorm(
        "eps forgotten in the backward",
        args=layer,
        source="https://github.com/chainer/chainer/pull/4190",
        note="there in NormalizeL2: wrong for an eps that is not negligible",
    ),
    layernorm("variance divided by C - 1", args=layer),
    layernorm("means over the batch, not the channels", args=layer),
    layernorm("dweight and dbias swapped", args=layer, source="https://github.com/Oneflow-Inc/oneflow/pull/6149"),
    layernorm("dweight with x, not xhat", args=layer),
    layernorm("statistics taken again in float32", args=far_rows, note="a float32 check cannot see it"),
    layernorm("rstd of the first row for all", args=layer),
    rmsnorm("rms taken as a constant", source="https://github.com/ooples/AiDotNet/pull/695"),
    rmsnorm("weight twice in the correction", source="https://github.com/NVIDIA/Megatron-LM/pull/6859"),
    rmsnorm(
        "weight missing in dx",
        source="https://github.com/karpathy/llm.c/pull/763",
        note="told by a reviewer of his own code",
    ),
    rmsnorm("correction with rrms squared, not cubed"),
    planted(
        "rmsnorm of a residual sum",
        "gradient of the sum sent through the norm",
        prenorm_forward,
        prenorm_backward,
        partial(normal, 15, (3, 4), (3, 4)),
        source="https://github.com/Dao-AILab/quack/pull/53",
        note="two outputs, one of them also an input of the other",
    ),
    batchnorm("statistics taken as constants", source="https://github.com/facebookresearch/CrypTen/pull/143"),
    batchnorm("sums not divided by the batch"),
    batchnorm("sign of the term through the variance"),
    batchnorm("wrong for the last example alone"),
    batchnorm(
        "dx left as it came",
        source="https://github.com/mlpack/mlpack/issues/1923",
        note="there a wrong Backward() below which no test had a layer",
    ),
    groupnorm("means over each channel, not its group"),
    groupnorm("weight applied by group, not by channel"),
    planted(
        "l2 normalisation",
        "as if eps were zero",
        l2_forward,
        l2_backward,
        partial(normal, 16, (3, 4)),
        source="https://github.com/chainer/chainer/pull/4190",
    ),
    planted("l2 normalisation", "norm taken as a constant", l2_forward, l2_backward, partial(normal, 16, (3, 4))),
    planted(
        "weight norm",
        "direction not projected out of dv",
        weightnorm_forward,
        weightnorm_backward,
        partial(normal, 17, (3, 4), (4, 5), (5,)),
    ),
    planted(
        "renorm",
        "norm taken as a constant",
        renorm_forward,
        renorm_backward,
        partial(normal, 18, (6, 2)),
        source="https://github.com/pytorch/pytorch/pull/59615",
        note="there another slip, which the fast gradcheck passed",
    ),
    planted(
        "renorm", "rows below the limit corrected too", renorm_forward, renorm_backward, partial(normal, 18, (6, 2))
    ),
]
