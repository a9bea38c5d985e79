"""Curvature: functions that bend, swing or rise within a usual step."""

from functools import partial

import numpy as np

from tests.gradcheck.example import correct, normal


def tanh_forward(x):
    return np.tanh(1e3 * x), x


def tanh_backward(dout, x):
    return dout * 1e3 / np.cosh(1e3 * x) ** 2


def wave(frequency):
    return (lambda x: (np.sin(frequency * x), x)), (lambda dout, x: dout * frequency * np.cos(frequency * x))


def comb_forward(x):
    """Repeat after 2^-10, a step that is popular because it is exact."""
    return np.cos(2 * np.pi * 1024 * x), x


def comb_backward(dout, x):
    return -dout * 2 * np.pi * 1024 * np.sin(2 * np.pi * 1024 * x)


def bell_forward(x):
    return np.exp(-((x / 1e-3) ** 2)), x


def bell_backward(dout, x):
    return dout * np.exp(-((x / 1e-3) ** 2)) * -2 * x / 1e-6


def reciprocal_forward(x):
    return 1 / x, x


def reciprocal_backward(dout, x):
    return -dout / (x * x)


def tan_forward(x):
    return np.tan(x), x


def tan_backward(dout, x):
    return dout / np.cos(x) ** 2


def exp_forward(x):
    return np.exp(50 * x), x


def exp_backward(dout, x):
    return dout * 50 * np.exp(50 * x)


def power_forward(x):
    return x**20, x


def power_backward(dout, x):
    return dout * 20 * x**19


def rosenbrock_forward(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum().item(), x


def rosenbrock_backward(dout, x):
    dx = np.zeros_like(x)
    valley = x[1:] - x[:-1] ** 2
    dx[1:] += 200 * valley
    dx[:-1] += -400 * x[:-1] * valley - 2 * (1 - x[:-1])
    return dout * dx


def logistic_forward(x):
    """Iterate the logistic map twelve times: chaos."""
    states = [x]
    for _ in range(12):
        states.append(3.9 * states[-1] * (1 - states[-1]))
    return states[-1], states


def logistic_backward(dout, states):
    dx = dout
    for state in reversed(states[:-1]):
        dx = dx * 3.9 * (1 - 2 * state)
    return dx


def deep_forward(x, weight):
    """Apply one layer twenty times."""
    states = [x]
    for _ in range(20):
        states.append(np.tanh(states[-1] @ weight))
    return states[-1], (states, weight)


def deep_backward(dout, cache):
    states, weight = cache
    dweight = np.zeros_like(weight)
    for before, after in zip(states[-2::-1], states[:0:-1], strict=True):
        dpre = dout * (1 - after * after)
        dweight += before.T @ dpre
        dout = dpre @ weight.T
    return dout, dweight


def solve_forward(A, b):
    y = np.linalg.solve(A, b)
    return y, (A, y)


def solve_backward(dout, cache):
    A, y = cache
    db = np.linalg.solve(A.T, dout)
    return -np.outer(db, y), db


def nearly_singular():
    """Build a matrix of condition 1e5."""
    q, _ = np.linalg.qr(normal(212, (4, 4))[0])
    return (q * np.array([1.0, 0.3, 1e-2, 1e-5])) @ q.T + 0.1 * np.triu(q, 1) * 1e-3, *normal(213, (4,))


def logdet_forward(A):
    return np.linalg.slogdet(A)[1], A


def logdet_backward(dout, A):
    return dout * np.linalg.inv(A).T


def hilbert():
    i = np.arange(1, 5)
    return (1 / (i[:, None] + i - 1),)


def deep_args():
    x, square = normal(243, (2, 3), (3, 3))
    return x, 1.1 * np.linalg.qr(square)[0]


SIN_F, SIN_B = wave(1e3)
SLOW_F, SLOW_B = wave(1e-6)

NASTY = [
    correct(
        "tanh(1000 x)",
        tanh_forward,
        tanh_backward,
        lambda: (np.array([1e-3, -5e-4, 2e-3, 1e-4]),),
        "bends within 1e-3",
        step=1e-6,
    ),
    correct("sin(1000 x)", SIN_F, SIN_B, partial(normal, 241, (4,)), "swings within 6e-3", step=1e-6),
    correct("sin(1e-6 x)", SLOW_F, SLOW_B, partial(normal, 241, (4,)), "straight, with a slope of 1e-6"),
    correct(
        "a period of 2^-10",
        comb_forward,
        comb_backward,
        lambda: (np.array([0.1, 0.37, -1.3]),),
        "a step of the period sees a constant",
        step=1e-7,
    ),
    correct(
        "a bell 1e-3 wide",
        bell_forward,
        bell_backward,
        lambda: (np.array([5e-4, -1e-3, 2e-4]),),
        "flat but for 1e-3",
        step=1e-4,
    ),
    correct(
        "1 / x at 1e-3",
        reciprocal_forward,
        reciprocal_backward,
        lambda: (np.array([1e-3, -1e-3, 0.5]),),
        "a pole within a step",
    ),
    correct(
        "tan near its pole",
        tan_forward,
        tan_backward,
        lambda: (np.array([np.pi / 2 - 1e-3, 0.4]),),
        "a pole within 1e-3",
        step=1e-6,
        rtol=1e-8,
    ),
    correct(
        "exp(50 x)",
        exp_forward,
        exp_backward,
        lambda: (np.array([1.0, -1.0, 0.2]),),
        "slopes from 1e-20 to 1e23",
        step=1e-5,
    ),
    correct("x^20", power_forward, power_backward, lambda: (np.array([1.5, 0.1, -2.0]),), "slopes from 1e-18 to 1e7"),
    correct(
        "Rosenbrock, a float",
        rosenbrock_forward,
        rosenbrock_backward,
        partial(normal, 242, (6,)),
        "the output is a Python float",
    ),
    correct(
        "twelve logistic maps",
        logistic_forward,
        logistic_backward,
        lambda: (np.array([0.2, 0.37, 0.61]),),
        "chaos",
        step=1e-8,
        rtol=1e-7,
    ),
    correct("twenty layers", deep_forward, deep_backward, deep_args, "slopes multiplied twenty times", step=1e-5),
    correct(
        "solve with condition 1e5",
        solve_forward,
        solve_backward,
        nearly_singular,
        "a step of 1e-3 is singular",
        rtol=1e-5,
        step=1e-8,
    ),
    correct(
        "logdet of a Hilbert matrix",
        logdet_forward,
        logdet_backward,
        hilbert,
        "condition 1.6e4, smallest eigenvalue 1e-4",
        rtol=1e-5,
        step=1e-7,
    ),
]
