"""The numbers of docs/layers/cross_attention.md: two queries and a source of two keys in three places."""

import math
from collections.abc import Callable

import numpy as np

import npgpt
from npgpt.layers import cross_attention_backward, cross_attention_forward

LENGTH = 2  # of S = 3 places


def show(name: str, rows: np.ndarray) -> None:
    for i, row in enumerate(np.round(rows, 4) + 0.0):  # no -0.0000
        print(f"{name if i == 0 else '':20}" + "".join(f"{v:9.4f}" for v in row))


def forward(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
    scores = q @ k.T / math.sqrt(q.shape[1])
    scores[:, LENGTH:] = -np.inf
    weights = np.exp(scores)
    probs = weights / weights.sum(axis=1, keepdims=True)
    return scores, probs, probs @ v


def finite_difference(f: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """(f(at + h) - f(at - h)) / 2h, one element of `at` moved at a time."""
    h, numeric = 1e-5, np.zeros_like(at)
    for place in np.ndindex(at.shape):
        move = np.zeros_like(at)
        move[place] = h
        numeric[place] = (f(at + move) - f(at - move)) / (2 * h)
    return numeric


def require(name: str, ours: np.ndarray, theirs: np.ndarray, limit: float) -> None:
    error = np.abs(ours - theirs).max()
    if not error <= limit:  # written so that NaN fails too
        raise SystemExit(f"{name}: off by {error:.1e}, more than {limit:.0e}")


def loss(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> float:
    return float((dout * forward(q, k, v)[-1]).sum())


q = np.array([[1.0, 0.5], [-0.5, 2.0]])
k = np.array([[0.4, -1.0], [1.2, 0.6], [9.0, 9.0]])
v = np.array([[1.0, 2.0], [-1.0, 0.5], [9.0, 9.0]])
dout = np.array([[1.0, -2.0], [0.5, 3.0]])

print("forward")
scores, probs, out = forward(q, k, v)
show("probs", probs)
show("out", out)

print("\nbackward")
dprobs, dv = dout @ v.T, probs.T @ dout
average = (probs * dprobs).sum(axis=1, keepdims=True)
dscores = probs * (dprobs - average)
dq, dk = dscores @ k / math.sqrt(2), dscores.T @ q / math.sqrt(2)
show("dprobs", dprobs)
show("average", average)
show("dscores", dscores)

print("\nthe gradients of L = sum(dout * out), and beside each its finite difference")
numeric = (
    finite_difference(lambda moved: loss(moved, k, v), q),
    finite_difference(lambda moved: loss(q, moved, v), k),
    finite_difference(lambda moved: loss(q, k, moved), v),
)
for name, d, n in zip(("dq", "dk", "dv"), (dq, dk, dv), numeric, strict=True):
    show(name, np.hstack((d, n)))
    require(f"{name} against its finite difference", d, n, 1e-8)

kv, lengths = np.hstack((k, v))[None], np.array([LENGTH])
layer_out, cache = cross_attention_forward(q[None], kv, 1, lengths)
layer_dq, layer_dkv = cross_attention_backward(dout[None], cache)
for ours, theirs in ((out, layer_out[0]), (dq, layer_dq[0]), (np.hstack((dk, dv)), layer_dkv[0])):
    require("npgpt.layers", ours, theirs, 1e-10)
rng = np.random.default_rng(0)
report = npgpt.check_backward(
    lambda q, kv: cross_attention_forward(q, kv, 3, np.array([4, 0, 2])),
    cross_attention_backward,
    rng.standard_normal((3, 5, 6)),
    rng.standard_normal((3, 4, 12)),
)
if not report:
    raise SystemExit(str(report))
print("\nnpgpt.layers agrees to 1e-10; npgpt.check_backward passes")
