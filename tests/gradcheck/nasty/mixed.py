"""Arrays whose elements differ by many digits: each has a scale of its own."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs import mixed as bugs
from tests.gradcheck.example import correct, normal

mixed = partial(correct, each=True)


def logs_forward(x):
    """Take x log |x|, whose slope changes over each element's own size."""
    return x * np.log(np.abs(x)), x


def logs_backward(dout, x):
    return dout * (np.log(np.abs(x)) + 1)


def inverse_forward(x):
    return 1 / np.abs(x), x


def inverse_backward(dout, x):
    return -dout * np.sign(x) / x**2


def zeros_forward(x):
    """Square numbers, of which one is 0 and one is denormal when squared."""
    return np.abs(x) ** 2, x


NASTY = [
    mixed(
        "squares of 1e7 and 1e-7",
        bugs.square_forward,
        bugs.square_backward,
        bugs.sizes,
        "gradients fourteen digits apart",
    ),
    mixed(
        "moduli of 1e7 and 1e-7",
        bugs.moduli_forward,
        bugs.square_backward,
        bugs.sizes,
        "gradients fourteen digits apart, and no complex step",
    ),
    mixed(
        "sum of squares of 1e7 and 1e-7",
        bugs.total_forward,
        bugs.total_backward,
        bugs.sizes,
        "one output for all, which complex steps can tell apart",
        exact=bugs.square_forward,
    ),
    mixed("rates of reactions", bugs.kinetics_forward, bugs.kinetics_backward, bugs.rates, "constants of 1e-8 and 1e9"),
    mixed("gravity in SI units", bugs.gravity_forward, bugs.gravity_backward, bugs.earth, "from 1e-11 to 1e25"),
    mixed("fringes in metres", bugs.optics_forward, bugs.optics_backward, bugs.slits, "from 1e-7 to 1"),
    mixed("activities of isotopes", bugs.decay_forward, bugs.decay_backward, bugs.isotopes, "rates of 1e-18 and 1e3"),
    mixed(
        "cubes from 1e5 to 1e-5", bugs.cubes_forward, bugs.cubes_backward, bugs.moments, "gradients twenty digits apart"
    ),
    mixed(
        "powers of 1e6 and 1e-7",
        bugs.spectrum_forward,
        bugs.spectrum_backward,
        bugs.coefficients,
        "a mean beside harmonics",
    ),
    mixed(
        "stiff bars and soft springs", bugs.stiffness_forward, bugs.stiffness_backward, bugs.frame, "from 1e-9 to 1e8"
    ),
    mixed(
        "x log |x| from 1e-12 to 1e9",
        logs_forward,
        logs_backward,
        lambda: (np.array([1e9, -3.0, 2e-12, -5e-7, 4e3]),),
        "bends over each element's own size",
    ),
    mixed(
        "1 / |x| from 1e-6 to 1e6",
        inverse_forward,
        inverse_backward,
        lambda: (np.array([1e6, -2.0, 3e-6, -4e3, 5e-3]),),
        "slopes from 1e-12 to 1e11, the largest for the smallest",
    ),
    correct(
        "squares of 1e5, 1e-5 and 0",
        zeros_forward,
        bugs.square_backward,
        lambda: (np.concatenate(([1e5, 0.0, 1e-5], normal(364, (3,))[0])),),
        "a zero has no size",
    ),
]
