"""The numbers of docs/layers/gru.md: a GRU of one number, two steps forward and two back."""

import numpy as np

import npgpt
from npgpt.layers import gru_backward, gru_forward

NAMES = [
    "x_1",
    "x_2",
    "h_0",
    "w_ir",
    "w_iz",
    "w_in",
    "w_hr",
    "w_hz",
    "w_hn",
    "b_ir",
    "b_iz",
    "b_in",
    "b_hr",
    "b_hz",
    "b_hn",
]


def show(name: str, *values: float) -> None:
    print(f"{name:12}" + "".join(f"{value + 0.0:10.4f}" for value in values))  # no -0.0000


def sigmoid(v: float) -> float:
    return 1 / (1 + np.exp(-v))


def forward(p: np.ndarray) -> tuple[list, float]:
    """Return r, z, what n gets from h, n and h of both steps, and L."""
    x, h, (w_ir, w_iz, w_in, w_hr, w_hz, w_hn), biases = p[:2], p[2], p[3:9], p[9:]
    b_ir, b_iz, b_in, b_hr, b_hz, b_hn = biases
    steps, loss = [], 0.0
    for t in (0, 1):
        r = sigmoid(w_ir * x[t] + b_ir + w_hr * h + b_hr)
        z = sigmoid(w_iz * x[t] + b_iz + w_hz * h + b_hz)
        from_h_n = w_hn * h + b_hn
        n = np.tanh(w_in * x[t] + b_in + r * from_h_n)
        steps.append((h, r, z, from_h_n, n, (1 - z) * n + z * h))
        h = steps[-1][-1]
        loss += dout[t] * h
    return steps, loss


def backward(p: np.ndarray, slip: str = "") -> np.ndarray:
    """Return the derivative of L by each number of p."""
    w_ir, w_iz, w_in, w_hr, w_hz, w_hn = p[3:9]
    grad, dh, (steps, _) = np.zeros_like(p), 0.0, forward(p)
    for t in (1, 0):
        h, r, z, from_h_n, n, _ = steps[t]
        dnew = dh + dout[t]
        dz = dnew * (h - n) if slip != "z the other way round" else dnew * (n - h)
        dn = dnew * (1 - z)
        dn_inner = dn * (1 - n * n)
        dr = dn_inner * from_h_n
        dr_inner, dz_inner = dr * r * (1 - r), dz * z * (1 - z)
        dfrom_h_n = dn_inner * r if slip != "no r in dfrom_h" else dn_inner
        grad[t] = dr_inner * w_ir + dz_inner * w_iz + dn_inner * w_in
        grad[3:9] += dr_inner * p[t], dz_inner * p[t], dn_inner * p[t], dr_inner * h, dz_inner * h, dfrom_h_n * h
        grad[9:] += dr_inner, dz_inner, dn_inner, dr_inner, dz_inner, dfrom_h_n
        dh = dnew * z + dr_inner * w_hr + dz_inner * w_hz + dfrom_h_n * w_hn
        if slip == "h by z alone":
            dh = dnew * z
        if slip == "h by the gates alone":
            dh -= dnew * z
        if not slip:
            show(f"step {t + 1}", dnew, dr_inner, dz_inner, dn_inner, dfrom_h_n, dh)
    grad[2] = dh
    return grad


p = np.array([0.5, -1.0, 0.8, 1.0, -0.5, 0.7, 0.6, 1.2, -0.9, 0.1, 0.2, -0.3, 0.4, -0.1, 0.3])
dout = np.array([1.0, -2.0])

print("forward               r         z  from_h_n         n         h")
for t, (_, *values) in enumerate(forward(p)[0]):
    show(f"step {t + 1}", *values)

print("\nbackward           dnew  dr_inner  dz_inner  dn_inner dfrom_h_n        dh")
grad = backward(p)

print("\nthe derivatives of L = sum(dout * out), and by a difference")
for i, name in enumerate(NAMES):
    h = 1e-5 * np.eye(p.size)[i]
    difference = (forward(p + h)[1] - forward(p - h)[1]) / 2e-5
    show(name, grad[i], difference)
    if not abs(grad[i] - difference) <= 1e-8:  # written so that NaN fails too
        raise SystemExit(f"{name}: off by {abs(grad[i] - difference):.1e}")

print("\nrelative error of all of them with a slip")
for slip in ("no r in dfrom_h", "h by z alone", "h by the gates alone", "z the other way round"):
    print(f"{slip:24}{np.linalg.norm(backward(p, slip) - grad) / np.linalg.norm(grad):.4f}")

arrays = p[:2].reshape(1, 2, 1), p[2:3].reshape(1, 1), p[3:6, None], p[6:9, None], p[9:12], p[12:]
out, cache = gru_forward(*arrays)
dx, dh0, *others = gru_backward(dout.reshape(1, 2, 1), cache)
layer = np.concatenate([part.ravel() for part in (dx, dh0, *others)])
if not np.abs(layer - grad).max() <= 1e-12:
    raise SystemExit("npgpt.layers gives something else")
rng = np.random.default_rng(0)
shapes = (2, 3, 4), (2, 5), (15, 4), (15, 5), (15,), (15,)
report = npgpt.check_backward(gru_forward, gru_backward, *(rng.standard_normal(shape) for shape in shapes))
if not report:
    raise SystemExit(str(report))
print("\nnpgpt.layers agrees to 1e-12; npgpt.check_backward passes")
