"""The numbers of docs/layers/kl.md: a student's three logits, a teacher's, and two vectors; forward and back."""

from collections.abc import Callable

import numpy as np

import npgpt
from npgpt.layers import cosine_backward, cosine_forward, kl_backward, kl_forward, kl_topk_backward, kl_topk_forward


def show(name: str, values: np.ndarray, note: str = "") -> None:
    cells = "".join(f"{v:9.4f}" for v in np.round(np.atleast_1d(values), 4) + 0.0)  # no -0.0000
    print(f"{name:20}{cells}{note}")


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum()


def finite_difference(f: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """(f(at + h) - f(at - h)) / 2h, one element of `at` moved at a time."""
    h = 1e-5
    return np.array([(f(at + h * e) - f(at - h * e)) / (2 * h) for e in np.eye(at.size)])


def require(name: str, ours: np.ndarray, theirs: np.ndarray, limit: float) -> None:
    error = np.abs(np.asarray(ours) - theirs).max()
    if not error <= limit:  # written so that NaN fails too
        raise SystemExit(f"{name}: off by {error:.1e}, more than {limit:.0e}")


def divergence(z: np.ndarray, t: np.ndarray) -> float:
    q, p = softmax(z / T), softmax(t / T)
    return float(T**2 * (p * np.log(p / q)).sum())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


student, teacher, T = np.array([1.0, 0.0, -1.0]), np.array([2.0, 1.0, -2.0]), 2.0
q, p = softmax(student / T), softmax(teacher / T)
surplus = np.log(p / q)
kl = (p * surplus).sum()

print("KL divergence, T = 2")
for name, values in (("q", q), ("p", p), ("log(p / q)", surplus), ("KL", kl), ("loss = T^2 KL", T**2 * kl)):
    show(name, values)
dstudent, dteacher = T * (q - p), T * p * (surplus - kl)
for name, d, numeric in (
    ("dlogits", dstudent, finite_difference(lambda z: divergence(z, teacher), student)),
    ("dteacher", dteacher, finite_difference(lambda t: divergence(student, t), teacher)),
):
    show(name, d)
    show("  by difference", numeric)
    require(name, d, numeric, 1e-8)

print("\nthe teacher's likeliest token alone, and the rest's mass")
ids, logp = np.array([0]), np.log(p[:1])
r, s = 1 - p[0], 1 - q[0]
coarse = T**2 * (p[0] * surplus[0] + r * np.log(r / s))
share = q / s  # how the student divides the rest, at the tokens that are in it
dcoarse = T * np.where([True, False, False], q - p, (s - r) * share)
show("r, s", np.array([r, s]))
show("loss", coarse)
show("dlogits", dcoarse)

print("\ncosine")
a, b = np.array([3.0, 4.0]), np.array([1.0, 0.0])
da = (b / np.linalg.norm(b) - cosine(a, b) * a / np.linalg.norm(a)) / np.linalg.norm(a)
show("cosine", np.array(cosine(a, b)))
show("da", da, f"   da . a = {abs(da @ a):.4f}")
numeric = finite_difference(lambda moved: cosine(moved, b), a)
show("  by difference", numeric)
require("da", da, numeric, 1e-8)

loss, cache = kl_forward(student, teacher, T)
require("kl", loss, np.array(T**2 * kl), 1e-10)
for ours, theirs in zip((dstudent, dteacher), kl_backward(1.0, cache), strict=True):
    require("npgpt.layers.kl", ours, theirs, 1e-10)
loss, cache = kl_topk_forward(student, ids, logp, T)
require("kl_topk", loss, np.array(coarse), 1e-10)
require("npgpt.layers.kl_topk", dcoarse, kl_topk_backward(1.0, cache), 1e-10)
out, cache = cosine_forward(a, b)
require("npgpt.layers.cosine", da, cosine_backward(np.array(1.0), cache)[0], 1e-10)
rng = np.random.default_rng(0)
for forward, backward in ((kl_forward, kl_backward), (cosine_forward, cosine_backward)):
    report = npgpt.check_backward(forward, backward, *rng.standard_normal((2, 3, 5)))
    if not report:
        raise SystemExit(str(report))
print("\nnpgpt.layers agrees to 1e-10; npgpt.check_backward passes")
