"""Matrix products: transposes, sums over the batch, factors, and the paths around them."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted


def linear_forward(x, weight, bias):
    return x @ weight + bias, (x, weight)


def linear_backward(dout, cache, slip=""):
    x, weight = cache
    rows, drows = x.reshape(-1, x.shape[-1]), dout.reshape(-1, dout.shape[-1])
    dx = dout @ weight.T
    dweight = rows.T @ drows
    dbias = drows.sum(axis=0)
    match slip:
        case "weight not transposed in dx":
            dx = dout @ weight
        case "dweight transposed":
            dweight = drows.T @ rows
        case "dbias summed over the channels":
            dbias = drows.sum(axis=1)
        case "dbias averaged over the batch":
            dbias = drows.mean(axis=0)
        case "dweight averaged over the batch":
            dweight = dweight / len(rows)
        case "last row of the batch dropped":
            dweight = rows[:-1].T @ drows[:-1]
        case "only the first sequence summed":
            dweight = x[0].T @ dout[0]
        case "dx times 1.001":
            dx = dx * 1.001
        case "dweight times 1.0001":
            dweight = dweight * 1.0001
        case "one element of dweight off by a thousandth":
            dweight[2, 3] *= 1.001
        case "dx left at zero":
            dx = np.zeros_like(x)
        case "dweight and dbias left at zero":
            dweight, dbias = np.zeros_like(weight), np.zeros_like(dbias)
        case "sign of dbias":
            dbias = -dbias
        case "weight decay added to dweight":
            dweight = dweight + 1e-3 * weight
    return dx, dweight, dbias


def mlp_forward(x, fc, proj):
    hidden = np.tanh(x @ fc)
    return x + hidden @ proj, (x, fc, proj, hidden)


def mlp_backward(dout, cache, slip=""):
    x, fc, proj, hidden = cache
    dproj = hidden.T @ dout
    dpre = dout @ proj.T * (1 - hidden * hidden)
    if slip == "tanh differentiated at its input":
        dpre = dout @ proj.T * (1 - (x @ fc) ** 2)
    dfc = x.T @ dpre
    dx = dpre @ fc.T
    match slip:
        case "residual path forgotten":
            return dx, dfc, dproj
        case "residual path counted twice":
            return dx + 2 * dout, dfc, dproj
        case "derivative of tanh forgotten in dx alone":
            return dout + dout @ proj.T @ fc.T, dfc, dproj
    return dout + dx, dfc, dproj


def lora_forward(x, weight, down, up, alpha=4.0):
    low = x @ down
    scale = alpha / down.shape[1]
    return x @ weight + low @ up * scale, (x, weight, down, up, low, scale)


def lora_backward(dout, cache, slip=""):
    x, weight, down, up, low, scale = cache
    dlow = dout @ up.T * scale
    dup = low.T @ dout * (1 if slip == "scale missing in dup" else scale)
    ddown = x.T @ (dout @ up.T if slip == "scale missing in ddown" else dlow)
    return dout @ weight.T + dlow @ down.T, x.T @ dout, ddown, dup


def bilinear_forward(x, A, y):
    return np.einsum("bi,ij,bj->b", x, A, y), (x, A, y)


def bilinear_backward(dout, cache, slip=""):
    x, A, y = cache
    dout = dout[:, None]
    dA = (dout * x).T @ y
    if slip == "dA transposed":
        dA = dA.T
    return dout * (y @ A.T), dA, dout * (x @ A)


def shared_forward(x, weight):
    """Multiply a batch of matrices by one matrix: NumPy broadcasts it over the batch."""
    return x @ weight, (x, weight)


def shared_backward(dout, cache, slip=""):
    x, weight = cache
    dweight = x.swapaxes(-1, -2) @ dout  # (B, I, O)
    match slip:
        case "dweight averaged, not summed, over the batch":
            return dout @ weight.T, dweight.mean(axis=0)
        case "dweight of the last in the batch":
            return dout @ weight.T, dweight[-1]
    return dout @ weight.T, dweight.sum(axis=0)


square = partial(normal, 1, (4, 4), (4, 4), (4,))
sequences = partial(normal, 2, (2, 3, 5), (5, 4), (4,))
linear = partial(planted, "linear", forward=linear_forward, right=linear_backward)
mlp = partial(planted, "mlp", forward=mlp_forward, right=mlp_backward, args=partial(normal, 3, (5, 4), (4, 6), (6, 4)))
shared = partial(
    planted,
    "matmul over a batch",
    forward=shared_forward,
    right=shared_backward,
    args=partial(normal, 4, (3, 2, 4), (4, 5)),
)

BUGS = [
    linear("weight not transposed in dx", args=square),
    linear("dweight transposed", args=square),
    linear("dbias summed over the channels", args=square, source="https://github.com/probcomp/Gen.jl/issues/432"),
    linear(
        "dbias averaged over the batch",
        args=sequences,
        source="https://github.com/jimfleming/differentiation/issues/1",
        note="the report itself points at a library that takes np.mean",
    ),
    linear(
        "dweight averaged over the batch",
        args=sequences,
        source="https://github.com/sebgao/cTensor/issues/3",
        note="there in a convolution: times 1 / (B H W)",
    ),
    linear("last row of the batch dropped", args=sequences),
    linear(
        "only the first sequence summed",
        args=sequences,
        source="https://github.com/flagos-ai/FlagGems/issues/5392",
        note="there in layer norm: a backward that takes its input to have two axes",
    ),
    linear("dx times 1.001", args=sequences),
    linear("dweight times 1.0001", args=sequences),
    linear("one element of dweight off by a thousandth", args=sequences),
    linear("dx left at zero", args=sequences),
    linear(
        "dweight and dbias left at zero",
        args=sequences,
        source="https://github.com/paiml/aprender/pull/2200",
        note="there in norms: the affine parameters never got a gradient",
    ),
    linear("sign of dbias", args=sequences),
    linear("weight decay added to dweight", args=sequences, note="then it is not zero for a zero dout"),
    mlp(
        "tanh differentiated at its input",
        source="https://github.com/mlpack/mlpack/pull/2158",
        note="there a derivative that wants the output",
    ),
    mlp("residual path forgotten"),
    mlp("residual path counted twice"),
    mlp("derivative of tanh forgotten in dx alone"),
    planted(
        "lora", "scale missing in dup", lora_forward, lora_backward, partial(normal, 5, (3, 4), (4, 5), (4, 2), (2, 5))
    ),
    planted(
        "lora",
        "scale missing in ddown",
        lora_forward,
        lora_backward,
        partial(normal, 5, (3, 4), (4, 5), (4, 2), (2, 5)),
    ),
    planted(
        "bilinear form",
        "dA transposed",
        bilinear_forward,
        bilinear_backward,
        partial(normal, 6, (3, 4), (4, 4), (3, 4)),
    ),
    shared("dweight averaged, not summed, over the batch", source="https://github.com/flashlight/flashlight/pull/760"),
    shared(
        "dweight of the last in the batch",
        source="https://github.com/tensorflow/tfjs/issues/8721",
        note="there the batch was not reduced at all",
    ),
]
