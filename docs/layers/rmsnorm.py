"""The numbers of docs/layers/rmsnorm.md: one row of four numbers, forward and back."""

from collections.abc import Callable

import numpy as np

import npgpt
from npgpt.layers import rmsnorm_backward, rmsnorm_forward

EPS = 1e-6


def show(name: str, values: np.ndarray, note: str = "") -> None:
    cells = "".join(f"{v:9.4f}" for v in np.round(np.atleast_1d(values), 4) + 0.0)  # no -0.0000
    print(f"{name:20}{cells}{note}")


def forward(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    square = (x**2).sum() / x.size
    rrms = 1 / np.sqrt(square + EPS)
    xhat = x * rrms
    return square, rrms, xhat, xhat * weight


def finite_difference(f: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """(f(at + h) - f(at - h)) / 2h, one element of `at` moved at a time."""
    h = 1e-5
    return np.array([(f(at + h * e) - f(at - h * e)) / (2 * h) for e in np.eye(at.size)])


def require(name: str, ours: np.ndarray, theirs: np.ndarray, limit: float) -> None:
    error = np.abs(ours - theirs).max()
    if not error <= limit:  # written so that NaN fails too
        raise SystemExit(f"{name}: off by {error:.1e}, more than {limit:.0e}")


def loss(x: np.ndarray, weight: np.ndarray) -> float:
    return float((dout * forward(x, weight)[-1]).sum())


x, weight = np.array([0.7, -0.1, 0.5, -0.5]), np.array([1.5, -0.5, 2.0, 0.8])
dout = np.array([1.0, -2.0, 0.5, 3.0])
C = x.size

print("forward")
square, rrms, xhat, out = forward(x, weight)
for name, values in ("square", square), ("rrms", rrms), ("xhat", xhat), ("out", out):
    show(name, values)

print("\nbackward")
dweight, dxhat = dout * xhat, dout * weight
through_rrms = xhat * ((dxhat * xhat).sum() / C)
dx = rrms * (dxhat - through_rrms)
show("dxhat", dxhat)
show("through_rrms", through_rrms)

print("\nthe gradients of L = sum(dout * out), and below each its finite difference")
numeric = (
    finite_difference(lambda moved: loss(moved, weight), x),
    finite_difference(lambda moved: loss(x, moved), weight),
)
for name, d, n in zip(("dx", "dweight"), (dx, dweight), numeric, strict=True):
    show(name, d)
    show("  by difference", n)
    require(f"{name} against its finite difference", d, n, 1e-8)

print("\ndx with a slip in it, and at the end of the line its relative error")
slips = {
    "right": dx,
    "no through_rrms": rrms * dxhat,
    "dout for dxhat": rrms * (dout - xhat * (dout * xhat).mean()),
    "x for xhat": rrms * (dxhat - x * (dxhat * x).mean()),
    "layer norm's mean": rrms * (dxhat - dxhat.mean() - through_rrms),
}
for name, slip in slips.items():
    show(name, slip, f"{np.linalg.norm(slip - dx) / np.linalg.norm(dx):13.4f}")

layer_out, cache = rmsnorm_forward(x, weight, EPS)
layer = (layer_out, *rmsnorm_backward(dout, cache))
for ours, theirs in zip((out, dx, dweight), layer, strict=True):
    require("npgpt.layers", ours, theirs, 1e-10)
for case in (x, np.random.default_rng(0).standard_normal((2, 3, C))):
    report = npgpt.check_backward(rmsnorm_forward, rmsnorm_backward, case, weight)
    if not report:
        raise SystemExit(str(report))
print("\nnpgpt.layers agrees to 1e-10; npgpt.check_backward passes")
