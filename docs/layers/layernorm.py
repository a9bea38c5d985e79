"""The numbers of docs/layers/layernorm.md: one row of four numbers, forward and back."""

from collections.abc import Callable

import numpy as np

import npgpt
from npgpt.layers import layernorm_backward, layernorm_forward

EPS = 1e-5


def show(name: str, values: np.ndarray, note: str = "") -> None:
    cells = "".join(f"{v:9.4f}" for v in np.round(np.atleast_1d(values), 4) + 0.0)  # no -0.0000
    print(f"{name:20}{cells}{note}")


def forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, ...]:
    mean = x.sum() / x.size
    centred = x - mean
    var = (centred**2).sum() / x.size
    rstd = 1 / np.sqrt(var + EPS)
    xhat = centred * rstd
    return mean, centred, var, rstd, xhat, xhat * weight + bias


def finite_difference(f: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """(f(at + h) - f(at - h)) / 2h, one element of `at` moved at a time."""
    h = 1e-5
    return np.array([(f(at + h * e) - f(at - h * e)) / (2 * h) for e in np.eye(at.size)])


def require(name: str, ours: np.ndarray, theirs: np.ndarray, limit: float) -> None:
    error = np.abs(ours - theirs).max()
    if not error <= limit:  # written so that NaN fails too
        raise SystemExit(f"{name}: off by {error:.1e}, more than {limit:.0e}")


def loss(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    return float((dout * forward(x, weight, bias)[-1]).sum())


x = np.array([-0.5, -0.3, 0.3, 1.3])
weight, bias = np.array([1.5, -0.5, 2.0, 0.8]), np.array([0.1, 0.2, -0.3, 0.4])
dout = np.array([1.0, -2.0, 0.5, 3.0])
C = x.size

print("forward")
steps = forward(x, weight, bias)
for name, values in zip(("mean", "centred", "var", "rstd", "xhat", "out"), steps, strict=True):
    show(name, values)
*_, rstd, xhat, out = steps

print("\nbackward")
dweight, dbias, dxhat = dout * xhat, dout.copy(), dout * weight
through_mean = dxhat.sum() / C
through_rstd = xhat * ((dxhat * xhat).sum() / C)
dx = rstd * (dxhat - through_mean - through_rstd)
show("dxhat", dxhat)
show("through_mean", through_mean)
show("through_rstd", through_rstd)

print("\nthe gradients of L = sum(dout * out), and below each its finite difference")
numeric = (
    finite_difference(lambda moved: loss(moved, weight, bias), x),
    finite_difference(lambda moved: loss(x, moved, bias), weight),
    finite_difference(lambda moved: loss(x, weight, moved), bias),
)
for name, d, n in zip(("dx", "dweight", "dbias"), (dx, dweight, dbias), numeric, strict=True):
    show(name, d)
    show("  by difference", n)
    require(f"{name} against its finite difference", d, n, 1e-8)

print("\ndx with a slip in it, and at the end of the line its relative error")
slips = {
    "right": dx,
    "no through_mean": rstd * (dxhat - through_rstd),
    "no through_rstd": rstd * (dxhat - through_mean),
    "dout for dxhat": rstd * (dout - dout.mean() - xhat * (dout * xhat).mean()),
    "divisor C - 1": rstd * (dxhat - through_mean - through_rstd * C / (C - 1)),
}
for name, slip in slips.items():
    show(name, slip, f"{np.linalg.norm(slip - dx) / np.linalg.norm(dx):13.4f}")

layer_out, cache = layernorm_forward(x, weight, bias, EPS)
layer = (layer_out, *layernorm_backward(dout, cache))
for ours, theirs in zip((out, dx, dweight, dbias), layer, strict=True):
    require("npgpt.layers", ours, theirs, 1e-10)
for case in (x, np.random.default_rng(0).standard_normal((2, 3, C))):
    report = npgpt.check_backward(layernorm_forward, layernorm_backward, case, weight, bias)
    if not report:
        raise SystemExit(str(report))
print("\nnpgpt.layers agrees to 1e-10; npgpt.check_backward passes")
