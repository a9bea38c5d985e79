"""The numbers of docs/layers/lstm.md: an LSTM of one number, two steps forward and two back."""

import numpy as np

import npgpt
from npgpt.layers import lstm_backward, lstm_forward

NAMES = [
    "x_1",
    "x_2",
    "h_0",
    "c_0",
    "w_ii",
    "w_if",
    "w_ig",
    "w_io",
    "w_hi",
    "w_hf",
    "w_hg",
    "w_ho",
    "b_i",
    "b_f",
    "b_g",
    "b_o",
]


def show(name: str, *values: float) -> None:
    print(f"{name:12}" + "".join(f"{value + 0.0:10.4f}" for value in values))  # no -0.0000


def sigmoid(v: float) -> float:
    return 1 / (1 + np.exp(-v))


def forward(p: np.ndarray) -> tuple[list, float]:
    """Return the states before, the gates and the states after both steps, and L. Both biases are one number here."""
    h, c, steps, loss = p[2], p[3], [], 0.0
    for t in (0, 1):
        inner = p[4:8] * p[t] + p[8:12] * h + p[12:]
        i, f, g, o = sigmoid(inner[0]), sigmoid(inner[1]), np.tanh(inner[2]), sigmoid(inner[3])
        new_c = f * c + i * g
        steps.append((h, c, i, f, g, o, new_c, o * np.tanh(new_c)))
        *_, c, h = steps[-1]
        loss += dout[t] * h
    return steps, loss + dc_n * c


def backward(p: np.ndarray, slip: str = "") -> np.ndarray:
    """Return the derivative of L by each number of p."""
    grad, dh, dc, (steps, _) = np.zeros_like(p), 0.0, dc_n, forward(p)
    for t in (1, 0):
        h, c, i, f, g, o, new_c, _ = steps[t]
        shown = np.tanh(new_c)
        dnew = dh + dout[t]
        do = dnew * shown
        dnew_c = dc + dnew * o * (1 - shown * shown)
        if slip == "dc from later steps forgotten":
            dnew_c -= dc
        df, di, dg = dnew_c * c, dnew_c * g, dnew_c * i
        if slip == "f by the new cell":
            df = dnew_c * new_c
        inner = np.array([di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)])
        if slip == "g's slope of a sigmoid":
            inner[2] = dg * g * (1 - g)
        grad[t] = inner @ p[4:8]
        grad[4:8] += inner * p[t]
        grad[8:12] += inner * h
        grad[12:] += inner
        dh, dc = inner @ p[8:12], dnew_c * f
        if slip == "no f on the way back":
            dc = dnew_c
        if not slip:
            show(f"step {t + 1}", dnew, dnew_c, *inner, dh, dc)
    grad[2:4] = dh, dc
    return grad


p = np.array([0.5, -1.0, 0.8, -0.6, 1.0, -0.5, 0.7, 0.9, 0.6, 1.2, -0.9, -0.4, 0.5, 0.1, -0.3, 0.4])
dout, dc_n = np.array([1.0, -2.0]), 0.5

print("forward               i         f         g         o         c         h")
for t, (_, _, *values) in enumerate(forward(p)[0]):
    show(f"step {t + 1}", *values)

print("\nbackward           dnew    dnew_c   i inner   f inner   g inner   o inner        dh        dc")
grad = backward(p)

print("\nthe derivatives of L = sum(dout * out) + dc_n * c_n, and by a difference")
for i, name in enumerate(NAMES):
    h = 1e-5 * np.eye(p.size)[i]
    difference = (forward(p + h)[1] - forward(p - h)[1]) / 2e-5
    show(name, grad[i], difference)
    if not abs(grad[i] - difference) <= 1e-8:  # written so that NaN fails too
        raise SystemExit(f"{name}: off by {abs(grad[i] - difference):.1e}")

print("\nrelative error of all of them with a slip")
for slip in (
    "dc from later steps forgotten", "no f on the way back", "f by the new cell", "g's slope of a sigmoid",
):  # fmt: skip
    print(f"{slip:32}{np.linalg.norm(backward(p, slip) - grad) / np.linalg.norm(grad):.4f}")

biases = p[12:], np.zeros(4)
arrays = p[:2].reshape(1, 2, 1), p[2:3, None], p[3:4, None], p[4:8, None], p[8:12, None], *biases
out, cache = lstm_forward(*arrays)
*grads, db_hh = lstm_backward(dout.reshape(1, 2, 1), cache, np.full((1, 1), dc_n))
layer = np.concatenate([part.ravel() for part in grads])
if not (np.abs(layer - grad).max() <= 1e-12 and (db_hh == grads[-1]).all()):
    raise SystemExit("npgpt.layers gives something else")
rng = np.random.default_rng(0)
shapes = (2, 3, 4), (2, 5), (2, 5), (20, 4), (20, 5), (20,), (20,)
report = npgpt.check_backward(lstm_forward, lstm_backward, *(rng.standard_normal(shape) for shape in shapes))
if not report:
    raise SystemExit(str(report))
print("\nnpgpt.layers agrees to 1e-12; npgpt.check_backward passes")
