"""Branch points, joints, and what an iteration finds to a tolerance: right, with an accuracy of their own."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs import branch as bugs
from tests.gradcheck.example import correct, normal


def joints_forward(x):
    """Evaluate a cubic B-spline at its knots, where only the third derivative jumps."""
    r = np.abs(x)
    inner, outer = (4 - 6 * r**2 + 3 * r**3) / 6, np.maximum(2 - r, 0) ** 3 / 6
    return np.where(r < 1, inner, outer), x


def joints_backward(dout, x):
    r = np.abs(x)
    slope = np.where(r < 1, -2 * r + 1.5 * r * r, -0.5 * np.maximum(2 - r, 0) ** 2)
    return dout * slope * np.sign(x)


def softened_forward(x):
    """Take sqrt(x^2 + eps^2) with an eps of 1e-6, at 0 and around."""
    return np.sqrt(x * x + 1e-12), x


def softened_backward(dout, x):
    return dout * x / np.sqrt(x * x + 1e-12)


def inverted_forward(y):
    """Invert y = x + sin(x) / 2 by the secant method, to 1e-10."""
    return invert(y, 1e-10)


def invert(y, tolerance):
    x, before = y, y + 0.1
    for _ in range(60):
        f, g = x + np.sin(x) / 2 - y, before + np.sin(before) / 2 - y
        slope = np.where(x == before, 1, (f - g) / np.where(x == before, 1, x - before))
        x, before = x - f / slope, x
        if np.max(np.abs(f)) < tolerance:
            break
    return x, x


def inverted_backward(dout, x):
    return dout / (1 + np.cos(x) / 2)


def integral_forward(a):
    """Integrate exp(-a t^2) over 0 to 1 by Simpson's rule, halving until two agree to 1e-8."""
    return integrate(a, 1e-8)


def integrate(a, tolerance):
    before, n = np.inf, 4
    while True:
        t = np.linspace(0, 1, n + 1)
        weights = np.where(np.arange(n + 1) % 2, 4.0, 2.0)
        weights[[0, -1]] = 1
        value = np.exp(-a[:, None] * t * t) @ weights / (3 * n)
        if np.max(np.abs(value - before)) < tolerance or n > 4096:
            return value, a
        before, n = value, 2 * n


def integral_backward(dout, a):
    """Integrate the derivative by a rule of its own."""
    t, weights = np.polynomial.legendre.leggauss(30)
    t = (t + 1) / 2
    return -dout * (np.exp(-a[:, None] * t * t) * t * t @ weights) / 2


def kink(name, forward, backward, args, note, **options):
    return correct(name, forward, backward, args, note, kink=True, **options)


def solved(name, forward, backward, args, tolerance, rtol=1e-7):
    return correct(
        name,
        forward,
        backward,
        args,
        "right but for its tolerance",
        exact=partial(forward, tolerance=tolerance),
        rtol=rtol,
    )


NASTY = [
    kink(
        "relu^1.5 with zeros",
        bugs.power_forward,
        bugs.power_backward,
        partial(bugs.with_zeros, 406),
        "slopes of h^0.5",
    ),
    kink(
        "|x|^1.5 + x |x| with zeros",
        bugs.modulus_forward,
        bugs.modulus_backward,
        partial(bugs.with_zeros, 407),
        "a joint of order 1.5",
    ),
    kink("x^2 log x with zeros", bugs.entropy_forward, bugs.entropy_backward, bugs.probabilities, "a slope of h log h"),
    kink("squared hinge at its margin", bugs.hinge_forward, bugs.hinge_backward, bugs.margins, "a joint"),
    kink("smoothstep at its ends", bugs.smoothstep_forward, bugs.smoothstep_backward, bugs.steps, "joints at 0 and 1"),
    correct(
        "Wendland kernel at its edge",
        bugs.wendland_forward,
        bugs.wendland_backward,
        bugs.lattice,
        "a joint of order 4",
        rtol=1e-7,
    ),
    correct(
        "cubic spline at its knots",
        joints_forward,
        joints_backward,
        lambda: (np.arange(-2.0, 2.5, 0.5),),
        "joints of order 3",
        rtol=1e-6,
    ),
    correct(
        "arctan2 beside its cut",
        bugs.angle_forward,
        bugs.angle_backward,
        bugs.beside_the_cut,
        "a jump of 2 pi at 1e-9",
        step=0.01,
        rtol=1e-8,
    ),
    correct(
        "arccos near its ends",
        bugs.arccos_forward,
        bugs.arccos_backward,
        bugs.near_ends,
        "ends at 1e-7",
        step=1e-9,
    ),
    correct(
        "modulus softened by 1e-6",
        softened_forward,
        softened_backward,
        lambda: (np.array([0.0, 1e-6, -3e-7, 0.4, -1.0]),),
        "looks like a kink, and has a derivative",
        step=1e-9,
        rtol=1e-8,
    ),
    solved("Kepler's equation to 1e-11", bugs.kepler_forward, bugs.kepler_backward, bugs.anomalies, 1e-18),
    solved("equilibrium to 1e-11", bugs.fixed_point_forward, bugs.fixed_point_backward, bugs.equilibrium, 1e-18),
    solved("Sinkhorn to 1e-10", bugs.sinkhorn_forward, bugs.sinkhorn_backward, bugs.one_plan, 1e-17),
    solved("conjugate gradients to 1e-10", bugs.cg_forward, bugs.cg_backward, bugs.definite, 1e-17),
    solved(
        "power iteration to 1e-12",
        bugs.power_iteration_forward,
        bugs.power_iteration_backward,
        bugs.symmetric,
        1e-18,
        rtol=1e-5,
    ),
    solved("bisection to 1e-8", bugs.bisection_forward, bugs.bisection_backward, partial(normal, 408, (2,)), 1e-17),
    solved(
        "cube roots to 1e-9",
        bugs.newton_root_forward,
        bugs.newton_root_backward,
        lambda: (np.array([2.0, 0.7, 5.0]),),
        1e-17,
    ),
    correct(
        "secant method to 1e-10",
        inverted_forward,
        inverted_backward,
        partial(normal, 409, (4,)),
        "right but for its tolerance",
        exact=partial(invert, tolerance=1e-18),
        rtol=1e-7,
    ),
    correct(
        "Simpson's rule to 1e-8",
        integral_forward,
        integral_backward,
        lambda: (np.array([0.5, 3.0]),),
        "right but for its tolerance",
        exact=partial(integrate, tolerance=1e-14),
        rtol=1e-7,
    ),
]
