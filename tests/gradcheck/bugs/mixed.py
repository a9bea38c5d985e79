"""Bugs in the small elements of an array that has large ones, as arrays of parameters in physical units have."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted

SMALL = slice(2, None)  # the elements that slip, in arrays of two large ones and some small


def doubled(gradient, part=SMALL, factor=2.0):
    """Return the gradient with a part of it wrong."""
    wrong = np.array(gradient)
    wrong[part] = factor * wrong[part]
    return wrong


def square_forward(x):
    return x * x, x


def square_backward(dout, x, slip=""):
    gradient = 2 * dout * x
    match slip:
        case "small ones lost":
            return np.where(np.abs(x) > 1, gradient, 0)
        case "small ones doubled":
            return doubled(gradient)
        case "one small one a thousandth too large":
            return doubled(gradient, 3, 1.001)
    return gradient


def sizes():
    return (np.array([1e7, -3e7, 2e-7, -1e-7]),)


def moduli_forward(x):
    """Square the modulus, which is real for complex numbers."""
    return np.abs(x) ** 2, x


def total_forward(x):
    """Sum the squares: beside 1e14, differences show nothing of the small ones, but complex steps do."""
    return (x * x).sum(), x


def total_backward(dout, x, slip=""):
    return square_backward(dout * np.ones_like(x), x, slip)


def kinetics_forward(k, c):
    """Take the rates of three reactions, their constants seventeen digits apart."""
    c = np.maximum(c, 0)
    first, second, third = k[0] * c[0], k[1] * c[1] * c[2], k[2] * c[1] ** 2
    return np.stack((first, second, third)), (k, c)


def kinetics_backward(dout, cache, slip=""):
    k, c = cache
    first, second, third = dout
    dk = np.stack((first * c[0], second * c[1] * c[2], third * c[1] ** 2))
    dc = np.stack((first * k[0], second * k[1] * c[2] + 2 * third * k[2] * c[1], second * k[1] * c[1]))
    if slip == "the large rate's reaction of first order":
        dk[2] = third * c[1]
    if slip == "the smallest rate's gradient lost":
        dk[0] = 0
    if slip == "dc without the smallest rate":
        dc[0] = 0
    return dk, dc


def rates():
    return np.array([4e-8, 1e4, 3e9]), np.array([0.7, 0.1, 0.3])


def gravity_forward(p):
    """Take the acceleration and the period from G, a mass and a radius, in SI units."""
    g, mass, radius = p
    return np.stack((g * mass / radius**2, 2 * np.pi * np.sqrt(radius**3 / (g * mass)))), p


def gravity_backward(dout, p, slip=""):
    g, mass, radius = p
    period = 2 * np.pi * np.sqrt(radius**3 / (g * mass))
    dacceleration, dperiod = dout[0] * g * mass / radius**2, dout[1] * period
    dp = np.stack((dacceleration - dperiod / 2, dacceleration - dperiod / 2, 1.5 * dperiod - 2 * dacceleration)) / p
    if slip == "dmass doubled":
        dp = dp * np.array([1, 2, 1])
    if slip == "dmass lost":
        dp = dp * np.array([1, 0, 1])
    if slip == "sign of dradius":
        dp = dp * np.array([1, 1, -1])
    return dp


def earth():
    return (np.array([6.674e-11, 5.972e24, 6.371e6]),)


def polynomial_forward(coefficients, x):
    """Evaluate a polynomial whose coefficients fall by nine digits."""
    return np.abs(x[:, None] ** np.arange(4) @ coefficients), (coefficients, x)


def polynomial_backward(dout, cache, slip=""):
    c, x = cache
    powers = x[:, None] ** np.arange(4)
    d = dout * np.sign(powers @ c)
    dc = d @ powers
    if slip == "dc of the smallest lost":
        dc[3] = 0
    if slip == "dc shifted by a power":
        dc = d @ (powers * x[:, None])
    return dc, d * (c[1] + 2 * c[2] * x + 3 * c[3] * x * x)


def optics_forward(p):
    """Take a fringe's intensity from slit, screen and wavelength: microns, metres and nanometres."""
    slit, distance, wavelength = p
    angle = np.pi * slit * np.array([1e-3, 4e-3, 2e-2]) / (distance * wavelength)
    return np.sqrt(np.sin(angle) ** 2 + 1.0), (p, angle)


def optics_backward(dout, cache, slip=""):
    p, angle = cache
    d = (dout * np.sin(angle) * np.cos(angle) * angle / np.sqrt(np.sin(angle) ** 2 + 1.0)).sum()
    signs = np.array([1, -1, 1]) if slip == "sign of dwavelength" else np.array([1, -1, -1])
    return d * signs / p


def slits():
    return (np.array([2e-5, 1.5, 6.3e-7]),)


def softplus_forward(x):
    """Make rates positive that are eight digits apart, through a float-only logaddexp."""
    return np.logaddexp(x, 0 * x), x


def softplus_backward(dout, x, slip=""):
    gradient = dout / (1 + np.exp(-x))
    if slip == "small ones halved":
        return np.where(np.abs(x) < 1e-3, 0.5, 1) * gradient
    return gradient


def columns_forward(x, scale):
    """Standardise features of other units: a price, a share and a distance in metres."""
    return np.tanh(x / scale), (x, scale)


def columns_backward(dout, cache, slip=""):
    x, scale = cache
    d = dout * (1 - np.tanh(x / scale) ** 2)
    dx = d / scale
    dscale = -(d * x / scale**2).sum(axis=0)
    if slip == "dx of the largest column lost":
        dx = dx * np.array([0, 1, 1])
    if slip == "dscale of the largest column without its square":
        dscale = dscale * np.array([1e6, 1, 1])
    return dx, dscale


def features():
    x = normal(361, (4, 3))[0] * np.array([1e6, 1.0, 1e-6])
    return x, np.array([1e6, 1.0, 1e-6])


def stiffness_forward(k, u):
    """Take the energy of a frame of stiff bars and soft springs, at small displacements."""
    return 0.5 * k * np.abs(u) ** 2, (k, u)


def stiffness_backward(dout, cache, slip=""):
    k, u = cache
    dk, du = 0.5 * dout * u**2, dout * k * u
    if slip == "soft springs' dk doubled":
        dk = np.where(k < 1, 2, 1) * dk
    if slip == "stiff bars' dk lost":
        dk = np.where(k > 1, 0, 1) * dk
    if slip == "soft springs' du lost":
        du = np.where(k < 1, 0, 1) * du
    return dk, du


def frame():
    return np.array([2e8, 1e-9, 7e7, 2e-8]), np.array([0.1, 0.3, 0.2, 0.8])


def cubes_forward(x):
    """Take third moments, of numbers from 1e5 to 1e-5."""
    return np.abs(x) ** 3, x


def cubes_backward(dout, x, slip=""):
    gradient = 3 * dout * x * np.abs(x)
    if slip == "sign of the small ones":
        return np.where(np.abs(x) < 1, np.abs(gradient) * np.sign(dout), gradient)
    if slip == "small ones a hundredth too large":
        return doubled(gradient, factor=1.01)
    return gradient


def moments():
    return (np.array([1e5, -4e4, -1e-5, 2e-4, -3e-5]),)


def decay_forward(rate, amount):
    """Take activities of isotopes that live from milliseconds to the age of the earth."""
    activity = np.maximum(rate, 0) * amount * np.exp(-np.maximum(rate, 0) * 1e-3)
    return activity, (rate, amount)


def decay_backward(dout, cache, slip=""):
    rate, amount = cache
    left = np.exp(-rate * 1e-3)
    drate, damount = dout * amount * left * (1 - 1e-3 * rate), dout * rate * left
    if slip == "damount of the slow ones lost":
        damount = np.where(rate < 1e-6, 0, damount)
    if slip == "drate of the slow ones doubled":
        drate = np.where(rate < 1e-6, 2, 1) * drate
    return drate, damount


def isotopes():
    return np.array([8e2, 3.1e-2, 4.9e-18, 3.8e-12]), np.array([5.0, 2.0, 3.0, 1.0])


def spectrum_forward(x):
    """Take the power of Fourier coefficients, the mean of 1e6 first among them."""
    return np.real(x * np.conj(x)), x


def spectrum_backward(dout, x, slip=""):
    gradient = 2 * dout * x
    if slip == "all but the mean lost":
        return doubled(gradient, slice(1, None), 0.0)
    if slip == "harmonics doubled, as of a half spectrum":
        return doubled(gradient, slice(1, None), 2.0)
    return gradient


def coefficients():
    return (np.concatenate(([1e6], 1e-7 * normal(363, (6,))[0])),)


square = partial(
    planted, "squares of 1e7 and 1e-7", forward=square_forward, right=square_backward, args=sizes, each=True
)
moduli = partial(
    planted, "moduli of 1e7 and 1e-7", forward=moduli_forward, right=square_backward, args=sizes, each=True
)
total = partial(
    planted,
    "sum of squares of 1e7 and 1e-7",
    forward=total_forward,
    right=total_backward,
    args=sizes,
    each=True,
    exact=square_forward,
)
kinetics = partial(
    planted, "rates of reactions", forward=kinetics_forward, right=kinetics_backward, args=rates, each=True
)
gravity = partial(
    planted, "gravity in SI units", forward=gravity_forward, right=gravity_backward, args=earth, each=True
)
polynomial = partial(
    planted,
    "coefficients from 1e6 to 1e-3",
    forward=polynomial_forward,
    right=polynomial_backward,
    args=lambda: (np.array([1e6, 2e3, -1.0, 1e-3]), normal(362, (6,))[0]),
    each=True,
    rtol=1e-8,
)
optics = partial(planted, "fringes in metres", forward=optics_forward, right=optics_backward, args=slits, each=True)
softplus = partial(
    planted,
    "softplus of 1e-8 and 30",
    forward=softplus_forward,
    right=softplus_backward,
    args=lambda: (np.array([30.0, -12.0, 1e-8, -3e-8, 0.5]),),
    rtol=1e-7,
)
columns = partial(
    planted, "features of other units", forward=columns_forward, right=columns_backward, args=features, each=True
)
stiffness = partial(
    planted, "stiff bars and soft springs", forward=stiffness_forward, right=stiffness_backward, args=frame, each=True
)
cubes = partial(planted, "cubes from 1e5 to 1e-5", forward=cubes_forward, right=cubes_backward, args=moments, each=True)
decay = partial(
    planted, "activities of isotopes", forward=decay_forward, right=decay_backward, args=isotopes, each=True
)
spectrum = partial(
    planted,
    "powers of 1e6 and 1e-7",
    forward=spectrum_forward,
    right=spectrum_backward,
    args=coefficients,
    each=True,
)

BUGS = [
    square("small ones lost", called="lost in some elements"),
    square("small ones doubled", called="a factor of 2 in some elements"),
    square("one small one a thousandth too large"),
    moduli("small ones lost", called="lost in some elements"),
    moduli("small ones doubled", called="a factor of 2 in some elements"),
    total("small ones lost", called="lost in some elements"),
    total("one small one a thousandth too large", hidden=True),
    kinetics("the smallest rate's gradient lost", called="lost in some elements"),
    kinetics("the large rate's reaction of first order"),
    kinetics("dc without the smallest rate", called="lost in some elements"),
    gravity("dmass doubled", called="a factor of 2 in some elements"),
    gravity("dmass lost", called="lost in some elements"),
    gravity("sign of dradius", called="the sign of some elements"),
    polynomial("dc of the smallest lost", called="lost in some elements"),
    polynomial("dc shifted by a power"),
    optics("sign of dwavelength", called="the sign of some elements"),
    softplus("small ones halved", called="a factor of 1/2 in some elements"),
    columns("dx of the largest column lost", called="lost in a column"),
    columns("dscale of the largest column without its square"),
    stiffness("soft springs' dk doubled", called="a factor of 2 in some elements"),
    stiffness("stiff bars' dk lost", called="lost in some elements"),
    stiffness("soft springs' du lost", called="lost in some elements"),
    cubes("sign of the small ones"),
    cubes("small ones a hundredth too large", called="a factor in some elements"),
    decay("damount of the slow ones lost", called="lost in some elements"),
    decay("drate of the slow ones doubled", called="a factor of 2 in some elements"),
    spectrum("all but the mean lost", called="lost in some elements"),
    spectrum("harmonics doubled, as of a half spectrum", called="a factor of 2 in some elements"),
]
