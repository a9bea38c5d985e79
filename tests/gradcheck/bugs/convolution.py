"""Convolutions by im2col, pooling, padding and resizing: strides, borders, and what several windows share."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted


def im2col(x, K, stride, dilation):
    """Give each window: (B, C, H, W) -> (B, C, K, K, H', W')."""
    H, W = ((n - dilation * (K - 1) - 1) // stride + 1 for n in x.shape[2:])
    rows = [np.stack([window(x, i * dilation, j * dilation, H, W, stride) for j in range(K)], axis=2) for i in range(K)]
    return np.stack(rows, axis=2)


def window(x, i, j, H, W, stride):
    return x[:, :, i : i + stride * (H - 1) + 1 : stride, j : j + stride * (W - 1) + 1 : stride]


def col2im(dcols, shape, stride, dilation, overwrite=False):
    """Add each window back to where it came from."""
    dx = np.zeros(shape, dcols.dtype)
    K, H, W = dcols.shape[2], *dcols.shape[4:]
    for i in range(K):
        for j in range(K):
            part = window(dx, i * dilation, j * dilation, H, W, stride)
            part[...] = dcols[:, :, i, j] + (0 if overwrite else part)
    return dx


def conv_forward(x, weight, bias, stride, pad, dilation):
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    cols = im2col(padded, weight.shape[2], stride, dilation)
    out = np.einsum("bcijhw,ocij->bohw", cols, weight) + bias[:, None, None]
    return out, (cols, weight, padded.shape, stride, pad, dilation)


def conv_backward(dout, cache, slip=""):
    cols, weight, shape, stride, pad, dilation = cache
    dweight = np.einsum("bohw,bcijhw->ocij", dout, cols)
    dbias = dout.sum(axis=(0, 2, 3))
    dcols = np.einsum("bohw,ocij->bcijhw", dout, weight)
    match slip:
        case "stride forgotten in dx":
            stride = 1
        case "dilation forgotten in dx":
            dilation = 1
        case "windows overwrite in dx":
            return unpad(col2im(dcols, shape, stride, dilation, overwrite=True), pad), dweight, dbias
        case "padding cut off on one side":
            return col2im(dcols, shape, stride, dilation)[:, :, 2 * pad :, 2 * pad :], dweight, dbias
        case "kernel flipped in dx":
            dcols = np.einsum("bohw,ocij->bcijhw", dout, weight[:, :, ::-1, ::-1])
        case "kernel flipped in dweight":
            dweight = dweight[:, :, ::-1, ::-1].copy()
        case "dweight divided by B H W":
            dweight = dweight / (dout.shape[0] * dout.shape[2] * dout.shape[3])
        case "dbias summed over height alone":
            dbias = dout[..., 0].sum(axis=(0, 2))
        case "last row of the output dropped":
            dweight = np.einsum("bohw,bcijhw->ocij", dout[:, :, :-1], cols[..., :-1, :])
        case "border of dx left at zero":
            dx = unpad(col2im(dcols, shape, stride, dilation), pad)
            dx[:, :, 0], dx[:, :, -1], dx[..., 0], dx[..., -1] = 0, 0, 0, 0
            return dx, dweight, dbias
    return unpad(col2im(dcols, shape, stride, dilation), pad), dweight, dbias


def unpad(x, pad):
    return x[:, :, pad : x.shape[2] - pad, pad : x.shape[3] - pad].copy()


def causal_forward(x, weight):
    """Convolve each channel by itself over what came before: (B, T, C) and (K, C)."""
    B, T, C = x.shape
    padded = np.concatenate((np.zeros((B, len(weight) - 1, C), x.dtype), x), axis=1)
    return sum(padded[:, k : k + T] * w for k, w in enumerate(weight)), (padded, weight)


def causal_backward(dout, cache, slip=""):
    padded, weight = cache
    K, T = len(weight), dout.shape[1]
    dpadded = np.zeros(padded.shape, dout.dtype)
    for k in range(K):
        dpadded[:, k : k + T] += dout * weight[k]
    if slip == "dx one step late":
        return dpadded[:, K - 2 : K - 2 + T].copy(), np.stack(
            [(dout * padded[:, k : k + T]).sum((0, 1)) for k in range(K)]
        )
    if slip == "x not shifted in dweight":
        return dpadded[:, K - 1 :].copy(), np.stack([(dout * padded[:, K - 1 :]).sum((0, 1)) for _ in range(K)])
    return dpadded[:, K - 1 :].copy(), np.stack([(dout * padded[:, k : k + T]).sum((0, 1)) for k in range(K)])


def maxpool_forward(x, K, stride):
    cols = im2col(x, K, stride, 1)
    B, C, _, _, H, W = cols.shape
    flat = cols.reshape(B, C, K * K, H, W)
    out = flat.max(axis=2)
    return out, (flat, out, x.shape, K, stride)


def maxpool_backward(dout, cache, slip=""):
    flat, out, shape, K, stride = cache
    B, C, _, H, W = flat.shape
    if slip == "every largest element gets it all":
        picked = flat == out[:, :, None]
    else:
        picked = np.arange(K * K)[:, None, None] == flat.argmax(axis=2)[:, :, None]
    dcols = (picked * dout[:, :, None]).reshape(B, C, K, K, H, W)
    if slip == "windows overwrite, not add":
        dx = np.zeros(shape, dout.dtype)
        for h in range(H):
            for w in range(W):
                at = dx[:, :, h * stride : h * stride + K, w * stride : w * stride + K]
                at[...] = np.where(dcols[..., h, w] != 0, dcols[..., h, w], at)
        return dx
    return col2im(dcols, shape, stride, 1)


def avgpool_forward(x, K=2):
    """Average windows of K; the last, cut off by the border, over what is left of it."""
    T = x.shape[-1]
    return np.stack([x[..., t : t + K].mean(axis=-1) for t in range(0, T, K)], axis=-1), (x.shape, K)


def avgpool_backward(dout, cache, slip=""):
    shape, K = cache
    dx = np.empty(shape, dout.dtype)
    for i, t in enumerate(range(0, shape[-1], K)):
        size = K if slip == "cut-off window divided by its full size" else min(K, shape[-1] - t)
        dx[..., t : t + K] = dout[..., i, None] / size
    if slip == "cut-off window left out":
        dx[..., shape[-1] // K * K :] = 0
    return dx


def reflect_forward(x, pad=2):
    T = x.shape[-1]
    index = np.abs(np.arange(-pad, T + pad))
    index = np.where(index < T, index, 2 * (T - 1) - index)
    return x[..., index], (index, x.shape)


def reflect_backward(dout, cache, slip=""):
    index, shape = cache
    dx = np.zeros(shape, dout.dtype)
    if slip == "mirrored elements dropped":
        return dout[..., 2:-2].copy()
    if slip == "edge mirrored too":
        index = np.clip(np.arange(-2, shape[-1] + 2), 0, shape[-1] - 1)
    np.add.at(dx, (..., index), dout)
    return dx


def resize_matrix(T, N):
    """Weigh the T inputs for each of N outputs, ends on ends."""
    at = np.arange(N) * (T - 1) / (N - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(T)))


def resize_forward(x, N):
    return x @ resize_matrix(x.shape[-1], N).T.astype(x.dtype), (x.shape[-1], N)


def resize_backward(dout, cache, slip=""):
    T, N = cache
    weights = resize_matrix(T, N)
    if slip == "window of outputs too short":
        near = np.abs(np.arange(N)[:, None] - np.arange(T) * (N / T)) <= N / T
        weights = weights * near
    if slip == "scale for centres on centres":
        at = np.clip((np.arange(N) + 0.5) * T / N - 0.5, 0, T - 1)
        weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(T)))
    return dout @ weights


def image(*settings):
    return *normal(81, (2, 2, 7, 7), (3, 2, 3, 3), (3,)), *settings


def tied_image():
    x = np.round(2 * normal(82, (1, 2, 4, 4))[0])
    return x, 2, 2


conv = partial(planted, "conv2d", forward=conv_forward, right=conv_backward, args=partial(image, 2, 1, 1))
causal = partial(
    planted, "causal conv1d", forward=causal_forward, right=causal_backward, args=partial(normal, 83, (2, 5, 2), (3, 2))
)
maxpool = partial(planted, "max-pool", forward=maxpool_forward, right=maxpool_backward)
avgpool = partial(
    planted, "average pool", forward=avgpool_forward, right=avgpool_backward, args=partial(normal, 85, (2, 5))
)
resize = partial(
    planted, "linear resize", forward=resize_forward, right=resize_backward, args=lambda: (*normal(86, (2, 2)), 10)
)
reflect = partial(
    planted, "reflection pad", forward=reflect_forward, right=reflect_backward, args=partial(normal, 84, (2, 5))
)

BUGS = [
    conv("stride forgotten in dx", source="https://github.com/Kulbear/deep-learning-coursera/pull/34"),
    conv(
        "dilation forgotten in dx",
        args=partial(image, 1, 1, 2),
        source="https://github.com/pytorch/pytorch/issues/13008",
    ),
    conv("windows overwrite in dx"),
    conv("padding cut off on one side"),
    conv("kernel flipped in dx"),
    conv("kernel flipped in dweight"),
    conv("dweight divided by B H W", source="https://github.com/sebgao/cTensor/issues/3"),
    conv("dbias summed over height alone"),
    conv("last row of the output dropped"),
    conv("border of dx left at zero"),
    causal("dx one step late"),
    causal("x not shifted in dweight", source="https://github.com/fla-org/flash-linear-attention/pull/388"),
    maxpool(
        "windows overwrite, not add",
        args=lambda: (*normal(82, (1, 2, 5, 5)), 3, 1),
        source="https://github.com/0809zheng/CS231n-assignment2019/issues/19",
        note="right where windows do not overlap",
    ),
    maxpool(
        "every largest element gets it all",
        args=tied_image,
        source="https://github.com/Theano/Theano/issues/4568",
        note="no subgradient: along the ties together the function is smooth, and this slope a multiple of its own",
        kink=True,
    ),
    avgpool("cut-off window divided by its full size", source="https://github.com/tracel-ai/burn/issues/5604"),
    avgpool("cut-off window left out"),
    reflect("mirrored elements dropped", source="https://github.com/pytorch/pytorch/issues/100793"),
    reflect("edge mirrored too"),
    resize("window of outputs too short", source="https://github.com/flagos-ai/FlagGems/issues/5218"),
    resize("scale for centres on centres"),
]
