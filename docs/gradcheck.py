"""The numbers of docs/gradcheck.md, section by section.

What is rounding differs from machine to machine: errors and bars below 1e-9 are shown as <1e-9, and of an argument that
passes its worst element is left out.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from npgpt.gradcheck import (
    Report,
    check_accumulation,
    check_backward,
    check_causality,
    check_gradient_penalty,
    check_hessian,
    check_jvp,
    check_layer,
    find_dead,
    table,
)
from npgpt.gradcheck.table import header

rng = np.random.default_rng(1)
X = rng.standard_normal((4, 3))
WEIGHT = rng.standard_normal((3, 3))


def title(name: str) -> None:
    print(f"\n## {name}")


def check(*args: Any, using: Callable = check_backward, **options: Any) -> Report:
    return using(*args, rng=np.random.default_rng(2), **options)


def show(report: Report) -> None:
    rows = [a.row() if a.verdict == "fail" else (*a.row()[:5], "", "", "", "") for a in report.arguments]
    # across a kink the Taylor test says one thing or another, by the direction that was drawn
    remarks = [remark for remark in report.remarks() if report.verdict == "fail" or not remark.startswith("Taylor")]
    text = "\n".join([table(header(report.labels), rows), *remarks, report.verdict])
    print(re.sub(r"(?<![\d.])(0(\.0)?e\+00|\d(\.\d)?e-(09|[1-9]\d))", lambda found: "<1e-9".ljust(len(found[0])), text))


# --- the report


def rmsnorm(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, tuple]:
    rrms = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True))
    return x * rrms * weight, (x, rrms, weight)


def rmsnorm_slip(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    x, rrms, weight = cache
    return dout * weight * rrms, (dout * x * rrms).sum(axis=0)


def rmsnorm_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray]:
    x, rrms, weight = cache
    dxhat, xhat = dout * weight, x * rrms
    return rrms * (dxhat - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)), (dout * xhat).sum(axis=0)


title("missing term")
show(check(rmsnorm, rmsnorm_slip, X, WEIGHT[0]))

# --- right numbers in wrong places


def linear(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, tuple]:
    return x @ weight, (x, weight)


title("transposed")
show(check(linear, lambda dout, cache: (dout @ cache[1].T, dout.T @ cache[0]), X, WEIGHT))


def embedding(ids: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, tuple]:
    return table[ids], (ids, table.shape)


def embedding_slip(dout: np.ndarray, cache: tuple) -> np.ndarray:
    ids, shape = cache
    dtable = np.zeros(shape)
    dtable[ids] += dout  # of an id that stands there twice the last is kept
    return dtable


title("repeats dropped")
show(check(embedding, embedding_slip, np.array([4, 1, 4, 2]), rng.standard_normal((6, 2))))

# --- what a tolerance lets pass


def tiny(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 1e-9 * x * x, x


title("tiny gradients")
print("np.allclose(1e-9 * x, 2e-9 * x):", np.allclose(1e-9 * X, 2e-9 * X))
show(check(tiny, lambda dout, x: 1e-9 * dout * x, X))

# --- the contract


def writes(dout: np.ndarray, x: np.ndarray) -> np.ndarray:
    dout *= 2
    dout *= x
    return dout


class Stateful:
    """Keeps its input in itself and not in the cache."""

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, None]:
        self.x = x.copy()
        return x * x, None

    def backward(self, dout: np.ndarray, cache: None) -> np.ndarray:
        return 2 * dout * self.x


title("contract")
stateful = Stateful()
pairs = {
    "writes into dout": (lambda x: (x * x, x), writes),
    "state outside the cache": (stateful.forward, stateful.backward),
    "clipped": (lambda x: (x * x, x), lambda dout, x: np.clip(2 * dout * x, -50, 50)),
}
for name, pair in pairs.items():
    report = check(*pair, X)
    print("\n  ".join([f"{name}: {report.verdict}", *report.contract]))

# --- what was not looked at


def scaled(ids: np.ndarray, table: np.ndarray, scale: float) -> tuple[np.ndarray, tuple]:
    return table[ids] * scale, (ids, table, scale)


def scaled_backward(dout: np.ndarray, cache: tuple) -> tuple:
    ids, table, scale = cache
    dtable = np.zeros_like(table)
    np.add.at(dtable, ids, dout * scale)
    return None, dtable, None


title("what was not looked at")
arguments = (np.array([0, 2, 1, 1]), X, 0.7)
show(check(scaled, scaled_backward, *arguments))

title("the other convention")
power = (lambda z: (np.abs(z) ** 2, z), lambda dout, z: 2 * dout * z.conj())
show(check(*power, X + 1j * X[::-1]))

# --- kinks


def relu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(x, 0), x


title("kinks")
with_zero = np.linspace(-1, 1, 21).round(1)
show(check(relu, lambda dout, x: dout * (x > 0), with_zero))

# --- randomness and noise

title("dropout from a generator")


def seeded_dropout(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    mask = rng.random(x.shape) < 0.5
    return x * mask, mask


show(check(seeded_dropout, lambda dout, mask: (dout * mask, None), X, np.random.default_rng(3)))

title("running statistics")


def centre(x: np.ndarray, state: dict[str, np.ndarray]) -> tuple[np.ndarray, None]:
    state["mean"] = 0.9 * state["mean"] + 0.1 * x.mean(axis=0)
    return x - x.mean(axis=0), None


show(check(centre, lambda dout, _: dout - dout.mean(axis=0), X, {"mean": np.zeros(3)}))


# --- big tensors


def square_with_a_slip(dout: np.ndarray, x: np.ndarray) -> np.ndarray:
    dx = 2 * dout * x
    dx[123, 45] *= 1.001
    return dx


title("a big tensor")
big = rng.standard_normal((250, 200))
show(check(lambda x: (x * x, x), lambda dout, x: 2 * dout * x, big))
title("a big tensor with a slip")
show(check(lambda x: (x * x, x), square_with_a_slip, big))

# --- other styles


class Scale:
    def __init__(self, size: int) -> None:
        self.weight = np.linspace(0.5, 1.5, size)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        return x * self.weight

    def backward(self, dout: np.ndarray) -> np.ndarray:
        self.dweight = (dout * self.x).sum(axis=0)
        return dout * self.weight


class Forgetful(Scale):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.bias = np.linspace(-1, 1, size)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return super().forward(x) + self.bias


title("an object that forgets a gradient")
show(check(Forgetful(3), X, using=check_layer))

# --- what training code breaks


def softmax(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, p


def head(x: np.ndarray) -> np.ndarray:
    """Attention over time, of x (B, T, C) to itself."""
    scores = x @ np.swapaxes(x, 1, 2) / np.sqrt(x.shape[-1])
    return softmax(scores - 1e4 * np.triu(np.ones(scores.shape), 1))[0] @ x


title("causality")
sequences = rng.standard_normal((2, 5, 3))
show(check(head, sequences, using=check_causality))


def whole(weight: np.ndarray, batch: dict) -> tuple[float, np.ndarray]:
    """Return the mean squared error over the targets that are not masked, and its gradient."""
    real = batch["targets"] != -100
    error = np.where(real, batch["x"] @ weight - batch["targets"], 0)
    return (error**2).sum() / real.sum(), 2 * batch["x"].T @ error / real.sum()


def accumulated(weight: np.ndarray, parts: list[dict]) -> tuple[float, np.ndarray]:
    loss, gradient = 0.0, np.zeros_like(weight)
    for part in parts:
        own_loss, own_gradient = whole(weight, part)
        loss += own_loss / len(parts)
        gradient += own_gradient / len(parts)
    return loss, gradient


title("accumulation")
masked_targets = {"x": X, "targets": np.array([[2, -100], [1, 3], [0, 5], [4, 4]])}
show(check(whole, accumulated, WEIGHT[:, :2], masked_targets, using=check_accumulation))


def mlp(x: np.ndarray, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray) -> tuple[np.ndarray, tuple]:
    hidden = np.maximum(x @ w1 + b1, 0)
    return hidden @ w2, (x, w1, w2, hidden)


def mlp_slip(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    x, w1, w2, hidden = cache
    dz = dout @ w2.T * (hidden > 0)
    return dz @ w1.T, x.T @ dz, dz.sum(axis=0), np.zeros_like(w2)


title("dead")
print(check(mlp, mlp_slip, X, WEIGHT, np.array([9.0, -99.0, 9.0]), WEIGHT, using=find_dead))


# --- forward mode and second derivatives


def rmsnorm_jvp(tangents: tuple, cache: tuple) -> np.ndarray:
    (dx, _), (x, rrms, weight) = tangents, cache
    drrms = -(rrms**3) * (x * dx).mean(axis=-1, keepdims=True)
    return (dx * rrms + x * drrms) * weight  # the tangent of weight is missing


title("forward mode")
show(check(rmsnorm, rmsnorm_jvp, X, WEIGHT[0], using=check_jvp, backward=rmsnorm_backward))

title("Gauss-Newton for the Hessian")
SPEEDS = np.array([0.5, 1.0, 2.0, 3.0])


def residuals(x: np.ndarray) -> np.ndarray:
    return x[0] * np.exp(-SPEEDS * x[1]) - [0.7, 0.4, 0.3, 0.1]


def jacobian(x: np.ndarray) -> np.ndarray:
    e = np.exp(-SPEEDS * x[1])
    return np.stack([e, -x[0] * SPEEDS * e], axis=1)


fit = (lambda x: 0.5 * np.sum(residuals(x) ** 2), lambda x: jacobian(x).T @ residuals(x))
show(check(*fit, np.array([1.2, 0.8]), hessian=lambda x: jacobian(x).T @ jacobian(x), using=check_hessian))

title("a gradient penalty")


def critic(x: np.ndarray, w: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, tuple]:
    hidden = np.tanh(x @ w)
    return hidden @ v, (x, w, v, hidden)


def critic_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    x, w, v, hidden = cache
    dz = np.outer(dout, v) * (1 - hidden**2)
    return dz @ w.T, x.T @ dz, hidden.T @ dout


def penalty(dx: np.ndarray, dw: np.ndarray, dv: np.ndarray) -> float:
    return np.mean((np.sqrt(np.sum(dx**2, axis=1)) - 1) ** 2)


def penalty_gradient(x: np.ndarray, w: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hidden = np.tanh(x @ w)
    dz = v * (1 - hidden**2)
    dx = dz @ w.T
    norm = np.sqrt(np.sum(dx**2, axis=1, keepdims=True))
    ddx = 2 * (norm - 1) / norm * dx / len(x)
    return ddx.T @ dz, np.sum((ddx @ w) * (1 - hidden**2), axis=0)  # dz moves with w, too


arguments = (X, WEIGHT, WEIGHT[0])
show(
    check(
        critic,
        critic_backward,
        penalty,
        penalty_gradient,
        *arguments,
        wrt=["w", "v"],
        using=check_gradient_penalty,
    )
)

# --- numerical derivatives. Python's own numbers, + - * / alone: the same bits everywhere


def f(x: Any) -> Any:
    return 1 / (1 + x * x)


def central(g: Callable, x: Any, h: Any) -> Any:
    return (g(x + h) - g(x - h)) / (2 * h)


x = 0.7
true = -2 * x / (1 + x * x) ** 2
title("steps")
print("h      one-sided  central  extrapolated")
for k in range(1, 14, 2):
    h = 10.0**-k
    one_sided = (f(x + h) - f(x)) / h
    extrapolated = (4 * central(f, x, h / 2) - central(f, x, h)) / 3
    errors = [abs(value / true - 1) for value in (one_sided, central(f, x, h), extrapolated)]
    print(f"1e-{k:02}  {errors[0]:.0e}      {errors[1]:.0e}    {errors[2]:.0e}")
error = abs(f(x + 1e-25j).imag / 1e-25 / true - 1)
print(f"complex step, h = 1e-25: {'below 1e-15' if error < 1e-15 else error}")


# --- from one number to arrays


def softmax_slip(dout: np.ndarray, p: np.ndarray) -> np.ndarray:
    return dout - (dout * p).sum(axis=-1, keepdims=True)  # times p is missing


title("ones as cotangent")
p = softmax(X)[0]
right = p * (1 - (1 * p).sum(axis=-1, keepdims=True))
print(f"dout of ones: the right dx is {np.abs(right).max():.1f}, the wrong one {np.abs(softmax_slip(1, p)).max():.1f}")

# --- second opinions

title("Taylor")
exp = (lambda x: (np.exp(x), x), lambda dout, x: dout * np.exp(x))
print("right:   ", check(*exp, X).taylor)
print("by 1.01: ", check(exp[0], lambda dout, x: 1.01 * exp[1](dout, x), X).taylor)
