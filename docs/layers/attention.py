"""The numbers of docs/layers/attention.md: one head, three positions, forward and back."""

import math
from collections.abc import Callable

import numpy as np

import npgpt
from npgpt.layers import attention_backward, attention_forward


def show(name: str, *matrices: np.ndarray) -> None:
    """Print matrices side by side, a row a line."""
    for i, rows in enumerate(zip(*matrices, strict=True)):
        cells = ["".join(f"{v:9.4f}" for v in np.round(row, 4) + 0.0) for row in rows]  # no -0.0000
        print(f"{'' if i else name:22}" + "    ".join(cells))


def forward(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
    scores = np.array([[sum(q_i * k_j) / math.sqrt(D) for k_j in k] for q_i in q])
    exp = np.exp(scores)
    exp[np.triu_indices(T, 1)] = 0  # the keys after the query
    probs = exp / exp.sum(axis=1, keepdims=True)
    return scores, probs, probs @ v


def loss(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> float:
    return float((dheads * forward(q, k, v)[-1]).sum())


def finite_difference(f: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """(f(at + h) - f(at - h)) / 2h, one element of `at` moved at a time."""
    h, d = 1e-5, np.zeros_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = h
        d[index] = (f(at + step) - f(at - step)) / (2 * h)
    return d


def require(name: str, ours: np.ndarray, theirs: np.ndarray, limit: float) -> None:
    error = np.abs(ours - theirs).max()
    if not error <= limit:  # written so that NaN fails too
        raise SystemExit(f"{name}: off by {error:.1e}, more than {limit:.0e}")


q = np.array([[1.0, 2.0], [2.0, -1.0], [-1.0, 1.5]])
k = np.array([[1.0, 0.5], [0.5, -1.0], [1.0, 1.0]])
v = np.array([[1.0, 2.0], [3.0, -1.0], [-2.0, 1.0]])
dheads = np.array([[1.0, -1.0], [0.5, 2.0], [-1.0, 1.5]])
T, D = q.shape

print("forward")
scores, probs, heads = forward(q, k, v)
for name, matrix in (("scores", scores), ("probs", probs), ("heads", heads)):
    show(name, matrix)

print("\nbackward")
dprobs = dheads @ v.T  # no dropout here: att is probs, datt is dprobs
average = (dprobs * probs).sum(axis=1, keepdims=True)
dscores = probs * (dprobs - average)
dq, dk, dv = dscores @ k / math.sqrt(D), dscores.T @ q / math.sqrt(D), probs.T @ dheads
for name, matrix in (("dprobs", dprobs), ("average", average), ("dscores", dscores)):
    show(name, matrix)
require("average", average[:, 0], (dheads * heads).sum(axis=1), 1e-10)

print("\nthe gradients of L = sum(dheads * heads), and beside each its finite difference")
numeric = (
    finite_difference(lambda moved: loss(moved, k, v), q),
    finite_difference(lambda moved: loss(q, moved, v), k),
    finite_difference(lambda moved: loss(q, k, moved), v),
    finite_difference(lambda bias: loss(q, k + bias, v), np.zeros((1, D))),
)
analytic = (dq, dk, dv, dk.sum(axis=0, keepdims=True))
for name, d, n in zip(("dq", "dk", "dv", "key bias"), analytic, numeric, strict=True):
    show(name, d, n)
    require(f"{name} against its finite difference", d, n, 1e-8)

print("\ndk with a slip in it, its three rows in one line")
slips = {"q.T @ dscores": q.T @ dscores / math.sqrt(D), "dscores @ q": dscores @ q / math.sqrt(D)}
for name, slip in {"right": dk, **slips, "no 1 / sqrt(D)": dscores.T @ q}.items():
    show(name, slip.reshape(1, -1))
print("\nprobs * (dprobs - average) where every dprobs is 1")
show("", probs * (1 - probs.sum(axis=1, keepdims=True)))

qkv = np.concatenate((q, k, v), axis=1)[None]  # (B, T, 3C) with B = 1, H = 1, C = D
layer_out, cache = attention_forward(qkv, 1)
require("npgpt.layers, out", layer_out[0], heads, 1e-10)
dqkv = attention_backward(dheads[None], cache)
require("npgpt.layers, dqkv", dqkv[0], np.hstack((dq, dk, dv)), 1e-10)
for case, n_head in ((qkv, 1), (np.random.default_rng(0).standard_normal((2, 5, 18)), 3)):
    report = npgpt.check_backward(attention_forward, attention_backward, case, n_head)
    if not report:
        raise SystemExit(str(report))
print("\nnpgpt.layers agrees to 1e-10; npgpt.check_backward passes")
